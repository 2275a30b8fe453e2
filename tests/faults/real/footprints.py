"""What our processes take over the hours: memory, file descriptors, threads, each against its own earlier days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from .programs import Footprint, Program

MIB = 1 << 20
MOST_GROWTH_MIB = 24
"""Between the first and the last quarter; caches that fill and pages that the allocator keeps stay below that."""
KEEPS_MIB = {"apiserver": 48}
"""More, of who keeps something on purpose: for watchers, the last changes of each kind, 32 MiB of one at most."""
MOST_MORE = 12
"""Descriptors or threads: several machines that are worked on at the same time take a few."""


@dataclass(frozen=True)
class Growth:
    """The medians of the first and of the last quarter of a process's observed life."""

    name: str
    pid: int
    samples: int
    rss_mib: tuple[float, float]
    descriptors: tuple[float, float]
    threads: tuple[float, float]

    def __str__(self) -> str:
        def way(what: str, both: tuple[float, float]) -> str:
            return f"{what} {both[0]:.0f} -> {both[1]:.0f}"

        parts = [way("MiB", self.rss_mib), way("descriptors", self.descriptors), way("threads", self.threads)]
        return f"{self.name:<13} {', '.join(parts)} ({self.samples} samples of process {self.pid})"

    @property
    def excess(self) -> str:
        """What grew beyond measure; empty when nothing did."""
        for what, (before, after), most in (
            ("memory in MiB", self.rss_mib, MOST_GROWTH_MIB + KEEPS_MIB.get(self.name, 0)),
            ("descriptors", self.descriptors, MOST_MORE),
            ("threads", self.threads, MOST_MORE),
        ):
            if after - before > most:
                return f"{self.name}: {what} grew from {before:.0f} to {after:.0f}"
        return ""


class Footprints:
    """Samples of programs, by process: one that was started anew begins anew."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], list[Footprint]] = {}

    def take(self, programs: list[Program]) -> None:
        """Sample them all; what does not run has none."""
        for program in programs:
            sample = program.footprint()
            if sample is not None:
                self.note(program.name, sample)

    def note(self, name: str, sample: Footprint) -> None:
        """Keep a sample."""
        self._samples.setdefault((name, sample.pid), []).append(sample)

    def growths(self, least: int = 8) -> Iterator[Growth]:
        """Args: least: samples of a process below which nothing can be said."""
        for (name, pid), samples in sorted(self._samples.items()):
            if len(samples) < least:
                continue
            quarter = len(samples) // 4
            ends = samples[:quarter], samples[-quarter:]
            yield Growth(
                name, pid, len(samples),
                rss_mib=_both(tuple([each.rss_bytes / MIB for each in end] for end in ends)),
                descriptors=_both(tuple([each.descriptors for each in end] for end in ends)),
                threads=_both(tuple([each.threads for each in end] for end in ends)),
            )  # fmt: skip


def _both(ends: tuple[list[float], ...]) -> tuple[float, float]:
    return median(ends[0]), median(ends[1])
