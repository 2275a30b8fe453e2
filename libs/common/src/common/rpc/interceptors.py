"""What surrounds every call on the server, from the outside in: tracing, metrics, ErrorStatus; then peers.py."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from opentelemetry import trace

from common import logging, status, tracing
from common.errors import InternalError
from common.metrics import RpcMetrics

log = logging.get(__name__)

Behaviour = Callable[[Any, Any], Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

_FOREIGN = "/grpc."
"""Health and reflection come from gRPC's own packages and keep their own ways."""


class Around(grpc.aio.ServerInterceptor, ABC):  # type: ignore[misc]  # grpc.aio has no types
    """Wraps the behaviour of each handler."""

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        method = details.method
        if handler is None:
            return handler
        ours = not method.startswith(_FOREIGN)
        kind = "_".join(
            "stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming)
        )
        wrap = self.stream if handler.response_streaming else self.unary
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped = (wrap if ours else self.foreign)(getattr(handler, kind), method)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def foreign(self, inner: Behaviour, method: str) -> Behaviour:
        """The behaviour of a method of gRPC's own; left as it is unless a class says otherwise."""
        return inner

    @abstractmethod
    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        """The behaviour that answers with one message, wrapped."""

    @abstractmethod
    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        """The behaviour that answers with a stream, wrapped."""


class ErrorStatus(Around):
    """Turns exceptions into status codes; the only place that aborts a call."""

    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> Any:
            try:
                return await inner(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  # every exception becomes a status; abort logs the unexpected
                await abort(error, method, context)

        return call

    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            answers = inner(request, context)
            try:
                async for answer in answers:
                    yield answer
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  # every exception becomes a status; abort logs the unexpected
                await abort(error, method, context)
            finally:
                await answers.aclose()

        return call


async def abort(error: Exception, method: str, context: Any) -> None:
    """End the call with the status that the error stands for."""
    known = status.provider_error(error)
    if known is None:
        log.exception("rpc.unexpected", method=method)
        known = InternalError("internal error")  # the cause stays in our log
    else:
        log.debug("rpc.refused", method=method, reason=known.reason, message=str(known))
    trace.get_current_span().set_attribute("error.type", known.reason)
    code, details, trailers = status.abortion(known)
    await context.abort(code, details, trailers)


class Metrics(Around):
    """Counts and times each call."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics

    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        counted = self._metrics.method(method)

        async def call(request: Any, context: Any) -> Any:
            counted.begin()
            start, code = time.perf_counter(), "OK"
            try:
                return await inner(request, context)
            except BaseException as error:
                code = _code(error, context)
                raise
            finally:
                counted.end(code, time.perf_counter() - start)

        return call

    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        counted = self._metrics.method(method)

        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            counted.begin()
            start, code = time.perf_counter(), "OK"
            answers = inner(request, context)
            try:
                async for answer in answers:
                    counted.messages.inc()
                    yield answer
            except BaseException as error:
                code = _code(error, context)
                raise
            finally:
                counted.end(code, time.perf_counter() - start)
                await answers.aclose()

        return call


def _code(error: BaseException, context: Any) -> str:
    """The name of gRPC's code for a call that ended with this error."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return "CANCELLED"
    code = context.code()
    return status.code_name(code if isinstance(code, int) else code.value[0])


class Traced(Around):
    """Writes a span of each call into its caller's trace.

    OpenTelemetry's own interceptor keeps what failed as an event with its message and its causes; those may quote boot
    data and credentials. Here a span tells the code, and the reason as `error.type`.
    """

    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> Any:
            with _span(method, context):
                return await inner(request, context)

        return call

    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            answers = inner(request, context)
            with _span(method, context):
                try:
                    async for answer in answers:
                        yield answer
                finally:
                    await answers.aclose()

        return call


_OURS_TO_MEND = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span a failed one; the others are answers. Source: OpenTelemetry, gRPC conventions."""


@contextmanager
def _span(method: str, context: Any) -> Iterator[None]:
    _, service, name = method.split("/")
    attributes = {"rpc__system": "grpc", "rpc__service": service, "rpc__method": name}
    with tracing.serving(method[1:], context.invocation_metadata() or (), **attributes) as span:
        code = "OK"
        try:
            yield
        except BaseException as error:
            code = _code(error, context)
            raise
        finally:
            span.set_attribute("rpc.grpc.status_code", getattr(grpc.StatusCode, code).value[0])
            if code in _OURS_TO_MEND:
                span.set_status(trace.Status(trace.StatusCode.ERROR, code))


class Continued(Around):
    """Goes on with the caller's trace where no spans are written, so that its id stands in our log."""

    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> Any:
            span = tracing.continued(context.invocation_metadata() or ())
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                return await inner(request, context)

        return call

    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        return inner  # a stream lives on when whoever opened it has gone on to other things
