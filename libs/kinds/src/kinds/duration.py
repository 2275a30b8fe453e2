"""Durations in Go's syntax ("1h30m", "1.5s"), as the API writes them; float seconds inside."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

PATTERN: Final = r"^([+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+|[+-]?0)$"
"""What `parse` accepts, for schemas; plain enough for RE2. Both code points of the micro sign count, as in Go."""

SYNTAX: Final = (
    'a duration is numbers with units h, m, s, ms, us or ns, for example "30s", "1h30m", "1.5h" or "100ms"; '
    "a bare number has no unit and only 0 may stand alone"
)

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TEXT: Final = re.compile(PATTERN)
_PART: Final = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)")
_LONGEST: Final = 100  # characters
_LIMIT: Final = 2**63 - 1  # nanoseconds, some 292 years: Go's range


def parse(text: str) -> float:
    """Read a duration as seconds; finer than a nanosecond is cut off, as in Go.

    Raises:
        ValueError: not a duration, or beyond 292 years; the text names the value and the syntax.
    """
    # Python's $ also matches before a final newline, hence fullmatch.
    if not isinstance(text, str) or len(text) > _LONGEST or not _TEXT.fullmatch(text):
        raise ValueError(f"duration {_shown(text)} cannot be read: {SYNTAX}")
    total = sum(int(Decimal(number) * _NANOSECONDS[unit]) for number, unit in _PART.findall(text))
    if total > _LIMIT:
        raise ValueError(f"duration {_shown(text)} is out of range: at most 2562047h (292 years)")
    return (-total if text.startswith("-") else total) / 10**9


def format(seconds: float) -> str:
    """Write seconds as Go prints a duration: "1m30s", "1h0m0s", "1.5ms", "0s"; rounded to a nanosecond.

    Raises:
        ValueError: not finite, or beyond 292 years.
    """
    if not math.isfinite(seconds) or abs(seconds) * 10**9 > _LIMIT:
        raise ValueError(f"{seconds!r} seconds cannot be written as a duration: at most 292 years")
    nanoseconds = round(Decimal(seconds) * 10**9)
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if rest == 0:
        return "0s"
    if rest < 10**9:
        unit, size = next((unit, size) for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)) if rest >= size)
        return f"{sign}{_plain(rest, size)}{unit}"
    minutes, rest = divmod(rest, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    above = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{above}{_plain(rest, 10**9)}s"


def _plain(count: int, size: int) -> str:
    """count/size in decimal without an exponent or trailing zeros; size is a power of ten."""
    whole, fraction = divmod(count, size)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:40]}... ({len(text)} characters)"
