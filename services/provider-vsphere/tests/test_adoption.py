"""The first stamp of a machine that others made, and what becomes of its own UUID."""

from __future__ import annotations

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import ForeignMachineError, MachineNotFoundError, NameConflictError, NotSupportedError
from provider_vsphere import adoption, machines
from provider_vsphere.config import editing
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, one

UID = "0a1b2c3d-0000-4000-8000-00000000cc01"
device = vim.vm.device


def identity(uid: str = UID) -> v1.MachineIdentity:
    return v1.MachineIdentity(uid=uid, namespace="lab", name="taken", owner=OWNER)


def test_disks_and_nics_are_named_in_the_order_of_the_devices() -> None:
    board = [
        device.VirtualE1000(key=4001, macAddress="00:0C:29:00:00:02"),
        device.VirtualVmxnet3(key=4000, macAddress="00:0c:29:00:00:01"),
        device.VirtualIDEController(key=200, busNumber=0),
        device.ParaVirtualSCSIController(key=1000, busNumber=1),
        device.VirtualDisk(key=2001, controllerKey=1000, unitNumber=0),
        device.VirtualDisk(key=2000, controllerKey=200, unitNumber=1),
    ]
    record = adoption.first_stamp(Entity("VirtualMachine", "vm-1", {"config.hardware.device": board}), identity(), 5)
    assert record.disks == (
        DiskStamp("disk0", "ide0:1", owned=False, provisioning=""),
        DiskStamp("disk1", "scsi1:0", owned=False, provisioning=""),
    )
    assert record.nics == (NicStamp("nic0", "00:0c:29:00:00:01"), NicStamp("nic1", "00:0c:29:00:00:02"))
    assert (record.identity(), record.created) == (identity(), 5)


async def test_released_it_has_its_own_uuid_again(vcsim: Vcsim, vsphere: Vsphere) -> None:
    entity, clock = one(vsphere, "VirtualMachine"), SystemClock()
    own = entity.uuid
    for _ in range(2):
        await adoption.adopt(vsphere, clock, entity.moid, identity())
    assert (entity.uuid, machines.is_ours(entity, OWNER)) == (UID, True)
    edit = editing.release(machines.record_of(entity))
    await vsphere.task("release", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    await vsphere.refresh(entity)
    assert (entity.uuid, machines.stamp_of(entity)) == (own, None)


async def test_what_cannot_be_adopted_is_left_alone(vcsim: Vcsim, vsphere: Vsphere) -> None:
    first, second = list(vsphere.tree.of_kind("VirtualMachine"))[:2]
    await adoption.adopt(vsphere, SystemClock(), first.moid, identity())
    before = second.facts["config.changeVersion"]
    with pytest.raises(NameConflictError):
        await adoption.adopt(vsphere, SystemClock(), second.moid, identity())
    with pytest.raises(ForeignMachineError):
        await adoption.adopt(vsphere, SystemClock(), first.moid, identity(UID.replace("cc01", "cc02")))
    for missing in ("vm-none", one(vsphere, "Datastore").moid):
        with pytest.raises(MachineNotFoundError):
            await adoption.adopt(vsphere, SystemClock(), missing, identity(UID.replace("cc01", "cc03")))
    assert second.facts["config.changeVersion"] == before


async def test_a_template_is_told_the_image_that_means_it(vcsim: Vcsim, vsphere: Vsphere) -> None:
    with Admin(vcsim) as admin:
        vm = admin.create("golden")
        vm.MarkAsTemplate()
        before = admin.fingerprint(vm._moId)
        await vsphere.refresh(Entity("VirtualMachine", vm._moId))
        with pytest.raises(NotSupportedError, match=r"templateName: /DC0/vm/golden\)"):
            await adoption.adopt(vsphere, SystemClock(), vm._moId, identity(UID.replace("cc01", "cc07")))
        assert admin.fingerprint(vm._moId) == before
        assert vm.config.template


async def test_the_stamp_of_a_copy_is_no_stamp(vcsim: Vcsim, vsphere: Vsphere) -> None:
    """A person's copy of a machine of ours brought the stamp along; it is nobody's, and may be adopted."""
    entity = list(vsphere.tree.of_kind("VirtualMachine"))[2]
    copied = stamp.of(identity("0a1b2c3d-0000-4000-8000-00000000cc0f"), 1)
    edit = editing.stamped(copied)
    await vsphere.task("copy", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    fresh = identity(UID.replace("cc01", "cc05"))
    await adoption.adopt(vsphere, SystemClock(), entity.moid, fresh)
    assert machines.record_of(entity).identity() == fresh
