"""What the cluster answers, as far as it makes sense: rows that are garbled or of a kind we do not know are told and
left out, so that one of them costs nobody else.

A row that is left out says nothing: what it may have been about is not gone for that. Where half of an answer would
be a lie, as of one guest's configuration, the answer counts as none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from common import logging
from common.errors import HypervisorUnavailableError

log = logging.get(__name__)

REMEMBERED = 1000
"""So many complaints are made once; then all are made anew."""
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_VMID = re.compile(r"[1-9][0-9]{2,8}")


class GarbledError(HypervisorUnavailableError):
    """An answer that makes no sense: nobody knows what it was about."""

    @property
    def reason(self) -> str:
        return "HypervisorUnavailable"


# -- values ------------------------------------------------------------------------------------------------------------


def vmid(value: object) -> int | None:
    """A guest's number; None for anything else."""
    return int(str(value)) if isinstance(value, str | int) and _VMID.fullmatch(str(value)) else None


def node(value: object) -> str | None:
    """A node's name, which becomes part of paths; None for anything else."""
    return value if isinstance(value, str) and _NODE.fullmatch(value) else None


def word(value: object) -> str | None:
    """A text that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def whole(value: object) -> int:
    """A number of bytes or CPUs, which Proxmox VE sends as text, too; 0 for anything else."""
    found = real(value)
    return int(found) if 0 <= found < 1 << 63 else 0


def real(value: object) -> float:
    """A finite number; 0 for anything else."""
    try:
        found = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return found if math.isfinite(found) else 0.0


def text(value: object) -> str:
    """A text or a number as text; empty for anything else."""
    return str(value) if isinstance(value, str | int | float) else ""


# -- answers -----------------------------------------------------------------------------------------------------------


class Rows:
    """Takes rows of answers, and makes each complaint once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def take(self, said: object, doing: str, **needs: Callable[[object], Any]) -> list[dict[str, Any]]:
        """The rows that have what is needed, with it as it was read.

        Args:
            needs: how to read what a row must have; None says that it makes no sense.
        Raises:
            GarbledError: it is no list.
        """
        found = []
        for row in _list(said, doing):
            read, lacking = _read(row, needs)
            if lacking:
                self._complain(doing, row, lacking)
            else:
                found.append(read)
        return found

    def _complain(self, doing: str, row: object, lacking: str) -> None:
        has = ",".join(sorted(map(str, row))[:12])[:200] if isinstance(row, dict) else type(row).__name__
        complaint = f"{doing}: {lacking}: {has}"
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        if complaint not in self._told:
            self._told.add(complaint)
            log.warning("pve.row.garbled", doing=doing, lacking=lacking, has=has)


def every(said: object, doing: str, **needs: Callable[[object], Any]) -> list[dict[str, Any]]:
    """All rows of a list that is worth nothing without one of them.

    Raises:
        GarbledError: it is no list, or a row lacks what is needed.
    """
    found = []
    for row in _list(said, doing):
        read, lacking = _read(row, needs)
        if lacking:
            raise GarbledError(f"{doing}: the answer has a row without a sound `{lacking}`", retry_after=5.0)
        found.append(read)
    return found


def mapping(said: object, doing: str) -> dict[str, Any]:
    """An answer of names and values.

    Raises:
        GarbledError: it is something else.
    """
    if not isinstance(said, dict):
        raise GarbledError(f"{doing}: the answer is {_kind(said)} instead of names and values", retry_after=5.0)
    return said


def _list(said: object, doing: str) -> list[Any]:
    if not isinstance(said, list):
        raise GarbledError(f"{doing}: the answer is {_kind(said)} instead of a list", retry_after=5.0)
    return said


def _read(row: object, needs: dict[str, Callable[[object], Any]]) -> tuple[dict[str, Any], str]:
    """The row with what is needed as it was read, and the first key that makes no sense."""
    if not isinstance(row, dict):
        return {}, next(iter(needs), "row")
    read = {key: reader(row.get(key)) for key, reader in needs.items()}
    return {**row, **read}, next((key for key, value in read.items() if value is None), "")


def _kind(said: object) -> str:
    return "nothing" if said is None else f"a {type(said).__name__}"
