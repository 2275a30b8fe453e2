"""Content of our machines' disks, read: what a disk is, what stands on it, what changed on it. `uploads.py` writes.

Two ways lead to the bytes. A lease of NFC streams a disk from its beginning, compressed and without its holes, whatever
it is stored on. The datastore's HTTP server gives any part of a flat file, but sends every hole as zeros. So a read
from the beginning takes a lease; one that resumes takes the file where there is one, else a lease whose beginning is
passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from common import logging, v1
from common.errors import (
    BrokenImageError,
    HypervisorUnavailableError,
    NotSupportedError,
    PermissionMissingError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit import extents
from providerkit.extents import PIECE, Piece
from pyVmomi import vim, vmodl

from provider_vsphere import machines
from provider_vsphere.config import devices
from provider_vsphere.content import vmdk
from provider_vsphere.content.nfc import Device, Lease, Nfc
from provider_vsphere.session.login import Login
from provider_vsphere.session.transfers import Transfers, cookie
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.snapshots import Snapshots
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)

FORMAT = "vmdk"


@dataclass(frozen=True)
class Disk:
    """One disk of ours, as it is now or as it was at a snapshot."""

    doing: str
    """What is being done to which disk, for people."""
    entity: Entity
    record: Stamp
    name: str
    board: Sequence[Any]
    """Every device beside it."""
    device: Any
    """vim.vm.device.VirtualDisk."""
    snapshot: str = ""
    """moid of the snapshot; empty for now."""

    @property
    def size(self) -> int:
        """Bytes."""
        return devices.capacity(self.device)

    @property
    def file(self) -> str:
        """ "[ds] dir/name.vmdk"."""
        return devices.file_of(self.device)

    @property
    def has_flat_file(self) -> bool:
        """Its bytes stand in one file as they are: no delta, and no format of objects."""
        backing = self.device.backing
        return isinstance(backing, vim.vm.device.VirtualDisk.FlatVer2BackingInfo) and backing.parent is None


class Disks:
    """Of the machines of one owner."""

    def __init__(self, vsphere: Vsphere, nfc: Nfc, transfers: Transfers, snapshots: Snapshots, *, owner: str) -> None:
        self._vsphere = vsphere
        self._snapshots = snapshots
        self._nfc = nfc
        self._transfers = transfers
        self._owner = owner

    async def find(self, ref: v1.DiskRef, verb: str) -> Disk:
        """The disk that a request names.

        Raises:
            MachineNotFoundError, ForeignMachineError, SnapshotNotFoundError, ResourceNotFoundError: it is not ours, or
                not there.
        """
        doing = f"{verb} disk {ref.disk_name} of machine {ref.machine_uid}"
        self._vsphere.login(doing)
        entity = machines.get(self._vsphere.tree, ref.machine_uid, self._owner)
        record = machines.stamp_of(entity)
        assert record is not None  # it is ours
        board: Sequence[Any] = list(entity.facts.get("config.hardware.device") or ())
        then, snapshot = record, ""
        if ref.snapshot_id:
            node = self._snapshots.find(entity, ref.snapshot_id)
            held = (await self._snapshots.held([node], doing))[node.moid]
            board, then, snapshot = held.devices, held.record or record, node.moid
        mark = then.disk(ref.disk_name)
        device = devices.disk_at(board, mark.slot) if mark is not None else None
        if device is None:
            raise ResourceNotFoundError(f"{doing}: there is none")
        return Disk(doing, entity, record, ref.disk_name, board, device, snapshot)

    # -- facts -----------------------------------------------------------------------------------------------------

    async def info(self, ref: v1.DiskRef) -> v1.GetDiskResponse:
        """See Driver."""
        disk = await self.find(ref, "look at")
        allocated = disk.size if disk.snapshot else await self._allocated(disk)
        return v1.GetDiskResponse(
            size_bytes=disk.size,
            allocated_bytes=min(allocated, disk.size),
            format=FORMAT,
            change_id=str(getattr(disk.device.backing, "changeId", None) or ""),
        )

    async def _allocated(self, disk: Disk) -> int:
        """Bytes that its files take, with those that it stands on; all of it where vSphere does not tell.

        Source: VirtualMachineFileLayoutEx.
        """

        def read(login: Login) -> int:
            layout = self._vsphere.machine(disk.entity, login).layoutEx
            sizes = {each.key: each.size for each in layout.file} if layout is not None else {}
            for each in layout.disk if layout is not None else ():
                if each.key == disk.device.key:
                    return sum(int(sizes.get(key) or 0) for link in each.chain for key in link.fileKey)
            return 0

        return await self._vsphere.call(disk.doing, read) or disk.size

    # -- content ---------------------------------------------------------------------------------------------------

    async def read(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        """See Driver."""
        disk = await self.find(request.disk or v1.DiskRef(), "read")
        self._refuse_running(disk)
        ranges = self._changed(disk, request.changed_since, request.offset) if request.changed_since else None
        first = await anext(ranges, None) if ranges is not None else None
        if ranges is not None and first is None:
            return
        start = request.offset if first is None else first[0]
        async with aclosing(self._pieces(disk, start)) as pieces:
            if ranges is None:
                found = extents.covering(pieces, start, disk.size)
            else:
                found = extents.covering_each(pieces, _with_first(first, ranges))
            async with aclosing(found):
                async for extent in found:
                    self._refuse_running(disk)
                    yield extent

    def _refuse_running(self, disk: Disk) -> None:
        """What is written while it is read is no copy of anything; the tree tells in time, without a call."""
        entity = self._vsphere.tree.get(disk.entity.moid)
        if not disk.snapshot and (entity is None or entity.facts.get("runtime.powerState") != "poweredOff"):
            raise WrongPowerStateError(f"{disk.doing}: it is not off; power it off, or name a snapshot")

    async def _pieces(self, disk: Disk, start: int) -> AsyncGenerator[Piece]:
        """Its content from somewhere on; what lies before may come too."""
        if start and disk.has_flat_file:
            try:
                async with aclosing(self._from_file(disk, start)) as found:
                    async for piece in found:
                        yield piece
                    return
            except (ResourceNotFoundError, PermissionMissingError) as error:  # objects (vSAN, vVols), or no privilege
                log.info("vsphere.disk.no.file", file=disk.file, error=str(error))
        async with aclosing(self._from_lease(disk)) as found:
            async for piece in found:
                yield piece

    async def _from_file(self, disk: Disk, start: int) -> AsyncGenerator[Piece]:
        doing = disk.doing
        url = self._url(disk)
        await self._check_off(disk)
        headers = await self._vsphere.call(doing, cookie) | {"Range": f"bytes={start}-{disk.size - 1}"}
        async with self._transfers.download(doing, url, headers=headers) as body:
            position = start if body.status == 206 else 0  # a server that does not know ranges sends all
            if body.size != disk.size - position:
                raise ResourceNotFoundError(f"{doing}: {url} is not as long as the disk")
            async with aclosing(body.chunks()) as chunks:
                async for chunk in chunks:
                    yield position, chunk
                    position += len(chunk)
        await self._check_off(disk)

    async def _check_off(self, disk: Disk) -> None:
        """Before and after the bytes of a file: nothing keeps its machine from starting, and the tree hears of it late.

        Source: a machine under an export lease cannot be started.
        """

        def power(login: Login) -> str:
            return str(self._vsphere.machine(disk.entity, login).runtime.powerState)

        if not disk.snapshot and await self._vsphere.call(disk.doing, power) != "poweredOff":
            raise WrongPowerStateError(f"{disk.doing}: it was started; power it off, or name a snapshot")

    def _url(self, disk: Disk) -> str:
        """Of the file with the bytes. Source: vSphere Web Services SDK, "HTTP Access to vSphere Server Files"."""
        datastore, _, path = disk.file.removeprefix("[").partition("] ")
        datacenter = self._vsphere.tree.datacenter(disk.entity)
        where = self._vsphere.tree.path(datacenter).lstrip("/") if datacenter is not None else ""
        parts = urlsplit(self._vsphere.endpoint.url)
        flat = quote(path.removesuffix(".vmdk") + "-flat.vmdk")
        query = urlencode({"dcPath": where, "dsName": datastore}, quote_via=quote)
        return f"{parts.scheme}://{parts.netloc}/folder/{flat}?{query}"

    async def _from_lease(self, disk: Disk) -> AsyncGenerator[Piece]:
        def begin(login: Login) -> Any:
            if disk.snapshot:
                return vim.vm.Snapshot(disk.snapshot, login.instance._stub).ExportSnapshot()
            return self._vsphere.machine(disk.entity, login).ExportVm()

        async with self._nfc.lease(disk.doing, begin) as lease:
            reader = vmdk.Reader(disk.doing)
            async with aclosing(lease.download(_device(lease, disk))) as chunks:
                async for chunk in chunks:
                    grains = reader.feed(chunk)
                    while batch := await asyncio.to_thread(_some, grains):
                        if reader.capacity != disk.size:
                            raise HypervisorUnavailableError(f"{disk.doing}: vSphere sends another disk")
                        lease.percent = 100 * batch[-1][0] // disk.size
                        for grain in batch:
                            yield grain
            try:
                reader.close()
            except BrokenImageError as error:  # vSphere's files are sound: the line was cut
                raise HypervisorUnavailableError(f"{disk.doing}: {error}") from error

    # -- what changed ----------------------------------------------------------------------------------------------

    async def _changed(self, disk: Disk, since: str, start: int) -> AsyncGenerator[tuple[int, int]]:
        """Ranges that were written since a change, ascending, joined where they touch.

        Raises:
            StalePreconditionError: vSphere does not know this change, or tracks none.
        Source: VirtualMachine.QueryChangedDiskAreas.
        """
        begin, end, position = start, start, start
        while position < disk.size:
            info = await self._vsphere.call(disk.doing, _asking(self._vsphere, disk, position, since))
            for area in info.changedArea or ():
                if area.start > end:
                    if end > begin:
                        yield begin, end
                    begin = area.start
                end = min(disk.size, area.start + area.length)
            if info.length <= 0:
                raise HypervisorUnavailableError(f"{disk.doing}: vSphere does not say what changed behind {position}")
            position = info.startOffset + info.length
        if end > begin:
            yield begin, end


def _asking(vsphere: Vsphere, disk: Disk, position: int, since: str) -> Any:
    def ask(login: Login) -> Any:
        snapshot = vim.vm.Snapshot(disk.snapshot, login.instance._stub) if disk.snapshot else None
        machine = vsphere.machine(disk.entity, login)
        try:
            return machine.QueryChangedDiskAreas(snapshot, disk.device.key, position, since)
        except (vmodl.fault.InvalidArgument, vim.fault.FileFault) as fault:
            raise StalePreconditionError(f"{disk.doing}: vSphere knows no change {since[:64]!r} of it") from fault

    return ask


def _device(lease: Lease, disk: Disk) -> Device:
    """Its device of a lease: by the place that the key names, else by its position among the disks.

    Source: HttpNfcLeaseDeviceUrl.key, "/vm-42/ParaVirtualSCSIController0:0".
    """
    controller = devices.controller_of(disk.board, disk.device)
    kind = type(controller).__name__.rpartition(".")[2]
    place = f"/{kind}{getattr(controller, 'busNumber', '')}:{disk.device.unitNumber}"
    offered = lease.disks()
    found = next((each for each in offered if each.key.endswith(place)), None)
    if found is not None:
        return found
    present = [each for each in disk.board if isinstance(each, vim.vm.device.VirtualDisk)]
    if len(present) != len(offered):  # raw devices and independent disks are not exported
        raise NotSupportedError(
            f"{disk.doing}: vSphere exports {len(offered)} of {len(present)} disks, in unknown order"
        )
    return offered[[each.key for each in present].index(disk.device.key)]


def _some(grains: Iterator[Piece]) -> list[Piece]:
    """The next grains, as many as an extent holds: decompressing is work for a thread."""
    batch: list[Piece] = []
    size = 0
    for grain in grains:
        batch.append(grain)
        size += len(grain[1])
        if size >= PIECE:
            break
    return batch


async def _with_first(
    first: tuple[int, int] | None, rest: AsyncIterator[tuple[int, int]]
) -> AsyncIterator[tuple[int, int]]:
    if first is not None:
        yield first
    async for each in rest:
        yield each
