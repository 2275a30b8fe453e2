"""Datastore files of the simulated vCenter: /folder and the managers of files and disks."""

from __future__ import annotations

import urllib.error

import pytest
from pyVmomi import vim

from simulators.clients import MIB, folder, make, outcome, si, with_disks
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real


def test_the_bytes_of_a_disk_are_a_file(si, vcsim):
    vm = make(si, "filed", deviceChange=with_disks(MIB))
    vcsim.write_disk("filed", 4096, b"content")
    assert len(folder(si, vcsim, "filed/filed-flat.vmdk")) == MIB
    assert folder(si, vcsim, "filed/filed-flat.vmdk", part="4096-4102") == b"content"
    assert b"filed-flat.vmdk" in folder(si, vcsim, "filed/filed.vmdk")
    folder(si, vcsim, "filed/filed-flat.vmdk", b"put" + bytes(MIB - 3))
    assert vcsim.read_disk("filed", 0, 3) == b"put"
    outcome(vm.CreateSnapshot_Task("s", "", False, False))
    with pytest.raises(urllib.error.HTTPError, match="404"):  # a delta is no flat file
        folder(si, vcsim, "filed/filed-000001-flat.vmdk")


def test_disks_are_made_copied_grown_and_deleted(si, vcsim):
    manager, datacenter = si.content.virtualDiskManager, si.content.rootFolder.childEntity[0]
    spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(diskType="thin", adapterType="lsiLogic", capacityKb=1024)
    task = manager.CreateVirtualDisk_Task("[LocalDS_0] one.vmdk", datacenter, spec)
    outcome(task)
    assert task.info.entity == datacenter
    assert len(folder(si, vcsim, "one-flat.vmdk")) == MIB
    folder(si, vcsim, "one-flat.vmdk", b"one" + bytes(MIB - 3))
    copy = ("[LocalDS_0] one.vmdk", datacenter, "[LocalDS_0] two.vmdk", datacenter)
    outcome(manager.CopyVirtualDisk_Task(*copy))
    with pytest.raises(vim.fault.FileAlreadyExists):
        outcome(manager.CopyVirtualDisk_Task(*copy))
    with pytest.raises(vim.fault.FileNotFound):
        outcome(manager.CopyVirtualDisk_Task("[LocalDS_0] no.vmdk", datacenter, "[LocalDS_0] three.vmdk", datacenter))
    outcome(manager.ExtendVirtualDisk_Task("[LocalDS_0] two.vmdk", datacenter, 2048))
    content = folder(si, vcsim, "two-flat.vmdk")
    assert (len(content), content[:3]) == (2 * MIB, b"one")
    outcome(manager.MoveVirtualDisk_Task("[LocalDS_0] two.vmdk", datacenter, "[LocalDS_0] moved.vmdk", datacenter))
    assert folder(si, vcsim, "moved-flat.vmdk", part="0-2") == b"one"
    outcome(manager.DeleteVirtualDisk_Task("[LocalDS_0] one.vmdk", datacenter))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        folder(si, vcsim, "one-flat.vmdk")


def test_a_copied_disk_can_be_attached(si, vcsim):
    source = make(si, "copied", deviceChange=with_disks(MIB))
    vcsim.write_disk("copied", 0, b"bytes")
    outcome(source.CreateSnapshot_Task("s", "", False, False))
    manager, datacenter = si.content.virtualDiskManager, si.content.rootFolder.childEntity[0]
    outcome(
        manager.CopyVirtualDisk_Task(
            "[LocalDS_0] copied/copied-000001.vmdk", datacenter, "[LocalDS_0] loose.vmdk", datacenter
        )
    )
    changes = with_disks(MIB)
    changes[1].fileOperation = None
    changes[1].device.backing.fileName = "[LocalDS_0] loose.vmdk"
    make(si, "attached", deviceChange=changes)
    assert vcsim.read_disk("attached", 0, 5) == b"bytes"
