"""libvirt: the XML of domains, hosts and volumes, our stamp in it, image markers, endpoints, what agents say."""

from __future__ import annotations

import json
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from common import v1, wire
from common.errors import InvalidSpecError, ProviderError
from provider_libvirt import domains, guests, host, images, making, networks, observed, reading, remote, stamp, volumes
from provider_libvirt.host import Host
from provider_libvirt.images import Marker
from provider_libvirt.observed import Raw
from provider_libvirt.stamp import DiskStamp, NicStamp, Stamp

from fuzz.registry import CANARY, parts, target, utf8
from fuzz.shapes import of_type, value

UID = "0a6b5d6e-3c1c-4a53-9d3e-0000000000a1"
OWNER = "home"
MAC = "52:54:00:12:34:56"
HERE = Path(__file__).parent / "seeds" / "libvirt"
HOST = Host(
    driver="QEMU", hypervisor="QEMU 10", hostname="h", arch="x86_64", virtualization="kvm", virtualization_reason="",
    emulator="/usr/bin/qemu-system-x86_64", machine="q35", session=False, cpu_mode="maximum", max_cpus=255, efi=True,
    disk_buses=("scsi", "virtio"), nic_models=("virtio",), streams=True, rng=True, agent=True,
)  # fmt: skip
MARK = Stamp(
    uid=UID, namespace="shop", name="web", owner=OWNER, created=1_753_000_000, boot_digest="d", boot_path="/p/iso",
    disks=(DiskStamp("root", "/p/r.qcow2", "p", image_id="i"),), tags=("a",), settings={"description": "true"},
    nics=(NicStamp("lan", v1.NetworkKind.NAT, "", "network:default"),),
)  # fmt: skip

IDENTITY = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner=OWNER)


def _ours() -> bytes:
    spec = v1.MachineSpec(
        identity=IDENTITY, cpu=v1.CpuSpec(count=2, cores_per_socket=2), memory=v1.MemorySpec(size_bytes=1 << 30),
        description="for people", firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI),
    )  # fmt: skip
    card = networks.interface(v1.NicSpec(name="lan"), networks.Source("network", "default"), MAC)
    disk = domains.DiskDevice("root", "/p/r.qcow2", "qcow2", "scsi")
    return domains.domain(
        spec, "shop.web", HOST, MARK, disks=[disk], interfaces=[card], boot_data="/p/iso", serial_log="/p/log"
    ).encode()


@target("libvirt.domain", [_ours(), (HERE / "virt-install.xml").read_bytes()], refuses=(ET.ParseError,), inputs=1500)
def domain(data: bytes, machine: Callable[..., v1.Machine] = observed.machine) -> None:
    """Whatever a person defined can be told on the wire, and is ours only by a whole stamp of this very domain."""
    root = reading.parse(utf8(data))
    mark = stamp.read(root)
    sizes = dict.fromkeys(observed.disk_elements(root), 1 << 30)
    for state, active in ((1, True), (5, False)):
        raw = Raw(UID, root.findtext("name") or "", state, 1, active, root, root, sizes=sizes)
        facts = observed.Facts((v1.GuestAddress(address="192.0.2.1", mac=MAC),))
        seen = machine(raw, owner=OWNER, host="h", facts=facts, pools={"/p": "p"})
        assert seen.owned is (mark is not None and mark.uid == UID and mark.owner == OWNER)
        assert (seen.identity is not None) is seen.owned
        assert seen.owned or not any((disk.owned or disk.name) for disk in seen.disks)
        on_wire(seen)
    if mark is not None:
        written = ET.Element("domain")
        ET.SubElement(written, "metadata").append(mark.element())
        assert stamp.read(ET.fromstring(ET.tostring(written))) == mark


def on_wire(message: Any) -> None:
    """It can be sent, and arrives as it was."""
    codec = wire.codec(type(message))
    assert codec.loads(codec.dumps(message)) == message


@target("libvirt.stamp", [UID, "a\n\"'&<>]]>", "\x85\u2028\U0001f4a9"])
def stamp_text(data: bytes) -> None:
    """Any text that XML can hold comes back from a stamp as it was."""
    word = "".join(domains.printable(utf8(data)).split("\r"))  # a parser makes a line feed of it
    word = word.replace("\n", "").replace("\t", "")
    mark = replace(MARK, name=word, tags=(word,), settings={"k" + word: word}, boot_path=word)
    root = ET.fromstring(f"<domain><metadata>{ET.tostring(mark.element(), encoding='unicode')}</metadata></domain>")
    assert stamp.read(root) == mark


@target(
    "libvirt.host",
    [b"\0".join((HERE / name).read_bytes() for name in ("capabilities.xml", "domcapabilities.xml"))],
    refuses=(ET.ParseError,),
)
def capabilities(data: bytes) -> None:
    """A host that tells less, or something else, is measured all the same."""
    told, offered = parts(data, 2)
    connection = SimpleNamespace(
        getType=lambda: "QEMU",
        getCapabilities=lambda: utf8(told),
        getDomainCapabilities=lambda *_: utf8(offered),
        baselineCPU=lambda *_: utf8(offered),
        getVersion=lambda: 10_000_000,
        getLibVersion=lambda: 11_000_000,
        getHostname=lambda: "h",
        getURI=lambda: "qemu:///system",
        getMaxVcpus=lambda _: 8,
    )
    found = host.measure(connection, "auto")
    assert found.virtualization in ("kvm", "qemu")
    assert found.max_cpus >= 0


@target(
    "libvirt.volume", [(HERE / "volume.xml").read_bytes(), (HERE / "pool.xml").read_bytes()], refuses=(ET.ParseError,)
)
def volume(data: bytes) -> None:
    """Sizes are numbers that the wire holds."""
    stand_in = SimpleNamespace(name=lambda: "v", path=lambda: "/p/v", XMLDesc=lambda _: utf8(data))
    found = volumes.describe(stand_in, "p")
    assert 0 <= found.capacity < 1 << 63
    assert 0 <= found.allocation < 1 << 63
    assert volumes.target_path(stand_in).is_absolute() or volumes.target_path(stand_in)


MARKER = Marker(
    id=f"{UID}.0123456789abcdef", uid=UID, namespace="shop", name="debian", format="qcow2", size_bytes=1 << 20,
    virtual_size_bytes=1 << 30, source_digest="ab" * 32, created=1_753_000_000,
)  # fmt: skip


@target("libvirt.image-marker", [json.dumps(asdict(MARKER))], inputs=500)
def image_marker(data: bytes, read: Callable[[bytes], Marker | None] = images.read_marker) -> None:
    """Half a marker is none, and a whole one can be told."""
    found = read(data)
    if found is not None:
        assert found.format in ("qcow2", "raw")
        on_wire(found.image("p"))


ENDPOINTS = (
    "qemu:///system", "qemu+ssh://me@host.example/system", "qemu+tls://host:16514/system?pkipath=/x", "test:///default",
    "qemu+libssh2://host/session?known_hosts=/k", "qemu+ssh://[::1]:22/system?no_tty=1&keyfile=/k",
)  # fmt: skip


@target(
    "libvirt.endpoint", ENDPOINTS, bad=[f"qemu+ssh://me:{CANARY}@host/system"], refuses=(InvalidSpecError,), secret=True
)
def endpoint(data: bytes) -> None:
    """An endpoint is refused, or becomes a URI that lets neither go of a check nor of what was given."""
    with tempfile.TemporaryDirectory() as scratch:
        credentials = Path(scratch) / "credentials"
        credentials.mkdir()
        for name in ("ssh-privatekey", "known_hosts", "username"):
            (credentials / name).write_text("x")
        uri = remote.connection_uri(utf8(data), remote.Credentials(credentials), Path(scratch))
        assert "known_hosts_verify=normal" in uri or urlsplit(uri).scheme.partition("+")[2] != "libssh2"


AGENT = {
    "eth0": {"hwaddr": MAC, "addrs": [{"addr": "192.0.2.7", "prefix": 24, "type": 0}, {"addr": "fe80::1%eth0"}]},
    "lo": {"hwaddr": "00:00:00:00:00:00", "addrs": [{"addr": "127.0.0.1"}]},
}


@target("libvirt.agent", [json.dumps(AGENT)])
def agent(data: bytes) -> None:
    """What a guest says of itself: never more than addresses and printable words."""
    told = {str: {"hwaddr": str, "addrs": [{"addr": str, "prefix": int, "type": int}]}}
    answer = of_type(value(data), told)  # the bindings make it, so that its types hold
    found = guests.merge(guests.sights_of(answer, "agent", named=True), (MAC,))
    assert len(found) <= guests.MOST_ADDRESSES
    for address in found:
        assert address.interface.isprintable()
        on_wire(address)


@target("libvirt.refusal", ["No space left on device", "authentication failed: \x1b[2J", "x"])
def refusal(data: bytes) -> None:
    """Any text becomes an error of ours, in one line."""
    from provider_libvirt.libvirt_errors import translate

    for code, origin in ((1, 10), (38, 7), (38, 13), (27, 20)):
        error = SimpleNamespace(
            get_error_code=lambda code=code: code, get_error_domain=lambda origin=origin: origin,
            get_error_message=lambda: utf8(data), get_int1=lambda: 28,
        )  # fmt: skip
        found = translate(error, "start m-1")
        assert isinstance(found, ProviderError)
        assert "\n" not in str(found)


DEVICE = "<device><name>net_eth0</name><capability type='net'><interface>eth0</interface></capability></device>"


@target("libvirt.node-device", [DEVICE], refuses=(ET.ParseError,))
def node_device(data: bytes) -> None:
    """A device has a name, or none."""
    name = networks.device_name(utf8(data))
    assert name == name.strip()


@target("libvirt.macs", [_ours(), (HERE / "virt-install.xml").read_bytes()], refuses=(ET.ParseError,))
def macs(data: bytes) -> None:
    """A MAC that is taken, in whatever case somebody wrote it, is given to nobody else."""
    taken = making.macs_of(reading.parse(utf8(data)))
    assert all(mac == mac.lower() for mac in taken)
    assert networks.mac_address(UID, "lan", taken) not in taken
