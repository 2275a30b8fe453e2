"""Several changes as one task: each upon the ones before it, all of them or none."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from common import v1
from common.errors import InvalidSpecError, StalePreconditionError
from provider_vsphere import machines
from provider_vsphere.config import devices, editing
from provider_vsphere.reconfiguring import Build, Reconfiguring, joined
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import Stamp
from pyVmomi import vim
from simulators.vcsim import Vcsim

from .conftest import OWNER, create

UID = "0a1b2c3d-0000-4000-8000-00000000ab01"
MIB = 1 << 20
RECORD = Stamp(UID, "lab", "web", OWNER)
_dev = vim.vm.device


def entity() -> Entity:
    ide = _dev.VirtualIDEController(key=200, busNumber=0)
    return Entity("VirtualMachine", "vm-1", {"config.hardware.device": (ide,)})


def present(machine: Entity) -> list[Any]:
    return list(machine.facts["config.hardware.device"])


def add(name: str) -> Build:
    disk = v1.DiskSpec(name=name, size_bytes=8 * MIB)
    return lambda machine, record: editing.add_disk(present(machine), record, disk, "LocalDS_0", {})


def grow(name: str, size: int) -> Build:
    return lambda machine, record: editing.grow_disk(present(machine), record, name, size)


def detach(name: str) -> Build:
    return lambda machine, record: editing.detach_disk(present(machine), record, name)


def cpus(count: int) -> Build:
    return lambda _, record: editing.set_cpu(record, v1.CpuSpec(count=count, shares=count), live=False)


def record_in(config: Any) -> Stamp:
    found = stamp.read(next(option.value for option in config.extraConfig if option.key == stamp.KEY))
    assert found is not None
    return found


def test_two_disks_get_two_places_and_both_are_in_the_stamp() -> None:
    config = joined(entity(), RECORD, [add("a"), add("b"), cpus(3)])
    assert config is not None
    assert config.numCPUs == 3
    disks = [change.device for change in config.deviceChange if isinstance(change.device, _dev.VirtualDisk)]
    assert len({(disk.controllerKey, disk.unitNumber) for disk in disks}) == 2
    assert len({change.device.key for change in config.deviceChange}) == len(config.deviceChange)
    assert [(disk.name, disk.slot) for disk in record_in(config).disks] == [("a", "scsi0:0"), ("b", "scsi0:1")]
    assert record_in(config).settings["cpu.shares"] == "3"


def test_a_device_has_one_change_however_often_it_is_changed() -> None:
    config = joined(entity(), RECORD, [add("a"), grow("a", 16 * MIB)])
    assert config is not None
    [change] = [each for each in config.deviceChange if isinstance(each.device, _dev.VirtualDisk)]
    assert (change.operation, change.fileOperation, devices.capacity(change.device)) == ("add", "create", 16 * MIB)


def test_what_is_added_and_removed_is_neither() -> None:
    config = joined(entity(), RECORD, [add("a"), detach("a")])
    assert config is not None
    assert not any(isinstance(each.device, _dev.VirtualDisk) for each in config.deviceChange)
    assert record_in(config).disks == ()


def test_fields_of_one_structure_may_come_from_two_changes() -> None:
    shares = vim.ResourceAllocationInfo(shares=vim.SharesInfo(level="custom", shares=7))
    limit = vim.ResourceAllocationInfo(limit=100)
    config = joined(
        entity(),
        RECORD,
        [
            lambda _machine, _record: vim.vm.ConfigSpec(cpuAllocation=shares, numCPUs=1),
            lambda _machine, _record: vim.vm.ConfigSpec(cpuAllocation=limit, numCPUs=2),
        ],
    )
    assert config is not None
    assert (config.cpuAllocation.limit, config.cpuAllocation.shares.shares, config.numCPUs) == (100, 7, 2)


def test_nothing_to_do_is_nothing() -> None:
    assert joined(entity(), RECORD, [lambda _machine, _record: None]) is None


def test_the_machine_that_is_looked_at_stays_as_it_is() -> None:
    machine = entity()
    joined(machine, RECORD, [add("a")])
    assert len(present(machine)) == 1


async def made(vsphere: Vsphere) -> str:
    uid = str(uuid.uuid4())
    moid = await vsphere.task("create", create(vsphere, uid, uid))
    await vsphere.refresh(Entity("VirtualMachine", str(moid)))
    return uid


@pytest.mark.real
async def test_all_changes_are_one_task(vsphere: Vsphere, vcsim: Vcsim) -> None:
    uid, change = await made(vsphere), Reconfiguring(vsphere, owner=OWNER)
    vcsim.control("requests/reset")
    async with change.together(uid):
        for build in (cpus(2), add("a"), add("b"), grow("a", 16 * MIB)):
            await change.edit(uid, "change", build)
        assert vcsim.requests().get("ReconfigVM_Task") is None
    assert vcsim.requests()["ReconfigVM_Task"] == 1
    entity = machines.get(vsphere.tree, uid, OWNER)
    sizes = [devices.capacity(disk) for disk in devices.disks_of(present(entity))]
    assert (sorted(sizes), entity.facts["config.hardware.numCPU"]) == ([8 * MIB, 16 * MIB], 2)


@pytest.mark.real
async def test_upon_somebody_elses_change_all_are_built_anew(vsphere: Vsphere, vcsim: Vcsim) -> None:
    """The other's disk took the place that ours was meant for."""
    uid, change = await made(vsphere), Reconfiguring(vsphere, owner=OWNER)
    async with change.together(uid):
        await change.edit(uid, "change", add("a"))
        entity = machines.get(vsphere.tree, uid, OWNER)
        theirs = Reconfiguring(vsphere, owner=OWNER)
        await theirs.edit_now(uid, "change", add("theirs"))
        entity.facts = entity.facts | {"config.changeVersion": "1"}  # as if nobody had told us yet
    found = machines.stamp_of(machines.get(vsphere.tree, uid, OWNER))
    assert found is not None
    assert {disk.name for disk in found.disks} == {"a", "theirs"}
    assert len({disk.slot for disk in found.disks}) == 2


@pytest.mark.real
async def test_what_cannot_be_is_told_at_once_and_spoils_nothing_else(vsphere: Vsphere) -> None:
    uid, change = await made(vsphere), Reconfiguring(vsphere, owner=OWNER)
    wrong = v1.DiskSpec(name="x", size_bytes=MIB, bus=v1.DiskBus.VIRTIO)
    async with change.together(uid):
        await change.edit(uid, "change", cpus(2))
        with pytest.raises(InvalidSpecError, match="no VIRTIO bus"):
            await change.edit(
                uid, "change", lambda m, record: editing.add_disk(present(m), record, wrong, "LocalDS_0", {})
            )
    assert machines.get(vsphere.tree, uid, OWNER).facts["config.hardware.numCPU"] == 2


@pytest.mark.real
async def test_a_change_that_never_fits_is_given_up(vsphere: Vsphere, vcsim: Vcsim) -> None:
    uid, change = await made(vsphere), Reconfiguring(vsphere, owner=OWNER)
    vcsim.control("faults", method="ReconfigVM_Task", fault="ConcurrentAccess", in_task=True, count=0)
    with pytest.raises(StalePreconditionError):
        await change.edit(uid, "change", cpus(2))
