"""The NBD client against servers that do not mean well, or do not mean anything. A real one answers in test_disks."""

from __future__ import annotations

import asyncio
import struct

import pytest
from common.errors import HypervisorUnavailableError
from provider_proxmox.content.nbd import Disk

HELLO = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
SIZE = 1 << 20


class Writer:
    """Where requests go."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        """There is always room."""


def option(kind: int, of: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, of, kind, len(data)) + data


def part(kind: int, handle: int, data: bytes = b"", *, done: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, handle, len(data)) + data


AGREED = (
    HELLO
    + option(1, 8)
    + option(4, 10, struct.pack(">I", 1) + b"base:allocation")
    + option(1, 10)
    + option(3, 7, struct.pack(">HQH", 0, SIZE, 1))
    + option(1, 7)
)
DATA = part(5, 1, struct.pack(">III", 1, SIZE, 0))
"""The first request is for holes: there are none."""


def disk(*said: bytes) -> Disk:
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(said))
    reader.feed_eof()
    return Disk(reader, Writer(), "test")


async def read(opened: Disk) -> bytes:
    await opened.open()
    return b"".join([content async for _, content in opened.read(0)])


async def test_reads_what_is_sent_in_parts() -> None:
    """Holes inside of an answer are zeros."""
    end = struct.pack(">Q", SIZE - 3) + b"end"
    hole = struct.pack(">QI", 0, SIZE - 3)
    assert await read(disk(AGREED, DATA, part(1, 2, end, done=False), part(2, 2, hole))) == bytes(SIZE - 3) + b"end"


@pytest.mark.parametrize(
    "said",
    [
        [b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(20)],
        [HELLO, b"HTTP/1.1 400 Bad Request" * 2],
        [HELLO, option(1 << 31 | 1, 8, b"not here")],
        [HELLO, option(1, 8), option(1, 10)],
        [HELLO, option(1, 8), option(4, 10, b"\0\0\0\1base:allocation"), option(1, 10), option(1, 7)],
        [HELLO, struct.pack(">QIII", 0x3E889045565A9, 8, 1, 1 << 31)],
        [AGREED],
        [AGREED, part(5, 9, struct.pack(">III", 1, SIZE, 0))],
        [AGREED, part(5, 1, struct.pack(">I", 1))],
        [AGREED, part(5, 1, struct.pack(">II", 1, SIZE) + b"odd")],
        [AGREED, DATA, part(1, 2, b"short")],
        [AGREED, DATA, part(0x8001, 2, b"")],
        [
            AGREED.replace(struct.pack(">HQH", 0, SIZE, 1), b"").replace(
                struct.pack(">II", 3, 12), struct.pack(">II", 3, 0)
            )
        ],
        [AGREED, DATA, part(1, 3, bytes(8) + b"x")],
        [AGREED, DATA, part(1, 2, struct.pack(">Q", SIZE) + b"x")],
        [AGREED, DATA, part(1, 2, bytes(8) + bytes(SIZE + 1))],
        [AGREED, DATA, part(0x8001, 2, struct.pack(">IH", 5, 0))],
        [AGREED, DATA, struct.pack(">IIQ", 0x67446698, 5, 2)],
        [AGREED, DATA, struct.pack(">IHHQI", 0x668E33EF, 1, 1, 2, 1 << 31)],
        [AGREED, DATA, b"something else" * 9],
    ],
)
async def test_what_makes_no_sense_is_an_outage(said: list[bytes]) -> None:
    """Neither endless memory nor wrong content."""
    with pytest.raises(HypervisorUnavailableError, match="test"):
        await read(disk(*said))
