"""Label and field selectors, in the syntax of the Kubernetes API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import errors
from .metadata import label_key_fault, label_value_fault

_SPLIT = re.compile(r",(?![^(]*\))")
_SET = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[^\s!=<>,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s=!,()]*)\s*$")
_NUMBER = re.compile(r"^\s*(?P<key>[^\s!=<>,()]+)\s*(?P<op>[<>])\s*(?P<value>-?\d+)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[^\s!=<>,()]+)\s*$")


@dataclass(frozen=True)
class Requirement:
    """One term: all terms of a selector must hold."""

    key: str
    op: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy the term."""
        value = labels.get(self.key)
        match self.op:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        bound = int(next(iter(self.values)))
        return int(value) > bound if self.op == "gt" else int(value) < bound


def parse_labels(text: str) -> list[Requirement]:
    """Read a label selector such as `a=b,c in (d,e),!f`.

    Raises:
        ApiError: 400, it cannot be read.
    """
    if not text.strip():
        return []
    return [_requirement(term, text) for term in _SPLIT.split(text)]


def _requirement(term: str, text: str) -> Requirement:
    if found := _SET.match(term):
        values = frozenset(v.strip() for v in found["values"].split(","))
        made = Requirement(found["key"], found["op"], values)
    elif found := _EQUAL.match(term):
        made = Requirement(found["key"], "notin" if found["op"] == "!=" else "in", frozenset([found["value"]]))
    elif found := _NUMBER.match(term):
        made = Requirement(found["key"], "gt" if found["op"] == ">" else "lt", frozenset([found["value"]]))
    elif found := _EXISTS.match(term):
        made = Requirement(found["key"], "absent" if found["not"] else "exists")
    else:
        raise errors.bad_request(f"unable to parse requirement: {term!r} of label selector {text!r} cannot be read")
    fault = label_key_fault(made.key) or next((f for v in made.values if (f := label_value_fault(v))), "")
    if fault:
        raise errors.bad_request(f"unable to parse requirement: {made.key!r}: {fault}")
    return made


@dataclass(frozen=True)
class FieldRequirement:
    """One term of a field selector."""

    path: str
    value: str
    equal: bool


def parse_fields(text: str, supported: Callable[[str], bool]) -> list[FieldRequirement]:
    """Read a field selector such as `metadata.name=a,type!=Normal`.

    Raises:
        ApiError: 400, it cannot be read or names a field that this resource does not offer.
    """
    terms = []
    for term in re.split(r"(?<!\\),", text) if text else []:
        if not term:
            continue
        found = re.match(r"^(?P<path>[^=!]+)(?P<op>==|!=|=)(?P<value>.*)$", term, re.DOTALL)
        if found is None:
            raise errors.bad_request(f"invalid field selector {text!r}: can't understand {term!r}")
        if not supported(found["path"]):
            raise errors.bad_request(f"field label not supported: {found['path']}")
        value = re.sub(r"\\(.)", r"\1", found["value"])
        terms.append(FieldRequirement(found["path"], value, found["op"] != "!="))
    return terms


def lookup(obj: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or None; a value is whatever JSON holds."""
    here: Any = obj
    for part in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here


def field_text(value: Any) -> str:
    """Return how a field selector sees a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
