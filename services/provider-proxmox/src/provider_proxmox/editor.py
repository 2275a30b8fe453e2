"""Changes of one machine as one call, which Proxmox VE refuses if the configuration is no longer the one that they were
built from.

What a running guest cannot take at once waits for its next start and is told so. A device that Proxmox VE could not
plug in is another matter: it stays in the configuration all the same, and would be there one day without anybody's
knowing; so it is taken out again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from common import logging
from common.errors import (
    HypervisorUnavailableError,
    MachineNotFoundError,
    OperationInProgressError,
    OutcomeUnknownError,
    ProviderError,
    StalePreconditionError,
)

from provider_proxmox import locks
from provider_proxmox.config import disks
from provider_proxmox.config.shape import Shape, failing, parameters, shape_of, taking_back
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import Stamp

log = logging.get(__name__)

ATTEMPTS: Final = 3
"""So often a change is built anew upon what somebody else has changed meanwhile."""
_NEW_VOLUME: Final = re.compile(r"[\w.-]+:\d+(?:\.\d+)?(?:,|$)")

Build = Callable[[Shape], Shape]
"""Gets a machine and answers with what it shall be. Pure: it may be asked more than once."""


@dataclass
class _Waiting:
    """Changes of one machine that are being collected."""

    shape: Shape | None = None
    """The machine as it was read when the first of them came: what they are judged by at once. They are built anew
    upon what is true when they are made."""
    builds: list[Build] = field(default_factory=list)
    after: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What takes a call of its own, when those are made."""


class Editor:
    """Makes changes of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, snapshots: Snapshots) -> None:
        self._pve = pve
        self._guests = guests
        self._snapshots = snapshots
        self._waiting: dict[str, _Waiting] = {}

    @asynccontextmanager
    async def together(self, uid: str) -> AsyncIterator[None]:
        """Changes of this machine that are made inside of this context are one call at its end, or none of them is."""
        self._waiting[uid] = _Waiting()
        try:
            yield
        finally:
            waiting = self._waiting.pop(uid)
        if waiting.builds:
            await self.edit_now(uid, "change", joined(waiting.builds))
        for call in waiting.after:
            await call()

    async def edit(self, uid: str, what: str, build: Build) -> None:
        """Make a change, together with others if they are being collected.

        Raises:
            ProviderError: what `build` refuses; at once, also where the change is made later.
        """
        waiting = self._waiting.get(uid)
        if waiting is None:
            await self.edit_now(uid, what, build)
            return
        joined([*waiting.builds, build])(await self.shape(uid, what))
        waiting.builds.append(build)

    async def afterwards(self, uid: str, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call of its own when the changes that are being collected are made; at once where none are."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            await call()
        else:
            waiting.after.append(call)

    async def edit_now(self, uid: str, what: str, build: Build) -> None:
        """Make a change by itself.

        Raises:
            LockedError: a task holds the configuration, or has left its lock behind.
        """
        for attempt in range(ATTEMPTS):
            guest, record, doing = await self.seen(uid, what)
            before = shape_of(guest, record)
            after = build(before)
            said = parameters(before, after, str(guest.config.get("description", "")))
            if not said:
                return
            await locks.require_free(self._pve, guest, doing)
            try:
                await self._write(guest, doing, said)
            except StalePreconditionError:
                if attempt + 1 == ATTEMPTS:
                    raise
            except (HypervisorUnavailableError, OutcomeUnknownError, OperationInProgressError):
                raise  # nobody knows, or nothing was done
            except ProviderError:
                await self._take_back(guest, before, after, doing)
                raise
            else:
                return

    async def _write(self, guest: Guest, doing: str, said: dict[str, object]) -> None:
        """A volume that has to be made takes its time, which a task may have."""
        makes = any(disks.is_slot(key) and _NEW_VOLUME.match(str(value)) for key, value in said.items())
        if makes or "tpmstate0" in said:
            await self._guests.change_by_task(guest, doing, None, **said)
        else:
            await self._guests.change(guest, doing, **said)

    async def _take_back(self, guest: Guest, before: Shape, after: Shape, doing: str) -> None:
        """Take out what could not be plugged in, and leave in what could not be unplugged; the stamp says so, too."""
        for attempt in range(ATTEMPTS):
            now = await self._pve.refresh(guest.vmid, doing)
            failed = failing(guest, now) if now is not None else set()
            # Proxmox VE writes key after key: the stamp may wait for a volume that could not be made.
            waits = now is not None and "description" in now.pending and "description" not in guest.pending
            if now is None or not (failed or waits):
                return
            said = taking_back(guest, now, before, after, failed) if failed else {}
            if waits and "description" not in said:
                said["revert"] = ",".join(filter(None, [str(said.get("revert", "")), "description"]))
            try:
                clean = await self._guests.change(now, doing, **said)
            except StalePreconditionError:
                if attempt + 1 == ATTEMPTS:
                    raise
                continue
            log.warning("proxmox.change.taken_back", vmid=guest.vmid, keys=sorted(failed))
            made = [key for key in failed - set(before.config) if _NEW_VOLUME.match(str(after.config.get(key, "")))]
            fresh = {drive.volume for key in made if (drive := disks.drive_in(now.pending, key)) is not None}
            if left := [key for key, volume in disks.unused(clean.config).items() if volume in fresh]:
                await self._guests.change(clean, doing, delete=",".join(left))  # volumes that nobody has written to
            return

    async def seen(self, uid: str, what: str) -> tuple[Guest, Stamp, str]:
        """Our machine as it is now, its stamp, and what is being done."""
        doing = f"{what} of machine {uid}"
        guest = await self._snapshots.finish(await self._guests.get(uid, doing), doing)
        record = guest.stamp
        if record is None:
            raise MachineNotFoundError(f"{doing}: it lost our stamp meanwhile")
        return guest, record, doing

    async def shape(self, uid: str, what: str) -> Shape:
        """The machine as it is; read once for changes that are being collected."""
        waiting = self._waiting.get(uid)
        if waiting is not None and waiting.shape is not None:
            return waiting.shape
        guest, record, _ = await self.seen(uid, what)
        shape = shape_of(guest, record)
        if waiting is not None:
            waiting.shape = shape
        return shape


def joined(builds: Sequence[Build]) -> Build:
    """One change of several, each built upon what the ones before it make of the machine."""

    def build(shape: Shape) -> Shape:
        for each in builds:
            shape = each(shape)
        return shape

    return build
