"""YAML as Kubernetes reads and writes it: JSON's types only, keys as text.

Which plain scalar is a number or a boolean differs from parser to parser. Source: resolve.go of sigs.k8s.io/yaml, which
is YAML 1.1 without numbers to the base of 60 (`22:22` is text), with `y` and `n`, and with `1e3`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec
import yaml

MAX_NODES = 500_000
MAX_DEPTH = 200

_TRUE, _FALSE = ("y", "yes", "true", "on"), ("n", "no", "false", "off")
_BIGGEST, _SMALLEST = (1 << 64) - 1, -(1 << 63)

_BOOL = "|".join(f"{word}|{word.title()}|{word.upper()}" for word in (*_TRUE, *_FALSE))
_INT = "[-+]?(?:0[bB]_*[01][01_]*|0[oO]_*[0-7][0-7_]*|0[xX]_*[0-9a-fA-F][0-9a-fA-F_]*|0[0-7_]*|[1-9][0-9_]*)"
_FLOAT = r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9][0-9_]*)?"
_ENDLESS = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_TAG = "tag:yaml.org,2002:"


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Tag and pattern of what is no text, by its first character; the first that matches counts."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in (
        ("bool", _BOOL, "yYnNtTfFoO"),
        ("int", _INT, "-+0123456789"),
        ("float", f"{_FLOAT}|{_ENDLESS}", "-+.0123456789"),
        ("null", "|~|null|Null|NULL", ("", "~", "n", "N")),
        ("merge", "<<", "<"),
    ):
        for character in first:
            found.setdefault(character, []).append((_TAG + tag, re.compile(f"(?:{pattern})\\Z")))
    return found


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.CSafeDumper):
    """Quotes text that would be read as something else."""

    yaml_implicit_resolvers = _resolvers()


def _bool(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> bool:
    word = node.value.lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError(f"{node.value!r} is no boolean")
    return word in _TRUE


def _int(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> int | float:
    digits = node.value.replace("_", "")
    value = int(digits, 8 if re.fullmatch("[-+]?0[0-7]+", digits) else 0)
    return value if _SMALLEST <= value <= _BIGGEST else float(value)


def _float(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> float | str:
    text: str = node.value
    if re.fullmatch(_ENDLESS, text):
        raise ValueError("numbers must be finite")
    value = float(text.replace("_", ""))
    return value if math.isfinite(value) else text


for _name, _construct in (("bool", _bool), ("int", _int), ("float", _float)):
    _Loader.add_constructor(_TAG + _name, _construct)


def encode(value: Any) -> bytes:
    """A JSON value as one document."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=True)
    return text.encode()


def decode(body: bytes) -> Any:
    """The JSON value of one document.

    Raises:
        ValueError, yaml.YAMLError: it is none.
    """
    _check_depth(body)
    documents = list(yaml.load_all(body, Loader=_Loader))
    documents = [d for d in documents if d is not None]
    if len(documents) != 1:
        raise ValueError(f"one document is expected, {len(documents)} were found")
    _check_json(documents[0], {})
    return msgspec.json.decode(msgspec.json.encode(documents[0]))  # aliases become copies


def _check_depth(body: bytes) -> None:
    """Refuse what is nested deeply before libyaml's composer sees it: that recurses in C, and would end the process."""
    depth = 0
    for event in yaml.parse(body, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError("the document is nested too deeply")


def _check_json(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """Count the nodes of a YAML value with its aliases written out; refuse what JSON cannot say."""
    if depth > MAX_DEPTH:
        raise ValueError("the document is nested too deeply, or contains itself")
    if id(value) in known:
        return known[id(value)]
    count = 1
    if isinstance(value, dict):
        for key, member in list(value.items()):
            if not isinstance(key, str):
                if not isinstance(key, bool | int | float) or key is None:
                    raise ValueError(f"the key {key!r} is no text")
                del value[key]
                value[json.dumps(key)] = member
            count += _check_json(member, known, depth + 1)
    elif isinstance(value, list):
        for member in value:
            count += _check_json(member, known, depth + 1)
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueError("numbers must be finite")
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"a value of type {type(value).__name__} cannot stand in JSON")
    if count > MAX_NODES:
        raise ValueError("the document is too large once its aliases are written out")
    if isinstance(value, dict | list):
        known[id(value)] = count
    return count
