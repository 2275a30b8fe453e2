"""Every refusal, as the `Status` object that Kubernetes clients understand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One reason for a refusal, tied to a field such as `spec.cpu`."""

    reason: str
    message: str
    field: str = ""

    def wire(self) -> dict[str, str]:
        """Return the cause as JSON."""
        return {"reason": self.reason, "message": self.message} | ({"field": self.field} if self.field else {})


@dataclass
class ApiError(Exception):
    """A request that cannot be served; carries all that `Status` tells the client."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def place(self) -> dict[str, Any]:
        """Return what a log may tell: the kind of the refusal and its fields. The message may quote a secret value."""
        fields = sorted({cause.field for cause in self.causes if cause.field})
        return {"code": self.code, "reason": self.reason} | ({"fields": fields} if fields else {})

    def status(self) -> dict[str, Any]:
        """Return the `Status` object."""
        details = dict(self.details)
        if self.causes:
            details["causes"] = [cause.wire() for cause in self.causes]
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            body["details"] = details
        return body


def qualified(plural: str, group: str) -> str:
    """Return `virtualmachines.infra.virtrigaud.io`, or `secrets` for the core group."""
    return f"{plural}.{group}" if group else plural


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    return {k: v for k, v in (("name", name), ("group", group), ("kind", kind)) if v}


def not_found(group: str, plural: str, name: str) -> ApiError:
    """No object of that name."""
    message = f'{qualified(plural, group)} "{name}" not found'
    return ApiError(404, "NotFound", message, _details(name, group, plural))


def no_such_path() -> ApiError:
    """A path that no resource serves."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """Create of a name that is taken."""
    message = f'{qualified(plural, group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(name, group, plural))


def conflict(group: str, plural: str, name: str, why: str) -> ApiError:
    """The object is not what the caller thought it was."""
    message = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(name, group, plural))


def stale(group: str, plural: str, name: str) -> ApiError:
    """A write that names an old resourceVersion."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(group, plural, name, why)


def apply_conflict(causes: list[Cause]) -> ApiError:
    """A server-side apply that would change fields of another manager."""
    noun = "conflict" if len(causes) == 1 else "conflicts"
    by_manager: dict[str, list[str]] = {}
    for cause in causes:
        by_manager.setdefault(cause.message.removeprefix("conflict with "), []).append(cause.field)
    if len(causes) == 1:
        told = f"{next(iter(by_manager))}: {causes[0].field}"
    else:
        told = "\n".join(f"conflicts with {m}:\n" + "\n".join(f"- {f}" for f in fs) for m, fs in by_manager.items())
    lead = "with " if len(causes) == 1 else ": "
    text = f"Apply failed with {len(causes)} {noun}" + (f": conflict {lead}{told}" if len(causes) == 1 else f": {told}")
    return ApiError(409, "Conflict", text, causes=causes)


def invalid(group: str, kind: str, name: str, causes: list[Cause]) -> ApiError:
    """An object that breaks its schema or a rule; lists every fault found."""
    told = [f"{c.field}: {c.message}" if c.field else c.message for c in causes]
    text = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    message = f'{qualified(kind, group)} "{name}" is invalid: {text}'
    return ApiError(422, "Invalid", message, _details(name, group, kind), causes)


def bad_request(message: str) -> ApiError:
    """A request that cannot be understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """No token, or one that is not known."""
    return ApiError(401, "Unauthorized", "Unauthorized", headers={"WWW-Authenticate": "Bearer"})


def forbidden(group: str, plural: str, name: str, why: str, causes: list[Cause] | None = None) -> ApiError:
    """A request that is understood and never allowed."""
    message = f'{qualified(plural, group)} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", message, _details(name, group, plural), causes or [])


def forbidden_path(user: str, verb: str, path: str) -> ApiError:
    """A path that is no object's, and not for this caller."""
    return ApiError(403, "Forbidden", f'forbidden: User "{user}" cannot {verb} path "{path}"', {})


def method_not_allowed(group: str, plural: str) -> ApiError:
    """The resource exists; the verb does not."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, _details("", group, plural))


def not_acceptable(offered: str) -> ApiError:
    """No media type that the client would read."""
    message = f"only the following media types are accepted: {offered}"
    return ApiError(406, "NotAcceptable", message)


def expired(message: str) -> ApiError:
    """A resourceVersion or continue token that is too old: list again."""
    return ApiError(410, "Expired", message)


def too_large(limit: int) -> ApiError:
    """A body above the limit, in bytes."""
    message = f"Request entity too large: limit is {limit}"
    return ApiError(413, "RequestEntityTooLarge", message)


def unsupported_media(offered: str) -> ApiError:
    """A body in a format that is not read here."""
    message = f"the body of the request was in an unknown format - accepted media types include: {offered}"
    return ApiError(415, "UnsupportedMediaType", message)


def storage_failed() -> ApiError:
    """The database refused the write; nothing was changed. The cause is in our log."""
    return ApiError(500, "InternalError", "Internal error occurred: the store could not save the change")


def internal() -> ApiError:
    """A defect of ours; the cause stays in our log."""
    return ApiError(500, "InternalError", "Internal error occurred")


def unavailable() -> ApiError:
    """The server is shutting down, or cannot write any more."""
    text = "the server is shutting down or cannot write"
    return ApiError(503, "ServiceUnavailable", text, headers={"Retry-After": "1"})
