"""Blocking calls of an SDK, each on a thread that may be left behind.

Such a call cannot be interrupted. When one hangs, its thread is abandoned and its place given to the next call,
so a hanging hypervisor delays only those who wait for it. The threads are daemons: none of them holds up the exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from common.errors import HypervisorUnavailableError, OperationInProgressError

T = TypeVar("T")


class Threads:
    """At most `size` calls at a time, and at most `lost` that hang besides."""

    def __init__(self, size: int, *, lost: int = 64) -> None:
        self._places = asyncio.Semaphore(size)
        self._most_lost = lost
        self._lost = 0
        self._unfinished: Counter[str] = Counter()

    async def run(self, call: Callable[[], T], *, timeout: float, doing: str, changes: str = "") -> T:
        """Run it on a thread.

        Args:
            timeout: seconds to wait for a place, and then for the answer.
            changes: what the call changes, by its id; empty for a call that only looks. A caller that is cancelled
                waits for the end of a change, and while one that was given up still runs, no other begins on the same:
                whatever the caller does next must not meet a change that is still being made.
        Raises:
            HypervisorUnavailableError: no answer within `timeout`; the call may still take effect.
            OperationInProgressError: an earlier change of the same has not come back yet.
        """
        if changes and self._unfinished[changes]:
            raise OperationInProgressError(
                f"{doing}: an earlier change of it still runs on the hypervisor, which gave no answer in time",
                retry_after=2.0,
            )
        try:
            async with asyncio.timeout(timeout):
                await self._places.acquire()
        except TimeoutError as error:
            raise HypervisorUnavailableError(f"{doing}: no answer within {timeout:g} s") from error
        try:
            if self._lost >= self._most_lost:
                raise HypervisorUnavailableError(f"{doing}: {self._lost} earlier calls still hang")
            answer = self._start(call, changes)
            await self._wait(answer, timeout, changes)
            if not answer.done():
                self._give_up(answer, changes)
                raise HypervisorUnavailableError(f"{doing}: no answer within {timeout:g} s")
            return answer.result()
        finally:
            self._places.release()

    async def _wait(self, answer: asyncio.Future[T], timeout: float, changes: str) -> None:
        loop = asyncio.get_running_loop()
        end, cancelled = loop.time() + timeout, None
        while not answer.done() and (left := end - loop.time()) > 0:
            try:
                await asyncio.wait({answer}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
                if not changes:
                    break
        if cancelled is not None:
            if answer.done():
                answer.exception()  # nobody asks for it any more
            else:
                self._give_up(answer, changes)
            raise cancelled

    def _give_up(self, answer: asyncio.Future[T], changes: str) -> None:
        """Leave a thread behind; it counts until it comes back."""
        answer.cancel()
        self._lost += 1
        self._unfinished[changes] += 1

    def _came_back(self, changes: str) -> None:
        self._lost -= 1
        self._unfinished[changes] -= 1
        if not self._unfinished[changes]:
            del self._unfinished[changes]

    def _start(self, call: Callable[[], T], changes: str) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()  # what the call logs and traces belongs to the caller's span
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.cancelled():
                self._came_back(changes)
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # exactly one of the two is set

        def work() -> None:
            result, failure = None, None
            try:
                result = context.run(call)
            except BaseException as error:  # noqa: BLE001  # carried to the waiter, whatever it is
                failure = error
            # A closed loop refuses it: nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, failure)

        threading.Thread(target=work, name="hypervisor-call", daemon=True).start()
        return answer
