"""What is published is what was measured, and nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec

from .figures import PERFORMANCE, Curve, Figure, Reach, Reference, exponent, publish, render, table
from .record import Record

KINDS = [
    Figure("throughput", 61.5, "VMs/s", "Counted.", reference=Reference("bare", 300), reach=Reach(50, "at least")),
    Figure("pickup", 1.5, "s", "Timed.", reach=Reach(1), samples={"loaded": [0.5, 1.5, 0.01], "idle": [0.01, 0.02]}),
    Figure("growth", 1.0, "exponent", "Fitted.", curve=Curve("machines", "CPU, s", {"all": [(100, 1), (1000, 10)]})),
    Figure("create", 3.0, "s", "Traced.", parts={"plan": 1.0, "boot": 2.0}),
    Figure("writes", 0, "writes", "Counted."),
]


def content(directory: Path) -> dict[str, bytes]:
    """Every file that is made from the JSON."""
    return {path.name: path.read_bytes() for path in directory.glob("*") if path.suffix in {".svg", ".md"}}


def test_what_is_published_is_what_the_json_says(tmp_path: Path) -> None:
    """A chart that nobody drew anew after the JSON changed shows something else than was measured."""
    pages = content(PERFORMANCE)
    (tmp_path / "bench.json").write_bytes((PERFORMANCE / "bench.json").read_bytes())
    render(tmp_path)
    drawn = content(tmp_path)
    assert drawn == {name: pages.get(name) for name in drawn}
    assert {name for name in pages if name.endswith(".svg")} == drawn.keys() - {"README.md"}


def test_the_same_json_always_gives_the_same_bytes(tmp_path: Path) -> None:
    publish("first", KINDS, tmp_path)
    once = content(tmp_path)
    render(tmp_path)
    assert content(tmp_path) == once
    assert len(once) == len(KINDS) + 1
    for name, chart in once.items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(chart).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_section_replaces_only_itself(tmp_path: Path) -> None:
    publish("first", KINDS, tmp_path)
    publish("second", KINDS[:1], tmp_path)
    publish("first", KINDS[1:2], tmp_path)
    record = msgspec.json.decode((tmp_path / "bench.json").read_bytes(), type=Record)
    assert {section.name: section.figures for section in record.sections} == {"first": KINDS[1:2], "second": KINDS[:1]}
    assert {path.name for path in tmp_path.glob("*.svg")} == {"first-pickup.svg", "second-throughput.svg"}


def test_the_table_says_what_is_out_of_reach() -> None:
    lines = table(KINDS).splitlines()
    assert lines[1].split() == ["throughput", "61.5", "VMs/s", "bare:", "300", "VMs/s", "≥", "50", "VMs/s", "met"]
    assert lines[2].split() == ["pickup", "1.5", "s", "≤", "1", "s", "NOT", "MET"]


def test_the_exponent_is_the_slope_of_the_logarithms() -> None:
    assert round(exponent([(10, 3 * 10**1.5), (100, 3 * 100**1.5), (1000, 3 * 1000**1.5)]), 6) == 1.5
