"""Changed block tracking of the simulated vCenter."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import MIB, disks, make, outcome, si, with_disks
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real

GRAIN = 64 << 10


def write(vcsim, vm: str, offset: int, size: int) -> None:
    vcsim.write_disk(vm, offset, b"x" * size)


def areas(vm: vim.VirtualMachine, snapshot: vim.vm.Snapshot, change_id: str) -> list[tuple[int, int]]:
    """Every changed area, asked for until the disk's end as VMware's example does."""
    disk, start, found = disks(snapshot.config)[0], 0, []
    while start < disk.capacityInBytes:
        answer = vm.QueryChangedDiskAreas(snapshot, disk.key, start, change_id)
        assert answer.startOffset == start
        found += [(area.start, area.length) for area in answer.changedArea]
        start += answer.length
    return found


def test_only_what_changed_between_snapshots(si, vcsim):
    vm = make(si, "diary", deviceChange=with_disks(4 * MIB), changeTrackingEnabled=True)
    write(vcsim, "diary", 0, 10)
    first = outcome(vm.CreateSnapshot_Task("first", "", False, False))
    write(vcsim, "diary", MIB + 5, GRAIN)
    write(vcsim, "diary", 4 * MIB - 1, 1)
    second = outcome(vm.CreateSnapshot_Task("second", "", False, False))
    write(vcsim, "diary", 2 * MIB, 1)
    since = disks(first.config)[0].backing.changeId
    assert areas(vm, first, "*") == [(0, GRAIN)]
    assert areas(vm, second, since) == [(MIB, 2 * GRAIN), (4 * MIB - GRAIN, GRAIN)]
    assert areas(vm, second, "*") == [(0, GRAIN), (MIB, 2 * GRAIN), (4 * MIB - GRAIN, GRAIN)]
    assert areas(vm, second, disks(second.config)[0].backing.changeId) == []


def test_change_ids_outlive_their_snapshot(si, vcsim):
    """A backup keeps the id and removes the snapshot."""
    vm = make(si, "backup", deviceChange=with_disks(MIB), changeTrackingEnabled=True)
    first = outcome(vm.CreateSnapshot_Task("first", "", False, False))
    since = disks(first.config)[0].backing.changeId
    outcome(first.RemoveSnapshot_Task(False))
    write(vcsim, "backup", 0, 1)
    second = outcome(vm.CreateSnapshot_Task("second", "", False, False))
    assert areas(vm, second, since) == [(0, GRAIN)]


def test_many_areas_need_many_answers(si, vcsim):
    vm = make(si, "many", deviceChange=with_disks(4 * MIB), changeTrackingEnabled=True)
    for number in range(20):
        write(vcsim, "many", number * 2 * GRAIN, 1)
    snapshot = outcome(vm.CreateSnapshot_Task("s", "", False, False))
    vcsim.control("requests/reset")
    assert len(areas(vm, snapshot, "*")) == 20
    assert vcsim.requests()["QueryChangedDiskAreas"] == 3


def test_ids_of_another_branch_or_without_tracking(si):
    vm = make(si, "lost", deviceChange=with_disks(MIB), changeTrackingEnabled=True)
    root = outcome(vm.CreateSnapshot_Task("root", "", False, False))
    side = outcome(vm.CreateSnapshot_Task("side", "", False, False))
    outcome(root.RevertToSnapshot_Task())
    now = outcome(vm.CreateSnapshot_Task("now", "", False, False))
    for change_id in (disks(side.config)[0].backing.changeId, "nonsense"):
        with pytest.raises(vmodl.fault.InvalidArgument):
            areas(vm, now, change_id)
    outcome(vm.RemoveAllSnapshots_Task())
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))
    blind = outcome(vm.CreateSnapshot_Task("blind", "", False, False))
    with pytest.raises(vim.fault.FileFault):
        areas(vm, blind, "*")
