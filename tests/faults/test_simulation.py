"""Whatever goes wrong, no machine is lost, doubled or orphaned, and everything comes right in the end."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.schedule import Fault
from faults.seeds import count, run
from faults.shrink import shrink
from faults.simulation import simulate

CHUNK = 10
SEEDS = count(140)

TRACE = """
import sys
from faults.simulation import simulate
sys.stdout.write("\\n".join(simulate(int(sys.argv[1]), rate=0.03).trace))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_nothing_is_lost_whatever_goes_wrong(first: int) -> None:
    assert not [str(failure) for failure in run(range(first, min(first + CHUNK, SEEDS)))]


@pytest.mark.timeout(120)
def test_a_seed_runs_the_same_way_in_every_process() -> None:
    """The order of every call, write and watch line, with other hashes of strings: what failed once can be replayed."""
    digests = set()
    for hashes in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        command = [sys.executable, "-c", TRACE, "3"]
        place = Path(__file__).parents[1]
        told = subprocess.run(command, cwd=place, env=environment, capture_output=True, check=True).stdout
        assert told.count(b"\n") > 1000
        digests.add(hashlib.sha256(told).hexdigest())
    here = "\n".join(simulate(3, rate=0.03).trace)
    assert digests == {hashlib.sha256(here.encode()).hexdigest()}


def test_a_run_is_played_again_with_the_faults_that_struck() -> None:
    """The seed's own faults, given one by one, make the same run: that is what shrinking rests on."""
    first = simulate(4, rate=0.03)
    again = simulate(4, only=first.struck)
    assert first.struck
    assert again.trace == first.trace


def test_shrinking_leaves_only_what_is_needed() -> None:
    faults = [Fault("verb", number, "kill") for number in range(20)]
    needed = {faults[3], faults[17]}
    assert shrink(faults, lambda some: needed <= set(some)) == [faults[3], faults[17]]
    assert shrink(faults, lambda some: True) == []


REGRESSIONS = {
    25: "a timer of the work queue that fires a moment early was set again for ever: the simulated clock's, not ours",
    13: "a watch that broke was resumed where it had begun: a deleted machine was made anew",
}


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    assert simulate(seed, rate=0.01).violation == ""
