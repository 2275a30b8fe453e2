"""The qcow2 image that an upload is, judged by QEMU's own tool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_proxmox.content import qcow2
from provider_proxmox.content.qcow2 import CLUSTER, Layout, Range

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def written(path: Path, layout: Layout) -> None:
    """Every cluster of data tells where it is."""
    with path.open("wb") as image:
        for part in layout.metadata():
            image.write(part)
        for start, end in layout.ranges:
            for cluster in range(start, end, CLUSTER):
                image.write(b"%016d" % cluster * (CLUSTER // 16))


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (512, []),
        (512, [(0, 512)]),
        (20 * MIB, [(MIB, MIB + 5), (5 * MIB, 7 * MIB)]),
        (3 * TIB + 512, [(5, 10), (GIB, GIB + 70 * MIB), (2 * TIB - 100, 2 * TIB + 100), (3 * TIB, 3 * TIB + 512)]),
        (GIB, [(512 * MIB - 1, 512 * MIB + 1)]),
    ],
)
@pytest.mark.skipif(
    shutil.which("qemu-img") is None and not os.environ.get("REQUIRE_REAL"), reason="qemu-img is not installed"
)
def test_qemu_finds_no_fault(tmp_path: Path, size: int, ranges: list[Range]) -> None:
    layout = Layout(size, qcow2.aligned(iter(ranges)))
    path = tmp_path / "image.qcow2"
    written(path, layout)
    assert path.stat().st_size == layout.length
    said = subprocess.run(["qemu-img", "check", "--output=json", path], check=True, capture_output=True)
    found = json.loads(said.stdout)
    assert (found["check-errors"], found.get("leaks", 0), found.get("corruptions", 0)) == (0, 0, 0)
    said = subprocess.run(["qemu-img", "map", "--output=json", path], check=True, capture_output=True)
    parts = json.loads(said.stdout)
    assert parts[-1]["start"] + parts[-1]["length"] == size
    data = [(part["start"], part["start"] + part["length"]) for part in parts if part["data"]]
    assert sum(end - start for start, end in data) == sum(min(end, size) - start for start, end in layout.ranges)
    with path.open("rb") as image:
        for part in parts:
            if part["data"]:
                image.seek(part["offset"])
                assert image.read(16) == b"%016d" % part["start"]


@settings(deadline=None)
@given(
    size=st.integers(1, 40 * GIB // 512).map(lambda sectors: sectors * 512),
    cuts=st.lists(st.integers(0, 40 * GIB), max_size=12, unique=True).map(sorted),
)
def test_length_is_told_before(size: int, cuts: list[int]) -> None:
    """Whatever a disk holds: Proxmox VE believes it."""
    ranges = [(start, min(end, size)) for start, end in zip(cuts[::2], cuts[1::2], strict=False) if start < size]
    few = [(start, min(end, start + 3 * MIB)) for start, end in ranges]
    layout = Layout(size, qcow2.aligned(iter(few)))
    metadata = sum(map(len, layout.metadata()))
    assert metadata + sum(end - start for start, end in layout.ranges) == layout.length
    assert all(start % CLUSTER == end % CLUSTER == 0 for start, end in layout.ranges)
    assert all(one[1] < two[0] for one, two in zip(layout.ranges, layout.ranges[1:], strict=False))
    assert all(any(start <= a and b <= end for start, end in layout.ranges) for a, b in few)
