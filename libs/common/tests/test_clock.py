"""The clock that tests drive."""

import asyncio
from datetime import UTC, datetime, timedelta

from common.clock import ManualClock, SystemClock


async def test_sleepers_wake_in_order_and_each_at_its_time():
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 5.0), ("early", 1.0), ("middle", 2.5)):
            group.create_task(sleeper(name, seconds))
        await clock.wait_sleeping(3)
        await clock.advance(3)
        assert woken == [("early", 1.0), ("middle", 2.5)]
        assert clock.monotonic() == 3.0
        assert clock.now() == datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
        await clock.advance(2)
    assert woken[-1] == ("late", 5.0)


async def test_one_advance_covers_many_short_sleeps():
    clock = ManualClock()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await clock.sleep(1)
            ticks += 1

    task = asyncio.create_task(tick())
    await clock.wait_sleeping()
    await clock.advance(10)
    task.cancel()
    assert ticks == 10


async def test_a_cancelled_sleeper_is_forgotten():
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.wait_sleeping()
    task.cancel()
    await asyncio.wait({task})
    assert clock.sleeping == 0
    await clock.advance(5)
    assert clock.monotonic() == 5.0


async def test_sleeping_for_nothing_lets_others_run():
    ran = asyncio.Event()
    task = asyncio.create_task(asyncio.sleep(0, ran.set()))
    await ManualClock().sleep(0)
    await SystemClock().sleep(-1)
    assert ran.is_set()
    await task


def test_the_system_clock_is_the_machines():
    clock = SystemClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.monotonic() <= clock.monotonic()
