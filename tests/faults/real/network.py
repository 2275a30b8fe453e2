"""The network between the controllers and a provider: a TCP relay on loopback that can be cut, dead, or slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

PIECE = 16 << 10
LATENCY = 0.25
BYTES_PER_SECOND = 64 << 10
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, not FIN


class Weather(Enum):
    """How the network is."""

    FAIR = "fair"
    CUT = "cut"
    """Connections are reset, and refused."""
    DEAD = "dead"
    """Nothing arrives and nothing is refused, as where packets are dropped; what was sent arrives afterwards."""
    SLOW = "slow"
    """Late, and little at a time."""


class Network:
    """Leave its context to end it. Its thread and event loop are its own: it never stands still with its user."""

    def __init__(self, target: Callable[[], str]) -> None:
        """Args: target: host:port to go on to, asked for each connection; may raise OSError when there is none."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._passable = asyncio.Event()
        self._passable.set()
        self._weather = Weather.FAIR
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        """host:port that leads to the provider."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Network:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def become(self, weather: Weather) -> None:
        """From now on it is like this."""
        self._do(self._become(weather))

    def _do(
        self, work: Coroutine[Any, Any, None]
    ) -> None:  # Any: whatever a coroutine sends and takes, which is nothing
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in self._lines:
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _become(self, weather: Weather) -> None:
        self._weather = weather
        if weather is Weather.CUT:
            await self._close()
        elif self._server is None:
            await self._listen()
        if weather is Weather.DEAD:
            self._passable.clear()
        else:
            self._passable.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        try:
            await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # the cut: nobody waits for us but the streams' own bookkeeping
        finally:
            self._lines.discard(line)

    async def _relay(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            await self._passable.wait()
            host, _, port = self._target().rpartition(":")
            far, far_writer = await asyncio.open_connection(host, int(port))
            async with asyncio.TaskGroup() as group:
                ways = [group.create_task(self._carry(near, far_writer)), group.create_task(self._carry(far, back))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except (OSError, ValueError):
            pass  # the provider is not there: the caller sees its connection reset
        finally:
            for writer in (back, far_writer):
                if writer is not None:
                    _reset(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # one end has gone; the other one is told by the reset
            while data := await reader.read(PIECE):
                if self._weather is Weather.SLOW:
                    await asyncio.sleep(LATENCY + len(data) / BYTES_PER_SECOND)
                await self._passable.wait()
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    wire = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
