"""Waiting: for an event or for a while, whichever comes first; for the end of what must not be left half done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from common import logging
from common.clock import Clock

log = logging.get(__name__)

T = TypeVar("T")


async def to_its_end(work: Awaitable[T]) -> T:
    """Do it to its end even if the caller leaves: half of it would not be true."""
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        while not doing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({doing})
        if not doing.cancelled() and (error := doing.exception()) is not None:
            log.warning("work.failed_unheard", error=str(error))
        raise


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
