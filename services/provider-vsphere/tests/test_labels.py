"""Tags and attributes as the driver keeps them: another's stay, and whatever cuts a change off, it shows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from common import v1
from common.faults import FaultPlan, InjectedFaultError
from provider_vsphere.around import fields, tagging
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.vapi import Request, Vapi
from simulators.vcsim import Vcsim
from simulators.vcsim.fixtures import start_vcsim

from .conftest import OWNER, driver_on, eventually

pytestmark = pytest.mark.real


@pytest.fixture
async def driver(vcsim: Vcsim, tmp_path: Path) -> AsyncIterator[VsphereDriver]:
    driver = driver_on(vcsim, tmp_path, default_cluster="DC0_C0")
    async with driver.session():
        yield driver


async def made(driver: VsphereDriver) -> str:
    uid = str(uuid.uuid4())
    identity = v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner=OWNER)
    await driver.create(v1.MachineSpec(identity=identity, tags=["ignored"]), lambda _part, _step: None)
    return uid


async def seen(driver: VsphereDriver, uid: str) -> v1.Machine:
    machine = await driver.observe(uid)
    assert machine is not None
    return machine


def attributes(machine: v1.Machine) -> dict[str, str]:
    return {key[11:-1]: text for key, text in machine.settings.items() if key.startswith("attributes[")}


async def test_anothers_tag_stays_and_is_no_difference(driver: VsphereDriver) -> None:
    uid, word = await made(driver), uuid.uuid4().hex[:8]
    assert (await seen(driver, uid)).tags == []
    vapi = Vapi(driver.vsphere)
    async with vapi.session():
        theirs = await tagging.Tags(driver.vsphere, vapi, owner="another").ids([f"theirs:{word}"], "tag")
        (moid,) = [each.moid for each in driver.vsphere.tree.with_uuid(uid)]
        target = {"object_id": {"type": "VirtualMachine", "id": moid}}
        (id,) = theirs.values()
        attach = Request("POST", "cis/tagging/tag-association/{}", id=id, action="attach", body=target)
        await vapi.call("another attaches", attach)
        await driver.set_tags(uid, [word])
        assert (await seen(driver, uid)).tags == [word]
        await driver.set_tags(uid, [])
        assert (await seen(driver, uid)).tags == []
        listing = Request("POST", "cis/tagging/tag-association", action="list-attached-tags", body=target)
        assert await vapi.call("look", listing) == [id]


async def test_a_tag_that_somebody_took_off_is_missed(driver: VsphereDriver) -> None:
    """Not at once, since vCenter tells nobody; at the next reading of all machines."""
    uid, word = await made(driver), uuid.uuid4().hex[:8]
    await driver.set_tags(uid, [word])
    (entity,) = driver.vsphere.tree.with_uuid(uid)
    (id,) = entity.facts[tagging.ATTACHED]
    target = {"object_id": {"type": "VirtualMachine", "id": entity.moid}}
    vapi = Vapi(driver.vsphere)
    async with vapi.session():
        detach = Request("POST", "cis/tagging/tag-association/{}", id=id, action="detach", body=target)
        await vapi.call("somebody detaches", detach)
        await tagging.Tags(driver.vsphere, vapi, owner=OWNER).reread()
    assert (await seen(driver, uid)).tags == []
    await driver.set_tags(uid, [word])
    assert (await seen(driver, uid)).tags == [word]


async def test_tags_that_were_cut_off_half_way_show_as_a_difference(driver: VsphereDriver) -> None:
    uid, old, new = await made(driver), uuid.uuid4().hex[:8], uuid.uuid4().hex[:8]
    await driver.set_tags(uid, [old])
    with FaultPlan().raises(tagging.CLAIMED).installed(), pytest.raises(InjectedFaultError):
        await driver.set_tags(uid, [new])
    assert (await seen(driver, uid)).tags == [old]
    await driver.set_tags(uid, [new])
    assert (await seen(driver, uid)).tags == [new]


async def test_attributes_that_were_cut_off_half_way_show_as_a_difference(driver: VsphereDriver) -> None:
    uid, name, other = await made(driver), f"cost-{uuid.uuid4()}", f"owner-{uuid.uuid4()}"
    await driver.set_attributes(uid, {name: "42"})
    with FaultPlan().raises(fields.CLAIMED).installed(), pytest.raises(InjectedFaultError):
        await driver.set_attributes(uid, {other: "ann"})
    assert attributes(await seen(driver, uid)) == {name: "42", other: ""}
    await driver.set_attributes(uid, {other: "ann"})
    assert attributes(await seen(driver, uid)) == {other: "ann"}
    await driver.set_attributes(uid, {})
    assert attributes(await seen(driver, uid)) == {}


async def test_tags_survive_the_provider(vcsim: Vcsim, tmp_path: Path) -> None:
    """Another process reads them in one call, for all machines."""
    word = uuid.uuid4().hex[:8]
    first = driver_on(vcsim, tmp_path, default_cluster="DC0_C0")
    async with first.session():
        uids = [await made(first) for _ in range(2)]
        for uid in uids:
            await first.set_tags(uid, [word])
    second = driver_on(vcsim, tmp_path)
    async with second.session():
        known = [each for uid in uids for each in second.vsphere.tree.with_uuid(uid)]
        async with asyncio.timeout(10):
            await eventually(
                lambda: all(each.facts.get(tagging.ATTACHED) is not None for each in known), lambda: asyncio.sleep(0.01)
            )
        assert [(await seen(second, uid)).tags for uid in uids] == [[word], [word]]


async def test_on_an_esxi_host_the_stamp_keeps_the_tags(tmp_path: Path) -> None:
    for host in start_vcsim(esx=True):
        driver = driver_on(host, tmp_path)
        async with driver.session():
            uid = await made(driver)
            await driver.set_tags(uid, ["b", "a"])
            assert (await seen(driver, uid)).tags == ["a", "b"]
            can = (await driver.describe()).capabilities
            assert can is not None
            offer = (can.tags, can.attributes, can.affinity, can.storage_policies, can.customization, can.tpm_versions)
            assert offer == (True, False, False, False, False, [])
