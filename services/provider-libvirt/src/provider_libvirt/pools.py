"""Which storage pool a disk lies in that no record of ours tells of: known by its directory, asked for rarely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provider_libvirt import observed, volumes
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.observed import Raw


class Pools:
    """Names of pools by their directory.

    One call tells all. It is made again after a reconnect, when a pool came or went, and once for each directory that
    was not there last time; never for each machine.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._names: dict[str, str] = {}
        self._strange: set[str] = set()
        """Directories that belong to no pool."""
        self._doubts = 0
        self._asked_at = (0, 0)

    def forget(self) -> None:
        """A pool came, went, or is another now."""
        self._doubts += 1

    async def around(self, raws: Iterable[Raw]) -> Mapping[str, str]:
        """Names of pools by directory, those that hold disks of these domains among them."""
        now = (self._hypervisor.generation, self._doubts)
        directories = {directory for raw in raws for directory in observed.disk_directories(raw)}
        if now != self._asked_at or not directories <= self._names.keys() | self._strange:
            self._names = await self._hypervisor.call("list the storage pools", volumes.names_by_directory)
            strange = directories - self._names.keys()
            self._strange = strange if now != self._asked_at else self._strange | strange
            self._asked_at = now
        return self._names
