"""Fault points: nothing in production, anything in a test."""

import asyncio
import signal
import subprocess
import sys

import pytest
from common import faults
from common.errors import HypervisorUnavailableError

POINT = faults.declare("test.point", "between two steps of a test")


async def test_without_a_plan_nothing_happens():
    await faults.point(POINT)


async def test_a_plan_strikes_at_the_chosen_pass_and_counts():
    with faults.FaultPlan().raises(POINT, KeyError("boom"), on_pass=2).installed() as plan:
        await faults.point(POINT)
        with pytest.raises(KeyError, match="boom"):
            await faults.point(POINT)
        await faults.point(POINT)
        await faults.point("another")
    assert plan.passed == {POINT: 3, "another": 1}
    await faults.point(POINT)
    assert plan.passed[POINT] == 3


async def test_tasks_that_are_started_inside_inherit_the_plan():
    async def work() -> None:
        await faults.point(POINT)

    with faults.FaultPlan().raises(POINT).installed():
        task = asyncio.create_task(work())
    with pytest.raises(HypervisorUnavailableError, match=r"fault injected at test\.point"):
        await task


async def test_a_hang_ends_by_cancellation_alone():
    with faults.FaultPlan().hangs(POINT).installed(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await faults.point(POINT)


async def test_a_point_may_wait_for_the_test():
    """To hold a step half done while the test does something else."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        reached.set()
        await go_on.wait()

    with faults.FaultPlan().does(POINT, hold).installed():
        task = asyncio.create_task(faults.point(POINT))
    await reached.wait()
    assert not task.done()
    go_on.set()
    await task


def test_points_are_discoverable():
    assert faults.POINTS[POINT] == "between two steps of a test"
    assert faults.declare(POINT, "between two steps of a test") == POINT
    with pytest.raises(ValueError, match="two fault points"):
        faults.declare(POINT, "something else")


PROGRAM = """
import asyncio
from common import faults
async def main():
    faults.install_from_environment()
    for step in range(5):
        print(step, flush=True)
        await faults.point("step")
asyncio.run(main())
"""


def run(fault: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"VIRTRIGAUD_FAULT": fault}, capture_output=True, text=True, timeout=60
    )


def test_the_environment_kills_a_real_process():
    """No handler runs, nothing is flushed: as when the power goes."""
    done = run("other:hang, step:kill:3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]


def test_the_environment_makes_a_real_process_fail():
    done = run("step:raise")
    assert done.returncode == 1
    assert "fault injected at step" in done.stderr


@pytest.mark.parametrize("wish", ["step", "step:explode", ":kill", "step:kill:0", "step:kill:x", "a:kill,,"])
def test_a_wish_that_cannot_be_understood_is_named(wish):
    with pytest.raises(ValueError, match="VIRTRIGAUD_FAULT"):
        faults.install_from_environment({"VIRTRIGAUD_FAULT": wish})
