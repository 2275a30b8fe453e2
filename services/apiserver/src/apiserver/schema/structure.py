"""Checking that a custom resource's schema is structural, so that pruning and defaulting are well defined."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.errors import Cause

from .nodes import Schema, compile_schema, go_regex
from .rules import Rule
from .shaping import apply_defaults, prune
from .validation import walk

_TYPES = ("object", "array", "string", "integer", "number", "boolean")
_LOGIC_FORBIDDEN = [
    "type",
    "default",
    "title",
    "description",
    "additionalProperties",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
]
_UNSUPPORTED = ("$ref", "definitions", "dependencies", "patternProperties", "id", "additionalItems")


def faults(raw: Any, path: str) -> list[Cause]:
    """List why a schema is not structural; `path` is its own place in the CRD."""
    if not isinstance(raw, Mapping):
        return [Cause("FieldValueRequired", "Required value: schemas are required", path)]
    found = list(_node(raw, path))
    if raw.get("type") != "object":
        found.append(_bad(f"{path}.type", raw.get("type", ""), "must be object at the root"))
    if not found:
        found = list(_defaults(compile_schema(raw), path))
    return found


def _bad(path: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", f'Invalid value: "{value}": {text}', path)


def _node(raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind = raw.get("type")
    either = raw.get("x-kubernetes-int-or-string")
    if not kind and not either and not raw.get("x-kubernetes-preserve-unknown-fields"):
        yield Cause(
            "FieldValueRequired", "Required value: must not be empty for specified object fields", f"{path}.type"
        )
    elif kind and kind not in _TYPES:
        yield Cause(
            "FieldValueNotSupported",
            f'Unsupported value: "{kind}": supported values: ' + ", ".join(f'"{t}"' for t in _TYPES),
            f"{path}.type",
        )
    for name in _UNSUPPORTED:
        if name in raw:
            yield Cause("FieldValueForbidden", f"Forbidden: {name} is not supported", f"{path}.{name}")
    if raw.get("uniqueItems"):
        text = "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield Cause("FieldValueForbidden", text, f"{path}.uniqueItems")
    if raw.get("properties") and isinstance(raw.get("additionalProperties"), Mapping):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause("FieldValueForbidden", text, f"{path}.additionalProperties")
    if kind == "array" and not isinstance(raw.get("items"), Mapping):
        yield Cause("FieldValueRequired", "Required value: must be specified", f"{path}.items")
    yield from _list_type(raw, path)
    yield from _texts(raw, path)
    yield from _below(raw, path)


def _below(raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    for name, child in (raw.get("properties") or {}).items():
        yield from _node(child, f"{path}.properties[{name}]")
    if isinstance(raw.get("additionalProperties"), Mapping):
        yield from _node(raw["additionalProperties"], f"{path}.additionalProperties")
    if isinstance(raw.get("items"), Mapping):
        yield from _node(raw["items"], f"{path}.items")
    for word in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(raw.get(word) or []):
            yield from _logic(part, f"{path}.{word}[{index}]", bool(raw.get("x-kubernetes-int-or-string")))
    if raw.get("not"):
        yield from _logic(raw["not"], f"{path}.not", False)


def _logic(raw: Mapping[str, Any], path: str, either: bool) -> Iterator[Cause]:
    for name in _LOGIC_FORBIDDEN:
        if name in raw and not (either and name == "type"):
            text = "Forbidden: must be empty to be structural"
            yield Cause("FieldValueForbidden", text, f"{path}.{name}")
    yield from _texts(raw, path)
    for name, child in (raw.get("properties") or {}).items():
        yield from _logic(child, f"{path}.properties[{name}]", False)


def _list_type(raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind = raw.get("x-kubernetes-list-type")
    if kind not in (None, "atomic", "set", "map"):
        yield _bad(f"{path}.x-kubernetes-list-type", kind, 'must be "atomic", "set" or "map"')
    keys = raw.get("x-kubernetes-list-map-keys") or []
    if kind == "map":
        if not keys:
            text = "Required value: must not be empty if x-kubernetes-list-type is map"
            yield Cause("FieldValueRequired", text, f"{path}.x-kubernetes-list-map-keys")
        members = (raw.get("items") or {}).get("properties") or {}
        for key in keys:
            if key not in members:
                text = "entries must all be names of item properties"
                yield _bad(f"{path}.x-kubernetes-list-map-keys", key, text)
    elif keys:
        text = "Forbidden: must be empty if x-kubernetes-list-type is not map"
        yield Cause("FieldValueForbidden", text, f"{path}.x-kubernetes-list-map-keys")


def _texts(raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if pattern := raw.get("pattern"):
        try:
            re.compile(go_regex(pattern))
        except re.error as error:
            yield _bad(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {error}")
    for index, rule in enumerate(raw.get("x-kubernetes-validations") or []):
        here = f"{path}.x-kubernetes-validations[{index}]"
        if not str(rule.get("rule") or "").strip():
            yield Cause("FieldValueRequired", "Required value: rule is not specified", f"{here}.rule")
            continue
        try:
            Rule.read(rule).compile()
        except ValueError as error:
            yield _bad(f"{here}.rule", rule["rule"], f"compilation failed: {error}")


def _defaults(schema: Schema, path: str) -> Iterator[Cause]:
    if "default" in schema.raw:
        value = {"default": copy.deepcopy(schema.raw["default"])}
        here = f"{path}.default"
        apply_defaults(schema, value["default"])
        if prune(schema, value["default"]):
            yield _bad(here, schema.raw["default"], "must not have unspecified fields")
        for fault in walk(schema, value["default"], "default"):
            yield Cause(fault.reason, fault.message, here)
    for name, child in schema.properties.items():
        yield from _defaults(child, f"{path}.properties[{name}]")
    if schema.items is not None:
        yield from _defaults(schema.items, f"{path}.items")
    if isinstance(schema.additional, Schema):
        yield from _defaults(schema.additional, f"{path}.additionalProperties")
