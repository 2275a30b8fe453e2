"""The functions that Kubernetes adds to CEL and the `cel` package lacks.

Each is offered to an expression only if its name appears there. A quantity is a plain number here, which is enough
for comparing and adding; URL, IP and CIDR values are offered as tests (`isURL`, `isIP`, `isCIDR`) only.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

_SUFFIXES = {"": 1, "m": 1e-3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18} | {
    f"{prefix}i": 1024 ** (power + 1) for power, prefix in enumerate("KMGTPE")
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i|[mkMGTPE]?)|[eE]([+-]?\d+))")


def quantity(text: str) -> int | float:
    """Return a resource quantity as a number.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"quantities must match the regular expression {_QUANTITY.pattern!r}")
    factor = 10.0 ** int(found[3]) if found[3] else _SUFFIXES[found[2] or ""]
    value = float(found[1]) * factor
    return int(value) if value.is_integer() else value


def _is(reader: Callable[[str], Any]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            reader(text)
        except ValueError:
            return False
        return True

    return test


def _url(text: str) -> None:
    parts = urlsplit(text)
    if not parts.scheme or not (parts.netloc or parts.path.startswith("/")):
        raise ValueError("no URL")


def _lower_ascii(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _upper_ascii(text: str) -> str:
    return "".join(c.upper() if c.isascii() else c for c in text)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        return list(text)
    return text.split(separator, -1 if limit < 0 else limit - 1)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _index_of(where: Any, what: Any) -> int:
    if isinstance(where, str):
        return where.find(what)
    return where.index(what) if what in where else -1


def _last_index_of(where: Any, what: Any) -> int:
    if isinstance(where, str):
        return where.rfind(what)
    return len(where) - 1 - where[::-1].index(what) if what in where else -1


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "charAt": lambda text, at: text[at : at + 1],
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "join": lambda parts, separator="": separator.join(parts),
    "lowerAscii": _lower_ascii,
    "upperAscii": _upper_ascii,
    "replace": lambda text, old, new, count=-1: text.replace(old, new, count),
    "split": _split,
    "substring": lambda text, start, end=None: text[start:end],
    "trim": lambda text: text.strip(),
    "find": _find,
    "findAll": lambda text, pattern: [m[0] for m in re.finditer(pattern, text)],
    "isSorted": lambda values: all(a <= b for a, b in itertools.pairwise(values)),
    "sum": sum,
    "quantity": quantity,
    "isQuantity": _is(quantity),
    "isGreaterThan": lambda a, b: a > b,
    "isLessThan": lambda a, b: a < b,
    "compareTo": lambda a, b: (a > b) - (a < b),
    "asInteger": int,
    "asApproximateFloat": float,
    "sign": lambda a: (a > 0) - (a < 0),
    "isURL": _is(_url),
    "isIP": _is(ipaddress.ip_address),
    "isCIDR": _is(lambda text: ipaddress.ip_network(text, strict=False)),
}
_NAMES = re.compile(r"\b(" + "|".join(FUNCTIONS) + r")\s*\(")


def functions_of(text: str) -> dict[str, Callable[..., Any]]:
    """Return the functions that an expression names."""
    return {name: FUNCTIONS[name] for name in _NAMES.findall(text)}
