"""Rows of runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from .schedule import Fault
from .simulation import simulate

RATES = (0.0, 0.005, 0.01, 0.03, 0.05)
"""How much goes wrong, by turns: with little, each fault finds a settled world; with much, they meet."""


@dataclass(frozen=True)
class Failure:
    """A run in which an invariant did not hold."""

    seed: int
    rate: float
    violation: str
    struck: list[Fault]

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.violation} (python -m faults {self.seed}, in tests/)"


def rate_of(seed: int) -> float:
    """The rate at which a seed is run unless somebody says otherwise."""
    return RATES[seed % len(RATES)]


def run(seeds: Iterable[int], rate: float | None = None) -> list[Failure]:
    """Run them one by one; those that failed."""
    failures = []
    for seed in seeds:
        used = rate_of(seed) if rate is None else rate
        report = simulate(seed, rate=used)
        if report.violation:
            failures.append(Failure(seed, used, report.violation, report.struck))
    return failures


def count(default: int) -> int:
    """How many seeds to run: VIRTRIGAUD_FAULT_SEEDS, or the default."""
    return int(os.environ.get("VIRTRIGAUD_FAULT_SEEDS", default))
