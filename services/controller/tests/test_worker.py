"""The worker outlives whatever is wrong with one object, and comes back to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from common.clock import ManualClock
from controller.metrics import Metrics
from controller.queue import WorkQueue
from controller.worker import Key, Worker
from prometheus_client import CollectorRegistry

BAD, GOOD = Key("Thing", "default", "bad"), Key("Thing", "default", "good")
RESYNC = 600.0


class Things:
    """A kind whose objects are fine as they are."""

    kind = "Thing"

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def reconcile(self, name: tuple[str, str]) -> float | None:
        self.seen.append(name[1])
        return None

    async def report(self, name: tuple[str, str], error: Exception) -> None:
        raise AssertionError(f"nothing is wrong with {name}: {error}")


class Bench:
    """A worker over two objects, on a clock that stands still."""

    def __init__(
        self,
        look: Callable[[Key], AbstractContextManager[None]] = lambda key: nullcontext(),
        stands: Callable[[Key], bool] = lambda key: False,
        version: Callable[[Key], int | None] = lambda key: 1,
    ) -> None:
        self.clock, self.things = ManualClock(), Things()
        self.queue: WorkQueue[Key] = WorkQueue(self.clock, lambda key: key.kind)
        self._worker = Worker(
            self.queue, {"Thing": self.things}, self.clock, random.Random(1), Metrics(CollectorRegistry()),
            RESYNC, version, stands, look,
        )  # fmt: skip

    async def works_on(self, *keys: Key, seconds: float = 0.0) -> list[str]:
        """Which objects were reconciled, once nothing waits any more and so much time has gone by."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._worker.run())
            for key in keys:
                self.queue.add(key)
            for _ in range(50):
                await asyncio.sleep(0)
            await self.clock.advance(seconds)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not work.done(), "the worker has ended"
            assert self.queue.idle
            work.cancel()
        return self.things.seen


def fails(key: Key) -> bool:
    if key == BAD:
        raise RuntimeError("a bug of ours")
    return False


@contextmanager
def begins_badly(key: Key) -> Iterator[None]:
    fails(key)
    yield


@contextmanager
def ends_badly(key: Key) -> Iterator[None]:
    yield
    fails(key)


async def test_a_trace_that_cannot_begin_holds_up_nothing() -> None:
    """It is there for people; the machine is what counts."""
    assert await Bench(look=begins_badly).works_on(BAD, GOOD) == ["bad", "good"]


async def test_a_trace_that_cannot_end_is_no_reason_to_leave_the_object_alone() -> None:
    """It was looked at, and is so again soon, not at the next resync."""
    seen = await Bench(look=ends_badly).works_on(BAD, GOOD, seconds=20.0)
    assert seen == ["bad", "good", "bad"]


async def test_an_object_that_cannot_be_judged_is_looked_at() -> None:
    assert await Bench(stands=fails).works_on(BAD, GOOD) == ["bad", "good"]


@pytest.mark.parametrize("look", [begins_badly, ends_badly])
async def test_a_worker_that_is_told_to_end_ends(look: Callable[[Key], AbstractContextManager[None]]) -> None:
    """Cancelling is no failure that somebody must outlive."""
    bench = Bench(look=look)
    waiting = asyncio.Event()

    async def wait(name: tuple[str, str]) -> float | None:
        waiting.set()
        await asyncio.Event().wait()
        return None

    bench.things.reconcile = wait  # type: ignore[method-assign]  # it hangs in the hypervisor
    bench.queue.add(BAD)
    work = asyncio.ensure_future(bench._worker.run())
    await waiting.wait()
    work.cancel()
    with pytest.raises((asyncio.CancelledError, BaseExceptionGroup)):
        await work
    assert work.done()
