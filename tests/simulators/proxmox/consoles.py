"""Consoles of guests: a port for a short while, a ticket for it, and what speaks at its other end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import WSMsgType, web

from .errors import refused
from .rfb import greet
from .tasks import Task
from .world import World

PORTS = range(5900, 6000)
WAITS = 10.0  # seconds for which a port waits for its client
PROTOCOL = "binary"


class Pipe(Protocol):
    """Both ways to something real behind a guest."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass
class Console:
    """One port of a node that waits for its client, or has it.

    Attributes:
        kind: vncproxy or termproxy.
        serial: the port of the guest that a terminal is for.
    """

    vmid: int
    kind: str
    port: int
    user: str
    ticket: str
    password: str
    serial: str = ""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Consoles:
    """The open ports of the nodes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[tuple[str, int], Console] = {}

    def open(self, node: str, vmid: int, kind: str, user: str, ticket: str, serial: str = "") -> Console:
        """Take a port.

        Raises:
            PveError: all of them are taken.
        """
        port = next((port for port in PORTS if (node, port) not in self._open), None)
        if port is None:
            raise refused("unable to find free port (5900-5999)")
        console = Console(vmid, kind, port, user, ticket, secrets.token_hex(4), serial)
        self._open[node, port] = console
        return console

    def find(self, node: str, port: int, vmid: int) -> Console | None:
        """The console at a port, if it still waits for its client."""
        found = self._open.get((node, port))
        return found if found is not None and found.vmid == vmid and not found.came.is_set() else None

    def end(self, vmid: int) -> None:
        """Nothing is behind the consoles of a guest any more."""
        for console in self._open.values():
            if console.vmid == vmid and console.came.is_set():
                console.left.set()

    async def serve(self, console: Console, task: Task) -> None:
        """What the port's task does: wait for the client, then for its leaving."""
        try:
            async with asyncio.timeout(task.world.pace.here(WAITS)):
                await console.came.wait()
        except TimeoutError:
            raise refused("connection timed out") from None
        finally:
            if not console.came.is_set():
                self._open.pop((task.node, console.port), None)
        try:
            self._check(console)
            await console.left.wait()
        finally:
            self._open.pop((task.node, console.port), None)
            console.left.set()

    def _check(self, console: Console) -> None:
        """What the program behind the port refuses."""
        guest = self._world.guests.get(console.vmid)
        if guest is None or guest.run is None:
            raise refused(f"VM {console.vmid} not running")
        if console.kind == "termproxy" and not self.interface(console):
            raise refused("unable to find a serial interface")

    def interface(self, console: Console) -> str:
        """The serial port that a terminal is for; the first one when nobody says."""
        config = self._world.guests[console.vmid].config
        found = sorted(key for key, value in config.items() if key.startswith("serial") and value == "socket")
        return console.serial if console.serial in found else "" if console.serial else next(iter(found), "")


class Stream:
    """The bytes of a websocket, however they were cut into messages."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._rest = b""

    async def some(self) -> bytes:
        """The next bytes; nothing once the client has gone."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is WSMsgType.TEXT:
                return str(message.data).encode()
        return b""

    async def exactly(self, amount: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: the client went first.
        """
        data = b""
        while len(data) < amount:
            more = await self.some()
            if not more:
                raise EOFError
            data += more
        self._rest = data[amount:] + self._rest
        return data[:amount]

    async def until(self, end: bytes) -> bytes:
        """Everything up to a byte, without it."""
        data = b""
        while (byte := await self.exactly(1)) != end:
            data += byte
        return data

    async def write(self, data: bytes) -> None:
        await self._socket.send_bytes(data)


async def attend(console: Console, talk: Coroutine[None, None, None]) -> None:
    """Let the client talk until it goes, or its guest does."""
    console.came.set()
    async with asyncio.TaskGroup() as group:
        talking = group.create_task(talk)
        talking.add_done_callback(lambda _: console.left.set())
        await console.left.wait()
        talking.cancel()


async def screen(stream: Stream, console: Console, name: str) -> None:
    """A VNC server without pictures."""
    if await greet(stream.exactly, stream.write, console.password, name):
        while await stream.some():
            pass  # requests for pictures, keys, pointers


async def terminal(stream: Stream, console: Console, line: Pipe) -> None:
    """termproxy's own protocol: a ticket, then framed input; output comes without frames.

    Source: https://git.proxmox.com/?p=pve-xtermjs.git, README: `0:LENGTH:data`, `1:COLUMNS:ROWS:`, `2`.
    """
    told = await stream.until(b"\n")
    if told.decode(errors="replace") != f"{console.user}:{console.ticket}":
        return
    await stream.write(b"OK")
    async with asyncio.TaskGroup() as group:
        output = group.create_task(forward(line, stream))
        await typed(stream, line)
        output.cancel()


async def typed(stream: Stream, line: Pipe) -> None:
    """What the client sends, until it goes or speaks another language."""
    try:
        while True:
            await frame(stream, line)
    except (EOFError, ValueError):
        return


async def frame(stream: Stream, line: Pipe) -> None:
    """One frame of the client."""
    kind = await stream.exactly(1)
    if kind == b"2":  # a sign of life
        return
    await stream.exactly(1)
    if kind == b"0":
        await line.write(await stream.exactly(int(await stream.until(b":"))))
    elif kind == b"1":
        await stream.until(b":")
        await stream.until(b":")
    else:
        raise ValueError(f"no frame begins with {kind!r}")


async def forward(line: Pipe, stream: Stream) -> None:
    """What the guest prints."""
    while data := await line.read():
        await stream.write(data)


class Echo:
    """A guest's serial line where nothing runs: it prints what is typed."""

    def __init__(self) -> None:
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._typed.get()

    async def write(self, data: bytes) -> None:
        await self._typed.put(data.replace(b"\r", b"\r\n"))

    def close(self) -> None:
        """Nobody listens any more."""
