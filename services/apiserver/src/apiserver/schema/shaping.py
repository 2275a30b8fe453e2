"""Giving an object its stored form: unknown fields out, defaults in."""

from __future__ import annotations

import copy
from typing import Any

from .nodes import MISSING, Schema

_OBJECT_FIELDS = frozenset({"apiVersion", "kind", "metadata"})


def prune(schema: Schema, value: Any, path: str = "") -> list[str]:
    """Remove unspecified fields in place and return their paths."""
    gone: list[str] = []
    if isinstance(value, dict):
        keep = schema.preserve or schema.opaque
        for key in list(value):
            if schema.embedded and key in _OBJECT_FIELDS:
                continue
            here = f"{path}.{key}" if path else key
            child = schema.child(key)
            if child is not None:
                gone += prune(child, value[key], here)
            elif not keep and schema.additional is not True:
                del value[key]
                gone.append(here)
    elif isinstance(value, list) and schema.items is not None:
        for index, member in enumerate(value):
            gone += prune(schema.items, member, f"{path}[{index}]")
    return gone


def apply_defaults(schema: Schema, value: Any) -> None:
    """Fill in defaults in place; a null that may not be null counts as absent."""
    if isinstance(value, dict):
        for key, child in schema.properties.items():
            absent = key not in value or (value[key] is None and not child.nullable)
            if absent and child.default is not MISSING:
                value[key] = copy.deepcopy(child.default)
            if key in value:
                apply_defaults(child, value[key])
        if isinstance(schema.additional, Schema):
            for key, member in value.items():
                if key not in schema.properties:
                    apply_defaults(schema.additional, member)
    elif isinstance(value, list) and schema.items is not None:
        for member in value:
            apply_defaults(schema.items, member)


def drop_nulls(schema: Schema, value: Any) -> None:
    """Remove nulls in place where the schema gives a default or the Go type has no null (built-in kinds)."""
    if isinstance(value, dict):
        for key in list(value):
            child = schema.child(key)
            if child is None:
                continue
            if value[key] is None and not child.opaque:
                del value[key]
            else:
                drop_nulls(child, value[key])
    elif isinstance(value, list) and schema.items is not None:
        for member in value:
            drop_nulls(schema.items, member)
