"""Snapshots on a simulated cluster: once each, whole when gone back to, told as they are."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from common import faults, v1
from common.errors import (
    HypervisorUnavailableError,
    InvalidSpecError,
    NotSupportedError,
    OperationInProgressError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    WrongPowerStateError,
)
from provider_proxmox import snapshot_tree, stamp
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import DiskStamp
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Running

from .conftest import OWNER
from .ours import GIB, UID, machine, volume


@pytest.fixture
def snapshots(cluster: Pve) -> Snapshots:
    return Snapshots(cluster, Guests(cluster, owner=OWNER), owner=OWNER)


def _quiet(_part: float, _phase: str) -> None:
    """Nobody watches."""


async def _take(snapshots: Snapshots, name: str = "before", uid: str = "", **fields: bool) -> v1.Snapshot:
    request = v1.CreateSnapshotRequest(
        machine_uid=UID, uid=uid or str(uuid.uuid4()), name=name, description="for a test", **fields
    )
    return await snapshots.create(request, _quiet)


async def _revert(snapshots: Snapshots, uid: str) -> None:
    await snapshots.revert(v1.RevertSnapshotRequest(machine_uid=UID, uid=uid), _quiet)


async def _delete(snapshots: Snapshots, uid: str, *, children: bool = False) -> None:
    await snapshots.delete(v1.DeleteSnapshotRequest(machine_uid=UID, uid=uid, children=children), _quiet)


def _run(server: Proxmox, *, agent: bool = False) -> None:
    guest = server.world.guests[1042]
    guest.run, guest.agent = Running(pid=1, machine="q35"), agent
    guest.config["agent"] = "1"


async def _seen(cluster: Pve) -> Guest:
    guest = await cluster.refresh(1042, "look")
    assert guest is not None
    return guest


async def test_taken_once_and_told_as_it_is(pve: Proxmox, snapshots: Snapshots) -> None:
    machine(pve)
    first = await _take(snapshots, "before upgrade")
    assert (first.name, first.description, first.parent_id, first.current) == ("before upgrade", "for a test", "", True)
    assert first.id.startswith("before-upgrade-")
    assert await _take(snapshots, "before upgrade", first.uid) == first
    second = await _take(snapshots, "before upgrade")
    assert await snapshots.of(UID) == [
        v1.Snapshot(**{**vars_of(first), "current": False}), second,
    ]  # fmt: skip
    assert second.parent_id == first.id


def vars_of(snapshot: v1.Snapshot) -> dict[str, object]:
    """Its fields."""
    return {name: getattr(snapshot, name) for name in ("id", "uid", "name", "description", "create_time")}


async def test_what_it_cannot_hold_is_refused_and_nothing_is_left(pve: Proxmox, snapshots: Snapshots) -> None:
    """Proxmox VE would leave out memory and frozen file systems without a word."""
    machine(pve)
    with pytest.raises(WrongPowerStateError, match="off"):
        await _take(snapshots, memory=True)
    with pytest.raises(InvalidSpecError, match="one of the two"):
        await _take(snapshots, memory=True, quiesce=True)
    assert not (await _take(snapshots, quiesce=True)).quiesced  # nothing to freeze
    _run(pve)
    with pytest.raises(WrongPowerStateError, match="agent"):
        await _take(snapshots, quiesce=True)
    assert len(await snapshots.of(UID)) == 1
    _run(pve, agent=True)
    assert (await _take(snapshots, quiesce=True)).quiesced
    assert (await _take(snapshots, memory=True)).memory


async def test_raw_files_take_no_snapshots(pve: Proxmox, snapshots: Snapshots) -> None:
    raw = volume(pve, "pve1", "shared:1042/vm-1042-disk-7.raw", GIB, 1042)
    machine(pve, scsi1=f"{raw},size=1G")
    with pytest.raises(NotSupportedError, match=r"scsi1 \(shared:1042/vm-1042-disk-7.raw\)"):
        await _take(snapshots)
    assert await snapshots.of(UID) == []


async def test_removed_alone_or_with_all_that_stand_on_it(pve: Proxmox, snapshots: Snapshots) -> None:
    machine(pve)
    one, two, three, four = [await _take(snapshots, name) for name in ("one", "two", "three", "four")]
    for _ in range(2):
        await _delete(snapshots, two.uid)
    assert [each.parent_id for each in await snapshots.of(UID)] == ["", one.id, three.id]
    await _delete(snapshots, three.uid, children=True)
    assert [each.uid for each in await snapshots.of(UID)] == [one.uid]
    assert four.uid not in {each.uid for each in await snapshots.of(UID)}


async def test_snapshots_of_others_are_told_and_not_taken_along(
    pve: Proxmox, cluster: Pve, snapshots: Snapshots
) -> None:
    machine(pve)
    ours = await _take(snapshots)
    await cluster.run("snapshot", "POST", "nodes/pve1/qemu/1042/snapshot", {"snapname": "theirs"})
    assert [(each.id, each.uid) for each in await snapshots.of(UID)] == [(ours.id, ours.uid), ("theirs", "")]
    with pytest.raises(SnapshotInUseError, match="theirs"):
        await _delete(snapshots, ours.uid, children=True)
    with pytest.raises(SnapshotNotFoundError):
        await _revert(snapshots, str(uuid.uuid4()))


async def test_a_revert_brings_the_hardware_back_and_keeps_who_it_is(
    pve: Proxmox, cluster: Pve, snapshots: Snapshots
) -> None:
    """Disks that it got since stay, unplugged, and the stamp knows them; tags are of now."""
    guest = machine(pve)
    taken = await _take(snapshots)
    _grown(pve)
    guest.config["cores"] = "4"
    await _revert(snapshots, taken.uid)
    after = await _seen(cluster)
    assert after.stamp is not None
    assert (after.config["cores"], after.config["tags"]) == (1, "blue;virtrigaud")
    assert [(disk.name, disk.slot, disk.volume) for disk in after.stamp.disks] == [
        ("root", "scsi0", "local-lvm:vm-1042-disk-0"),
        ("data", "", "local-lvm:vm-1042-disk-1"),
    ]
    assert after.config["unused0"] == "local-lvm:vm-1042-disk-1"
    assert (after.stamp.tags, after.stamp.settings) == (("blue",), {"description": "true"})
    assert after.description == "for people"


def _grown(server: Proxmox) -> None:
    """It gets a disk, a tag and a text."""
    guest = server.world.guests[1042]
    _, mark = stamp.read(guest.config["description"])
    assert mark is not None
    data = volume(server, "pve1", "local-lvm:vm-1042-disk-1", GIB, 1042)
    mark = mark.with_disk(DiskStamp("data", "scsi1", data))
    mark = stamp.Stamp(**{**mark.__dict__, "tags": ("blue",), "settings": {"description": "true"}})
    guest.config |= {
        "scsi1": f"{data},size=1G", "tags": "blue;virtrigaud", "description": stamp.written("for people", mark),
    }  # fmt: skip


async def test_memory_comes_back_with_its_power(pve: Proxmox, cluster: Pve, snapshots: Snapshots) -> None:
    machine(pve)
    cold = await _take(snapshots, "cold")
    _run(pve)
    warm = await _take(snapshots, "warm", memory=True)
    await _revert(snapshots, cold.uid)
    assert (await _seen(cluster)).status == "stopped"
    await _revert(snapshots, warm.uid)
    assert (await _seen(cluster)).status == "running"


@pytest.fixture
async def dying(pve: Proxmox, snapshots: Snapshots) -> AsyncIterator[faults.FaultPlan]:
    """Faults that the test adds to."""
    plan = faults.FaultPlan()
    with plan.installed():
        yield plan


@pytest.mark.parametrize("when", ["reverting", "reverted"])
async def test_a_revert_that_died_is_made_true_by_the_next_look(
    pve: Proxmox, cluster: Pve, snapshots: Snapshots, dying: faults.FaultPlan, when: str
) -> None:
    """Whether the rollback happened tells the hardware."""
    machine(pve)
    taken = await _take(snapshots)
    _grown(pve)
    dying.raises(f"proxmox.snapshot.{when}")
    with pytest.raises(HypervisorUnavailableError):
        await _revert(snapshots, taken.uid)
    halfway = await _seen(cluster)
    assert halfway.stamp is not None
    assert snapshot_tree.REVERTING in halfway.stamp.settings
    await snapshots.finish(halfway, "look")
    after = await _seen(cluster)
    assert after.stamp is not None
    assert after.stamp.settings == {"description": "true"}
    assert [disk.slot for disk in after.stamp.disks] == (["scsi0", "scsi1"] if when == "reverting" else ["scsi0", ""])
    await _revert(snapshots, taken.uid)
    assert [disk.slot for disk in (await _seen(cluster)).stamp.disks] == ["scsi0", ""]  # type: ignore[union-attr]  # it has one


async def test_a_revert_that_waits_for_its_turn_is_not_taken_for_none(
    pve: Proxmox, cluster: Pve, snapshots: Snapshots
) -> None:
    """Its maker died, and its task has not even locked the machine: it will go back all the same."""
    machine(pve)
    taken = await _take(snapshots)
    _grown(pve)
    guest = pve.world.guests[1042]
    _, mark = stamp.read(guest.config["description"])
    assert mark is not None
    noted = replace(mark, settings=mark.settings | {snapshot_tree.REVERTING: taken.id})
    guest.config["description"] = stamp.written("for people", noted)
    async with pve.world.locks.hold(1042):
        await cluster.post("revert", f"nodes/pve1/qemu/1042/snapshot/{taken.id}/rollback")
        seen = await _seen(cluster)
    after = await snapshots.finish(seen, "look")
    assert after.stamp is not None
    assert [disk.slot for disk in after.stamp.disks] == ["scsi0", ""]


async def test_one_that_is_being_taken_is_waited_for(pve: Proxmox, cluster: Pve, snapshots: Snapshots) -> None:
    """A server that died while a snapshot was being taken finds it; it does not take another one."""
    machine(pve)
    uid = str(uuid.uuid4())
    mark = snapshot_tree.Mark(uid=uid, owner=OWNER, name="before", vmid=1042)
    await cluster.post(
        "snapshot",
        "nodes/pve1/qemu/1042/snapshot",
        snapname=snapshot_tree.snapshot_name("before", uid),
        description=snapshot_tree.description("for a test", mark),
    )
    assert (await _take(snapshots, uid=uid)).uid == uid
    assert len(await snapshots.of(UID)) == 1


async def test_a_lock_that_was_left_behind_is_told(pve: Proxmox, snapshots: Snapshots) -> None:
    machine(pve).lock = "snapshot"
    with pytest.raises(OperationInProgressError, match="qm unlock 1042"):
        await _take(snapshots)
