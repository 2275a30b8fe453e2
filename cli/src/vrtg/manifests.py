"""Manifests: YAML or JSON, from files, folders or standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrtg.failures import NotFoundError, RefusedError

# What must exist before others refer to it comes first; the rest keeps its order.
ORDER = (
    "Namespace",
    "CustomResourceDefinition",
    "Secret",
    "ConfigMap",
    "Provider",
    "VMClass",
    "VMImage",
    "VMNetworkAttachment",
)


@dataclass
class Manifest:
    """One object as the user wrote it, and where."""

    source: str
    """File and position: "web.yaml, document 2"."""
    body: dict[str, Any]  # Any: an object of any kind

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def api_version(self) -> str:
        return str(self.body["apiVersion"])


def load(paths: list[str], warn: Any = None) -> list[Manifest]:  # Any: Callable[[str], None] or None
    """Every object of the files, folders (*.yaml, *.yml, *.json) and "-", in the order to apply them.

    Raises:
        NotFoundError: a path does not exist, or nothing is in it.
        RefusedError: a file cannot be parsed, or holds something that is no object; names the place.
    """
    found: list[Manifest] = []
    for path in paths:
        for source, text in _texts(path):
            found += _objects(source, text, warn)
    if not found:
        raise NotFoundError(f"there is no object in {', '.join(paths)}")
    rank = {kind: index for index, kind in enumerate(ORDER)}
    return sorted(found, key=lambda manifest: rank.get(manifest.kind, len(ORDER)))


def _texts(path: str) -> list[tuple[str, str]]:
    if path == "-":
        return [("standard input", sys.stdin.read())]
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(f for f in place.iterdir() if f.suffix in (".yaml", ".yml", ".json") and f.is_file())
        if not files:
            raise NotFoundError(f"there is no .yaml, .yml or .json file in {place}")
    elif place.exists():
        files = [place]
    else:
        raise NotFoundError(f"there is no file or folder {place}: check -f")
    try:
        return [(str(file), file.read_text(encoding="utf-8-sig")) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"cannot read {place}: {error}") from error


def _objects(source: str, text: str, warn: Any) -> list[Manifest]:
    import yaml

    try:
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    found = []
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        where = source if len(documents) == 1 else f"{source}, document {number}"
        bodies = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        for body in bodies or []:
            found.append(_checked(where, body, warn))
    return found


def _checked(where: str, body: Any, warn: Any) -> Manifest:
    if not isinstance(body, dict):
        raise RefusedError(f"{where} is no object: it holds a {type(body).__name__} where a mapping should be")
    for key in ("apiVersion", "kind"):
        if not isinstance(body.get(key), str):
            raise RefusedError(f"{where} is no object: {key} is missing")
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise RefusedError(f"{where} is no object: metadata.name is missing, or no string (quote it)")
    _quote_power(where, body, warn)
    return Manifest(where, body)


def _quote_power(where: str, body: dict[str, Any], warn: Any) -> None:
    """`powerState: On` without quotes is the boolean true in YAML 1.1; what is meant is plain."""
    spec = body.get("spec")
    if body["kind"] == "VirtualMachine" and isinstance(spec, dict) and isinstance(spec.get("powerState"), bool):
        meant = "On" if spec["powerState"] else "Off"
        spec["powerState"] = meant
        if warn is not None:
            warn(
                f'{where}: powerState is the boolean {str(meant == "On").lower()} in YAML, read as "{meant}": quote it'
            )
