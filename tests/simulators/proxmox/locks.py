"""The two locks of a guest, told apart: the word in its config, and the file that serialises who works on it."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .errors import refused
from .pace import Pace
from .world import Guest

LEAST = 0.1  # seconds here: a machine that is busy for a moment must not look like a lock


@dataclass
class _File:
    """One lock file: one writer or several readers, first come first served."""

    readers: int = 0
    writer: bool = False
    queue: deque[tuple[asyncio.Future[None], bool]] = field(default_factory=deque)

    def free(self, shared: bool) -> bool:
        return not self.writer and (shared or not self.readers)

    def take(self, shared: bool) -> None:
        if shared:
            self.readers += 1
        else:
            self.writer = True

    def give(self, shared: bool) -> None:
        if shared:
            self.readers -= 1
        else:
            self.writer = False
        self.wake()

    def wake(self) -> None:
        """Hand the lock to those at the head of the queue who can have it."""
        while self.queue:
            waiter, shared = self.queue[0]
            if waiter.done():  # gave up
                self.queue.popleft()
            elif self.free(shared):
                self.queue.popleft()
                self.take(shared)
                waiter.set_result(None)
            else:
                return


class FileLocks:
    """`/var/lock/qemu-server/lock-ID.conf`; held while a call or task works, gone with it."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._files: defaultdict[int, _File] = defaultdict(_File)

    def held(self, vmid: int) -> bool:
        """Whether somebody works on the guest now."""
        return not self._files[vmid].free(shared=False)

    async def acquire(
        self, vmid: int, wait: float | None = None, *, shared: bool = False, log: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """Take the lock of a guest, there or not, and answer how to give it back.

        Args:
            wait: seconds of the world before giving up; 10 unless told.
            shared: with others who share it, as clones of a stopped source do.
            log: of the task that waits.
        Raises:
            PveError: somebody else kept it for that long.
        """
        file = self._files[vmid]
        if not file.queue and file.free(shared):
            file.take(shared)
            return _once(file, shared)
        if log:
            log("trying to acquire lock...")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        file.queue.append((waiter, shared))
        try:
            async with asyncio.timeout(max(LEAST, self.pace.here(self.pace.lock_wait if wait is None else wait))):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                file.give(shared)  # it came in the same moment
            file.wake()
            if not isinstance(error, TimeoutError):
                raise
            raise refused(f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout") from None
        if log:
            log(" OK")
        return _once(file, shared)

    @asynccontextmanager
    async def hold(
        self, vmid: int, wait: float | None = None, *, shared: bool = False, log: Callable[[str], None] | None = None
    ) -> AsyncIterator[None]:
        """`acquire` for the length of a block."""
        release = await self.acquire(vmid, wait, shared=shared, log=log)
        try:
            yield
        finally:
            release()


def _once(file: _File, shared: bool) -> Callable[[], None]:
    given = False

    def release() -> None:
        nonlocal given
        if not given:
            given = True
            file.give(shared)

    return release


def check_lock(guest: Guest, *passes: str) -> None:
    """Refuse when the config carries a lock other than `passes`."""
    if guest.lock and guest.lock not in passes:
        raise refused(f"VM is locked ({guest.lock})")
