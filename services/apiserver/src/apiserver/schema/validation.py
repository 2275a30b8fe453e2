"""Validating an object against its schema, with the messages that Kubernetes gives."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from apiserver.errors import Cause

from .nodes import MISSING, Schema
from .rules import RuleError

MAX_CAUSES = 100


def validate(schema: Schema, value: dict[str, Any], old: dict[str, Any] | None = None) -> list[Cause]:
    """List what is wrong with an object.

    `old` is its stored form on update: transition rules compare with it, and what has not changed is not held against
    the new object (validation ratcheting), so a schema that became stricter never keeps a finalizer in place.
    """
    found = list(walk(schema, value, "", MISSING if old is None else old, root=True))
    if found:
        if _has_rules(schema):
            text = (
                'Invalid value: "null": some validation rules were not checked because the object was invalid; '
                "correct the existing errors to complete validation"
            )
            found.append(Cause("FieldValueInvalid", text, "<nil>"))
        return found[:MAX_CAUSES]
    return list(_rules(schema, value, MISSING if old is None else old, ""))[:MAX_CAUSES]


def _has_rules(schema: Schema) -> bool:
    below = [*schema.properties.values(), schema.items, schema.additional]
    return bool(schema.rules) or any(_has_rules(s) for s in below if isinstance(s, Schema))


def show(value: Any) -> str:
    """Return a value as it stands in messages."""
    return json.dumps(value, ensure_ascii=False)


def _invalid(path: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {show(value)}: {path or '<nil>'} {text}".rstrip(), path)


def type_name(value: Any) -> str:
    """Return the JSON type of a value, as messages name it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _type_fits(schema: Schema, value: Any) -> bool:
    name = type_name(value)
    if schema.int_or_string:
        return name in ("integer", "string")
    if not schema.type:
        return True
    return name == schema.type or (schema.type == "number" and name == "integer")


def unchanged(value: Any, old: Any) -> bool:
    """Tell whether two JSON values are the same, number types included (Python thinks that true is 1)."""
    return old is not MISSING and value == old and _encode(value) == _encode(old)


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def walk(schema: Schema, value: Any, path: str, old: Any = MISSING, *, root: bool = False) -> Iterator[Cause]:
    """Yield the faults of a value and of all below it, except where it equals the old one."""
    if unchanged(value, old):
        return
    if value is None:
        if schema.nullable or schema.opaque:
            return
        wanted = schema.type or "string"
        text = f'Invalid value: "null": {path} in body must be of type {wanted}: "null"'
        yield Cause("FieldValueTypeInvalid", text, path)
        return
    if not _type_fits(schema, value):
        wanted = "integer or string" if schema.int_or_string else schema.type
        name = type_name(value)
        text = f'Invalid value: "{name}": {path} in body must be of type {wanted}: "{name}"'
        yield Cause("FieldValueTypeInvalid", text, path)
        return
    yield from _values(schema, value, path)
    if isinstance(value, dict):
        yield from _members(schema, value, path, old, root)
    elif isinstance(value, list):
        if schema.items is not None:
            past = _past(schema, old)
            for index, member in enumerate(value):
                yield from walk(schema.items, member, f"{path}[{index}]", past(member))
        yield from _unique(schema, value, path)


def _members(schema: Schema, value: dict[str, Any], path: str, old: Any, root: bool) -> Iterator[Cause]:
    dot = f"{path}." if path else ""
    for name in schema.required:
        if name not in value:
            yield Cause("FieldValueRequired", "Required value", f"{dot}{name}")
    if schema.embedded:
        for name in ("apiVersion", "kind"):
            if not value.get(name):
                yield Cause("FieldValueRequired", "Required value: must not be empty", f"{dot}{name}")
    for key, member in value.items():
        if root and key in ("apiVersion", "kind", "metadata"):
            continue
        child = schema.child(key)
        if child is not None:
            yield from walk(child, member, f"{dot}{key}", old.get(key, MISSING) if isinstance(old, dict) else MISSING)


def _unique(schema: Schema, values: list[Any], path: str) -> Iterator[Cause]:
    if schema.list_type not in ("set", "map"):
        return
    seen: set[str] = set()
    for index, member in enumerate(values):
        key: Any = member
        if schema.list_type == "map":
            if not isinstance(member, dict):
                continue
            key = {name: member.get(name) for name in schema.map_keys if name in member}
        text = json.dumps(key, sort_keys=True)
        if text in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {text}", f"{path}[{index}]")
        seen.add(text)


def _values(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    """Yield the faults of the value itself (numbers, texts, sizes, enum, logic)."""
    raw = schema.raw
    if isinstance(value, str):
        yield from _text(schema, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(schema, value, path)
    elif isinstance(value, list):
        yield from _size(raw, "Items", len(value), value, path)
    elif isinstance(value, dict):
        yield from _size(raw, "Properties", len(value), value, path)
    enum = raw.get("enum")
    if enum and value not in enum:
        options = ", ".join(show(option) for option in enum)
        yield Cause("FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {options}", path)
    yield from _logic(schema, value, path)


def _text(schema: Schema, value: str, path: str) -> Iterator[Cause]:
    raw = schema.raw
    if (low := raw.get("minLength")) is not None and len(value) < low:
        yield _invalid(path, value, f"in body should be at least {low} chars long")
    if (high := raw.get("maxLength")) is not None and len(value) > high:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {high} bytes", path)
    if schema.pattern is not None and schema.pattern.search(value) is None:
        yield _invalid(path, value, f"in body should match '{raw['pattern']}'")
    check = FORMATS.get(raw.get("format") or "")
    if check is not None and not check(value):
        yield _invalid(path, value, f"in body must be of type {raw['format']}: {show(value)}")


def _number(schema: Schema, value: float, path: str) -> Iterator[Cause]:
    raw = schema.raw
    low, high, step = raw.get("minimum"), raw.get("maximum"), raw.get("multipleOf")
    if low is not None and (value < low or (raw.get("exclusiveMinimum") and value == low)):
        text = "greater than" if raw.get("exclusiveMinimum") else "greater than or equal to"
        yield _invalid(path, value, f"in body should be {text} {low}")
    if high is not None and (value > high or (raw.get("exclusiveMaximum") and value == high)):
        text = "less than" if raw.get("exclusiveMaximum") else "less than or equal to"
        yield _invalid(path, value, f"in body should be {text} {high}")
    if step and abs(value / step - round(value / step)) > 1e-9:
        yield _invalid(path, value, f"in body should be a multiple of {step}")
    if schema.type == "integer" and not -(2**63) <= value < 2**63:
        yield _invalid(path, value, "in body must fit in 64 bits")
    if raw.get("format") == "int32" and not -(2**31) <= value < 2**31:
        yield _invalid(path, value, "in body must be of type int32")


def _size(raw: Any, noun: str, count: int, value: Any, path: str) -> Iterator[Cause]:
    low, high = raw.get(f"min{noun}"), raw.get(f"max{noun}")
    if low is not None and count < low:
        yield _invalid(path, value, f"in body should have at least {low} {noun.lower()}")
    if high is not None and count > high:
        yield Cause("FieldValueTooMany", f"Too many: {count}: must have at most {high} items", path)


def _fits(schema: Schema, value: Any, path: str) -> bool:
    return next(walk(schema, value, path), None) is None


def _logic(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    def fault(text: str) -> Cause:
        return Cause("FieldValueInvalid", f'Invalid value: "": "{path}" {text}', path)

    for part in schema.all_of:
        below = list(walk(part, value, path))
        if below:
            yield fault("must validate all the schemas (allOf)")
            yield from below
    if schema.any_of and not schema.int_or_string:
        tried = [list(walk(part, value, path)) for part in schema.any_of]
        if all(tried):
            yield fault("must validate at least one schema (anyOf)")
            yield from min(tried, key=len)
    if schema.one_of:
        count = sum(_fits(part, value, path) for part in schema.one_of)
        if count != 1:
            found = "Found none valid" if count == 0 else f"Found {count} valid alternatives"
            yield fault(f"must validate one and only one schema (oneOf). {found}")
    if schema.not_ is not None and _fits(schema.not_, value, path):
        yield fault("must not validate the schema (not)")


def _rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[Cause]:
    """Yield broken CEL rules, of this node and of all below it."""
    if value is None:
        return
    same = bool(schema.rules) and unchanged(value, old)
    for rule in schema.rules:
        if rule.transition and old is MISSING and not rule.optional_old:
            continue
        if same and not rule.transition:
            continue
        try:
            held = rule.holds(schema, value, old, old is not MISSING)
        except RuleError as error:
            text = f"rule evaluation error: {error} evaluating rule: {rule.message or rule.rule}"
            yield Cause("FieldValueInvalid", f'Invalid value: "{schema.type}": {text}', path or "<nil>")
            continue
        if not held:
            told = rule.explain(schema, value, old, old is not MISSING)
            yield _broken(rule.reason, schema.type, told, path + rule.field_path if rule.field_path else path)
    if isinstance(value, dict):
        for key, member in value.items():
            child = schema.child(key)
            if child is not None:
                before = old.get(key, MISSING) if isinstance(old, dict) else MISSING
                yield from _rules(child, member, before, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and schema.items is not None:
        past = _past(schema, old)
        for index, member in enumerate(value):
            yield from _rules(schema.items, member, past(member), f"{path}[{index}]")


def _broken(reason: str, kind: str, told: str, path: str) -> Cause:
    lead = {
        "FieldValueForbidden": "Forbidden",
        "FieldValueRequired": "Required value",
        "FieldValueDuplicate": f'Duplicate value: "{kind}"',
    }.get(reason)
    text = f"{lead}: {told}" if lead else f'Invalid value: "{kind}": {told}'
    return Cause(reason, text, path.lstrip(".") or "<nil>")


def _past(schema: Schema, old: Any) -> Callable[[Any], Any]:
    """Return what finds the old entry of a keyed list; entries of other lists have no past."""
    if schema.list_type != "map" or not isinstance(old, list):
        return lambda member: MISSING

    def key(member: dict[str, Any]) -> bytes:
        return _encode([member.get(name) for name in schema.map_keys])

    known = {key(member): member for member in old if isinstance(member, dict)}
    return lambda member: known.get(key(member), MISSING) if isinstance(member, dict) else MISSING


def _reads(reader: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            reader(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return check


def _uri(text: str) -> None:
    if not urlsplit(text).scheme:
        raise ValueError("no scheme")


def _date_time(text: str) -> None:
    if "T" not in text.upper() or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no RFC 3339 time")


_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*"
)
_DURATION = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d|w))+|0")
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _reads(_date_time),
    "datetime": _reads(_date_time),
    "date": _reads(date.fromisoformat),
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "ipv4": _reads(ipaddress.IPv4Address),
    "ipv6": _reads(ipaddress.IPv6Address),
    "cidr": _reads(lambda text: ipaddress.ip_network(text, strict=False)),
    "mac": lambda text: _MAC.fullmatch(text) is not None,
    "uuid": _reads(uuid.UUID),
    "uri": _reads(_uri),
    "email": lambda text: re.fullmatch(r"[^@\s]+@[^@\s]+", text) is not None,
    "hostname": lambda text: _HOST.fullmatch(text) is not None,
    "byte": _reads(lambda text: base64.b64decode(text, validate=True)),
}
