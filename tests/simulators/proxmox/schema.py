"""Validation of requests by Proxmox VE's own machine-readable description of its API.

The description is not part of this project (`reference`); where it is not at hand, requests go unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from . import formats
from .property_strings import Alias, Shape, parse
from .reference import SCHEMA, reference
from .rules import Parameters, Rule

# `scsi[n]` in the description stands for scsi0 up to this many; the description does not tell. Source: PVE::QemuServer.
INDEXED = {
    "ide": 4, "sata": 6, "scsi": 31, "virtio": 16, "net": 32, "ipconfig": 32, "hostpci": 16, "usb": 14, "serial": 4,
    "parallel": 3, "numa": 8, "unused": 256, "virtiofs": 10,
}  # fmt: skip
YES = frozenset({"1", "on", "yes", "true"})
NO = frozenset({"0", "off", "no", "false"})
INTEGER = re.compile(r"^[+-]?\d+$")
NUMBER = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")

Value = str | Sequence[str]
Errors = dict[str, str]


class Method(msgspec.Struct, frozen=True):
    """One method of a path; what it returns and who may call it is not read."""

    parameters: Parameters | None = None


class Description(msgspec.Struct, frozen=True):
    """The whole file."""

    paths: dict[str, dict[str, Method]]


@cache
def read(file: Path) -> Description:
    """The description, read once in a process: it takes a moment, and every simulator wants it."""
    # Not strict: Perl writes booleans as 1 and 0, and some numbers as strings.
    return msgspec.json.decode(file.read_bytes(), type=Description, strict=False)


class Schema:
    """What each method of the API accepts."""

    def __init__(self, description: Description) -> None:
        self._methods = {
            (method, path): written_out(told.parameters)
            for path, methods in description.paths.items()
            for method, told in methods.items()
            if told.parameters is not None
        }

    @classmethod
    def find(cls) -> Schema | None:
        """From the reference, or None where it is not here."""
        file = reference(SCHEMA)
        return None if file is None else cls(read(file))

    def paths(self) -> list[tuple[str, str]]:
        """Every method and path that is described; what is fixed comes before what varies."""
        return sorted(self._methods, key=lambda known: known[1].count("{"))

    def knows(self, method: str, path: str) -> bool:
        """Whether the product has such a method at a path as clients write it."""
        return any(
            known == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
            for known, template in self._methods
        )

    def check(self, method: str, path: str, parameters: Mapping[str, Value]) -> Errors:
        """Every bad parameter with Proxmox VE's text.

        Args:
            path: a template of the description: "/nodes/{node}/qemu/{vmid}/config". One that it lacks is not checked.
            parameters: those of path, query and body together; JSON's booleans as 1 and 0.
        """
        known = self._methods.get((method, path))
        if known is None:
            return {}
        rules, closed = chosen(known, parameters)
        return check_object(parameters, rules, "", closed=closed)


def written_out(parameters: Parameters) -> Parameters:
    """With every index of an indexed name."""
    rules = {name: rule for kind, rule in parameters.properties.items() for name in expanded(kind)}
    return msgspec.structs.replace(parameters, properties=rules)


def chosen(parameters: Parameters, given: Mapping[str, Value]) -> tuple[Mapping[str, Rule], bool]:
    """The rules that count for what is given, and whether other parameters are refused."""
    if not parameters.allOf and not parameters.oneOf:
        return parameters.properties, not parameters.additionalProperties
    rules: dict[str, Rule] = {}
    for part in parameters.allOf:
        rules |= chosen(part, given)[0]
    if parameters.oneOf:
        rules[parameters.type_property] = parameters.type_property_schema or Rule()
        wanted = given.get(parameters.type_property)
        for part in parameters.oneOf:
            if part.instance_type == wanted:
                rules |= part.properties
    return rules, True


def expanded(name: str) -> Iterator[str]:
    """`scsi[n]` as scsi0, scsi1...; other names as they are."""
    base = name.removesuffix("[n]")
    if base == name:
        yield name
    else:
        yield from (f"{base}{index}" for index in range(INDEXED[base]))


def check_object(values: Mapping[str, Value], rules: Mapping[str, Rule], path: str, *, closed: bool = True) -> Errors:
    """Each value by its rule, then what is missing or too much. `path` leads the names in the errors: "net0."."""
    errors: Errors = {}
    for name, rule in rules.items():
        value = values.get(name)
        if value is None:
            if not (rule.optional or rule.alias):
                errors[path + name] = "property is missing and it is not optional"
        elif reason := check_value(value, rule, path + name):
            errors[path + name] = reason
    for name, value in values.items():
        known = rules.get(name)
        if known is None and closed:
            errors[path + name] = (
                "property is not defined in schema and the schema does not allow additional properties"
            )
        elif known is not None and known.requires and value is not None and known.requires not in values:
            errors[path + known.requires] = f"missing property required by '{path + name}'"
    return errors


def check_value(value: Value, rule: Rule, name: str) -> str:
    """Why the value is bad, or nothing."""
    if rule.type == "array":
        items = [value] if isinstance(value, str) else value
        reasons = (check_value(item, rule.items, name) for item in items if rule.items is not None)
        return next((reason for reason in reasons if reason), "")
    if not isinstance(value, str):
        return f"type check ('{rule.type}') failed - got 'ARRAY'"
    return check_type(value, rule.type) or check_format(value, rule, name) or check_limits(value, rule)


def check_type(value: str, wanted: str) -> str:
    """Forms know no types: what the text looks like decides."""
    good = {
        "integer": INTEGER.search(value) is not None,
        "number": NUMBER.search(value) is not None,
        "boolean": value in ("0", "1"),
    }
    return "" if good.get(wanted, True) else f"type check ('{wanted}') failed - got '{value}'"


def check_format(value: str, rule: Rule, name: str) -> str:
    """By the name of a format, or as a property string."""
    if not rule.format:
        return ""
    keys = rule.format if isinstance(rule.format, dict) else formats.DICTIONARIES.get(rule.format)
    try:
        if keys is not None:
            check_property_string(value, keys, name)
        elif isinstance(rule.format, str):
            formats.check(rule.format, value)
    except ValueError as error:
        return f"invalid format - {error}\n"
    return ""


def check_property_string(value: str, keys: Mapping[str, Rule], name: str) -> None:
    """Raise ValueError with every bad key of the string, a line each."""
    found = parse(value, shape_of(keys))
    spelled = {
        key: as_boolean(part) if key in keys and keys[key].type == "boolean" else part for key, part in found.items()
    }
    if errors := check_object(spelled, keys, f"{name}."):
        raise ValueError("format error\n" + "\n".join(f"{key}: {text}" for key, text in sorted(errors.items())))


def shape_of(keys: Mapping[str, Rule]) -> Shape:
    """How a property string with these keys is cut."""
    default = next((key for key, rule in keys.items() if rule.default_key), "")
    return Shape(default, {key: Alias(rule.alias, rule.keyAlias) for key, rule in keys.items() if rule.alias})


def as_boolean(value: str) -> str:
    """Property strings know more words for booleans than forms do."""
    return "1" if value.lower() in YES else "0" if value.lower() in NO else value


def check_limits(value: str, rule: Rule) -> str:
    """Pattern, length, range and enumeration."""
    if rule.pattern is not None and not compiled(rule.pattern).search(value):
        return "value does not match the regex pattern"
    if rule.maxLength is not None and len(value) > rule.maxLength:
        return f"value may only be {rule.maxLength} characters long"
    if rule.minLength is not None and len(value) < rule.minLength:
        return f"value must be at least {rule.minLength} characters long"
    if NUMBER.search(value):
        if rule.maximum is not None and float(value) > rule.maximum:
            return f"value must have a maximum value of {plain(rule.maximum)}"
        if rule.minimum is not None and float(value) < rule.minimum:
            return f"value must have a minimum value of {plain(rule.minimum)}"
    if rule.enum is not None and value not in rule.enum:
        return f"value '{value}' does not have a value in the enumeration '{', '.join(rule.enum)}'"
    return ""


def plain(number: float) -> str:
    """As Perl prints it: whole numbers without a point."""
    return str(int(number)) if number == int(number) else str(number)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A Perl pattern as Python takes it."""
    return re.compile(f"^{pattern.replace('(?^:', '(?:')}$", re.ASCII)
