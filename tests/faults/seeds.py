"""Rows of runs, in one process or on all cores."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import Pool

from .schedule import Fault
from .shrink import shrink
from .simulation import Report, simulate

RATES = (0.0, 0.005, 0.01, 0.03, 0.05)
"""How much goes wrong, by turns: with little, each fault finds a settled world; with much, they meet."""
RUNS_PER_PROCESS = 500
"""A process that has had so many makes room for a fresh one."""


@dataclass(frozen=True)
class Failure:
    """A run in which an invariant did not hold."""

    seed: int
    rate: float
    violation: str
    struck: list[Fault]

    def __str__(self) -> str:
        return f"seed {self.seed} at {self.rate:g}: {self.violation}"


@dataclass(frozen=True)
class Shrunk:
    """The shortest list of faults that was found to make a seed fail, and how it fails with these."""

    failure: Failure
    faults: list[Fault]
    violation: str = ""
    story: list[str] = field(default_factory=list)


def rate_of(seed: int) -> float:
    """The rate at which a seed is run unless somebody says otherwise."""
    return RATES[seed % len(RATES)]


def run(seed: int, rate: float | None = None) -> Failure | None:
    """One run; how it failed, if it did."""
    used = rate_of(seed) if rate is None else rate
    report = simulate(seed, rate=used)
    return Failure(seed, used, report.violation, report.struck) if report.violation else None


def shrunk(failure: Failure) -> Shrunk:
    """Play it again with ever fewer of its faults."""
    last: list[Report] = []

    def fails(faults: Iterable[Fault]) -> bool:
        report = simulate(failure.seed, only=list(faults))
        if report.violation:
            last[:] = [report]
        return bool(report.violation)

    faults = shrink(failure.struck, fails)
    return Shrunk(failure, faults, last[0].violation, last[0].story) if last else Shrunk(failure, faults)


class Rows:
    """Runs many seeds, each as soon as a core is free."""

    def __init__(self, pool: Pool | None) -> None:
        self._pool = pool

    def run(self, seeds: Iterable[int], rate: float | None = None) -> Iterator[Failure | None]:
        """Each run as it ends, in no particular order."""
        one = partial(run, rate=rate)
        return map(one, seeds) if self._pool is None else self._pool.imap_unordered(one, seeds)

    def shrink(self, failures: Iterable[Failure]) -> Iterator[Shrunk]:
        """What is left of each failure."""
        return map(shrunk, failures) if self._pool is None else self._pool.imap(shrunk, failures)


@contextmanager
def rows(workers: int) -> Iterator[Rows]:
    """Args: workers: processes; 1 is this one. Leaving the context ends them, whatever they do."""
    if workers == 1:
        yield Rows(None)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would share what this process has loaded and set
    with spawn.Pool(workers, _leave_interrupts, maxtasksperchild=RUNS_PER_PROCESS) as pool:
        yield Rows(pool)


def _leave_interrupts() -> None:
    """Ctrl-C is for the process that began the row, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
