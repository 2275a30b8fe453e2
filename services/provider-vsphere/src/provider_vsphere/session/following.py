"""What the collector tells of tasks and leases, for everybody who follows one: several may wait for the same end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

LOST: Final[dict[str, Any]] = {"info.state": None}
"""Told to who follows something when the session has ended."""


class _Told:
    """Of one task or lease."""

    def __init__(self) -> None:
        self.listeners: list[asyncio.Queue[dict[str, Any]]] = []
        self._said: list[dict[str, Any]] = []

    def tell(self, changed: dict[str, Any]) -> None:
        self._said.append(changed)
        for each in self.listeners:
            each.put_nowait(changed)

    def listen(self) -> asyncio.Queue[dict[str, Any]]:
        """Everything from the beginning on."""
        updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for said in self._said:
            updates.put_nowait(said)
        self.listeners.append(updates)
        return updates


class Following:
    """By the id of a task or lease."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def begin(self, moid: str) -> None:
        """Keep what is told from now on: somebody is about to listen."""
        self._told.setdefault(moid, _Told())

    @contextlib.contextmanager
    def followed(self, moid: str) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """What the collector tells of an object that somebody made a filter for; LOST when the session ends first."""
        try:
            with self.listening(moid) as updates:
                yield updates
        finally:
            self.forget(moid)

    @contextlib.contextmanager
    def listening(self, moid: str) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """The same, and what was told stays: whoever began the task may not listen yet."""
        told = self._told.setdefault(moid, _Told())
        updates = told.listen()
        try:
            yield updates
        finally:
            told.listeners.remove(updates)

    def forget(self, moid: str) -> None:
        """Nobody begins to listen any more."""
        if moid in self._told and not self._told[moid].listeners:
            del self._told[moid]

    def tell(self, moid: str, changed: dict[str, Any]) -> None:
        """The collector says so."""
        if moid in self._told or "gone" not in changed:
            self._told.setdefault(moid, _Told()).tell(changed)

    def lose(self) -> None:
        """The session has ended, and nothing more is told."""
        for told in self._told.values():
            told.tell(LOST)
        self._told = {moid: told for moid, told in self._told.items() if told.listeners}
