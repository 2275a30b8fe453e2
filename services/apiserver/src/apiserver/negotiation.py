"""Which form of an answer the client wants (the Accept header)."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import errors

OFFERED = "application/json, application/yaml"


@dataclass(frozen=True)
class Form:
    """An acceptable form: `shape` is plain, table, partial or discovery."""

    shape: str = "plain"
    yaml: bool = False
    version: str = "v1"
    params: dict[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer."""
        if self.shape == "discovery":
            return f"application/json;g=apidiscovery.k8s.io;v={self.version};as=APIGroupDiscoveryList"
        return "application/yaml" if self.yaml else "application/json"


def _shape(params: dict[str, str]) -> str | None:
    wanted = (params.get("g", ""), params.get("v", ""), params.get("as", ""))
    if not params.get("as"):
        return "plain"
    match wanted:
        case ("meta.k8s.io", "v1", "Table"):
            return "table"
        case ("meta.k8s.io", "v1", "PartialObjectMetadata" | "PartialObjectMetadataList"):
            return "partial"
        case ("apidiscovery.k8s.io", "v2" | "v2beta1", "APIGroupDiscoveryList"):
            return "discovery"
    return None


def forms(accept: str) -> list[Form]:
    """Return the forms that a client accepts and that we have, its favourite first."""
    found = []
    for entry in (accept or "*/*").split(","):
        kind, *rest = (part.strip() for part in entry.split(";"))
        params = dict(p.split("=", 1) for p in rest if "=" in p)
        if kind not in ("application/json", "application/yaml", "*/*", "application/*"):
            continue
        shape = _shape(params)
        if shape is not None:
            found.append(Form(shape, kind == "application/yaml", params.get("v", "v1"), params))
    return found


def choose(accept: str, *shapes: str) -> Form:
    """Return the client's favourite among the given shapes.

    Raises:
        ApiError: 406.
    """
    for form in forms(accept):
        if form.shape in shapes:
            return form
    raise errors.not_acceptable(OFFERED)
