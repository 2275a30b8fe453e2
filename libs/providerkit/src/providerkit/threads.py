"""Blocking calls of an SDK, each on a thread that may be left behind.

Such a call cannot be interrupted. When one hangs, its thread is abandoned and its place given to the next call,
so a hanging hypervisor delays only those who wait for it. The threads are daemons: none of them holds up the exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from common.errors import HypervisorUnavailableError

T = TypeVar("T")


class Threads:
    """At most `size` calls at a time, and at most `lost` that hang besides."""

    def __init__(self, size: int, *, lost: int = 64) -> None:
        self._places = asyncio.Semaphore(size)
        self._most_lost = lost
        self._lost = 0

    async def run(self, call: Callable[[], T], *, timeout: float, doing: str) -> T:
        """Run it on a thread.

        Args:
            timeout: seconds to wait for a place and for the answer together.
        Raises:
            HypervisorUnavailableError: no answer within `timeout`; the call may still take effect.
        """
        try:
            async with asyncio.timeout(timeout), self._places:
                if self._lost >= self._most_lost:
                    raise HypervisorUnavailableError(f"{doing}: {self._lost} earlier calls still hang")
                return await self._start(call)
        except TimeoutError as error:
            raise HypervisorUnavailableError(f"{doing}: no answer within {timeout:g} s") from error

    async def _start(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.cancelled():
                self._lost -= 1  # it came back after all
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # exactly one of the two is set

        def work() -> None:
            result, failure = None, None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  # carried to the waiter, whatever it is
                failure = error
            # A closed loop refuses it: nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, failure)

        threading.Thread(target=work, name="hypervisor-call", daemon=True).start()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.cancelled():
                self._lost += 1
            raise
