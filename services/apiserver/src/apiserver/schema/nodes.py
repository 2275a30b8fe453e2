"""A schema, read once from its OpenAPI v3 form into nodes that the walkers use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .rules import Rule, Wanted, escape

MISSING: Any = object()
"""Marks an absent default or an absent old value (None is a legal value)."""

Resolve = Callable[[str], Mapping[str, Any]]


@dataclass(eq=False)
class Schema:
    """One node. An object without properties and additionalProperties that preserves nothing keeps nothing."""

    raw: Mapping[str, Any]
    type: str = ""
    properties: dict[str, Schema] = field(default_factory=dict)
    additional: Schema | bool | None = None
    items: Schema | None = None
    nullable: bool = False
    preserve: bool = False
    embedded: bool = False
    int_or_string: bool = False
    default: Any = MISSING
    required: list[str] = field(default_factory=list)
    list_type: str = "atomic"
    map_keys: tuple[str, ...] = ()
    map_type: str = "granular"
    patch_strategy: frozenset[str] = frozenset()
    patch_key: str = ""
    rules: list[Rule] = field(default_factory=list)
    all_of: list[Schema] = field(default_factory=list)
    any_of: list[Schema] = field(default_factory=list)
    one_of: list[Schema] = field(default_factory=list)
    not_: Schema | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The compiled `pattern`."""
        text = self.raw.get("pattern")
        return re.compile(go_regex(text)) if text else None

    @property
    def opaque(self) -> bool:
        """Tell whether anything may stand here."""
        return not self.type and not self.int_or_string

    def child(self, name: str) -> Schema | None:
        """Return the schema of a member, or None if it is unknown or unspecified."""
        found = self.properties.get(name)
        if found is None and isinstance(self.additional, Schema):
            return self.additional
        return found

    def knows(self, name: str) -> bool:
        """Tell whether a member of this name is kept."""
        return name in self.properties or bool(self.additional) or self.preserve or self.opaque

    def as_cel(self, value: Any, wanted: Wanted) -> Any:
        """A JSON value as expressions see it under this schema, with the wanted members alone."""
        if isinstance(value, dict):
            out, typed = {}, bool(self.properties) or self.embedded
            for key, member in value.items():
                name, child = escape(key) if typed else key, self.child(key)
                if not wanted or name in wanted:
                    out[name] = member if child is None else child.as_cel(member, wanted.get(name, {}))
            return out
        if isinstance(value, list) and self.items is not None:
            return [self.items.as_cel(member, {}) for member in value]
        if self.type == "number" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value


def go_regex(text: str) -> str:
    """Return an RE2 expression in Python's spelling; `$` and `\\z` mean the end of the text alone."""
    text = text.replace(r"\z", r"\Z").replace("[[:alnum:]]", "[A-Za-z0-9]")
    return re.sub(r"(?<!\\)((?:\\\\)*)\$(?![^\[]*\])", r"\1\\Z", text)


def no_refs(name: str) -> Mapping[str, Any]:
    """Refuse references: a structural schema has none."""
    raise ValueError(f"$ref {name} is not supported in a structural schema")


def compile_schema(
    raw: Mapping[str, Any], resolve: Resolve = no_refs, *, builtin: bool = False, seen: dict[str, Schema] | None = None
) -> Schema:
    """Read a schema.

    Args:
        resolve: gives the definition behind a `$ref`.
        builtin: read it as the API machinery's own kinds are: defaults are the Go zero values and not applied, and
            an object without properties is free-form.
    """
    seen = {} if seen is None else seen
    ref = _ref(raw)
    if ref and ref in seen:
        return seen[ref]
    node = Schema(raw)
    if ref:
        seen[ref] = node
        raw = {**resolve(ref), **{k: v for k, v in raw.items() if k.startswith("x-kubernetes") or k == "description"}}
        node.raw = raw
    _fill(node, raw, lambda sub: compile_schema(sub, resolve, builtin=builtin, seen=seen), builtin)
    return node


def _ref(raw: Mapping[str, Any]) -> str:
    ref = raw.get("$ref") or next((part["$ref"] for part in raw.get("allOf") or [] if "$ref" in part), "")
    return str(ref).rsplit("/", 1)[-1]


def _fill(node: Schema, raw: Mapping[str, Any], sub: Callable[[Mapping[str, Any]], Schema], builtin: bool) -> None:
    node.type = raw.get("type") or ""
    node.nullable = bool(raw.get("nullable"))
    node.preserve = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
    node.embedded = bool(raw.get("x-kubernetes-embedded-resource"))
    node.int_or_string = bool(raw.get("x-kubernetes-int-or-string")) or raw.get("format") == "int-or-string"
    node.required = [] if builtin else list(raw.get("required") or [])
    if "default" in raw and not builtin:
        node.default = raw["default"]
    node.properties = {name: sub(value) for name, value in (raw.get("properties") or {}).items()}
    additional = raw.get("additionalProperties")
    node.additional = sub(additional) if isinstance(additional, Mapping) else additional
    if isinstance(raw.get("items"), Mapping):
        node.items = sub(raw["items"])
    node.list_type = raw.get("x-kubernetes-list-type") or "atomic"
    node.map_keys = tuple(raw.get("x-kubernetes-list-map-keys") or ())
    node.map_type = raw.get("x-kubernetes-map-type") or "granular"
    node.patch_strategy = frozenset((raw.get("x-kubernetes-patch-strategy") or "").split(",")) - {""}
    node.patch_key = raw.get("x-kubernetes-patch-merge-key") or ""
    node.rules = [Rule.read(rule) for rule in raw.get("x-kubernetes-validations") or []]
    if builtin:
        node.preserve = node.preserve or (node.type == "object" and not node.properties and additional is None)
        return
    node.all_of = [sub(part) for part in raw.get("allOf") or []]
    node.any_of = [sub(part) for part in raw.get("anyOf") or []]
    node.one_of = [sub(part) for part in raw.get("oneOf") or []]
    node.not_ = sub(raw["not"]) if raw.get("not") else None
