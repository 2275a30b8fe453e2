"""Adoption and release: our stamp on a guest that somebody else made, and off a guest. Nothing else of it changes."""

from __future__ import annotations

from dataclasses import replace

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    ForeignMachineError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
)
from providerkit.planner import ADOPTED_SETTING

from provider_proxmox import locks, stamp
from provider_proxmox.config import disks, making, nics
from provider_proxmox.guests import Guests
from provider_proxmox.images import imagestamp
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp

log = logging.get(__name__)

ADOPTED = faults.declare("proxmox.adopted", "a guest of others carries our stamp, and nobody knows yet")


class Adoption:
    """Takes guests over for one owner, and gives them back."""

    def __init__(self, pve: Pve, guests: Guests, clock: Clock) -> None:
        self._pve = pve
        self._guests = guests
        self._clock = clock

    async def adopt(self, machine_id: str, identity: v1.MachineIdentity) -> None:
        """Stamp it by one change, which Proxmox VE refuses if the guest has changed since we looked.

        Raises:
            MachineNotFoundError: there is no guest with this VMID.
            ForeignMachineError: it carries a stamp already, or is an image.
            NotSupportedError: it is a template, of which machines are made.
            NameConflictError: another guest has the UID.
        """
        doing = f"adopt machine {machine_id}"
        vmid = int(machine_id) if machine_id.isascii() and machine_id.isdigit() and len(machine_id) < 10 else 0
        guest = await self._pve.refresh(vmid, doing) if vmid else None
        if guest is None:
            raise MachineNotFoundError(f"{doing}: no guest of the cluster has this VMID")
        mark = guest.stamp
        if mark is not None:
            if mark.identity() == identity:
                return
            raise ForeignMachineError(f"{doing}: it carries the stamp of {mark.owner} for {mark.namespace}/{mark.name}")
        if imagestamp.read(str(guest.config.get("description", "")), guest.vmid) is not None:
            raise ForeignMachineError(f"{doing}: it is an image")
        if guest.template:
            raise NotSupportedError(f"{doing}: it is a template; use it as an image, or clone it first")
        await self._refuse_taken(guest, identity.uid, doing)
        await locks.require_free(self._pve, guest, doing)
        record = first_stamp(guest, identity, int(self._clock.now().timestamp()))
        await self._guests.change(
            guest, doing, description=stamp.written(guest.description, record), tags=_with_tag(guest)
        )
        log.info("proxmox.machine.adopted", uid=identity.uid, id=machine_id, name=guest.name)
        await faults.point(ADOPTED)

    async def _refuse_taken(self, guest: Guest, uid: str, doing: str) -> None:
        if not self._pve.known(doing).with_uid(uid):
            await self._pve.rescan(doing)
        others = [each for each in self._pve.index.with_uid(uid) if each.vmid != guest.vmid]
        if others:
            raise NameConflictError(f"{doing}: guest {others[0].vmid} ({others[0].name}) has the UID {uid} already")

    async def release(self, guest: Guest, doing: str) -> None:
        """Take our stamp and our tag off; text and tags of people stay."""
        await locks.require_free(self._pve, guest, doing)
        tags = ";".join(tag for tag in _tags(guest) if tag != stamp.TAG)
        text = guest.description
        gone = [key for key, value in (("description", text), ("tags", tags)) if not value]
        await self._guests.change(
            guest, doing, description=text or None, tags=tags or None, delete=",".join(gone) or None
        )
        log.info("proxmox.machine.released", vmid=guest.vmid, name=guest.name)


def first_stamp(guest: Guest, identity: v1.MachineIdentity, created: int) -> Stamp:
    """Names for its disks and NICs in the order of booting and of the slots. We made none of its disks."""
    record = replace(stamp.of(identity, guest.vmid, created), made=True, settings={ADOPTED_SETTING: "true"})
    for index, drive in enumerate(disks.disks(guest.config)):
        mark = DiskStamp(name=f"disk{index}", slot=drive.slot, volume=drive.volume, owned=False, provisioning="")
        record = record.with_disk(mark)
    for index, nic in enumerate(nics.nics(guest.config)):
        record = record.with_nic(NicStamp(name=f"nic{index}", slot=nic.slot))
    return record


def _tags(guest: Guest) -> list[str]:
    return [tag for tag in str(guest.config.get("tags", "")).split(";") if tag]


def _with_tag(guest: Guest) -> str:
    return making.tag_list(_tags(guest))
