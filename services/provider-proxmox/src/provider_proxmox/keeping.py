"""Disks that must outlive their guest, though their names say that they are its own.

Proxmox VE has no volume without a guest: a name carries the VMID, and the next guest of that VMID would own it. So they
are reassigned, as Proxmox VE calls it, to a guest that is made to hold them: without a stamp, off, and there for people
to take them from. It says whose disks they were, so that a second attempt finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common import logging
from common.errors import HostFullError, MachineNotFoundError, OperationInProgressError
from providerkit.records import decoded

from provider_proxmox import comment, vmids
from provider_proxmox.config import disks
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import VmidTakenError

log = logging.get(__name__)

MARK = "virtrigaud-kept"


@dataclass(frozen=True)
class KeptStamp:
    """Whose disks a guest holds."""

    uid: str
    vmid: int
    """Of the guest that they belonged to."""


class Keeper:
    """Makes guests that hold disks of others."""

    def __init__(self, pve: Pve, *, ids: range) -> None:
        self._pve = pve
        self._ids = ids

    async def keep(self, guest: Guest, volumes: Mapping[str, str], doing: str) -> None:
        """Take these volumes away from a guest that is off, into another guest.

        Args:
            volumes: by slot; nothing is success.
        Raises:
            ProviderError: they cannot be moved; they are where they were.
        """
        for slot, volume in volumes.items():
            holder = await self._holder(guest, doing)
            target = slot if slot not in holder.config and not slot.startswith("unused") else _free(holder)
            order: dict[str, object] = {"disk": slot, "target-vmid": holder.vmid, "target-disk": target}
            order |= {"digest": guest.digest or None, "target-digest": holder.digest or None}
            await self._pve.run(doing, "POST", f"{guest.path}/move_disk", order)
            log.warning("proxmox.disk.kept", vmid=guest.vmid, slot=slot, volume=volume, holder=holder.vmid)
            await self._pve.refresh(holder.vmid, doing)
            guest = await self._again(guest, doing)

    async def _again(self, guest: Guest, doing: str) -> Guest:
        now = await self._pve.refresh(guest.vmid, doing)
        mark, was = now.stamp if now is not None else None, guest.stamp
        if now is None or mark is None or was is None or (mark.uid, mark.owner) != (was.uid, was.owner):
            raise MachineNotFoundError(f"{doing}: guest {guest.vmid} went away meanwhile")
        return now

    async def drop_snapshots(self, guest: Guest, doing: str) -> None:
        """They go with the guest, and hold its disks until then: those without children first."""
        left = [dict(each) for each in guest.snapshots]
        while left:
            parents = {each.get("parent") for each in left}
            leaves = [each for each in left if each["name"] not in parents]
            for each in leaves or left:
                await self._pve.run(doing, "DELETE", f"{guest.path}/snapshot/{each['name']}", {})
            left = [each for each in left if each not in leaves] if leaves else []

    async def _holder(self, guest: Guest, doing: str) -> Guest:
        """The guest that holds disks of this one, on the same node, as it is now; made if there is none."""
        uid = guest.stamp.uid if guest.stamp is not None else ""
        for each in list(self._pve.index.guests.values()):
            if each.node == guest.node and held_by(each) == KeptStamp(uid, guest.vmid):
                now = await self._pve.refresh(each.vmid, doing)  # its VMID may be somebody else's by now
                if now is not None and now.node == guest.node and held_by(now) == held_by(each):
                    return now
        text = (
            f"Disks of {guest.name or f'VM {guest.vmid}'}, which is deleted. They were not made for it and are kept: "
            "take them over, or delete this guest with them."
        )
        params: dict[str, object] = {
            "name": f"kept-{guest.vmid}-of-{guest.name}"[:63].rstrip(".-"),
            "description": comment.written(text, MARK, KeptStamp(uid, guest.vmid)),
            "scsihw": guest.config.get("scsihw"),
            "bios": guest.config.get("bios"),
            "memory": 16,
        }
        for vmid in vmids.sequence(f"{uid}/kept", self._ids):
            try:
                await self._pve.run(doing, "POST", f"nodes/{guest.node}/qemu", params | {"vmid": vmid})
            except VmidTakenError:
                continue
            made = await self._pve.refresh(vmid, doing, node=guest.node)
            if made is None:
                raise OperationInProgressError(
                    f"{doing}: the guest that was to hold its disks went away", retry_after=5.0
                )
            return made
        raise HostFullError(f"{doing}: no VMID is left for a guest that holds its disks")


def held_by(guest: Guest) -> KeptStamp | None:
    """Whose disks this guest holds; None for any other guest."""
    _, json = comment.read(str(guest.config.get("description", "")), MARK)
    return decoded(json, KeptStamp)


def _free(holder: Guest) -> str:
    return next((slot for n in range(disks.SLOTS["scsi"]) if (slot := f"scsi{n}") not in holder.config), "scsi30")
