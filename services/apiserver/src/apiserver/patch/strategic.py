"""Strategic merge patch: merge by the schema's merge keys, with its `$` directives."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from apiserver.schema.nodes import Schema

from .jsonpatch import PatchError

_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_RETAIN = "$retainKeys"
_PATCH = "$patch"


def strategic_patch(schema: Schema | None, target: Any, patch: Any) -> Any:
    """Return the target with the patch merged in.

    Raises:
        PatchError: a directive is malformed.
    """
    if not isinstance(patch, dict):
        raise PatchError("a strategic merge patch is an object")
    merged = _merge(schema, target if isinstance(target, dict) else {}, patch)
    return merged


def _merge(schema: Schema | None, target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    match patch.get(_PATCH):
        case None | "merge":
            pass
        case "replace":
            return {k: copy.deepcopy(v) for k, v in patch.items() if k != _PATCH}
        case "delete":
            return {}
        case other:
            raise PatchError(f"unknown patch directive {other!r}")
    out = copy.deepcopy(target)
    retain = patch.get(_RETAIN)
    if retain is not None:
        if not isinstance(retain, list):
            raise PatchError(f"{_RETAIN} must be a list")
        out = {key: value for key, value in out.items() if key in retain}
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_DELETE):
            _delete_primitives(out, key.removeprefix(_DELETE), value)
            continue
        if value is None:
            out.pop(key, None)
            continue
        child = schema.child(key) if schema else None
        out[key] = _member(child, out.get(key), value, patch.get(_ORDER + key))
    for key, order in patch.items():
        if key.startswith(_ORDER) and key.removeprefix(_ORDER) not in patch:
            name = key.removeprefix(_ORDER)
            if isinstance(out.get(name), list):
                out[name] = _ordered(schema.child(name) if schema else None, out[name], order)
    return out


def _delete_primitives(out: dict[str, Any], name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise PatchError(f"{_DELETE}{name} must be a list")
    if isinstance(out.get(name), list):
        out[name] = [v for v in out[name] if v not in values]


def _member(schema: Schema | None, old: Any, new: Any, order: Any) -> Any:
    if isinstance(new, dict):
        if schema is not None and "replace" in schema.patch_strategy and _PATCH not in new:
            return copy.deepcopy(new)
        return _merge(schema, old if isinstance(old, dict) else {}, new)
    if isinstance(new, list) and schema is not None and "merge" in schema.patch_strategy:
        merged = _merge_list(schema, old if isinstance(old, list) else [], new)
        return _ordered(schema, merged, order) if order is not None else merged
    return copy.deepcopy(new)


def _merge_list(schema: Schema, old: list[Any], new: list[Any]) -> list[Any]:
    key = schema.patch_key
    if not key:
        known = {_text(value) for value in old}
        return list(old) + [copy.deepcopy(value) for value in new if _text(value) not in known]
    if any(isinstance(v, dict) and v.get(_PATCH) == "replace" for v in new):
        return [copy.deepcopy(v) for v in new if not (isinstance(v, dict) and v.get(_PATCH) == "replace")]
    out: dict[bytes, Any] = {}
    for index, value in enumerate(old):
        named = isinstance(value, dict) and key in value
        out[_text(value[key]) if named else f"#{index}".encode()] = copy.deepcopy(value)
    for value in new:
        if not isinstance(value, dict) or key not in value:
            raise PatchError(f"map: an entry does not contain declared merge key: {key}")
        name = _text(value[key])
        if value.get(_PATCH) == "delete":
            out.pop(name, None)
        else:
            out[name] = _merge(schema.items, out.get(name) or {}, value)
    return list(out.values())


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _ordered(schema: Schema | None, values: list[Any], order: Any) -> list[Any]:
    """Put the values into the order that a directive gives; those it does not name keep their place."""
    if not isinstance(order, list):
        raise PatchError("$setElementOrder must be a list")
    key = schema.patch_key if schema else ""

    def identity(value: Any) -> Any:
        return value.get(key) if key and isinstance(value, dict) else value

    rank = {_text(identity(entry)): index for index, entry in enumerate(order)}
    named = [v for v in values if _text(identity(v)) in rank]
    named.sort(key=lambda v: rank[_text(identity(v))])
    for index, value in enumerate(values):
        if _text(identity(value)) not in rank:
            named.insert(min(index, len(named)), value)
    return named
