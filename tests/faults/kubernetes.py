"""A Kubernetes API in memory, for one event loop: what the controller relies on, and what goes wrong with it.

It keeps the promises of a real one that matter here: resource versions, conflicts, generations, the status subresource,
finalizers and deletion timestamps, ordered watches that can be resumed until they are too old. Every call passes the
schedule twice, before it acts and before it answers: an answer may be lost though the act was done.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from controller.api import TIMEOUT, Api, ApiUnavailableError, error_from

from .schedule import LATE, Schedule

WINDOW = 400
"""Changes that a watch may be resumed across; an older version answers 410."""


@dataclass
class Stored:
    """One object as JSON has it, with the collection that it is in."""

    collection: str
    body: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["metadata"]
        return found


@dataclass
class Change:
    """One line of a watch."""

    version: int
    collection: str
    namespace: str
    body: bytes
    """The whole event, encoded once."""


@dataclass
class Cluster:
    """The state, which outlives every client. A body that was stored is never changed, only replaced."""

    schedule: Schedule
    objects: dict[tuple[str, str, str], Stored] = field(default_factory=dict)
    """By plural path (without namespace), namespace and name."""
    version: int = 1
    writes: list[str] = field(default_factory=list)
    """Every accepted write, in order: "PATCH virtualmachines/shop/web status"."""
    on_write: Callable[[str, dict[str, Any], bytes], None] = lambda collection, body, encoded: None
    """Told of each object that was written, and how it looks on the wire."""
    _log: list[Change] = field(default_factory=list)
    _changed: dict[str, int] = field(default_factory=dict)
    """Version of the last change of each collection."""
    _news: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _floor: int = 0
    """Changes up to this version are forgotten."""
    _uids: int = 0
    _on_their_way: set[asyncio.Task[None]] = field(default_factory=set)

    # -- for tests: the user, whose calls never fail -------------------------------------------------------------------

    def add(self, path: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object as a user does; `path` is "/apis/GROUP/VERSION/PLURAL" without namespace."""
        return self._create(
            path, namespace, {**copy.deepcopy(dict(body)), "metadata": {"name": name, **body.get("metadata", {})}}
        )

    def edit(self, path: str, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """A user's merge patch."""
        stored = self.objects.get((path, namespace, name))
        if stored is not None:
            self._patch(stored, patch, "")

    def remove(self, path: str, namespace: str, name: str) -> None:
        """A user's delete."""
        stored = self.objects.get((path, namespace, name))
        if stored is not None:
            self._delete(path, stored)

    def get(self, path: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object as it is; not to be changed."""
        stored = self.objects.get((path, namespace, name))
        return stored.body if stored is not None else None

    def of(self, plural: str) -> list[dict[str, Any]]:
        """Every object of a plural name."""
        return [stored.body for (path, _, _), stored in self.objects.items() if path.endswith(f"/{plural}")]

    # -- for clients ---------------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, params: Mapping[str, str], body: Any) -> tuple[int, Any]:
        """One call: status and answer."""
        collection, namespace, name, subresource = _parse(path)
        if method == "GET" and not name:
            return 200, self._list(collection, namespace)
        if method == "POST":
            if (collection, namespace, body["metadata"]["name"]) in self.objects:
                return 409, _status(409, "AlreadyExists", f"{body['metadata']['name']} already exists")
            self.writes.append(f"POST {collection.rpartition('/')[2]}/{namespace}/{body['metadata']['name']}")
            return 201, self._create(collection, namespace, body)
        stored = self.objects.get((collection, namespace, name))
        if stored is None:
            return 404, _status(404, "NotFound", f"{path} not found")
        if method == "GET":
            return 200, stored.body
        said = (body or {}).get("metadata", {}).get("resourceVersion")
        if said and said != stored.meta["resourceVersion"]:
            return 409, _status(409, "Conflict", f"{path}: the object has been modified")
        self.writes.append(f"{method} {collection.rpartition('/')[2]}/{namespace}/{name} {subresource}".rstrip())
        if method == "PATCH":
            return 200, self._patch(stored, body, subresource)
        if method == "PUT":
            return 200, self._put(stored, body)
        if method == "DELETE":
            self._delete(collection, stored)
            return 200, stored.body
        return 405, _status(405, "MethodNotAllowed", method)

    async def handle_late(self, seconds: float, method: str, path: str, params: Mapping[str, str], body: Any) -> Any:
        """One call that arrives after so long, whether or not its caller still waits."""
        answered: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()

        async def arrive() -> None:
            await asyncio.sleep(seconds)
            answer = self.handle(method, path, params, body)
            if not answered.done():
                answered.set_result(answer)

        task = asyncio.get_running_loop().create_task(arrive(), context=contextvars.Context())
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)
        return await answered

    async def watch(self, collection: str, namespace: str, version: int) -> AsyncIterator[bytes]:
        """Lines of a watch; an ERROR where what comes next is forgotten, also for one that has fallen behind."""
        while True:
            if version < self._floor:
                error = _status(410, "Expired", "too old resource version")
                yield msgspec.json.encode({"type": "ERROR", "object": error})
                return
            for change in self._log[bisect_right(self._log, version, key=lambda change: change.version) :]:
                version = change.version
                if change.collection == collection and namespace in ("", change.namespace):
                    yield change.body
            if self._changed.get(collection, 0) <= version:
                await self._news[collection].wait()

    def forget(self) -> None:
        """The past is compacted: whoever is not up to date must list again."""
        self._log.clear()
        self._floor = self.version

    # -- state ---------------------------------------------------------------------------------------------------------

    def _list(self, collection: str, namespace: str) -> dict[str, Any]:
        items = [
            stored.body
            for (path, place, _), stored in sorted(self.objects.items())
            if path == collection and namespace in ("", place)
        ]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": items}

    def _create(self, path: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        fresh = {**body, "metadata": dict(body["metadata"])}
        meta = fresh["metadata"]
        self._uids += 1
        meta.setdefault("uid", f"00000000-0000-4000-8000-{self._uids:012d}")
        meta |= {"generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"} | (
            {"namespace": namespace} if namespace else {}
        )
        stored = Stored(path, fresh)
        self.objects[path, namespace, meta["name"]] = stored
        self._tell("ADDED", stored)
        return stored.body

    def _patch(self, stored: Stored, patch: Mapping[str, Any], subresource: str) -> dict[str, Any]:
        """A status patch touches the status alone, any other everything but the status."""
        meant = {key: value for key, value in patch.items() if (key == "status") is (subresource == "status")}
        return self._take(stored, stored.body, _merged(stored.body, meant))

    def _put(self, stored: Stored, body: Mapping[str, Any]) -> dict[str, Any]:
        fresh = {**body, "metadata": {**stored.meta, **body["metadata"]}}
        if "status" in stored.body:
            fresh["status"] = stored.body["status"]
        return self._take(stored, stored.body, fresh)

    def _take(self, stored: Stored, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        meta = after["metadata"] = dict(after["metadata"])
        for kept in ("uid", "resourceVersion", "generation", "deletionTimestamp"):
            if kept in before["metadata"]:
                meta[kept] = before["metadata"][kept]
        if after == before:
            return before  # no change is no new version
        if after.get("spec") != before.get("spec"):
            meta["generation"] = before["metadata"]["generation"] + 1
        stored.body = after
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            del self.objects[stored.collection, meta.get("namespace", ""), meta["name"]]
            self._tell("DELETED", stored)
        else:
            self._tell("MODIFIED", stored)
        return stored.body

    def _delete(self, path: str, stored: Stored) -> None:
        meta = stored.meta
        if not meta.get("finalizers"):
            del self.objects[path, meta.get("namespace", ""), meta["name"]]
            self._tell("DELETED", stored)
        elif not meta.get("deletionTimestamp"):
            meta = {**meta, "deletionTimestamp": "2026-01-01T00:00:00Z", "generation": meta["generation"] + 1}
            stored.body = {**stored.body, "metadata": meta}
            self._tell("MODIFIED", stored)

    def _tell(self, kind: str, stored: Stored) -> None:
        self.version += 1
        self.schedule.say(f"{kind} {stored.collection.rpartition('/')[2]}/{stored.meta['name']}", loud=False)
        stored.body = {**stored.body, "metadata": {**stored.meta, "resourceVersion": str(self.version)}}
        body = msgspec.json.encode({"type": kind, "object": stored.body})
        self.on_write(stored.collection, stored.body, body)
        self._log.append(Change(self.version, stored.collection, stored.meta.get("namespace", ""), body))
        if len(self._log) > WINDOW:
            self._floor = self._log[-WINDOW - 1].version
            del self._log[:-WINDOW]
        self._changed[stored.collection] = self.version
        if (news := self._news.pop(stored.collection, None)) is not None:
            news.set()


class SimulatedApi(Api):
    """The controller's own client, its bytes carried over the schedule instead of a connection."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]  # neither is touched: every way to them is overridden
        self._cluster = cluster

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = TIMEOUT,
    ) -> bytes:
        """One call. Raises: ApiError."""
        what, schedule = f"{method} {path}", self._cluster.schedule
        sent = msgspec.json.decode(msgspec.json.encode(body)) if body is not None else None
        self.check(method, what)
        try:
            async with asyncio.timeout(timeout):
                found = await schedule.api_before(what)
                if found.isdecimal():
                    raise error_from(int(found), b"", what)
                if found == LATE:
                    wait = schedule.much_later(f"api {what}")
                    status, answer = await self._cluster.handle_late(wait, method, path, params or {}, sent)
                else:
                    status, answer = self._cluster.handle(method, path, params or {}, sent)
                encoded = msgspec.json.encode(answer)
                await schedule.api_after(what)
        except TimeoutError as error:
            raise ApiUnavailableError(f"{what}: no answer in time") from error
        if status >= 400:
            raise error_from(status, encoded, what)
        return encoded

    async def lines(self, path: str, params: Mapping[str, str], timeout: float) -> AsyncIterator[bytes]:
        """Lines of a watch, late, or cut off in the middle. Raises: ApiError; a timeout ends it quietly."""
        collection, namespace, _, _ = _parse(path)
        schedule = self._cluster.schedule
        source = self._cluster.watch(collection, namespace, int(params.get("resourceVersion") or 0))
        try:
            async with asyncio.timeout(timeout):
                found = await schedule.api_before(f"WATCH {path}")
                if found.isdecimal():
                    raise error_from(int(found), b"", f"watch {path}")
                async for line in source:
                    if await schedule.watch_line(path):
                        raise ApiUnavailableError(f"watch {path}: cut off")
                    yield line
        except TimeoutError:
            return
        finally:
            await source.aclose()  # type: ignore[attr-defined]  # an async generator


def _parse(path: str) -> tuple[str, str, str, str]:
    """Collection without namespace, namespace, name, subresource."""
    parts = path.strip("/").split("/")
    root, rest = (parts[:2], parts[2:]) if parts[0] == "api" else (parts[:3], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, *more = rest
    name, subresource = [*more, "", ""][:2]
    return "/" + "/".join([*root, plural]), namespace, name, subresource


def _merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch; what it leaves alone is shared with the target. Source: RFC 7396."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            have = merged.get(key)
            merged[key] = _merged(have if isinstance(have, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
