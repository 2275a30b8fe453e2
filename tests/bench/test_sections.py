"""Each section runs: its figures are asked for at tiny sizes, and judged nowhere."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from . import fairness, fleet, throughput
from .figures import Figure, table

pytestmark = pytest.mark.timeout(400)  # several processes start in each


def complete(figures: list[Figure]) -> bool:
    """Each can be drawn and says how it was taken."""
    assert table(figures)
    return all(figure.value >= 0 and figure.taken for figure in figures)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_throughput_is_measured() -> None:
    assert complete(await throughput.measure(count=4))


async def test_fairness_is_measured() -> None:
    assert complete(await fairness.measure(others=5, probes=2, pause=0.0))


async def test_idle_fleets_and_their_growth_are_measured() -> None:
    seen = await fleet.find(3, idle=0.2)
    made = await fleet.make(1)
    assert complete(fleet.idle_figures(seen, 0.2))
    assert complete(fleet.growth_figures({1: made, 2: made}, [seen, dataclasses.replace(seen, size=6)]))
