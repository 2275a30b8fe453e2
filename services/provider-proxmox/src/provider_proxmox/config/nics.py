"""NICs: the MAC that each gets, and their property strings."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError
from providerkit import macs as kit

from provider_proxmox.config import properties
from provider_proxmox.config.properties import Property
from provider_proxmox.stamp import NicStamp

SLOTS: Final = 32
MODELS: Final = (
    "virtio", "e1000", "e1000e", "vmxnet3", "rtl8139", "pcnet", "ne2k_pci", "ne2k_isa", "e1000-82540em",
    "e1000-82544gc", "e1000-82545em", "i82551", "i82557b", "i82559er",
)  # fmt: skip
"""What NicSpec.model may say; the first is the default."""
BRIDGED: Final = (v1.NetworkKind.NAMED, v1.NetworkKind.BRIDGE, v1.NetworkKind.NAT)
"""Kinds of networks on offer: an SDN vnet is the bridge of its name on every node of its zone."""
_BYTES_OF_RATE: Final = 1 << 20
"""Bytes in a unit of `rate`. Source: "megabytes per second" in the API schema; PVE::Network::tap_rate_limit."""
_SLOT: Final = re.compile(r"net(0|[1-9]\d?)")
_RATE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]+)?|\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Nic:
    """What is in a slot."""

    slot: str
    options: Property

    @property
    def model(self) -> str:
        """ "virtio". It stands before the MAC ("virtio=MAC"), alone, or under its own name."""
        for key, _ in self.options.items:
            if key in MODELS:
                return key
        return self.options.head or self.options.get("model")

    @property
    def mac(self) -> str:
        """Lower case; empty where none is written yet."""
        return (self.options.get(self.model) or self.options.get("macaddr")).lower()

    @property
    def bridge(self) -> str:
        """Bridge or vnet; empty for QEMU's own user network."""
        return self.options.get("bridge")

    @property
    def vlan(self) -> int:
        """0 for untagged."""
        return _number(self.options.get("tag"))

    @property
    def trunks(self) -> str:
        """VLANs that pass with their tags: "1;2-4"."""
        return self.options.get("trunks")

    @property
    def mtu(self) -> int:
        """0 where it is not set; 1 takes the bridge's."""
        return _number(self.options.get("mtu"))

    @property
    def firewall(self) -> bool:
        """Packets pass Proxmox VE's firewall."""
        return self.options.flag("firewall")

    @property
    def rate_limit_bytes(self) -> int:
        """Bytes a second; 0 for no limit."""
        text = self.options.get("rate")
        return round(float(text) * _BYTES_OF_RATE) if _RATE.fullmatch(text) else 0

    @property
    def connected(self) -> bool:
        """The link is up."""
        return not self.options.flag("link_down")


# -- what is there -----------------------------------------------------------------------------------------------------


def is_slot(key: str) -> bool:
    """Whether this key of a configuration is a NIC."""
    found = _SLOT.fullmatch(key)
    return found is not None and int(found[1]) < SLOTS


def nics(config: Mapping[str, Any]) -> list[Nic]:
    """Every NIC, by number."""
    found = [Nic(key, properties.parse(value)) for key, value in config.items() if is_slot(key)]
    return sorted(found, key=lambda nic: int(nic.slot.removeprefix("net")))


def free_slot(name: str, taken: Container[str]) -> str:
    """The first free slot.

    Raises:
        InvalidSpecError: there is none left.
    """
    slot = next((slot for n in range(SLOTS) if (slot := f"net{n}") not in taken), "")
    if not slot:
        raise InvalidSpecError(f"NIC {name}: a machine has at most {SLOTS}")
    return slot


# -- what it becomes ---------------------------------------------------------------------------------------------------


def macs(spec: v1.MachineSpec, taken: Container[str]) -> dict[str, str]:
    """MAC of each NIC by its name; see the kit's."""
    return kit.macs(spec, taken, _drawn)


def mac_of(uid: str, name: str, taken: Container[str]) -> str:
    """MAC of one more NIC, as `macs` would derive it."""
    return macs(v1.MachineSpec(identity=v1.MachineIdentity(uid=uid), nics=[v1.NicSpec(name=name)]), taken)[name]


def _drawn(digest: bytes) -> str:
    """In BC:24:11, the range of Proxmox Server Solutions that Proxmox VE draws its own from."""
    return f"bc:24:11:{digest[0]:02x}:{digest[1]:02x}:{digest[2]:02x}"


def value(nic: v1.NicSpec, mac: str, *, default_bridge: str, old: Property | None = None) -> Property:
    """What is written into the slot.

    Args:
        old: what is there now: its queues and whatever else we do not know stay.
    Raises:
        InvalidSpecError: Proxmox VE has no such NIC.
    """
    before = Nic("", old) if old is not None else None
    model = nic.model or (before.model if before is not None else "") or MODELS[0]
    if model not in MODELS:
        raise InvalidSpecError(f"NIC {nic.name}: Proxmox VE has no model {model!r}; it has {', '.join(MODELS)}")
    if nic.mtu and model != "virtio":
        raise InvalidSpecError(f"NIC {nic.name}: Proxmox VE sets the MTU of virtio NICs only, the model is {model}")
    network = nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT)
    changes: dict[str, str | None] = {
        "bridge": bridge_of(nic.name, network, default_bridge),
        "tag": str(network.vlan) if network.vlan else None,
        "mtu": str(nic.mtu) if nic.mtu else None,
        "trunks": ";".join(nic.trunks) or None,
        "firewall": "1" if nic.firewall else None,
        "rate": _rate(nic.rate_limit_bytes) if nic.rate_limit_bytes else None,
    }
    kept = _without_model(old) if old is not None else Property()
    whole = Property(((model, mac.upper()), *kept.items))
    return whole.having(changes)


def bridge_of(nic: str, network: v1.NetworkRef, default_bridge: str) -> str:
    """Bridge or vnet that a NIC is plugged into: what gives outbound access without set-up is the default bridge.

    Raises:
        InvalidSpecError: a kind of network that Proxmox VE has not.
    """
    if network.kind not in BRIDGED:
        raise InvalidSpecError(f"NIC {nic}: Proxmox VE has bridges and vnets, no network of kind {network.kind.name}")
    name = default_bridge if network.kind is v1.NetworkKind.NAT else network.name
    if not name:
        raise InvalidSpecError(f"NIC {nic}: it names no network, and the provider has no default_bridge")
    return name


def record(nic: v1.NicSpec, slot: str) -> NicStamp:
    """What the stamp says of a NIC."""
    kind = nic.network.kind if nic.network is not None else v1.NetworkKind.NAT
    return NicStamp(name=nic.name, slot=slot, kind=kind.name or "BRIDGE")


def _without_model(old: Property) -> Property:
    known = {"", "model", "macaddr", *MODELS}
    return Property(tuple((key, value) for key, value in old.items if key not in known))


def _rate(limit: int) -> str:
    """Exact to the byte when it is read back: the number is a float over there."""
    return f"{limit / _BYTES_OF_RATE:.10f}".rstrip("0").rstrip(".")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
