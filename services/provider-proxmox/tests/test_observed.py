"""What a guest's facts mean: tables over a pure function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from common import v1
from provider_proxmox import observed, stamp
from provider_proxmox.session import line
from provider_proxmox.session.index import Guest, Index, Node, Storage
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp

UID = "7a1e2f30-0000-4000-8000-000000000001"
IDENTITY = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="home")
STAMP = replace(
    stamp.of(IDENTITY, 101, created=1_753_000_000),
    made=True,
    disks=(
        DiskStamp("root", "scsi0", "local-lvm:vm-101-disk-0", image_id="debian"),
        DiskStamp("data", "scsi1", "local-lvm:vm-101-disk-1"),
    ),
    nics=(NicStamp("net0", "net0", "NAT"),),
    cdroms={"setup": "ide0"},
    tags=("Blue",),
    boot_digest="abc",
)
CONFIG: dict[str, Any] = {
    "name": "shop.web",
    "sockets": 1,
    "cores": 4,
    "vcpus": 2,
    "memory": "2048",
    "scsi0": "local-lvm:vm-101-disk-0,size=8G,iops=100",
    "scsi1": "local-lvm:vm-101-disk-1,size=1G",
    "ide0": "local:iso/debian.iso,media=cdrom",
    "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,rate=10,mtu=1400",
    "tags": "blue;others;virtrigaud",
    "boot": "order=scsi0",
    "serial0": "socket",
    "digest": "d1",
}


def guest(mark: Stamp | None = STAMP, *, text: str = "for people", **changes: Any) -> Guest:
    config = {**CONFIG, "description": stamp.written(text, mark), **changes.pop("config", {})}
    config = {key: value for key, value in config.items() if value is not None}
    return Guest(101, "pve1", name="shop.web", status="stopped", config=config, **changes)


def seen(one: Guest, owner: str = "home", *, online: bool = True) -> v1.Machine:
    index = Index()
    index.nodes["pve1"] = Node("pve1", online=online)
    index.storages["pve1", "local-lvm"] = Storage("local-lvm", "pve1", "lvmthin")
    return observed.machine(one, index, owner)


def test_a_machine_of_ours() -> None:
    machine = seen(guest())
    assert machine.owned
    assert machine.identity == IDENTITY
    assert (machine.id, machine.hypervisor_name, machine.host) == ("101", "shop.web", "pve1")
    assert machine.description == "for people"
    assert machine.cpu == v1.CpuState(count=2, max_count=4, configured_count=2, cores_per_socket=4)
    assert machine.memory == v1.MemoryState(size_bytes=2 << 30, max_bytes=2 << 30, configured_bytes=2 << 30)
    assert [(disk.name, disk.size_bytes, disk.storage, disk.owned, disk.format) for disk in machine.disks] == [
        ("root", 8 << 30, "local-lvm", True, "raw"),
        ("data", 1 << 30, "local-lvm", True, "raw"),
    ]
    assert machine.disks[0].image_id == "debian"
    assert [(drive.name, drive.medium) for drive in machine.cdroms] == [("setup", "local:iso/debian.iso")]
    assert machine.tags == ["Blue"]
    assert machine.create_time is not None
    nic = machine.nics[0]
    assert (nic.name, nic.mac, nic.model) == ("net0", "bc:24:11:00:00:01", "virtio")
    assert nic.network == v1.NetworkRef(kind=v1.NetworkKind.NAT)
    assert machine.settings == {
        "boot-data": "abc",
        "disks[root].iops_limit": "100",
        "nics[net0].firewall": "true",
        "nics[net0].mtu": "1400",
        "nics[net0].rate_limit_bytes": str(10 << 20),
    }


@pytest.mark.parametrize(
    ("mark", "owner"),
    [(None, "home"), (STAMP, "another installation"), (replace(STAMP, vmid=102), "home")],
    ids=["no stamp", "another's", "a copy that brought the stamp along"],
)
def test_foreign(mark: Stamp | None, owner: str) -> None:
    machine = seen(guest(mark), owner)
    assert not machine.owned
    assert machine.identity is None
    assert machine.settings == {}
    assert [disk.name for disk in machine.disks] == ["", ""]
    assert machine.tags == ["blue", "others"]


@pytest.mark.parametrize(
    ("facts", "power"),
    [
        ({"status": "running"}, v1.PowerState.ON),
        ({"status": "running", "qmpstatus": "running"}, v1.PowerState.ON),
        ({"status": "running", "qmpstatus": "paused"}, v1.PowerState.SUSPENDED),
        ({"status": "running", "qmpstatus": "io-error"}, v1.PowerState.PAUSED),
        ({"status": "running", "qmpstatus": "guest-panicked"}, v1.PowerState.PAUSED),
        ({"status": "stopped"}, v1.PowerState.OFF),
        ({"status": "stopped", "lock": "suspended"}, v1.PowerState.SUSPENDED),
        ({"status": "stopped", "lock": "backup"}, v1.PowerState.OFF),
        ({"status": "unknown"}, v1.PowerState.UNKNOWN),
    ],
)
def test_power(facts: dict[str, str], power: v1.PowerState) -> None:
    assert seen(replace(guest(), **facts)).power is power


@pytest.mark.parametrize(
    ("facts", "online", "reason"),
    [
        ({"status": "running", "qmpstatus": "io-error"}, True, "I/O error"),
        ({"lock": "clone"}, True, "locked (clone)"),
        ({"status": "unknown"}, False, "node pve1 does not answer"),
        ({}, True, ""),
    ],
)
def test_power_reason(facts: dict[str, str], online: bool, reason: str) -> None:
    told = seen(replace(guest(), **facts), online=online).power_reason
    assert reason in told
    assert bool(told) is bool(reason)


def test_what_waits_for_a_restart() -> None:
    """It runs as it did, and says what it will be."""
    pending = {"memory": "4096", "vcpus": None, "scsi1": None}
    machine = seen(replace(guest(), status="running", pending=pending))
    assert (machine.memory.size_bytes, machine.memory.configured_bytes) == (2 << 30, 4 << 30)
    assert (machine.cpu.count, machine.cpu.configured_count) == (2, 4)
    assert machine.pending_restart == [
        "memory: changed after restart", "scsi1: gone after restart", "vcpus: gone after restart",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, v1.FirmwareSpec(type=v1.FirmwareType.BIOS)),
        ({"bios": "ovmf"}, v1.FirmwareSpec(type=v1.FirmwareType.UEFI)),
        (
            {"bios": "ovmf", "efidisk0": "local-lvm:vm-101-disk-2,pre-enrolled-keys=1,size=4M"},
            v1.FirmwareSpec(type=v1.FirmwareType.UEFI, secure_boot=True),
        ),
        (
            {"tpmstate0": "local-lvm:vm-101-disk-3,size=4M,version=v2.0"},
            v1.FirmwareSpec(type=v1.FirmwareType.BIOS, tpm=True, tpm_version="2.0"),
        ),
    ],
)
def test_firmware(config: dict[str, str], wanted: v1.FirmwareSpec) -> None:
    assert seen(guest(config=config)).firmware == wanted


@pytest.mark.parametrize(
    ("wish", "config", "holds"),
    [
        ({"cpu.shares": "200"}, {"cpuunits": 200}, "200"),
        ({"cpu.shares": "200"}, {"cpuunits": 100}, "100"),
        ({"cpu.shares": "200"}, {}, None),
        ({"memory.reservation_bytes": "1"}, {"balloon": 1}, "1"),
        ({"memory.reservation_bytes": "1"}, {"balloon": 2}, str(2 << 20)),
        ({"proxmox.onBoot": "yes"}, {"onboot": 1}, "yes"),
        ({"proxmox.onBoot": "yes"}, {"onboot": 0}, "0"),
        ({"proxmox.onBoot": "yes"}, {}, None),
        ({"tuning.iommu": "true"}, {"machine": "q35,viommu=intel"}, "true"),
        ({"tuning.iommu": "true"}, {"machine": "q35"}, None),
        ({"cpu.nested_virtualization": "true"}, {"cpu": "host"}, "true"),
        ({"gpus": "2xa100,1xl4"}, {f"hostpci{n}": f"mapping={m}" for n, m in enumerate(("a100", "a100", "l4"))}, None),
    ],
)
def test_settings_hold_or_tell_what_is_there_instead(
    wish: dict[str, str], config: dict[str, Any], holds: str | None
) -> None:
    """In the words of the wish while it holds; a change by somebody else shows as a difference."""
    (key,) = wish
    told = seen(guest(replace(STAMP, settings=wish), config=config)).settings
    assert told.get(key) == (wish[key] if key == "gpus" else holds)


def test_addresses_from_the_agent() -> None:
    """By NIC, without loopback and link-local ones, and of nobody's bridges."""
    interfaces = [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
        {
            "name": "eth0",
            "hardware-address": "BC:24:11:00:00:01",
            "ip-addresses": [{"ip-address": "fe80::1"}, {"ip-address": "2001:db8::7"}, {"ip-address": "192.0.2.7"}],
        },
        {"name": "docker0", "hardware-address": "02:42:00:00:00:01", "ip-addresses": [{"ip-address": "172.17.0.1"}]},
    ]
    agent = {"interfaces": interfaces, "hostname": "web", "osinfo": {"pretty-name": "Debian\x07 12"}}
    machine = seen(replace(guest(), status="running", agent=agent))
    assert [(each.address, each.nic, each.sources) for each in machine.addresses] == [
        ("192.0.2.7", "net0", ["agent"]), ("2001:db8::7", "net0", ["agent"]),
    ]  # fmt: skip
    assert machine.guest == v1.Guest(hostname="web", agent_running=True, os="Debian 12")
    assert seen(guest(agent=agent)).addresses == []


def test_another_volume_in_the_slot_of_a_foreign_disk_is_not_the_disk() -> None:
    """A volume that we did not make and that somebody exchanged is known by no name."""
    mark = replace(STAMP, disks=(DiskStamp("root", "scsi0", "nfs:existing", owned=False),))
    assert [disk.name for disk in seen(guest(mark)).disks] == ["", ""]


def test_half_a_surrogate_pair_in_a_reply_is_replaced() -> None:
    """Nothing of ours could pass it on: one guest of somebody would end the listing of all."""
    assert line.decoded(rb'{"data": {"na\ud800me": ["\udfff", 7]}}') == {"data": {"na?me": ["?", 7]}}
    assert line.decoded(rb'{"data": "\ud83d\udca9"}') == {"data": "\N{PILE OF POO}"}
    assert line.decoded(b'{"data": "\xed\xa0\x80"}') == {"data": "\ufffd" * 3}
    assert line.decoded(b"[" * 5000) is None
