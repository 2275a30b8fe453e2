"""core/v1 Events on transitions: one object per (object, reason, message), counted up at most once in ten minutes.

The name is derived from what it says, so a controller that starts anew finds the Event of its predecessor.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from common import logging, tracing
from common.clock import Clock

from .api import Api, ApiError, ConflictError, NotFoundError
from .core import EVENTS

log = logging.get(__name__)

QUIET = 600.0
"""Seconds in which a repeated Event is not written again."""
REMEMBERED = 10_000
WAITING = 1000
MAX_MESSAGE = 1000
"""core/v1 refuses longer notes (1024)."""

NORMAL, WARNING = "Normal", "Warning"
TRACE_ID = "virtrigaud.io/trace-id"
"""Annotation of an Event: the trace of what it tells of, when it was told last."""


@dataclass(frozen=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class _Event:
    subject: Subject
    kind: str
    reason: str
    message: str
    count: int
    trace_id: str


class Recorder:
    """`record` never waits and never fails; `run` writes."""

    def __init__(self, api: Api, clock: Clock, component: str = "virtrigaud-controller") -> None:
        self._api, self._clock, self._component = api, clock, component
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(WAITING)

    def record(self, subject: Subject, kind: str, reason: str, message: str) -> None:
        """Say that something happened to the object. Args: kind: NORMAL or WARNING."""
        message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
        name = self._name(subject, reason, message)
        now = self._clock.monotonic()
        last, count = self._seen.get(name, (now - QUIET, 0))
        if now - last < QUIET:
            return
        self._seen[name] = (now, count + 1)
        self._seen.move_to_end(name)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        tell = log.warning if kind == WARNING else log.info  # Events are kept for an hour, and logs for longer
        where = f"{subject.namespace}/{subject.name}".removeprefix("/")
        tell("object.event", kind=subject.kind, object=where, uid=subject.uid, reason=reason, message=message)
        try:
            self._queue.put_nowait(_Event(subject, kind, reason, message, count + 1, tracing.trace_id()))
        except asyncio.QueueFull:
            log.warning("event.dropped", reason=reason, object=where)

    async def run(self) -> None:
        """Write what was recorded, until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except ApiError as error:
                # An Event is a courtesy: in a namespace that is being deleted it is refused, and nothing is lost.
                log.info("event.refused", reason=event.reason, error=str(error))

    async def _write(self, event: _Event) -> None:
        subject = event.subject
        name = self._name(subject, event.reason, event.message)
        namespace = subject.namespace or "default"
        now = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        marks = {"annotations": {TRACE_ID: event.trace_id}} if event.trace_id else {}
        if event.count > 1:
            again = {"count": event.count, "lastTimestamp": now, "metadata": marks}
            try:
                await self._api.patch(EVENTS, namespace, name, again)
            except NotFoundError:
                pass  # it expired: written anew below
            else:
                return
        manifest = {
            "metadata": {"name": name, "namespace": namespace, **marks},
            "involvedObject": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            "type": event.kind,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": event.count,
        }
        try:
            await self._api.create(EVENTS, namespace, manifest)
        except ConflictError:
            await self._api.patch(EVENTS, namespace, name, {"lastTimestamp": now, "metadata": marks})

    def _name(self, subject: Subject, reason: str, message: str) -> str:
        digest = hashlib.sha256("\0".join((subject.uid, subject.kind, reason, message)).encode()).hexdigest()
        return f"{subject.name[:200]}.{digest[:16]}"
