"""Content of our machines' disks, written: a new disk is uploaded and takes the old one's place.

vSphere takes a disk's content only together with a new machine (ResourcePool.ImportVApp). So it is imported into a
shell, a machine with nothing but that disk, whose disk then moves to ours. Until the digest was right nothing of ours
is touched; the shell and every file on its way are written down before they exist, and cleared away by the next write
or with the machine. An import cannot be gone on with, so a write that broke off begins anew. See docs/adr/0012.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging, v1
from common.errors import (
    InvalidSpecError,
    NotSupportedError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit.extents import Digest, Incoming
from pyVmomi import vim

from provider_vsphere import devices, editing, machines, making, stamp, uploadstamp, vmdk
from provider_vsphere.disks import Disk, Disks
from provider_vsphere.login import Login
from provider_vsphere.nfc import Nfc
from provider_vsphere.stamp import Stamp
from provider_vsphere.transfers import CHUNK
from provider_vsphere.tree import Entity
from provider_vsphere.uploadstamp import UploadStamp
from provider_vsphere.vsphere import Vsphere

log = logging.get(__name__)

UPLOADED = faults.declare("vsphere.disk.uploaded", "the shell has the whole content, ours is as it was")
NOTED = faults.declare("vsphere.disk.noted", "our stamp knows the files on their way, none of them has moved")
DETACHED = faults.declare("vsphere.disk.detached", "the new disk hangs on no machine")
MOVED = faults.declare("vsphere.disk.moved", "the new disk lies beside the old one, which is still plugged in")
SWAPPED = faults.declare("vsphere.disk.swapped", "the machine has the new disk, the shell is still there")

_dev = vim.vm.device


class Uploads:
    """Of the machines of one owner."""

    def __init__(self, vsphere: Vsphere, nfc: Nfc, disks: Disks, *, owner: str) -> None:
        self._vsphere = vsphere
        self._nfc = nfc
        self._disks = disks
        self._owner = owner

    async def write(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        """See Driver."""
        disk = await self._disks.find(target.disk or v1.DiskRef(), "write")
        self._check(disk, target)
        content = aiter(incoming)
        first = await anext(content, None)
        if first is None and not incoming.promised:
            return 0
        if target.resume_offset:
            raise StalePreconditionError(f"{disk.doing}: nothing of an earlier write is kept, begin at 0")
        await self.clear(disk.entity.uuid, disk.doing)
        try:
            async with self._nfc.lease(disk.doing, self._importing(disk)) as lease:
                body = _encoded(disk, target.size_bytes, first, content, incoming)
                async with contextlib.aclosing(body):
                    [device] = lease.disks()
                    await lease.upload(device, _rechunked(body))
                shell = Entity("VirtualMachine", lease.entity)
        except _UnfinishedError:
            return 0
        await faults.point(UPLOADED)
        await self._take_over(disk, shell)
        return target.size_bytes

    def _check(self, disk: Disk, target: v1.WriteDiskTarget) -> None:
        if disk.entity.facts.get("runtime.powerState") != "poweredOff":
            raise WrongPowerStateError(f"{disk.doing}: it is not off")
        if target.size_bytes > disk.size:
            raise InvalidSpecError(f"size_bytes: {disk.doing}: it has {disk.size} bytes")
        mark = disk.record.disk(disk.name)
        if mark is None or not mark.owned:
            raise NotSupportedError(f"{disk.doing}: its file is somebody else's and is not replaced")
        if not disk.has_flat_file:
            raise NotSupportedError(f"{disk.doing}: it has snapshots, or is no file; remove the snapshots first")

    # -- the shell -------------------------------------------------------------------------------------------------

    def _importing(self, disk: Disk) -> Any:
        """Begins the import of a machine with a disk like this one."""
        facts, datastore = disk.entity.facts, disk.file.partition("]")[0] + "]"
        mark = UploadStamp(disk.entity.uuid, disk.name, self._owner)
        backing = _dev.VirtualDisk.FlatVer2BackingInfo(fileName=datastore, diskMode="persistent")
        backing.thinProvisioned = disk.device.backing.thinProvisioned
        device = _dev.VirtualDisk(key=-2, controllerKey=-1, unitNumber=0, backing=backing)
        devices.set_size(device, disk.size)
        controller = _dev.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        config = vim.vm.ConfigSpec(
            name=f"virtrigaud-upload-{mark.instance_uuid()}",
            instanceUuid=mark.instance_uuid(),
            guestId="otherGuest64",
            numCPUs=1,
            memoryMB=4,
            files=vim.vm.FileInfo(vmPathName=datastore),
            extraConfig=making.options({uploadstamp.KEY: mark.text()}),
            deviceChange=[
                _dev.VirtualDeviceSpec(operation="add", device=controller),
                _dev.VirtualDeviceSpec(operation="add", fileOperation="create", device=device),
            ],
        )

        def begin(login: Login) -> Any:
            stub = login.instance._stub
            folder = vim.Folder(disk.entity.parent, stub) if disk.entity.parent else None
            host = vim.HostSystem(facts["runtime.host"], stub) if facts.get("runtime.host") else None
            pool = vim.ResourcePool(facts["resourcePool"], stub)
            return pool.ImportVApp(vim.vm.VmImportSpec(configSpec=config), folder, host)

        return begin

    async def clear(self, uid: str, doing: str) -> None:
        """Remove what writes of this machine's disks left behind, shells and files; nothing is success."""
        await self._vsphere.settle_doubts()
        for shell in list(self._vsphere.tree.of_kind("VirtualMachine")):
            mark = machines.upload_of(shell)
            if mark is not None and (mark.uid, mark.owner) == (uid, self._owner):
                log.info("vsphere.disk.leftover", uid=uid, disk=mark.disk, shell=shell.moid)
                await self._destroy(shell, doing)
        for entity in self._vsphere.tree.with_uuid(uid):
            record = machines.stamp_of(entity)
            on_way = _on_way(record) if record is not None and record.owner == self._owner else {}
            if record is not None and on_way:
                for file in on_way.values():
                    await self._delete_file(entity, file, doing)
                await self._reconfigure(entity, _without_way(record), [], doing)

    async def _destroy(self, shell: Entity, doing: str) -> None:
        """With every disk that is still plugged into it."""
        with contextlib.suppress(StalePreconditionError):  # its lease ended meanwhile, and it with that
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(shell, login).Destroy_Task())
        self._vsphere.forget(shell)

    async def _delete_file(self, entity: Entity, file: str, doing: str) -> None:
        def delete(login: Login) -> Any:
            return login.content.virtualDiskManager.DeleteVirtualDisk_Task(file, self._where(entity, login))

        with contextlib.suppress(ResourceNotFoundError):  # it has not come that far, or has gone already
            await self._vsphere.task(doing, delete)

    def _where(self, entity: Entity, login: Login) -> Any:
        datacenter = self._vsphere.tree.datacenter(entity)
        return vim.Datacenter(datacenter.moid, login.instance._stub) if datacenter is not None else None

    # -- the exchange ----------------------------------------------------------------------------------------------

    async def _take_over(self, disk: Disk, shell: Entity) -> None:
        """The shell's disk becomes ours: noted, unplugged, moved, plugged in, each told by what is true already."""
        await self._vsphere.refresh(shell, disk.entity)
        known = self._vsphere.tree.get(shell.moid)
        board = list(known.facts.get("config.hardware.device") or ()) if known is not None else []
        uploaded = next(iter(devices.disks_of(board)), None)
        if known is None or uploaded is None:
            raise StalePreconditionError(f"{disk.doing}: what was uploaded has gone")
        way = _Way(devices.file_of(uploaded), _beside(disk.file))
        record = self._record(disk)
        await self._reconfigure(disk.entity, _with_way(record, disk.name, way), [], disk.doing)
        await faults.point(NOTED)
        unplug = _dev.VirtualDeviceSpec(operation="remove", device=uploaded)
        await self._reconfigure(known, None, [unplug], disk.doing)
        await faults.point(DETACHED)

        def move(login: Login) -> Any:
            where = self._where(disk.entity, login)
            return login.content.virtualDiskManager.MoveVirtualDisk_Task(
                way.source, where, way.target, where, False, None
            )

        await self._vsphere.task(disk.doing, move)
        await faults.point(MOVED)
        await self._reconfigure(
            disk.entity, _without_way(self._record(disk)), _exchange(disk.device, way.target), disk.doing
        )
        await faults.point(SWAPPED)
        await self._destroy(known, disk.doing)
        log.info("vsphere.disk.written", uid=disk.entity.uuid, disk=disk.name, file=way.target)

    def _record(self, disk: Disk) -> Stamp:
        record = machines.stamp_of(machines.get(self._vsphere.tree, disk.entity.uuid, self._owner))
        assert record is not None  # it is ours
        return record

    async def _reconfigure(self, entity: Entity, record: Stamp | None, changes: list[Any], doing: str) -> None:
        """Args: record: the stamp that becomes true with it; None for the shell."""
        extra = making.options({stamp.KEY: record.text()}) if record is not None else []
        edit = vim.vm.ConfigSpec(deviceChange=changes, extraConfig=extra)
        edit.changeVersion = entity.facts.get("config.changeVersion")
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
        await self._vsphere.refresh(entity)


@dataclass(frozen=True)
class _Way:
    """Where the new disk comes from and goes to."""

    source: str
    target: str


def _exchange(old: Any, file: str) -> list[Any]:
    """One disk out, with its file, and the other into its slot, as what the old one was."""
    backing = _dev.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode=old.backing.diskMode)
    backing.sharing = old.backing.sharing
    new = _dev.VirtualDisk(
        key=-1, controllerKey=old.controllerKey, unitNumber=old.unitNumber, backing=backing,
        storageIOAllocation=old.storageIOAllocation,
    )  # fmt: skip
    devices.set_size(new, devices.capacity(old))
    return [
        _dev.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=old),
        _dev.VirtualDeviceSpec(operation="add", device=new),
    ]


def _beside(file: str) -> str:
    """A new name in the old one's directory."""
    directory, _, name = file.rpartition("/")
    return f"{directory}/{name.removesuffix('.vmdk').partition('@')[0]}@{uuid.uuid4().hex[:12]}.vmdk"


def _with_way(record: Stamp, disk: str, way: _Way) -> Stamp:
    """Whatever becomes of the write, the machine's end removes both: they are noted like unplugged disks of ours."""
    noted = {editing.kept_key(f"{disk}@from"): way.source, editing.kept_key(f"{disk}@to"): way.target}
    return replace(record, settings=record.settings | noted)


def _without_way(record: Stamp) -> Stamp:
    gone = {editing.kept_key(name) for name in _on_way(record)}
    return replace(record, settings={key: value for key, value in record.settings.items() if key not in gone})


def _on_way(record: Stamp) -> dict[str, str]:
    """No disk of a machine has an "@" in its name."""
    return {name: file for name, file in editing.kept_files(record).items() if "@" in name}


class _UnfinishedError(Exception):
    """The sender stopped before the end: what came is given up."""


async def _encoded(
    disk: Disk, size: int, first: v1.Extent | None, rest: AsyncIterator[v1.Extent], incoming: Incoming
) -> AsyncGenerator[bytes]:
    """What comes in as a VMDK; its end only when all of it is there and is what was promised."""
    writer, digest = vmdk.Writer(disk.size), Digest()
    yield writer.begin()
    async for extent in _all(first, rest):
        if extent.offset != digest.position:
            raise NotSupportedError(f"{disk.doing}: a gap at {digest.position}; here all of a disk is written at once")
        await digest.take(extent)
        if extent.data:
            yield await asyncio.to_thread(_joined, writer.write(extent.offset, extent.data))
    if not incoming.promised:
        raise _UnfinishedError
    incoming.check(await digest.hexdigest(size))
    for part in writer.finish():
        yield part


async def _all(first: v1.Extent | None, rest: AsyncIterator[v1.Extent]) -> AsyncIterator[v1.Extent]:
    if first is not None:
        yield first
    async for extent in rest:
        yield extent


def _joined(parts: Iterator[bytes]) -> bytes:
    return b"".join(parts)


async def _rechunked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """No longer than a step of a transfer."""
    async for part in body:
        for start in range(0, len(part), CHUNK):
            yield part[start : start + CHUNK]
