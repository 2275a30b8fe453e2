"""A disk's content as qemu-nbd serves it: any range, whatever it is stored as, and which parts of it are holes.

Only what reading takes, over any two streams. Source: the NBD project, doc/proto.md.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from typing import Protocol

from common.errors import HypervisorUnavailableError

_OPTION_MAGIC, _REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
_REQUEST_MAGIC, _STRUCTURED_MAGIC, _SIMPLE_MAGIC = 0x25609513, 0x668E33EF, 0x67446698
_FIXED, _NO_ZEROES = 1, 2
_GO, _STRUCTURED, _META = 7, 8, 10
_ACK, _INFO, _META_CONTEXT = 1, 3, 4
_INFO_EXPORT = 0
_READ, _DISCONNECT, _BLOCK_STATUS = 0, 2, 7
_DATA, _HOLE, _STATUS = 1, 2, 5
_DONE, _FAILED, _ZERO = 1, 1 << 15, 2
_SHORTEST = {_DATA: 8, _HOLE: 12, _STATUS: 12}
_ALLOCATION = b"base:allocation"

PIECE = 1 << 20
AHEAD = 4
"""So many pieces are asked for before the first is there: the line is never idle."""
LOOK = 1 << 30
"""Bytes whose holes are asked for at a time."""
_MOST_REPLY = 64 << 20
"""A longer one is no reply of a server that means well."""


class Reader(Protocol):
    """Where bytes come from."""

    async def readexactly(self, n: int, /) -> bytes:
        """So many bytes; EOFError if there are fewer."""
        ...


class Writer(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> None:
        """Send."""
        ...

    async def drain(self) -> None:
        """Wait until there is room again."""
        ...


class Disk:
    """One disk, for reading. Not to be used by two at once."""

    def __init__(self, reader: Reader, writer: Writer, doing: str) -> None:
        self.size = 0
        """Bytes, once it is open."""
        self._reader = reader
        self._writer = writer
        self._doing = doing
        self._handle = 0

    async def open(self) -> None:
        """Agree with the server on what is served.

        Raises:
            HypervisorUnavailableError: it does not speak NBD, or not the parts that we need.
        """
        magic, option, flags = struct.unpack(">8sQH", await self._get(18))
        if magic != b"NBDMAGIC" or option != _OPTION_MAGIC or not flags & _FIXED:
            raise self._strange("no NBD server answers")
        await self._send(struct.pack(">I", _FIXED | (flags & _NO_ZEROES)))
        await self._option(_STRUCTURED, b"")
        query = struct.pack(">I", len(_ALLOCATION)) + _ALLOCATION
        told = await self._option(_META, struct.pack(">II", 0, 1) + query)
        if not any(kind == _META_CONTEXT for kind, _ in told):
            raise self._strange("the server does not tell holes")
        for kind, data in await self._option(_GO, struct.pack(">IH", 0, 0)):
            if kind == _INFO and len(data) >= 12 and data[:2] == struct.pack(">H", _INFO_EXPORT):
                (self.size,) = struct.unpack_from(">Q", data, 2)
        if not self.size:
            raise self._strange("the server does not tell the size of the disk")

    async def read(self, start: int) -> AsyncGenerator[tuple[int, bytes]]:
        """Offset and content of every part from there on that is no hole."""
        position = start
        while position < self.size:
            for length, zero in await self._allocation(position, min(LOOK, self.size - position)):
                end = min(position + length, self.size)
                while position < end and not zero:
                    asked: list[tuple[int, int]] = []
                    while position < end and len(asked) < AHEAD:
                        size = min(PIECE, end - position)
                        asked.append((position, size))
                        position += size
                    for offset, content in await self._pieces(asked):
                        yield offset, content
                position = end

    async def close(self) -> None:
        """Say goodbye; the server ends then by itself."""
        await self._request(_DISCONNECT, 0, 0)

    # -- requests --------------------------------------------------------------------------------------------------

    async def _allocation(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths of the parts that follow each other from there on, and whether each is nothing but zeros."""
        handle = await self._request(_BLOCK_STATUS, offset, length)
        found: list[tuple[int, bool]] = []
        done = False
        while not done:
            kind, of, data, done = await self._reply()
            if of != handle:
                raise self._strange("the server answers what nobody asked")
            if kind == _STATUS:
                found += [(size, bool(flags & _ZERO)) for size, flags in struct.iter_unpack(">II", data[4:])]
        if not sum(size for size, _ in found):
            raise self._strange("the server tells nothing of a part of the disk")
        return found

    async def _pieces(self, asked: list[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """All of these, asked for together."""
        handles = {await self._request(_READ, offset, size): (offset, bytearray(size)) for offset, size in asked}
        left = set(handles)
        while left:
            kind, of, data, done = await self._reply()
            if of not in left:
                raise self._strange("the server answers what nobody asked")
            start, content = handles[of]
            if kind == _DATA:
                (offset,) = struct.unpack_from(">Q", data)
                at, part = offset - start, data[8:]
                if at < 0 or at + len(part) > len(content):
                    raise self._strange("the server sends another part than it was asked for")
                content[at : at + len(part)] = part
            if done:
                left.discard(of)
        return [(offset, bytes(content)) for offset, content in handles.values()]

    async def _request(self, kind: int, offset: int, length: int) -> int:
        self._handle += 1
        await self._send(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, kind, self._handle, offset, length))
        return self._handle

    async def _reply(self) -> tuple[int, int, bytes, bool]:
        """Kind, handle and content of the next part of an answer, and whether it is the last one.

        Raises:
            HypervisorUnavailableError: the server could not do it.
        """
        (magic,) = struct.unpack(">I", await self._get(4))
        if magic == _SIMPLE_MAGIC:
            error, handle = struct.unpack(">IQ", await self._get(12))
            if error:
                raise HypervisorUnavailableError(f"{self._doing}: the node cannot read the disk: error {error}")
            return 0, handle, b"", True
        if magic != _STRUCTURED_MAGIC:
            raise self._strange("what the server sends makes no sense")
        flags, kind, handle, length = struct.unpack(">HHQI", await self._get(16))
        if length > _MOST_REPLY:
            raise self._strange("the server sends more than it was asked for")
        data = await self._get(length)
        if length < _SHORTEST.get(kind, 4 if kind & _FAILED else 0) or (kind == _STATUS and length % 8 != 4):
            raise self._strange("the server sends less than belongs together")
        if kind & _FAILED:
            (error,) = struct.unpack_from(">I", data)
            raise HypervisorUnavailableError(f"{self._doing}: the node cannot read the disk: error {error}")
        return kind, handle, data, bool(flags & _DONE)

    async def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """Kinds and contents of the replies before the acknowledgement."""
        await self._send(struct.pack(">QII", _OPTION_MAGIC, option, len(data)) + data)
        found: list[tuple[int, bytes]] = []
        while True:
            magic, of, kind, length = struct.unpack(">QIII", await self._get(20))
            if magic != _REPLY_MAGIC or of != option or length > _MOST_REPLY:
                raise self._strange("no NBD server answers")
            content = await self._get(length)
            if kind == _ACK:
                return found
            if kind & 1 << 31:
                raise self._strange(f"the server refuses option {option}: {content.decode(errors='replace')[:200]}")
            found.append((kind, content))

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise HypervisorUnavailableError(f"{self._doing}: the line broke: {error}", retry_after=2.0) from error

    async def _get(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except (EOFError, OSError) as error:
            raise HypervisorUnavailableError(f"{self._doing}: the line broke off", retry_after=2.0) from error

    def _strange(self, what: str) -> HypervisorUnavailableError:
        return HypervisorUnavailableError(f"{self._doing}: {what}")
