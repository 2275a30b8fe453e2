"""Calling a service of the contract: messages in, messages or ProviderErrors out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import SpanKind

from common import status, tracing, wire
from common.errors import InternalError, InvalidSpecError, OutcomeUnknownError, ProviderError
from common.rpc.channel import Channel
from common.rpc.services import Method, methods, service


class Stub:
    """The methods of one service, by their Python names:

    - one answer: `await stub.get_machine(request, timeout=10.0)`; `timeout` (seconds) must be given;
    - answers: `async for each in stub.watch_machines(request)`, a ResponseStream;
    - requests: give an async iterable of them in place of the request.

    Every method takes `wait_for_ready=True`: wait for the server within the timeout instead of failing at once.
    A failed call raises a ProviderError, never a gRPC error.
    """

    def __init__(self, name: str, calls: dict[str, Callable[..., Any]]) -> None:
        self._name = name
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._calls[name]
        except KeyError:
            raise AttributeError(f"{self._name} has no method {name}: it has {', '.join(self._calls)}") from None


def stub(channel: Channel, service_name: str) -> Stub:
    """Client of a service.

    Raises:
        KeyError: the contract has no such service.
    """
    return Stub(service_name, {each.name: _caller(channel, each) for each in methods(service(service_name))})


def _caller(channel: Channel, method: Method) -> Callable[..., Any]:
    if method.server_streaming:

        def open_stream(
            request: Any = None, *, timeout: float | None = None, wait_for_ready: bool = False
        ) -> ResponseStream:
            return ResponseStream(channel, method, request, timeout, wait_for_ready)

        return open_stream

    async def call(request: Any, *, timeout: float, wait_for_ready: bool = False) -> Any:
        return await _call(channel, method, request, timeout, wait_for_ready)

    return call


async def _call(channel: Channel, method: Method, request: Any, timeout: float, wait_for_ready: bool) -> Any:
    with ExitStack() as stack:
        opened = _Open(stack, channel, method, request)
        kind = "stream_unary" if method.client_streaming else "unary_unary"
        call = opened.begin(kind, timeout=timeout, wait_for_ready=wait_for_ready)
        try:
            data = await call
        except asyncio.CancelledError as error:
            raise opened.cancelled(error) from None
        except grpc.RpcError as error:
            raise opened.failed(error, streaming=False) from error
        opened.code = "OK"
        return opened.decode(data)


class ResponseStream(AsyncIterator[Any]):
    """Answers as they come. Leaving its context, or `cancel`, ends the call; so does the end of the iteration."""

    def __init__(
        self, channel: Channel, method: Method, request: Any, timeout: float | None, wait_for_ready: bool
    ) -> None:
        self._arguments = (channel, method, request)
        self._options: dict[str, Any] = {"timeout": timeout, "wait_for_ready": wait_for_ready}
        self._stack = ExitStack()
        self._opened: _Open | None = None
        self._call: Any = None
        self._ended = False

    def __aiter__(self) -> ResponseStream:
        return self

    async def __anext__(self) -> Any:
        if self._ended:
            raise StopAsyncIteration
        if self._opened is None:
            self._begin()
        assert self._opened is not None
        try:
            data = await self._call.read()
            if data is grpc.aio.EOF:
                raise await self._end()
            return self._opened.decode(data)
        except asyncio.CancelledError as error:
            self._close()
            raise self._opened.cancelled(error) from None
        except grpc.RpcError as error:
            failure = self._opened.failed(error, streaming=True)
            self._close()
            raise failure from error
        except BaseException:
            self._close()
            raise

    async def __aenter__(self) -> ResponseStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the call; whoever waits for an answer sees the end of the iteration or a cancellation. Repeatable."""
        self._close()

    def __del__(self) -> None:
        self._close()

    def _begin(self) -> None:
        channel, method, request = self._arguments
        self._opened = _Open(self._stack, channel, method, request)
        kind = "stream_stream" if method.client_streaming else "unary_stream"
        self._call = self._opened.begin(kind, **self._options)

    async def _end(self) -> BaseException:
        """What the end of the answers means."""
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            details, trailers = await self._call.details(), await self._call.trailing_metadata()
            error: BaseException = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)
            return error
        assert self._opened is not None
        self._opened.code = "OK"
        return StopAsyncIteration()

    def _close(self) -> None:
        self._ended = True
        if self._call is not None:
            self._call.cancel()
        self._stack.close()


class _Open:
    """One call: its span, its metrics, its place on the channel, and what its end means."""

    def __init__(self, stack: ExitStack, channel: Channel, method: Method, request: Any) -> None:
        self.code = "CANCELLED"
        self._stack, self._channel, self._method, self._request = stack, channel, method, request
        self._input_failure: BaseException | None = None

    def begin(self, kind: str, *, timeout: float | None, wait_for_ready: bool) -> Any:
        data = self._encoded()
        if self._method.server_streaming:
            headers = tracing.headers()  # a stream may end in another context than it began in: no span of its own
        else:
            self._stack.enter_context(self._span())
            headers = tracing.headers()
        self._count()
        multi = self._stack.enter_context(self._channel.call(kind, self._method.path))
        return multi(data, timeout=timeout, wait_for_ready=wait_for_ready, metadata=headers)

    def decode(self, data: bytes) -> Any:
        try:
            return self._method.response.loads(data)
        except wire.DecodeError as error:
            raise InternalError(
                f"{self._method.path}: the answer of {self._channel.target} cannot be read: {error}"
            ) from error

    def failed(self, error: grpc.RpcError, *, streaming: bool) -> ProviderError:
        self.code = error.code().name
        return status.from_rpc_error(error, streaming=streaming)

    def cancelled(self, error: asyncio.CancelledError) -> BaseException:
        """Whoever cancelled this task meant it; else the call was cancelled from below, and that is a failed call."""
        if self._input_failure is not None:
            return self._input_failure
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return error
        return OutcomeUnknownError(
            f"{self._method.path}: the connection to {self._channel.target} was closed in mid-call"
        )

    def _span(self) -> Any:
        _, service_name, name = self._method.path.split("/")
        return tracing.span(
            self._method.path[1:], SpanKind.CLIENT, rpc__system="grpc", rpc__service=service_name, rpc__method=name
        )

    def _count(self) -> None:
        if self._channel.metrics is None:
            return
        counted, start = self._channel.metrics.method(self._method.path), time.perf_counter()
        counted.begin()
        self._stack.callback(lambda: counted.end(self.code, time.perf_counter() - start))

    def _encoded(self) -> Any:
        return self._encoded_stream(self._request) if self._method.client_streaming else self._encode(self._request)

    def _encode(self, request: Any) -> bytes:
        if not isinstance(request, self._method.request_class):
            raise TypeError(
                f"{self._method.path} takes a {self._method.request_class.__name__}, got {type(request).__name__}"
            )
        try:
            return self._method.request.dumps(request)
        except wire.EncodeError as error:
            raise InvalidSpecError(str(error)) from error

    async def _encoded_stream(self, requests: AsyncIterable[Any]) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield self._encode(request)
        except Exception as error:
            self._input_failure = error  # gRPC would only cancel the call and keep the reason to itself
            raise
