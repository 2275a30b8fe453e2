"""The kinds this server knows, built-in and custom, and where each is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .errors import Cause, qualified
from .schema.nodes import Schema
from .schema.shaping import apply_defaults
from .watch import Item

Object = dict[str, Any]
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Column:
    """One column of the server-side table; `cell` reads it from an object at a time (seconds since the epoch)."""

    name: str
    cell: Callable[[Object, float], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True)
class ScalePaths:
    """Where the scale subresource finds its numbers (dotted paths)."""

    replicas: str
    status_replicas: str
    selector: str = ""


def _nothing(obj: Object, old: Object | None) -> None:
    """Leave the object as it is."""


def _no_faults(obj: Object, old: Object | None) -> list[Cause]:
    return []


@dataclass(frozen=True)
class Strategy:
    """What a kind adds to the common path: `prepare` edits before validation, `validate` lists faults."""

    prepare: Callable[[Object, Object | None], None] = _nothing
    validate: Callable[[Object, Object | None], list[Cause]] = _no_faults
    review: Callable[..., Object] | None = None
    """Answers a create without storing anything (the review kinds)."""


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind in one API version."""

    group: str
    version: str
    kind: str
    plural: str
    schema: Schema
    singular: str = ""
    list_kind: str = ""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    columns: tuple[Column, ...] = ()
    strategy: Strategy = Strategy()
    has_status: bool = False
    scale: ScalePaths | None = None
    custom: bool = False
    counts_generation: bool = False
    unconditional: bool = True
    """Whether an update may leave out the resourceVersion it is based on."""
    label_names: bool = False
    storage: str = ""
    storage_api_version: str = ""
    selectable: frozenset[str] = frozenset()
    schema_revision: int = 0
    to_stored: Callable[[Object], Object] | None = None
    from_stored: Callable[[Object], Object] | None = None
    definition: str = ""
    openapi: dict[str, Any] = field(default_factory=dict, repr=False)
    deprecation: str = ""

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`plural.group`, unique among kinds."""
        return qualified(self.plural, self.group)

    @property
    def key(self) -> str:
        """Where the store keeps the objects."""
        return self.storage or self.qualified

    @property
    def path(self) -> str:
        """The group-version's root below the server."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def plain(self, item: Item) -> bool:
        """Tell whether the stored bytes can be served as they are."""
        return self.from_stored is None and (
            not self.custom or (self.storage_api_version == self.api_version and item.revision >= self.schema_revision)
        )

    def load(self, item: Item) -> Object:
        """Return the object in this version."""
        obj = item.object()
        if self.from_stored is not None:
            return self.from_stored(obj)
        if self.custom and not self.plain(item):
            obj["apiVersion"] = self.api_version
            apply_defaults(self.schema, obj)
        return obj

    def bytes(self, item: Item) -> bytes:
        """Return the object in this version, as JSON."""
        return item.data if self.plain(item) else msgspec.json.encode(self.load(item))

    def dump(self, obj: Object) -> Object:
        """Return the object in its stored version."""
        if self.to_stored is not None:
            return self.to_stored(obj)
        if self.storage_api_version:
            obj = {**obj, "apiVersion": self.storage_api_version}
        return obj


class Registry:
    """All resources by group, version and plural. Changes only on the event loop's thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0
        """Grows with each change; caches of discovery and OpenAPI hang on it."""

    def add(self, resource: Resource) -> None:
        """Serve a resource, or replace it."""
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self.generation += 1

    def remove(self, group: str, plural: str) -> None:
        """Stop serving a resource in all versions."""
        for key in [k for k in self._by_path if k[0] == group and k[2] == plural]:
            del self._by_path[key]
        self.generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """Return a resource by its place in the URL."""
        return self._by_path.get((group, version, plural))

    def find_kind(self, api_version: str, kind: str) -> Resource | None:
        """Return a resource by what objects say of themselves; any served version of the group will do."""
        group = api_version.rpartition("/")[0]
        exact = next((r for r in self if r.api_version == api_version and r.kind == kind), None)
        return exact or next((r for r in self if r.group == group and r.kind == kind), None)

    def stored(self) -> dict[str, Resource]:
        """Return one resource per store key that holds objects; the stored version where it is served."""
        out: dict[str, Resource] = {}
        for resource in self:
            if "list" not in resource.verbs:
                continue
            if resource.key not in out or resource.api_version == resource.storage_api_version:
                out.setdefault(resource.key, resource)
                if resource.storage_api_version == resource.api_version:
                    out[resource.key] = resource
        return out

    def versions(self) -> dict[str, list[str]]:
        """Return the versions of each group, preferred first."""
        out: dict[str, list[str]] = {}
        for resource in self:
            versions = out.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        for versions in out.values():
            versions.sort(key=version_rank)
        return out

    def of(self, group: str, version: str) -> list[Resource]:
        """Return the resources of a group-version, by name."""
        found = [r for r in self if r.group == group and r.version == version]
        return sorted(found, key=lambda r: r.plural)

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._by_path.values()))


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Order versions as Kubernetes does: v2, v1, v1beta2, v1beta1, v1alpha1, others by name."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if found is None:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (stage, -int(found[1]), -int(found[3] or 0), "")
