"""Recent changes of one resource, kept in memory for watchers.

A watcher is a cursor into the ring, not a queue of its own: a slow one costs the writers nothing and
falls off the end of the ring, where it is told to list again (410 Gone).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec


class Expired(Exception):
    """The changes after the asked revision are no longer all here."""


class OwnerHead(msgspec.Struct, gc=False):
    """What garbage collection reads of an owner reference."""

    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    blockOwnerDeletion: bool | None = None


class MetaHead(msgspec.Struct, gc=False):
    """The part of `metadata` that the server itself looks at."""

    uid: str = ""
    labels: dict[str, str] | None = None
    finalizers: list[str] | None = None
    ownerReferences: list[OwnerHead] | None = None
    deletionTimestamp: str | None = None
    creationTimestamp: str | None = None


class Head(msgspec.Struct, gc=False):
    """An object of which only the metadata matters."""

    metadata: MetaHead


_HEAD = msgspec.json.Decoder(Head)
_ANY = msgspec.json.Decoder()


@dataclass(frozen=True)
class Item:
    """One stored object at one revision."""

    resource: str
    namespace: str
    name: str
    revision: int
    data: bytes = field(repr=False)
    """The object as JSON, its `metadata.resourceVersion` included."""

    @cached_property
    def meta(self) -> MetaHead:
        """The metadata, read once."""
        return _HEAD.decode(self.data).metadata

    def object(self) -> dict[str, Any]:
        """Return a fresh copy of the object; the caller may change it."""
        decoded: dict[str, Any] = _ANY.decode(self.data)
        return decoded


@dataclass(frozen=True)
class Event:
    """One change: `before` is None for a creation, `gone` marks a deletion (`item` is the last state)."""

    item: Item
    before: Item | None
    gone: bool

    @property
    def revision(self) -> int:
        """The revision of this change."""
        return self.item.revision


class Ring:
    """The last changes of one resource, oldest first. Belongs to the event loop's thread."""

    def __init__(self, floor: int, capacity: int, max_bytes: int) -> None:
        """Start empty; `floor` is the revision up to which nothing is known."""
        self._floor = floor
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self._base = 0  # sequence number of _events[0]
        self._bytes = 0
        self._waiting: set[asyncio.Event] = set()

    @property
    def floor(self) -> int:
        """The newest revision whose change was dropped."""
        return self._floor

    def publish(self, event: Event) -> None:
        """Add a change and wake the watchers; never waits for any of them."""
        self._events.append(event)
        self._bytes += len(event.item.data)
        if len(self._events) > self._capacity or self._bytes > self._max_bytes:
            self._drop()
        for bell in self._waiting:
            bell.set()

    def _drop(self) -> None:
        """Forget the older half (at least one, and never the newest)."""
        count = max(1, len(self._events) // 2)
        if len(self._events) == 1:
            return
        dropped = self._events[:count]
        del self._events[:count]
        self._base += count
        self._bytes -= sum(len(e.item.data) for e in dropped)
        self._floor = dropped[-1].revision

    def cursor(self, revision: int) -> int:
        """Return the cursor of the first change after `revision`.

        Raises:
            Expired: changes after it were dropped.
        """
        if revision < self._floor:
            raise Expired
        return self._base + bisect_right(self._events, revision, key=lambda e: e.revision)

    def read(self, cursor: int, limit: int = 256) -> tuple[list[Event], int]:
        """Return up to `limit` changes from `cursor` on, and the cursor behind them.

        Raises:
            Expired: the reader was too slow.
        """
        start = cursor - self._base
        if start < 0:
            raise Expired
        found = self._events[start : start + limit]
        return found, cursor + len(found)

    def after(self, revision: int) -> list[Event]:
        """Return all changes after `revision`.

        Raises:
            Expired: some were dropped.
        """
        return self._events[self.cursor(revision) - self._base :]

    @contextmanager
    def bell(self) -> Iterator[asyncio.Event]:
        """Lend an event that is set whenever something was published."""
        bell = asyncio.Event()
        self._waiting.add(bell)
        try:
            yield bell
        finally:
            self._waiting.discard(bell)

    def wake(self) -> None:
        """Wake the watchers without a change (shutdown, a deleted kind)."""
        for bell in self._waiting:
            bell.set()
