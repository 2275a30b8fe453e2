"""VMs that vSphere cannot read: what may be ours is neither gone nor free to be made a second time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from common import v1
from common.errors import HypervisorUnavailableError, MachineNotFoundError
from common.rpc import Stub
from processes import delete, settle
from provider_vsphere import machines, unread
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.stamps import imagestamp, stamp
from scenes import MIB, OFF, machine_spec, uid_of
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, driver_on
from .test_process import provider

UID = "0a1b2c3d-0000-4000-8000-00000000ee01"
real = pytest.mark.real


def silent(_part: float, _phase: str) -> None:
    """Nobody looks at the progress."""


# -- telling apart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "it_is"),
    [
        ("lab.web", "", True),
        ("renamed", "[ds] lab.web/lab.web.vmx", True),
        ("renamed", "[vsan] 5f7d9a1e-1c1f-4c2b/lab.web.vmx", True),
        ("/vmfs/volumes/5f7d/lab.web_1/x.vmx", "/vmfs/volumes/5f7d/lab.web_1/x.vmx", True),
        ("lab.website", "[ds] lab.website/lab.website.vmx", False),
        ("web", "[lab.web] web/web.vmx", False),
        ("", "", False),
    ],
)
def test_a_name_is_found_in_whatever_is_left(name: str, path: str, it_is: bool) -> None:
    facts = {"name": name, "summary.config.vmPathName": path}
    assert unread.is_called(Entity("VirtualMachine", "vm-1", facts), "lab.web") is it_is


def test_what_was_read_in_the_last_session_is_known_in_the_next() -> None:
    """The files of a machine went out of reach, and then the session ended."""
    tree, mark = Tree(), stamp.Stamp(UID, "lab", "web", OWNER)
    facts = {"config.instanceUuid": UID, f'config.extraConfig["{stamp.KEY}"]': mark.text(), "name": "lab.web"}
    tree.put("VirtualMachine", "vm-1", facts)
    tree.put("VirtualMachine", "vm-2", {"config.instanceUuid": "other", "config.annotation": "before"})
    for _ in range(2):  # a session that ends before it has told of anything comes in between
        tree.clear(same_server=True)
    tree.put("VirtualMachine", "vm-1", {"name": "lab.web", "runtime.connectionState": "inaccessible"})
    tree.put("VirtualMachine", "vm-2", {"config.instanceUuid": "other"})
    tree.settle()
    assert machines.find(tree, UID, OWNER) is tree.get("vm-1")
    assert "config.annotation" not in tree.with_uuid("other")[0].facts, "it can be read: that is what is true"
    assert tree.unread() == []
    tree.clear()
    tree.put("VirtualMachine", "vm-1", {"name": "lab.web"})
    assert [each.moid for each in tree.unread()] == ["vm-1"], "another vCenter has other ids"


# -- on a vCenter --------------------------------------------------------------------------------------------------


def one_left(server: Vcsim, spec: v1.MachineSpec) -> dict[str, object]:
    """The one VM of this machine, as the simulator itself knows it."""
    (found,) = (vm for vm in server.vms().values() if vm["instanceUuid"] == uid_of(spec))
    return found


async def snapshot_of(machines: Stub) -> list[v1.MachineEvent]:
    async for message in machines.watch_machines(v1.WatchMachinesRequest(), timeout=20):
        if message.snapshot_complete:
            return list(message.events)
    raise AssertionError("the watch ended")


async def shown(machines: Stub, uid: str) -> None:
    """Wait until the watch tells of this machine."""
    async for message in machines.watch_machines(v1.WatchMachinesRequest(), timeout=20):
        if any(each.changed is not None and each.changed.identity.uid == uid for each in message.events):
            return


@real
@pytest.mark.parametrize(
    ("state", "kept"), [("inaccessible", True), ("inaccessible", False), ("orphaned", False), ("disconnected", False)]
)
async def test_W9_out_of_reach_since_before_the_start_it_is_not_gone(
    own_vcsim: Vcsim, tmp_path: Path, state: str, kept: bool
) -> None:
    spec, other = machine_spec(OFF), machine_spec(OFF)
    uid = uid_of(spec)
    async with provider(own_vcsim, tmp_path) as before, before.machines() as machines:
        await settle(machines, spec)
    own_vcsim.control("reach", vm=uid, state=state, uuid=kept)
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        for call in (
            lambda: delete(machines, spec),
            lambda: machines.delete_machine(v1.DeleteMachineRequest(identity=spec.identity, retain=True), timeout=20),
            lambda: machines.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=20),
            lambda: machines.apply_machine(v1.ApplyMachineRequest(spec=spec, must_exist=True), timeout=20),
            lambda: machines.plan_machine(v1.PlanMachineRequest(spec=spec), timeout=20),
            lambda: machines.get_machine(v1.GetMachineRequest(uid=uid), timeout=20),
        ):
            with pytest.raises(HypervisorUnavailableError, match=f"is {state}; it cannot be told"):
                await call()
        assert one_left(own_vcsim, spec)["power"] == "poweredOff"
        assert (await settle(machines, other)).owned, "what has another name is made as ever"
        assert not any(event.removed for event in await snapshot_of(machines))
        await delete(machines, other)
        own_vcsim.control("reach", vm=uid, state="connected")
        await shown(machines, uid)
        machine = await settle(machines, spec)
        assert (machine.owned, machine.identity.uid) == (True, uid)
        assert one_left(own_vcsim, spec)["moref"] == machine.id
        await delete(machines, spec)
        assert uid not in {vm["instanceUuid"] for vm in own_vcsim.vms().values()}


@pytest.fixture
async def driver(vcsim: Vcsim, tmp_path: Path) -> AsyncIterator[VsphereDriver]:
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0", default_network="VM Network")
    async with driver.session():
        yield driver
    vcsim.control("reset")


async def until(driver: VsphereDriver, holds: Callable[[], object]) -> None:
    """Wait until the provider has heard of it."""
    heard = asyncio.Event()
    driver.vsphere.on_change(lambda _uid: heard.set())
    async with asyncio.timeout(10):
        while not holds():
            heard.clear()
            await heard.wait()


async def made(driver: VsphereDriver) -> v1.MachineSpec:
    spec = machine_spec(OFF)
    spec.disks = [v1.DiskSpec(name="root", size_bytes=8 * MIB)]
    await driver.create(spec, silent)
    return spec


def reason(driver: VsphereDriver, spec: v1.MachineSpec) -> str:
    (entity,) = driver.vsphere.tree.with_uuid(uid_of(spec))
    return unread.state(entity)


@real
async def test_a_machine_that_went_out_of_reach_is_known_across_sessions(driver: VsphereDriver, vcsim: Vcsim) -> None:
    spec = await made(driver)
    vcsim.control("reach", vm=uid_of(spec), state="inaccessible")
    await until(driver, lambda: reason(driver, spec) == "inaccessible")
    vcsim.control("sessions/drop")
    await driver.vsphere.wait_lost()
    await driver.vsphere.wait_connected()
    seen = await driver.observe(uid_of(spec))
    assert seen is not None
    assert seen.owned
    assert "inaccessible" in seen.power_reason
    assert uid_of(spec) in {each.identity.uid for each in await driver.observe_all() if each.identity is not None}
    with pytest.raises(HypervisorUnavailableError, match="is inaccessible; nothing was changed"):
        await driver.destroy(uid_of(spec), silent)


@real
async def test_a_machine_of_a_host_that_is_away_is_not_destroyed(driver: VsphereDriver, vcsim: Vcsim) -> None:
    spec = await made(driver)
    uid = uid_of(spec)
    before = one_left(vcsim, spec)
    vcsim.control("reach", vm=uid, state="disconnected", config=True)
    await until(driver, lambda: reason(driver, spec) == "disconnected")
    for verb in (driver.destroy(uid, silent), driver.release(uid)):
        with pytest.raises(HypervisorUnavailableError, match="is disconnected"):
            await verb
    assert one_left(vcsim, spec) == before
    seen = await driver.observe(uid)
    assert seen is not None
    assert "disconnected" in seen.power_reason
    vcsim.control("reach", vm=uid, state="connected")
    await until(driver, lambda: reason(driver, spec) == "connected")
    await driver.destroy(uid, silent)
    assert await driver.observe(uid) is None


@real
@pytest.mark.parametrize("index", [False, True])
async def test_under_a_foreign_name_the_search_index_may_know_it(vcsim: Vcsim, tmp_path: Path, index: bool) -> None:
    """An adopted machine has the name that it had. Without any UUID, whoever knows the UID alone can never tell."""
    who = v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="lab", name="web", owner=OWNER)
    with Admin(vcsim) as admin:
        moid = admin.create(f"theirs-{who.uid[:8]}", uid=who.uid)._moId
    vcsim.control("reach", vm=moid, state="inaccessible", index=index)
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0", default_network="VM Network")
    async with driver.session():
        assert await driver.observe(who.uid) is None
        with pytest.raises(HypervisorUnavailableError, match="cannot be told"):
            await driver.rule_out(v1.MachineIdentity(uid=who.uid))
        if index:
            with pytest.raises(HypervisorUnavailableError, match="cannot be told"):
                await driver.rule_out(who)
        else:
            await driver.rule_out(who)
    vcsim.control("reset")


@real
async def test_an_image_out_of_reach_is_neither_removed_nor_missing(vcsim: Vcsim, tmp_path: Path) -> None:
    image_id = f"{uuid.uuid4()}.{'0' * 16}"
    mark = imagestamp.ImageStamp(image_id, str(uuid.uuid4()), "lab", "golden", OWNER)
    with Admin(vcsim) as admin:
        vm = admin.create("image-lab-golden", uid=imagestamp.instance_uuid(image_id), annotation=mark.text())
    vcsim.control("reach", vm=vm._moId, state="inaccessible", uuid=True)
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0", default_network="VM Network")
    async with driver.session():
        for call in (driver.get_image(image_id), driver.delete_image(image_id)):
            with pytest.raises(HypervisorUnavailableError, match="image-lab-golden"):
                await call
    vcsim.control("reset")
    assert "image-lab-golden" in vcsim.vms()


@real
async def test_without_anything_unread_absent_is_absent(driver: VsphereDriver) -> None:
    spec = machine_spec(OFF)
    assert spec.identity is not None
    assert await driver.observe(uid_of(spec)) is None
    await driver.rule_out(spec.identity)
    await driver.destroy(uid_of(spec), silent)
    with pytest.raises(MachineNotFoundError):
        machines.get(driver.vsphere.tree, uid_of(spec), OWNER)
