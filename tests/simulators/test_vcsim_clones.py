"""Clones of the simulated vCenter: the whole configuration, linked disks, running forks."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import MIB, chain, disks, make, outcome, si, until, with_disks
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real


def clone(vm: vim.VirtualMachine, name: str, *, linked: bool = False, **spec: Any) -> vim.VirtualMachine:
    location = vim.vm.RelocateSpec(diskMoveType="createNewChildDiskBacking" if linked else None)
    return outcome(vm.CloneVM_Task(vm.parent, name, vim.vm.CloneSpec(location=location, **spec)))


def test_a_clone_copies_the_configuration_and_the_request_wins(si):
    options = [vim.option.OptionValue(key="owner", value="source"), vim.option.OptionValue(key="kept", value="yes")]
    source = make(
        si,
        "whole",
        deviceChange=with_disks(MIB),
        annotation="words",
        firmware="efi",
        extraConfig=options,
        cpuHotAddEnabled=True,
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=True, bootDelay=7),
        flags=vim.vm.FlagInfo(enableLogging=True, vvtdEnabled=True),
    )
    config = vim.vm.ConfigSpec(
        memoryMB=256, annotation="other", extraConfig=[vim.option.OptionValue(key="owner", value="clone")]
    )
    made = clone(source, "whole-copy", config=config)
    seen = made.config
    assert (seen.annotation, seen.firmware, seen.hardware.numCPU, seen.hardware.memoryMB) == ("other", "efi", 1, 256)
    assert (seen.bootOptions.efiSecureBootEnabled, seen.bootOptions.bootDelay) == (True, 7)
    assert (seen.flags.vvtdEnabled, seen.cpuHotAddEnabled) == (True, True)
    options = {option.key: option.value for option in seen.extraConfig}
    assert (options["owner"], options["kept"]) == ("clone", "yes")
    assert seen.instanceUuid != source.config.instanceUuid
    assert (chain(seen), len(disks(seen))) == (["whole-copy.vmdk"], 1)


def test_a_clone_of_a_card_gets_its_own_address(si):
    card = vim.vm.device.VirtualVmxnet3(
        key=-1, backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    )
    source = make(si, "card", deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="add", device=card)])
    made = clone(source, "card-copy")
    addresses = [
        device.macAddress
        for vm in (source, made)
        for device in vm.config.hardware.device
        if isinstance(device, vim.vm.device.VirtualEthernetCard)
    ]
    assert len(set(addresses)) == 2


def test_full_clones_have_the_bytes(si, vcsim):
    source = make(si, "bytes", deviceChange=with_disks(MIB))
    vcsim.write_disk("bytes", 512, b"content")
    clone(source, "bytes-copy")
    vcsim.write_disk("bytes", 512, b"changed")
    assert vcsim.read_disk("bytes-copy", 512, 7) == b"content"


def test_linked_clones_are_children_of_the_snapshot(si, vcsim):
    source = make(si, "parent", deviceChange=with_disks(MIB))
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        clone(source, "orphan", linked=True)
    assert refused.value.invalidProperty == "spec.snapshot"
    vcsim.write_disk("parent", 0, b"then")
    snapshot = outcome(source.CreateSnapshot_Task("base", "", False, False))
    vcsim.write_disk("parent", 0, b"now!")
    outcome(source.ReconfigVM_Task(vim.vm.ConfigSpec(numCPUs=2)))
    child = clone(source, "child", linked=True, snapshot=snapshot)
    assert chain(child.config) == ["child.vmdk", "parent.vmdk"]
    assert child.config.hardware.numCPU == 1
    assert vcsim.read_disk("child", 0, 4) == b"then"
    with pytest.raises(vim.fault.InvalidDeviceOperation):
        grow(child)
    outcome(source.RemoveAllSnapshots_Task())
    assert chain(source.config)[-1] == "parent.vmdk"  # the child still needs it
    outcome(source.Destroy_Task())
    outcome(child.PowerOnVM_Task())
    assert vcsim.read_disk("child", 0, 4) == b"then"


def grow(vm: vim.VirtualMachine) -> None:
    disk = disks(vm.config)[0]
    disk.capacityInKB, disk.capacityInBytes = 2048, 2 * MIB
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))


def test_a_disk_grows_on_its_way(si):
    """The request can only name the source's file; the clone's own is meant."""
    source = make(si, "small", deviceChange=with_disks(MIB))
    outcome(source.CreateSnapshot_Task("s", "", False, False))
    disk = disks(source.config)[0]
    disk.capacityInKB, disk.capacityInBytes = 2048, 2 * MIB
    config = vim.vm.ConfigSpec(deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)])
    made = clone(source, "bigger", config=config)
    assert (chain(made.config), disks(made.config)[0].capacityInBytes) == (["bigger.vmdk"], 2 * MIB)
    with pytest.raises(vim.fault.InvalidDeviceOperation):
        clone(source, "child-bigger", linked=True, snapshot=source.snapshot.currentSnapshot, config=config)


def test_names_stay_free_of_half_clones(si, vcsim):
    source = make(si, "origin", deviceChange=with_disks(MIB))
    with pytest.raises(vim.fault.DuplicateName):
        clone(source, "origin")
    spec = vim.vm.customization.Specification(
        globalIPSettings=vim.vm.customization.GlobalIPSettings(),
        identity=vim.vm.customization.LinuxPrep(
            domain="example.org", hostName=vim.vm.customization.FixedName(name="guest")
        ),
        nicSettingMap=[
            vim.vm.customization.AdapterMapping(
                adapter=vim.vm.customization.IPSettings(ip=vim.vm.customization.DhcpIpGenerator())
            )
        ],
    )
    with pytest.raises(vim.fault.NicSettingMismatch):
        clone(source, "half", customization=spec)
    assert "half" not in vcsim.vms()
    spec.nicSettingMap = []
    clone(source, "custom", customization=spec, powerOn=True)
    seen = vcsim.vms()["custom"]
    assert seen["power"] == "poweredOn"
    assert seen["customization"]["identity"]["hostName"]["name"] == "guest"


def test_templates_need_a_pool_to_clone(si):
    template = make(si, "golden", deviceChange=with_disks(MIB))
    pool = template.resourcePool
    template.MarkAsTemplate()
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        clone(template, "from-golden")
    assert refused.value.invalidProperty == "spec.location.pool"
    spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(pool=pool))
    assert outcome(template.CloneVM_Task(template.parent, "from-golden", spec)).config.template is False


def test_instant_clones_run_on(si, vcsim):
    source = make(
        si, "forked", deviceChange=with_disks(MIB), extraConfig=[vim.option.OptionValue(key="owner", value="source")]
    )
    spec = vim.vm.InstantCloneSpec(
        name="fork",
        location=vim.vm.RelocateSpec(),
        config=[vim.option.OptionValue(key="guestinfo.role", value="fork")],
        biosUuid="11111111-2222-3333-4444-555555555555",
    )
    with pytest.raises(vim.fault.InvalidPowerState):
        outcome(source.InstantClone_Task(spec))
    outcome(source.PowerOnVM_Task())
    fork = outcome(source.InstantClone_Task(spec))
    until(lambda: fork.runtime.powerState == "poweredOn", "the fork does not run")
    options = {option.key: option.value for option in fork.config.extraConfig}
    assert (options["guestinfo.role"], options["owner"]) == ("fork", "source")
    assert fork.config.uuid == spec.biosUuid
    assert chain(fork.config) == ["fork.vmdk", "forked.vmdk"]
    assert chain(source.config) == ["forked-000001.vmdk", "forked.vmdk"]
