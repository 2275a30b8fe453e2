"""Content of our machines' disks, read: what a disk is, and what stands on it. `uploads.py` writes.

Proxmox VE's API gives no content away. It comes from where the disk is: over SSH from its node, or from a storage that
is mounted here as well. Both serve it as NBD, which gives any part of it, tells its holes, and keeps nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

from common import v1
from common.errors import (
    ForeignMachineError,
    MachineNotFoundError,
    NotSupportedError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit import extents

from provider_proxmox.config import disks
from provider_proxmox.config.disks import Drive
from provider_proxmox.content import nbd
from provider_proxmox.content.mounted import Mounted
from provider_proxmox.content.ssh import Ssh
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import DiskStamp, Stamp


@dataclass(frozen=True)
class Disk:
    """One disk of ours, as it is now or as it was at a snapshot."""

    doing: str
    """What is being done to which disk, for people."""
    guest: Guest
    record: Stamp
    """Of now, or of that moment."""
    mark: DiskStamp
    drive: Drive
    snapshot: str = ""
    """Proxmox VE's name of it; empty for now."""

    @property
    def format(self) -> str:
        """Of what holds it."""
        ending = self.drive.volume.rpartition("/")[2].rpartition(".")[2]
        return ending if ending in ("qcow2", "vmdk") else "raw"


class Disks:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, snapshots: Snapshots, ssh: Ssh, mounted: Mounted) -> None:
        self._pve = pve
        self._guests = guests
        self._snapshots = snapshots
        self._ssh = ssh
        self._mounted = mounted

    def can_read(self) -> bool:
        """Somebody has set a way up."""
        return self._ssh.is_set_up() or self._mounted.is_set_up()

    async def find(self, ref: v1.DiskRef, verb: str) -> Disk:
        """The disk that a request names.

        Raises:
            MachineNotFoundError, ForeignMachineError, SnapshotNotFoundError, ResourceNotFoundError: it is not ours, or
                not there.
        """
        doing = f"{verb} disk {ref.disk_name} of machine {ref.machine_uid}"
        guest = await self._machine(ref.machine_uid, doing)
        record, config, snapshot = guest.stamp, guest.config, ""
        assert record is not None  # it is ours
        if ref.snapshot_id:
            node = await self._snapshots.find(guest, ref.snapshot_id, doing)
            config = await self._snapshots.config(guest, node, doing)
            record = node.mark.stamp if node.mark is not None and node.mark.stamp is not None else record
            snapshot = node.name
        mark = record.disk(ref.disk_name)
        drive = disks.drive_in(config, mark.slot) if mark is not None else None
        if mark is None or drive is None or drive.is_cdrom:
            raise ResourceNotFoundError(f"{doing}: there is none")
        return Disk(doing, guest, record, mark, drive, snapshot)

    async def _machine(self, uid: str, doing: str) -> Guest:
        guest = await self._guests.find(uid, doing)
        if guest is not None:
            return guest
        if others := self._pve.index.with_smbios(uid):
            raise ForeignMachineError(f"{doing}: guest {others[0].vmid} has this UID and is not ours")
        raise MachineNotFoundError(f"{doing}: no guest of the cluster carries our stamp with UID {uid}")

    # -- facts -----------------------------------------------------------------------------------------------------

    async def info(self, ref: v1.DiskRef) -> v1.GetDiskResponse:
        """See Driver."""
        disk = await self.find(ref, "look at")
        storage, volume = disk.drive.storage, disk.drive.volume
        told = await self._pve.get(disk.doing, f"nodes/{disk.guest.node}/storage/{storage}/content/{volume}")
        size = disk.drive.size_bytes or int(told.get("size") or 0)
        used = int(told.get("used") or 0)
        return v1.GetDiskResponse(
            size_bytes=size,
            allocated_bytes=min(used, size) if used and not disk.snapshot else size,
            format=disk.format,
        )

    # -- content ---------------------------------------------------------------------------------------------------

    async def read(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        """See Driver."""
        disk = await self.find(request.disk or v1.DiskRef(), "read")
        if request.changed_since:
            raise StalePreconditionError(f"{disk.doing}: Proxmox VE does not tell what changed; read all of it")
        self._refuse_running(disk)
        async with self._opened(disk) as source:
            size = disk.drive.size_bytes or source.size
            if source.size < size:
                raise StalePreconditionError(f"{disk.doing}: its volume is smaller than the configuration says")
            async with (
                aclosing(source.read(request.offset)) as pieces,
                aclosing(extents.covering(pieces, request.offset, size)) as found,
            ):
                async for extent in found:
                    self._refuse_running(disk)
                    yield extent
        await self._check_off(disk)

    def _opened(self, disk: Disk) -> AbstractAsyncContextManager[nbd.Disk]:
        volume = disk.drive.volume
        if disk.snapshot and disk.format != "qcow2":
            raise NotSupportedError(
                f"{disk.doing}: a snapshot of {volume} cannot be read; only qcow2 files hold theirs"
            )
        if self._mounted.is_set_up() and self._mounted.has(volume):
            return self._mounted.open(volume, disk.snapshot, disk.doing)
        if self._ssh.is_set_up():
            return self._ssh.open(disk.guest.node, volume, disk.snapshot, disk.doing)
        raise NotSupportedError(
            f"{disk.doing}: disks are read over SSH, or from a storage that is mounted; see docs/providers/proxmox.md"
        )

    def _refuse_running(self, disk: Disk) -> None:
        """What is written while it is read is no copy of anything; the index tells soon, without a call."""
        guest = self._pve.index.guests.get(disk.guest.vmid)
        if not disk.snapshot and (guest is None or guest.status != "stopped"):
            raise WrongPowerStateError(f"{disk.doing}: it is not off; power it off, or name a snapshot")

    async def _check_off(self, disk: Disk) -> None:
        """Nothing keeps it from starting while it is read, and the index hears of that late."""
        if disk.snapshot:
            return
        now = await self._pve.refresh(disk.guest.vmid, disk.doing)
        drive = disks.drive_in(now.config, disk.mark.slot) if now is not None else None
        if now is None or now.status != "stopped" or drive is None or drive.volume != disk.drive.volume:
            raise WrongPowerStateError(
                f"{disk.doing}: it was started or changed meanwhile; power it off, or name a snapshot"
            )
