"""What was measured, as it is kept in docs/performance/bench.json."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Reference(Struct, frozen=True, omit_defaults=True):
    """What a figure is to be compared with, measured in the same run."""

    name: str
    value: float
    unit: str = ""
    """The figure's own where empty."""


class Reach(Struct, frozen=True):
    """What a figure is to be, in its unit."""

    limit: float
    direction: Literal["at most", "at least"] = "at most"

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.direction == "at most" else value >= self.limit

    def text(self, unit: str) -> str:
        sign = "≤" if self.direction == "at most" else "≥"
        return f"{sign} {quantity(self.limit, unit)}"


class Curve(Struct, frozen=True):
    """How costs grow with a count: points per line, drawn on a log-log scale with the fitted exponent."""

    x: str
    """What is counted: "machines"."""
    y: str
    """What it costs, with the unit: "CPU, s"."""
    lines: dict[str, list[tuple[float, float]]]


class Figure(Struct, frozen=True, omit_defaults=True):
    """One line of the table, and one chart."""

    name: str
    value: float
    unit: str
    taken: str = ""
    """How, in one sentence."""
    finding: str = ""
    """What it shows, in a few words: the title of the chart. The name and the value where empty."""
    reference: Reference | None = None
    reach: Reach | None = None
    samples: dict[str, list[float]] = {}
    """In the figure's unit, by whose they are; the figure's own first. Drawn as distributions."""
    curve: Curve | None = None
    parts: dict[str, float] = {}
    """What the value is the sum of, in its order. Drawn one after the other."""

    @property
    def met(self) -> bool | None:
        """Whether it is within reach; None where nothing was to be reached."""
        return None if self.reach is None else self.reach.met_by(self.value)

    @property
    def title(self) -> str:
        return self.finding or f"{self.name}: {quantity(self.value, self.unit)}"


class Machine(Struct, frozen=True):
    """Where a section was measured, when, and of which commit."""

    cores: int
    memory_gib: int
    processor: str
    kernel: str
    python: str
    date: str
    commit: str


class Section(Struct, frozen=True):
    """What one run measured."""

    name: str
    machine: Machine
    figures: list[Figure]


class Record(Struct):
    """All of it, sorted by the sections' names."""

    sections: list[Section] = []

    def replace(self, section: Section) -> None:
        """Put it in the place of the one of the same name."""
        kept = [each for each in self.sections if each.name != section.name]
        self.sections = sorted([*kept, section], key=lambda each: each.name)


def quantity(value: float, unit: str) -> str:
    """As people read it: three significant digits, thousands separated, the unit behind and never on another line."""
    text = f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
    return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text
