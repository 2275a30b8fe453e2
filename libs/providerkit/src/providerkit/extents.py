"""Content of disks as extents: what the disk plane of every provider shares.

A driver has or wants pieces, (offset, bytes) in ascending order; the wire carries extents that say what is a hole and
prove what is data. Everything here passes through, a piece at a time: no disk is ever held in memory or in a file.

CRC-32C comes from google-crc32c, which runs in hardware; in plain Python it would be slower than any disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import string
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Final

import google_crc32c
from common import v1
from common.errors import ChecksumMismatchError, InvalidSpecError

PIECE: Final = 1 << 20
"""Most bytes of data in an extent that we make; one that we are sent may be as long as a message."""
BLOCK: Final = 64 << 10
"""Zeros become a hole when they fill one of these, aligned."""
_ZEROS: Final = bytes(BLOCK)
_MANY_ZEROS: Final = bytes(64 << 20)

Piece = tuple[int, bytes]
"""Where content is, and the content."""


def data(offset: int, content: bytes) -> v1.Extent:
    """An extent that holds bytes."""
    return v1.Extent(offset=offset, length=len(content), data=content, crc32c=google_crc32c.value(content))


def hole(offset: int, length: int) -> v1.Extent:
    """An extent of zeros."""
    return v1.Extent(offset=offset, length=length)


async def covering(pieces: AsyncIterator[Piece], start: int, end: int) -> AsyncGenerator[v1.Extent]:
    """Extents that cover start..end without a gap: what no piece has is a hole, and so are blocks of zeros.

    Args:
        pieces: ascending; what lies outside of the range is left out.
    """
    position, run_at, run = start, start, bytearray()
    async for offset, content in pieces:
        for at, block in _blocks(offset, content, start, end):
            if block == _ZEROS[: len(block)]:
                continue
            if run and (at != run_at + len(run) or len(run) + len(block) > PIECE):
                yield data(run_at, bytes(run))
                position = run_at + len(run)
                run.clear()
            if not run:
                if at > position:
                    yield hole(position, at - position)
                run_at = position = at
            run += block
    if run:
        yield data(run_at, bytes(run))
        position = run_at + len(run)
    if position < end:
        yield hole(position, end - position)


async def covering_each(
    pieces: AsyncIterator[Piece], ranges: AsyncIterator[tuple[int, int]]
) -> AsyncGenerator[v1.Extent]:
    """Extents that cover each of some ascending ranges, and nothing between them, from one pass over the content."""
    ahead: list[Piece] = []  # one that reaches behind the range of now

    async def until(end: int) -> AsyncIterator[Piece]:
        while True:
            piece = ahead.pop() if ahead else await anext(pieces, None)
            if piece is None:
                return
            if piece[0] + len(piece[1]) > end:
                ahead.append(piece)
            if piece[0] >= end:
                return
            yield piece
            if ahead:
                return

    async for start, end in ranges:
        async for extent in covering(until(end), start, end):
            yield extent


def _blocks(offset: int, content: bytes, start: int, end: int) -> Iterator[Piece]:
    """A piece cut at the borders of blocks and of the range."""
    at, stop = max(offset, start), min(offset + len(content), end)
    while at < stop:
        size = min(BLOCK - at % BLOCK, stop - at)
        yield at, content[at - offset : at - offset + size]
        at += size


class Digest:
    """sha256 of a disk's whole content, holes as the zeros that they are; hashed off the loop, as it takes its time."""

    def __init__(self) -> None:
        self.position = 0
        """Bytes hashed so far."""
        self._hash = hashlib.sha256()

    async def take(self, extent: v1.Extent) -> None:
        """The next extent; a gap before it counts as a hole."""
        await self._zeros(extent.offset - self.position)
        if extent.data:
            await asyncio.to_thread(self._hash.update, extent.data)
            self.position += len(extent.data)
        else:
            await self._zeros(extent.length)

    async def hexdigest(self, size: int) -> str:
        """Of a disk of so many bytes: the rest is a hole."""
        await self._zeros(size - self.position)
        return self._hash.hexdigest()

    async def _zeros(self, count: int) -> None:
        self.position += max(0, count)
        while count > 0:
            some = min(count, len(_MANY_ZEROS))
            await asyncio.to_thread(self._hash.update, memoryview(_MANY_ZEROS)[:some])
            count -= some


class Incoming:
    """The content that one WriteDisk call brings, each extent checked before anybody sees it."""

    def __init__(
        self,
        target: v1.WriteDiskTarget,
        requests: AsyncIterator[v1.WriteDiskRequest],
        progress: Callable[[float, str], None] = lambda _part, _phase: None,
    ) -> None:
        disk = target.disk or v1.DiskRef()
        self.promised = ""
        """The digest that ended it: the content is complete. Empty: it broke off, or more comes in another call."""
        self.position = target.resume_offset
        """How far the content has come."""
        self._what = f"write disk {disk.disk_name} of machine {disk.machine_uid}"
        self._target = target
        self._requests = requests
        self._progress = progress

    async def extents(self) -> AsyncGenerator[v1.Extent]:
        """The extents, ascending from the target's resume_offset; to be asked for once.

        Raises:
            ChecksumMismatchError: an extent is not what was sent.
            InvalidSpecError: one is out of order or lies outside of the disk; or this is no stream of extents.
        """
        async for request in self._requests:
            if self.promised or request.target is not None:
                raise InvalidSpecError(f"{self._what}: a target comes first, a digest last, and extents between them")
            if request.extent is not None:
                self._check(request.extent)
                self.position = request.extent.offset + request.extent.length
                self._progress(self.position / self._target.size_bytes, "writing")
                yield request.extent
            elif request.finish_sha256 is not None:
                self.promised = self._digest(request.finish_sha256)

    def check(self, found: str) -> None:
        """Args: found: sha256 of the content as it stands.

        Raises:
            ChecksumMismatchError: another one was promised.
        """
        if self.promised and found != self.promised:
            raise ChecksumMismatchError(f"{self._what}: its content is not what was sent")

    def _check(self, extent: v1.Extent) -> None:
        where = f"{self._what}: extent at {extent.offset}"
        if extent.offset < self.position or not extent.length:
            raise InvalidSpecError(f"{where} does not lie behind {self.position}")
        if extent.offset + extent.length > self._target.size_bytes:
            raise InvalidSpecError(f"{where} does not lie within {self._target.size_bytes} bytes")
        if not extent.data:
            return
        if len(extent.data) != extent.length:
            raise InvalidSpecError(f"{where} has {len(extent.data)} bytes of data and a length of {extent.length}")
        if google_crc32c.value(extent.data) != extent.crc32c:
            raise ChecksumMismatchError(f"{where} was damaged on its way")

    def _digest(self, text: str) -> str:
        if len(text) != 64 or not set(text) <= set(string.hexdigits):
            raise InvalidSpecError(f"{self._what}: finish_sha256 is no sha256 in hexadecimal")
        return text.lower()
