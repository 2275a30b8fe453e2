"""Content of our machines' disks, written: a new volume is imported and takes the old one's place.

Until all of it has come and its digest was right, nothing on Proxmox VE is touched (see `spool`). Then it goes into an
import storage as a qcow2 file without its holes, and one task of Proxmox VE makes a volume of that and puts it into the
disk's slot. The stamp notes the exchange before it begins: whoever finds the note finishes it by what is true. See
docs/adr/0015.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from common import faults, logging, v1
from common.errors import InvalidSpecError, NotSupportedError, ProviderError, WrongPowerStateError
from providerkit.extents import Incoming

from provider_proxmox import locks, stamp
from provider_proxmox.config import disks
from provider_proxmox.content import spool
from provider_proxmox.content.disks import Disk, Disks
from provider_proxmox.content.files import Files
from provider_proxmox.content.pipe import upload
from provider_proxmox.content.spool import Spool
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import Stamp

log = logging.get(__name__)

RECEIVED = faults.declare("proxmox.disk.received", "all content of a disk has come and is right, none of it is sent on")
UPLOADED = faults.declare("proxmox.disk.uploaded", "an import storage has the content, the machine is as it was")
NOTED = faults.declare("proxmox.disk.noted", "the stamp tells that a disk is about to be exchanged")
SWAPPED = faults.declare("proxmox.disk.swapped", "the slot has the new volume, the stamp names the old one")

NOTE = "exchanging-disk."
"""Beginning of the stamp's setting that names the volume which is about to be replaced, by the disk's name."""
_TASK = "qmconfig"
_REPLACED = ("", "file", "volume", "size")
"""Options of a drive that say which volume is in it; the others stay as they are."""
_FILE = re.compile(r"virtrigaud-disk-(?P<uid>[0-9a-f-]{36})-.+\.qcow2")


class Uploads:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, found: Disks, *, directory: Path, import_storage: str = "") -> None:
        """Args: directory: where content waits."""
        self._pve = pve
        self._guests = guests
        self._disks = found
        self._directory = directory
        self._files = Files(pve, "import", "import_storage", import_storage)

    def can_write(self) -> bool:
        """Some node has a storage that takes imports."""
        return any(self._files.is_taken(node) for node in self._pve.index.nodes)

    async def write(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        """See Driver."""
        ref = target.disk or v1.DiskRef()
        disk = await self._disks.find(ref, "write")
        if any(key.startswith(NOTE) for key in disk.record.settings):  # an earlier write died over it
            await self.settle(disk.guest, disk.doing)
            disk = await self._disks.find(ref, "write")
        self._check(disk, target)
        kept = Spool(self._directory, ref.machine_uid, ref.disk_name, target.size_bytes, disk.doing)
        try:
            async with aclosing(incoming.extents()) as content:
                first = await anext(content, None)
                if first is None and not incoming.promised:
                    return await kept.kept()
                await kept.begin(target.resume_offset)
                try:
                    if first is not None:
                        await kept.write(first)
                    async for extent in content:
                        await kept.write(extent)
                finally:
                    position = await asyncio.shield(kept.keep())
            if not incoming.promised:
                return position
            digest = await kept.hexdigest()
            if digest != incoming.promised:
                await kept.forget()
            incoming.check(digest)
            await faults.point(RECEIVED)
            await self._exchange(disk, kept)
            await kept.forget()
            return target.size_bytes
        finally:
            await kept.close()

    def _check(self, disk: Disk, target: v1.WriteDiskTarget) -> None:
        if disk.guest.status != "stopped" or disk.guest.lock:
            raise WrongPowerStateError(f"{disk.doing}: it is not off")
        if target.size_bytes > disk.drive.size_bytes:
            raise InvalidSpecError(f"size_bytes: {disk.doing}: it has {disk.drive.size_bytes} bytes")
        if not disk.mark.owned:
            raise NotSupportedError(f"{disk.doing}: its volume is somebody else's and is not replaced")
        if disk.guest.snapshots:
            raise NotSupportedError(f"{disk.doing}: snapshots stand on it; remove them first")

    # -- the exchange ----------------------------------------------------------------------------------------------

    async def _exchange(self, disk: Disk, kept: Spool) -> None:
        """The content becomes a volume in the slot of the old one."""
        uid, node, doing = disk.record.uid, disk.guest.node, disk.doing
        await self._clear_files(uid, doing)
        imports = self._files.storage_of(node, doing)
        name = f"virtrigaud-disk-{uid}-{disk.mark.name}.qcow2"
        layout = await kept.lay_out(disk.drive.size_bytes)
        async with aclosing(kept.image(layout)) as image:
            await upload(self._pve, doing, node, imports.name, "import", name, image, layout.length)
        await faults.point(UPLOADED)
        guest = await self._now(disk)
        record = guest.stamp
        assert record is not None  # _now has seen to it
        guest = await self._stamped(guest, _noting(record, disk.mark.name, disk.drive.volume), doing)
        await faults.point(NOTED)
        storage = self._pve.index.storages.get((node, disk.drive.storage))
        source = disks.new(
            disk.drive.storage,
            0,
            format=disk.format if disks.format_on(storage.kind if storage is not None else "") else "",
            source=f"{imports.name}:import/{name}",
        )
        options = {key: value for key, value in disk.drive.options.items if key not in _REPLACED}
        config = {disk.drive.slot: str(source.having(options)), "digest": guest.digest}
        try:
            await self._pve.run(doing, "POST", f"{guest.path}/config", config, cancel=True)
            await faults.point(SWAPPED)
        except BaseException:  # what follows a cancelled write must not meet a disk that is still being exchanged
            await asyncio.shield(self._tidy(guest, doing))
            raise
        await self.settle(await self._guests.get(uid, doing), doing)
        await self._clear_files(uid, doing)
        log.info("proxmox.disk.written", uid=uid, disk=disk.mark.name, bytes=layout.length)

    async def _tidy(self, guest: Guest, doing: str) -> None:
        with contextlib.suppress(ProviderError):  # the first error counts; the note stays for whoever comes next
            await self.settle(await self._guests.get(guest.stamp.uid if guest.stamp else "", doing), doing)

    async def _now(self, disk: Disk) -> Guest:
        """The machine as it is, with the disk as it was.

        Raises:
            WrongPowerStateError: somebody started it or exchanged the disk meanwhile.
        """
        guest = await self._guests.get(disk.record.uid, disk.doing)
        drive = disks.drive_in(guest.config, disk.drive.slot)
        if guest.status != "stopped" or drive is None or drive.volume != disk.drive.volume or guest.snapshots:
            raise WrongPowerStateError(f"{disk.doing}: somebody changed the machine meanwhile; its disk is as it was")
        return guest

    async def settle(self, guest: Guest, doing: str) -> Guest:
        """Bring the stamp to what is true after an exchange, whoever began it; without one, nothing is done.

        The volume in the slot decides: a new one was imported whole, as Proxmox VE puts no other into it. The old one
        goes only then: while nothing of ours has its place, a person has unplugged it, and its content is nowhere else.
        """
        if guest.stamp is None or not any(key.startswith(NOTE) for key in guest.stamp.settings):
            return guest
        await locks.wait_tasks(self._pve, guest, doing, (_TASK,))  # an exchange that nobody waits for any more
        guest = await self._guests.get(guest.stamp.uid, doing)
        for key, old in guest.stamp.settings.items() if guest.stamp is not None else ():
            record = guest.stamp
            mark = record.disk(key.removeprefix(NOTE)) if record is not None and key.startswith(NOTE) else None
            if record is None or mark is None:
                continue
            if mark.slot in guest.pending:  # somebody started it just then: its guest goes on with the old disk
                await self._guests.change(guest, doing, revert=mark.slot)
                raise WrongPowerStateError(f"{doing}: the machine was started meanwhile; its disk is as it was")
            drive = disks.drive_in(guest.config, mark.slot)
            left: list[str] = []
            if drive is not None and disks.owner_of(drive.volume) == guest.vmid:  # else a person put another one there
                record = record.with_disk(replace(mark, volume=drive.volume))
                left = [each for each, volume in disks.unused(guest.config).items() if volume == old != drive.volume]
            guest = await self._stamped(guest, _settled(record, mark.name), doing, delete=",".join(left) or None)
        return guest

    async def _stamped(self, guest: Guest, record: Stamp, doing: str, **config: object) -> Guest:
        return await self._guests.change(guest, doing, description=stamp.written(guest.description, record), **config)

    # -- what is left ----------------------------------------------------------------------------------------------

    async def clear(self, uid: str, doing: str) -> None:
        """Remove what writes of this machine's disks left behind, here and in import storages; nothing is success."""
        await asyncio.to_thread(spool.clear, self._directory, uid)
        await self._clear_files(uid, doing)

    async def _clear_files(self, uid: str, doing: str) -> None:
        for storage in self._files.everywhere():
            for volume in await self._files.listed(storage, doing):
                match = _FILE.fullmatch(volume.rpartition("/")[2])
                if match is not None and match["uid"] == uid:
                    await self._files.remove(storage, volume, doing)


def _noting(record: Stamp, disk: str, volume: str) -> Stamp:
    return replace(record, settings=record.settings | {NOTE + disk: volume})


def _settled(record: Stamp, disk: str) -> Stamp:
    return replace(record, settings={key: value for key, value in record.settings.items() if key != NOTE + disk})
