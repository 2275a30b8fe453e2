"""Waiting for an event or for a while, whichever comes first, by the clock that was passed in."""

from __future__ import annotations

import asyncio

from common.clock import Clock


async def wait_event(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait until the event is set, for at most this long; whether it is set then."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(event.wait())
        timer = group.create_task(clock.sleep(seconds))
        await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        timer.cancel()
    return event.is_set()
