"""Processor, memory, firmware and our own keys as parameters of the API."""

from __future__ import annotations

import pytest
from common import v1
from common.errors import InvalidSpecError
from provider_proxmox.config import hardware

GIB = 1 << 30


def _cpu(extra: dict[str, str] | None = None, **cpu: object) -> v1.MachineSpec:
    return v1.MachineSpec(cpu=v1.CpuSpec(**cpu), extra_config=extra or {})  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("spec", "node_cpus", "expected"),
    [
        (_cpu(count=4), 8, {"sockets": 1, "cores": 4, "cpu": "old"}),
        (_cpu(count=4, cores_per_socket=2), 8, {"sockets": 2, "cores": 2, "cpu": "old"}),
        (_cpu(count=2, hot_add=True), 32, {"sockets": 1, "cores": 8, "vcpus": 2, "cpu": "old"}),
        (_cpu(count=2, hot_add=True), 3, {"sockets": 1, "cores": 3, "vcpus": 2, "cpu": "old"}),
        (
            _cpu(count=2, cores_per_socket=2, hot_add=True),
            7,
            {"sockets": 3, "cores": 2, "vcpus": 2, "cpu": "old"},
        ),
        (_cpu(count=4, hot_add=True), 2, {"sockets": 1, "cores": 4, "cpu": "old"}),
        (_cpu(count=1, nested_virtualization=True), 0, {"sockets": 1, "cores": 1, "cpu": "host"}),
        (
            _cpu({"proxmox.cpuType": "x86-64-v3,flags=+aes"}, count=1, nested_virtualization=True),
            0,
            {"sockets": 1, "cores": 1, "cpu": "x86-64-v3,flags=+aes;+nested-virt"},
        ),
        (_cpu({"proxmox.cpuType": "EPYC"}, count=1), 0, {"sockets": 1, "cores": 1, "cpu": "EPYC"}),
        (_cpu(count=1, shares=200), 0, {"sockets": 1, "cores": 1, "cpu": "old", "cpuunits": 200}),
    ],
)
def test_processors(spec: v1.MachineSpec, node_cpus: int, expected: dict[str, object]) -> None:
    """Room to grow never exceeds the node, which would not start the machine."""
    assert hardware.cpu(spec, node_cpus, old_type="old") == expected


@pytest.mark.parametrize(
    ("value", "nested"),
    [("host", True), ("max", True), ("host,flags=+aes", True), ("kvm64", False), ("kvm64,flags=+nested-virt", True)],
)
def test_who_can_have_guests_of_its_own(value: str, nested: bool) -> None:
    """Told from what is configured, whoever configured it."""
    assert hardware.is_nested(value) is nested


@pytest.mark.parametrize(
    ("memory", "extra", "expected"),
    [
        (v1.MemorySpec(size_bytes=GIB), {}, {"memory": 1024}),
        (v1.MemorySpec(size_bytes=GIB + 1), {}, {"memory": 1025}),
        (v1.MemorySpec(size_bytes=GIB, reservation_bytes=GIB // 2), {}, {"memory": 1024, "balloon": 512}),
        (v1.MemorySpec(size_bytes=GIB), {"proxmox.balloon": "0"}, {"memory": 1024, "balloon": 0}),
    ],
)
def test_memory(memory: v1.MemorySpec, extra: dict[str, str], expected: dict[str, object]) -> None:
    """Whole MiB, never less than asked for; what is reserved is what the balloon leaves."""
    assert hardware.memory(v1.MachineSpec(memory=memory, extra_config=extra)) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (v1.MachineSpec(), {"hotplug": "network,disk,usb"}),
        (v1.MachineSpec(cpu=v1.CpuSpec(count=1, hot_add=True)), {"hotplug": "network,disk,usb,cpu"}),
        (
            v1.MachineSpec(memory=v1.MemorySpec(size_bytes=GIB, hot_add=True)),
            {"hotplug": "network,disk,usb,memory", "numa": 1},
        ),
        (v1.MachineSpec(memory=v1.MemorySpec(size_bytes=GIB // 2, hot_add=True)), {"hotplug": "network,disk,usb"}),
        (v1.MachineSpec(extra_config={"proxmox.hotplug": "0"}), {"hotplug": "0"}),
        (v1.MachineSpec(extra_config={"proxmox.numa": "true"}), {"hotplug": "network,disk,usb", "numa": 1}),
    ],
)
def test_what_may_be_plugged_in_while_it_runs(spec: v1.MachineSpec, expected: dict[str, object]) -> None:
    """A machine with less than 1 GiB that may grow would not start."""
    assert hardware.hotplug(spec) == expected


def test_firmware_with_its_volumes() -> None:
    """Secure boot needs UEFI, and the keys enrolled in its variables."""
    spec = v1.MachineSpec(firmware=v1.FirmwareSpec(secure_boot=True, tpm=True))
    assert hardware.firmware(spec, "rbd") == {
        "bios": "ovmf",
        "efidisk0": "rbd:1,efitype=4m,pre-enrolled-keys=1",
        "tpmstate0": "rbd:1,version=v2.0",
    }
    old = v1.FirmwareSpec(type=v1.FirmwareType.UEFI, tpm=True, tpm_version="1.2")
    assert hardware.firmware(v1.MachineSpec(firmware=old), "local", "qcow2") == {
        "bios": "ovmf",
        "efidisk0": "local:1,efitype=4m,pre-enrolled-keys=0,format=qcow2",
        "tpmstate0": "local:1,version=v1.2",
    }
    assert hardware.firmware(v1.MachineSpec(), "local") == {}
    bios = v1.MachineSpec(firmware=v1.FirmwareSpec(type=v1.FirmwareType.BIOS))
    assert hardware.firmware(bios, "local") == {"bios": "seabios"}
    with pytest.raises(InvalidSpecError, match="secure_boot"):
        hardware.is_uefi(v1.MachineSpec(firmware=v1.FirmwareSpec(type=v1.FirmwareType.BIOS, secure_boot=True)))


@pytest.mark.parametrize(
    ("extra", "old", "iommu", "expected"),
    [
        ({}, "", False, {}),
        ({}, "q35", False, {"machine": "q35"}),
        ({}, "", True, {"machine": "q35,viommu=intel"}),
        ({}, "pc-q35-9.0,enable-s3=1", True, {"machine": "pc-q35-9.0,enable-s3=1,viommu=intel"}),
        ({"proxmox.machine": "pc"}, "q35", False, {"machine": "pc"}),
    ],
)
def test_chipset(extra: dict[str, str], old: str, iommu: bool, expected: dict[str, object]) -> None:
    """An IOMMU is a property of the chipset."""
    spec = v1.MachineSpec(tuning=v1.Tuning(iommu=iommu), extra_config=extra)
    assert hardware.machine(spec, old) == expected


def test_no_iommu_without_the_chipset_for_it() -> None:
    """Proxmox VE would take it and not start the machine."""
    spec = v1.MachineSpec(tuning=v1.Tuning(iommu=True), extra_config={"proxmox.machine": "pc"})
    with pytest.raises(InvalidSpecError, match="q35"):
        hardware.machine(spec)


def test_gpus_by_their_mapping() -> None:
    """Each device is a slot of its own."""
    spec = v1.MachineSpec(gpus=[v1.GpuSpec(count=2, model="a100"), v1.GpuSpec(count=1, model="t4")])
    assert hardware.gpus(spec) == {
        "hostpci0": "mapping=a100,pcie=1",
        "hostpci1": "mapping=a100,pcie=1",
        "hostpci2": "mapping=t4,pcie=1",
    }
    for model in ("", "../x", "a,rombar=0"):
        with pytest.raises(InvalidSpecError, match="no name of a PCI mapping"):
            hardware.gpus(v1.MachineSpec(gpus=[v1.GpuSpec(count=1, model=model)]))


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("proxmox.vmid", "1042", "99"),
        ("proxmox.cpuType", "x86-64-v2-AES", "host;reboot"),
        ("proxmox.numa", "false", "maybe"),
        ("proxmox.cpuLimit", "1.5", "129"),
        ("proxmox.machine", "pc-i440fx-9.2+pve1", "sparc"),
        ("proxmox.scsiHardware", "pvscsi", "scsi"),
        ("proxmox.hotplug", "disk,cpu", "disk,fan"),
        ("proxmox.onBoot", "1", "2"),
        ("proxmox.startup", "order=2,up=30,down=60", "first"),
        ("proxmox.protection", "true", ""),
        ("proxmox.osType", "win11", "beos"),
        ("proxmox.ha", "started", "always"),
        ("proxmox.diskCache", "writeback", "fast"),
        ("proxmox.diskDiscard", "yes", "trim"),
        ("proxmox.diskIothread", "0", "x"),
        ("proxmox.diskSsd", "1", "x"),
        ("proxmox.diskBackup", "0", "x"),
        ("proxmox.diskAio", "native", "uring"),
        ("proxmox.bootData", "snippets", "floppy"),
        ("proxmox.suspendTo", "disk", "tape"),
        ("proxmox.balloon", "512", "0x2"),
    ],
)
def test_our_keys_are_checked(key: str, good: str, bad: str) -> None:
    """What cannot be is said before anything is made, with the name of the key."""
    assert hardware.OUR_KEYS[key].check(good) == ""
    with pytest.raises(InvalidSpecError, match=key.replace(".", r"\.")):
        hardware.check(v1.MachineSpec(extra_config={key: bad}))


def test_every_key_has_been_tried() -> None:
    """The table above is whole."""
    mark = next(mark for mark in test_our_keys_are_checked.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]  # set by pytest
    assert {row[0] for row in mark.args[1]} == set(hardware.OUR_KEYS)


def test_all_that_is_wrong_is_named_at_once() -> None:
    """One round is enough to put a spec right."""
    spec = v1.MachineSpec(
        memory=v1.MemorySpec(size_bytes=GIB, reservation_bytes=GIB),
        extra_config={"proxmox.vmid": "x", "proxmox.balloon": "0", "proxmox.onboot": "1"},
    )
    with pytest.raises(InvalidSpecError) as error:
        hardware.check(spec)
    assert all(word in str(error.value) for word in ("vmid", "reservation_bytes", "proxmox.onboot"))


def test_options_that_take_a_value_as_it_is() -> None:
    """Switches are 1 and 0 in the API."""
    extra = {
        "proxmox.onBoot": "yes",
        "proxmox.protection": "false",
        "proxmox.startup": "order=1",
        "proxmox.ha": "started",
    }
    assert hardware.plain_options(extra) == {"onboot": "1", "protection": "0", "startup": "order=1"}


def test_how_disks_are_attached() -> None:
    """Discard and an I/O thread are on for a new machine; a template keeps its own."""
    assert hardware.disk_options({}) == hardware.Options(discard="on", iothread="1")
    assert hardware.disk_options({}, only_asked=True) == hardware.Options(discard="", iothread="")
    extra = {"proxmox.diskCache": "none", "proxmox.diskDiscard": "false", "proxmox.diskSsd": "true"}
    found = hardware.disk_options(extra, only_asked=True)
    assert found == hardware.Options(cache="none", discard="ignore", iothread="", ssd="1")
