"""Calls that block, and calls that hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from common.errors import HypervisorUnavailableError, OperationInProgressError
from providerkit.threads import Threads


async def test_W22_a_call_that_hangs_gives_its_place_to_the_next() -> None:
    threads, release = Threads(1), threading.Event()
    try:
        with pytest.raises(HypervisorUnavailableError, match=r"look: no answer within 0\.05 s"):
            await threads.run(release.wait, timeout=0.05, doing="look")
        assert await threads.run(lambda: 42, timeout=5, doing="look") == 42
    finally:
        release.set()


async def test_calls_that_hang_are_counted_and_forgiven() -> None:
    threads, release = Threads(4, lost=2), threading.Event()
    for _ in range(2):
        with pytest.raises(HypervisorUnavailableError):
            await threads.run(release.wait, timeout=0.05, doing="look")
    with pytest.raises(HypervisorUnavailableError, match="2 earlier calls still hang"):
        await threads.run(lambda: 42, timeout=5, doing="look")
    release.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await threads.run(lambda: 42, timeout=5, doing="look") == 42
            except HypervisorUnavailableError:
                await asyncio.sleep(0)
                continue
            break


async def test_what_a_call_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        await Threads(1).run(lambda: 1 // 0, timeout=5, doing="divide")


@pytest.mark.parametrize("changes", ["m-1", ""])
async def test_a_cancelled_caller_waits_for_a_change_and_not_for_a_look(changes: str) -> None:
    threads, release, began, done = Threads(2), threading.Event(), threading.Event(), []

    def change() -> None:
        began.set()
        release.wait()
        done.append(True)

    call = asyncio.ensure_future(threads.run(change, timeout=10, doing="change", changes=changes))
    await asyncio.to_thread(began.wait)
    call.cancel()
    if changes:
        waited, _ = await asyncio.wait({call}, timeout=0.1)
        assert not waited
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ([True] if changes else [])
    release.set()


async def test_after_a_change_that_was_given_up_none_begins_until_it_has_come_back() -> None:
    """Else its late failure would undo what the next one made, or its late success make what was just deleted."""
    threads, release = Threads(2), threading.Event()
    with pytest.raises(HypervisorUnavailableError):
        await threads.run(release.wait, timeout=0.05, doing="create m-1", changes="m-1")
    with pytest.raises(OperationInProgressError, match="an earlier change of it still runs"):
        await threads.run(lambda: None, timeout=5, doing="delete m-1", changes="m-1")
    assert await threads.run(lambda: 1, timeout=5, doing="look at m-1") == 1
    assert await threads.run(lambda: 2, timeout=5, doing="delete m-2", changes="m-2") == 2
    release.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await threads.run(lambda: 3, timeout=5, doing="delete m-1", changes="m-1") == 3
                break
            except OperationInProgressError:
                await asyncio.sleep(0)


async def test_a_call_belongs_to_its_callers_context() -> None:
    """What it logs and traces carries the caller's ids."""
    whose = contextvars.ContextVar("whose", default="nobody")
    whose.set("caller")
    assert await Threads(1).run(whose.get, timeout=5, doing="look") == "caller"
