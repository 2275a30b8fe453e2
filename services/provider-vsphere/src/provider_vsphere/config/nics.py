"""NICs: the MAC that each gets, and the card on whatever kind of network it is plugged into."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError, ResourceNotFoundError
from providerkit import macs as kit
from pyVmomi import vim

from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps.stamp import NicStamp

_dev: Final = vim.vm.device

DEFAULT_MODEL = "vmxnet3"
MODELS: Final = {
    "vmxnet3": _dev.VirtualVmxnet3,
    "vmxnet2": _dev.VirtualVmxnet2,
    "e1000": _dev.VirtualE1000,
    "e1000e": _dev.VirtualE1000e,
    "pcnet32": _dev.VirtualPCNet32,
    "sriov": _dev.VirtualSriovEthernetCard,
}
"""What NicSpec.model may say."""


def macs(spec: v1.MachineSpec, taken: Container[str]) -> dict[str, str]:
    """MAC of each NIC by its name; see the kit's."""
    return kit.macs(spec, taken, _drawn)


def _drawn(digest: bytes) -> str:
    """In 00:50:56:00:00:00 to 00:50:56:3f:ff:ff, the range that vSphere leaves to MACs chosen by hand."""
    return f"00:50:56:{digest[0] & 0x3F:02x}:{digest[1]:02x}:{digest[2]:02x}"


def cards(devices: Iterable[Any]) -> list[Any]:
    """Every NIC."""
    return [each for each in devices if isinstance(each, _dev.VirtualEthernetCard)]


def card_with(devices: Iterable[Any], mac: str) -> Any | None:
    """The NIC with this MAC."""
    return next((card for card in cards(devices) if mac and (card.macAddress or "").lower() == mac.lower()), None)


def model_of(card: Any) -> str:
    """Model in the spec's words; the class name for one that has none."""
    return next((name for name, kind in MODELS.items() if type(card) is kind), type(card).__name__.rpartition(".")[2])


def record(nic: v1.NicSpec, mac: str) -> NicStamp:
    """What the stamp says of a NIC."""
    ref = nic.network or v1.NetworkRef()
    return NicStamp(name=nic.name, mac=mac, kind=ref.kind.name or "NAMED", network=ref.name)


def card(nic: v1.NicSpec, mac: str, network: Entity, switches: Mapping[str, str], model: str = "") -> Any:
    """A new NIC, connected.

    Args:
        switches: UUID of the distributed switch of each distributed port group, by the group's moid.
        model: where the spec names none.
    Raises:
        InvalidSpecError: vSphere has no such model.
        ResourceNotFoundError: the network lacks what a NIC needs to be plugged in.
    """
    name = nic.model or model or DEFAULT_MODEL
    kind = MODELS.get(name)
    if kind is None:
        raise InvalidSpecError(f"NIC {nic.name}: vSphere has no model {name!r}; it has {', '.join(MODELS)}")
    device = kind(
        backing=backing(nic.name, network, switches),
        addressType="manual",
        macAddress=mac,
        wakeOnLanEnabled=True,
        connectable=_dev.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True),
    )
    return device


def moved(old: Any, backing: Any, mac: str) -> Any:
    """The same card on another network, or with another MAC, as a device of an edit."""
    connectable = _dev.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True)
    return type(old)(
        key=old.key,
        controllerKey=old.controllerKey,
        unitNumber=old.unitNumber,
        backing=backing,
        addressType="manual",
        macAddress=mac,
        wakeOnLanEnabled=old.wakeOnLanEnabled,
        connectable=connectable,
    )


def backing(nic: str, network: Entity, switches: Mapping[str, str]) -> Any:
    """Where a NIC is plugged in: port group of a distributed switch, network of NSX, or a host's own."""
    if network.kind == "DistributedVirtualPortgroup":
        switch, key = switches.get(network.moid, ""), str(network.facts.get("key") or "")
        if not switch or not key:
            raise ResourceNotFoundError(f"NIC {nic}: the distributed switch of port group {network.name} is not known")
        port = vim.dvs.PortConnection(switchUuid=switch, portgroupKey=key)
        return _dev.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    if network.kind == "OpaqueNetwork":
        summary = network.facts.get("summary") or {}
        if not summary.get("id"):
            raise ResourceNotFoundError(f"NIC {nic}: the id of opaque network {network.name} is not known")
        return _dev.VirtualEthernetCard.OpaqueNetworkBackingInfo(
            opaqueNetworkId=str(summary["id"]), opaqueNetworkType=str(summary.get("type") or "")
        )
    return _dev.VirtualEthernetCard.NetworkBackingInfo(network=vim.Network(network.moid), deviceName=network.name)
