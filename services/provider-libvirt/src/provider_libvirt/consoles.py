"""Serial console: a libvirt stream, whose callbacks come on libvirt's thread and hop to the asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import libvirt
from common.errors import HypervisorUnavailableError, OperationInProgressError, ProviderError, WrongPowerStateError
from providerkit.driver import Console

from provider_libvirt import making, reading
from provider_libvirt.hypervisor import Hypervisor

PIECE = 64 * 1024
MOST_WAITING = 1 << 20
"""Bytes of output kept for a slow reader; above that libvirt is no longer asked for more."""
LEAVE_SECONDS = 5.0
_READABLE, _WRITABLE = libvirt.VIR_STREAM_EVENT_READABLE, libvirt.VIR_STREAM_EVENT_WRITABLE
_ENDED = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class _Serial:
    """A connected console."""

    def __init__(self, stream: libvirt.virStream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._ended = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    async def read(self) -> bytes:
        await self._readable.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        if not self._ended:
            self._readable.clear()
            if self._waiting >= MOST_WAITING:
                self._listen(_READABLE | _ENDED)
        self._waiting = 0
        return data

    async def write(self, data: bytes) -> None:
        while data and not self._ended:
            try:
                sent = self._stream.send(data[:PIECE])
            except libvirt.libvirtError as error:
                raise HypervisorUnavailableError(f"console: {error.get_error_message()}") from error
            if sent == -2:  # it would block: go on when there is room
                self._writable.clear()
                self._listen(_READABLE | _WRITABLE | _ENDED)
                await self._writable.wait()
                continue
            data = data[sent:]
        if self._ended and data:
            raise WrongPowerStateError("console: the machine ended it")

    def _listen(self, events: int) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # the stream has ended, which the callback tells
            self._stream.eventUpdateCallback(events)

    # -- on libvirt's thread ---------------------------------------------------------------------------------------

    def happened(self, stream: libvirt.virStream, events: int, _opaque: object) -> None:
        """libvirt's callback."""
        pieces, ended = [], bool(events & _ENDED)
        if events & _READABLE:
            with contextlib.suppress(libvirt.libvirtError):
                data = stream.recv(PIECE)
                if isinstance(data, bytes):
                    pieces = [data] if data else []
                    ended = ended or not data
        if ended:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
        elif events & _WRITABLE:
            self._listen(_READABLE | _ENDED)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._note, pieces, ended, bool(events & _WRITABLE))

    def _note(self, pieces: list[bytes], ended: bool, writable: bool) -> None:
        self._pieces += pieces
        self._waiting += sum(map(len, pieces))
        self._ended = self._ended or ended
        if self._pieces or self._ended:
            self._readable.set()
        if writable or self._ended:
            self._writable.set()
        if self._waiting >= MOST_WAITING and not self._ended:
            self._listen(_ENDED)


@contextlib.asynccontextmanager
async def serial(hypervisor: Hypervisor, uid: str, owner: str, *, force: bool) -> AsyncIterator[Console]:
    """Connect to the first serial port.

    Raises:
        WrongPowerStateError: the machine is off.
        OperationInProgressError: somebody else is connected, and `force` is not given.
    """
    loop = asyncio.get_running_loop()

    def connect(connection: libvirt.virConnect) -> tuple[libvirt.virStream, _Serial]:
        found = making.ours(connection, uid, owner)
        domain = found[0] if found is not None else connection.lookupByUUIDString(uid)
        if not domain.isActive():
            raise WrongPowerStateError(f"console of {domain.name()}: the machine is off")
        if reading.parse(domain.XMLDesc(0)).find("devices/serial") is None:
            raise WrongPowerStateError(f"console of {domain.name()}: the machine has no serial port")
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        how = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else libvirt.VIR_DOMAIN_CONSOLE_SAFE
        try:
            domain.openConsole(None, stream, how)
        except libvirt.libvirtError as error:
            if "Active console session exists" in (error.get_error_message() or ""):
                message = f"console of {domain.name()}: somebody else is connected; force takes it over"
                raise OperationInProgressError(message) from error
            raise
        console = _Serial(stream, loop)
        stream.eventAddCallback(_READABLE | _ENDED, console.happened, None)
        return stream, console

    def leave() -> None:
        with contextlib.suppress(libvirt.libvirtError):  # it may have ended by itself
            stream.eventRemoveCallback()
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()

    stream, console = await hypervisor.call(f"open the console of machine {uid}", connect)
    try:
        yield console
    finally:
        with contextlib.suppress(ProviderError):  # a libvirtd that hangs keeps its end until it comes to
            await hypervisor.slow_call(f"leave the console of machine {uid}", lambda _: leave(), timeout=LEAVE_SECONDS)
