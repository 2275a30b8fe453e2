"""gRPC without a network: the bytes of the contract between two simulated processes, over the schedule.

Messages are encoded and decoded as on a real wire, errors cross it as status codes with their details, and a connection
breaks when one of its ends dies.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace, TracebackType
from typing import Any

import grpc
import grpc.aio
from common.clock import Clock
from common.rpc.binding import Streams, bind
from common.rpc.channel import Channel
from common.rpc.interceptors import ErrorStatus
from common.tls import Material, Watched
from controller.connection import Target

from .certificates import shake_hands
from .process import here
from .schedule import DUPLICATE, HANG, LATE, REFUSE, Schedule, alive

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Network:
    """Who listens where."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.servers: dict[str, MemoryServer] = {}
        self._on_their_way: set[asyncio.Task[None]] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Something on its way, which nobody can take back."""
        task = asyncio.get_running_loop().create_task(work(), context=contextvars.Context())
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

    def connect(self, target: Target, clock: Clock) -> MemoryChannel:
        """A channel to whoever listens there when a call begins."""
        return MemoryChannel(self, target, clock)

    def cut(self, address: str) -> None:
        """Every connection with this server breaks."""
        if (server := self.servers.get(address)) is not None:
            server.breaks += 1
            server.lose_connections()


class MemoryServer:
    """What `common.rpc.Server` is, for callers of this network."""

    def __init__(self, network: Network, address: str, watched: Watched) -> None:
        self.address, self.watched = address, watched
        self.breaks = 0
        self.lost = asyncio.Event()
        """Set when the connections of now break."""
        self.health = SimpleNamespace(set=self._set_health)
        self.process = here()
        self._network = network
        self._streams = Streams()
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._context = contextvars.copy_context()

    async def _set_health(self, service: str, problem: str | None) -> None:
        """Nobody asks it here: the controller has CheckConnection."""

    def bind(self, service: str, impl: object) -> None:
        bind(self, service, impl, streams=self._streams)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self._handlers += generic_rpc_handlers

    def lose_connections(self) -> None:
        self.lost.set()
        self.lost = asyncio.Event()

    async def __aenter__(self) -> MemoryServer:
        self._network.servers[self.address] = self
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._network.servers.get(self.address) is self:
            del self._network.servers[self.address]
        self._streams.stop()

    def behaviour(self, path: str) -> tuple[Callable[[Any, Any], Any], bool]:
        """The method, with errors turned into status codes, and whether it streams answers."""
        details: Any = SimpleNamespace(method=path, invocation_metadata=())
        handler = next(found for each in self._handlers if (found := each.service(details)) is not None)
        if handler.response_streaming:
            return ErrorStatus().stream(handler.unary_stream or handler.stream_stream, path), True
        return ErrorStatus().unary(handler.unary_unary or handler.stream_unary, path), False

    def run(self, call: Callable[[], Any], name: str) -> asyncio.Task[Any]:
        """A handler's task, which belongs to the server's process."""
        return asyncio.get_running_loop().create_task(call(), name=name, context=self._context.copy())


class _Context:
    """What handlers use of a gRPC context."""

    def __init__(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + timeout if timeout is not None else None

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def abort(self, code: grpc.StatusCode, details: str = "", trailers: Any = ()) -> None:
        raise _Aborted(code, details, trailers)


class _Aborted(grpc.aio.AbortError):  # type: ignore[misc]  # grpc.aio has no types
    """The end of a handler, and what the caller is told."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        super().__init__(details)
        self.code, self.details, self.trailers = code, details, tuple(trailers)


def _failure(code: grpc.StatusCode, details: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


class MemoryChannel(Channel):
    """The product's own channel, with its changes of certificates, over connections of this network."""

    def __init__(self, network: Network, target: Target, clock: Clock) -> None:
        super().__init__(target.address, target.tls, clock=clock, registry=None)
        self._network = network

    def _dial(self) -> _Connection:
        return _Connection(self._network, self.target, self._watched.material if self._watched is not None else None)


class _Connection:
    """What a channel of gRPC is for one set of certificates: connected when a call begins, and again after a break."""

    def __init__(self, network: Network, address: str, material: Material | None) -> None:
        self._network, self._address, self._material = network, address, material
        self._open: set[_Call] = set()
        self._made: tuple[MemoryServer, int] | None = None

    def reach(self) -> MemoryServer | None:
        """The server, once both sides have shown who they are; None when there is none, or they do not agree."""
        server = self._network.servers.get(self._address)
        if server is None or self._made == (server, server.breaks):
            return server
        if self._material is not None and not shake_hands(self._material, server.watched):
            self._network.schedule.say(f"handshake with {self._address} refused")
            return None
        self._made = (server, server.breaks)
        return server

    def _call(self, path: str) -> Callable[..., _Call]:
        def multi(data: Any, *, timeout: float | None, wait_for_ready: bool = False, metadata: Any = ()) -> _Call:
            self._open = {call for call in self._open if not call.over}
            call = _Call(self._network, self, self._address, path, data, timeout)
            self._open.add(call)
            return call

        return multi

    unary_unary = unary_stream = stream_unary = stream_stream = _call

    async def close(self, grace: float | None) -> None:
        for call in self._open:
            call.cancel()


class _Call:
    """One call: awaitable for one answer, `read` for answers."""

    def __init__(
        self, network: Network, line: _Connection, address: str, path: str, data: Any, timeout: float | None
    ) -> None:
        self._network, self._line, self._address, self._path, self._data = network, line, address, path, data
        self.over = False
        self._timeout = timeout
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._server_task: asyncio.Task[Any] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._end: tuple[grpc.StatusCode, str, Any] | None = None
        self._method = "/".join(path.split("/")[-2:]).rpartition(".")[2]

    # -- for one answer ------------------------------------------------------------------------------------------------

    def __await__(self) -> Any:
        return self._unary().__await__()

    async def _unary(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange()
        except TimeoutError:
            self.cancel()
            raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            self.over = True

    async def _exchange(self) -> bytes:
        schedule = self._network.schedule
        fault = await schedule.rpc_before(self._method)
        if fault == HANG:
            await asyncio.Event().wait()
        server = self._line.reach() if fault != REFUSE else None
        if server is None:
            raise _failure(UNAVAILABLE, f"failed to connect to {self._address}")
        answer = await (self._late(server) if fault == LATE else self._once(server))
        if fault == DUPLICATE:  # the request arrives a second time, later; its answer is nobody's
            late = server.run(lambda: self._handle(server), f"duplicate {self._method}")
            late.add_done_callback(lambda task: task.cancelled() or task.exception())
        if await schedule.rpc_after(self._method):
            raise _failure(UNAVAILABLE, "Socket closed")
        await alive()
        if isinstance(answer, grpc.aio.AioRpcError):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    async def _once(self, server: MemoryServer) -> Any:
        """The server's answer, or the break of the connection when it dies before."""
        task = server.run(lambda: self._handle(server), self._method)
        if here() is not None:  # or the caller cannot take it back any more
            self._server_task = task
        async with _until_lost(server) as lost:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            broken = lost.done()
        if broken or not task.done():
            task.cancel()
            return _failure(UNAVAILABLE, "Socket closed")
        if task.cancelled():
            return _failure(grpc.StatusCode.CANCELLED, "cancelled")
        return task.result()

    async def _late(self, server: MemoryServer) -> Any:
        """The request arrives much later: also when its caller has given up, or is dead. Not at another server."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        seconds = self._network.schedule.much_later(f"rpc {self._method}")

        async def arrive() -> None:
            await asyncio.sleep(seconds)
            answer: Any = _failure(UNAVAILABLE, "Socket closed")
            if self._network.servers.get(self._address) is server:
                answer = await self._once(server)
            if not answered.done():
                answered.set_result(answer)

        self._network.spawn(arrive)
        return await answered

    async def _handle(self, server: MemoryServer) -> Any:
        function, _ = server.behaviour(self._path)
        try:
            return await function(self._data, _Context(self._timeout))
        except _Aborted as error:
            return _failure(error.code, error.details, error.trailers)

    # -- for answers ---------------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._stream(), name=f"stream {self._method}")
        answer = await self._answers.get()
        await alive()
        return answer

    async def _stream(self) -> None:
        """Carry answers from the server to the reader."""
        schedule = self._network.schedule
        fault = await schedule.rpc_before(self._method)
        server = self._line.reach() if fault not in (REFUSE, HANG) else None
        if server is None:
            self._ended(UNAVAILABLE, f"failed to connect to {self._address}")
            return
        between: asyncio.Queue[Any] = asyncio.Queue()
        self._server_task = task = server.run(lambda: self._produce(server, between), self._method)
        async with _until_lost(server) as lost:
            while True:
                get = asyncio.ensure_future(between.get())
                await asyncio.wait({get, lost}, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    get.cancel()
                    task.cancel()
                    self._ended(UNAVAILABLE, "Socket closed")
                    return
                kind, value = get.result()
                if kind == "end":
                    self._ended(*value)
                    return
                if await schedule.rpc_after(self._method):
                    task.cancel()
                    self._ended(UNAVAILABLE, "Socket closed")
                    return
                self._answers.put_nowait(value)

    async def _produce(self, server: MemoryServer, between: asyncio.Queue[Any]) -> None:
        function, _ = server.behaviour(self._path)
        try:
            async for each in function(self._data, _Context(self._timeout)):
                await alive()
                between.put_nowait(("answer", each))
        except _Aborted as error:
            between.put_nowait(("end", (error.code, error.details, error.trailers)))
        else:
            between.put_nowait(("end", (grpc.StatusCode.OK, "", ())))

    def _ended(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> None:
        self._end, self.over = (code, details, trailers), True
        self._answers.put_nowait(grpc.aio.EOF)

    async def code(self) -> grpc.StatusCode:
        assert self._end is not None
        return self._end[0]

    async def details(self) -> str:
        assert self._end is not None
        return self._end[1]

    async def trailing_metadata(self) -> Any:
        assert self._end is not None
        return grpc.aio.Metadata(*self._end[2])

    def cancel(self) -> bool:
        self.over = True
        for task in (self._pump, self._server_task):
            if task is not None and not task.done():
                task.cancel()
        return True


class _until_lost:  # lower case: it reads as what it is where it is used
    """A task that ends when the connections with a server break, or it dies; ended with the context."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> asyncio.Task[Any]:
        self._task = asyncio.ensure_future(self._server.lost.wait())
        return self._task

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()


Answers = AsyncIterator[bytes]
