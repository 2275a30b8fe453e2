"""DiskService on the wire; a driver without the disk plane refuses each call by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from common import v1
from common.errors import InvalidSpecError

from providerkit.driver import Driver
from providerkit.extents import Incoming
from providerkit.machines import Machines
from providerkit.operations import Job

from .context import Context


class DiskServicer:
    """Translates DiskService."""

    def __init__(self, driver: Driver, machines: Machines) -> None:
        self._driver = driver
        self._machines = machines

    async def get_disk(self, request: v1.GetDiskRequest, context: Context) -> v1.GetDiskResponse:
        """Size and format of a disk."""
        return await self._driver.disk_info(_named(request.disk))

    async def read_disk(self, request: v1.ReadDiskRequest, context: Context) -> AsyncIterator[v1.ReadDiskResponse]:
        """Extents in ascending order."""
        _named(request.disk)
        # A reader that goes away ends it here and now: what the driver holds for it is let go, not collected some day.
        async with aclosing(self._driver.read_disk(request)) as extents:
            async for extent in extents:
                yield v1.ReadDiskResponse(extents=[extent])

    async def write_disk(self, requests: AsyncIterator[v1.WriteDiskRequest], context: Context) -> v1.WriteDiskResponse:
        """Write the extents that follow the target."""
        first = await anext(aiter(requests), None)
        if first is None or first.target is None:
            raise InvalidSpecError("the first request of a write names its target")
        target, disk = first.target, _named(first.target.disk)
        if disk.snapshot_id:
            raise InvalidSpecError("disk.snapshot_id: a snapshot cannot be written")
        if not target.size_bytes or target.resume_offset > target.size_bytes:
            raise InvalidSpecError("size_bytes: is missing, or less than resume_offset")

        async def write(job: Job[v1.WriteDiskResponse]) -> v1.WriteDiskResponse:
            incoming = Incoming(target, requests, job.progress)
            offset = await self._driver.write_disk(target, incoming)
            return v1.WriteDiskResponse(offset=offset, complete=bool(incoming.promised))

        return await self._machines.hold("write-disk", disk.machine_uid, write)


def _named(disk: v1.DiskRef | None) -> v1.DiskRef:
    if disk is None or not disk.machine_uid or not disk.disk_name:
        raise InvalidSpecError("disk: names no machine or no disk")
    return disk
