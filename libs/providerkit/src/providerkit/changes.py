"""Hints that machines changed, for everybody who listens: each hint once, however often it was given meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Changes:
    """Fans hints out to listeners; a slow one loses repetitions, never a machine."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def tell(self, uid: str | None) -> None:
        """This machine may have changed; None means that any may have."""
        for listener in self._listeners:
            listener.add(uid)

    async def listen(self) -> AsyncIterator[str | None]:
        """Hints from now on."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.take()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: dict[str | None, None] = {}
        self._some = asyncio.Event()

    def add(self, uid: str | None) -> None:
        self._waiting.setdefault(uid)
        self._some.set()

    async def take(self) -> str | None:
        await self._some.wait()
        uid = next(iter(self._waiting))
        del self._waiting[uid]
        if not self._waiting:
            self._some.clear()
        return uid
