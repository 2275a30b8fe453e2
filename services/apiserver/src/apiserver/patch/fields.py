"""Sets of field paths: what a manager owns.

A path is a tuple of FieldsV1 elements such as `f:spec` and `k:{"name":"a"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from apiserver.schema.nodes import Schema

Path = tuple[str, ...]
Paths = frozenset[Path]
EMPTY: Paths = frozenset()


def to_wire(paths: Iterable[Path]) -> dict[str, Any]:
    """Return a set as FieldsV1."""
    tree: dict[str, Any] = {}
    members = set(paths)
    for path in sorted(members):
        here = tree
        for element in path:
            here = here.setdefault(element, {})
    for path in members:
        here = tree
        for element in path:
            here = here[element]
        if here:
            here["."] = {}
    return tree


def from_wire(tree: Any, prefix: Path = ()) -> Paths:
    """Read FieldsV1; what is malformed owns nothing."""
    if not isinstance(tree, dict):
        return EMPTY
    found: set[Path] = set()
    for element, below in tree.items():
        if element == ".":
            if prefix:
                found.add(prefix)
            continue
        path = (*prefix, element)
        if below:
            found |= from_wire(below, path)
        else:
            found.add(path)
    return frozenset(found)


def with_parents(paths: Iterable[Path]) -> Paths:
    """Return the set with every ancestor added."""
    return frozenset(path[:length] for path in paths for length in range(1, len(path) + 1))


def show(path: Path) -> str:
    """Return a path for people: `.spec.disks[name="root"].size`."""
    out = ""
    for element in path:
        kind, value = element[:2], element[2:]
        if kind == "f:":
            out += f".{value}"
        elif kind == "k:":
            out += f"[{_pairs(value)}]"
        elif kind == "v:":
            out += f"[={value}]"
        else:
            out += f"[{value}]"
    return out


def _pairs(key: str) -> str:
    """A key for people; one that is none, as clients may send what they like, as it is."""
    try:
        found = json.loads(key)
    except (ValueError, RecursionError):
        return key
    return ",".join(f"{k}={json.dumps(v)}" for k, v in sorted(found.items())) if isinstance(found, dict) else key


def _granular_map(schema: Schema | None) -> bool:
    return schema is None or schema.map_type != "atomic"


def element_of(schema: Schema | None, member: Any) -> str | None:
    """Return the path element of a list entry; None if the list is atomic or the entry has no identity."""
    if schema is None or schema.list_type not in ("map", "set"):
        return None
    if schema.list_type == "set":
        return None if isinstance(member, dict | list) else "v:" + json.dumps(member, separators=(",", ":"))
    if not isinstance(member, dict):
        return None
    key: dict[str, Any] = {}
    for name in schema.map_keys:
        if name in member:
            key[name] = member[name]
        elif schema.items is not None and name in schema.items.properties:
            default = schema.items.properties[name].raw.get("default")
            if default is not None:
                key[name] = default
    if not key:
        return None
    return "k:" + json.dumps(key, sort_keys=True, separators=(",", ":"))


def keyed(schema: Schema | None, values: list[Any]) -> dict[str, Any] | None:
    """Return the entries of an associative list by element; None if it must be taken as a whole."""
    out: dict[str, Any] = {}
    for value in values:
        element = element_of(schema, value)
        if element is None or element in out:
            return None
        out[element] = value
    if not values and (schema is None or schema.list_type not in ("map", "set")):
        return None
    return out


def owned_by(schema: Schema | None, value: Any, prefix: Path = ()) -> Paths:
    """Return the fields that an applied configuration names."""
    return frozenset(_owned(schema, value, prefix))


def _owned(schema: Schema | None, value: Any, prefix: Path) -> Iterator[Path]:
    if isinstance(value, dict) and _granular_map(schema) and (value or not prefix):
        for key, member in value.items():
            path = (*prefix, f"f:{key}")
            yield from _owned(schema.child(key) if schema else None, member, path)
            if schema is not None and key not in schema.properties:
                yield path
        return
    if isinstance(value, list) and value:
        entries = keyed(schema, value)
        if entries is not None:
            for element, member in entries.items():
                yield (*prefix, element)
                if isinstance(member, dict):
                    yield from _owned(schema.items if schema else None, member, (*prefix, element))
            return
    yield prefix


def compare(schema: Schema | None, old: Any, new: Any, prefix: Path = ()) -> tuple[set[Path], set[Path]]:
    """Return (added or modified, removed) fields between two states."""
    changed: set[Path] = set()
    removed: set[Path] = set()
    _compare(schema, old, new, prefix, changed, removed)
    return changed, removed


def _compare(schema: Schema | None, old: Any, new: Any, prefix: Path, changed: set[Path], removed: set[Path]) -> None:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict) and _granular_map(schema):
        for key in old.keys() | new.keys():
            child = schema.child(key) if schema else None
            _pair(child, old, new, key, (*prefix, f"f:{key}"), changed, removed)
        return
    if isinstance(old, list) and isinstance(new, list):
        before, after = keyed(schema, old), keyed(schema, new)
        if before is not None and after is not None:
            for element in before.keys() | after.keys():
                items = schema.items if schema else None
                _pair(items, before, after, element, (*prefix, element), changed, removed)
            return
    changed.add(prefix)


def _pair(
    schema: Schema | None,
    old: dict[str, Any],
    new: dict[str, Any],
    key: str,
    path: Path,
    changed: set[Path],
    removed: set[Path],
) -> None:
    if key not in new:
        removed |= _all(schema, old[key], path)
    elif key not in old:
        changed |= _all(schema, new[key], path)
    else:
        _compare(schema, old[key], new[key], path, changed, removed)


def _all(schema: Schema | None, value: Any, path: Path) -> set[Path]:
    """Return a path and all below it."""
    found = {path}
    if isinstance(value, dict) and _granular_map(schema):
        for key, member in value.items():
            found |= _all(schema.child(key) if schema else None, member, (*path, f"f:{key}"))
    elif isinstance(value, list):
        for element, member in (keyed(schema, value) or {}).items():
            found |= _all(schema.items if schema else None, member, (*path, element))
    return found


def remove(schema: Schema | None, value: Any, paths: Iterable[Path]) -> Any:
    """Return the value without the given fields; a container that this empties goes too."""
    if isinstance(value, dict):
        return _remove_members(schema, value, _by_head(paths))
    entries = keyed(schema, value) if isinstance(value, list) else None
    if entries is None:
        return value
    heads = _by_head(paths)
    items = schema.items if schema else None
    return [remove(items, m, heads.get(e, ())) for e, m in entries.items() if () not in heads.get(e, ())]


def _by_head(paths: Iterable[Path]) -> dict[str, set[Path]]:
    """Return the rest of each path by its first element; an empty rest stands for the element itself."""
    heads: dict[str, set[Path]] = {}
    for path in paths:
        heads.setdefault(path[0], set()).add(path[1:])
    return heads


def _remove_members(schema: Schema | None, value: dict[str, Any], heads: dict[str, set[Path]]) -> dict[str, Any]:
    out = {}
    for key, member in value.items():
        below = heads.get(f"f:{key}")
        if below is None:
            out[key] = member
        elif () not in below:
            left = remove(schema.child(key) if schema else None, member, below)
            if left or not member or not isinstance(left, dict | list):
                out[key] = left
    return out


def merge(schema: Schema | None, live: Any, applied: Any) -> Any:
    """Return the live value with an applied configuration merged in."""
    if isinstance(live, dict) and isinstance(applied, dict) and _granular_map(schema):
        out = dict(live)
        for key, value in applied.items():
            child = schema.child(key) if schema else None
            out[key] = merge(child, live[key], value) if key in live else value
        return out
    if isinstance(live, list) and isinstance(applied, list):
        before, after = keyed(schema, live), keyed(schema, applied)
        if before is not None and after is not None:
            items = schema.items if schema else None
            out_list = []
            for element, member in before.items():
                out_list.append(merge(items, member, after[element]) if element in after else member)
            return out_list + [member for element, member in after.items() if element not in before]
    return applied
