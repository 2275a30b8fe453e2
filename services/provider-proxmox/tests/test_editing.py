"""Changes of a machine that exists: what the call says, and what the stamp says with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from provider_proxmox import stamp
from provider_proxmox.config import editing, tuning
from provider_proxmox.config.shape import Shape, parameters, shape_of
from provider_proxmox.session.index import Guest
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp
from providerkit.planner import DESCRIPTION_SETTING

GIB = 1 << 30
IDENTITY = v1.MachineIdentity(uid="7a1e2f30-0000-4000-8000-000000000001", namespace="shop", name="web", owner="home")
NAT = v1.NetworkRef(kind=v1.NetworkKind.NAT)
CONFIG: dict[str, Any] = {
    "digest": "a" * 40,
    "name": "shop.web",
    "sockets": 1,
    "cores": 2,
    "memory": "2048",
    "cpu": "x86-64-v2-AES",
    "machine": "q35",
    "hotplug": "network,disk,usb",
    "scsihw": "virtio-scsi-single",
    "scsi0": "rbd:vm-1042-disk-0,discard=on,iothread=1,size=8G",
    "scsi1": "rbd:vm-1042-disk-1,discard=on,iothread=1,size=1G",
    "ide3": "local:iso/one.iso,media=cdrom",
    "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=4",
    "tags": "virtrigaud",
    "boot": "order=scsi0;net0",
}
RECORD = replace(
    stamp.of(IDENTITY, 1042, 1_700_000_000),
    made=True,
    disks=(DiskStamp("root", "scsi0", "rbd:vm-1042-disk-0"), DiskStamp("data", "scsi1")),
    nics=(NicStamp("lan", "net0"),),
    cdroms={"setup": "ide3"},
)

Edit = Callable[[Shape], Shape]


def _guest(record: Stamp = RECORD, pending: dict[str, Any] | None = None, **config: Any) -> Guest:
    whole = CONFIG | {"description": stamp.written("for the shop", record)} | config
    whole = {key: value for key, value in whole.items() if value is not None}
    return Guest(vmid=1042, node="pve1", status="running", config=whole, pending=pending or {})


def _said(guest: Guest, *edits: Edit) -> tuple[dict[str, object], Stamp]:
    """What the call says besides the description, and the stamp that it writes."""
    assert guest.stamp is not None
    before = shape_of(guest, guest.stamp)
    after = before
    for edit in edits:
        after = edit(after)
    said = parameters(before, after, str(guest.config["description"]))
    text, record = stamp.read(str(said.pop("description", guest.config["description"])))
    assert text == after.text
    assert record is not None
    return said, record


# -- one call ----------------------------------------------------------------------------------------------------------


def test_several_changes_are_one_call() -> None:
    """Each is built upon what the ones before it make of the machine: two new disks get two slots."""
    said, record = _said(
        _guest(),
        lambda s: editing.attach_disk(s, v1.DiskSpec(name="logs", size_bytes=GIB), storage="rbd"),
        lambda s: editing.attach_disk(s, v1.DiskSpec(name="temp", size_bytes=GIB), storage="local", format="qcow2"),
        lambda s: tuning.set_cpu(s, v1.CpuSpec(count=4), live=False),
        lambda s: editing.detach_nic(s, "lan"),
    )
    assert said == {
        "scsi2": "rbd:1,discard=on,iothread=1",
        "scsi3": "local:1,format=qcow2,discard=on,iothread=1",
        "cores": 4,
        "delete": "net0",
    }
    assert [(disk.name, disk.slot) for disk in record.disks] == [
        ("root", "scsi0"), ("data", "scsi1"), ("logs", "scsi2"), ("temp", "scsi3"),
    ]  # fmt: skip
    assert record.nics == ()


def test_what_is_there_already_says_nothing() -> None:
    """The names of volumes that Proxmox VE gave are written down with the next change, and are no reason for one."""
    guest = _guest(replace(RECORD, disks=(*RECORD.disks[:1], replace(RECORD.disks[1], volume="rbd:vm-1042-disk-1"))))
    said, record = _said(
        guest,
        lambda s: editing.attach_disk(s, v1.DiskSpec(name="data", size_bytes=GIB), storage="rbd"),
        lambda s: editing.attach_nic(s, v1.NicSpec(name="lan", network=NAT), "", default_bridge="vmbr0"),
        lambda s: editing.set_cdrom(s, v1.CdromSpec(name="setup", medium="local:iso/one.iso")),
        lambda s: editing.detach_disk(s, "none"),
        lambda s: editing.detach_cdrom(s, "none"),
        lambda s: editing.detach_nic(s, "none"),
        lambda s: tuning.set_memory(s, v1.MemorySpec(size_bytes=2 * GIB), live=False),
    )
    assert (said, record) == ({}, guest.stamp)


def test_what_waits_for_a_restart_is_built_upon() -> None:
    """And a slot that a disk leaves only then is not given to another one before."""
    guest = _guest(pending={"cores": 4, "scsi1": None, "net1": "virtio=BC:24:11:00:00:09,bridge=vmbr0"})
    said, _ = _said(
        guest,
        lambda s: editing.attach_disk(s, v1.DiskSpec(name="logs", size_bytes=GIB), storage="rbd"),
        lambda s: editing.attach_nic(s, v1.NicSpec(name="dmz", network=NAT), "bc:24:11:00:00:02", default_bridge="b1"),
        lambda s: tuning.set_cpu(s, v1.CpuSpec(count=4), live=False),
    )
    assert said == {
        "scsi2": "rbd:1,discard=on,iothread=1",
        "net2": "virtio=BC:24:11:00:00:02,bridge=b1",
    }


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_detached_disk_keeps_its_volume_and_comes_back() -> None:
    """Its entry among the unused ones is never deleted: that would delete the volume."""
    said, record = _said(_guest(), lambda s: editing.detach_disk(s, "data"))
    assert said == {"delete": "scsi1"}
    assert record.disk("data") == DiskStamp("data", "", "rbd:vm-1042-disk-1")
    guest = _guest(record, scsi1=None, unused0="rbd:vm-1042-disk-1")
    said, record = _said(
        guest, lambda s: editing.attach_disk(s, v1.DiskSpec(name="data", size_bytes=GIB), storage="local")
    )
    assert said == {"scsi1": "rbd:vm-1042-disk-1,discard=on,iothread=1"}
    assert record.disk("data") == DiskStamp("data", "scsi1", "rbd:vm-1042-disk-1")


KNOWN = RECORD.with_disk(DiskStamp("data", "scsi1", "rbd:vm-1042-disk-1"))


@pytest.mark.parametrize(
    ("guest", "said", "slot"),
    [
        (_guest(KNOWN, scsi1=None, unused0="rbd:vm-1042-disk-1"), "rbd:vm-1042-disk-1,discard=on,iothread=1", "scsi1"),
        (_guest(KNOWN, scsi1=None, sata3="rbd:vm-1042-disk-1,size=1G"), "", "sata3"),
        (_guest(KNOWN, pending={"scsi1": None}), "rbd:vm-1042-disk-1,discard=on,iothread=1", "scsi1"),
        (
            _guest(
                KNOWN.with_disk(DiskStamp("data", "", "rbd:vm-1042-disk-1")),
                scsi1=None,
                sata3="rbd:vm-1042-disk-1,size=1G",
                pending={"sata3": None},
            ),
            "rbd:vm-1042-disk-1,discard=on",
            "sata3",
        ),
    ],
    ids=["unplugged", "elsewhere", "leaving", "leaving another bus"],
)
def test_a_disk_that_is_there_is_not_made_anew(guest: Guest, said: str, slot: str) -> None:
    """Whoever unplugged it, or put it into another slot. One that leaves only with a restart is still in use there."""
    told, record = _said(
        guest, lambda s: editing.attach_disk(s, v1.DiskSpec(name="data", size_bytes=GIB), storage="local")
    )
    assert told == ({slot: said} if said else {})
    assert record.disk("data") == DiskStamp("data", slot, "rbd:vm-1042-disk-1")


def test_a_detached_disk_of_others_is_forgotten() -> None:
    record = RECORD.with_disk(DiskStamp("shared", "scsi5", "rbd:vm-7-disk-0", owned=False))
    said, record = _said(_guest(record, scsi5="rbd:vm-7-disk-0,size=1G"), lambda s: editing.detach_disk(s, "shared"))
    assert said == {"delete": "scsi5"}
    assert record.disk("shared") is None


def test_an_existing_disk_is_plugged_in_as_it_is() -> None:
    disk = v1.DiskSpec(name="old", existing=v1.ExistingDisk(id="nfs:7/vm-7-disk-0.qcow2"))
    said, record = _said(_guest(), lambda s: editing.attach_disk(s, disk, storage="rbd"))
    assert said == {"scsi2": "nfs:7/vm-7-disk-0.qcow2,discard=on,iothread=1"}
    assert record.disk("old") == DiskStamp("old", "scsi2", "nfs:7/vm-7-disk-0.qcow2", owned=False)


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        (v1.DiskSpec(name="x"), "size_bytes"),
        (v1.DiskSpec(name="x", image=v1.ImageRef(id="i")), "image"),
        (v1.DiskSpec(name="x", size_bytes=GIB, controller_index=0), "scsi0"),
        (v1.DiskSpec(name="x", existing=v1.ExistingDisk(id="/dev/sda")), "no volume"),
    ],
)
def test_a_disk_that_cannot_be(disk: v1.DiskSpec, why: str) -> None:
    with pytest.raises(InvalidSpecError, match=why):
        _said(_guest(), lambda s: editing.attach_disk(s, disk, storage="rbd"))


def test_a_limit_comes_and_goes() -> None:
    said, record = _said(_guest(), lambda s: editing.update_disk(s, v1.DiskSpec(name="data", iops_limit=100)))
    assert said == {"scsi1": "rbd:vm-1042-disk-1,discard=on,iothread=1,size=1G,iops=100"}
    assert record.settings == {"disks[data].iops_limit": "100"}
    guest = _guest(record, scsi1=str(said["scsi1"]))
    said, record = _said(guest, lambda s: editing.update_disk(s, v1.DiskSpec(name="data")))
    assert said == {"scsi1": "rbd:vm-1042-disk-1,discard=on,iothread=1,size=1G"}
    assert record.settings == {}
    with pytest.raises(ResourceNotFoundError):
        _said(_guest(), lambda s: editing.update_disk(s, v1.DiskSpec(name="none", iops_limit=1)))


# -- drives and NICs ---------------------------------------------------------------------------------------------------


def test_drives_come_change_and_go() -> None:
    said, record = _said(
        _guest(),
        lambda s: editing.set_cdrom(s, v1.CdromSpec(name="setup", medium="")),
        lambda s: editing.set_cdrom(s, v1.CdromSpec(name="more", medium="local:iso/two.iso")),
    )
    assert said == {"ide3": "none,media=cdrom", "ide0": "local:iso/two.iso,media=cdrom"}
    assert record.cdroms == {"setup": "ide3", "more": "ide0"}
    said, record = _said(_guest(), lambda s: editing.detach_cdrom(s, "setup"))
    assert (said, record.cdroms) == ({"delete": "ide3"}, {})


@pytest.mark.parametrize(
    ("nic", "value"),
    [
        (v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1", vlan=7)),
         "virtio=BC:24:11:00:00:01,bridge=vmbr1,queues=4,tag=7"),
        (v1.NicSpec(name="lan", network=NAT, model="e1000"), "e1000=BC:24:11:00:00:01,bridge=vmbr0,queues=4"),
        (v1.NicSpec(name="lan", network=NAT, mac="02:00:00:00:00:01"),
         "virtio=02:00:00:00:00:01,bridge=vmbr0,queues=4"),
        (v1.NicSpec(name="lan", network=NAT, firewall=True, rate_limit_bytes=1_000_000, trunks=["7", "2-4"], mtu=1400),
         "virtio=BC:24:11:00:00:01,bridge=vmbr0,queues=4,mtu=1400,trunks=7;2-4,firewall=1,rate=0.9536743164"),
    ],
)  # fmt: skip
def test_a_nic_keeps_its_mac_and_what_others_set(nic: v1.NicSpec, value: str) -> None:
    """Proxmox VE would draw another MAC for a NIC that names none."""
    said, _ = _said(_guest(), lambda s: editing.update_nic(s, nic, default_bridge="vmbr0"))
    assert said == {"net0": value}


def test_an_unknown_nic_is_not_updated() -> None:
    with pytest.raises(ResourceNotFoundError):
        _said(_guest(), lambda s: editing.update_nic(s, v1.NicSpec(name="none"), default_bridge="vmbr0"))


# -- processor, memory, firmware ---------------------------------------------------------------------------------------


def test_room_for_cpus_is_made_while_off_and_used_while_on() -> None:
    said, record = _said(
        _guest(), lambda s: tuning.set_cpu(s, v1.CpuSpec(count=2, hot_add=True), live=False, node_cpus=16)
    )
    assert said == {"cores": 8, "vcpus": 2, "hotplug": "network,disk,usb,cpu"}
    assert record.settings == {"cpu.hot_add": "true"}
    guest = _guest(record, **said)
    said, grown = _said(guest, lambda s: tuning.set_cpu(s, v1.CpuSpec(count=4), live=True))
    assert (said, grown.settings) == ({"vcpus": 4}, record.settings)


def test_nested_virtualization_and_shares_come_and_go() -> None:
    wish = v1.CpuSpec(count=2, nested_virtualization=True, shares=200)
    said, record = _said(_guest(), lambda s: tuning.set_cpu(s, wish, live=False))
    assert said == {"cpu": "host", "cpuunits": 200}
    said, record = _said(_guest(record, **said), lambda s: tuning.set_cpu(s, v1.CpuSpec(count=2), live=False))
    assert said == {"cpu": "x86-64-v2-AES", "delete": "cpuunits"}
    assert record.settings == {}


def test_a_type_that_came_with_a_template_stays() -> None:
    said, _ = _said(_guest(cpu="kvm64"), lambda s: tuning.set_cpu(s, v1.CpuSpec(count=3), live=False))
    assert said == {"cores": 3}


def test_memory_and_what_is_reserved_of_it() -> None:
    wish = v1.MemorySpec(size_bytes=4 * GIB, reservation_bytes=GIB, hot_add=True)
    said, record = _said(_guest(), lambda s: tuning.set_memory(s, wish, live=False))
    assert said == {"memory": 4096, "balloon": 1024, "hotplug": "network,disk,usb,memory", "numa": 1}
    guest = _guest(record, **said)
    said, grown = _said(guest, lambda s: tuning.set_memory(s, v1.MemorySpec(size_bytes=6 * GIB), live=True))
    assert said == {"memory": 6144, "delete": "balloon"}
    assert grown.settings == {"memory.hot_add": "true"}


def test_a_tpm_is_added_and_secure_boot_is_not() -> None:
    """Without its keys in the firmware a guest would not start; putting them in needs a new set of variables."""
    said, _ = _said(_guest(), lambda s: tuning.set_firmware(s, v1.FirmwareSpec(tpm=True), "rbd"))
    assert said == {"tpmstate0": "rbd:1,version=v2.0"}
    with pytest.raises(NotSupportedError, match="by hand"):
        _said(_guest(), lambda s: tuning.set_firmware(s, v1.FirmwareSpec(secure_boot=True), "rbd"))
    guest = _guest(bios="ovmf", efidisk0="rbd:vm-1042-disk-9,efitype=4m,pre-enrolled-keys=1,size=4M")
    assert _said(guest, lambda s: tuning.set_firmware(s, v1.FirmwareSpec(secure_boot=True), "rbd"))[0] == {}


# -- tuning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"proxmox.onBoot": "true"}, {"onboot": "1"}),
        ({"proxmox.cpuLimit": "1.5"}, {"cpulimit": "1.5"}),
        ({"proxmox.cpuType": "kvm64"}, {"cpu": "kvm64"}),
        ({"proxmox.machine": "pc"}, {"machine": "pc"}),
        ({"proxmox.numa": "1"}, {"numa": 1}),
        ({"proxmox.hotplug": "0"}, {"hotplug": "0"}),
        ({"proxmox.balloon": "512"}, {"balloon": 512}),
        ({"proxmox.diskSsd": "1"}, {
            "scsi0": "rbd:vm-1042-disk-0,size=8G,discard=on,iothread=1,ssd=1",
            "scsi1": "rbd:vm-1042-disk-1,size=1G,discard=on,iothread=1,ssd=1",
        }),
    ],
)  # fmt: skip
def test_an_option_is_set_and_taken_off_again(extra: dict[str, str], said: dict[str, object]) -> None:
    found, record = _said(_guest(), lambda s: tuning.set_tuning(s, v1.MachineSpec(extra_config=extra), vmid=1042))
    assert found == said
    assert record.settings == extra
    again = _guest(record, **found)
    assert _said(again, lambda s: tuning.set_tuning(s, v1.MachineSpec(extra_config=extra), vmid=1042))[0] == {}
    back, record = _said(again, lambda s: tuning.set_tuning(s, v1.MachineSpec(), vmid=1042))
    assert record.settings == {}
    assert back == {
        key: CONFIG[key].replace(",discard=on,iothread=1,size", ",size") + ",discard=on,iothread=1"
        if key.startswith("scsi")
        else CONFIG[key]
        for key in said
        if key in CONFIG and key != "machine"
    } | ({"delete": next(iter(said))} if next(iter(said)) not in CONFIG or "machine" in said else {})


def test_an_iommu_comes_and_goes() -> None:
    wish = v1.MachineSpec(tuning=v1.Tuning(iommu=True))
    said, record = _said(_guest(), lambda s: tuning.set_tuning(s, wish, vmid=1042))
    assert said == {"machine": "q35,viommu=intel"}
    said, record = _said(_guest(record, **said), lambda s: tuning.set_tuning(s, v1.MachineSpec(), vmid=1042))
    assert (said, record.settings) == ({"machine": "q35"}, {})


def test_a_machine_keeps_its_vmid() -> None:
    spec = v1.MachineSpec(extra_config={"proxmox.vmid": "7000"})
    with pytest.raises(NotSupportedError, match="1042"):
        _said(_guest(), lambda s: tuning.set_tuning(s, spec, vmid=1042))


# -- texts -------------------------------------------------------------------------------------------------------------


def test_tags_of_other_people_stay() -> None:
    guest = _guest(replace(RECORD, tags=("Blue",)), tags="backup;blue;virtrigaud")
    said, record = _said(guest, lambda s: editing.set_tags(s, ["green"]))
    assert said == {"tags": "backup;green;virtrigaud"}
    assert record.tags == ("green",)


def test_a_description_and_a_note_are_one_text() -> None:
    guest = _guest()
    _, record = _said(
        guest, lambda s: editing.set_description(s, "for people"), lambda s: editing.note(s, "restarted-for", "abc")
    )
    assert record.settings == {DESCRIPTION_SETTING: "true", "restarted-for": "abc"}
    _, record = _said(
        _guest(record), lambda s: editing.set_description(s, ""), lambda s: editing.note(s, "restarted-for", "")
    )
    assert record.settings == {}
