"""Field managers: who set which field (`metadata.managedFields`), and server-side apply on top of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from apiserver import errors
from apiserver.errors import Cause
from apiserver.schema.nodes import Schema

from . import fields
from .fields import EMPTY, Paths

_META = ("name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion")
_STRIPPED = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [("f:metadata", f"f:{name}") for name in (*_META, "deletionTimestamp", "deletionGracePeriodSeconds")]
)
MAX_UPDATE_ENTRIES = 10


@dataclass(frozen=True)
class Manager:
    """One entry of `managedFields`."""

    name: str
    operation: str
    subresource: str
    api_version: str
    paths: Paths
    time: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes an entry unique."""
        return (self.name, self.operation, self.subresource, self.api_version)

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        out = {
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.to_wire(self.paths),
        }
        return out | ({"subresource": self.subresource} if self.subresource else {})

    def told(self) -> str:
        """Name it in a conflict."""
        extra = f" with subresource {self.subresource!r}" if self.subresource else ""
        how = f" using {self.api_version}" if self.operation == "Update" else ""
        return f'"{self.name}"{extra}{how}'


def read(meta: dict[str, Any]) -> list[Manager]:
    """Read `managedFields`; an entry that cannot be read is left out."""
    found = []
    for entry in meta.get("managedFields") or []:
        if isinstance(entry, dict) and entry.get("operation") in ("Apply", "Update"):
            found.append(
                Manager(
                    name=str(entry.get("manager") or ""),
                    operation=entry["operation"],
                    subresource=str(entry.get("subresource") or ""),
                    api_version=str(entry.get("apiVersion") or ""),
                    paths=fields.from_wire(entry.get("fieldsV1")),
                    time=str(entry.get("time") or ""),
                )
            )
    return found


def write(obj: dict[str, Any], managers: list[Manager]) -> None:
    """Put the entries that own something into the object."""
    kept = [m for m in managers if m.paths]
    updates = sorted((m for m in kept if m.operation == "Update"), key=lambda m: m.time)
    if len(updates) > MAX_UPDATE_ENTRIES:  # as Kubernetes does: the oldest updates become one entry
        old = updates[: len(updates) - MAX_UPDATE_ENTRIES + 1]
        merged = replace(
            old[-1], name="ancient-changes", paths=frozenset().union(*(m.paths for m in old)), subresource=""
        )
        kept = [m for m in kept if m not in old] + [merged]
    if kept:
        ordered = sorted(kept, key=lambda m: (m.operation, m.time, m.name))
        obj["metadata"]["managedFields"] = [m.wire() for m in ordered]
    else:
        obj["metadata"].pop("managedFields", None)


def _strip(paths: set[fields.Path] | Paths, subresource: str, has_status: bool) -> Paths:
    if subresource == "status":
        return frozenset(p for p in paths if p[0] == "f:status")
    return frozenset(p for p in paths if p and p not in _STRIPPED and not (has_status and p[0] == "f:status"))


def _base(live: dict[str, Any] | None, new: dict[str, Any]) -> list[Manager]:
    """Return the entries to start from: the caller may edit or (with an empty list) reset them."""
    given = new["metadata"].get("managedFields")
    if given is not None:
        valid = [e for e in given if e]
        entries = read({"managedFields": valid})
        if not valid or len(entries) == len(valid):
            return entries
    return read(live["metadata"]) if live else []


def track_update(
    schema: Schema,
    live: dict[str, Any] | None,
    new: dict[str, Any],
    manager: Manager,
    *,
    has_status: bool,
) -> None:
    """Record an ordinary write in `new`: its author owns what it changed, and others no longer do."""
    managers = _base(live, new)
    before = live if live is not None else {"metadata": {}}
    changed, removed = fields.compare(schema, _content(before), _content(new))
    mine = _strip(changed, manager.subresource, has_status)
    own = next((m for m in managers if m.key == manager.key), None)
    out = []
    for other in managers:
        left = other.paths - removed
        if other.key != manager.key:
            left -= mine
        out.append(other if left == other.paths else replace(other, paths=left))
    if mine:
        out = [m for m in out if m.key != manager.key]
        held = own.paths if own else EMPTY
        out.append(replace(manager, paths=(held - removed) | mine))
    write(new, out)


def _content(obj: dict[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in obj.get("metadata", {}).items() if k not in _META}
    return {**{k: v for k, v in obj.items() if k not in ("apiVersion", "kind")}, "metadata": meta}


def apply(
    schema: Schema,
    live: dict[str, Any] | None,
    config: dict[str, Any],
    manager: Manager,
    *,
    has_status: bool,
    force: bool,
) -> dict[str, Any]:
    """Return the object after a server-side apply, its `managedFields` included.

    Raises:
        ApiError: 409, the configuration changes fields that others own and `force` is not set.
    """
    config = copy.deepcopy(config)
    base = live if live is not None else {"metadata": {}}
    managers = read(base["metadata"])
    mine = _strip(fields.owned_by(schema, _content(config)), manager.subresource, has_status)
    last = next((m for m in managers if m.key == manager.key), None)
    others = [m for m in managers if m.key != manager.key]
    merged: dict[str, Any] = fields.merge(schema, base, config)
    if last is not None:
        keep = fields.with_parents(mine.union(*(m.paths for m in others)))
        merged = fields.remove(schema, merged, last.paths - keep)
        merged.setdefault("metadata", {})
    changed, removed = fields.compare(schema, _content(base), _content(merged))
    touched = _strip(changed, manager.subresource, has_status)
    if not force:
        _refuse_conflicts(others, touched)
    out = []
    for other in others:
        left = other.paths - removed - touched
        out.append(other if left == other.paths else replace(other, paths=left))
    same = last is not None and last.paths == mine
    time = last.time if same and last is not None and not touched and not removed else manager.time
    out.append(replace(manager, paths=mine, time=time))
    write(merged, out)
    return merged


def _refuse_conflicts(others: list[Manager], touched: Paths) -> None:
    causes = [
        Cause("FieldManagerConflict", f"conflict with {other.told()}", fields.show(path))
        for other in others
        for path in sorted(other.paths & touched)
    ]
    if causes:
        raise errors.apply_conflict(causes)
