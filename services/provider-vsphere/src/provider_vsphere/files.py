"""Files of disks in the whole inventory: who has which, and who stands on which.

A path "[datastore] directory/file" means one file only within a datacenter: another one may have a datastore of the
same name. The URL of the datastore tells them apart, and finds one that two datacenters share.
Source: Datastore.summary.url, "the unique locator for the datastore".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from common.errors import ResourceNotFoundError
from pyVmomi import vim

from provider_vsphere.config import devices
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vim_errors import is_missing_file
from provider_vsphere.session.vsphere import Vsphere

Location = tuple[str, str]
"""URL of a datastore, or what stands for it, and the path in it."""


class Files:
    """Where files are, as the tree is now; made for one question."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stores = {
            (_home(tree, store), store.name): str(store.facts.get("summary.url") or store.moid)
            for store in tree.of_kind("Datastore")
        }

    def may_be_on(self, entity: Entity, stores: set[str]) -> bool:
        """Whether a machine may use one of these datastores, as locations have them; what cannot be seen may be it."""
        used = {self._url(moid) for moid in entity.facts.get("datastore") or ()}
        return not used or bool(stores & used) or not stores <= set(self._stores.values())

    def _url(self, moid: str) -> str:
        store = self._tree.get(moid)
        return str(store.facts.get("summary.url") or moid) if store is not None else moid

    def at(self, entity: Entity, paths: Iterable[str]) -> dict[Location, str]:
        """Paths of files as this machine has them, by what they mean."""
        home, found = _home(self._tree, entity), {}
        for path in paths:
            store, _, file = path.removeprefix("[").partition("] ")
            found[self._stores.get((home, store)) or f"{home}/{store}", file] = path
        return found

    def of(self, entity: Entity, *, below: bool = False) -> set[Location]:
        """Of the disks of a machine with all that they stand on, or of what they stand on alone."""
        return set(self.at(entity, (file for disk in _disks(entity) for file in devices.chain_of(disk)[int(below) :])))

    def of_others(self, entity: Entity) -> set[Location]:
        """Of the disks of every other VM."""
        return {file for each in self._others(entity) for file in self.of(each)}

    def standing_on(self, entity: Entity, paths: Iterable[str]) -> list[Entity]:
        """VMs whose disks have one of these files of a machine below their own: linked clones."""
        wanted = self.at(entity, paths).keys()
        return [each for each in self._others(entity) if wanted & self.of(each, below=True)]

    def _others(self, entity: Entity) -> Iterator[Entity]:
        return (each for each in self._tree.of_kind("VirtualMachine") if each.moid != entity.moid)


def linked_clones(tree: Tree, entity: Entity) -> list[Entity]:
    """VMs that stand on disks of this one as they are now."""
    return Files(tree).standing_on(entity, filter(None, map(devices.file_of, _disks(entity))))


async def remove(vsphere: Vsphere, entity: Entity, file: str, doing: str) -> None:
    """Delete a disk that is not plugged in, named as this machine has it; one that is gone already is success."""
    datacenter = vsphere.tree.datacenter(entity)

    def delete(login: Login) -> Any:
        where = vim.Datacenter(datacenter.moid, login.instance._stub) if datacenter is not None else None
        return login.content.virtualDiskManager.DeleteVirtualDisk_Task(file, where)

    try:
        await vsphere.task(doing, delete)
    except ResourceNotFoundError as error:
        if not is_missing_file(error):
            raise  # a host or a datastore is away, and the file is where it was


def _home(tree: Tree, entity: Entity) -> str:
    datacenter = tree.datacenter(entity)
    return datacenter.moid if datacenter is not None else ""


def _disks(entity: Entity) -> Sequence[Any]:
    return devices.disks_of(entity.facts.get("config.hardware.device") or ())
