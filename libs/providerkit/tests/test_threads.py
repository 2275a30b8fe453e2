"""Calls that block, and calls that hang."""

from __future__ import annotations

import asyncio
import threading

import pytest
from common.errors import HypervisorUnavailableError
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


@pytest.mark.parametrize("finish", [True, False])
async def test_a_cancelled_caller_waits_for_a_change_and_not_for_a_look(finish: bool) -> None:
    threads, release, began, done = Threads(2), threading.Event(), threading.Event(), []

    def change() -> None:
        began.set()
        release.wait()
        done.append(True)

    call = asyncio.ensure_future(threads.run(change, timeout=10, doing="change", finish=finish))
    await asyncio.to_thread(began.wait)
    call.cancel()
    if finish:
        waited, _ = await asyncio.wait({call}, timeout=0.1)
        assert not waited
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ([True] if finish else [])
    release.set()
