"""Snapshots of the simulated vCenter: delta disks, what a revert brings back, what a removal merges."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import MIB, chain, disks, machine, make, outcome, si, with_disks
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real


def snapshot(vm: vim.VirtualMachine, name: str, *, memory: bool = False, quiesce: bool = False) -> vim.vm.Snapshot:
    return outcome(vm.CreateSnapshot_Task(name, f"about {name}", memory, quiesce))


def test_disks_go_on_in_deltas(si):
    vm = make(si, "deltas", deviceChange=with_disks(MIB, MIB))
    first = snapshot(vm, "first")
    assert chain(vm.config) == ["deltas-000001.vmdk", "deltas.vmdk"]
    assert chain(vm.config, 1) == ["deltas_1-000001.vmdk", "deltas_1.vmdk"]
    assert chain(first.config) == ["deltas.vmdk"]
    snapshot(vm, "second")
    assert chain(vm.config) == ["deltas-000002.vmdk", "deltas-000001.vmdk", "deltas.vmdk"]
    tree = vm.snapshot.rootSnapshotList[0]
    assert (tree.name, tree.description, tree.state, tree.quiesced) == ("first", "about first", "poweredOff", False)
    assert [child.name for child in tree.childSnapshotList] == ["second"]
    assert first.childSnapshot == [tree.childSnapshotList[0].snapshot]
    assert disks(vm.config)[0].backing.uuid == disks(first.config)[0].backing.uuid


def test_memory_and_quiesce_follow_power_and_tools(si, vcsim):
    vm = make(si, "states", deviceChange=with_disks(MIB))
    snapshot(vm, "off", memory=True, quiesce=True)
    outcome(vm.PowerOnVM_Task())
    snapshot(vm, "no tools", quiesce=True)
    vcsim.control("guest", vm="states", tools="guestToolsRunning")
    snapshot(vm, "tools", quiesce=True)
    snapshot(vm, "memory", memory=True)
    seen, trees = [], vm.snapshot.rootSnapshotList
    while trees:
        seen.append((trees[0].name, trees[0].state, trees[0].quiesced))
        trees = trees[0].childSnapshotList
    assert seen == [
        ("off", "poweredOff", False),
        ("no tools", "poweredOff", False),
        ("tools", "poweredOff", True),
        ("memory", "poweredOn", False),
    ]
    vcsim.control("behaviours", quiesce_fails=True)
    with pytest.raises(vim.fault.FilesystemQuiesceFault):
        snapshot(vm, "fails", quiesce=True)
    assert chain(vm.config)[0] == "states-000004.vmdk"


def test_revert_brings_back_hardware_settings_and_bytes(si, vcsim):
    note = vim.option.OptionValue(key="note", value="old")
    vm = make(si, "back", deviceChange=with_disks(MIB), annotation="before", extraConfig=[note])
    vcsim.write_disk("back", 4096, b"old bytes")
    kept = snapshot(vm, "kept")
    vcsim.write_disk("back", 4096, b"new bytes")
    extra = [vim.option.OptionValue(key="note", value="new"), vim.option.OptionValue(key="more", value="x")]
    card = vim.vm.device.VirtualVmxnet3(
        key=-1, backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    )
    add = vim.vm.device.VirtualDeviceSpec(operation="add", device=card)
    outcome(
        vm.ReconfigVM_Task(
            vim.vm.ConfigSpec(numCPUs=2, memoryMB=128, annotation="after", extraConfig=extra, deviceChange=[add])
        )
    )
    version = vm.config.changeVersion
    outcome(vm.PowerOnVM_Task())
    outcome(kept.RevertToSnapshot_Task())
    assert (vm.runtime.powerState, vm.config.hardware.numCPU, vm.config.hardware.memoryMB) == ("poweredOff", 1, 64)
    assert (vm.summary.config.numCpu, vm.config.annotation) == (1, "before")
    options = {option.key: option.value for option in vm.config.extraConfig}
    assert options["note"] == "old"
    assert "more" not in options
    assert not [device for device in vm.config.hardware.device if isinstance(device, vim.vm.device.VirtualVmxnet3)]
    assert vm.network == []
    assert vm.config.changeVersion != version
    assert vm.snapshot.currentSnapshot == kept
    assert chain(vm.config) == ["back-000002.vmdk", "back.vmdk"]
    assert vcsim.read_disk("back", 4096, 9) == b"old bytes"


def test_revert_with_memory_is_running_again(si):
    vm = make(si, "warm", deviceChange=with_disks(MIB))
    outcome(vm.PowerOnVM_Task())
    warm = snapshot(vm, "warm", memory=True)
    outcome(vm.PowerOffVM_Task())
    outcome(vm.RevertToCurrentSnapshot_Task())
    assert vm.runtime.powerState == "poweredOn"
    outcome(warm.RevertToSnapshot_Task(suppressPowerOn=True))
    assert vm.runtime.powerState == "poweredOff"


def test_nothing_to_revert_to(si):
    with pytest.raises(vim.fault.NotFound):
        make(si, "young").RevertToCurrentSnapshot_Task()


def test_removal_merges_the_disks(si, vcsim):
    vm = make(si, "merged", deviceChange=with_disks(MIB))
    one, two = snapshot(vm, "one"), snapshot(vm, "two")
    vcsim.write_disk("merged", 0, b"top")
    outcome(one.RemoveSnapshot_Task(removeChildren=False))
    assert chain(vm.config) == ["merged-000002.vmdk", "merged.vmdk"]
    assert chain(two.config) == ["merged.vmdk"]
    outcome(two.RemoveSnapshot_Task(removeChildren=False))
    assert chain(vm.config) == ["merged.vmdk"]
    assert vm.snapshot is None
    assert vcsim.read_disk("merged", 0, 3) == b"top"
    outcome(vm.PowerOnVM_Task())


def test_removal_with_children_and_branches(si):
    vm = make(si, "branches", deviceChange=with_disks(MIB))
    root = snapshot(vm, "root")
    left = snapshot(vm, "left")
    outcome(root.RevertToSnapshot_Task())
    right = snapshot(vm, "right")
    assert len(vm.snapshot.rootSnapshotList[0].childSnapshotList) == 2
    outcome(root.RemoveSnapshot_Task(removeChildren=False))
    assert chain(vm.config)[-1] == "branches.vmdk"  # two children still need the base
    assert chain(left.config)[-1] == "branches.vmdk"
    outcome(left.RemoveSnapshot_Task(removeChildren=False))
    assert len(chain(right.config)) == 1
    snapshot(vm, "leaf")
    outcome(right.RemoveSnapshot_Task(removeChildren=True))
    assert vm.snapshot is None
    assert chain(vm.config) == ["branches.vmdk"]
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = right.config


def test_all_snapshots_go(si):
    vm = make(si, "all", deviceChange=with_disks(MIB))
    for name in ("a", "b", "c"):
        snapshot(vm, name)
    outcome(vm.RemoveAllSnapshots_Task())
    assert vm.snapshot is None
    assert list(vm.rootSnapshot) == []
    assert chain(vm.config) == ["all.vmdk"]


def test_consolidation_left_for_later(si, vcsim):
    vm = make(si, "later", deviceChange=with_disks(MIB))
    outcome(snapshot(vm, "asked not to").RemoveSnapshot_Task(False, consolidate=False))
    assert chain(vm.config) == ["later-000001.vmdk", "later.vmdk"]
    assert vm.runtime.consolidationNeeded is True
    outcome(vm.ConsolidateVMDisks_Task())
    assert chain(vm.config) == ["later.vmdk"]
    assert vm.runtime.consolidationNeeded is False
    vcsim.control("behaviours", consolidate=False)
    snapshot(vm, "could not")
    outcome(vm.RemoveAllSnapshots_Task())
    assert vm.runtime.consolidationNeeded is True


def test_independent_disks_stay_out(si):
    changes = with_disks(MIB)
    changes[1].device.backing.diskMode = "independent_persistent"
    vm = make(si, "alone", deviceChange=changes)
    snapshot(vm, "s")
    assert chain(vm.config) == ["alone.vmdk"]


def test_change_ids_come_with_snapshots(si):
    vm = make(si, "tracked", deviceChange=with_disks(MIB), changeTrackingEnabled=True)
    assert vm.config.changeTrackingEnabled is True
    first, second = snapshot(vm, "a"), snapshot(vm, "b")
    ids = [disks(config)[0].backing.changeId for config in (first.config, second.config, vm.config)]
    assert all(ids)
    assert len(set(ids)) == 3


def test_a_machine_of_the_start_has_a_snapshot_too(si):
    vm = machine(si, "DC0_H0_VM0")
    base = chain(vm.config)
    snapshot(vm, "s")
    assert chain(vm.config)[1:] == base
    outcome(vm.RemoveAllSnapshots_Task())
    assert chain(vm.config) == base
