"""Storage policies: found by name or id, put where a request has them."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from provider_vsphere.around import policies, policywatch
from provider_vsphere.around.policies import pick
from provider_vsphere.config import editing, making
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from pyVmomi import VmomiSupport, vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin
from simulators.vcsim.fixtures import start_vcsim

from .conftest import connected, credentials_of, driver_on

GIB = 1 << 30
GOLD, SILVER = v1.DiskSpec(name="root", size_bytes=GIB, storage_policy="gold"), v1.DiskSpec(name="data", size_bytes=GIB)
IDS = {"gold": "id-gold"}


def profiles(change: Any) -> list[str]:
    return [getattr(each, "profileId", "default") for each in change.profile]


# -- in requests -------------------------------------------------------------------------------------------------------


def made(*disks: v1.DiskSpec) -> Any:
    wish = v1.MachineSpec(
        identity=v1.MachineIdentity(uid="u", namespace="shop", name="web", owner="o"), disks=list(disks)
    )
    record = stamp.of(wish.identity or v1.MachineIdentity(), 1)
    return making.new_machine(wish, record, macs={}, networks={}, switches={}, datastore_name="ds1", policies=IDS)


def record_of(config: Any) -> stamp.Stamp:
    text = next(each.value for each in config.extraConfig if each.key == stamp.KEY)
    record = stamp.read(text)
    assert record is not None
    return record


def test_a_new_machine_has_the_policy_of_its_first_disk() -> None:
    config = made(GOLD, SILVER)
    disks = [each for each in config.deviceChange if isinstance(each.device, vim.vm.device.VirtualDisk)]
    assert [profiles(each) for each in disks] == [["id-gold"], []]
    assert [each.profileId for each in config.vmProfile] == ["id-gold"]
    assert record_of(config).settings == {"disks[root].storage_policy": "gold"}
    assert made(SILVER).vmProfile == []


def test_a_disk_of_a_template_is_copied_with_its_policy() -> None:
    disk = vim.vm.device.VirtualDisk(key=2000, backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[a] b"))
    (locator,) = making.disk_locators(v1.MachineSpec(disks=[GOLD]), [disk], "datastore-1", IDS)
    assert (profiles(locator), locator.diskBackingInfo) == (["id-gold"], None)
    assert making.disk_locators(v1.MachineSpec(disks=[SILVER]), [disk], "datastore-1", IDS) == []


def test_a_policy_is_changed_and_taken_off() -> None:
    config = made(GOLD)
    present = [change.device for change in config.deviceChange]
    edit = editing.update_disk(present, record_of(config), v1.DiskSpec(name="root", storage_policy="gold"), IDS)
    assert [profiles(each) for each in edit.deviceChange] == [["id-gold"]]
    edit = editing.update_disk(present, record_of(config), v1.DiskSpec(name="root"))
    assert [profiles(each) for each in edit.deviceChange] == [["default"]]
    assert record_of(edit).settings == {}
    added = editing.add_disk(
        present, record_of(config), v1.DiskSpec(name="log", size_bytes=GIB, storage_policy="gold"), "ds1", IDS
    )
    assert [profiles(each) for each in added.deviceChange] == [["id-gold"]]


# -- by name -----------------------------------------------------------------------------------------------------------


def test_a_name_must_mean_one_policy() -> None:
    there = {"1": "gold", "2": "silver", "3": "silver"}
    assert (pick("gold", there, "make"), pick("3", there, "make")) == ("1", "3")
    with pytest.raises(InvalidSpecError, match=r"\['2', '3'\]"):
        pick("silver", there, "make")
    with pytest.raises(ResourceNotFoundError, match="there is none; there: gold, silver, silver"):
        pick("bronze", there, "make")


@pytest.mark.real
async def test_policies_are_asked_of_their_own_service(vsphere: Vsphere) -> None:
    name = "VM Encryption Policy"
    found = await policies.ids(vsphere, [name, "", name], "make")
    assert uuid.UUID(found[name])
    assert await policies.ids(vsphere, [found[name]], "make") == {found[name]: found[name]}
    assert await policies.ids(vsphere, [""], "make") == {}
    with pytest.raises(ResourceNotFoundError, match="vSAN Default Storage Policy"):
        await policies.ids(vsphere, ["nothing"], "make")
    left = await vsphere.call("look", lambda _login: dict(VmomiSupport.GetRequestContext()))
    assert left == {}, "the session goes to the service alone"


@pytest.mark.real
async def test_an_esxi_host_has_none(tmp_path: Path) -> None:
    for host in start_vcsim(esx=True):
        async with connected(host, credentials_of(host, tmp_path)) as vsphere:
            with pytest.raises(NotSupportedError, match="ESXi"):
                await policies.ids(vsphere, ["gold"], "make")
            assert await policies.ids(vsphere, [], "make") == {}


@pytest.mark.real
async def test_a_copy_claims_no_policy_before_it_has_it(vcsim: Vcsim, tmp_path: Path) -> None:
    """It is given by the change that follows, which needs the difference to show."""
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0")
    name = "VM Encryption Policy"
    source, target = (
        v1.MachineSpec(
            identity=v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="lab", name=word, owner="tests"),
            disks=[v1.DiskSpec(name="root", size_bytes=GIB, storage_policy=policy)],
        )
        for word, policy in (("source", ""), ("target", name))
    )
    assert source.identity is not None
    assert target.identity is not None
    async with driver.session():
        await driver.create(source, lambda _part, _step: None)
        request = v1.CloneMachineRequest(source_uid=source.identity.uid, kind=v1.CloneKind.FULL, target=target)
        await driver.clone(request, lambda _part, _step: None)
        uid, key = target.identity.uid, "disks[root].storage_policy"
        made = await driver.observe(uid)
        assert made is not None
        assert key not in made.settings
        await driver.update_disk(uid, target.disks[0], live=False)
        made = await driver.observe(uid)
        assert made is not None
        assert made.settings[key] == name


@pytest.mark.parametrize(
    ("names", "misses", "told"),
    [
        ({"root": ("id-gold", "gold")}, 0, "gold"),
        ({"root": ("id-silver", "silver")}, 1, "silver"),
        ({"root": ("", "")}, 1, None),
        ({}, 0, "gold"),
        ({"root": ("", "")}, policywatch.MOST_ATTEMPTS + 1, "gold"),
    ],
    ids=["as it was", "another", "none", "the service cannot tell", "it will not be put right"],
)
def test_what_the_service_tells_is_believed_so_often(
    names: dict[str, tuple[str, str]], misses: int, told: str | None
) -> None:
    mark = record_of(made(GOLD))
    given = policywatch.Given("7", names, misses)
    entity = Entity("VirtualMachine", "vm-1", {policywatch.GIVEN: given, "config.changeVersion": "7"})
    assert policywatch.observed(entity, mark).get("disks[root].storage_policy") == told
    entity.facts["config.changeVersion"] = "8"
    assert policywatch.observed(entity, mark) == {"disks[root].storage_policy": "gold"}, "nobody has looked since"


@pytest.mark.real
async def test_a_policy_that_somebody_else_changes_shows(vcsim: Vcsim, tmp_path: Path) -> None:
    """And costs a question to the policy service for each change of a machine that asked for one, and none else."""
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0")
    name, other, key = "VM Encryption Policy", "vSAN Default Storage Policy", "disks[root].storage_policy"
    uid, plain = str(uuid.uuid4()), str(uuid.uuid4())
    heard = asyncio.Event()

    async def told(want: str | None) -> None:
        async with asyncio.timeout(20):
            while (seen := await driver.observe(uid)) is None or seen.settings.get(key) != want:
                heard.clear()
                await heard.wait()

    async with driver.session():
        driver.vsphere.on_change(lambda _uid: heard.set())
        for who, policy in ((uid, name), (plain, "")):
            await driver.create(one_disk(who, policy), lambda _part, _step: None)
        known = await policies.ids(driver.vsphere, [name, other], "look")
        with Admin(vcsim) as admin:
            vm = admin.find(uid)
            for profile, want in (
                (vim.vm.DefinedProfileSpec(profileId=known[other]), other),
                (vim.vm.DefaultProfileSpec(), None),
                (vim.vm.DefinedProfileSpec(profileId=known[name]), name),
            ):
                (disk,) = (each for each in vm.config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk))
                change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk, profile=[profile])
                admin.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
                await told(want)
        assert driver.vsphere.tree.with_uuid(plain)[0].facts.get(policywatch.GIVEN) is None
        await driver.destroy(plain, lambda _part, _step: None)


def one_disk(uid: str, policy: str) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner="tests"),
        disks=[v1.DiskSpec(name="root", size_bytes=GIB, storage_policy=policy)],
    )
