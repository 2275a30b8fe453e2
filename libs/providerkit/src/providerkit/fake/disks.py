"""The fake's disk plane: content in memory, written in place, and changes counted by generation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from common import faults, v1
from common.errors import (
    InvalidSpecError,
    MachineNotFoundError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)

from providerkit import extents
from providerkit.extents import BLOCK, Digest, Incoming, Piece

from .hardware import OFF
from .shelves import Volume
from .snapshots import Snapshots
from .world import FakeHypervisor

WRITTEN = faults.declare("fake.disk.written", "an extent is on the disk, and nobody knows yet")


class Disks:
    """Of all machines of a world; whose a machine is, the driver has looked at."""

    def __init__(self, world: FakeHypervisor, snapshots: Snapshots) -> None:
        self._world = world
        self._snapshots = snapshots

    def info(self, disk: v1.DiskRef) -> v1.GetDiskResponse:
        """See Driver."""
        volume = self._volume(disk)
        return v1.GetDiskResponse(
            size_bytes=volume.size_bytes,
            allocated_bytes=min(volume.size_bytes, len(volume.content.blocks) * BLOCK),
            format="raw",
            change_id=f"{volume.id}#{volume.content.generation}",
        )

    async def read(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        """See Driver."""
        disk = request.disk or v1.DiskRef()
        volume = self._readable(disk)
        changed = None
        if request.changed_since:
            changed = volume.content.changed_since(_generation(volume, request.changed_since))
        for start, end in _ranges(changed, request.offset, volume.size_bytes):
            async for extent in extents.covering(_ascending(volume.content.pieces()), start, end):
                await self._world.enter("read_disk")
                self._readable(disk)
                yield extent

    def _readable(self, disk: v1.DiskRef) -> Volume:
        machine = self._world.machines.get(disk.machine_uid)
        if machine is None:
            raise MachineNotFoundError(f"read disk {disk.disk_name} of machine {disk.machine_uid}: it has gone")
        if not disk.snapshot_id and machine.power is not OFF:
            raise WrongPowerStateError(
                f"read disk {disk.disk_name} of machine {disk.machine_uid}: it runs; name a snapshot, or power it off"
            )
        return self._volume(disk)

    async def write(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        """See Driver. In place, so that a write goes on where it broke off."""
        disk = target.disk or v1.DiskRef()
        what = f"write disk {disk.disk_name} of machine {disk.machine_uid}"
        if self._world.machines[disk.machine_uid].power is not OFF:
            raise WrongPowerStateError(f"{what}: it is not off")
        volume = self._volume(disk)
        if target.size_bytes > volume.size_bytes:
            raise InvalidSpecError(f"size_bytes: {what}: it has {volume.size_bytes} bytes")
        if target.resume_offset > volume.content.durable:
            raise StalePreconditionError(f"{what}: only {volume.content.durable} bytes are kept, begin there")
        content, begun = volume.content, False
        async for extent in incoming.extents():
            await self._world.enter("write_disk")
            if not begun:
                content, begun = volume.content.copy(), True
                content.generation, content.durable = content.generation + 1, target.resume_offset
                volume.content = content
            if extent.data:
                content.write(extent.offset, extent.data)
            else:
                content.clear(extent.offset, extent.length)
            content.durable = extent.offset + extent.length
            await faults.point(WRITTEN)
        if incoming.promised:
            digest = Digest()
            async for extent in extents.covering(_ascending(content.pieces()), 0, target.size_bytes):
                await digest.take(extent)
            incoming.check(await digest.hexdigest(target.size_bytes))
            content.durable = 0
            self._world.save()
            return target.size_bytes
        self._world.save()
        return content.durable

    def _volume(self, disk: v1.DiskRef) -> Volume:
        if disk.snapshot_id:
            taken = self._snapshots.get(disk.machine_uid, disk.snapshot_id)
            machine, volumes = taken.machine, {volume.id: volume for volume in taken.volumes}
        else:
            machine, volumes = self._world.machines[disk.machine_uid], self._world.volumes
        for each in machine.disks:
            if each.name == disk.disk_name:
                return volumes[each.id]
        raise ResourceNotFoundError(f"machine {disk.machine_uid} has no disk {disk.disk_name}")


def _generation(volume: Volume, change_id: str) -> int:
    name, _, number = change_id.rpartition("#")
    if name != volume.id or not number.isdigit() or int(number) > volume.content.generation:
        raise StalePreconditionError(f"changed_since: {change_id[:64]!r} is no change of disk {volume.id}")
    return int(number)


def _ranges(changed: list[int] | None, start: int, size: int) -> list[tuple[int, int]]:
    if changed is None:
        return [(start, size)]
    ranges = [(max(start, index * BLOCK), min(size, (index + 1) * BLOCK)) for index in changed]
    return [(first, last) for first, last in ranges if first < last]


async def _ascending(pieces: list[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece
