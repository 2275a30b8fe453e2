"""Choosing objects for a list or a watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .resources import Resource
from .selectors import FieldRequirement, Requirement, field_text, lookup, parse_fields, parse_labels
from .watch import Item


@dataclass(frozen=True)
class Selection:
    """Namespace, label selector and field selector of one request; None selects all namespaces."""

    resource: Resource
    namespace: str | None
    labels: list[Requirement]
    fields: list[FieldRequirement]

    @classmethod
    def of(cls, resource: Resource, namespace: str | None, name: str, params: Mapping[str, str]) -> Selection:
        """Read the selectors of a request.

        Raises:
            ApiError: 400.
        """

        def supported(path: str) -> bool:
            return path == "metadata.name" or (path == "metadata.namespace") or path in resource.selectable

        fields = parse_fields(params.get("fieldSelector", ""), supported)
        if name:
            fields = [*fields, FieldRequirement("metadata.name", name, True)]
        return cls(resource, namespace, parse_labels(params.get("labelSelector", "")), fields)

    def matches(self, item: Item | None) -> bool:
        """Tell whether an object is selected."""
        if item is None or self.namespace not in (None, item.namespace):
            return False
        if self.labels and not all(term.matches(item.meta.labels or {}) for term in self.labels):
            return False
        return not self.fields or self._fields_match(item)

    def _fields_match(self, item: Item) -> bool:
        obj: dict[str, Any] | None = None
        for term in self.fields:
            if term.path == "metadata.name":
                value = item.name
            elif term.path == "metadata.namespace":
                value = item.namespace
            else:
                obj = obj if obj is not None else self.resource.load(item)
                value = field_text(_read(obj, term.path, self.resource))
            if (value == term.value) is not term.equal:
                return False
        return True


def _read(obj: dict[str, Any], path: str, resource: Resource) -> Any:
    if path == "source" and resource.storage == "events":
        source = obj.get("source") or obj.get("deprecatedSource") or {}
        return source.get("component") or obj.get("reportingComponent") or obj.get("reportingController")
    return lookup(obj, path)
