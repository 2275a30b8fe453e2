"""A cache of all objects of one kind, kept current by list and watch.

One object that does not decode never stops its kind: it is handed to `on_bad` and left out of the cache, so that nobody
acts on what it said before. `bad` tells it from one that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from common import logging
from common.clock import Clock

from .api import Api, ApiError, ApiUnavailableError, ExpiredError, RefusedError, Resource
from .core import Meta
from .metrics import Metrics

log = logging.get(__name__)

PAGE = 500
WATCH_SECONDS = 240
"""The server is asked to end a watch after so long: a connection that died unseen costs no more."""
FIRST_RETRY, MOST_RETRY = 0.5, 30.0

Name = tuple[str, str]
"""Namespace and name."""


class Object(Protocol):
    """What every cached object has. Any: each kind has its own metadata class of the same shape."""

    metadata: Any


M = TypeVar("M")
O = TypeVar("O", bound=Object)  # noqa: E741  # it reads as what it is
Handler = Callable[[O | None, O | None], None]
"""Called with the object before and after a change; None for absent, or for one that cannot be read (see `bad`)."""


class _ListMeta(msgspec.Struct, gc=False):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, gc=False):
    metadata: _ListMeta
    items: list[msgspec.Raw]


class _WatchEvent(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Bare(msgspec.Struct, gc=False):
    metadata: Meta


class _Manager(msgspec.Struct, gc=False):
    time: str = ""
    subresource: str = ""


class _Managed(msgspec.Struct, rename="camel", gc=False):
    managed_fields: list[_Manager] = []


class _Dated(msgspec.Struct, gc=False):
    metadata: _Managed


class _Refusal(msgspec.Struct, gc=False):
    code: int = 0
    message: str = ""


_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What msgspec raises: numbers of 5,000 digits and a thousand brackets have errors of their own."""
_PAGES = msgspec.json.Decoder(_Page)
_EVENTS = msgspec.json.Decoder(_WatchEvent)
_BARE = msgspec.json.Decoder(_Bare)
_DATED = msgspec.json.Decoder(_Dated)
_REFUSALS = msgspec.json.Decoder(_Refusal)


@dataclass(frozen=True)
class BadObject:
    """An object that does not decode into its type."""

    meta: Meta
    error: str
    raw: bytes


class Informer(Generic[O]):
    """`run` it in a task group; read `get` and `values` once `synced` is set."""

    def __init__(
        self,
        api: Api,
        resource: Resource[O],
        clock: Clock,
        rng: random.Random,
        *,
        namespace: str = "",
        selector: str = "",
        page: int = PAGE,
        on_bad: Callable[[Resource[Any], BadObject], None] = lambda resource, bad: None,
        metrics: Metrics | None = None,
    ) -> None:
        """Args: namespace: only this one; empty means all. selector: only objects with these labels."""
        self._api, self.resource, self._clock, self._rng = api, resource, clock, rng
        self._selected = {"labelSelector": selector} if selector else {}
        self._namespace, self._page, self._on_bad = namespace if resource.namespaced else "", page, on_bad
        self._metrics = metrics
        self._decoder = msgspec.json.Decoder(resource.type)
        self._items: dict[Name, O] = {}
        self._handlers: list[Handler[O]] = []
        self._version = ""
        """Where a watch goes on; empty to list anew. Moves with each event: one that breaks off must not show the past
        again, in which a deleted object lives."""
        self._own: dict[Name, set[str]] = {}
        """Versions that we wrote ourselves and the watch has not shown yet."""
        self._writing: Counter[Name] = Counter()
        self._doubted: set[Name] = set()
        """Changed while we write them: by us, or by somebody else."""
        self._others: list[Callable[[Name], None]] = []
        self.synced = asyncio.Event()
        self.trouble = ""
        """Why the last attempt to list or watch failed; empty when it did not."""
        self.bad: dict[Name, BadObject] = {}
        self._changed: dict[Name, float] = {}
        """When the API server took the oldest change of a spec that nobody has looked at yet; seconds since 1970."""

    def subscribe(self, handler: Handler[O]) -> None:
        """Call `handler` on every change from now on, the first list included."""
        self._handlers.append(handler)

    def subscribe_others(self, handler: Callable[[Name], None]) -> None:
        """Call `handler` when an object is not as we left it: somebody else wrote to it, be it to its status alone."""
        self._others.append(handler)

    def get(self, namespace: str, name: str) -> O | None:
        """The cached object."""
        return self._items.get((namespace, name))

    def changed(self, namespace: str, name: str) -> float | None:
        """When the spec changed, in whole seconds since 1970; told once. None: it did not, or nobody knows when."""
        return self._changed.pop((namespace, name), None)

    def values(self) -> Iterable[O]:
        """All cached objects."""
        return self._items.values()

    def __len__(self) -> int:
        return len(self._items)

    @contextlib.contextmanager
    def writing(self, name: Name) -> Iterator[None]:
        """Held while we write to an object: until we have the answer, nobody can tell our change from another's."""
        self._writing[name] += 1
        try:
            yield
        finally:
            self._writing[name] -= 1
            if not self._writing[name]:
                del self._writing[name]
                if name in self._doubted:
                    self._doubted.discard(name)
                    self._tell_others(name)

    def store(self, item: O, instead_of: str) -> None:
        """Take over what the API answered to our own write, so that the next look does not see the past.

        Args:
            instead_of: resource version that the write was based on. If the cache holds another by now, the watch was
                faster than the answer: what it brought may be newer (a deletion), and must not be undone.
        """
        name, version = (item.metadata.namespace, item.metadata.name), item.metadata.resource_version
        cached = self._items.get(name)
        if cached is not None and cached.metadata.resource_version == version:
            self._doubted.discard(name)  # it was our change that the watch has shown
        elif cached is not None and cached.metadata.resource_version == instead_of:
            self._own.setdefault(name, set()).add(version)
            self._set(name, item)

    # -- list and watch --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """List, watch, list again when the watch cannot go on; until cancelled."""
        delay = FIRST_RETRY
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    self.synced.set()
                self.trouble = ""
                await self._watch()
                self._heard()  # the server ended it in good order
                delay = FIRST_RETRY
            except ExpiredError:
                self._version = ""
            except ApiError as error:
                self.trouble = str(error)
                level = log.warning if delay > FIRST_RETRY or not isinstance(error, ApiUnavailableError) else log.info
                level("informer.interrupted", kind=self.resource.kind, error=str(error))
                await self._clock.sleep(delay * (1 + self._rng.random()))
                delay = min(MOST_RETRY, delay * 2)
                if not isinstance(error, ApiUnavailableError):
                    self._version = ""

    async def _list(self) -> str:
        """All pages; answers the resource version to watch from. A page token that expires begins anew (410)."""
        found: set[Name] = set()
        self._own.clear()  # what a list shows, no watch shows again
        token = version = ""
        while True:
            params = self._selected | {"limit": str(self._page)} | ({"continue": token} if token else {})
            body = await self._api.request("GET", self.resource.path(self._namespace), params=params)
            page = self._decoded(_PAGES, body)
            version = version or page.metadata.resource_version
            for raw in page.items:
                found.add(self._take(raw))
            token = page.metadata.continue_
            if not token:
                break
        for name in [name for name in self._items if name not in found]:
            self._remove(name)
        for name in [name for name in self.bad if name not in found]:
            del self.bad[name]
        if self._metrics is not None:
            self._metrics.api.listed(self.resource.kind)
        self._heard()
        return page.metadata.resource_version or version

    def _heard(self) -> None:
        if self._metrics is not None:
            self._metrics.api.contact(self.resource.kind, self._clock.now().timestamp())

    async def _watch(self) -> None:
        """Follow until the server ends it, or it breaks."""
        seconds = int(WATCH_SECONDS * (1 + self._rng.random() / 4))
        params = self._selected | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async for line in self._api.lines(self.resource.path(self._namespace), params, seconds + 15.0):
            event = self._decoded(_EVENTS, line)
            self._heard()
            if event.type == "ERROR":
                refusal = self._decoded(_REFUSALS, event.object)
                kind = ExpiredError if refusal.code == 410 else ApiUnavailableError
                raise kind(f"watch {self.resource.kind}: {refusal.message}", refusal.code)
            meta = self._decoded(_BARE, event.object).metadata
            if event.type == "DELETED":
                self.bad.pop((meta.namespace, meta.name), None)
                self._remove((meta.namespace, meta.name))
            elif event.type in ("ADDED", "MODIFIED") and not self._echo(meta):
                self._take(event.object)
            self._version = meta.resource_version or self._version

    def _decoded(self, decoder: msgspec.json.Decoder[M], data: bytes | msgspec.Raw) -> M:
        """Raises: RefusedError: what was sent, perhaps by something in between, makes no sense: list anew, later."""
        try:
            return decoder.decode(data)
        except _UNREADABLE as error:
            raise RefusedError(f"{self.resource.kind}: the API server's answer does not decode: {error}") from error

    def _echo(self, meta: Meta) -> bool:
        """Whether a watch shows what we wrote ourselves, and the cache has that, or what we wrote after it."""
        name, version = (meta.namespace, meta.name), meta.resource_version
        own, cached = self._own.get(name, set()), self._items.get(name)
        if version not in own or cached is None:
            return False
        known = cached.metadata.resource_version in own  # not so after a list that shows the past once more
        own.discard(version)
        if not own:
            del self._own[name]
        return known

    # -- the cache -------------------------------------------------------------------------------------------------

    def _take(self, raw: msgspec.Raw) -> Name:
        try:
            item = self._decoder.decode(raw)
        except _UNREADABLE as error:
            return self._reject(raw, str(error))
        name = (item.metadata.namespace, item.metadata.name)
        self.bad.pop(name, None)
        self._date(name, item, raw)
        if self._set(name, item):
            if name in self._writing:
                self._doubted.add(name)
            else:
                self._tell_others(name)
        return name

    def _date(self, name: Name, item: O, raw: msgspec.Raw) -> None:
        """Note when a new generation was written: its managers alone know that, and they are not kept."""
        before = self._items.get(name)
        if before is None or name in self._changed or before.metadata.generation == item.metadata.generation:
            return
        with contextlib.suppress(*_UNREADABLE):  # what makes no sense there is no reason to leave the object alone
            managers = _DATED.decode(raw).metadata.managed_fields
            times = [datetime.fromisoformat(each.time) for each in managers if each.time and not each.subresource]
            if times:
                self._changed[name] = max(times).timestamp()

    def _reject(self, raw: msgspec.Raw, error: str) -> Name:
        meta = self._decoded(_BARE, raw).metadata
        name = (meta.namespace, meta.name)
        before = self.bad.get(name)
        self.bad[name] = BadObject(meta, error, bytes(raw))
        if before is None or before.meta.resource_version != meta.resource_version:
            self._on_bad(self.resource, self.bad[name])
        self._remove(name)
        return name

    def _set(self, name: Name, item: O) -> bool:
        """Whether it is another one than before."""
        before = self._items.get(name)
        if before is not None and before.metadata.resource_version == item.metadata.resource_version:
            return False
        if before is not None and before.metadata.uid != item.metadata.uid:
            self._remove(name)
            before = None
        self._items[name] = item
        self._tell(before, item)
        return True

    def _remove(self, name: Name) -> None:
        self._own.pop(name, None)
        self._changed.pop(name, None)
        before = self._items.pop(name, None)
        if before is not None:
            self._tell(before, None)

    def _tell(self, before: O | None, after: O | None) -> None:
        for handler in self._handlers:
            handler(before, after)

    def _tell_others(self, name: Name) -> None:
        for handler in self._others:
            handler(name)
