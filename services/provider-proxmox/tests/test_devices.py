"""Disks, drives and NICs in a guest's configuration."""

from __future__ import annotations

import pytest
from common import v1
from common.errors import InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox.config import disks, nics, properties

GIB = 1 << 30
CONFIG = {
    "scsi0": "local-lvm:vm-101-disk-0,discard=on,iops=500,size=8G",
    "virtio1": "nfs:101/vm-101-disk-1.qcow2,size=528K",
    "ide2": "local:iso/debian.iso,media=cdrom,size=600M",
    "sata0": "none,media=cdrom",
    "ide0": "local-lvm:vm-101-cloudinit,media=cdrom",
    "scsi10": "/dev/disk/by-id/x,size=1G",
    "efidisk0": "local-lvm:vm-101-disk-2,efitype=4m,size=4M",
    "unused0": "local-lvm:vm-101-disk-9",
    "boot": "order=virtio1;scsi0;net0",
    "scsihw": "virtio-scsi-single",
    "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,tag=7,trunks=1;2-4,rate=1.5,mtu=9000",
    "net1": "e1000,bridge=vnet1,link_down=1",
    "net2": "model=vmxnet3,macaddr=AA:00:00:00:00:01",
}


def test_every_disk_is_found_in_the_order_of_booting() -> None:
    """The first is the one that the machine boots from; drives are none of them."""
    found = disks.disks(CONFIG)
    assert [disk.slot for disk in found] == ["virtio1", "scsi0", "scsi10"]
    assert [disk.size_bytes for disk in found] == [528 << 10, 8 * GIB, GIB]
    assert [disk.storage for disk in found] == ["nfs", "local-lvm", ""]
    assert [(drive.slot, drive.medium) for drive in disks.cdroms(CONFIG)] == [
        ("sata0", ""),
        ("ide0", "local-lvm:vm-101-cloudinit"),
        ("ide2", "local:iso/debian.iso"),
    ]
    assert disks.unused(CONFIG) == {"unused0": "local-lvm:vm-101-disk-9"}
    assert set(disks.volumes(CONFIG)) == {"scsi0", "virtio1", "scsi10", "efidisk0", "unused0"}


@pytest.mark.parametrize(
    ("volume", "owner"),
    [
        ("local-lvm:vm-101-disk-0", 101),
        ("local-lvm:base-9000-disk-0/vm-101-disk-0", 101),
        ("local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2", 101),
        ("local:9000/base-9000-disk-0.qcow2", 9000),
        ("local:103/somebodys.raw", 103),
        ("local:iso/vm-101-is-only-a-name.iso", 101),
        ("local:iso/debian.iso", 0),
        ("iscsi:0.0.1.lun2", 0),
        ("/dev/sdb", 0),
    ],
)
def test_whose_a_volume_is(volume: str, owner: int) -> None:
    """Proxmox VE deletes it with the guest of that VMID, so it decides what a delete may touch."""
    assert disks.owner_of(volume) == owner


@pytest.mark.parametrize(
    ("key", "expected"),
    [("scsi30", True), ("scsi31", False), ("virtio15", True), ("virtio16", False), ("sata5", True), ("sata6", False),
     ("ide3", True), ("ide4", False), ("scsi01", False), ("scsihw", False), ("unused0", False), ("efidisk0", False)],
)  # fmt: skip
def test_slots_of_every_bus(key: str, expected: bool) -> None:
    """Each bus has its own number of slots."""
    assert disks.is_slot(key) is expected


def test_the_next_free_slot_is_the_first_gap() -> None:
    """A slot that was freed is used again; the one of the first-boot data is never given away."""
    assert disks.free_slot(v1.DiskSpec(name="d"), {"scsi0", "scsi2"}) == "scsi1"
    assert disks.free_slot(v1.DiskSpec(name="d", bus=v1.DiskBus.IDE), {"ide0", "ide1"}) == "ide3"
    assert disks.free_slot(v1.DiskSpec(name="d", controller_index=7), {"scsi0"}) == "scsi7"
    assert disks.free_drive_slot("cd", {"ide0", "ide1", "ide3"}) == "sata0"


@pytest.mark.parametrize(
    ("disk", "taken", "why"),
    [
        (v1.DiskSpec(name="d", bus=v1.DiskBus.NVME), set(), "NVME"),
        (v1.DiskSpec(name="d", controller_index=0), {"scsi0"}, "scsi0"),
        (v1.DiskSpec(name="d", controller_index=31), set(), "scsi31"),
        (v1.DiskSpec(name="d", bus=v1.DiskBus.SATA), {f"sata{n}" for n in range(6)}, "6 slots"),
        (v1.DiskSpec(name="d", bus=v1.DiskBus.SATA, controller_type="pvscsi"), set(), "pvscsi"),
    ],
)
def test_disks_that_cannot_be_plugged_in(disk: v1.DiskSpec, taken: set[str], why: str) -> None:
    """Each refusal names the disk."""
    with pytest.raises(InvalidSpecError, match=f"disk d.*{why}"):
        disks.free_slot(disk, taken)


def test_a_new_disk_in_all_its_options() -> None:
    """What a bus does not know is left out there."""
    options = disks.Options(cache="writeback", ssd="1", backup="0", aio="native")
    disk = v1.DiskSpec(name="d", iops_limit=300)
    volume = disks.new("local", 8 * GIB, format="qcow2")
    on = {slot: str(disks.attached(volume, disk, slot, options)) for slot in ("scsi1", "virtio1", "sata1")}
    assert on == {
        "scsi1": "local:8,format=qcow2,cache=writeback,discard=on,iothread=1,ssd=1,backup=0,aio=native,iops=300",
        "virtio1": "local:8,format=qcow2,cache=writeback,discard=on,iothread=1,backup=0,aio=native,iops=300",
        "sata1": "local:8,format=qcow2,cache=writeback,discard=on,ssd=1,backup=0,aio=native,iops=300",
    }


def test_a_copy_has_its_sources_size() -> None:
    """Proxmox VE wants the size 0 with a source."""
    assert str(disks.new("rbd", GIB, source="local:import/a.qcow2")) == "rbd:0,import-from=local:import/a.qcow2"


def test_limits_come_and_go_without_a_trace() -> None:
    """Whatever else the disk has is left alone."""
    drive = properties.parse(CONFIG["scsi0"])
    assert str(disks.limited(drive, 0)) == "local-lvm:vm-101-disk-0,discard=on,size=8G"
    assert disks.limited(disks.limited(drive, 0), 500).get("iops") == "500"


def test_a_medium_is_a_volume() -> None:
    """A path of a node would be read by anybody who may write a spec."""
    assert str(disks.cdrom("")) == "none,media=cdrom"
    assert str(disks.cdrom("local:iso/a.iso")) == "local:iso/a.iso,media=cdrom"
    with pytest.raises(InvalidSpecError, match="volume of a storage"):
        disks.cdrom("/etc/shadow")


def test_one_scsi_controller_for_all() -> None:
    """It belongs to the machine and not to a disk."""
    kinds = [v1.DiskSpec(name="a", controller_type="pvscsi"), v1.DiskSpec(name="b")]
    assert disks.controller(kinds) == "pvscsi"
    with pytest.raises(InvalidSpecError, match="one SCSI controller"):
        disks.controller([*kinds, v1.DiskSpec(name="c", controller_type="lsi")])
    with pytest.raises(InvalidSpecError, match=r"disk a.*is none of"):
        disks.controller([v1.DiskSpec(name="a", controller_type="nvme")])


def test_nics_are_read_in_all_spellings() -> None:
    """Model and MAC stand together, apart, or the MAC is not there yet."""
    first, second, third = nics.nics(CONFIG)
    assert (first.model, first.mac, first.bridge, first.vlan) == ("virtio", "bc:24:11:00:00:01", "vmbr0", 7)
    assert (first.trunks, first.rate_limit_bytes, first.mtu) == ("1;2-4", 3 << 19, 9000)
    assert (first.firewall, first.connected, second.connected) == (True, True, False)
    assert (second.model, second.mac, third.model, third.mac) == ("e1000", "", "vmxnet3", "aa:00:00:00:00:01")


@given(st.integers(min_value=1, max_value=1 << 40))
def test_a_rate_is_read_back_to_the_byte(limit: int) -> None:
    """Else the limit would be set anew for ever."""
    nic = v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.NAT), rate_limit_bytes=limit)
    written = nics.value(nic, "aa:00:00:00:00:01", default_bridge="vmbr0")
    assert nics.Nic("net0", written).rate_limit_bytes == limit


@given(uid=st.uuids(), name=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True))
def test_a_derived_mac_is_always_the_same(uid: object, name: str) -> None:
    """A NIC that is made anew keeps its lease; nobody else's address is taken."""
    spec = v1.MachineSpec(identity=v1.MachineIdentity(uid=str(uid)), nics=[v1.NicSpec(name=name)])
    first = nics.macs(spec, set())[name]
    assert first == nics.macs(spec, set())[name] == nics.mac_of(str(uid), name, set())
    assert nics.macs(spec, {first})[name] not in ("", first)
    assert first.startswith("bc:24:11:")


@pytest.mark.parametrize(
    ("nic", "expected"),
    [
        (v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.NAT)), "virtio=AA:00:00:00:00:01,bridge=vmbr9"),
        (
            v1.NicSpec(name="n", model="e1000", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="br0", vlan=7)),
            "e1000=AA:00:00:00:00:01,bridge=br0,tag=7",
        ),
        (
            v1.NicSpec(name="n", mtu=9000, network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="vnet1")),
            "virtio=AA:00:00:00:00:01,bridge=vnet1,mtu=9000",
        ),
        (
            v1.NicSpec(
                name="n",
                network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="br0"),
                firewall=True,
                rate_limit_bytes=3 << 19,
                trunks=["1", "5-7"],
            ),
            "virtio=AA:00:00:00:00:01,bridge=br0,trunks=1;5-7,firewall=1,rate=1.5",
        ),
    ],
)
def test_P17_every_setting_of_a_nic_is_written(nic: v1.NicSpec, expected: str) -> None:
    """The system before this one dropped them all."""
    assert str(nics.value(nic, "aa:00:00:00:00:01", default_bridge="vmbr9")) == expected


def test_a_moved_nic_keeps_what_we_do_not_know() -> None:
    """Queues and the like were set by somebody who wants them."""
    old = properties.parse("virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=4,tag=7")
    moved = v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1"))
    found = str(nics.value(moved, "bc:24:11:00:00:01", default_bridge="", old=old))
    assert found == "virtio=BC:24:11:00:00:01,bridge=vmbr1,queues=4"


@pytest.mark.parametrize(
    ("nic", "why"),
    [
        (v1.NicSpec(name="n", model="sriov"), "no model 'sriov'"),
        (v1.NicSpec(name="n", model="e1000", mtu=9000), "virtio NICs only"),
        (v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="x")), "DISTRIBUTED"),
        (v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.NAT)), "default_bridge"),
        (v1.NicSpec(name="n", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="a,tag=1")), "bridge"),
    ],
)
def test_nics_that_proxmox_has_not(nic: v1.NicSpec, why: str) -> None:
    """Nothing is left out in silence."""
    with pytest.raises(InvalidSpecError, match=why):
        nics.value(nic, "aa:00:00:00:00:01", default_bridge="")


@pytest.mark.parametrize("rate", ["x", "inf", "nan", "1e400", "9" * 30])
def test_a_rate_that_is_none_counts_as_no_limit(rate: str) -> None:
    """A person may write anything into a configuration file; it must not end the looking at all guests."""
    nic = nics.Nic("net0", properties.parse(f"virtio=BC:24:11:00:00:01,rate={rate},tag={'9' * 5000},mtu=x"))
    assert (nic.rate_limit_bytes, nic.vlan, nic.mtu) == (0, 0, 0)


def test_a_size_or_an_owner_beyond_all_bounds_is_none() -> None:
    assert disks.Drive("scsi0", properties.parse("local:x,size=18446744073709551616T")).size_bytes == 0
    assert disks.owner_of(f"local:vm-{'9' * 5000}-disk-0") == 0
