"""The contract, kept by the vSphere provider on a simulated vCenter."""

from __future__ import annotations

import asyncio
import base64
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from common import v1
from provider_vsphere.__main__ import build
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.settings import VsphereSettings
from provider_vsphere.stamps import stamp
from pyVmomi import vim
from simulators import ovas
from simulators.line import Line, line
from simulators.shelf import Shelf
from simulators.vcsim import Vcsim, vcsim
from simulators.vcsim.admin import Admin

from .adoption import AdoptionContract
from .capabilities import CapabilityContract
from .clones import CloneContract
from .consoles import ConsoleContract
from .disks import DiskContract
from .images import ImageContract, prepare, request
from .machines import MachineContract
from .operations import OperationContract
from .server import ServerContract
from .snapshots import SnapshotContract
from .subject import OWNER, Pace, Subject, Traits, World
from .watching import WatchContract

__all__ = ["vcsim"]  # fixture

pytestmark = pytest.mark.real
CLUSTER, NETWORK, PORT_GROUP = "DC0_C0", "VM Network", "DC0_DVPG0"
EXTRA_CONFIG = {
    "vsphere.hardwareVersion": "21",
    "vsphere.guestId": "debian12_64Guest",
    "vsphere.changeTracking": "true",
    "vsphere.hardwareUpgradePolicy": "onSoftPowerOff",
    "disk.EnableUUID": "TRUE",
}
MEDIA = ("[LocalDS_0] iso/one.iso", "[LocalDS_0] iso/two.iso")
PACE = Pace(call=15.0, settle=15.0, short_wait=1.0, parallel=12)
"""The simulator reads its whole inventory anew for each update, and answers nobody meanwhile: twice as many machines
made at once cost four times the processor."""


class VsphereWorld(World):
    """The simulator, reached by another administrator, and the line to it."""

    def __init__(self, server: Vcsim, admin: Admin, wire: Line) -> None:
        self.server = server
        self.admin = admin
        self.wire = wire
        self.vsphere: Vsphere | None = None
        self.theirs: set[str] = set()
        """Directories of machines that others made."""

    async def make_foreign(self, name: str, uid: str = "", **spec: object) -> str:
        vm = await asyncio.to_thread(self.admin.create, name, uid=uid, disks=1, **spec)
        await asyncio.to_thread(self.server.control, "behaviours", unplugged_stay=True)
        self.theirs.add(str(vm.config.files.vmPathName).rpartition("/")[0])
        moid = str(vm._moId)
        await self._until(lambda tree: tree.get(moid) is not None)
        assert self.vsphere is not None
        await self.vsphere.refresh(Entity("VirtualMachine", moid))  # it may have been told of before it was complete
        return moid

    async def make_template(self, name: str) -> str:
        """A template of somebody's; its object id."""
        moid = await self.make_foreign(name)
        await asyncio.to_thread(lambda: self.admin.find(moid).MarkAsTemplate())
        assert self.vsphere is not None
        entity = self.vsphere.tree.get(moid)
        assert entity is not None
        await self.vsphere.refresh(entity)  # the simulator does not push it
        return moid

    async def make_of_others(self, name: str) -> str:
        uid = str(uuid.uuid4())
        mark = stamp.of(v1.MachineIdentity(uid=uid, namespace="theirs", name=name, owner="somebody-else"), 1)
        option = vim.option.OptionValue(key=stamp.KEY, value=mark.text())
        return await self.make_foreign(name, uid, extraConfig=[option])

    async def has_disk(self, disk_id: str) -> bool:
        return (await asyncio.to_thread(self.admin.path_of, disk_id)).exists()

    async def agent(self, uid: str, *, running: bool) -> None:
        status = "guestToolsRunning" if running else "guestToolsNotRunning"
        await asyncio.to_thread(self.server.control, "guest", vm=uid, tools=status)
        await self._until(
            lambda tree: all(each.facts.get("guest.toolsRunningStatus") == status for each in tree.with_uuid(uid))
        )

    async def take_foreign_snapshot(self, uid: str, name: str) -> None:
        task = self.admin.find(uid).CreateSnapshot_Task(name, "", False, False)
        await asyncio.to_thread(self.admin.wait, task)
        await self._until(
            lambda tree: any(node.name == name for each in tree.with_uuid(uid) for node in each.facts["snapshot"])
        )

    async def _until(self, holds: Callable[[Tree], bool]) -> None:
        """Wait until the provider has heard of it, which costs it no call and so takes a moment."""
        assert self.vsphere is not None
        async with asyncio.timeout(10):
            while not holds(self.vsphere.tree):
                await asyncio.to_thread(time.sleep, 0.01)

    async def fingerprint(self, machine_id: str) -> str:
        return await asyncio.to_thread(self.admin.fingerprint, machine_id)

    async def count(self, uid: str) -> int:
        return len(await asyncio.to_thread(self.admin.with_uuid, uid))

    async def leftovers(self, uid: str) -> list[str]:
        machines = [vm.name for vm in await asyncio.to_thread(self.admin.with_uuid, uid) if _is_stamped(vm)]
        return machines + [each for each in await asyncio.to_thread(self.admin.orphans) if each not in self.theirs]

    async def power_off(self, uid: str) -> None:
        await asyncio.to_thread(self.server.control, "act", vm=uid, act="power_off")

    async def remove(self, uid: str) -> None:
        await asyncio.to_thread(self._remove, uid)
        await self._until(lambda tree: not tree.with_uuid(uid))

    def _remove(self, uid: str) -> None:
        for vm in self.admin.with_uuid(uid):
            if vm.runtime.powerState != "poweredOff":
                self.admin.wait(vm.PowerOffVM_Task())
            self.admin.wait(vm.Destroy_Task())

    @asynccontextmanager
    async def slow_create(self) -> AsyncIterator[None]:
        for method in ("CreateVM_Task", "CloneVM_Task"):
            await asyncio.to_thread(self.server.control, "slow", method=method, seconds=0, count=0)
        try:
            yield
        finally:
            await asyncio.to_thread(self.server.control, "reset")

    def deaf(self, uid: str) -> None:
        self.server.control("shutdown", mode="deaf")

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        assert self.vsphere is not None
        await self.wire.down()
        async with asyncio.timeout(30):
            await self.vsphere.wait_lost()
        try:
            yield
        finally:
            await self.wire.up()
            async with asyncio.timeout(30):
                await self.vsphere.wait_connected()

    async def scribble(self, uid: str, disk: str, offset: int, data: bytes) -> None:
        written = {"vm": uid, "offset": offset, "data": base64.b64encode(data).decode()}
        await asyncio.to_thread(self.server.control, "disk/write", disk=0, **written)

    @asynccontextmanager
    async def storage_full(self) -> AsyncIterator[None]:
        full = {"method": "CreateVM_Task", "fault": "NoDiskSpace", "in_task": True, "count": 0}
        await asyncio.to_thread(self.server.control, "faults", **full)
        try:
            yield
        finally:
            await asyncio.to_thread(self.server.control, "reset")


def _is_stamped(vm: vim.VirtualMachine) -> bool:
    return any(str(option.key).startswith("virtrigaud.") for option in vm.config.extraConfig)


class VsphereSubject(Subject):
    """Machines whose guests run VMware Tools."""

    async def settle(self, spec: v1.MachineSpec, **fields: object) -> v1.ApplyMachineResponse:
        answer = await super().settle(spec, **fields)
        if answer.machine is not None and answer.machine.owned:
            assert isinstance(self.world, VsphereWorld)
            facts = {"vm": answer.machine.identity.uid, "tools": "guestToolsRunning"}
            for when in (False, True):
                await asyncio.to_thread(self.world.server.control, "guest", on_boot=when, **facts)
        return answer


@pytest.fixture(scope="module")
def admin(vcsim: Vcsim) -> Iterator[Admin]:
    with Admin(vcsim) as admin:
        admin.add_key_provider()
        yield admin


@asynccontextmanager
async def served_vsphere(
    server: Vcsim, admin: Admin, home: Path, traits: Traits, **settings: str
) -> AsyncIterator[Subject]:
    """A subject on a simulator that is left as it was."""
    (home / "username").write_text(server.user)
    (home / "password").write_text(server.password)
    (home / "ca.crt").write_text(server.ca)
    before = {vm._moId for vm in admin.every()}
    async with line(server.host, server.port) as wire:
        world = VsphereWorld(server, admin, wire)

        def make_driver() -> VsphereDriver:
            driver = build(
                VsphereSettings(
                    endpoint=f"https://127.0.0.1:{wire.port}/sdk",
                    credentials_directory=home,
                    owner=OWNER,
                    insecure=True,
                    call_timeout=10.0,
                    image_directory=[home],
                    **settings,  # type: ignore[arg-type]  # texts, all of them
                )
            )
            world.vsphere = driver.vsphere
            return driver

        async with VsphereSubject(make_driver, world, traits) as subject:
            yield subject
    server.control("reset")
    for vm in reversed(admin.every()):  # linked clones before what they stand on
        if vm._moId not in before:
            if vm.config.template:  # the simulator goes on listing a template that is destroyed
                vm.MarkAsVirtualMachine(admin.every(vim.ClusterComputeResource)[0].resourcePool)
            if vm.runtime.powerState != "poweredOff":
                admin.wait(vm.PowerOffVM_Task())
            admin.wait(vm.Destroy_Task())
    for orphan in admin.orphans():
        shutil.rmtree(admin.path_of(orphan), ignore_errors=True)


@pytest.fixture
async def subject(vcsim: Vcsim, admin: Admin, tmp_path: Path) -> AsyncIterator[Subject]:
    traits = Traits(
        network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=NETWORK),
        other_network=v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name=PORT_GROUP),
        policies=("VM Encryption Policy", "vSAN Default Storage Policy"),
        image=lambda: v1.ImageSource(file=v1.FileSource(path="small.ova")),
        broken_image=lambda: v1.ImageSource(file=v1.FileSource(path="cut.ova")),
        copies_images=True,
        extra_config=EXTRA_CONFIG,
        media=MEDIA,
        pace=PACE,
        change_tracking={"vsphere.changeTracking": "true"},
    )
    package = ovas.ova()
    (tmp_path / "small.ova").write_bytes(package)
    (tmp_path / "disk.vmdk").write_bytes(ovas.vmdk())
    (tmp_path / "cut.ova").write_bytes(package[: len(package) // 2])
    defaults = {"default_cluster": CLUSTER, "default_network": NETWORK}
    async with served_vsphere(vcsim, admin, tmp_path, traits, **defaults) as subject:
        yield subject


class TestMachines(MachineContract): ...


class TestCapabilities(CapabilityContract): ...


class TestConsoles(ConsoleContract): ...


class TestImages(ImageContract):
    """Imported by the provider; and those that are there already."""

    async def test_a_template_serves_without_being_touched(self, subject: Subject) -> None:
        world = subject.world
        assert isinstance(world, VsphereWorld)
        moid = await world.make_template("golden")
        before = await world.fingerprint(moid)
        image = await prepare(subject, request(v1.ImageSource(template=v1.TemplateSource(name=moid))))
        await subject.images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=subject.pace.call)
        assert await world.fingerprint(moid) == before

    async def test_W41_an_item_of_a_content_library_serves(self, subject: Subject) -> None:
        world = subject.world
        assert isinstance(world, VsphereWorld)
        library = f"library-{uuid.uuid4()}"
        with Shelf(world.server, library) as shelf:
            await asyncio.to_thread(shelf.put, "small", ovas.package())
        image = await prepare(subject, request(v1.ImageSource(library=v1.LibrarySource(library=library, item="small"))))
        assert image.virtual_size_bytes == ovas.CAPACITY
        spec = subject.spec()
        spec.disks[0].image = v1.ImageRef(id=image.id)
        spec.disks[0].size_bytes = 0
        assert (await subject.settle(spec)).machine.disks[0].image_id == image.id
        await subject.images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=subject.pace.call)

    async def test_P26_a_machine_from_an_imported_disk_runs(self, subject: Subject) -> None:
        """It has its disk, the size that was asked for, and the power that was asked for."""
        image = await prepare(subject, request(v1.ImageSource(file=v1.FileSource(path="disk.vmdk"))))
        spec = subject.spec(power=v1.PowerState.ON)
        spec.disks[0].image = v1.ImageRef(id=image.id)
        spec.disks[0].size_bytes = 2 * image.virtual_size_bytes
        spec.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
        machine = (await subject.settle(spec)).machine
        assert machine.power is v1.PowerState.ON
        assert [disk.size_bytes for disk in machine.disks] == [disk.size_bytes for disk in spec.disks]
        assert not (await subject.plan(spec)).changes


class TestWatch(WatchContract): ...


class TestOperations(OperationContract): ...


class TestServer(ServerContract): ...


class TestDisks(DiskContract): ...


class TestSnapshots(SnapshotContract): ...


class TestClones(CloneContract): ...


class TestAdoption(AdoptionContract): ...
