"""Health that is tied to a check."""

import asyncio

import pytest
from common import errors
from common.clock import ManualClock
from common.health import Health


async def test_the_sum_is_the_sum_of_all():
    health = Health()
    await health.set("a", None)
    await health.set("b", "the pool is away")
    assert health.problems() == ["b: the pool is away"]
    await health.set("b", None)
    assert health.problems() == []
    await health.stop()
    await health.set("a", None)
    assert health.problems() == ["shutting down"]


async def test_P45_readiness_follows_its_check():
    """Not a constant "ok": what the service depends on is asked again and again."""
    health, clock = Health(), ManualClock()
    answers: list[Exception | None] = [
        errors.HypervisorUnavailableError("libvirtd is away"),
        None,
        RuntimeError("bug"),
        errors.CredentialsRefusedError(""),
    ]

    async def check() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    task = asyncio.create_task(health.follow("libvirt", check, interval=10, clock=clock))
    seen = []
    for _ in range(4):
        await clock.wait_sleeping()
        seen.append(health.problems())
        if answers:
            await clock.advance(10)
    task.cancel()
    assert seen == [
        ["libvirt: libvirtd is away"],
        [],
        ["libvirt: the check itself failed; see the log"],
        ["libvirt: CredentialsRefused"],
    ]


async def test_a_check_that_hangs_is_a_no():
    health, clock = Health(), ManualClock()
    task = asyncio.create_task(health.follow("x", asyncio.Event().wait, timeout=0.01, clock=clock))
    async with asyncio.timeout(10):
        await clock.wait_sleeping()
    task.cancel()
    assert "no answer within 0.01 s" in health.problems()[0]
    with pytest.raises(asyncio.CancelledError):
        await task
