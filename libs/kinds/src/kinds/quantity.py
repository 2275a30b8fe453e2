"""Kubernetes quantities ("4Gi", "500m", "1e3"): exact numbers out of text, and short text out of bytes."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Context, Decimal
from typing import Final

SYNTAX: Final = (
    "a Kubernetes quantity is a number with an optional suffix n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei "
    'or an exponent such as e3, for example "512Mi", "40Gi" or "1.5G"'
)
LIMIT: Final = 2**63 - 1
"""The largest magnitude; Kubernetes keeps quantities in 64 bits."""

_BINARY: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_POWER_OF_TEN: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FACTORS: Final = {
    **{suffix: Decimal(10) ** power for suffix, power in _POWER_OF_TEN.items()},
    **{suffix: Decimal(1024**power) for power, suffix in enumerate(_BINARY)},
}
_TEXT: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE](?P<exponent>[+-]?[0-9]{1,4})|(?P<suffix>[KMGTPE]i|[numkMGTPE]?))"
)
_LONGEST: Final = 100  # characters; no sensible quantity comes near, and it bounds the arithmetic
_EXACT: Final = Context(prec=2 * _LONGEST)  # 100 digits times 1024**6 (19 digits) fits without rounding


def parse(value: str | int) -> int:
    """Read a quantity as whole bytes (or units); a fraction rounds up, away from zero, as in Kubernetes.

    Raises:
        ValueError: not a quantity, or beyond 64 bits; the text names the value and the syntax.
    """
    return int(parse_decimal(value).to_integral_value(rounding=ROUND_UP, context=_EXACT))


def parse_decimal(value: str | int) -> Decimal:
    """Read a quantity exactly, fractions included ("500m" is 0.5).

    Raises:
        ValueError: not a quantity, or beyond 64 bits.
    """
    number = _read(value)
    if abs(number) > LIMIT:
        raise ValueError(f"quantity {_shown(value)} is out of range: at most 8Ei less one ({LIMIT}) in magnitude")
    return number


def format_binary(n: int) -> str:
    """Write n exactly, with the largest binary suffix that leaves no fraction: 4294967296 -> "4Gi", 1000 -> "1000"."""
    power = 0
    while n and power < len(_BINARY) - 1 and n % 1024 == 0:
        n //= 1024
        power += 1
    return f"{n}{_BINARY[power]}"


def _read(value: object) -> Decimal:
    """The number in value. Takes any object: a manifest may hold a boolean or a float where a quantity belongs."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(_refusal(value))
    match = _TEXT.fullmatch(value)
    if match is None:
        raise ValueError(_refusal(value))
    number = Decimal(match["number"])
    if match["exponent"] is not None:
        return number.scaleb(int(match["exponent"]), context=_EXACT)
    return _EXACT.multiply(number, _FACTORS[match["suffix"]])


def _refusal(value: object) -> str:
    return f"quantity {_shown(value)} cannot be read: {SYNTAX}"


def _shown(value: object) -> str:
    """The value for a message, cut to a readable length (an int of thousands of digits cannot even be printed)."""
    if isinstance(value, int) and abs(value) > 10**_LONGEST:
        return f"of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:40]}... ({len(text)} characters)"
