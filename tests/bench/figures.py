"""What every bench shares: figures, how they are taken, and how they are published."""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from . import charts, page
from .record import Curve, Figure, Machine, Reach, Record, Reference, Section, quantity

__all__ = [
    "Curve", "Figure", "Reach", "Reference",
    "cpu", "exponent", "memory", "peak_memory", "publish", "quantiles", "table",
]  # fmt: skip

PERFORMANCE = Path(__file__).resolve().parents[2] / "docs" / "performance"
RECORD = "bench.json"
DIGITS = 4
"""Significant digits that are kept of what was measured."""


def memory(pid: int) -> float:
    """Resident memory in MiB. Source: proc(5), VmRSS."""
    return _status(pid, "VmRSS")


def peak_memory(pid: int) -> float:
    """The most resident memory so far, in MiB. Source: proc(5), VmHWM."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def cpu(pid: int) -> float:
    """Seconds of CPU so far. Source: proc(5), utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantiles(samples: Sequence[float]) -> tuple[float, float]:
    """p50 and p99."""
    return statistics.median(samples), sorted(samples)[max(0, round(len(samples) * 0.99) - 1)]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The b of y = a·xᵇ that fits best on a log-log scale: 1 is a cost that grows as the count does."""
    return charts.fitted(points)[1]


def publish(section: str, figures: Sequence[Figure], directory: Path | None = PERFORMANCE) -> None:
    """Print the table of a section, and write it down: JSON, a chart per figure, and the page of all of them.

    What other sections have published before stays as it is.

    Args:
        directory: where to; None only prints.
    """
    print(table(figures), flush=True)
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / RECORD
    record = msgspec.json.decode(file.read_bytes(), type=Record) if file.exists() else Record()
    record.replace(Section(section, _machine(), [_rounded(figure) for figure in figures]))
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    render(directory)


def render(directory: Path) -> None:
    """Write the charts and the page of what the directory's JSON says; the same JSON always gives the same bytes."""
    record = msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)
    files = {
        page.chart_name(section, figure): charts.draw(figure)
        for section in record.sections
        for figure in section.figures
    }
    for stale in directory.glob("*.svg"):
        if stale.name not in files:
            stale.unlink()
    for name, content in files.items():
        (directory / name).write_text(content)
    (directory / "README.md").write_text(page.write(record))


def table(figures: Sequence[Figure]) -> str:
    """For the terminal: each figure beside its reference, and whether it is within reach."""
    rows = [("", "measured", "reference", "reach", "")]
    for figure in figures:
        beside = figure.reference
        rows.append(
            (
                figure.name,
                quantity(figure.value, figure.unit),
                f"{beside.name}: {quantity(beside.value, beside.unit or figure.unit)}" if beside else "",
                figure.reach.text(figure.unit) if figure.reach else "",
                "" if figure.met is None else "met" if figure.met else "NOT MET",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column == 1 else cell.ljust(width) for column, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


# -- what is written down ----------------------------------------------------------------------------------------------


def _machine() -> Machine:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / (1 << 30)),
        processor=_processor(),
        kernel=platform.release(),
        python=platform.python_version(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=_commit(),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Of the code that was measured; `+` where the tree differs from it."""
    git = ["git", "-C", str(PERFORMANCE.parent), "describe", "--always", "--abbrev=9", "--dirty=+", "--exclude=*"]
    result = subprocess.run(git, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _rounded(figure: Figure) -> Figure:
    """Without digits that mean nothing."""
    return msgspec.convert(_round(msgspec.to_builtins(figure)), Figure)


def _round(value: object) -> object:
    if isinstance(value, float) and value and math.isfinite(value):
        return round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round(each) for each in value]
    return value
