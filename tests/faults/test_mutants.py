"""The simulation finds bugs: each of these programs is wrong in one way, and is caught."""

from __future__ import annotations

import pytest

from faults.mutants import MUTANTS
from faults.simulation import simulate

WITHIN = 25
"""Seeds in which each of them has to be caught; most are by the first."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_program_that_is_wrong_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    seeds = range(mutant.first, mutant.first + WITHIN)
    assert any(simulate(seed, rate=mutant.rate, parts=mutant.parts).violation for seed in seeds)
