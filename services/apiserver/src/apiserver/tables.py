"""Server-side tables: what `kubectl get` prints."""

from __future__ import annotations

from .resources import Object, Resource

TABLE = {"kind": "Table", "apiVersion": "meta.k8s.io/v1"}


def table(
    resource: Resource, objects: list[Object], meta: Object, include: str, now: float, *, headers: bool = True
) -> Object:
    """Return objects as a `Table`; `include` says how much of each goes along (None, Metadata, Object)."""
    out: Object = {**TABLE, "metadata": meta}
    out["columnDefinitions"] = column_definitions(resource) if headers else []
    out["rows"] = [row(resource, obj, include, now) for obj in objects]
    return out


def column_definitions(resource: Resource) -> list[Object]:
    """Return the heads of the columns."""
    return [
        {"name": c.name, "type": c.type, "format": c.format, "description": c.description, "priority": c.priority}
        for c in resource.columns
    ]


def row(resource: Resource, obj: Object, include: str, now: float) -> Object:
    """Return one object as a row."""
    out: Object = {"cells": [column.cell(obj, now) for column in resource.columns]}
    if include == "Object":
        out["object"] = obj
    elif include != "None":
        out["object"] = partial(obj)
    return out


def partial(obj: Object) -> Object:
    """Return an object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
