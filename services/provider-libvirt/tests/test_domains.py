"""Domain XML: built from elements, hostile text stays text; and read back tolerantly."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest
from common import v1
from common.errors import InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from provider_libvirt import domains, images, networks, observed, remote, stamp
from provider_libvirt.host import Host
from provider_libvirt.observed import Raw
from provider_libvirt.stamp import DiskStamp, NicStamp, Stamp

from .conftest import MIB, machine_spec

UID = "0a6b5d6e-3c1c-4a53-9d3e-0000000000a1"
HOST = Host(
    driver="QEMU",
    hypervisor="QEMU 7.2.0",
    hostname="h",
    arch="x86_64",
    virtualization="qemu",
    virtualization_reason="",
    emulator="/usr/bin/qemu-system-x86_64",
    machine="q35",
    session=False,
    cpu_mode="maximum",
    max_cpus=255,
    efi=True,
    disk_buses=("scsi", "virtio", "sata"),
    nic_models=("virtio",),
    streams=True,
    rng=True,
    agent=True,
)
MARK = Stamp(
    uid=UID, namespace="shop", name="web", owner="me", created=1_700_000_000, boot_digest="d", boot_path="/p/iso",
    hot_add_cpu=True, disks=(DiskStamp("root", "/p/r", "p", image_id="i"), DiskStamp("old", "/p/o", owned=False)),
    nics=(NicStamp("lan", v1.NetworkKind.NAT, "", "network:default"),), tags=("a", "b"),
    settings={"description": "true"},
)  # fmt: skip
DISKS = [domains.DiskDevice("root", "/p/r", "qcow2", "scsi"), domains.DiskDevice("data", "/p/d", "qcow2", "virtio")]
DEFAULT = networks.Source("network", "default")

anything = st.text(max_size=80)


def build(spec: v1.MachineSpec, mark: Stamp = MARK, host: Host = HOST) -> ET.Element:
    text = domains.domain(
        spec, "shop.web", host, mark,
        disks=DISKS, interfaces=[networks.interface(v1.NicSpec(name="lan"), DEFAULT, "52:54:00:00:00:01")],
        boot_data="/p/iso", serial_log="/p/log",
    )  # fmt: skip
    return ET.fromstring(text)


def raw(root: ET.Element, **fields: object) -> Raw:
    values: dict[str, object] = {
        "uid": UID, "name": "shop.web", "state": libvirt.VIR_DOMAIN_SHUTOFF, "reason": 0, "active": False, "live": root,
        "config": root,
    }  # fmt: skip
    return Raw(**{**values, **fields})  # type: ignore[arg-type]  # fields of the record


def look(root: ET.Element, owner: str = "me", **fields: object) -> v1.Machine:
    return observed.machine(raw(root, **fields), owner=owner, host="h", facts=None, pools={"/p": "pool"})


def test_what_is_built_is_what_is_seen() -> None:
    spec = machine_spec(cpu=v1.CpuSpec(count=4, cores_per_socket=2), description="for <people> & others")
    seen = look(build(spec), sizes={"sda": 8 * MIB})
    assert seen.owned
    assert seen.identity == v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="me")
    assert (seen.cpu.count, seen.cpu.cores_per_socket, seen.memory.size_bytes) == (4, 2, 256 * MIB)
    assert [(d.name, d.device, d.bus, d.owned, d.image_id, d.size_bytes) for d in seen.disks] == [
        ("root", "sda", v1.DiskBus.SCSI, True, "i", 8 * MIB),
        ("data", "vda", v1.DiskBus.VIRTIO, False, "", 0),
    ]
    assert [(n.name, n.mac, n.network) for n in seen.nics] == [
        ("lan", "52:54:00:00:00:01", v1.NetworkRef(kind=v1.NetworkKind.NAT))
    ]
    assert seen.description == "for <people> & others"
    assert (seen.tags, seen.pending_restart) == (["a", "b"], [])
    assert look(build(spec)) == look(build(spec))


def test_the_stamp_survives_in_xml_and_as_libvirt_stores_it() -> None:
    root = build(machine_spec())
    assert stamp.read(root) == MARK
    bare = ET.fromstring(MARK.xml())
    assert all("{" not in element.tag for element in bare.iter()), "libvirt refuses a namespace that is there already"


@given(anything, anything, anything, anything)
def test_P5_W26_hostile_text_stays_text(namespace: str, description: str, tag: str, serial: str) -> None:
    """Whatever a name holds, the document has the same elements, and the text comes out as it went in."""
    clean = {key: domains.printable(text) for key, text in (("n", namespace), ("d", description), ("t", tag))}
    mark = dataclasses.replace(MARK, namespace=clean["n"], tags=(clean["t"],))
    root = build(machine_spec(description=description), mark)
    plain = build(machine_spec(description="x"))
    drop = lambda r: sorted(e.tag for e in r.iter() if e.tag not in ("description", stamp._TAG + "tag"))  # noqa: E731
    assert drop(root) == drop(plain)
    found = stamp.read(root)
    assert found is not None
    normal = lambda text: text.replace("\r\n", "\n").replace("\r", "\n")  # noqa: E731  # as XML has it
    assert found.tags == (clean["t"],)
    assert normal(root.findtext("description") or "") == normal(clean["d"])


def test_W7_P6_another_owner_is_foreign() -> None:
    root = build(machine_spec())
    for seen in (look(root, owner="somebody-else"), look(root, uid="0a6b5d6e-3c1c-4a53-9d3e-0000000000a2")):
        assert not seen.owned
        assert seen.identity is None
        assert [disk.owned for disk in seen.disks] == [False, False]
        assert {disk.name for disk in seen.disks} == {""}


@pytest.mark.parametrize(
    "xml",
    [
        "<domain/>",
        "<domain><devices><disk/><interface/><channel><target/></channel></devices></domain>",
        "<domain><vcpu>x</vcpu><memory unit='parsec'>9</memory><os><loader/></os></domain>",
        "<domain><vcpu current='-1'>99999999999999999999999</vcpu><memory>\u0661</memory></domain>",
        f"<domain><metadata><machine xmlns='{stamp.NAMESPACE}' uid='' owner=''/></metadata></domain>",
        f"<domain><metadata><machine xmlns='{stamp.NAMESPACE}' uid='{UID}' owner='me' created='soon'>"
        "<disk/><nic name='x' kind='evil'/></machine></metadata></domain>",
    ],
)
def test_any_domain_of_others_can_be_seen(xml: str) -> None:
    assert look(ET.fromstring(xml)).id == UID


_R = libvirt


@pytest.mark.parametrize(
    ("state", "reason", "saved", "power", "why"),
    [
        (_R.VIR_DOMAIN_RUNNING, 1, False, v1.PowerState.ON, ""),
        (_R.VIR_DOMAIN_SHUTDOWN, 0, False, v1.PowerState.ON, ""),
        (_R.VIR_DOMAIN_SHUTOFF, _R.VIR_DOMAIN_SHUTOFF_DESTROYED, False, v1.PowerState.OFF, ""),
        (_R.VIR_DOMAIN_SHUTOFF, _R.VIR_DOMAIN_SHUTOFF_CRASHED, False, v1.PowerState.OFF, "crashed"),
        (_R.VIR_DOMAIN_SHUTOFF, _R.VIR_DOMAIN_SHUTOFF_SAVED, True, v1.PowerState.SUSPENDED, "saved on disk"),
        (_R.VIR_DOMAIN_PAUSED, _R.VIR_DOMAIN_PAUSED_USER, False, v1.PowerState.SUSPENDED, ""),
        (_R.VIR_DOMAIN_PAUSED, _R.VIR_DOMAIN_PAUSED_IOERROR, False, v1.PowerState.PAUSED, "no space left"),
        (_R.VIR_DOMAIN_PAUSED, _R.VIR_DOMAIN_PAUSED_CRASHED, False, v1.PowerState.PAUSED, "crashed"),
        (_R.VIR_DOMAIN_PMSUSPENDED, 0, False, v1.PowerState.SUSPENDED, ""),
        (_R.VIR_DOMAIN_CRASHED, 0, False, v1.PowerState.PAUSED, "crashed"),
        (77, 0, False, v1.PowerState.UNKNOWN, ""),
    ],
)
def test_W20_every_state_has_a_name(state: int, reason: int, saved: bool, power: v1.PowerState, why: str) -> None:
    seen = look(
        build(machine_spec()), state=state, reason=reason, saved=saved, active=state != _R.VIR_DOMAIN_SHUTOFF,
        disk_errors={"sda": _R.VIR_DOMAIN_DISK_ERROR_NO_SPACE},
    )  # fmt: skip
    assert seen.power is power
    assert (why in seen.power_reason) if why else seen.power_reason == ""


def test_what_waits_for_a_restart_is_told() -> None:
    live, config = build(machine_spec()), build(machine_spec(cpu=v1.CpuSpec(count=3), memory=v1.MemorySpec(512 * MIB)))
    devices = config.find("devices")
    assert devices is not None
    devices.append(domains.disk_element(domains.DiskDevice("late", "/p/l", "qcow2", "scsi"), {"sda"}))
    seen = look(live, config=config, active=True, state=libvirt.VIR_DOMAIN_RUNNING)
    assert (seen.cpu.count, seen.cpu.configured_count) == (1, 3)
    assert [line.partition(":")[0] for line in seen.pending_restart] == ["cpu", "memory", "disk late"]


def test_P12_devices_leave_their_addresses_to_libvirt_where_two_could_meet() -> None:
    """PCI slots are libvirt's to give; only units of one controller are ours."""
    root = build(machine_spec())
    assert {a.get("type") for a in root.iterfind("devices/*/address")} == {"drive"}
    units = [a.get("unit") for a in root.iterfind("devices/disk/address")]
    assert len(units) == len(set(units))


@pytest.mark.parametrize(("count", "per_socket", "hot_add", "ceiling"), [
    (1, 0, False, 1), (2, 0, True, 8), (20, 0, True, 64), (100, 0, True, 100), (3, 3, True, 12), (6, 3, True, 24),
    (40, 40, True, 40),
])  # fmt: skip
def test_room_for_hot_add_is_whole_sockets(count: int, per_socket: int, hot_add: bool, ceiling: int) -> None:
    cpu = v1.CpuSpec(count=count, cores_per_socket=per_socket, hot_add=hot_add)
    assert domains.cpu_ceiling(cpu, HOST) == ceiling


def test_more_cpus_than_the_hypervisor_takes_are_refused() -> None:
    with pytest.raises(InvalidSpecError, match="at most 255"):
        build(machine_spec(cpu=v1.CpuSpec(count=300)))


@pytest.mark.parametrize(("index", "name"), [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")])
def test_device_letters(index: int, name: str) -> None:
    assert domains.letters(index) == name


def test_a_mac_is_always_the_same_and_never_anothers() -> None:
    mac = networks.mac_address(UID, "lan", set())
    assert mac == networks.mac_address(UID, "lan", {"52:54:00:00:00:00"})
    assert mac.startswith("52:54:00:")
    assert networks.mac_address(UID, "lan", {mac}) != mac
    assert networks.mac_address(UID, "wan", set()) != mac


@pytest.mark.parametrize("number", ["18446744073709551615", "9" * 5000, "1e3", "-1", "\u0661"])
def test_numbers_that_the_wire_cannot_hold_count_as_untold(number: str) -> None:
    """One domain of somebody else must not end the listing of all."""
    text = f"<domain><memory unit='TiB'>{number}</memory><vcpu current='{number}'>{number}</vcpu></domain>"
    root = ET.fromstring(text)
    raw = Raw(UID, "foreign", libvirt.VIR_DOMAIN_SHUTOFF, 0, active=False, live=root, config=root)
    seen = observed.machine(raw, owner="me", host="h", facts=None, pools={})
    assert (seen.cpu, seen.memory) == (v1.CpuState(), v1.MemoryState())


@pytest.mark.parametrize("change", [{"format": "vmdk"}, {"created": 1 << 60}, {"size_bytes": "7"}, {"name": None}])
def test_a_marker_that_makes_no_sense_is_none(change: dict[str, object]) -> None:
    whole = {
        "id": "i", "uid": UID, "namespace": "n", "name": "d", "format": "raw", "size_bytes": 1, "virtual_size_bytes": 1,
        "source_digest": "", "created": 1,
    }  # fmt: skip
    assert images.read_marker(json.dumps(whole).encode()) is not None
    assert images.read_marker(json.dumps(whole | change).encode()) is None


def test_an_endpoint_that_is_no_uri_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="no URI"):
        remote.connection_uri("qemu+ssh://[::1/system", remote.Credentials(None), tmp_path)


def test_two_machines_have_one_shape_and_other_devices_another() -> None:
    """What libvirt need not check twice: the same elements and attributes, whatever they say."""

    def shape(spec: v1.MachineSpec) -> domains.Shape:
        return domains.shape(ET.tostring(build(spec), encoding="unicode"))

    first = machine_spec(cpu=v1.CpuSpec(count=1), memory=v1.MemorySpec(size_bytes=64 * MIB))
    assert shape(first) == shape(machine_spec(cpu=v1.CpuSpec(count=3), memory=v1.MemorySpec(size_bytes=512 * MIB)))
    for other in (
        machine_spec(firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI)),
        machine_spec(cpu=v1.CpuSpec(count=2, cores_per_socket=2)),
        machine_spec(cpu=v1.CpuSpec(count=1, hot_add=True)),
        machine_spec(description="ours"),
    ):
        assert shape(first) != shape(other)
