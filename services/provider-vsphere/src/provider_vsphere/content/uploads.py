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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging, v1
from common.errors import (
    HypervisorUnavailableError,
    InvalidSpecError,
    NotSupportedError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit.extents import Digest, Incoming
from pyVmomi import vim

from provider_vsphere import files, machines
from provider_vsphere.around import policies
from provider_vsphere.config import devices, editing, making
from provider_vsphere.content import vmdk
from provider_vsphere.content.disks import Disk, Disks
from provider_vsphere.content.nfc import Lease, Nfc
from provider_vsphere.session import watched
from provider_vsphere.session.login import Login
from provider_vsphere.session.transfers import CHUNK
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp, uploadstamp
from provider_vsphere.stamps.stamp import Stamp
from provider_vsphere.stamps.uploadstamp import UploadStamp

log = logging.get(__name__)

UPLOADED = faults.declare("vsphere.disk.uploaded", "the shell has the whole content, ours is as it was")
NOTED = faults.declare("vsphere.disk.noted", "our stamp knows the files on their way, none of them has moved")
DETACHED = faults.declare("vsphere.disk.detached", "the new disk hangs on no machine")
MOVED = faults.declare("vsphere.disk.moved", "the new disk lies beside the old one, which is still plugged in")
SWAPPED = faults.declare("vsphere.disk.swapped", "the machine has the new disk, the shell is still there")

_dev = vim.vm.device
_FROM, _TO = "@from", "@to"
"""Ends of names under which files on their way are noted; no disk of a machine has an "@" in its name."""


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
        async with contextlib.aclosing(incoming.extents()) as content:
            first = await anext(content, None)
            if first is None and not incoming.promised:
                return 0
            if target.resume_offset:
                raise StalePreconditionError(f"{disk.doing}: nothing of an earlier write is kept, begin at 0")
            await self.clear(disk.entity.uuid, disk.doing)
            profile = await self._policy(disk)
            body = _encoded(disk, target.size_bytes, first, content, incoming)
            try:
                shell = await self._upload(disk, body, profile, incoming)
            except _UnfinishedError:
                return 0
        await faults.point(UPLOADED)
        await _to_its_end(self._take_over(disk, shell, profile))
        return target.size_bytes

    async def _upload(self, disk: Disk, body: AsyncGenerator[bytes], profile: list[Any], incoming: Incoming) -> Entity:
        """The shell with the whole content; whatever goes wrong, there is none."""
        async with self._nfc.lease(disk.doing, self._importing(disk, profile)) as lease, contextlib.aclosing(body):
            offered = lease.disks()
            if len(offered) != 1:
                raise HypervisorUnavailableError(f"{disk.doing}: the lease is for {len(offered)} disks, not for one")
            await lease.upload(offered[0], _steps(body, lease, lambda: 100 * incoming.position // disk.size))
            return Entity("VirtualMachine", lease.entity)

    async def _policy(self, disk: Disk) -> list[Any]:
        """The disk's storage policy, which its successor gets too."""
        wish = disk.record.settings.get(f"disks[{disk.name}].storage_policy", "")
        known = await policies.ids(self._vsphere, [wish], disk.doing)
        return making.policy([v1.DiskSpec(name=disk.name, storage_policy=wish)], known)

    def _check(self, disk: Disk, target: v1.WriteDiskTarget) -> None:
        if disk.entity.facts.get("runtime.powerState") != "poweredOff":
            raise WrongPowerStateError(f"{disk.doing}: it is not off")
        if target.size_bytes > disk.size:
            raise InvalidSpecError(f"size_bytes: {disk.doing}: it has {disk.size} bytes")
        mark = disk.record.disk(disk.name)
        if mark is None or not mark.owned:
            raise NotSupportedError(f"{disk.doing}: its file is somebody else's and is not replaced")
        if not disk.has_flat_file:
            raise NotSupportedError(f"{disk.doing}: it stands on another (snapshots, a linked clone), or is no file")

    # -- the shell -------------------------------------------------------------------------------------------------

    def _importing(self, disk: Disk, profile: list[Any]) -> Any:
        """Begins the import of a machine with a disk like this one."""
        facts, datastore = disk.entity.facts, disk.file.partition("]")[0] + "]"
        mark, old = UploadStamp(disk.entity.uuid, disk.name, self._owner), disk.device.backing
        backing = _dev.VirtualDisk.FlatVer2BackingInfo(fileName=datastore, diskMode="persistent")
        backing.thinProvisioned, backing.eagerlyScrub = old.thinProvisioned, old.eagerlyScrub
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
                _dev.VirtualDeviceSpec(operation="add", fileOperation="create", device=device, profile=profile),
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
        """Remove what writes of this machine's disks left behind, shells and files; nothing is success.

        Raises:
            OperationInProgressError: vSphere still waits for the rest of an upload that died, until its lease ends.
        """
        await self._look(uid, doing)
        for shell in list(self._vsphere.tree.of_kind("VirtualMachine")):
            mark = machines.upload_of(shell)
            if mark is not None and (mark.uid, mark.owner) == (uid, self._owner):
                log.info("vsphere.disk.leftover", uid=uid, disk=mark.disk, shell=shell.moid)
                await self._destroy(shell, doing)
        for entity in self._vsphere.tree.with_uuid(uid):
            if machines.is_ours(entity, self._owner):
                await self._clear_way(entity, doing)

    async def _clear_way(self, entity: Entity, doing: str) -> None:
        """Remove the files that the stamp notes as on their way, and the notes."""
        now = await self._fresh(entity, doing)
        if not on_way(machines.record_of(now)):
            return
        # A reconfiguration that an earlier process began may be about to plug one of them in. vSphere does one after
        # the other: this one comes after it, or is refused because of it.
        await self._reconfigure(now, machines.record_of(now), [], doing)
        now = await self._fresh(entity, doing)
        record = machines.record_of(now)
        plugged = {devices.file_of(disk) for disk in devices.disks_of(now.facts.get("config.hardware.device") or ())}
        for file in set(on_way(record).values()) - plugged:
            await files.remove(self._vsphere, entity, file, doing)
        await self._reconfigure(now, _without_way(record), [], doing)

    async def _look(self, uid: str, doing: str) -> None:
        """Have the tree hold every shell of this machine's disks, however lately it was made: its UUID is known."""
        records = (machines.stamp_of(entity) for entity in self._vsphere.tree.with_uuid(uid))
        names = {disk.name for record in records if record is not None for disk in record.disks}
        marks = [UploadStamp(uid, name, self._owner) for name in names]

        def ask(login: Login) -> list[str]:
            search = login.content.searchIndex
            found = (search.FindAllByUuid(None, mark.instance_uuid(), True, True) for mark in marks)
            return [str(each._moId) for some in found for each in some or ()]

        moids = await self._vsphere.call(doing, ask) if marks else []
        await self._vsphere.refresh(*(Entity("VirtualMachine", moid) for moid in moids))

    async def _destroy(self, shell: Entity, doing: str) -> None:
        """With every disk that is still plugged into it."""
        with contextlib.suppress(StalePreconditionError):  # its lease ended meanwhile, and it with that
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(shell, login).Destroy_Task())
        self._vsphere.forget(shell)

    def _where(self, entity: Entity, login: Login) -> Any:
        datacenter = self._vsphere.tree.datacenter(entity)
        return vim.Datacenter(datacenter.moid, login.instance._stub) if datacenter is not None else None

    # -- the exchange ----------------------------------------------------------------------------------------------

    async def _take_over(self, disk: Disk, shell: Entity, profile: list[Any]) -> None:
        """The shell's disk becomes ours: noted, unplugged, moved, plugged in, each told by what is true already."""
        known = await self._fresh(shell, disk.doing)
        uploaded = next(iter(devices.disks_of(known.facts.get("config.hardware.device") or ())), None)
        if uploaded is None:
            raise StalePreconditionError(f"{disk.doing}: what was uploaded has gone")
        way = _Way(devices.file_of(uploaded), _beside(disk.file))
        entity, record, _ = await self._now(disk)
        await self._reconfigure(entity, _with_way(record, disk.name, way), [], disk.doing)
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
        entity, record, old = await self._now(disk)
        await self._reconfigure(entity, _without_way(record), _exchange(old, way.target, profile), disk.doing)
        await faults.point(SWAPPED)
        await self._destroy(known, disk.doing)
        log.info("vsphere.disk.written", uid=disk.entity.uuid, disk=disk.name, file=way.target)

    async def _now(self, disk: Disk) -> tuple[Entity, Stamp, Any]:
        """The machine, its stamp and the disk as they are.

        Raises:
            StalePreconditionError: somebody took a snapshot meanwhile, or exchanged the disk, or started the machine.
        """
        entity = await self._fresh(disk.entity, disk.doing)
        record, board = machines.record_of(entity), entity.facts.get("config.hardware.device") or ()
        mark = record.disk(disk.name)
        device = devices.disk_at(board, mark.slot) if mark is not None else None
        off = entity.facts.get("runtime.powerState") == "poweredOff"
        if device is None or not off or devices.file_of(device) != disk.file:
            raise StalePreconditionError(f"{disk.doing}: somebody changed the machine meanwhile; its disk is as it was")
        return entity, record, device

    async def _fresh(self, entity: Entity, doing: str) -> Entity:
        """The machine asked of vSphere itself: the tree may not have heard yet of what another did, or we ourselves."""

        def look(login: Login) -> dict[str, Any]:
            wanted = watched.machine_filter([self._vsphere.machine(entity, login)])
            [found] = login.content.propertyCollector.RetrieveContents([wanted])
            return {each.name: watched.plain(each.val) for each in found.propSet}

        return Entity(entity.kind, entity.moid, await self._vsphere.call(doing, look))

    async def _reconfigure(self, entity: Entity, record: Stamp | None, changes: list[Any], doing: str) -> None:
        """Args: entity: fresh; vSphere refuses what was built of an older state. record: the stamp that becomes true
        with it; None for the shell."""
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


def _exchange(old: Any, file: str, profile: list[Any]) -> list[Any]:
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
        _dev.VirtualDeviceSpec(operation="add", device=new, profile=profile),
    ]


def _beside(file: str) -> str:
    """A new name in the old one's directory."""
    directory, _, name = file.rpartition("/")
    return f"{directory}/{name.removesuffix('.vmdk').partition('@')[0]}@{uuid.uuid4().hex[:12]}.vmdk"


def _with_way(record: Stamp, disk: str, way: _Way) -> Stamp:
    """Whatever becomes of the write, the machine's end removes both: they are noted like unplugged disks of ours."""
    noted = {editing.kept_key(disk + _FROM): way.source, editing.kept_key(disk + _TO): way.target}
    return replace(record, settings=record.settings | noted)


def _without_way(record: Stamp) -> Stamp:
    gone = {editing.kept_key(name) for name in on_way(record)}
    return replace(record, settings={key: value for key, value in record.settings.items() if key not in gone})


def on_way(record: Stamp) -> dict[str, str]:
    """Files that a write has noted and not yet done with. Other kept files, also of names that were taken again, are
    unplugged disks with a content that is still wanted."""
    return {name: file for name, file in editing.kept_files(record).items() if name.endswith((_FROM, _TO))}


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Finish it even when the caller goes: what follows a cancelled write must not meet files that still move."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if (error := task.exception()) is not None:
            log.warning("vsphere.disk.exchange.failed", error=str(error))
        raise


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


async def _steps(body: AsyncIterator[bytes], lease: Lease, percent: Callable[[], int]) -> AsyncIterator[bytes]:
    """No longer than a step of a transfer, with the lease told how far it is."""
    async for part in body:
        lease.percent = percent()
        for start in range(0, len(part), CHUNK):
            yield part[start : start + CHUNK]
