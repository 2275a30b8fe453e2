"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386)."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

MAX_OPERATIONS = 10_000
MAX_COPIED = 3 << 20


class PatchError(Exception):
    """The patch is malformed (400)."""


class PatchMismatch(Exception):
    """The patch is well-formed and does not fit the object (422)."""


def merge_patch(target: Any, patch: Any) -> Any:
    """Return the target with a merge patch applied: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def json_patch(target: Any, operations: Any) -> Any:
    """Return a copy of the target with all operations applied in order, or none.

    Raises:
        PatchError: it is no JSON Patch.
        PatchMismatch: a path does not exist, or a test failed.
    """
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise PatchMismatch(f"the patch has {len(operations)} operations; the limit is {MAX_OPERATIONS}")
    doc = copy.deepcopy(target)
    copied = 0
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise PatchError("each operation of a JSON patch needs op and path")
        if operation.get("op") == "copy" and isinstance(operation.get("from"), str):
            copied += len(msgspec.json.encode(_get(doc, operation["from"])))
            if copied > MAX_COPIED:  # a few copies into themselves would fill the memory
                raise PatchMismatch(f"the copies of this patch exceed {MAX_COPIED} bytes")
        doc = _apply(doc, operation)
    return doc


def _apply(doc: Any, operation: dict[str, Any]) -> Any:
    kind, path = operation.get("op"), operation["path"]
    if kind in ("add", "replace", "test") and "value" not in operation:
        raise PatchError(f"operation {kind} on {path} needs a value")
    match kind:
        case "add":
            return _add(doc, path, copy.deepcopy(operation["value"]))
        case "remove":
            return _remove(doc, path)[0]
        case "replace":
            if not path:
                return copy.deepcopy(operation["value"])
            _get(doc, path)
            return _set(doc, path, copy.deepcopy(operation["value"]))
        case "test":
            found = _get(doc, path)
            if found != operation["value"] or isinstance(found, bool) != isinstance(operation["value"], bool):
                raise PatchMismatch(f"testing value {path} failed")
            return doc
        case "move" | "copy":
            source = operation.get("from")
            if not isinstance(source, str):
                raise PatchError(f"operation {kind} needs from")
            if kind == "copy":
                return _add(doc, path, copy.deepcopy(_get(doc, source)))
            if path.startswith(source + "/"):
                raise PatchMismatch(f"cannot move {source} into itself")
            doc, value = _remove(doc, source)
            return _add(doc, path, value)
    raise PatchError(f"unknown JSON patch operation {kind!r}")


def _split(path: str) -> list[str]:
    if not path.startswith("/"):
        raise PatchError(f"path {path!r} must start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _index(part: str, length: int, path: str) -> int:
    digits = part.isascii() and part.isdigit() and len(part) < 10
    if not digits or (len(part) > 1 and part[0] == "0") or int(part) > length:
        raise PatchMismatch(f"{path}: {part!r} is no index of a list of {length}")
    return int(part)


def _step(here: Any, part: str, path: str) -> Any:
    if isinstance(here, dict) and part in here:
        return here[part]
    if isinstance(here, list):
        index = _index(part, len(here) - 1, path)
        return here[index]
    raise PatchMismatch(f"path {path} does not exist")


def _get(doc: Any, path: str) -> Any:
    for part in _split(path) if path else []:
        doc = _step(doc, part, path)
    return doc


def _parent(doc: Any, path: str) -> tuple[Any, str]:
    *parts, last = _split(path)
    for part in parts:
        doc = _step(doc, part, path)
    return doc, last


def _add(doc: Any, path: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _parent(doc, path)
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent), path), value)
    else:
        raise PatchMismatch(f"path {path} does not exist")
    return doc


def _set(doc: Any, path: str, value: Any) -> Any:
    parent, last = _parent(doc, path)
    parent[last if isinstance(parent, dict) else int(last)] = value
    return doc


def _remove(doc: Any, path: str) -> tuple[Any, Any]:
    if not path:
        raise PatchMismatch("the whole object cannot be removed")
    value = _get(doc, path)
    parent, last = _parent(doc, path)
    del parent[last if isinstance(parent, dict) else int(last)]
    return doc, value
