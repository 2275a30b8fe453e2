"""From bytes to an implementation's methods and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import betterproto2
import grpc
import grpc.aio

from common import wire
from common.errors import HypervisorUnavailableError, InvalidSpecError, NotSupportedError, OutcomeUnknownError
from common.rpc.services import Method, methods, service

MAX_UNARY_SECONDS = 300.0
"""What answers once must answer within this time, whatever the caller's deadline: longer work is an operation."""

Context = Any  # grpc.aio.ServicerContext, which has no usable static type


class Handlers(Protocol):
    """Where handlers are registered: a grpc.aio server."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: tuple[grpc.GenericRpcHandler, ...]) -> None: ...


class Streams:
    """The open streams of a server, so that a stopping server can end them."""

    def __init__(self) -> None:
        self.stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """End every stream; each answers UNAVAILABLE, its handler is cancelled."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the current task as an open stream."""
        task = asyncio.current_task()  # kept here: a generator that is collected is closed by another task
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)


def bind(
    server: Handlers,
    service_name: str,
    impl: object,
    *,
    max_unary_seconds: float = MAX_UNARY_SECONDS,
    streams: Streams | None = None,
) -> None:
    """Serve a service of the contract with `impl`.

    Unary methods are `async def get_machine(self, request, context)`; those that stream answers are async generators;
    those that stream requests get an async iterator. A method that `impl` lacks answers NotSupported.

    Raises:
        KeyError: the contract has no such service.
        TypeError: `impl` has none of the service's methods.
    """
    descriptor = service(service_name)
    streams = streams or Streams()
    found = list(methods(descriptor))
    if not any(hasattr(impl, each.name) for each in found):
        raise TypeError(
            f"{type(impl).__name__} has no method of {service_name}: {', '.join(each.name for each in found)}"
        )
    table = {
        each.path.rpartition("/")[2]: _handler(each, getattr(impl, each.name, None), max_unary_seconds, streams)
        for each in found
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, table),))


def _handler(method: Method, function: Callable[..., Any] | None, limit: float, streams: Streams) -> Any:
    if function is None:
        function = _missing(method)
    kind = "_".join("stream" if each else "unary" for each in (method.client_streaming, method.server_streaming))
    behaviour = _streaming(method, function, streams) if method.server_streaming else _unary(method, function, limit)
    return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)


def _missing(method: Method) -> Callable[..., Any]:
    message = f"this server does not support {method.path.rpartition('/')[2]}"
    if method.server_streaming:

        async def refuse_stream(request: Any, context: Context) -> AsyncIterator[Any]:
            raise NotSupportedError(message)
            yield  # makes it a generator

        return refuse_stream

    async def refuse(request: Any, context: Context) -> Any:
        raise NotSupportedError(message)

    return refuse


def _unary(method: Method, function: Callable[..., Any], limit: float) -> Callable[..., Any]:
    async def call(data: Any, context: Context) -> bytes:
        request = _requests(method, data) if method.client_streaming else _request(method, data)
        left = context.time_remaining()
        # A stream of requests lasts as long as the caller's deadline, and one without deadline as long as it needs.
        most = left if method.client_streaming else min(limit, limit if left is None else left)
        try:
            async with asyncio.timeout(most) as scope:
                return method.response.dumps(await function(request, context))
        except TimeoutError:
            if scope.expired():
                raise OutcomeUnknownError(
                    f"no result within {most:.0f} s; repeat the call to learn what is true"
                ) from None
            raise

    return call


def _streaming(method: Method, function: Callable[..., Any], streams: Streams) -> Callable[..., Any]:
    async def call(data: Any, context: Context) -> AsyncIterator[bytes]:
        if streams.stopping:
            raise HypervisorUnavailableError("the server is shutting down")
        request = _requests(method, data) if method.client_streaming else _request(method, data)
        answers = function(request, context)
        try:
            while True:
                try:
                    # A stopping server may cancel what waits in here and nothing else: a cancellation that struck
                    # gRPC's own write would leave the call open until the grace is over.
                    with streams.running():
                        answer = await anext(answers)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if streams.stopping:
                        raise HypervisorUnavailableError("the server is shutting down") from None
                    raise
                yield method.response.dumps(answer)
                if streams.stopping:
                    raise HypervisorUnavailableError("the server is shutting down")
        finally:
            await answers.aclose()  # its own clean-up runs now and not when it is collected

    return call


def _request(method: Method, data: bytes) -> betterproto2.Message:
    try:
        request: betterproto2.Message = method.request.loads(data)
    except wire.DecodeError as error:
        raise InvalidSpecError(f"the request cannot be read: {error}") from error
    unknown = wire.unknown_enums(request)
    if unknown:
        raise InvalidSpecError(f"values that this server does not know: {', '.join(unknown)}; is the caller newer?")
    return request


async def _requests(method: Method, stream: AsyncIterator[bytes]) -> AsyncIterator[betterproto2.Message]:
    async for data in stream:
        yield _request(method, data)
