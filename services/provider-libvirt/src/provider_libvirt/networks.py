"""NICs: which device of the host a network is, which MAC a NIC gets, and the way back when observing."""

from __future__ import annotations

import contextlib
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass

import libvirt
from common import v1
from common.errors import NotSupportedError, ResourceNotFoundError

from provider_libvirt.stamp import NicStamp

NAT_NETWORK = "default"
ALIAS = "ua-nic-"
"""libvirt keeps aliases that begin with `ua-` as they are; ours carry the NIC's name from the spec."""


@dataclass(frozen=True)
class Source:
    """Where a NIC is plugged in: type of the interface, and its network or bridge (empty for user mode)."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def resolve(connection: libvirt.virConnect, ref: v1.NetworkRef, nic: str, *, session: bool) -> Source:
    """The source that a reference means here; blocking.

    NAT is the network "default" where libvirt has one, and user-mode networking where it has none.

    Raises:
        ResourceNotFoundError: there is no such network or bridge, or it is not active.
        NotSupportedError: a kind that libvirt lacks.
    """
    if ref.vlan:
        raise NotSupportedError(f"NIC {nic}: VLAN tags are not supported yet; use a network or bridge that sets them")
    if ref.kind is v1.NetworkKind.NAT:
        defined = [] if session else _defined(connection)
        if NAT_NETWORK not in defined:
            return Source("user")
        return _named(connection, NAT_NETWORK, nic)
    if ref.kind is v1.NetworkKind.NAMED:
        return _named(connection, ref.name, nic)
    if ref.kind is v1.NetworkKind.BRIDGE:
        devices = _devices(connection)
        if devices and ref.name not in devices:
            raise ResourceNotFoundError(f"NIC {nic}: the host has no bridge {ref.name}")
        return Source("bridge", ref.name)
    raise NotSupportedError(f"NIC {nic}: libvirt has no networks of kind {ref.kind.name}")


def _defined(connection: libvirt.virConnect) -> list[str]:
    try:
        return [network.name() for network in connection.listAllNetworks(0)]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise


def _named(connection: libvirt.virConnect, name: str, nic: str) -> Source:
    if name not in _defined(connection):
        raise ResourceNotFoundError(f"NIC {nic}: there is no libvirt network {name}")
    if not connection.networkLookupByName(name).isActive():
        raise ResourceNotFoundError(
            f"NIC {nic}: libvirt network {name} is not active; start it: virsh net-start {name}"
        )
    return Source("network", name)


def _devices(connection: libvirt.virConnect) -> set[str]:
    """Network devices of the host; empty where libvirt does not tell."""
    try:
        nodes = connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
    except libvirt.libvirtError:
        return set()
    names = set()
    for node in nodes:
        with contextlib.suppress(libvirt.libvirtError):  # unplugged since the list was made
            names.add(device_name(node.XMLDesc(0)))
    return names - {""}


def device_name(xml: str) -> str:
    """The name of a network device in its description; empty where that tells of none."""
    return (ET.fromstring(xml).findtext("capability/interface") or "").strip()  # noqa: S314  # libvirt's


def mac_address(uid: str, nic: str, taken: Collection[str]) -> str:
    """A MAC for a NIC: always the same one for the same machine and name, unless another machine has it already."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{uid}/{nic}/{attempt}".encode()).digest()
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
        if mac not in taken:
            return mac
        attempt += 1


def interface(nic: v1.NicSpec, source: Source, mac: str) -> ET.Element:
    """The device."""
    element = ET.Element("interface", {"type": source.kind})
    ET.SubElement(element, "mac", {"address": mac})
    if source.kind != "user":
        ET.SubElement(element, "source", {source.kind: source.name})
    ET.SubElement(element, "model", {"type": nic.model or "virtio"})
    ET.SubElement(element, "alias", {"name": ALIAS + nic.name})
    return element


def stamp(nic: v1.NicSpec, source: Source) -> NicStamp:
    """The record that says what was asked for."""
    ref = nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT)
    return NicStamp(name=nic.name, kind=ref.kind, network=ref.name, source=str(source))


def source_of(element: ET.Element) -> Source:
    """The source of a device."""
    kind = element.get("type", "")
    source = element.find("source")
    return Source(kind, source.get(kind, "") if source is not None else "")


def name_of(element: ET.Element) -> str:
    """Name of a NIC from the spec; empty for one that is not ours."""
    alias = element.find("alias")
    name = alias.get("name", "") if alias is not None else ""
    return name.removeprefix(ALIAS) if name.startswith(ALIAS) else ""


def mac_of(element: ET.Element) -> str:
    """MAC of a device, lower-case."""
    mac = element.find("mac")
    return mac.get("address", "").lower() if mac is not None else ""


def model_of(element: ET.Element) -> str:
    """Adapter model of a device."""
    model = element.find("model")
    return model.get("type", "") if model is not None else ""


def reference(source: Source, record: NicStamp | None) -> v1.NetworkRef:
    """The network as it was asked for, or, where a device was changed by somebody else, as it is."""
    if record is not None and record.source == str(source):
        return v1.NetworkRef(kind=record.kind, name=record.network)
    if source.kind == "user":
        return v1.NetworkRef(kind=v1.NetworkKind.NAT)
    kind = v1.NetworkKind.BRIDGE if source.kind == "bridge" else v1.NetworkKind.NAMED
    return v1.NetworkRef(kind=kind, name=source.name)
