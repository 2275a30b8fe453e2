"""A queue of keys with one worker: equal keys are handled once, a failed key comes back later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from .errors import ApiError

log = structlog.get_logger(__name__)
K = TypeVar("K")
_LONGEST = 60.0
_DOUBLINGS = 10
"""More would only grow a number that the longest delay (seconds) cuts; past 1024 no float holds it."""


class Worker(Generic[K]):
    """Handles keys one after another, in the order in which they came."""

    def __init__(self, name: str, handle: Callable[[K], Awaitable[None]], *, retry: float = 0.5) -> None:
        """Name the work; `retry` is the first delay in seconds after a failure, doubled each time up to 60 s."""
        self._name = name
        self._handle = handle
        self._retry = retry
        self._keys: dict[K, None] = {}
        self._failures: dict[K, int] = {}
        self._bell = asyncio.Event()
        self._later: dict[K, asyncio.TimerHandle] = {}

    def add(self, key: K) -> None:
        """Have a key handled; never waits."""
        self._keys[key] = None
        self._bell.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._bell.wait()
                while self._keys:
                    key = next(iter(self._keys))
                    del self._keys[key]
                    await self._one(key)
                self._bell.clear()
        finally:
            for timer in self._later.values():
                timer.cancel()

    async def _one(self, key: K) -> None:
        try:
            await self._handle(key)
        except ApiError as error:
            if error.code in (404, 409):
                self._again(key)
                return
            log.warning("worker.failed", worker=self._name, key=str(key), **error.place())
            self._again(key)
        except Exception:
            log.exception("worker.defect", worker=self._name, key=str(key))
            self._again(key)
        else:
            self._failures.pop(key, None)
            self._forget_timer(key)

    def _again(self, key: K) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        self._forget_timer(key)  # events had the key handled early: the newest failure decides when it comes back
        delay = min(_LONGEST, self._retry * 2 ** min(count - 1, _DOUBLINGS))
        self._later[key] = asyncio.get_running_loop().call_later(delay, self._fire, key)

    def _fire(self, key: K) -> None:
        del self._later[key]
        self.add(key)

    def _forget_timer(self, key: K) -> None:
        timer = self._later.pop(key, None)
        if timer is not None:
            timer.cancel()
