"""From a VMNetworkAttachment to the network that a NIC is plugged into."""

from __future__ import annotations

from collections.abc import Iterable

from common import v1
from common.errors import InvalidSpecError

from .reading import uint32
from .reports import FieldReport
from .vmnetworkattachment import VMNetworkAttachment

DEFAULT_MTU = 1500
"""The schema writes this default into every attachment: it is no wish."""


class Wire:
    """What a VMNetworkAttachment means to one type of provider."""

    def __init__(self, attachment: VMNetworkAttachment, provider_type: str) -> None:
        self.where = f"VMNetworkAttachment {attachment.metadata.name} spec.network"
        self._attachment, self._spec = attachment, attachment.spec.network
        self._kind = provider_type if provider_type in ("libvirt", "vsphere", "proxmox") else self._first()
        self.model = ""
        self.firewall = False
        self.rate_limit = 0
        """MiB a second."""
        self.trunks: list[str] = []
        self.mtu = 0 if self._spec.mtu in (None, DEFAULT_MTU) else self._spec.mtu or 0

    def _first(self) -> str:
        return next(
            (name for name in ("libvirt", "proxmox", "vsphere") if getattr(self._spec, name) is not None), "libvirt"
        )

    def network(self) -> v1.NetworkRef:
        """Kind and name of the network. Raises: InvalidSpecError."""
        found: v1.NetworkRef | None = getattr(self, f"_{self._kind}")()
        if found is not None:
            return found
        if self._spec.type == "nat":
            return v1.NetworkRef(kind=v1.NetworkKind.NAT)
        cure = {
            "libvirt": "libvirt.networkName or libvirt.bridge.name",
            "vsphere": "vsphere.portgroup",
            "proxmox": "proxmox.bridge or proxmox.vnet",
        }[self._kind]
        raise InvalidSpecError(f"{self.where}: names no network for a {self._kind} provider; set {cure}, or type: nat")

    def _libvirt(self) -> v1.NetworkRef | None:
        block = self._spec.libvirt
        if block is None:
            return None
        self.model = block.model or ""
        if block.network_name and block.bridge is not None:
            raise InvalidSpecError(f"{self.where}.libvirt: networkName and bridge are both given; keep one")
        if block.network_name:
            return v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=block.network_name)
        if block.bridge is not None:
            return v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name=block.bridge.name)
        return None

    def _vsphere(self) -> v1.NetworkRef | None:
        block = self._spec.vsphere
        if block is None:
            return None
        self.model = block.adapter_type or ""
        vlan = block.vlan.vlan_id or 0 if block.vlan is not None else 0
        network = v1.NetworkRef(name=block.portgroup or "", vlan=uint32(vlan, f"{self.where}.vsphere.vlan.vlanID"))
        if block.distributed_switch is not None:
            network.kind = v1.NetworkKind.DISTRIBUTED
            network.switch = block.distributed_switch.uuid or block.distributed_switch.name
        else:
            network.kind = v1.NetworkKind.NAMED
        return network if network.name else None

    def _proxmox(self) -> v1.NetworkRef | None:
        block = self._spec.proxmox
        if block is None or not (block.bridge or block.vnet):
            return None
        if block.bridge and block.vnet:
            raise InvalidSpecError(f"{self.where}.proxmox: bridge and vnet are both given; keep one")
        self.model, self.firewall = block.model or "", block.firewall
        self.rate_limit, self.trunks = block.rate_limit or 0, list(block.trunk_vlans)
        if block.mtu is not None:
            self.mtu = block.mtu
        vlan = uint32(block.vlan_tag or 0, f"{self.where}.proxmox.vlanTag")
        if block.vnet:
            return v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=block.vnet, vlan=vlan)
        return v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name=block.bridge or "", vlan=vlan)

    def reports(self) -> Iterable[FieldReport]:
        """What the attachment asks for and nothing does."""
        name, spec = self._attachment.metadata.name, self._attachment.spec
        for block, path, what in (
            (spec.qos, "qos", "traffic shaping is"),
            (spec.security, "security", "network security settings are"),
        ):
            if block is not None:
                yield FieldReport(
                    f"VMNetworkAttachment {name} spec.{path}", "NotSupportedYet", f"{what} not supported yet"
                )
        for path in self._unread():
            yield FieldReport(
                f"{self.where}.{self._kind}.{path}", "NotSupportedYet", "this setting is not supported yet"
            )
        if self._spec.type in ("isolated", "host-only") and getattr(self._spec, self._kind) is not None:
            yield FieldReport(
                f"{self.where}.type",
                "NotChecked",
                "the network is used as the hypervisor has it; its type is not checked",
            )

    def _unread(self) -> Iterable[str]:
        """Fields of the provider's own block that are set (not at the schema's default) and that no one reads."""
        if self._kind == "libvirt" and (libvirt := self._spec.libvirt) is not None:
            yield from ("driver",) if libvirt.driver is not None else ()
            yield from ("filterRef",) if libvirt.filter_ref is not None else ()
            if libvirt.bridge is not None:
                yield from ("bridge.stp",) if libvirt.bridge.stp else ()
                yield from ("bridge.delay",) if libvirt.bridge.delay else ()
        if self._kind == "vsphere" and (vsphere := self._spec.vsphere) is not None:
            yield from ("pciSlotNumber",) if vsphere.pci_slot_number is not None else ()
            yield from ("security",) if vsphere.security is not None else ()
            yield from ("trafficShaping",) if vsphere.traffic_shaping is not None else ()
            if vsphere.distributed_switch is not None and vsphere.distributed_switch.portgroup_type:
                yield "distributedSwitch.portgroupType"
            if (vlan := vsphere.vlan) is not None:
                yield from ("vlan.type",) if vlan.type in ("pvlan", "trunk") else ()
                yield from ("vlan.primaryVlanID",) if vlan.primary_vlan_id is not None else ()
                yield from ("vlan.secondaryVlanID",) if vlan.secondary_vlan_id is not None else ()
                yield from ("vlan.trunkVlanIDs",) if vlan.trunk_vlan_ids else ()
