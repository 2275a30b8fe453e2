"""Files of disks, told apart by their datastore and not by the text of their path."""

from __future__ import annotations

from typing import Any

import pytest
from provider_vsphere import files
from provider_vsphere.files import Files
from provider_vsphere.session.tree import Entity, Tree
from pyVmomi import vim

dev = vim.vm.device


def disk(*chain: str) -> Any:
    """A disk on these files, top first."""
    backing = None
    for file in reversed(chain):
        backing = dev.VirtualDisk.FlatVer2BackingInfo(fileName=file, parent=backing)
    return dev.VirtualDisk(key=2000, backing=backing)


@pytest.fixture
def tree() -> Tree:
    """Two datacenters, each with a datastore "local" of its own, and both with one that they share."""
    tree = Tree()
    for n in (1, 2):
        tree.put("Datacenter", f"dc-{n}", {"name": f"DC{n}", "parent": "root"})
        for name, url in (("local", f"ds:///{n}/"), (f"shared{n}", "ds:///shared/")):
            tree.put("Datastore", f"{name}-{n}", {"name": name, "parent": f"dc-{n}", "summary.url": url})
    return tree


def vm(tree: Tree, moid: str, datacenter: int, *disks: Any) -> Entity:
    return tree.put("VirtualMachine", moid, {"parent": f"dc-{datacenter}", "config.hardware.device": list(disks)})


def test_linked_clones_are_those_on_the_same_file(tree: Tree) -> None:
    base = vm(tree, "vm-1", 1, disk("[local] a/a.vmdk"))
    clone = vm(tree, "vm-2", 1, disk("[local] b/b.vmdk", "[local] a/a.vmdk"))
    namesake = vm(tree, "vm-3", 2, disk("[local] b/b.vmdk", "[local] a/a.vmdk"))
    assert files.linked_clones(tree, base) == [clone]
    assert files.linked_clones(tree, namesake) == []


def test_a_shared_datastore_is_one_whatever_it_is_called(tree: Tree) -> None:
    base = vm(tree, "vm-1", 1, disk("[shared1] a/a.vmdk"))
    clone = vm(tree, "vm-2", 2, disk("[shared2] b/b.vmdk", "[shared2] a/a.vmdk"))
    assert files.linked_clones(tree, base) == [clone]
    assert Files(tree).of_others(clone) == {("ds:///shared/", "a/a.vmdk")}


def test_a_datastore_that_nobody_may_see_is_told_apart_by_its_datacenter(tree: Tree) -> None:
    base = vm(tree, "vm-1", 1, disk("[hidden] a/a.vmdk"))
    clone = vm(tree, "vm-2", 1, disk("[hidden] b/b.vmdk", "[hidden] a/a.vmdk"))
    vm(tree, "vm-3", 2, disk("[hidden] b/b.vmdk", "[hidden] a/a.vmdk"))
    assert files.linked_clones(tree, base) == [clone]
