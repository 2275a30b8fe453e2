"""VMNetworkAttachment: a wire that NICs are plugged into."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, Model, Resource
from .patterns import CIDR4, IPV4
from .shared import LocalObjectReference, Timestamp


class Bridge(Model):
    """Host bridge instead of a named network."""

    name: Annotated[str, Meta(description="Bridge device (15 chars)", max_length=15)]
    delay: Annotated[Annotated[int, Meta(ge=0, le=30)] | None, Meta(description="Forward delay")] = None
    stp: Annotated[bool, Meta(description="STP")] = False


class Driver(Model):
    """Backend tuning."""

    event_idx: Annotated[bool | None, Meta(description="event index")] = named(name="eventIDX", default=None)
    io_event_fd: Annotated[bool | None, Meta(description="ioeventfd")] = named(name="ioEventFD", default=None)
    name: Annotated[Literal["kvm", "vfio", "uio"] | None, Meta(description="Backend")] = None
    queues: Annotated[Annotated[int, Meta(ge=1, le=16)] | None, Meta(description="Queues")] = None
    tx_mode: Annotated[Literal["iothread", "timer"] | None, Meta(description="TX mode")] = None


class FilterRef(Model):
    """nwfilter."""

    filter: Annotated[str, Meta(description="Filter name", max_length=255)]
    parameters: Annotated[dict[str, str], Meta(description="Filter variables", max_length=20)] = {}


class VMNetworkAttachmentNetworkLibvirt(Model):
    """libvirt wire."""

    bridge: Annotated[Bridge | None, Meta(description="Host bridge instead of a named network")] = None
    driver: Annotated[Driver | None, Meta(description="Backend tuning")] = None
    filter_ref: Annotated[FilterRef | None, Meta(description="nwfilter")] = None
    model: Annotated[
        Literal["virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci"], Meta(description="NIC model")
    ] = "virtio"
    network_name: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Named libvirt network")] = (
        None
    )


class VMNetworkAttachmentNetworkProxmox(Model):
    """Wire on Proxmox VE."""

    bridge: Annotated[
        Annotated[str, Meta(pattern=r"^vmbr[0-9]+$", max_length=15)] | None,
        Meta(description="Bridge vmbrN; for a vnet of the SDN use vnet"),
    ] = None
    vnet: Annotated[
        Annotated[str, Meta(pattern=r"^[a-zA-Z][a-zA-Z0-9]*$", max_length=8)] | None,
        Meta(description="Virtual network of the SDN, in place of a bridge"),
    ] = None
    trunk_vlans: Annotated[
        list[str], Meta(description='VLANs that reach the guest tagged: "7", "10-19"', max_length=100)
    ] = []
    firewall: Annotated[bool, Meta(description="PVE firewall flag")] = False
    model: Annotated[Literal["virtio", "e1000", "rtl8139", "vmxnet3"], Meta(description="NIC model")] = "virtio"
    mtu: Annotated[Annotated[int, Meta(ge=68, le=65520)] | None, Meta(description="MTU")] = None
    rate_limit: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Most MiB a second in each direction")
    ] = None
    vlan_tag: Annotated[Annotated[int, Meta(ge=1, le=4094)] | None, Meta(description="VLAN tag")] = None


class DistributedSwitch(Model):
    """Distributed switch."""

    name: Annotated[str, Meta(description="Name", max_length=255)]
    portgroup_type: Annotated[Literal["ephemeral", "distributed"] | None, Meta(description="Portgroup flavour")] = None
    uuid: Annotated[str | None, Meta(description="UUID")] = None


class Security(Model):
    """Portgroup security."""

    allow_forged_transmits: Annotated[bool, Meta(description="Forged transmits")] = True
    allow_mac_changes: Annotated[bool, Meta(description="MAC changes")] = named(name="allowMACChanges", default=True)
    allow_promiscuous: Annotated[bool, Meta(description="Promiscuous mode")] = False


class TrafficShaping(Model):
    """Shaping."""

    average_bandwidth: Annotated[Annotated[int, Meta(ge=1000)] | None, Meta(description="Average bit/s")] = None
    burst_size: Annotated[Annotated[int, Meta(ge=1024)] | None, Meta(description="Burst bytes")] = None
    enabled: Annotated[bool, Meta(description="On/off")] = False
    peak_bandwidth: Annotated[Annotated[int, Meta(ge=1000)] | None, Meta(description="Peak bit/s")] = None


class Vlan(Model):
    """VLAN block."""

    primary_vlan_id: Annotated[Annotated[int, Meta(ge=1, le=4094)] | None, Meta(description="PVLAN primary")] = named(
        name="primaryVlanID", default=None
    )
    secondary_vlan_id: Annotated[Annotated[int, Meta(ge=1, le=4094)] | None, Meta(description="PVLAN secondary")] = (
        named(name="secondaryVlanID", default=None)
    )
    trunk_vlan_ids: Annotated[list[int], Meta(description="Trunk list", max_length=100)] = named(
        name="trunkVlanIDs", default_factory=list
    )
    type: Annotated[Literal["none", "vlan", "pvlan", "trunk"], Meta(description="Mode")] = "none"
    vlan_id: Annotated[Annotated[int, Meta(ge=1, le=4094)] | None, Meta(description="VLAN tag")] = named(
        name="vlanID", default=None
    )


class VMNetworkAttachmentNetworkVsphere(Model):
    """vSphere wire."""

    adapter_type: Annotated[Literal["vmxnet3", "e1000", "e1000e"], Meta(description="NIC model")] = "vmxnet3"
    distributed_switch: Annotated[DistributedSwitch | None, Meta(description="Distributed switch")] = None
    pci_slot_number: Annotated[
        Annotated[int, Meta(ge=32, le=1024)] | None,
        Meta(description="PCI slot in the guest, for a predictable interface name"),
    ] = None
    portgroup: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Portgroup name")] = None
    security: Annotated[Security | None, Meta(description="Portgroup security")] = None
    traffic_shaping: Annotated[TrafficShaping | None, Meta(description="Shaping")] = None
    vlan: Annotated[Vlan | None, Meta(description="VLAN block")] = None


class VMNetworkAttachmentNetwork(Model):
    """What to plug into."""

    libvirt: Annotated[VMNetworkAttachmentNetworkLibvirt | None, Meta(description="libvirt wire")] = None
    mtu: Annotated[int, Meta(description="MTU", ge=68, le=9000)] = 1500
    proxmox: Annotated[VMNetworkAttachmentNetworkProxmox | None, Meta(description="Wire on Proxmox VE")] = None
    type: Annotated[
        Literal["bridged", "nat", "isolated", "host-only", "external"],
        Meta(description="Kind of wire; nat without a name takes what the hypervisor offers"),
    ] = "bridged"
    vsphere: Annotated[VMNetworkAttachmentNetworkVsphere | None, Meta(description="vSphere wire")] = None


class DhcpConfig(Model):
    """DHCP options."""

    client_id: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Client id")] = named(
        name="clientID", default=None
    )
    hostname: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Host name to send")] = None
    options: Annotated[dict[str, str], Meta(description="Option map", max_length=20)] = {}


class DnsConfig(Model):
    """Resolver."""

    options: Annotated[dict[str, str], Meta(description="Options", max_length=10)] = {}
    search_domains: Annotated[list[str], Meta(description="Search list", max_length=10)] = []
    servers: Annotated[list[str], Meta(description="Servers", max_length=10)] = []


class PoolConfig(Model):
    """From a pool."""

    pool_ref: Annotated[LocalObjectReference, Meta(description="Pool object")]
    preferred_ip: Annotated[Annotated[str, Meta(pattern=IPV4)] | None, Meta(description="Wanted address")] = named(
        name="preferredIP", default=None
    )


class Route(Model):
    """Routes."""

    destination: Annotated[str, Meta(description="Target net", pattern=CIDR4)]
    gateway: Annotated[str, Meta(description="Next hop", pattern=IPV4)]
    metric: Annotated[Annotated[int, Meta(ge=0, le=65535)] | None, Meta(description="Metric")] = None


class StaticConfig(Model):
    """Static."""

    address: Annotated[str, Meta(description="Address/prefix", pattern=CIDR4)]
    gateway: Annotated[Annotated[str, Meta(pattern=IPV4)] | None, Meta(description="Gateway")] = None
    routes: Annotated[list[Route], Meta(description="Routes", max_length=20)] = []


class IpAllocation(Model):
    """How the guests get their addresses."""

    dhcp_config: Annotated[DhcpConfig | None, Meta(description="DHCP options")] = None
    dns_config: Annotated[DnsConfig | None, Meta(description="Resolver")] = None
    pool_config: Annotated[PoolConfig | None, Meta(description="From a pool")] = None
    static_config: Annotated[StaticConfig | None, Meta(description="Static")] = None
    type: Annotated[Literal["DHCP", "Static", "Pool", "None"], Meta(description="Strategy")] = "DHCP"


class VMNetworkAttachmentMetadata(Model):
    """Informational."""

    description: Annotated[Annotated[str, Meta(max_length=1024)] | None, Meta(description="Text")] = None
    display_name: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Label")] = None
    environment: Annotated[
        Literal["dev", "staging", "prod", "test", "qa", "uat"] | None, Meta(description="Stage name")
    ] = None
    tags: Annotated[dict[str, str], Meta(description="Tags", max_length=50)] = {}


class Qos(Model):
    """Traffic shaping."""

    dscp: Annotated[Annotated[int, Meta(ge=0, le=63)] | None, Meta(description="DSCP mark")] = None
    egress_limit: Annotated[Annotated[int, Meta(ge=1000)] | None, Meta(description="bit/s out")] = None
    ingress_limit: Annotated[Annotated[int, Meta(ge=1000)] | None, Meta(description="bit/s in")] = None
    priority: Annotated[Annotated[int, Meta(ge=0, le=7)] | None, Meta(description="802.1p-like priority")] = None


class Encryption(Model):
    """Tunnel encryption."""

    enabled: Annotated[bool, Meta(description="On/off")] = False
    key_ref: Annotated[LocalObjectReference | None, Meta(description="Key secret")] = None
    protocol: Annotated[Literal["ipsec", "wireguard", "openvpn"] | None, Meta(description="Tunnel kind")] = None


class Ports(Model):
    """Port range."""

    start: Annotated[int, Meta(description="First port", ge=1, le=65535)]
    end: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="Last port; same as start when unset")
    ] = None


class Rule(Model):
    """Rules."""

    action: Annotated[Literal["ACCEPT", "DROP", "REJECT"], Meta(description="Verdict")]
    direction: Annotated[Literal["in", "out", "inout"], Meta(description="Direction")]
    name: Annotated[str, Meta(description="Rule name", max_length=255)]
    destination_cidr: Annotated[str | None, Meta(description="Destination in CIDR notation")] = named(
        name="destinationCIDR", default=None
    )
    ports: Annotated[Ports | None, Meta(description="Port range")] = None
    priority: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="Order")] = None
    protocol: Annotated[Literal["tcp", "udp", "icmp", "all"] | None, Meta(description="Protocol")] = None
    source_cidr: Annotated[str | None, Meta(description="Source in CIDR notation")] = named(
        name="sourceCIDR", default=None
    )


class Firewall(Model):
    """Firewall."""

    default_policy: Annotated[Literal["ACCEPT", "DROP", "REJECT"], Meta(description="Default verdict")] = "ACCEPT"
    enabled: Annotated[bool, Meta(description="On/off")] = False
    rules: Annotated[list[Rule], Meta(description="Rules", max_length=100)] = []


class Isolation(Model):
    """Isolation."""

    allowed_networks: Annotated[list[str], Meta(description="Allowed CIDRs", max_length=50)] = []
    denied_networks: Annotated[list[str], Meta(description="Denied CIDRs", max_length=50)] = []
    mode: Annotated[Literal["none", "strict", "custom"] | None, Meta(description="Level")] = None


class VMNetworkAttachmentSecurity(Model):
    """Network security."""

    encryption: Annotated[Encryption | None, Meta(description="Tunnel encryption")] = None
    firewall: Annotated[Firewall | None, Meta(description="Firewall")] = None
    isolation: Annotated[Isolation | None, Meta(description="Isolation")] = None


class VMNetworkAttachmentSpec(Model):
    """What is wanted."""

    network: Annotated[VMNetworkAttachmentNetwork, Meta(description="What to plug into")]
    ip_allocation: Annotated[IpAllocation | None, Meta(description="How the guests get their addresses")] = None
    metadata: Annotated[VMNetworkAttachmentMetadata | None, Meta(description="Informational")] = None
    qos: Annotated[Qos | None, Meta(description="Traffic shaping")] = None
    security: Annotated[VMNetworkAttachmentSecurity | None, Meta(description="Network security")] = None


class VMNetworkAttachmentStatusIpAllocation(Model):
    """Leases."""

    ip: Annotated[str, Meta(description="Address")]
    vm: Annotated[str, Meta(description="VM name")]
    allocated_at: Annotated[Timestamp | None, Meta(description="When")] = None
    lease_expiry: Annotated[Timestamp | None, Meta(description="DHCP expiry")] = None
    mac: Annotated[str | None, Meta(description="MAC")] = None


class VMNetworkAttachmentStatusProviderStatus(Model):
    """Per-provider state."""

    available: Annotated[bool, Meta(description="It has the network")]
    id: Annotated[str | None, Meta(description="Provider id")] = None
    last_updated: Annotated[Timestamp | None, Meta(description="Time")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    state: Annotated[str | None, Meta(description="Provider state")] = None


class VMNetworkAttachmentStatus(Model):
    """What is true."""

    available_on: Annotated[list[str], Meta(description="Providers that have the network")] = []
    conditions: Annotated[Conditions, Meta(description="What holds: Ready, Configuring, Validated")] = []
    connected_vms: Annotated[int | None, Meta(description="Users")] = named(name="connectedVMs", default=None)
    ip_allocations: Annotated[list[VMNetworkAttachmentStatusIpAllocation], Meta(description="Leases")] = []
    message: Annotated[str | None, Meta(description="Text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    phase: Annotated[
        Literal["Pending", "Configuring", "Ready", "Failed"] | None,
        Meta(description="Pending / Configuring / Ready / Failed"),
    ] = None
    provider_status: Annotated[
        dict[str, VMNetworkAttachmentStatusProviderStatus], Meta(description="Per-provider state")
    ] = {}
    ready: Annotated[bool | None, Meta(description="Usable")] = None


class VMNetworkAttachment(Resource):
    """A wire that NICs are plugged into."""

    spec: VMNetworkAttachmentSpec
    status: VMNetworkAttachmentStatus = named(default_factory=VMNetworkAttachmentStatus)
