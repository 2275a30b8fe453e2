"""DiskService on the wire; a driver without the disk plane refuses each call by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

from common import v1
from common.errors import ChecksumMismatchError, InvalidSpecError

from providerkit.driver import Driver

from .context import Context


class DiskServicer:
    """Translates DiskService."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def get_disk(self, request: v1.GetDiskRequest, context: Context) -> v1.GetDiskResponse:
        """Size and format of a disk."""
        return await self._driver.disk_info(_named(request.disk))

    async def read_disk(self, request: v1.ReadDiskRequest, context: Context) -> AsyncIterator[v1.ReadDiskResponse]:
        """Extents in ascending order."""
        _named(request.disk)
        async for extent in self._driver.read_disk(request):
            yield v1.ReadDiskResponse(extents=[extent])

    async def write_disk(self, requests: AsyncIterator[v1.WriteDiskRequest], context: Context) -> v1.WriteDiskResponse:
        """Write the extents that follow the target."""
        first = await anext(aiter(requests), None)
        if first is None or first.target is None:
            raise InvalidSpecError("the first request of a write names its target")
        disk = _named(first.target.disk)
        promised = ""

        async def extents() -> AsyncIterator[v1.Extent]:
            nonlocal promised
            async for request in requests:
                if request.extent is not None:
                    yield request.extent
                promised = request.finish_sha256 or promised

        offset, written = await self._driver.write_disk(first.target, extents())
        if promised and written.lower() != promised.lower():
            raise ChecksumMismatchError(
                f"write disk {disk.disk_name} of machine {disk.machine_uid}: its content is not what was sent"
            )
        return v1.WriteDiskResponse(offset=offset, complete=bool(promised))


def _named(disk: v1.DiskRef | None) -> v1.DiskRef:
    if disk is None or not disk.machine_uid or not disk.disk_name:
        raise InvalidSpecError("disk: names no machine or no disk")
    return disk
