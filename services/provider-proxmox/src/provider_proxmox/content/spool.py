"""Disk content on its way to Proxmox VE, kept here until all of it has come and is what was promised.

An upload must say first how long it is, and nobody knows how much of a disk holds data before its last part has come.
So it waits in a sparse file, of which only the data take room. What a file holds for certain is written down beside it:
a write that broke off is gone on with, also after a restart, where the directory outlives that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from common import v1
from common.errors import HostFullError, HypervisorUnavailableError, NotSupportedError, StalePreconditionError
from providerkit import extents
from providerkit.extents import Digest

from provider_proxmox.content import qcow2
from provider_proxmox.content.qcow2 import CLUSTER, Layout, Range

T = TypeVar("T")

KEEP_EVERY = 256 << 20
"""Bytes after which what has come is made to last."""
_PIECE = 1 << 20
_NAME = re.compile(r"virtrigaud-disk-(?P<uid>[0-9a-f-]{36})-.+\.(?:img|json)(?:\.part)?")


class Spool:
    """Content of one disk. Not to be used by two at once."""

    def __init__(self, directory: Path, uid: str, disk: str, size: int, doing: str) -> None:
        """Args: size: bytes of what is coming."""
        self._path = directory / f"virtrigaud-disk-{uid}-{disk}.img"
        self._beside = self._path.with_suffix(".json")
        self._size = size
        self._doing = doing
        self._file = -1
        self._digest = Digest()
        self._kept = 0

    async def kept(self) -> int:
        """Everything before this is there, whatever happens; 0 for another content than the one that is coming."""

        def look() -> int:
            try:
                said = json.loads(self._beside.read_text())
                whole = self._path.stat().st_size >= said["position"]
                return int(said["position"]) if whole and said["size"] == self._size else 0
            except (OSError, ValueError, KeyError, TypeError):
                return 0  # there is none, or half of it

        return await asyncio.to_thread(look)

    async def begin(self, position: int) -> None:
        """Go on behind what is kept; what lies behind there is forgotten.

        Raises:
            StalePreconditionError: less is kept.
        """
        if position > (kept := await self.kept()):
            raise StalePreconditionError(f"{self._doing}: {kept} bytes of an earlier write are kept, go on there")

        def open_file() -> int:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.ftruncate(file, position)
            return file

        with self._told():
            self._file = await _to_its_end(open_file)
        self._kept = position
        self._digest = Digest()
        async for start, content in self._content(_data(self._file, position)):
            await self._digest.take(extents.data(start, content))
        await self._digest.take(extents.hole(self._digest.position, position - self._digest.position))
        await self.keep()

    async def write(self, extent: v1.Extent) -> None:
        """The next part.

        Raises:
            NotSupportedError: it does not follow the last one.
            HostFullError: no room here.
        """
        if extent.offset != self._digest.position:
            raise NotSupportedError(
                f"{self._doing}: a gap at {self._digest.position}; here all of a disk is written at once"
            )
        with self._told():
            if extent.data:
                await _to_its_end(partial(os.pwrite, self._file, extent.data, extent.offset))
        await self._digest.take(extent)
        if self._digest.position - self._kept >= KEEP_EVERY:
            await self.keep()

    async def keep(self) -> int:
        """Make what has come last; how far that is."""
        position = self._digest.position

        def note() -> None:
            os.ftruncate(self._file, position)
            os.fsync(self._file)
            part = self._beside.with_suffix(".json.part")
            part.write_text(json.dumps({"size": self._size, "position": position}))
            os.replace(part, self._beside)

        with self._told():
            await _to_its_end(note)
        self._kept = position
        return position

    async def hexdigest(self) -> str:
        """sha256 of everything; what has not come counts as zeros."""
        return await self._digest.hexdigest(self._size)

    async def lay_out(self, capacity: int) -> Layout:
        """What the image of a disk with this capacity is like."""

        def look() -> Layout:
            os.ftruncate(self._file, -(-capacity // CLUSTER) * CLUSTER)  # the last cluster is sent whole
            return Layout(capacity, qcow2.aligned(_data(self._file, capacity)))

        with self._told():
            return await _to_its_end(look)

    async def image(self, layout: Layout) -> AsyncGenerator[bytes]:
        """The image, piece by piece."""
        for part in layout.metadata():
            yield part
        async for _, content in self._content(iter(layout.ranges)):
            yield content

    async def _content(self, ranges: Iterator[Range]) -> AsyncGenerator[tuple[int, bytes]]:
        for start, end in ranges:
            while start < end:
                content = await _to_its_end(partial(os.pread, self._file, min(_PIECE, end - start), start))
                if not content:
                    raise HypervisorUnavailableError(f"{self._doing}: its spool file was cut off")
                yield start, content
                start += len(content)

    async def close(self) -> None:
        """Let go of the file; what is kept stays."""
        file, self._file = self._file, -1
        if file >= 0:
            await _to_its_end(partial(os.close, file))  # the last one to hold a large file waits until its room is free

    async def forget(self) -> None:
        """Remove what is kept."""

        def remove() -> None:
            for path in (self._beside, self._path):  # in this order: the file alone is nothing
                path.unlink(missing_ok=True)

        await _to_its_end(remove)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise HostFullError(
                    f"{self._doing}: no space left in {self._path.parent} for what is coming"
                ) from error
            raise HypervisorUnavailableError(f"{self._doing}: {self._path.parent}: {error.strerror}") from error


async def _to_its_end(call: Callable[[], T]) -> T:
    """Run it on a thread; a caller that is cancelled waits for its end, else the file would be closed under it."""
    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _data(file: int, size: int) -> Iterator[Range]:
    """Parts of a sparse file that are no holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            raise
        if start >= size:
            return
        position = min(os.lseek(file, start, os.SEEK_HOLE), size)
        yield start, position


def clear(directory: Path, uid: str) -> None:
    """Remove what is kept of this machine's disks."""
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None and match["uid"] == uid:
                path.unlink(missing_ok=True)
