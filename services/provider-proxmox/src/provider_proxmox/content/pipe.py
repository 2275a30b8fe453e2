"""Content that comes piece by piece, sent into a storage: an upload reads a file on a thread, and this is one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import BinaryIO, cast

from common.errors import HypervisorUnavailableError, OperationCancelledError

from provider_proxmox.session.pve import Pve


async def upload(
    pve: Pve, doing: str, node: str, storage: str, content: str, name: str, pieces: AsyncIterator[bytes], size: int
) -> None:
    """Send pieces as one file, and wait until it is in its place; what has this name already is overwritten.

    A failure of the pieces ends it, and nothing of it is kept then; so does a caller that is cancelled.

    Args:
        content: "iso" or "import".
        size: bytes of all pieces; Proxmox VE wants to know it first.
    """
    pipe = _Pipe(pieces, doing)
    sending = asyncio.ensure_future(pve.upload(doing, node, storage, content, name, cast(BinaryIO, pipe), size))
    try:
        upid = await asyncio.shield(sending)
    except asyncio.CancelledError:
        await pipe.stop()
        await asyncio.wait({sending})
        if not sending.cancelled():
            sending.exception()  # nobody asks for it any more
        raise
    await pve.task(doing, upid)


class _Pipe(io.RawIOBase):
    """Read on a thread, filled on the event loop that it was made on."""

    def __init__(self, pieces: AsyncIterator[bytes], doing: str) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pieces = pieces
        self._doing = doing
        self._buffer = memoryview(b"")
        self._taking: asyncio.Task[bytes | None] | None = None
        self._stopped = False

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; fewer than asked for, but never none.

        Raises:
            HypervisorUnavailableError: it was read to its end before; a file would be sent again, this cannot be.
            ProviderError: whatever ended the pieces.
        """
        while not self._buffer:
            self._buffer = memoryview(self._next())
        data = self._buffer if size < 0 else self._buffer[:size]
        self._buffer = self._buffer[len(data) :]
        return bytes(data)

    async def stop(self) -> None:
        """End the reading thread, wherever it is, and let go of the pieces; called on the loop."""
        self._stopped = True
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait({self._taking})

    def _next(self) -> bytes:
        piece = asyncio.run_coroutine_threadsafe(self._take(), self._loop).result()
        if piece is None:
            raise HypervisorUnavailableError(f"{self._doing}: the upload broke off", retry_after=2.0)
        return piece

    async def _take(self) -> bytes | None:
        if self._stopped:
            raise OperationCancelledError(f"{self._doing}: it was cancelled")
        self._taking = asyncio.current_task()
        try:
            return await anext(self._pieces, None)
        finally:
            self._taking = None
