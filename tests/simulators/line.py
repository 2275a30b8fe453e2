"""A TCP line to a server that a test can cut: what a network outage does, seen from the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 1 << 16


class Line:
    """Forwards every connection to `port` while it is up; the bytes are not looked at."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self.port = 0

    async def up(self) -> None:
        """Listen, always at the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse new connections and cut those that are open."""
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        if self._forwarding:
            await asyncio.wait(self._forwarding)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        self._ends.add(writer)
        try:
            with contextlib.suppress(OSError):  # either side may break off at any time
                far_reader, far = await asyncio.open_connection(*self._target)
                self._ends.add(far)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, far))
                    group.create_task(_pump(far_reader, writer))
                self._ends.discard(far)
        finally:
            writer.close()
            self._ends.discard(writer)
            self._forwarding.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def line(host: str, port: int) -> AsyncIterator[Line]:
    """A line that is up."""
    made = Line(host, port)
    await made.up()
    try:
        yield made
    finally:
        await made.down()
