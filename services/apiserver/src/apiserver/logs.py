"""Structured logs as JSON lines on stderr. No body, header or query ever goes into one, nor what quotes them."""

from __future__ import annotations

import logging
import sys
import traceback

import structlog
from structlog.typing import ExcInfo


def configure(level: str) -> None:
    """Set up logging for the whole process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_origin),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING)


def _origin(exc_info: ExcInfo) -> str:
    """Render the types and frames of an exception, its members and causes.

    Their texts stay out: that of a decoder, say, quotes the object, which may be a Secret.
    """
    waiting: list[BaseException] = [exc_info[1]]
    told: list[BaseException] = []
    while waiting:
        error = waiting.pop(0)
        if any(error is other for other in told):
            continue
        told.append(error)
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            waiting.append(cause)
    parts = [
        f"{type(e).__module__}.{type(e).__qualname__}\n{''.join(traceback.format_tb(e.__traceback__))}" for e in told
    ]
    return "\n".join(parts).rstrip()


class _Bridge(logging.Handler):
    """Writes what libraries log in our format; further lines of a message hold objects' reprs, and are left out."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        message = record.getMessage().partition("\n")[0]
        log.log(record.levelno, "library.message", logger=record.name, message=message, exc_info=record.exc_info)
