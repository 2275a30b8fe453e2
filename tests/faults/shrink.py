"""Takes faults out of a failing run until none can be spared: delta debugging over the faults that struck."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .schedule import Fault

Fails = Callable[[Sequence[Fault]], bool]
"""Whether a run with exactly these faults fails."""


def shrink(faults: Sequence[Fault], fails: Fails) -> list[Fault]:
    """The shortest schedule that was found to fail still; no single fault of it can be spared.

    Source: Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing Input (ddmin).
    """
    if fails([]):
        return []
    left, parts = list(faults), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        chunks = [left[start : start + size] for start in range(0, len(left), size)]
        for chunk in chunks:
            rest = [fault for fault in left if fault not in chunk]
            if fails(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(left))
    return left
