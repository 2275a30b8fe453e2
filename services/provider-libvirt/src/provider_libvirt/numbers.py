"""Numbers in libvirt's XML. What is none, or more than anything can have, counts as not told: as 0."""

from __future__ import annotations

import xml.etree.ElementTree as ET

_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 10**6, "M": 1 << 20, "MiB": 1 << 20,
          "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40, "TiB": 1 << 40}  # fmt: skip
_MOST_COUNT, _MOST_BYTES = (1 << 32) - 1, (1 << 63) - 1
"""What the wire holds."""


def count(text: str | None) -> int:
    """A number of things."""
    number = _number(text)
    return number if number <= _MOST_COUNT else 0


def size_of(element: ET.Element | None, unit: str = "KiB") -> int:
    """Bytes of an element.

    Args:
        unit: what it is counted in where it does not say.
    """
    if element is None:
        return 0
    size = _number(element.text) * _UNITS.get(element.get("unit", unit), 1024)
    return size if size <= _MOST_BYTES else 0


def _number(text: str | None) -> int:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
