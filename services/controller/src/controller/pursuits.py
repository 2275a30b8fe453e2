"""Which trace a look at an object belongs to, and how long it took to bring the object where it shall be.

A pursuit lasts from a change of an object until the object is Ready for it. Its trace is told by the object's UID and
generation alone (ADR 23): nothing is stored, and a controller that starts in the middle goes on with the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common import tracing
from common.clock import Clock

from .conditions import is_true
from .events import WARNING, Recorder
from .metrics import Metrics
from .objects import created, subject_of
from .status import READY
from .worker import Key

LONGEST = 3600.0
"""Seconds after which a pursuit that does not end goes on in a trace of its own: none shall grow without bound."""


@dataclass(frozen=True)
class _Pursuit:
    uid: str
    generation: int
    version: str
    root: tracing.Root
    cause: str
    """"spec": the object changed; "drift": what it stands for did, or nothing did."""
    begun: float
    """When what it is about happened, as far as is known; seconds since 1970."""
    opened: float


class Pursuits:
    """Those that are under way, by the object's key."""

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        recorder: Recorder,
        find: Callable[[Key], Any | None],
        changed: Callable[[Key], float | None] = lambda key: None,
    ) -> None:
        """Args:
        find: the object as it is known now. Any: of whichever kind.
        changed: when its spec changed, if that is known and was not asked before; seconds since 1970.
        """
        self._clock, self._metrics, self._recorder = clock, metrics, recorder
        self._find, self._changed = find, changed
        self._open: dict[Key, _Pursuit] = {}

    @contextmanager
    def look(self, key: Key) -> Iterator[None]:
        """Held around one look at the object, and around what is said of it."""
        item = self._find(key)
        if item is None:
            yield
            return
        pursuit = self._pursuit(key, item)
        try:
            with tracing.under(pursuit.root):
                yield
        finally:  # also when the controller is ended right then: nobody else would write the root
            after = self._find(key)
            if self._open.get(key) is pursuit and after is not None and _settled(after):
                self._end(key, pursuit, after)

    def gone(self, key: Key) -> None:
        """The object is gone, and nobody may look at it again."""
        if (known := self._open.pop(key, None)) is not None:
            self._write(key, known, "gone")

    def _pursuit(self, key: Key, item: Any) -> _Pursuit:
        known, now = self._open.get(key), self._clock.now().timestamp()
        meta = item.metadata
        if known is not None and (known.uid, known.generation) == (meta.uid, meta.generation):
            if now - known.opened <= LONGEST:
                return known
            self._write(key, known, "unsettled")
            pursuit = self._anew(item, now, known.cause)
        else:
            if known is not None:
                self._write(key, known, "superseded")
            pursuit = self._anew(item, now, "drift") if _settled(item) else self._generation(key, item, now)
        self._open[key] = pursuit
        return pursuit

    def _anew(self, item: Any, now: float, cause: str) -> _Pursuit:
        """In a trace of its own."""
        meta = item.metadata
        root = tracing.root(meta.uid, str(meta.generation), f"{now:.6f}")
        return _Pursuit(meta.uid, meta.generation, meta.resource_version, root, cause, now, now)

    def _generation(self, key: Key, item: Any, now: float) -> _Pursuit:
        """In the trace of the generation."""
        meta = item.metadata
        changed = self._changed(key)
        begun = created(item, now) if meta.generation == 1 else min(now, changed or now)
        if changed is not None or (meta.generation == 1 and item.status.observed_generation is None):
            self._metrics.objects.taken_up(key.kind, now - begun)
        try:
            root = tracing.of_generation(meta.uid, meta.generation, meta.annotations)
        except ValueError as error:
            root = tracing.of_generation(meta.uid, meta.generation, {})
            with tracing.under(root):
                message = f"annotation {tracing.TRACEPARENT}: {error}"
                self._recorder.record(subject_of(item, key.kind), WARNING, "TraceparentIgnored", message)
        return _Pursuit(meta.uid, meta.generation, meta.resource_version, root, "spec", begun, now)

    def _end(self, key: Key, pursuit: _Pursuit, after: Any) -> None:
        del self._open[key]
        if after.metadata.resource_version != pursuit.version:
            self._metrics.objects.settled(key.kind, pursuit.cause, self._clock.now().timestamp() - pursuit.begun)
        self._write(key, pursuit, "ready")

    def _write(self, key: Key, pursuit: _Pursuit, outcome: str) -> None:
        tracing.end(
            pursuit.root, f"{pursuit.cause} {key.kind}", pursuit.begun,
            k8s__namespace=key.namespace, k8s__object=key.name, k8s__uid=pursuit.uid,
            k8s__generation=pursuit.generation, outcome=outcome,
        )  # fmt: skip


def _settled(item: Any) -> bool:
    """What the status says is about the object as it is, and it is all well."""
    status, meta = getattr(item, "status", None), item.metadata
    if status is None or getattr(meta, "deletion_timestamp", None):
        return False
    return status.observed_generation == meta.generation and is_true(status.conditions, READY)
