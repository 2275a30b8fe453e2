"""The whole configuration of a new guest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from common import v1
from common.errors import InvalidSpecError
from provider_proxmox import stamp
from provider_proxmox.config import making
from provider_proxmox.config.making import Choices, Where
from provider_proxmox.images.source import Source

GIB = 1 << 30
IDENTITY = v1.MachineIdentity(uid="7a1e2f30-0000-4000-8000-000000000001", namespace="shop", name="web", owner="home")
RECORD = stamp.of(IDENTITY, 1042, 1_700_000_000)
CHOICES = Choices(
    home=Where("rbd"),
    disks={"root": Where("rbd"), "data": Where("local", "qcow2")},
    macs={"lan": "bc:24:11:00:00:01", "dmz": "bc:24:11:00:00:02"},
    default_bridge="vmbr0",
    node_cpus=16,
)
NAT = v1.NetworkRef(kind=v1.NetworkKind.NAT)
TEMPLATE = {
    "name": "debian",
    "cores": 1,
    "memory": "512",
    "scsihw": "virtio-scsi-pci",
    "scsi0": "rbd:base-900-disk-0,discard=on,size=2G",
    "virtio3": "rbd:base-900-disk-1,size=1G",
    "ide2": "local:iso/old.iso,media=cdrom",
    "net0": "virtio=BC:24:11:AA:AA:AA,bridge=vmbr7",
    "net1": "virtio=BC:24:11:AA:AA:AB,bridge=vmbr8",
    "boot": "order=scsi0",
}


def _spec(**more: object) -> v1.MachineSpec:
    base = v1.MachineSpec(
        identity=IDENTITY,
        cpu=v1.CpuSpec(count=2),
        memory=v1.MemorySpec(size_bytes=2 * GIB),
        disks=[v1.DiskSpec(name="root", size_bytes=8 * GIB), v1.DiskSpec(name="data", size_bytes=GIB)],
        nics=[v1.NicSpec(name="lan", network=NAT)],
    )
    return replace(base, **more)  # type: ignore[arg-type]  # fields by name


def test_a_machine_from_nothing_in_one_call() -> None:
    """Everything with the stamp: whatever dies afterwards, it is known whose it is."""
    made = making.new_machine(_spec(tags=["Team:Web"], description="for the shop"), RECORD, CHOICES)
    described = made.described("for the shop")
    assert made.params == {
        "name": "shop.web",
        "tags": "team-web;virtrigaud",
        "smbios1": f"uuid={IDENTITY.uid}",
        "ostype": "l26",
        "agent": 1,
        "scsihw": "virtio-scsi-single",
        "serial0": "socket",
        "vga": "std",
        "hotplug": "network,disk,usb",
        "machine": "q35",
        "cpu": "x86-64-v2-AES",
        "sockets": 1,
        "cores": 2,
        "memory": 2048,
        "scsi0": "rbd:8,discard=on,iothread=1",
        "scsi1": "local:1,format=qcow2,discard=on,iothread=1",
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
        "boot": "order=scsi0;net0",
    }
    text, found = stamp.read(str(described["description"]))
    assert (text, found) == ("for the shop", made.stamp)
    assert [(disk.name, disk.slot, disk.owned) for disk in made.stamp.disks] == [
        ("root", "scsi0", True),
        ("data", "scsi1", True),
    ]
    assert (made.stamp.vmid, made.stamp.made, made.stamp.tags) == (1042, False, ("Team:Web",))


def test_a_disk_from_an_image_is_imported_and_grown() -> None:
    """A copy has its source's size at first."""
    source = Source("img", "volume", "pve1", volume="nfs:import/a.qcow2", disks={"scsi0": 2 * GIB})
    disk = v1.DiskSpec(name="root", size_bytes=8 * GIB, image=v1.ImageRef(id="img"))
    made = making.new_machine(_spec(disks=[disk]), RECORD, replace(CHOICES, sources={"root": source}))
    assert made.params["scsi0"] == "rbd:0,import-from=nfs:import/a.qcow2,discard=on,iothread=1"
    assert made.growth == {"scsi0": 8 * GIB}
    assert made.params["boot"] == "order=scsi0"
    assert made.stamp.disks[0].image_id == "img"


def test_an_existing_disk_is_attached_and_never_owned() -> None:
    """It was there before the machine and will be there after it."""
    disk = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id="rbd:vm-77-disk-0"))
    made = making.new_machine(_spec(disks=[disk]), RECORD, CHOICES)
    assert made.params["scsi0"] == "rbd:vm-77-disk-0,discard=on,iothread=1"
    assert [(each.owned, each.volume) for each in made.stamp.disks] == [(False, "rbd:vm-77-disk-0")]
    with pytest.raises(InvalidSpecError, match="no volume"):
        making.new_machine(
            _spec(disks=[v1.DiskSpec(name="root", existing=v1.ExistingDisk(id="/dev/sda"))]), RECORD, CHOICES
        )


def test_an_empty_machine_boots_its_installer_and_then_the_network() -> None:
    """The disk comes first: once something is installed there, it is started."""
    spec = _spec(cdroms=[v1.CdromSpec(name="setup", medium="local:iso/d.iso"), v1.CdromSpec(name="drivers")])
    made = making.new_machine(spec, RECORD, CHOICES)
    assert made.params["boot"] == "order=scsi0;ide0;ide1"
    assert (made.params["ide0"], made.params["ide1"]) == ("local:iso/d.iso,media=cdrom", "none,media=cdrom")
    assert made.stamp.cdroms == {"setup": "ide0", "drivers": "ide1"}


def test_over_a_template_only_the_difference_is_written() -> None:
    """What the spec does not say stays as the template has it; its NICs go, which nobody asked for."""
    root = v1.DiskSpec(name="root", size_bytes=8 * GIB, image=v1.ImageRef(id="img"))
    data = v1.DiskSpec(name="data", size_bytes=GIB, bus=v1.DiskBus.VIRTIO)
    made = making.over(_spec(disks=[root, data]), RECORD, TEMPLATE, CHOICES)
    assert made.params == {
        "name": "shop.web",
        "tags": "virtrigaud",
        "smbios1": f"uuid={IDENTITY.uid}",
        "agent": 1,
        "serial0": "socket",
        "hotplug": "network,disk,usb",
        "sockets": 1,
        "cores": 2,
        "memory": 2048,
        "virtio0": "local:1,format=qcow2,discard=on,iothread=1",
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
        "boot": "order=scsi0",
    }
    assert made.delete == ("net1",)
    assert made.growth == {"scsi0": 8 * GIB}
    assert [(disk.name, disk.slot) for disk in made.stamp.disks] == [("root", "scsi0"), ("data", "virtio0")]
    assert made.stamp.settings[making.UNNAMED_DISKS] == "virtio3"


@pytest.mark.parametrize(
    ("had", "more", "params", "leaving"),
    [
        ({"hotplug": "0"}, {}, {"hotplug": None}, set()),
        ({"hotplug": "0"}, {"cpu": v1.CpuSpec(count=2, hot_add=True)}, {"hotplug": "network,disk,usb,cpu"}, set()),
        ({"vcpus": 1}, {}, {"cores": 2}, {"vcpus"}),
        ({"vcpus": 1}, {"cpu": None}, {"cores": None}, set()),
        ({"balloon": 4096}, {}, {"memory": 2048}, {"balloon"}),
        ({"balloon": 1024}, {}, {"memory": 2048}, set()),
        ({"protection": 1}, {}, {"protection": None}, {"protection"}),
        ({"protection": 1}, {"extra_config": {"proxmox.protection": "1"}}, {"protection": "1"}, set()),
        (
            {"smbios1": "uuid=00000000-0000-4000-8000-000000000000,base64=1,manufacturer=QQ=="},
            {},
            {"smbios1": f"uuid={IDENTITY.uid},base64=1,manufacturer=QQ=="},
            set(),
        ),
    ],
)
def test_what_a_template_has_of_its_own(
    had: dict[str, object], more: dict[str, object], params: dict[str, object], leaving: set[str]
) -> None:
    """It stays, unless it contradicts what is asked for."""
    root = v1.DiskSpec(name="root", image=v1.ImageRef(id="img"))
    made = making.over(_spec(disks=[root], **more), RECORD, TEMPLATE | had, CHOICES)
    assert {key: made.params.get(key) for key in params} == params
    assert set(made.delete) == {"net1"} | leaving


def test_repeated_over_its_own_result_makes_no_second_disk() -> None:
    """A making that was cut off goes on from what is there."""
    root = v1.DiskSpec(name="root", image=v1.ImageRef(id="img"))
    spec = _spec(disks=[root, v1.DiskSpec(name="data", size_bytes=GIB)])
    first = making.over(spec, RECORD, TEMPLATE, CHOICES)
    slot = first.stamp.disks[1].slot
    done = {**TEMPLATE, **first.params, slot: "local:1042/vm-1042-disk-1.qcow2,size=1G"}
    again = making.over(spec, first.stamp, {k: v for k, v in done.items() if k not in first.delete}, CHOICES)
    assert slot not in again.params
    assert (again.delete, again.stamp) == ((), first.stamp)


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        (v1.DiskSpec(name="root", size_bytes=GIB), "never shrinks"),
        (v1.DiskSpec(name="root", bus=v1.DiskBus.IDE), "scsi0"),
        (v1.DiskSpec(name="root", controller_type="lsi"), "virtio-scsi-pci"),
        (v1.DiskSpec(name="root", existing=v1.ExistingDisk(id="rbd:vm-77-disk-0")), "existing disk"),
    ],
)
def test_a_template_that_does_not_fit(disk: v1.DiskSpec, why: str) -> None:
    """Told before anything is cloned."""
    with pytest.raises(InvalidSpecError, match=f"disk root.*{why}"):
        making.over(_spec(disks=[disk]), RECORD, TEMPLATE, CHOICES)


def test_limits_of_a_templates_disk() -> None:
    """Its other options stay."""
    disk = v1.DiskSpec(name="root", iops_limit=200)
    made = making.over(_spec(disks=[disk]), RECORD, TEMPLATE, CHOICES)
    assert made.params["scsi0"] == "rbd:base-900-disk-0,discard=on,size=2G,iops=200"


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("shop", "web", "shop.web"),
        ("shop", "a.b", "shop.a.b"),
        ("n", "x" * 180 + "." + "y" * 60, None),
    ],
)
def test_names_that_proxmox_takes(namespace: str, name: str, expected: str | None) -> None:
    """Every label begins and ends with a letter or digit, a shortened one's too."""
    found = making.machine_name(v1.MachineIdentity(namespace=namespace, name=name))
    assert expected is None or found == expected
    assert all(label and label[0].isalnum() and label[-1].isalnum() for label in found.split("."))


def test_volumes_are_written_down_as_proxmox_named_them() -> None:
    """A delete compares them."""
    record = making.new_machine(_spec(), RECORD, CHOICES).stamp
    found = making.with_volumes(
        record, {"scsi0": "rbd:vm-1042-disk-0,size=8G", "scsi1": "local:1042/vm-1042-disk-1.raw"}
    )
    assert [disk.volume for disk in found.disks] == ["rbd:vm-1042-disk-0", "local:1042/vm-1042-disk-1.raw"]
