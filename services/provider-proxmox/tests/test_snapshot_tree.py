"""Snapshots in a listing: who they are, how they hang together, what is true after going back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from common import v1
from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox import snapshot_tree, stamp
from provider_proxmox.snapshot_tree import Mark
from provider_proxmox.stamp import DiskStamp, NicStamp

UID = "7a1e2f30-0000-4000-8000-000000000002"
IDENTITY = v1.MachineIdentity(uid="7a1e2f30-0000-4000-8000-000000000001", namespace="shop", name="web", owner="home")
RECORD = replace(
    stamp.of(IDENTITY, 1042, 1_700_000_000), made=True, disks=(DiskStamp("root", "scsi0", "rbd:vm-1042-disk-0"),)
)
MARK = Mark(uid=UID, owner="home", name="before upgrade", vmid=1042, stamp=RECORD)


@given(name=st.text(min_size=1, max_size=253), uid=st.uuids())
def test_a_name_is_one_that_proxmox_takes(name: str, uid: object) -> None:
    """Source: pve-configid, at most 40 letters. The same snapshot always has the same one."""
    found = snapshot_tree.snapshot_name(name, str(uid))
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{1,39}", found)
    assert found == snapshot_tree.snapshot_name(name, str(uid))


def test_two_of_one_name_are_two() -> None:
    assert snapshot_tree.snapshot_name("daily", UID) != snapshot_tree.snapshot_name("daily", UID[:-1] + "3")
    assert snapshot_tree.snapshot_name("before upgrade", UID).startswith("before-upgrade-")


@given(text=st.text(max_size=300))
def test_reads_back_what_was_written(text: str) -> None:
    """Proxmox VE loses line ends at the end of a description."""
    said, mark = snapshot_tree.read(snapshot_tree.description(text, MARK), 1042)
    assert (said, mark) == (text.rstrip("\n"), MARK)


@pytest.mark.parametrize("text", ["", "mine", "<!-- virtrigaud-snapshot {} -->", "<!-- virtrigaud-snapshot x -->"])
def test_others_are_foreign(text: str) -> None:
    assert snapshot_tree.read(text, 1042) == (text, None)


def test_a_mark_of_another_guest_means_nothing() -> None:
    """A restored backup brings descriptions along."""
    assert snapshot_tree.read(snapshot_tree.description("", MARK), 2000)[1] is None


def test_the_tree_is_told_with_parents_first() -> None:
    rows = [
        {"name": "s3", "parent": "s2", "snaptime": 3, "vmstate": 1, "description": ""},
        {"name": "current", "parent": "s2", "running": 0},
        {"name": "s2", "parent": "ours", "snaptime": 3, "vmstate": 0},
        {"name": "ours", "snaptime": 1, "vmstate": 0, "description": snapshot_tree.description("mine", MARK)},
        {"name": "cut", "parent": "gone", "snaptime": 9, "snapstate": "prepare"},
    ]
    nodes = snapshot_tree.nodes(rows, 1042)
    assert [node.name for node in nodes] == ["ours", "cut", "s2", "s3"]
    told = snapshot_tree.told(nodes[0], "home")
    assert (told.id, told.uid, told.name, told.description) == ("ours", UID, "before upgrade", "mine")
    assert [snapshot_tree.told(node, "home").current for node in nodes] == [False, False, True, False]
    assert [snapshot_tree.told(node, "home").memory for node in nodes] == [False, False, False, True]
    assert snapshot_tree.told(nodes[0], "others").uid == ""
    assert [node.name for node in snapshot_tree.below(nodes, nodes[0])] == ["s2", "s3"]
    assert nodes[1].unfinished == "prepare"


def test_after_a_rollback_hardware_is_of_then_and_the_rest_of_now() -> None:
    now = replace(
        RECORD,
        tags=("blue",),
        disks=(*RECORD.disks, DiskStamp("data", "scsi1", "rbd:vm-1042-disk-1"),
               DiskStamp("theirs", "scsi2", "rbd:vm-7-disk-0", owned=False)),
        nics=(NicStamp("lan", "net0"),),
        settings={"description": "true", "cpu.shares": "7", snapshot_tree.REVERTING: "s1"},
    )  # fmt: skip
    then = replace(RECORD, tags=("red",), settings={"cpu.shares": "5", "placement.host": "pve9"})
    config = {"scsi0": "rbd:vm-1042-disk-0,size=8G", "unused0": "rbd:vm-1042-disk-1"}
    after = snapshot_tree.reverted(now, then, config)
    assert after.disks == (*RECORD.disks, DiskStamp("data", "", "rbd:vm-1042-disk-1"))
    assert (after.nics, after.tags, after.uid) == ((), ("blue",), now.uid)
    assert after.settings == {"description": "true", "cpu.shares": "5"}


def test_a_disk_that_was_unplugged_since_is_back_and_one_of_its_name_stays_ours() -> None:
    then = replace(RECORD, disks=(*RECORD.disks, DiskStamp("data", "scsi1", "rbd:vm-1042-disk-1")))
    now = replace(RECORD, disks=(*RECORD.disks, DiskStamp("data", "scsi1", "rbd:vm-1042-disk-2")))
    config = {
        "scsi0": "rbd:vm-1042-disk-0,size=8G",
        "scsi1": "rbd:vm-1042-disk-1,size=1G",
        "unused0": "rbd:vm-1042-disk-2",
    }
    after = snapshot_tree.reverted(now, then, config)
    assert after.disks == (*then.disks, DiskStamp("data@rbd:vm-1042-disk-2", "", "rbd:vm-1042-disk-2"))


def test_hardware_tells_whether_a_rollback_happened() -> None:
    held = {"scsi0": "rbd:vm-1042-disk-0,size=8G", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "snaptime": 7}
    assert snapshot_tree.same_hardware(held | {"vmgenid": "x", "unused0": "rbd:vm-1042-disk-1"}, held)
    assert not snapshot_tree.same_hardware(held | {"scsi1": "rbd:vm-1042-disk-1,size=1G"}, held)
