"""Machines go, with every volume that we made for them and none that we did not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import ForeignMachineError, ImageInUseError, OperationInProgressError, PermissionMissingError
from common.faults import FaultPlan
from provider_proxmox import comment, keeping, removing, stamp
from provider_proxmox.config import disks
from provider_proxmox.config.making import UNNAMED_DISKS
from provider_proxmox.power import Power
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import DiskStamp, Stamp
from providerkit.planner import ADOPTED_SETTING
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call

from .conftest import vm
from .ours import IDENTITY, UID, machine, record, volume
from .workshop import GIB, Workshop, first, quiet, template, wanted, workshop

VMID = 1042


@pytest.fixture
def shop(cluster: Pve) -> Workshop:
    return workshop(cluster)


def _volumes(server: Proxmox) -> set[str]:
    return {
        each.volid
        for storage in server.world.storages.values()
        for there in storage.volumes.values()
        for each in there.values()
    }


async def _destroy(cluster: Pve, shop: Workshop) -> None:
    """Twice: absent is success."""
    await cluster.refresh(VMID, "look")
    for _ in range(2):
        await shop.remover.destroy(UID, quiet)
    assert VMID not in cluster.index.guests


async def test_nothing_is_left(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Neither guest, disks, nor first-boot ISO."""
    await shop.creator.create(wanted(boot_data=v1.BootData(user_data="#!/bin/sh\n")), quiet)
    assert _volumes(pve)
    await shop.remover.destroy(UID, quiet)
    assert (pve.world.guests, _volumes(pve)) == ({}, set())
    await shop.remover.destroy(UID, quiet)


async def test_one_that_runs_is_cut_off(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """And one that is being asked to shut down, which holds its lock."""
    machine(pve).obeys = False
    verbs = Power(cluster, shop.guests, SystemClock())
    await verbs.power_on(UID)
    await verbs.ask_shutdown(UID)
    await _destroy(cluster, shop)
    assert (pve.world.guests, _volumes(pve)) == ({}, set())


async def test_one_that_hibernates(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Its memory on disk goes with it."""
    machine(pve, settings={"proxmox.suspendTo": "disk"})
    verbs = Power(cluster, shop.guests, SystemClock())
    await verbs.power_on(UID)
    await verbs.suspend(UID)
    assert pve.world.guests[VMID].lock == "suspended"
    await _destroy(cluster, shop)
    assert (pve.world.guests, _volumes(pve)) == ({}, set())


async def test_one_that_HA_manages(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """HA would start it again."""
    machine(pve)
    pve.world.ha[f"vm:{VMID}"] = {"sid": f"vm:{VMID}", "state": "started", "type": "vm"}
    await _destroy(cluster, shop)
    assert (pve.world.guests, pve.world.ha) == ({}, {})


async def test_a_task_that_holds_it_is_waited_for(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It is not broken off."""
    guest = machine(pve)
    await cluster.refresh(VMID, "look")
    upid = await cluster.post("snapshot", f"nodes/pve1/qemu/{VMID}/snapshot", snapname="before", vmstate=0)
    await shop.remover.destroy(UID, quiet)
    await cluster.task("snapshot", upid)
    assert pve.world.guests.get(VMID) is not guest
    assert _volumes(pve) == set()


async def test_a_delete_that_a_dead_provider_left_running_is_waited_for(
    pve: Proxmox, cluster: Pve, shop: Workshop
) -> None:
    """However long it holds the machine: its end is what was wanted."""
    machine(pve)
    await cluster.refresh(VMID, "look")
    pve.world.tasks.hold("qmdestroy")
    await cluster.delete("destroy", f"nodes/pve1/qemu/{VMID}")
    again = asyncio.ensure_future(shop.remover.destroy(UID, quiet))
    await asyncio.wait({again}, timeout=3.0)
    assert not again.done()
    pve.world.tasks.release()
    await again
    assert (pve.world.guests, _volumes(pve)) == ({}, set())


async def test_a_lock_that_was_left_is_not_broken(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """A person has to look what was left undone."""
    machine(pve).lock = "migrate"
    await cluster.refresh(VMID, "look")
    with pytest.raises(OperationInProgressError, match=f"qm unlock {VMID}"):
        await shop.remover.destroy(UID, quiet)
    assert VMID in pve.world.guests


async def test_our_protection_is_taken_off(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """The spec asked for it, so its end ends it."""
    machine(pve, settings={"proxmox.protection": "true"}, protection="1")
    await _destroy(cluster, shop)
    assert pve.world.guests == {}


async def test_a_persons_protection_holds(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """And says what to do."""
    machine(pve, protection="1")
    await cluster.refresh(VMID, "look")
    with pytest.raises(PermissionMissingError, match=f"somebody has protected guest {VMID}"):
        await shop.remover.destroy(UID, quiet)
    assert pve.world.guests[VMID].config["protection"] == "1"


async def test_guests_of_others_stay(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """One with our UID and another owner's stamp is reported."""
    machine(pve, identity=replace(IDENTITY, owner="other"))
    await cluster.refresh(VMID, "look")
    with pytest.raises(ForeignMachineError, match=str(VMID)):
        await shop.remover.destroy(UID, quiet)
    assert VMID in pve.world.guests


async def test_a_VMID_that_was_recycled_is_not_touched(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Somebody deletes ours and makes his own between two of our calls."""
    machine(pve)
    await cluster.refresh(VMID, "look")

    def come(_: str) -> None:
        del pve.world.guests[VMID]
        vm(pve, VMID, name="somebodys")

    with FaultPlan().does(removing.SPARED, come).installed():
        await shop.remover.destroy(UID, quiet)
    assert pve.world.guests[VMID].config["name"] == "somebodys"


async def test_one_that_moves_meanwhile_is_followed(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """What its old node does not know any more is not gone for that."""
    guest = machine(pve, storage="shared")
    known = await cluster.refresh(VMID, "look")
    assert known is not None

    def move(call: Call) -> None:
        if call.method == "DELETE":
            guest.node = "pve2"

    pve.checks.append(move)
    await shop.remover.remove(known, "test")
    assert pve.world.guests == {}


async def test_a_template_that_others_stand_on(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Proxmox VE keeps it, and we say why."""
    await shop.creator.create(wanted(placement=v1.Placement(datastore="shared")), quiet)
    vmid = first(UID)
    upid = await cluster.post("template", f"{cluster.index.guests[vmid].path}/template")
    await cluster.task("template", upid)
    path = f"{cluster.index.guests[vmid].path}/clone"
    upid = await cluster.post("clone", path, newid=500, full=False)
    await cluster.task("clone", upid)
    with pytest.raises(ImageInUseError):
        await shop.remover.destroy(UID, quiet)
    assert {vmid, 500} <= set(pve.world.guests)


async def test_a_linked_clone_leaves_its_base(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """The template's disks are the template's."""
    image = template(pve, shop.shelf, linked=True)
    before = _volumes(pve)
    disk = v1.DiskSpec(name="root", image=v1.ImageRef(id=image))
    await shop.creator.create(wanted(disks=[disk]), quiet)
    await shop.remover.destroy(UID, quiet)
    assert (set(pve.world.guests), _volumes(pve)) == ({900}, before)


# -- disks of others ---------------------------------------------------------------------------------------------------


async def test_an_existing_disk_of_another_guest_survives(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Its name says whose it is, which is what Proxmox VE goes by."""
    there = volume(pve, "pve1", "shared:77/vm-77-disk-0.qcow2", GIB, 77)
    disk = v1.DiskSpec(name="data", existing=v1.ExistingDisk(id=there))
    await shop.creator.create(wanted(disks=[v1.DiskSpec(name="root", size_bytes=GIB), disk]), quiet)
    await shop.remover.destroy(UID, quiet)
    assert (pve.world.guests, _volumes(pve)) == ({}, {there})


def _held(server: Proxmox) -> list[str]:
    """What the guests hold that we made to keep disks."""
    return [
        volid
        for vmid, guest in server.world.guests.items()
        if keeping.held_by(Guest(vmid, guest.node, config=dict(guest.config))) is not None
        for volid in disks.volumes(guest.config).values()
    ]


async def test_disks_of_an_adopted_machine_are_kept(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Their names say that they are its own, and Proxmox VE would delete them: they are handed to another guest."""
    guest = machine(pve, scsi1=f"{volume(pve, 'pve1', f'local-lvm:vm-{VMID}-disk-1', 2 * GIB, VMID)},size=2G")
    guest.config["efidisk0"] = f"{volume(pve, 'pve1', f'local-lvm:vm-{VMID}-disk-2', GIB, VMID)},efitype=4m,size=4M"
    foreign = replace(
        record(VMID, *(DiskStamp(f"d{n}", f"scsi{n}", f"local-lvm:vm-{VMID}-disk-{n}", owned=False) for n in (0, 1))),
        settings={ADOPTED_SETTING: "true"},
    )
    guest.config["description"] = stamp.written("", foreign)
    await _destroy(cluster, shop)
    (kept,) = pve.world.guests
    assert set(_held(pve)) == _volumes(pve)
    assert len(_volumes(pve)) == 3
    assert sorted(key for key in pve.world.guests[kept].config if key.startswith(("scsi", "efi"))) == [
        "efidisk0", "scsi0", "scsi1", "scsihw",
    ]  # fmt: skip
    assert "shop.web" in pve.world.guests[kept].config["description"]
    assert stamp.read(pve.world.guests[kept].config["description"])[1] is None


async def test_a_disk_that_a_person_added_is_kept(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Also when it is unplugged; ours go, plugged in or not."""
    await shop.creator.create(wanted(), quiet)
    vmid = first(UID)
    guest = pve.world.guests[vmid]
    node = guest.node
    added = volume(pve, node, f"shared:{vmid}/vm-{vmid}-disk-7.qcow2", GIB, vmid)
    unplugged = volume(pve, node, f"shared:{vmid}/vm-{vmid}-disk-8.qcow2", GIB, vmid)
    guest.config |= {"scsi5": f"{added},size=1G", "unused0": unplugged}
    await shop.remover.destroy(UID, quiet)
    assert len(_held(pve)) == len(_volumes(pve)) == 2
    assert vmid not in pve.world.guests


async def test_a_disk_that_only_a_snapshot_mentions_is_kept(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It was added by a person, and unplugged after the snapshot."""
    await shop.creator.create(wanted(placement=v1.Placement(datastore="shared")), quiet)
    vmid = first(UID)
    guest = pve.world.guests[vmid]
    added = volume(pve, guest.node, f"shared:{vmid}/vm-{vmid}-disk-7.qcow2", GIB, vmid)
    guest.config["scsi5"] = f"{added},size=1G"
    await cluster.refresh(vmid, "look")
    path = cluster.index.guests[vmid].path
    await cluster.task("snapshot", await cluster.post("snapshot", f"{path}/snapshot", snapname="before"))
    await cluster.put("unplug", f"{path}/config", delete="scsi5")
    await shop.remover.destroy(UID, quiet)
    assert len(_held(pve)) == len(_volumes(pve)) == 1
    assert vmid not in pve.world.guests


async def test_a_guest_that_kept_and_was_replaced_gets_nothing(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Somebody deleted it, and another guest has its VMID now."""
    machine(pve)
    added = volume(pve, "pve1", f"local-lvm:vm-{VMID}-disk-7", GIB, VMID)
    text = comment.written("", keeping.MARK, keeping.KeptStamp(UID, VMID))
    vm(pve, 900, description=text)
    await cluster.refresh(900, "look")
    del pve.world.guests[900]
    vm(pve, 900, name="theirs")
    pve.world.guests[VMID].config["scsi5"] = f"{added},size=1G"
    await _destroy(cluster, shop)
    assert "scsi5" not in pve.world.guests[900].config
    assert len(_held(pve)) == len(_volumes(pve)) == 1


async def test_a_second_attempt_finds_the_guest_that_keeps(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Killed after the disks are safe, it makes no second one."""
    await shop.creator.create(wanted(), quiet)
    vmid = first(UID)
    guest = pve.world.guests[vmid]
    for number in (7, 8):
        added = volume(pve, guest.node, f"shared:{vmid}/vm-{vmid}-disk-{number}.qcow2", GIB, vmid)
        guest.config[f"scsi{number}"] = f"{added},size=1G"
    with (
        FaultPlan().raises(removing.SPARED, asyncio.CancelledError()).installed(),
        pytest.raises(asyncio.CancelledError),
    ):
        await shop.remover.destroy(UID, quiet)
    late = volume(pve, guest.node, f"shared:{vmid}/vm-{vmid}-disk-9.qcow2", GIB, vmid)
    guest.config["scsi7"] = f"{late},size=1G"
    await shop.remover.destroy(UID, quiet)
    assert len(pve.world.guests) == 1
    assert len(_held(pve)) == 3


@pytest.mark.parametrize("point", [removing.SPARED, removing.DESTROYED])
async def test_a_remover_that_dies_is_followed_by_another(
    pve: Proxmox, cluster: Pve, shop: Workshop, point: str
) -> None:
    """What is left is found, the ISO of a guest that is gone as well."""
    await shop.creator.create(wanted(boot_data=v1.BootData(user_data="#!/bin/sh\n")), quiet)
    with FaultPlan().raises(point, asyncio.CancelledError()).installed(), pytest.raises(asyncio.CancelledError):
        await shop.remover.destroy(UID, quiet)
    await workshop(cluster).remover.destroy(UID, quiet)
    assert (pve.world.guests, _volumes(pve)) == ({}, set())


CONFIG = {
    "scsi0": "rbd:vm-101-disk-0,size=8G",
    "scsi1": "rbd:vm-101-disk-1,size=8G",
    "scsi2": "rbd:vm-77-disk-0,size=8G",
    "efidisk0": "rbd:vm-101-disk-2,size=4M",
    "unused0": "rbd:vm-101-disk-3",
    "ide2": "rbd:vm-101-cloudinit,media=cdrom",
}
OURS = DiskStamp("root", "scsi0", "rbd:vm-101-disk-0")


@pytest.mark.parametrize(
    ("mark", "foreign"),
    [
        (Stamp("u", "n", "m", "o", 101, made=True, disks=(OURS,)), {"scsi1", "unused0"}),
        (Stamp("u", "n", "m", "o", 101, made=False, disks=(OURS,)), set()),
        (
            Stamp("u", "n", "m", "o", 101, disks=(OURS, DiskStamp("d", "scsi1", "rbd:vm-101-disk-1", owned=False))),
            {"scsi1"},
        ),
        (
            Stamp("u", "n", "m", "o", 101, made=True, disks=(OURS, DiskStamp("d", "", "rbd:vm-101-disk-3"))),
            {"scsi1"},
        ),
        (
            Stamp("u", "n", "m", "o", 101, made=True, disks=(OURS,), settings={UNNAMED_DISKS: "scsi1"}),
            {"unused0"},
        ),
        (
            Stamp("u", "n", "m", "o", 101, made=True, disks=(replace(OURS, volume="local:101/vm-101-disk-0.raw"),)),
            {"scsi1", "unused0"},
        ),
        (
            Stamp("u", "n", "m", "o", 101, made=True, disks=(replace(OURS, volume="rbd:vm-101-disk-3"),)),
            {"scsi0", "scsi1"},
        ),
        (
            Stamp("u", "n", "m", "o", 101, made=True, settings={ADOPTED_SETTING: "true"}),
            {"scsi0", "scsi1", "efidisk0", "unused0"},
        ),
    ],
    ids=["added", "unmade", "existing", "unplugged", "unnamed", "moved", "swapped", "adopted"],
)
def test_which_volumes_a_delete_must_not_take(mark: Stamp, foreign: set[str]) -> None:
    """Of those whose name carries the VMID: others it does not take anyway."""
    guest = Guest(101, "pve1", config=CONFIG | {"description": stamp.written("", mark)})
    assert set(removing.foreign(guest)) == foreign
