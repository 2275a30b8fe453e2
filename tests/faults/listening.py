"""Reads what the simulated programs tell: no secret may show in a log record or in a span, and no bug may be logged."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common import logging as common_logging
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from .people import CANARY

BUGS = (
    "reconcile.bug",
    "provider.connection.bug",
    "operation.bug",
    "watch.changes.bug",
    "watch.observe.bug",
    "rpc.unexpected",
)
"""Events that say that our code met something that it did not foresee."""


class _Ear(io.TextIOBase):
    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        if CANARY in text:
            self._tell(f"a secret shows in the log: {text[:300]}")
        for bug in BUGS:
            if bug in text:
                self._tell(f"a bug was logged: {text[:2000]}")
        return len(text)


class _Spans(SpanProcessor):
    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def on_end(self, span: ReadableSpan) -> None:
        if CANARY in f"{span.name} {span.attributes} {span.status.description} {span.events}":
            self._tell(f"a secret shows in the span {span.name}")


@contextmanager
def listening(tell: Callable[[str], None]) -> Iterator[None]:
    """Send all logs and spans past somebody who tells what must not be."""
    root = logging.getLogger()
    handlers, level, hook, tracer = root.handlers[:], root.level, sys.excepthook, trace.get_tracer
    provider = TracerProvider()
    provider.add_span_processor(_Spans(tell))
    common_logging.setup("simulation", stream=_Ear(tell))  # type: ignore[arg-type]  # a text stream
    tracers = functools.cache(provider.get_tracer)
    trace.get_tracer = lambda name, *_, **__: tracers(name)
    try:
        yield
    finally:
        trace.get_tracer, sys.excepthook = tracer, hook
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)
