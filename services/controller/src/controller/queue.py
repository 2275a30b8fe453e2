"""The work queue: equal keys never run twice at once, and no lane can starve another.

A lane is whatever may hang as one (a provider, in practice). Each has a limit of keys that run at the same time; lanes
that have work and room take turns, and within a lane those who share it (namespaces) do: whoever adds a thousand keys
waits for them, and nobody else does. A key that is added while it runs is run once more afterwards.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from common.clock import Clock

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys to work on. Not thread-safe: one event loop."""

    def __init__(
        self,
        clock: Clock,
        lane_of: Callable[[K], Hashable],
        lane_limit: int = 16,
        sharer_of: Callable[[K], Hashable] = lambda key: None,
    ) -> None:
        """Args:
        lane_limit: keys of one lane that may run at the same time.
        sharer_of: on whose behalf a key is worked on; sharers of a lane take turns.
        """
        self._clock = clock
        self._lane_of, self._sharer_of = lane_of, sharer_of
        self._limit = lane_limit
        self._lanes: OrderedDict[Hashable, OrderedDict[Hashable, deque[K]]] = OrderedDict()
        """Keys that wait, by lane and sharer; whose turn is next comes first."""
        self._waiting: dict[K, float] = {}
        """Keys that wait for a worker, and since when (monotonic)."""
        self._busy: dict[K, Hashable] = {}
        self._again: set[K] = set()
        self._running: dict[Hashable, int] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._counter = 0
        self._changed = asyncio.Event()
        self._rescheduled = asyncio.Event()

    # -- adding ----------------------------------------------------------------------------------------------------

    def add(self, key: K) -> None:
        """Work on the key soon; a delayed turn of it is brought forward."""
        self._due.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._enqueue(key)

    def add_after(self, key: K, delay: float) -> None:
        """Work on the key in so many seconds, or earlier if an earlier turn is planned."""
        if delay <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + delay
        if key in self._waiting or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._counter += 1
        heapq.heappush(self._heap, (due, self._counter, key))
        self._rescheduled.set()

    def forget(self, key: K) -> None:
        """Drop a planned turn: the object is gone."""
        self._due.pop(key, None)

    def _enqueue(self, key: K) -> None:
        self._waiting[key] = self._clock.monotonic()
        lane = self._lanes.setdefault(self._lane_of(key), OrderedDict())
        lane.setdefault(self._sharer_of(key), deque()).append(key)
        self._changed.set()

    # -- taking ----------------------------------------------------------------------------------------------------

    async def get(self) -> K:
        """The next key; call `done` when its work has ended, however it ended."""
        while True:
            if (key := self._next()) is not None:
                return key
            self._changed.clear()
            await self._changed.wait()

    def _next(self) -> K | None:
        for lane, sharers in self._lanes.items():
            if self._running.get(lane, 0) >= self._limit:
                continue
            sharer, keys = next(iter(sharers.items()))
            key = keys.popleft()
            if keys:
                sharers.move_to_end(sharer)
            else:
                del sharers[sharer]
            if sharers:
                self._lanes.move_to_end(lane)
            else:
                del self._lanes[lane]
            del self._waiting[key]
            self._busy[key] = lane
            self._running[lane] = self._running.get(lane, 0) + 1
            return key
        return None

    def done(self, key: K) -> None:
        """The work on the key has ended."""
        lane = self._busy.pop(key)
        self._running[lane] -= 1
        if not self._running[lane]:
            del self._running[lane]
        if key in self._again:
            self._again.discard(key)
            self._due.pop(key, None)
            self._enqueue(key)
        self._changed.set()

    # -- time ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring delayed keys forward when they are due; run it in a task group beside the workers."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock.monotonic()
                while self._heap and self._heap[0][0] <= now:
                    due, _, key = heapq.heappop(self._heap)
                    if self._due.get(key) == due:  # else it was brought forward, replaced or forgotten
                        self.add(key)
                self._rescheduled.clear()
                waits: list[asyncio.Task[Any]] = [group.create_task(self._rescheduled.wait(), name="queue rescheduled")]
                if self._heap:
                    waits.append(group.create_task(self._clock.sleep(self._heap[0][0] - now), name="queue timer"))
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    # -- figures ---------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Keys that are worked on."""
        return len(self._busy)

    @property
    def age(self) -> float:
        """Seconds that the oldest waiting key has waited; 0 when none waits."""
        oldest = min(self._waiting.values(), default=None)
        return 0.0 if oldest is None else self._clock.monotonic() - oldest

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs; delayed turns do not count."""
        return not self._waiting and not self._busy
