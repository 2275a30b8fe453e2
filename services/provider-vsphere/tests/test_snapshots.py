"""Who a snapshot is, and what a revert makes true: pure functions, and what only a misbehaving vSphere shows."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from common import v1
from common.errors import HypervisorUnavailableError, OperationInProgressError, WrongPowerStateError
from provider_vsphere.config import devices, editing
from provider_vsphere.machines import record_of
from provider_vsphere.session import snapshot_tree
from provider_vsphere.session.snapshot_tree import Node
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.snapshots import Snapshots, loose, merged, reverted, unplugged
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp
from pyVmomi import vim
from simulators.vcsim import Vcsim

from .conftest import OWNER, create

UID, MARK = "0a1b2c3d-0000-4000-8000-00000000ca01", "0a1b2c3d-0000-4000-8000-00000000ca02"
device = vim.vm.device


def node(moid: str = "snapshot-1", parent: str = "", text: str = "", **fields: object) -> Node:
    created = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    facts: dict[str, object] = {"state": "poweredOff", "quiesced": False, "current": False} | fields
    return Node(moid, parent, moid, text, created, **facts)  # type: ignore[arg-type]  # three of its fields


# -- who it is ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("text", ["", "before the upgrade", "two\nlines", "[virtrigaud] is great"])
def test_identity_stands_in_the_description_and_leaves_its_text_alone(text: str, *, base: bool) -> None:
    marked = node(text=snapshot_tree.description(text, MARK, "lab [1]", base=base))
    assert marked.uid("lab [1]") == MARK
    assert marked.uid("lab") == ""
    assert marked.text == text


@pytest.mark.parametrize(
    "text", ["", "no mark", f"[virtrigaud snapshot {MARK}]", f"see [virtrigaud snapshot {MARK} of x]"]
)
def test_a_description_without_our_line_is_foreign(text: str) -> None:
    assert node(text=text).uid("x") == ""
    assert snapshot_tree.told(node(text=text), "x").uid == ""


def test_what_a_revert_keeps_comes_and_goes_with_its_line() -> None:
    plain = node(text=snapshot_tree.description("text", MARK, OWNER))
    kept = {"data": "[ds] web/web_1.vmdk", "log@[ds] web/a b.vmdk": "[ds] web/a b.vmdk"}
    noted = replace(plain, description=plain.keeping(kept))
    assert (noted.kept, noted.text, noted.uid(OWNER)) == (kept, "text", MARK)
    assert replace(noted, description=noted.keeping({"x": "y"})).kept == {"x": "y"}
    assert noted.keeping(None) == plain.description
    assert plain.kept is None
    assert node(text="[virtrigaud reverts: {broken}]").kept is None


def test_what_stands_on_a_snapshot() -> None:
    every = [node("a"), node("b", "a"), node("c", "b"), node("d", "a"), node("e")]
    assert [each.moid for each in snapshot_tree.below(every, every[0])] == ["b", "c", "d"]
    assert snapshot_tree.below(every, every[4]) == []
    assert snapshot_tree.why_no_growth([]) == ""
    assert snapshot_tree.why_no_growth([node(str(n)) for n in range(7)]) == (
        "the machine has snapshots: 0, 1, 2, 3, 4 and 2 more"
    )


# -- what is true after a revert ---------------------------------------------------------------------------------------


def record(**fields: object) -> Stamp:
    return replace(Stamp(UID, "lab", "web", OWNER, created=7), **fields)  # type: ignore[arg-type]  # fields of Stamp


def test_hardware_is_of_then_and_identity_of_now() -> None:
    root, data = DiskStamp("root", "scsi0:0"), DiskStamp("data", "scsi0:1")
    then = record(
        name="old", created=1, boot_digest="then", disks=(root,), nics=(NicStamp("lan", "m1"),), tags=("old",),
        settings={"cpu.shares": "1", "placement.folder": "old", "kept[log]": "old.vmdk"},
    )  # fmt: skip
    now = record(
        boot_digest="now", disks=(root, data), nics=(NicStamp("lan", "m1"), NicStamp("san", "m2")), tags=("new",),
        tag_ids={"new": "urn:1"}, attributes={"team": 3},
        settings={"cpu.shares": "2", "placement.folder": "new", "kept[data]": "d.vmdk"},
    )  # fmt: skip
    after = reverted(now, then, {"data": "d.vmdk"})
    assert (after.name, after.created, after.tags) == ("web", 7, ("new",))
    assert (after.tag_ids, after.attributes) == ({"new": "urn:1"}, {"team": 3})
    assert (after.boot_digest, after.disks, after.nics) == ("then", (root,), then.nics)
    assert after.settings == {"cpu.shares": "1", "placement.folder": "new", "kept[data]": "d.vmdk"}


def disk(unit: int, *chain: str) -> device.VirtualDisk:
    backing = None
    for file in reversed(chain):
        backing = device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent", parent=backing)
    return device.VirtualDisk(key=2000 + unit, controllerKey=1000, unitNumber=unit, backing=backing)


def test_only_disks_that_no_snapshot_holds_are_unplugged_before() -> None:
    controller = device.ParaVirtualSCSIController(key=1000, busNumber=0)
    board = [controller, disk(0, "r-1", "r"), disk(1, "new"), disk(2, "theirs"), disk(3, "d-1", "d")]
    now = record(
        disks=(
            DiskStamp("root", "scsi0:0"), DiskStamp("new", "scsi0:1"), DiskStamp("theirs", "scsi0:2", owned=False),
            DiskStamp("held", "scsi0:3"), DiskStamp("gone", "scsi0:9"),
        )
    )  # fmt: skip
    assert devices.chain_of(board[1]) == ["r-1", "r"]
    assert loose(now, board, {"r", "d"}) == ["new"]


def test_an_unplugged_file_is_not_taken_up_under_the_name_of_a_disk_that_comes_back() -> None:
    now = record(settings={"kept[data]": "d-1", "kept[log]": "l", "kept[held]": "h"})
    then = record(disks=(DiskStamp("data", "scsi0:1"),))
    assert unplugged(now, then, {"h"}) == {"data@d-1": "d-1", "log": "l"}


def test_two_interrupted_reverts_lose_no_file() -> None:
    assert merged({"data": "a"}, {"data": "b", "log": "c"}) == {"data": "a", "data@b": "b", "log": "c"}
    assert merged({"data": "a"}, {"data": "a"}) == {"data": "a"}


# -- a vSphere that misbehaves -----------------------------------------------------------------------------------------


async def machine(vsphere: Vsphere, uid: str = UID) -> Entity:
    made = await vsphere.task("create", create(vsphere, uid, f"web-{uid[-4:]}"))
    await vsphere.refresh(Entity("VirtualMachine", str(made)))
    entity = vsphere.tree.get(str(made))
    assert entity is not None
    assert record_of(entity).uid == uid
    return entity


def _ignore(_part: float, _step: str) -> None:
    pass


async def test_what_a_removal_left_behind_is_consolidated(vcsim: Vcsim, vsphere: Vsphere) -> None:
    """And where that fails, the deletion is not done, though the snapshot is gone."""
    entity, ours = await machine(vsphere), Snapshots(vsphere, owner=OWNER)
    edit = editing.add_disk(
        entity.facts["config.hardware.device"],
        record_of(entity),
        v1.DiskSpec(name="d", size_bytes=1 << 23),
        "LocalDS_0",
    )
    await vsphere.task("plug", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    await ours.create(entity, v1.CreateSnapshotRequest(machine_uid=UID, uid=MARK, name="s"), _ignore)
    vcsim.control("behaviours", consolidate=False)
    vcsim.control("faults", method="ConsolidateVMDisks_Task", fault="FileLocked", fields={"file": "x"}, in_task=True)
    request = v1.DeleteSnapshotRequest(machine_uid=UID, uid=MARK)
    with pytest.raises(OperationInProgressError):
        await ours.delete(entity, request, _ignore)
    assert ours.of(entity) == []
    assert entity.facts["runtime.consolidationNeeded"]
    await ours.delete(entity, request, _ignore)
    assert not entity.facts["runtime.consolidationNeeded"]
    assert [devices.chain_of(each)[1:] for each in devices.disks_of(entity.facts["config.hardware.device"])] == [[]]


async def test_a_snapshot_whose_answer_is_lost_is_found_again(vcsim: Vcsim, vsphere: Vsphere) -> None:
    uid = UID.replace("ca01", "ca11")
    entity, ours = await machine(vsphere, uid), Snapshots(vsphere, owner=OWNER)
    request = v1.CreateSnapshotRequest(machine_uid=uid, uid=MARK, name="s" * 100, description="for a test")
    vcsim.control("lose_reply", method="CreateSnapshot_Task", count=1)
    with pytest.raises(HypervisorUnavailableError):
        await ours.create(entity, request, _ignore)
    taken = await ours.create(entity, request, _ignore)
    assert [each.uid for each in ours.of(entity)] == [MARK]
    assert (taken.description, len(taken.name)) == ("for a test", 80)


async def test_a_freeze_that_fails_leaves_no_snapshot(vcsim: Vcsim, vsphere: Vsphere) -> None:
    uid = UID.replace("ca01", "ca12")
    entity, ours = await machine(vsphere, uid), Snapshots(vsphere, owner=OWNER)
    await vsphere.task("start", lambda login: vsphere.machine(entity, login).PowerOnVM_Task())
    vcsim.control("guest", vm=uid, tools="guestToolsRunning")
    vcsim.control("behaviours", quiesce_fails=True)
    with pytest.raises(WrongPowerStateError, match="quiesce"):
        await ours.create(entity, v1.CreateSnapshotRequest(machine_uid=uid, uid=MARK, name="s", quiesce=True), _ignore)
    assert ours.of(entity) == []
