"""Watches: a stream of changes, one JSON document a line."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from . import errors, requests, tables
from .negotiation import Form
from .resources import Registry, Resource
from .selection import Selection
from .store import Store
from .watch import Event, Expired, Item, Ring

BOOKMARK_SECONDS = 60.0
_TOO_OLD = "too old resource version: {} ({})"


class Watch(Response):
    """The answer to one watch request. Ends at its time limit, at shutdown, with its kind, or when the client goes."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        selection: Selection,
        params: Mapping[str, str],
        form: Form,
        clock: Callable[[], float],
        stopping: asyncio.Event,
    ) -> None:
        """Read the options.

        Raises:
            ApiError: 400, or 410 at once if the asked revision is too old.
        """
        super().__init__(media_type=form.content_type)
        del self.headers["content-length"]
        self._store, self._registry, self._selection = store, registry, selection
        self._resource: Resource = selection.resource
        self._form, self._clock, self._stopping = form, clock, stopping
        self._include = params.get("includeObject", "Metadata")
        self._ring: Ring = store.ring(self._resource.key)
        self._bookmarks = requests.flag(params, "allowWatchBookmarks")
        self._since = requests.revision(params)
        initial = params.get("sendInitialEvents")
        self._initial = not self._since if initial is None else requests.flag(params, "sendInitialEvents")
        self._marks_initial = initial is not None and self._initial
        if self._marks_initial and not self._bookmarks:
            raise errors.bad_request("sendInitialEvents is forbidden unless allowWatchBookmarks is set")
        seconds = requests.number(params, "timeoutSeconds")
        self._seconds = float(seconds) if seconds else random.uniform(1800, 3600)
        self._first_table = True
        self._closed = False
        self._cursor = 0
        if not self._initial:
            self._cursor = self._start(self._since or store.revision)

    def _start(self, revision: int) -> int:
        if revision > self._store.revision:  # a revision of another life of this store
            raise errors.expired(f"unknown resource version: {revision} (the newest is {self._store.revision})")
        try:
            return self._ring.cursor(revision)
        except Expired as error:
            raise errors.expired(_TOO_OLD.format(revision, self._ring.floor)) from error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send changes until the watch ends."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with self._ring.bell() as bell:
            async with asyncio.TaskGroup() as group:
                listener = group.create_task(self._listen(receive, bell), name="watch listener")
                async with aclosing(self._chunks(bell)) as chunks:
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                listener.cancel()
        if not self._closed:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _listen(self, receive: Receive, bell: asyncio.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._closed = True
        bell.set()

    def _over(self) -> bool:
        if self._closed or self._stopping.is_set():
            return True
        resource = self._resource
        return self._registry.find(resource.group, resource.version, resource.plural) is None

    async def _chunks(self, bell: asyncio.Event) -> AsyncGenerator[bytes, None]:
        if self._initial:
            items = self._store.items(self._resource.key, self._selection.namespace)
            revision = self._store.revision
            self._cursor = self._ring.cursor(revision)
            for start in range(0, len(items), 256):
                part = items[start : start + 256]
                if chunk := b"".join(self._line("ADDED", i) for i in part if self._selection.matches(i)):
                    yield chunk
            if self._marks_initial:
                yield self._bookmark(revision, {"k8s.io/initial-events-end": "true"})
        deadline = time.monotonic() + self._seconds
        marked = time.monotonic()
        while not self._over():
            bell.clear()
            try:
                events, self._cursor = self._ring.read(self._cursor)
            except Expired:
                gone = errors.expired("too old resource version: the watch was too slow; list again").status()
                yield msgspec.json.encode({"type": "ERROR", "object": gone}) + b"\n"
                return
            if events:
                if chunk := b"".join(self._change(event) for event in events):
                    yield chunk
                continue
            now = time.monotonic()
            if now >= deadline:
                return
            if self._bookmarks and now - marked >= BOOKMARK_SECONDS:
                marked = now
                yield self._bookmark(self._store.revision, None)
            await _ring_or_time(bell, min(deadline, marked + BOOKMARK_SECONDS if self._bookmarks else deadline) - now)

    def _change(self, event: Event) -> bytes:
        before = self._selection.matches(event.before)
        after = not event.gone and self._selection.matches(event.item)
        if after:
            return self._line("MODIFIED" if before else "ADDED", event.item)
        return self._line("DELETED", event.item) if before else b""

    def _line(self, kind: str, item: Item) -> bytes:
        if self._form.shape == "plain":
            return b'{"type":"' + kind.encode() + b'","object":' + self._resource.bytes(item) + b"}\n"
        return self._encode(kind, self._resource.load(item))

    def _encode(self, kind: str, obj: dict[str, Any]) -> bytes:
        if self._form.shape == "table":
            meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            obj = tables.table(self._resource, [obj], meta, self._include, self._clock(), headers=self._first_table)
            self._first_table = False
        else:
            obj = tables.partial(obj)
        return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"

    def _bookmark(self, revision: int, annotations: dict[str, str] | None) -> bytes:
        meta: dict[str, Any] = {"resourceVersion": str(revision)}
        if annotations:
            meta["annotations"] = annotations
        resource = self._resource
        obj: dict[str, Any] = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if self._form.shape == "table":
            obj = {**tables.TABLE, "metadata": meta, "columnDefinitions": [], "rows": []}
        elif self._form.shape == "partial":
            obj = tables.partial(obj)
        return msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n"


async def _ring_or_time(bell: asyncio.Event, seconds: float) -> None:
    """Wait for the bell, at most so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await bell.wait()
    except TimeoutError:
        return
