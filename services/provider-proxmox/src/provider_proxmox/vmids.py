"""The VMIDs that a machine tries, in order: always the same for one machine, whoever makes it and after any crash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import gcd


def sequence(uid: str, ids: range) -> Iterator[int]:
    """Every VMID of the range once, beginning somewhere that depends on the UID.

    Machines begin far apart and go on with steps of their own, so that a full stretch of the range costs few of them
    more than one attempt.
    """
    size = len(ids)
    start, step = _numbers(uid, size)
    return (ids[(start + attempt * step) % size] for attempt in range(size))


def place(uid: str, ids: range, vmid: int) -> int:
    """At which attempt the machine comes to this VMID; the size of the range for one outside of it."""
    size = len(ids)
    if vmid not in ids or not size:
        return size
    start, step = _numbers(uid, size)
    return (ids.index(vmid) - start) * pow(step, -1, size) % size if size > 1 else 0


def _numbers(uid: str, size: int) -> tuple[int, int]:
    """Where to begin, and a step that has no factor in common with the size, hence comes to every number."""
    if not size:
        return 0, 1
    digest = hashlib.sha256(uid.encode()).digest()
    step = int.from_bytes(digest[8:16], "big") % size or 1
    while gcd(step, size) != 1:
        step += 1
    return int.from_bytes(digest[:8], "big") % size, step
