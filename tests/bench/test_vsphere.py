"""The bench itself works: its figures are asked for on a small inventory, and judged nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulators.vcsim import Vcsim, own_vcsim

from .vsphere import cold_start, latency

__all__ = ["own_vcsim"]  # fixture

pytestmark = pytest.mark.real


async def test_a_cold_start_and_a_changes_way_are_measured(own_vcsim: Vcsim, tmp_path: Path) -> None:
    figures = [
        *await cold_start(own_vcsim, tmp_path, machines=4, idle=0.5),
        *await latency(own_vcsim, tmp_path, changes=4, machines=4),
    ]
    assert all(figure.value >= 0 for figure in figures)
    assert {figure.unit for figure in figures} == {"s", "ms", "MiB", "requests"}
