"""Objects that do not decode into their type: each says so itself, and its kind goes on without it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from common import logging
from common.clock import Clock
from kinds.metadata import Condition

from .api import Api, ApiError, Resource
from .conditions import Wish, find, merged
from .events import WARNING, Recorder, Subject
from .informer import BadObject, Name
from .metrics import Metrics
from .status import READY

log = logging.get(__name__)

REASON = "InvalidObject"


class _Status(msgspec.Struct, gc=False):
    conditions: list[Condition] = []


class _Bad(msgspec.Struct, gc=False):
    status: _Status | None = None


class BadObjects:
    """`report` is given to the informers; `run` writes."""

    def __init__(self, api: Api, recorder: Recorder, metrics: Metrics, clock: Clock) -> None:
        self._api, self._recorder, self._metrics, self._clock = api, recorder, metrics, clock
        self._queue: asyncio.Queue[tuple[Resource[Any], BadObject]] = asyncio.Queue()

    def report(self, resource: Resource[Any], bad: BadObject) -> None:
        """Say it soon."""
        log.warning("object.bad", kind=resource.kind, namespace=bad.meta.namespace, name=bad.meta.name, error=bad.error)
        self._queue.put_nowait((resource, bad))

    async def run(self) -> None:
        """Write what was reported, until cancelled."""
        while True:
            resource, bad = await self._queue.get()
            meta = bad.meta
            message = f"the object cannot be used: {bad.error}; correct it with kubectl edit"
            if meta.deletion_timestamp:
                message += ". Its removal waits for that, because what it stands for cannot be told"
            subject = Subject(resource.api_version, resource.kind, meta.namespace, meta.name, meta.uid)
            self._recorder.record(subject, WARNING, REASON, message)
            if resource.api_version == "v1":
                continue  # not ours to write
            try:
                await self._write(resource, bad, message)
            except ApiError as error:
                log.info("object.bad.unreported", kind=resource.kind, name=meta.name, error=str(error))

    async def _write(self, resource: Resource[Any], bad: BadObject, message: str) -> None:
        before = _conditions(bad.raw)
        known = find(before, READY)
        if known is not None and (known.reason, known.message) == (REASON, message):
            return
        wishes = [Wish(READY, "False", REASON, message)]
        conditions = merged(before, wishes, (READY,), bad.meta.generation, self._clock.now())
        body = {"status": {"conditions": msgspec.to_builtins(conditions)}}
        self._metrics.api.wrote(resource.kind)
        path = resource.path(bad.meta.namespace, bad.meta.name, "status")
        await self._api.request("PATCH", path, body=body, content_type="application/merge-patch+json")


def providers_of(bad: BadObject) -> set[Name]:
    """Providers that a VirtualMachine names which does not decode: they must outlive it, or it can never be removed."""
    try:
        whole = msgspec.json.decode(bad.raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return set()
    found = set()
    for block, key in (("spec", "providerRef"), ("status", "boundProvider")):
        part = whole.get(block)
        ref = part.get(key) if isinstance(part, dict) else None
        if isinstance(ref, dict):
            found.add((str(ref.get("namespace") or bad.meta.namespace), str(ref.get("name") or "")))
    return found


def _conditions(raw: bytes) -> list[Condition]:
    try:
        decoded = msgspec.json.decode(raw, type=_Bad)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    return list(decoded.status.conditions) if decoded.status is not None else []
