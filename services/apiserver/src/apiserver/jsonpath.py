"""The part of JSONPath that printer columns and selectable fields use.

Supported: `.a.b`, `['a']`, `[0]`, `[-1]`, `[1:3]`, `[*]`, `..a`, and filters `[?(@.a=="b")]` with ==, !=, <, <=, >, >=
or mere existence.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]

_TOKEN = re.compile(
    r"""\.\.(?P<deep>[\w*-]+)
      |\.(?P<name>(?:[^.\[\]'"\\\s(]|\\.)+)
      |\[\?\(\s*(?P<filter>.+?)\s*\)\]
      |\[(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]
      |\[(?P<slice>-?\d*:-?\d*)\]
      |\[(?P<index>-?\d+)\]
      |\[(?P<star>\*)\]""",
    re.VERBOSE,
)
_FILTER = re.compile(r"@(?P<path>[^=!<>]*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>.+))?")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@lru_cache(maxsize=1024)
def compile_path(text: str) -> Callable[[Any], list[Any]]:
    """Read a path; the result gives all values it finds in an object.

    Raises:
        ValueError: it cannot be read.
    """
    path = text.strip().removeprefix("{").removesuffix("}").strip().removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(path):
        if path == ".":
            break
        found = _TOKEN.match(path, at)
        if found is None:
            raise ValueError(f"JSONPath {text!r} cannot be read at {path[at:]!r}")
        steps.append(_step(found))
        at = found.end()

    def find(value: Any) -> list[Any]:
        values = [value]
        for step in steps:
            values = [inner for outer in values for inner in step(outer)]
        return values

    return find


def _step(found: re.Match[str]) -> Step:
    if found["deep"]:
        return lambda value: _deep(value, found["deep"])
    if found["name"]:
        return _member(re.sub(r"\\(.)", r"\1", found["name"]))
    if found["quoted"]:
        return _member(re.sub(r"\\(.)", r"\1", found["quoted"][1:-1]))
    if found["filter"]:
        return _filter(found["filter"])
    if found["star"]:
        return _children
    if found["index"]:
        index = int(found["index"])
        return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []
    low, _, high = found["slice"].partition(":")
    cut = slice(int(low) if low else None, int(high) if high else None)
    return lambda value: value[cut] if isinstance(value, list) else []


def _member(name: str) -> Step:
    if name == "*":
        return _children
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _deep(value: Any, name: str) -> list[Any]:
    out = list(_member(name)(value))
    for child in _children(value):
        if isinstance(child, dict | list):
            out += _deep(child, name)
    return out


def _filter(text: str) -> Step:
    found = _FILTER.fullmatch(text)
    if found is None:
        raise ValueError(f"JSONPath filter {text!r} cannot be read")
    path = compile_path(found["path"] or ".")
    if not found["op"]:
        return lambda value: [v for v in _children(value) if path(v)]
    compare, wanted = _OPERATORS[found["op"]], _literal(found["value"].strip())

    def keep(value: Any) -> bool:
        for have in path(value):
            try:
                if compare(have, wanted):
                    return True
            except TypeError:
                continue
        return False

    return lambda value: [v for v in _children(value) if keep(v)]


def _literal(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"JSONPath literal {text!r} cannot be read") from error
