"""Whatever goes wrong, no machine is lost, doubled or orphaned, and everything comes right in the end."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.schedule import Fault
from faults.seeds import run
from faults.shrink import shrink
from faults.simulation import Parts, simulate

SEEDS = range(10)
"""A taste, for whoever runs pytest alone: `make test` runs a thousand, in a row of its own on all cores."""
PLACE = Path(__file__).parents[1]

TRACE = """
import sys
from faults.simulation import Parts, simulate
sys.stdout.write("\\n".join(simulate(int(sys.argv[1]), rate=0.03).trace))
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_W4_W5_W6_W7_W9_W17_W76_nothing_is_lost_whatever_goes_wrong(seed: int) -> None:
    assert run(seed) is None


@pytest.mark.timeout(120)
def test_a_seed_runs_the_same_way_in_every_process() -> None:
    """The order of every call, write and watch line, with other hashes of strings: what failed once can be replayed."""
    digests = set()
    for hashes in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        command = [sys.executable, "-c", TRACE, "3"]
        told = subprocess.run(command, cwd=PLACE, env=environment, capture_output=True, check=True).stdout
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


LATE_APPLY = Parts(focus="rpc MachineService/ApplyMachine$")


@pytest.mark.parametrize("seed", [14, 33, 34])
def test_W5_no_machine_comes_of_an_apply_that_arrives_late(seed: int) -> None:
    """Requests that arrive, or leaders that wake up, after the machine was deleted: with these seeds, they do."""
    assert simulate(seed, rate=0.2, parts=LATE_APPLY).violation == ""
