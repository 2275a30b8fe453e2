"""Structured logs: events with fields, to stderr, as JSON or text, with secrets cut out and the trace's ids attached.

    log = logging.get(__name__)
    log.info("machine.power.set", uid=uid, want="on")

Every record takes the same way, those of the standard library's loggers (grpc, kubernetes, aiohttp) too.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson
import structlog
from opentelemetry import trace

from common import redact

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "text"]

_NOISY = {
    "grpc": "WARNING",
    "aiohttp.access": "WARNING",
    "asyncio": "WARNING",
    "kubernetes": "WARNING",
    # A stream that its client left is closed outside of its task; the span has ended well, its context is gone anyway.
    "opentelemetry.context": "CRITICAL",
}
_OWN_KEYS = frozenset({"event", "level", "timestamp", "logger", "service", "exception", "trace_id", "span_id"})


def setup(service: str, level: str = "info", format: str = "json", stream: TextIO | None = None) -> None:
    """Route every log record of the process to `stream` (stderr); a service calls it once, at its start.

    Raises:
        ValueError: unknown level or format.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is none of debug, info, warning, error")
    if format not in ("json", "text"):
        raise ValueError(f"log format {format!r} is none of json, text")
    out = stream if stream is not None else sys.stderr
    renderer = _json if format == "json" else _Text(colors=out.isatty())
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_CHAIN,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Service(service), renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(max(number, logging.getLevelNamesMapping()[least]))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module. Before `setup` it obeys the standard library's defaults: warnings, to stderr."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_CHAIN,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def bind(**fields: object) -> None:
    """Attach fields to every record of this task and of those it starts."""
    structlog.contextvars.bind_contextvars(**fields)


class _Handler(logging.StreamHandler[TextIO]):
    """Complains of a record on stderr, but for the stream's own failure: stderr may be where that leads (`corelog`)."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _Service:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = self._name
        return event


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _render_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn exc_info into text here, so that the redaction after it sees the text; locals are never shown."""
    info = event.pop("exc_info", None)
    if info:
        if info is True:
            info = sys.exc_info()
        elif isinstance(info, BaseException):
            info = (type(info), info, info.__traceback__)
        if info[0] is not None:
            event["exception"] = "".join(traceback.format_exception(*info)).rstrip()
    event.pop("stack_info", None)
    return event


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, item in list(event.items()):
        if key in ("_record", "_from_structlog"):  # structlog's own, removed before rendering
            continue
        shown = redact.text(key)
        if shown != key:
            del event[key]
        event[shown] = redact.text(str(item)) if key in _OWN_KEYS else redact.value(key, item)
    return event


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate or an integer beyond 64 bits, which the slower encoder can write
        return json.dumps(event, default=str)


class _Text:
    """For people at a terminal."""

    def __init__(self, *, colors: bool) -> None:
        self._renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        event.pop("service", None)
        return str(self._renderer(logger, name, event))


_CHAIN: list[Any] = [  # structlog's processors have no common static type
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    _add_trace,
    _render_exception,
    _redact,
]
"""What every record goes through before it is rendered, whoever wrote it."""


def _log_uncaught(kind: type[BaseException], error: BaseException, trace_back: TracebackType | None) -> None:
    """The last words of a dying process take the same way as every other: a traceback may quote a secret."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace_back)
        return
    get("process").critical("process.crashed", exc_info=(kind, error, trace_back))
