"""Machines go, with every volume that we made for them and none that we did not.

A delete of Proxmox VE takes each volume of the configuration and of its snapshots whose *name* carries the VMID,
whoever made it; others stay. So what is foreign and has such a name is handed to a guest of its own first (see
`keeping`). Volumes of that name which no configuration mentions are not known to be ours: `destroy-unreferenced-disks`
is never asked for.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from common import faults, logging
from common.errors import (
    MachineNotFoundError,
    OperationInProgressError,
    PermissionMissingError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit.driver import Progress
from providerkit.planner import ADOPTED_SETTING

from provider_proxmox import locks
from provider_proxmox.claiming import MAKING, Claims
from provider_proxmox.config import disks, hardware
from provider_proxmox.config.making import UNNAMED_DISKS
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.guests import Guests
from provider_proxmox.keeping import Keeper
from provider_proxmox.locks import HIBERNATED
from provider_proxmox.power import Power
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import FileLockedError

log = logging.get(__name__)

SPARED = faults.declare("proxmox.destroy.spared", "it is off, disks of others are safe, the guest is still there")
DESTROYED = faults.declare("proxmox.destroy.done", "the guest is gone, its first-boot files are not")

_ATTEMPTS = 4
"""So often a machine is looked at anew that somebody else changed, or started, while it was being destroyed."""
_HOLDERS: Final = frozenset(
    {"qmcreate", "qmrestore", "qmclone", "qmsnapshot", "qmdelsnapshot", "qmrollback", "qmigrate", "hamigrate", "vzdump",
     "qmsuspend", "qmtemplate", "qmmove", "qmconfig", "qmdestroy"}
)  # fmt: skip
"""Kinds of tasks that lock a configuration and end by themselves."""


class Remover:
    """Removes machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, claims: Claims, power: Power, boot: BootData, keeper: Keeper) -> None:
        self._pve = pve
        self._guests = guests
        self._claims = claims
        self._power = power
        self._boot = boot
        self._keeper = keeper

    async def destroy(self, uid: str, progress: Progress) -> None:
        """Remove the machine, cutting its power, and all that is ours of it; absent is success.

        Raises:
            ForeignMachineError: a guest with this UID carries another installation's stamp.
            PermissionMissingError: somebody has protected it.
            OperationInProgressError: something holds it.
        """
        doing = f"destroy machine {uid}"
        volumes: set[str] = set()
        found = await self._guests.find_all(uid, doing)
        if not found:  # one that is being made tells only at its end whose it is
            await self._claims.wait_unstamped(doing)
            found = await self._guests.find_all(uid, doing)
        for _ in range(_ATTEMPTS):
            if not found:
                await self._boot.drop(uid, doing, known=volumes)
                return
            for guest in found:
                volumes |= set(guest.stamp.volumes) if guest.stamp is not None else set()
                await self.remove(guest, doing, progress)
            found = await self._guests.find_all(uid, doing, rescan=False)
        raise OperationInProgressError(f"{doing}: it is made anew again and again", retry_after=10.0)

    async def remove(self, guest: Guest, doing: str, progress: Progress | None = None) -> None:
        """Remove one guest of ours."""
        tell = progress or (lambda part, step: None)
        for attempt in range(_ATTEMPTS):
            now = await self._still_ours(guest, doing)
            if now is None:
                return
            try:
                await self._remove(now, doing, tell)
            except (FileLockedError, MachineNotFoundError, StalePreconditionError, WrongPowerStateError) as error:
                # Somebody holds, moved, changed or started it: whatever has that VMID now is judged again. A task that
                # removes it, as a provider that died left one behind, is waited for, and what we wanted.
                log.info("proxmox.destroy.again", vmid=guest.vmid, error=str(error))
                if isinstance(error, FileLockedError):
                    await locks.wait_tasks(self._pve, now, doing, _HOLDERS)
                if attempt + 1 == _ATTEMPTS and await self._still_ours(guest, doing) is not None:
                    raise
            else:
                return

    async def _remove(self, guest: Guest, doing: str, tell: Progress) -> None:
        tell(0.1, "waiting for what holds it")
        guest = await self._unlocked(guest, doing)
        guest = await self._unprotected(guest, doing)
        guest = await self._without_ha(guest, doing)
        tell(0.3, "powering off")
        await self._power.cut(guest, doing)
        tell(0.5, "keeping disks that are not ours")
        now = await self._still_ours(guest, doing)
        if now is None:
            return
        await self._spare(now, doing)
        await faults.point(SPARED)
        tell(0.7, "destroying the guest")
        now = await self._still_ours(guest, doing)  # a VMID is never trusted from memory
        if now is None:
            return
        if left := foreign(now):
            raise StalePreconditionError(
                f"{doing}: {', '.join(left)} of guest {now.vmid} came just now and are not ours"
            )
        await self._pve.task(doing, await self._pve.delete(doing, now.path, purge=True))
        await self._pve.refresh(now.vmid, doing)
        log.info("proxmox.guest.removed", uid=now.stamp.uid if now.stamp else "", vmid=now.vmid)
        await faults.point(DESTROYED)

    async def _spare(self, guest: Guest, doing: str) -> None:
        """Bring volumes into safety that a delete would take and that are not ours.

        What only a snapshot mentions is unplugged when that goes, and can be brought into safety then.
        """
        held = [await self._pve.get(doing, f"{guest.path}/snapshot/{each['name']}/config") for each in guest.snapshots]
        text = {"description": guest.config.get("description", "")}
        if any(foreign(replace(guest, config={**config, **text})) for config in held):
            await self._keeper.drop_snapshots(guest, doing)
            guest = await self._still_ours(guest, doing) or guest
        await self._keeper.keep(guest, foreign(guest), doing)

    async def _still_ours(self, guest: Guest, doing: str) -> Guest | None:
        """The guest as it is now; None if it is gone or its VMID is another's meanwhile."""
        now = await self._pve.refresh(guest.vmid, doing)
        mark, was = now.stamp if now is not None else None, guest.stamp
        same = mark is not None and was is not None and (mark.uid, mark.owner) == (was.uid, was.owner)
        return now if same else None

    async def _unlocked(self, guest: Guest, doing: str) -> Guest:
        """Wait for the task that has locked it.

        Raises:
            LockedError: no task that we can see holds it.
        """
        if not guest.lock or guest.lock == HIBERNATED:
            return guest
        if guest.lock in MAKING:
            await self._claims.settled(guest.vmid, doing)
        else:
            await locks.wait_tasks(self._pve, guest, doing, _HOLDERS)
        now = await self._still_ours(guest, doing)
        if now is None:
            raise MachineNotFoundError(f"{doing}: guest {guest.vmid} went away meanwhile")
        await locks.require_free(self._pve, now, doing, but=(HIBERNATED,))
        return now

    async def _unprotected(self, guest: Guest, doing: str) -> Guest:
        """Take the protection off that its spec asked for, or that a copy that is not made yet brought along.

        Raises:
            PermissionMissingError: a person has set it.
        """
        if str(guest.config.get("protection", "0")) != "1":
            return guest
        mark = guest.stamp
        asked = mark.settings.get("proxmox.protection", "") if mark is not None and mark.made else "true"
        if not asked or hardware.OUR_KEYS["proxmox.protection"].parameter(asked) != "1":
            raise PermissionMissingError(
                f"{doing}: somebody has protected guest {guest.vmid}; take the protection off on Proxmox VE first"
            )
        return await self._guests.change(guest, doing, protection=False)

    async def _without_ha(self, guest: Guest, doing: str) -> Guest:
        """HA would start it again, or move it away meanwhile."""
        if not guest.ha:
            return guest
        with contextlib.suppress(ResourceNotFoundError):  # somebody was faster
            await self._pve.delete(doing, f"cluster/ha/resources/vm:{guest.vmid}")
        now = await self._still_ours(guest, doing)
        if now is None:
            raise MachineNotFoundError(f"{doing}: guest {guest.vmid} went away meanwhile")
        return now


def foreign(guest: Guest) -> dict[str, str]:
    """Volumes that a delete would take and that we did not make, by slot.

    Ours are the disks of the stamp, in their slots wherever they have been moved to since, those that came with the
    template, and what firmware and TPM keep. Of a guest that is not made yet all is ours but disks that were there
    before; of one that was adopted nothing is.
    """
    mark = guest.stamp
    taken = {
        slot: volume for slot, volume in disks.volumes(guest.config).items() if disks.owner_of(volume) == guest.vmid
    }
    if mark is None:
        return taken
    if not mark.made:
        before = {disk.volume for disk in mark.disks if not disk.owned}
        return {slot: volume for slot, volume in taken.items() if volume in before}
    adopted = mark.settings.get(ADOPTED_SETTING) == "true"
    present = set(taken.values())
    volumes = {disk.volume for disk in mark.disks if disk.owned and disk.volume}
    slots = {disk.slot for disk in mark.disks if disk.owned and disk.slot and disk.volume not in present}
    slots |= set(mark.settings.get(UNNAMED_DISKS, "").split())
    slots |= set() if adopted else set(disks.STATE_SLOTS)
    return {slot: volume for slot, volume in taken.items() if volume not in volumes and slot not in slots}
