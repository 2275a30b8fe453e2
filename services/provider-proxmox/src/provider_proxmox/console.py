"""Consoles of our machines: the serial line as bytes, the display as VNC without a password of its own.

Proxmox VE opens a port of the node for each, for one client that has its ticket; ticket and password stay here. It
opens as many as are asked for, so there is nobody to take one from: the serial line answers the one that came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

from common import logging, redact, v1
from common.clock import Clock
from common.errors import HypervisorUnavailableError, NotSupportedError, WrongPowerStateError
from providerkit.background import running
from providerkit.driver import Console

from provider_proxmox.guests import Guests
from provider_proxmox.rfb import Buffer, Doorman, log_in
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.rows import GarbledError, mapping, text, whole
from provider_proxmox.session.websocket import Socket

log = logging.get(__name__)

SERIAL: Final = "serial0"
_OPENED: Final = b"OK"
_SIGN_OF_LIFE: Final = b"2"
_ALIVE_EVERY: Final = 25.0
"""Seconds; a proxy in between may take a silent line for a dead one."""
_LOGIN_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Opened:
    """What Proxmox VE answers when a port was opened for a console."""

    port: int
    ticket: str = field(repr=False)
    user: str
    password: str = field(repr=False)
    """For this display alone; empty where the ticket is it."""

    @classmethod
    def of(cls, said: object, doing: str) -> Self:
        """Raises: GarbledError: there is no port or no ticket in it."""
        told = mapping(said, doing)
        port, ticket = whole(told.get("port")), text(told.get("ticket"))
        if not 0 < port < 1 << 16 or not ticket or "\n" in ticket:
            raise GarbledError(f"{doing}: the answer names no port to connect to", retry_after=5.0)
        password = text(told.get("password"))
        for secret in (ticket, password):
            redact.register(secret, slot="console tickets")
        return cls(port, ticket, text(told.get("user")).replace("\n", ""), password)


class Consoles:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, clock: Clock) -> None:
        self._pve = pve
        self._guests = guests
        self._clock = clock

    @asynccontextmanager
    async def open(self, uid: str, kind: v1.ConsoleKind) -> AsyncIterator[Console]:
        """Connect to a console.

        Raises:
            WrongPowerStateError: it is off.
            NotSupportedError: it has no such console.
        """
        doing = f"open the {kind.name.lower() if kind.name else ''} console of machine {uid}"
        guest = await self._guests.get(uid, doing)
        if guest.status != "running":
            raise WrongPowerStateError(f"{doing}: it is off")
        match kind:
            case v1.ConsoleKind.SERIAL:
                opened = self._serial(guest, doing)
            case v1.ConsoleKind.VNC:
                opened = self._display(guest, doing)
            case _:
                raise NotSupportedError(f"{doing}: Proxmox VE has no such console")
        async with opened as console:
            yield console

    @asynccontextmanager
    async def _serial(self, guest: Guest, doing: str) -> AsyncIterator[Console]:
        if guest.config.get(SERIAL) != "socket":
            raise NotSupportedError(f"{doing}: it has no serial port; set {SERIAL} to socket and start it anew")
        opened = Opened.of(await self._pve.post(doing, f"{guest.path}/termproxy", serial=SERIAL), doing)
        async with self._line(guest, opened, doing) as socket:
            buffer = Buffer(socket.read, doing)
            await socket.write(f"{opened.user}:{opened.ticket}\n".encode())
            async with _in_time(doing):
                if await buffer.exactly(len(_OPENED)) != _OPENED:
                    raise HypervisorUnavailableError(f"{doing}: the terminal did not open", retry_after=2.0)
            async with running(self._keep_alive(socket), "console alive"):
                yield _Terminal(socket, buffer)

    async def _keep_alive(self, socket: Socket) -> None:
        try:
            while True:
                await self._clock.sleep(_ALIVE_EVERY)
                await socket.write(_SIGN_OF_LIFE)
        except HypervisorUnavailableError as error:
            log.debug("proxmox.console.gone", error=str(error))  # its reader is told as well

    @asynccontextmanager
    async def _display(self, guest: Guest, doing: str) -> AsyncIterator[Console]:
        said = await self._pve.post(doing, f"{guest.path}/vncproxy", websocket=True, **{"generate-password": True})
        opened = Opened.of(said, doing)
        async with self._line(guest, opened, doing) as socket:
            buffer = Buffer(socket.read, doing)
            async with _in_time(doing):
                await log_in(buffer, socket.write, opened.password or opened.ticket, doing)
            yield _Display(socket, buffer)

    def _line(self, guest: Guest, opened: Opened, doing: str) -> AbstractAsyncContextManager[Socket]:
        """The port that was opened, through the API."""
        path = f"{guest.path}/vncwebsocket"
        return self._pve.websocket(doing, path, port=opened.port, vncticket=opened.ticket)


@asynccontextmanager
async def _in_time(doing: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_LOGIN_SECONDS):
            yield
    except TimeoutError:
        raise HypervisorUnavailableError(f"{doing}: nothing answered behind it", retry_after=2.0) from None


class _Terminal:
    """A serial line. Input goes in frames, output comes without.

    Source: pve-xtermjs, README: `0:LENGTH:data`, `1:COLUMNS:ROWS:`, `2`.
    """

    def __init__(self, socket: Socket, buffer: Buffer) -> None:
        self._socket = socket
        self._buffer = buffer

    async def read(self) -> bytes:
        return await self._buffer.some()

    async def write(self, data: bytes) -> None:
        await self._socket.write(b"0:%d:" % len(data) + data)


class _Display:
    """A display that asks nobody for a password."""

    def __init__(self, socket: Socket, buffer: Buffer) -> None:
        self._socket = socket
        self._buffer = buffer
        self._doorman = Doorman()
        self._for_client: asyncio.Queue[bytes] = asyncio.Queue()
        self._for_client.put_nowait(self._doorman.greeting)
        self._through = asyncio.Event()

    async def read(self) -> bytes:
        if not self._for_client.empty() or not self._through.is_set():
            return await self._for_client.get()
        return await self._buffer.some()

    async def write(self, data: bytes) -> None:
        if self._doorman.through:
            await self._socket.write(data)
            return
        back, rest = self._doorman.take(data)
        if self._doorman.through:
            self._through.set()
        if back:
            self._for_client.put_nowait(back)
        if rest:
            await self._socket.write(rest)
