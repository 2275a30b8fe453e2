"""A figure as SVG: bars, distributions, growth or parts, whatever it has; legible on a light and on a dark page.

Text stays text, and each colour is switched by the reader's preference. The same figure always gives the same bytes.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from math import exp, log
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from .record import Curve, Figure, quantity

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
OURS, THEIRS, REACH = "#0969da", "#9a6700", "#1a7f37"
LINES = (OURS, THEIRS, "#8250df", "#bf3989")
DARK = {
    INK: "#f0f6fc", MUTED: "#9198a1", GRID: "#3d444d", PAPER: "#0d1117",
    OURS: "#4493f8", THEIRS: "#d29922", REACH: "#3fb950", "#8250df": "#ab7df8", "#bf3989": "#db61a2",
}  # fmt: skip
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "virtrigaud", "svg.id": "chart",
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"], "font.size": 10,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.facecolor": "none",
    "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "xtick.minor.size": 0, "ytick.minor.size": 0, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.6, "figure.facecolor": PAPER, "figure.edgecolor": "none", "lines.linewidth": 2,
}  # fmt: skip
WIDTH, DPI = 640, 72
TITLE_CHARACTERS = 78
POINTS = 200
"""Most points of a distribution that are drawn; the JSON has all of them."""


def draw(figure: Figure) -> str:
    """The chart of a figure."""
    with matplotlib.rc_context(STYLE):
        if figure.curve is not None:
            canvas = _growth(figure, figure.curve)
        elif figure.samples:
            canvas = _distribution(figure)
        elif figure.parts:
            canvas = _parts(figure)
        else:
            canvas = _bars(figure)
        file = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(
            file, metadata={"Date": None, "Creator": None, "Type": None, "Format": None, "Title": figure.title}
        )
    return _switchable(file.getvalue())


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a·xᵇ, by least squares of the logarithms; points without a positive y do not count."""
    logs = [(log(x), log(y)) for x, y in points if y > 0]
    slope, intercept = statistics.linear_regression([x for x, _ in logs], [y for _, y in logs])
    return exp(intercept), slope


def _switchable(svg: str) -> str:
    """With the colours of a dark page for who prefers one."""
    rules = [
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    style = f"<style>@media(prefers-color-scheme:dark){{{''.join(rules)}}}</style>"
    start = svg.index(" <defs>")
    lines = (svg[:start] + f" {style}\n" + svg[start:]).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


# -- kinds of charts ---------------------------------------------------------------------------------------------------


def _bars(figure: Figure) -> Canvas:
    """The figure, its reference where that has the same unit, and the line that is to be reached."""
    rows = [("measured", figure.value, OURS)]
    beside = figure.reference
    if beside is not None and (beside.unit or figure.unit) == figure.unit:
        rows.append((beside.name, beside.value, THEIRS))
    canvas, axes = _sheet(figure, 30 * len(rows), above=16 if figure.reach else 0)
    limit = figure.reach.limit if figure.reach else 0.0
    most = max([*(value for _, value, _ in rows), limit]) or 1.0
    for place, (_, value, colour) in enumerate(rows):
        axes.barh(place, value, height=0.62, color=colour)
        axes.annotate(
            quantity(value, figure.unit), (value, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), ["\n".join(wrap(name, 30)) for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, most * 1.22)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, "")))
    axes.set_xlabel(figure.unit)
    if not any(value for _, value, _ in rows) and not limit:
        axes.set_xticks([0])
    _reach_across(figure, axes)
    return canvas


def _distribution(figure: Figure) -> Canvas:
    """Which share of the samples was done by when."""
    canvas, axes = _sheet(figure, 220, above=17 * len(figure.samples) + 20)
    everything = [value for samples in figure.samples.values() for value in samples if value > 0]
    most = max([*everything, figure.reach.limit if figure.reach else 0.0], default=0.0)
    wide = bool(everything) and most > 30 * min(everything)
    for (name, samples), colour in zip(figure.samples.items(), LINES, strict=False):
        shares = [(value, (place + 1) / len(samples)) for place, value in enumerate(sorted(samples))]
        step = max(1, len(shares) // POINTS)
        drawn = [shares[0], *shares[step:-1:step], shares[-1]]
        axes.step(
            [x for x, _ in drawn],
            [y for _, y in drawn],
            where="post",
            color=colour,
            label=_labelled(name, samples, figure.unit),
        )
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, "")))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.set_xlabel(figure.unit)
    axes.set_ylabel("of the samples, at most so many")
    _reach_across(figure, axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.06), borderaxespad=0, frameon=False, labelspacing=0.3)
    return canvas


def _labelled(name: str, samples: list[float], unit: str) -> str:
    ordered = sorted(samples)
    p99 = ordered[max(0, round(len(ordered) * 0.99) - 1)]
    return f"{name}: p50 {quantity(statistics.median(ordered), unit)}, p99 {quantity(p99, unit)}"


def _growth(figure: Figure, curve: Curve) -> Canvas:
    """Points on a log-log scale, each line with what fits it."""
    canvas, axes = _sheet(figure, 250)
    for place, ((name, points), colour) in enumerate(zip(curve.lines.items(), LINES, strict=False)):
        positive = [(x, y) for x, y in points if y > 0]
        if len(positive) < 2:
            continue
        factor, slope = fitted(positive)
        ends = [positive[0][0], positive[-1][0]]
        axes.plot(ends, [factor * x**slope for x in ends], color=colour, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(
            [x for x, _ in positive], [y for _, y in positive], "o", color=colour, label=f"{name}: exponent {slope:.2f}"
        )
        for x, y in positive:
            axes.annotate(
                quantity(y, ""),
                (x, y),
                xytext=(0, 8 if place == 0 else -15),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                size=9,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, "")))
        axis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.18)
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.y)
    axes.legend(loc="upper left", frameon=False)
    return canvas


def _parts(figure: Figure) -> Canvas:
    """One after the other, each from where the one before ended."""
    canvas, axes = _sheet(figure, 24 * len(figure.parts) + 10)
    begun = 0.0
    for place, value in enumerate(figure.parts.values()):
        axes.barh(place, value, left=begun, height=0.62, color=OURS)
        begun += value
        axes.annotate(
            quantity(value, figure.unit), (begun, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(figure.parts)), ["\n".join(wrap(name, 34)) for name in figure.parts])
    axes.set_ylim(len(figure.parts) - 0.5, -0.5)
    axes.set_xlim(0, (begun or 1.0) * 1.18)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, "")))
    axes.set_xlabel(figure.unit)
    return canvas


# -- what they share ---------------------------------------------------------------------------------------------------


def _sheet(figure: Figure, height: float, above: float = 0) -> tuple[Canvas, Axes]:
    """A drawing with its title, and axes of this height in points, with this much room between both."""
    title = "\n".join(wrap(figure.title, TITLE_CHARACTERS))
    above, below = above + 22 + 17 * (title.count("\n") + 1), 44
    total = above + height + below
    canvas = Canvas(figsize=(WIDTH / DPI, total / DPI), dpi=DPI)
    canvas.text(16 / WIDTH, 1 - 12 / total, title, size=13, weight="bold", va="top", linespacing=1.25)
    left = 72 if figure.samples or figure.curve else 214
    axes = canvas.add_axes((left / WIDTH, below / total, (WIDTH - left - 24) / WIDTH, height / total))
    return canvas, axes


def _reach_across(figure: Figure, axes: Axes) -> None:
    """The line that is to be reached, named at its head."""
    if figure.reach is None:
        return
    axes.axvline(figure.reach.limit, color=REACH, linewidth=1.5, linestyle=(0, (5, 3)))
    along = axes.transAxes.inverted().transform(axes.transData.transform((figure.reach.limit, 0)))[0]
    axes.annotate(
        f"reach {figure.reach.text(figure.unit)}", (figure.reach.limit, 1), xycoords=("data", "axes fraction"),
        xytext=(0, 3), textcoords="offset points", color=REACH, size=9,
        ha="left" if along < 0.15 else "right" if along > 0.85 else "center",
    )  # fmt: skip
