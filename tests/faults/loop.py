"""An event loop on a virtual clock: nothing waits for real, and the same program runs the same way every time.

Time stands still while anything can run, and jumps to the next timer when nothing can. A program in which nothing can
run and no timer is set will never go on: that is a deadlock, and is raised as one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import heapq
import itertools
import math
import random
import secrets
import selectors
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from .process import current

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)


class DeadlockError(AssertionError):
    """Nothing can run and nothing is waited for."""


class _NoWaiting(selectors.BaseSelector):
    """A selector that moves the clock instead of waiting. No file of a simulation ever becomes ready."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError(f"at {self.now:.3f} s nothing can run, and nothing is waited for")
        # Never short of it by a rounding, nor on the very moment: the loop runs timers that are strictly before now.
        self.now = math.nextafter(self.now + max(timeout, 0.0), math.inf)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class _NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set is its number and not its address: groups cancel what they hold in the same order."""

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Step(asyncio.Handle):
    """Something that runs at once, unless the process that it belongs to is stopped."""

    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(current)
        if process is None or process.may_run(self):
            asyncio.Handle._run(self)


class _LaterStep(asyncio.TimerHandle):
    """Something that runs at a time, or later when the process that it belongs to is stopped."""

    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(current)
        if process is None or process.may_run(self):
            asyncio.Handle._run(self)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is its own, and that holds back what belongs to a stopped process."""

    def __init__(self) -> None:
        self._virtual = _NoWaiting()
        self._ready: collections.deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        super().__init__(self._virtual)
        self._clock_resolution = 0.0  # a timer that fires early, on a clock that stands still, is set again for ever
        numbers = itertools.count()

        def make(loop: asyncio.AbstractEventLoop, main: Any, **kwargs: Any) -> _NumberedTask:
            return _NumberedTask(main, loop=loop, number=next(numbers), **kwargs)

        self.set_task_factory(make)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """As every loop's, with a handle of ours."""
        timer = _LaterStep(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """As every loop's."""
        return self.call_at(self._virtual.now + delay, callback, *args, context=context)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        """As every loop's, with a handle of ours."""
        step = _Step(callback, args, self, context)
        self._ready.append(step)
        return step

    def again(self, steps: Iterable[asyncio.Handle]) -> None:
        """Run what was held back, in the order in which it would have run."""
        self._ready.extend(steps)


class LoopClock:
    """A clock that shows the running loop's time; the wall clock may jump, the other never does."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._start += timedelta(seconds=seconds)


def run(main: Coroutine[Any, Any, T], *, seed: int = 0) -> T:
    """Run to its end on a fresh virtual loop, and leave nothing of it behind."""
    with _chance(seed), _no_collector(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Whatever asks for chance gets it from the seed: jitter, ids of operations, epochs of watches."""
    dice, state = random.Random(f"chance {seed}"), random.getstate()
    fresh_uuid, fresh_token = uuid.uuid4, secrets.token_hex
    random.seed(f"jitter {seed}")
    uuid.uuid4 = lambda: uuid.UUID(int=dice.getrandbits(128), version=4)
    secrets.token_hex = lambda nbytes=None: dice.randbytes(nbytes or 16).hex()
    try:
        yield
    finally:
        uuid.uuid4, secrets.token_hex = fresh_uuid, fresh_token
        random.setstate(state)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """No garbage is collected meanwhile: when it is depends on what ran before, and it closes generators."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
