"""The work queue, back-off and breaker: pure, on a clock that stands still."""

from __future__ import annotations

import asyncio
import random

import pytest
from common.clock import ManualClock
from common.errors import HostFullError, HypervisorUnavailableError, InvalidSpecError, OutcomeUnknownError
from common.status import Action
from controller.backoff import PACES, Backoff
from controller.breaker import Breaker, State
from controller.queue import WorkQueue
from controller.ratelimit import RateLimit


def queue(clock: ManualClock | None = None, limit: int = 2) -> WorkQueue[str]:
    """Keys such as "a/1": the lane is what stands before the slash."""
    return WorkQueue(clock or ManualClock(), lambda key: key.split("/")[0], limit)


async def taken(found: WorkQueue[str]) -> list[str]:
    """All that can be had now."""
    keys = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                keys.append(await found.get())
        except TimeoutError:
            return keys


async def test_equal_keys_run_once_and_once_more():
    work = queue()
    work.add("a/1")
    work.add("a/1")
    assert await taken(work) == ["a/1"]
    work.add("a/1")
    work.add("a/1")
    assert await taken(work) == []
    work.done("a/1")
    assert await taken(work) == ["a/1"]
    work.done("a/1")
    assert await taken(work) == []
    assert work.idle


async def test_W22_a_full_lane_leaves_the_others_alone():
    work = queue(limit=2)
    for number in range(10):
        work.add(f"sick/{number}")
    work.add("well/1")
    assert await taken(work) == ["sick/0", "well/1", "sick/1"]
    assert work.depth == 8
    work.done("well/1")
    work.add("well/2")
    assert await taken(work) == ["well/2"]
    work.done("sick/0")
    assert await taken(work) == ["sick/2"]


async def test_who_adds_many_keys_to_a_lane_delays_nobody_else():
    """A thousand machines of one namespace held up those of all others on the same provider."""
    work: WorkQueue[str] = WorkQueue(ManualClock(), lambda key: "lane", 2, lambda key: key.split("/")[0])
    for number in range(1000):
        work.add(f"many/{number}")
    assert await taken(work) == ["many/0", "many/1"]
    work.add("few/1")
    work.add("few/2")
    seen = []
    for key in ("many/0", "many/1", "many/2", "few/1"):
        work.done(key)
        seen += await taken(work)
    assert seen == ["many/2", "few/1", "many/3", "few/2"]


async def test_lanes_take_turns():
    work = queue(limit=10)
    for number in range(3):
        work.add(f"a/{number}")
    for number in range(3):
        work.add(f"b/{number}")
    assert await taken(work) == ["a/0", "b/0", "a/1", "b/1", "a/2", "b/2"]


async def test_delays_are_kept_brought_forward_and_forgotten():
    clock = ManualClock()
    work = queue(clock)
    async with asyncio.TaskGroup() as group:
        timers = group.create_task(work.run())
        work.add_after("a/late", 10)
        work.add_after("a/late", 20)  # the earlier turn stands
        work.add_after("a/soon", 5)
        work.add_after("a/gone", 5)
        work.forget("a/gone")
        work.add("a/soon")
        assert await taken(work) == ["a/soon"]
        work.done("a/soon")
        await clock.wait_sleeping()
        await clock.advance(9)
        assert await taken(work) == []
        await clock.advance(2)
        assert await taken(work) == ["a/late"]
        timers.cancel()


async def test_the_age_of_the_oldest_key_is_told():
    clock = ManualClock()
    work = queue(clock)
    assert work.age == 0
    work.add("a/1")
    await clock.advance(7)
    assert work.age == 7


@pytest.mark.parametrize("action", [action for action in Action if PACES[action] is not None])
def test_W18_delays_grow_to_a_bound_with_jitter(action: Action):
    backoff = Backoff(random.Random(1))
    delays = [backoff.failed("key", action) or 0.0 for _ in range(12)]
    pace = PACES[action]
    assert pace is not None
    assert pace.first * 0.75 <= delays[0] <= pace.first * 1.25
    assert pace.most * 0.75 <= delays[-1] <= pace.most * 1.25
    assert len(set(delays)) == len(delays)
    backoff.succeeded("key")
    assert (backoff.failed("key", action) or 0.0) <= pace.first * 1.25


def test_only_failures_of_one_version_add_up():
    backoff = Backoff(random.Random(1))
    slow = PACES[Action.BACK_OFF_SLOWLY]
    assert slow is not None
    for version in range(1, 20):  # edits while a storage is full: each is as good as the first
        assert (backoff.failed("key", Action.BACK_OFF_SLOWLY, version=version) or 0) <= slow.first * 1.25
    for _ in range(12):
        delay = backoff.failed("key", Action.BACK_OFF_SLOWLY, version=20) or 0
    assert delay >= slow.most * 0.75


def test_stop_means_no_repetition_and_a_wish_to_wait_is_obeyed():
    backoff = Backoff(random.Random(1))
    assert backoff.failed("key", Action.STOP) is None
    assert (backoff.failed("key", Action.LOOK_AGAIN, retry_after=42.0) or 0) >= 42


async def test_W36_a_breaker_opens_on_silence_only():
    clock = ManualClock()
    breaker = Breaker(clock, "ns/p", threshold=3, first=2.0, most=8.0)
    for _ in range(10):
        breaker.allow()
        breaker.record(InvalidSpecError("no"))
        breaker.record(HostFullError("no"))
    assert breaker.state is State.CLOSED
    for _ in range(3):
        breaker.allow()
        breaker.record(OutcomeUnknownError("?"))
    with pytest.raises(HypervisorUnavailableError, match="ns/p does not answer"):
        breaker.allow()


async def test_an_open_breaker_lets_one_probe_through():
    clock = ManualClock()
    breaker = Breaker(clock, "ns/p", threshold=1, first=2.0, most=8.0)
    breaker.record(HypervisorUnavailableError("away"))
    waits = []
    for _ in range(4):
        begun = clock.monotonic()
        while True:
            try:
                breaker.allow()
                break
            except HypervisorUnavailableError:
                await clock.advance(0.5)
        waits.append(clock.monotonic() - begun)
        with pytest.raises(HypervisorUnavailableError):
            breaker.allow()  # the probe is on its way
        breaker.record(HypervisorUnavailableError("away"))
    assert waits == [2.0, 4.0, 8.0, 8.0]
    await clock.advance(8)
    breaker.allow()
    breaker.record(None)
    breaker.allow()
    assert breaker.state is State.CLOSED


async def test_a_cancelled_probe_frees_its_place():
    clock = ManualClock()
    breaker = Breaker(clock, "ns/p", threshold=1, first=2.0)
    breaker.record(HypervisorUnavailableError("away"))
    await clock.advance(2)
    breaker.allow()
    breaker.record(asyncio.CancelledError())
    breaker.allow()


async def test_a_rate_limit_spends_its_burst_and_then_waits():
    clock = ManualClock()
    limit = RateLimit(clock, qps=2.0, burst=3)
    for _ in range(3):
        await limit.wait()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(limit.wait())
        await clock.wait_sleeping()
        assert not waiting.done()
        await clock.advance(0.5)
        await waiting
