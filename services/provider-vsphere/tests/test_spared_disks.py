"""Disks of others outlive what is done to the machine that has them, and so does a disk of ours that others have."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    OperationInProgressError,
    ResourceNotFoundError,
    SnapshotInUseError,
)
from provider_vsphere import machines
from provider_vsphere.config import devices, making
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import stamp, uploadstamp
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, driver_on

pytestmark = pytest.mark.real
MIB = 1 << 20


def silent(_part: float, _phase: str) -> None:
    """Nobody looks at the progress."""


@pytest.fixture(scope="module")
def admin(vcsim: Vcsim) -> Iterator[Admin]:
    with Admin(vcsim) as admin:
        yield admin


@pytest.fixture
async def driver(vcsim: Vcsim, tmp_path: Path) -> AsyncIterator[VsphereDriver]:
    vcsim.control("behaviours", unplugged_stay=True)
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0", default_network="VM Network")
    async with driver.session():
        yield driver
    vcsim.control("reset")


def identity() -> v1.MachineIdentity:
    uid = str(uuid.uuid4())
    return v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner=OWNER)


async def adopted(driver: VsphereDriver, admin: Admin) -> str:
    """A machine whose disk is somebody else's."""
    who = identity()
    vm = admin.create(f"theirs-{who.uid[:8]}", disks=1)
    await until(driver, lambda: driver.vsphere.tree.get(vm._moId))
    await driver.adopt(vm._moId, who)
    return who.uid


async def until(driver: VsphereDriver, holds: Callable[[], object]) -> None:
    """Wait until the provider has heard of it."""
    heard = asyncio.Event()
    driver.vsphere.on_change(lambda _uid: heard.set())
    async with asyncio.timeout(10):
        while not holds():
            heard.clear()
            await heard.wait()


def entity_of(driver: VsphereDriver, uid: str) -> Entity:
    return machines.get(driver.vsphere.tree, uid, OWNER)


def files(driver: VsphereDriver, uid: str) -> list[str]:
    board = entity_of(driver, uid).facts["config.hardware.device"]
    return [devices.file_of(disk) for disk in devices.disks_of(board)]


def plug(admin: Admin, vm: Any, file: str, *, create: bool = False) -> None:
    """Give a VM another disk."""
    controller = next(each for each in vm.config.hardware.device if devices.family_of(each) is devices.SCSI)
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent")
    disk = vim.vm.device.VirtualDisk(
        key=-1, controllerKey=controller.key, unitNumber=5, backing=backing, capacityInKB=8192
    )
    change = vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create" if create else None, device=disk)
    admin.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def unplug(admin: Admin, vm: Any, file: str) -> None:
    """Take a disk out of a VM and leave its files."""
    (disk,) = (each for each in devices.disks_of(vm.config.hardware.device) if file in devices.chain_of(each))
    change = vim.vm.device.VirtualDeviceSpec(operation="remove", device=disk)
    admin.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


async def test_an_adopted_machines_disk_outlives_it_and_its_snapshots(driver: VsphereDriver, admin: Admin) -> None:
    uid = await adopted(driver, admin)
    [file] = files(driver, uid)
    request = v1.CreateSnapshotRequest(machine_uid=uid, uid=str(uuid.uuid4()), name="before")
    await driver.create_snapshot(request, silent)
    assert files(driver, uid) != [file], "it goes on in a delta"
    await driver.destroy(uid, silent)
    assert admin.path_of(file).exists()


async def test_a_disk_that_somebody_plugged_in_outlives_a_revert(driver: VsphereDriver, admin: Admin) -> None:
    uid = await adopted(driver, admin)
    request = v1.CreateSnapshotRequest(machine_uid=uid, uid=str(uuid.uuid4()), name="before")
    await driver.create_snapshot(request, silent)
    plug(admin, admin.find(uid), "[LocalDS_0]", create=True)
    await until(driver, lambda: len(files(driver, uid)) == 2)
    file = files(driver, uid)[1]
    await driver.revert_snapshot(v1.RevertSnapshotRequest(machine_uid=uid, uid=request.uid), silent)
    assert len(files(driver, uid)) == 1
    assert admin.path_of(file).exists()


@pytest.mark.parametrize("in_snapshot", [False, True])
async def test_an_unplugged_disk_that_another_vm_has_outlives_its_machine(
    driver: VsphereDriver, admin: Admin, in_snapshot: bool
) -> None:
    uid, file = await kept_disk(driver)
    other = admin.create(f"other-{uid[:8]}", disks=1)
    plug(admin, other, file)
    if in_snapshot:
        admin.wait(other.CreateSnapshot_Task("with it", "", False, False))
        unplug(admin, other, file)
    await until(driver, lambda: knows(driver, other, file, plugged=not in_snapshot))
    await driver.destroy(uid, silent)
    assert admin.path_of(file).exists()


def knows(driver: VsphereDriver, other: Any, file: str, *, plugged: bool) -> bool:
    """The provider has heard of the other VM's disk; unplugged, of its snapshot and that the disk is out."""
    entity = driver.vsphere.tree.get(other._moId)
    if entity is None:
        return False
    chains = [devices.chain_of(disk) for disk in devices.disks_of(entity.facts.get("config.hardware.device") or ())]
    return any(file in chain for chain in chains) is plugged and bool(entity.facts.get("snapshot")) is not plugged


async def kept_disk(driver: VsphereDriver) -> tuple[str, str]:
    """A machine with a disk that was detached, and its file."""
    who = identity()
    disks = [v1.DiskSpec(name=name, size_bytes=8 * MIB) for name in ("root", "data")]
    size = v1.MemorySpec(size_bytes=64 * MIB)
    await driver.create(v1.MachineSpec(identity=who, cpu=v1.CpuSpec(count=1), memory=size, disks=disks), silent)
    file = files(driver, who.uid)[1]
    await driver.detach_disk(who.uid, "data", live=False)
    return who.uid, file


async def test_a_file_that_nobody_can_get_at_has_not_gone(vcsim: Vcsim, driver: VsphereDriver, admin: Admin) -> None:
    """The machine stays and is destroyed later, or the file would be forgotten."""
    uid, file = await kept_disk(driver)
    vcsim.control("faults", method="DeleteVirtualDisk_Task", fault="HostNotConnected", in_task=True)
    with pytest.raises(ResourceNotFoundError, match="HostNotConnected"):
        await driver.destroy(uid, silent)
    assert admin.path_of(file).exists()
    await driver.destroy(uid, silent)
    assert not admin.path_of(file).exists()


async def test_a_vm_that_cannot_be_read_may_have_the_disk(
    vcsim: Vcsim, tmp_path: Path, driver: VsphereDriver, admin: Admin
) -> None:
    uid, file = await kept_disk(driver)
    before = admin.fingerprint(uid)
    other = admin.create(f"far-{uid[:8]}", disks=1)
    vcsim.control("reach", vm=other.name, state="inaccessible")
    successor = driver_on(vcsim, tmp_path)
    async with successor.session():
        with pytest.raises(HypervisorUnavailableError, match=f"{other.name} is inaccessible"):
            await successor.destroy(uid, silent)
    assert admin.path_of(file).exists()
    assert admin.fingerprint(uid) == before


async def test_a_destroy_that_is_refused_leaves_everything_as_it_was(driver: VsphereDriver, admin: Admin) -> None:
    """Somebody copied the machine with its stamp: which of the two is meant, nobody can tell."""
    uid, friend = await adopted(driver, admin), await adopted(driver, admin)
    for each in (uid, friend):
        await driver.set_affinity(each, [v1.AffinityRule(name="db", apart=True)])
    [cluster] = admin.every(vim.ClusterComputeResource)
    rules = [rule.name for rule in cluster.configurationEx.rule]
    assert rules
    text = machines.record_of(entity_of(driver, uid)).text()
    copy = admin.create(f"copy-{uid[:8]}", uid=uid, extraConfig=making.options({stamp.KEY: text}))
    await until(driver, lambda: len(driver.vsphere.tree.with_uuid(uid)) == 2)
    with pytest.raises(OperationInProgressError, match="several VMs carry its stamp"):
        await driver.destroy(uid, silent)
    assert [rule.name for rule in cluster.configurationEx.rule] == rules
    admin.wait(copy.Destroy_Task())


async def test_a_disk_that_others_stand_on_without_a_snapshot_is_not_destroyed(
    driver: VsphereDriver, admin: Admin
) -> None:
    """Somebody removed the snapshot, and vSphere let them."""
    uid = await adopted(driver, admin)
    child = entity_of(driver, await adopted(driver, admin))
    disk = vim.vm.device.VirtualDisk(key=2000, backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[ds] c"))
    disk.backing.parent = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=files(driver, uid)[0])
    driver.vsphere.learn(child, {"config.hardware.device": [disk]})
    with pytest.raises(SnapshotInUseError, match=child.name):
        await driver.destroy(uid, silent)
    assert admin.find(uid).runtime.powerState == "poweredOff"


async def test_the_shell_of_an_upload_is_nobodys_to_adopt(driver: VsphereDriver, admin: Admin) -> None:
    """It goes with the upload, and a machine of somebody's would go with it."""
    mark = uploadstamp.UploadStamp(str(uuid.uuid4()), "root", OWNER)
    options = making.options({uploadstamp.KEY: mark.text()})
    vm = admin.create("virtrigaud-upload", uid=mark.instance_uuid(), extraConfig=options)
    await until(driver, lambda: driver.vsphere.tree.get(vm._moId))
    with pytest.raises(ForeignMachineError):
        await driver.adopt(vm._moId, identity())
