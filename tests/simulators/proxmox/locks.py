"""The two locks of a guest, told apart: the word in its config, and the file that serialises who works on it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import refused
from .pace import Pace
from .world import Guest


class FileLocks:
    """`/var/lock/qemu-server/lock-ID.conf`; held while a call or task works, gone with it."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def held(self, vmid: int) -> bool:
        """Whether somebody works on the guest now."""
        return self._locks[vmid].locked()

    @asynccontextmanager
    async def hold(self, vmid: int, wait: float | None = None) -> AsyncIterator[None]:
        """Hold the lock of a guest, there or not.

        Args:
            wait: seconds of the world before giving up; 10 unless told.
        Raises:
            PveError: somebody else kept it for that long.
        """
        lock = self._locks[vmid]
        try:
            async with asyncio.timeout(self._pace.here(self._pace.lock_wait if wait is None else wait)):
                await lock.acquire()
        except TimeoutError:
            raise refused(f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout") from None
        try:
            yield
        finally:
            lock.release()


def check_lock(guest: Guest, *passes: str) -> None:
    """Refuse when the config carries a lock other than `passes`."""
    if guest.lock and guest.lock not in passes:
        raise refused(f"VM is locked ({guest.lock})")
