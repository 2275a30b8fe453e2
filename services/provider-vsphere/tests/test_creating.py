"""Machines from templates and snapshots on a simulated vCenter, and what is refused before anything is made."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import ForeignMachineError, ImageNotFoundError, InvalidSpecError, NameConflictError
from provider_vsphere import machines
from provider_vsphere.config import devices, nics
from provider_vsphere.creating import Creator
from provider_vsphere.images.images import Images
from provider_vsphere.places import Defaults, Places
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, connected

pytestmark = pytest.mark.real
MIB, GIB = 1 << 20, 1 << 30
GOLDEN = "golden"


def silent(_part: float, _phase: str) -> None:
    """Nobody looks at the progress."""


@pytest.fixture(scope="module")
def golden(vcsim: Vcsim) -> Iterator[Any]:
    """A template with a disk of 16 MiB, a card and a stamp of somebody else's."""
    with Admin(vcsim) as admin:
        controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName="", diskMode="persistent", thinProvisioned=True
        )
        disk = vim.vm.device.VirtualDisk(key=-2, controllerKey=-1, unitNumber=0, capacityInKB=16 << 10, backing=backing)
        adds = [
            vim.vm.device.VirtualDeviceSpec(operation="add", device=controller),
            vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
        ]
        vm = admin.create(GOLDEN, deviceChange=adds)
        admin.wait(vm.CreateSnapshot_Task("base", "", False, False))
        vm.MarkAsTemplate()
        yield vm


def creator_on(vsphere: Vsphere) -> tuple[Creator, Images]:
    places = Places(vsphere.tree, Defaults(cluster="DC0_C0", network="VM Network"))
    images = Images(vsphere, places, owner=OWNER)
    return Creator(vsphere, places, images, SystemClock(), owner=OWNER), images


@pytest.fixture
async def creator(vsphere: Vsphere, golden: Any) -> tuple[Creator, Images]:
    return creator_on(vsphere)


def spec(image: str = "", name: str = "", size: int = 0) -> v1.MachineSpec:
    uid = str(uuid.uuid4())
    root = v1.DiskSpec(name="root", size_bytes=size, image=v1.ImageRef(id=image) if image else None)
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=name or f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=2),
        memory=v1.MemorySpec(size_bytes=64 * MIB),
        disks=[root],
        nics=[v1.NicSpec(name="lan")],
    )


def template(images: Images, snapshot: str = "") -> str:
    source = v1.ImageSource(template=v1.TemplateSource(name=GOLDEN, snapshot=snapshot))
    request = v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="lab", name="golden", owner=OWNER, source=source)
    return images.check(request)


def found(vsphere: Vsphere, wish: v1.MachineSpec) -> Entity:
    assert wish.identity is not None
    return machines.get(vsphere.tree, wish.identity.uid, OWNER)


async def test_a_clone_is_its_own_machine_and_is_left_off(vsphere: Vsphere, creator: tuple[Creator, Images]) -> None:
    make, images = creator
    wish = spec(template(images), size=32 * MIB)
    await make.create(wish, silent)
    entity = found(vsphere, wish)
    present = entity.facts["config.hardware.device"]
    assert [devices.capacity(disk) for disk in devices.disks_of(present)] == [32 * MIB]
    assert len(nics.cards(present)) == 1
    assert entity.facts["config.hardware.numCPU"] == 2
    assert entity.facts["runtime.powerState"] == "poweredOff"


@pytest.mark.parametrize("cloned", [False, True])
async def test_a_create_costs_three_requests_beside_its_task(
    vcsim: Vcsim, credentials: Path, golden: Any, cloned: bool
) -> None:
    """The filter that tells of the task, its end, and the machine as it is then."""
    async with connected(vcsim, credentials, lag=0.0) as vsphere:
        make, images = creator_on(vsphere)
        await make.create(spec(size=8 * MIB), silent)  # settles the doubts of a new session
        vcsim.control("requests/reset")
        await make.create(spec(template(images) if cloned else "", size=32 * MIB), silent)
        counts = vcsim.requests()
    counts.pop("WaitForUpdatesEx", None)  # one long wait, however many machines are made
    counts.pop("CancelWaitForUpdates", None)
    counts.pop("Logout", None)
    assert counts.pop("CloneVM_Task" if cloned else "CreateVM_Task") == 1
    assert sum(counts.values()) <= 3, counts


async def test_a_machine_on_a_snapshot_stands_on_its_disks(vsphere: Vsphere, creator: tuple[Creator, Images]) -> None:
    make, images = creator
    wish = spec(template(images, snapshot="base"))
    await make.create(wish, silent)
    assert devices.capacity(devices.disks_of(found(vsphere, wish).facts["config.hardware.device"])[0]) == 16 * MIB
    with pytest.raises(InvalidSpecError, match="cannot be larger"):
        await make.create(spec(template(images, snapshot="base"), size=32 * MIB), silent)


async def test_what_cannot_be_made_is_told_before_a_task_begins(
    vsphere: Vsphere, creator: tuple[Creator, Images], vcsim: Vcsim
) -> None:
    make, images = creator
    taken = spec(name="taken", size=8 * MIB)
    await make.create(taken, silent)
    vcsim.control("requests/reset")
    with pytest.raises(NameConflictError, match=r"/DC0/vm/lab\.taken"):
        await make.create(spec(name="taken", size=8 * MIB), silent)
    with pytest.raises(ImageNotFoundError):
        await make.create(spec(image="no-such-image"), silent)
    with pytest.raises(InvalidSpecError, match="never shrinks"):
        await make.create(spec(template(images), size=8 * MIB), silent)
    assert not vcsim.requests().get("CloneVM_Task")


async def test_a_stranger_with_our_uuid_stops_a_create(
    vsphere: Vsphere, creator: tuple[Creator, Images], vcsim: Vcsim
) -> None:
    """Asked of vSphere itself where the tree may lag."""
    make, _ = creator
    wish = spec(size=8 * MIB)
    assert wish.identity is not None
    with Admin(vcsim) as admin:
        admin.create("with-our-uuid", uid=wish.identity.uid)
    with pytest.raises(ForeignMachineError, match="not touched"):
        await make.look(wish.identity.uid, "look")
    with pytest.raises(ForeignMachineError, match="not touched"):
        await make.create(wish, silent)


async def test_a_guest_is_customized_and_its_secrets_show_nowhere(
    vcsim: Vcsim, vsphere: Vsphere, creator: tuple[Creator, Images], caplog: pytest.LogCaptureFixture
) -> None:
    make, images = creator
    wish = spec(template(images))
    wish.nics[0].addressing = v1.GuestAddressing(addresses=["192.0.2.7/24"], gateway4="192.0.2.1")
    canary = "canary-of-the-password"
    wish.customization = v1.Customization(sysprep=v1.Sysprep(admin_password=canary, commands=[f"echo {canary}"]))
    vcsim.control("faults", method="CloneVM_Task", fault="CustomizationFault", in_task=True)
    with pytest.raises(InvalidSpecError) as refused:
        await make.create(wish, silent)
    await make.create(wish, silent)
    assert canary not in str(refused.value)
    assert canary not in caplog.text
    entity = found(vsphere, wish)
    told = vcsim.vms()[entity.name]["customization"]
    assert told["identity"]["guiUnattended"]["password"] == {"value": canary, "plainText": True}
    (card,) = nics.cards(entity.facts["config.hardware.device"])
    (mapping,) = told["nicSettingMap"]
    assert (mapping["macAddress"], mapping["adapter"]["ip"]["ipAddress"]) == (card.macAddress, "192.0.2.7")
    extra = vcsim.vms()[entity.name]["extraConfig"]
    assert {key: value for key, value in extra.items() if "guestinfo" in key and value} == {}


async def test_without_an_image_no_guest_is_customized(vsphere: Vsphere, creator: tuple[Creator, Images]) -> None:
    make, _ = creator
    wish = spec(size=8 * MIB)
    wish.customization = v1.Customization(domain="example.org")
    with pytest.raises(InvalidSpecError, match="no image"):
        await make.create(wish, silent)
    assert wish.identity is not None
    assert vsphere.tree.with_uuid(wish.identity.uid) == []
