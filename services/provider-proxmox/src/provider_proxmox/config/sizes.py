"""Sizes as Proxmox VE writes them. It counts in powers of 1024 and writes the largest unit that divides."""

from __future__ import annotations

import re
from fractions import Fraction

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,19})?)([KMGT]?)", re.ASCII)
_MOST = 1 << 63


def parse(text: object) -> int:
    """Bytes of "8G", "528K", "1.5T" or "512"; 0 for what is no size. Source: PVE::JSONSchema::parse_size."""
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        return 0
    size = int(Fraction(found[1]) * _UNITS[found[2]])
    return size if size < _MOST else 0


def text(size: int) -> str:
    """The size in the notation of a configuration: 8589934592 is "8G". Source: PVE::JSONSchema::format_size."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def mib(size: int) -> int:
    """MiB that hold this many bytes."""
    return -(-size // MIB)


def gib(size: int) -> str:
    """The size of a new volume, "STORAGE:THIS". Whole MiB have at most ten decimals of a GiB and are exact."""
    return f"{mib(size) / 1024:.10f}".rstrip("0").rstrip(".")


def resized(size: int) -> str:
    """What a resize takes: absolute, in whole MiB."""
    return f"{mib(size)}M"
