"""What every bench shares: figures, how they are taken, and how they are published."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    reference: str = ""
    """What it is to be compared with, and that one's value."""


def memory(pid: int) -> float:
    """Resident memory in MiB. Source: proc(5), VmRSS."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def cpu(pid: int) -> float:
    """Seconds of CPU so far. Source: proc(5), utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantiles(samples: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    return statistics.median(samples), sorted(samples)[max(0, round(len(samples) * 0.99) - 1)]


def publish(figures: list[Figure], file: Path | None) -> None:
    """Print the table, and write the figures down if told where."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        print(f"{figure.name:<{width}}  {figure.value:>10.2f} {figure.unit:<9} {figure.reference}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([vars(figure) for figure in figures], indent=1) + "\n")
