"""Datastore clusters: a recommendation is a choice, and the machine is still made by our own call."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.errors import HostFullError
from provider_vsphere.around import storagedrs
from provider_vsphere.around.storagedrs import Choice
from provider_vsphere.config import devices
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.watched import POD_ENABLED
from pyVmomi import vim, vmodl
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, driver_on, eventually

GIB = 1 << 30
DS = vim.Datastore


# -- what is recommended -----------------------------------------------------------------------------------------------


def recommendation(home: str | None, disks: dict[int, str], destination: str = "ds-9") -> Any:
    locator = vim.vm.RelocateSpec.DiskLocator
    where = vim.vm.RelocateSpec(
        datastore=DS(home) if home else None, disk=[locator(diskId=k, datastore=DS(v)) for k, v in disks.items()]
    )
    action = vim.storageDrs.StoragePlacementAction(relocateSpec=where, destination=DS(destination))
    return vim.cluster.Recommendation(action=[vim.cluster.MigrationAction(), action])


def test_the_first_recommendation_is_taken() -> None:
    result = vim.storageDrs.StoragePlacementResult
    two = [recommendation("ds-1", {-101: "ds-2"}), recommendation("ds-3", {})]
    assert storagedrs.choice(result(recommendations=two)) == Choice("ds-1", {-101: "ds-2"})
    assert storagedrs.choice(result(recommendations=[recommendation(None, {})])) == Choice("ds-9")
    assert storagedrs.choice(result(recommendations=[vim.cluster.Recommendation()])) is None
    assert storagedrs.choice(result()) is None


def test_a_refusal_says_why() -> None:
    fault = vmodl.LocalizedMethodFault(fault=vim.fault.InsufficientStorageSpace(), localizedMessage="no room")
    faults = vim.cluster.DrsFaults(faultsByVm=[vim.cluster.DrsFaults.FaultsByVm(fault=[fault])], reason="x")
    assert "InsufficientStorageSpace" in storagedrs.reason(vim.storageDrs.StoragePlacementResult(drsFault=faults))
    assert storagedrs.reason(vim.storageDrs.StoragePlacementResult()) == ""


# -- on a vCenter ------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.real


def add_pod(admin: Admin, *, enabled: bool) -> None:
    """A datastore cluster "pod" of every datastore there is."""
    (datacenter,) = admin.every(vim.Datacenter)
    pod = datacenter.datastoreFolder.CreateStoragePod("pod")
    admin.wait(pod.MoveIntoFolder_Task(admin.every(vim.Datastore)))
    change = vim.storageDrs.ConfigSpec(podConfigSpec=vim.storageDrs.PodConfigSpec(enabled=enabled))
    task = admin.si.content.storageResourceManager.ConfigureStorageDrsForPod_Task(pod, change, True)
    while leaf(admin, task, "info.state") == "running":  # milliseconds, here
        continue


def leaf(admin: Admin, managed: Any, path: str) -> Any:
    """One property, where pyvmomi cannot read what is around it."""
    collector = vmodl.query.PropertyCollector
    wish = collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=managed)],
        propSet=[collector.PropertySpec(type=type(managed), pathSet=[path])],
    )
    return admin.si.content.propertyCollector.RetrieveContents([wish])[0].propSet[0].val


def spec(name: str) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="lab", name=name, owner=OWNER),
        disks=[v1.DiskSpec(name="root", size_bytes=GIB), v1.DiskSpec(name="log", size_bytes=GIB)],
        placement=v1.Placement(storage_pod="pod"),
    )


async def made(driver: VsphereDriver, wish: v1.MachineSpec) -> list[Any]:
    await driver.create(wish, lambda _part, _step: None)
    assert wish.identity is not None
    (entity,) = driver.vsphere.tree.with_uuid(wish.identity.uid)
    return devices.disks_of(entity.facts["config.hardware.device"])


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_machine_goes_where_storage_drs_says(own_vcsim: Vcsim, tmp_path: Path, enabled: bool) -> None:
    """And to the roomiest member where it is off."""
    with Admin(own_vcsim) as admin:
        await asyncio.to_thread(add_pod, admin, enabled=enabled)
        template = await asyncio.to_thread(admin.create, "golden", deviceChange=disk_of_template())
        await asyncio.to_thread(template.MarkAsTemplate)
    own = driver_on(own_vcsim, tmp_path, default_cluster="DC0_C0")
    async with own.session():
        tree = own.vsphere.tree
        pod = next(tree.of_kind("StoragePod"))
        await eventually(lambda: pod.facts.get(POD_ENABLED) is enabled, lambda: asyncio.sleep(0.01))
        own_vcsim.control("requests/reset")
        disks = await made(own, spec("web"))
        assert [devices.file_of(disk).partition(" ")[0] for disk in disks] == ["[LocalDS_0]", "[LocalDS_0]"]
        clone = spec("copy")
        image = v1.PrepareImageRequest(
            uid=str(uuid.uuid4()),
            namespace="lab",
            name="golden",
            owner=OWNER,
            source=v1.ImageSource(template=v1.TemplateSource(name="golden")),
        )
        clone.disks[0].image = v1.ImageRef(id=(await own.prepare_image(image, lambda _part, _step: None)).id)
        assert len(await made(own, clone)) == 2
        assert own_vcsim.requests().get("RecommendDatastores", 0) == (2 if enabled else 0)


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_copy_of_a_machine_goes_there_too(own_vcsim: Vcsim, tmp_path: Path, enabled: bool) -> None:
    """A machine that names no cluster of datastores stays beside its source."""
    with Admin(own_vcsim) as admin:
        await asyncio.to_thread(add_datastore, admin, tmp_path)
        await asyncio.to_thread(add_pod, admin, enabled=enabled)
    own_vcsim.control("storage_drs", first="other")
    own = driver_on(own_vcsim, tmp_path, default_cluster="DC0_C0")
    async with own.session():
        pod = next(own.vsphere.tree.of_kind("StoragePod"))
        await eventually(lambda: pod.facts.get(POD_ENABLED) is enabled, lambda: asyncio.sleep(0.01))
        source = spec("web")
        source.placement = v1.Placement(datastore="LocalDS_0")
        await made(own, source)
        assert source.identity is not None
        own_vcsim.control("requests/reset")
        for asked in (True, False):
            target = spec(f"copy-{asked}")
            target.placement = target.placement if asked else None
            request = v1.CloneMachineRequest(source_uid=source.identity.uid, kind=v1.CloneKind.FULL, target=target)
            await own.clone(request, lambda _part, _step: None)
            assert target.identity is not None
            (entity,) = own.vsphere.tree.with_uuid(target.identity.uid)
            home = str(entity.facts["config.files.vmPathName"])
            assert home.startswith("[other]" if asked and enabled else "[LocalDS_0]"), home
        assert own_vcsim.requests().get("RecommendDatastores", 0) == int(enabled)


def add_datastore(admin: Admin, home: Path) -> None:
    """Another one, "other", with less room; on every host."""
    (home / "other").mkdir()
    for host in admin.every(vim.HostSystem):
        with contextlib.suppress(KeyError):  # the simulator answers without an id where it has one of this name
            host.configManager.datastoreSystem.CreateLocalDatastore("other", str(home / "other"))
    admin.server.control("datastore", name="other", free=1 << 33, capacity=1 << 34)


async def test_without_room_in_the_cluster_nothing_is_made(own_vcsim: Vcsim, tmp_path: Path) -> None:
    with Admin(own_vcsim) as admin:
        await asyncio.to_thread(add_pod, admin, enabled=True)
    own = driver_on(own_vcsim, tmp_path, default_cluster="DC0_C0")
    async with own.session():
        own_vcsim.control("storage_drs", none=True)
        wish = spec("web")
        with pytest.raises(HostFullError, match=r"datastore cluster pod cannot take it: .*InsufficientStorageSpace"):
            await own.create(wish, lambda _part, _step: None)
        assert wish.identity is not None
        assert await own.observe(wish.identity.uid) is None


def disk_of_template() -> list[Any]:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[LocalDS_0]", diskMode="persistent")
    disk = vim.vm.device.VirtualDisk(
        key=-2, controllerKey=-1, unitNumber=0, capacityInBytes=GIB, capacityInKB=GIB // 1024, backing=backing
    )
    add = vim.vm.device.VirtualDeviceSpec
    return [
        add(
            operation="add", device=vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        ),
        add(operation="add", fileOperation="create", device=disk),
    ]
