"""Time as a part that is passed in, so that tests drive it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What code may know about time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps. For intervals and deadlines."""
        ...

    def now(self) -> datetime:
        """The wall clock, UTC. For what people read and for certificates."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less lets others run once."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))


class ManualClock:
    """A clock that stands still until `advance` moves it. For one event loop."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        self._changed.set()
        await future

    @property
    def sleeping(self) -> int:
        """How many wait on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def wait_sleeping(self, count: int = 1) -> None:
        """Wait until at least this many wait on this clock."""
        while self.sleeping < count:
            self._changed.clear()
            await self._changed.wait()

    async def advance(self, seconds: float) -> None:
        """Move on and let everybody whose time has come run, each at its own time and in order."""
        target = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._elapsed = due
            future.set_result(None)
            for _ in range(_TURNS):  # the woken task may sleep again before `target`
                await asyncio.sleep(0)
        self._elapsed = target
        await asyncio.sleep(0)


_TURNS = 5
"""Loop turns that a woken task gets before time moves on: a task group's child needs a few to go to sleep again."""
