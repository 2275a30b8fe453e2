"""Types that several kinds use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec import field as named

from .duration import PATTERN
from .metadata import LabelSelector, Model
from .patterns import DNS_LABEL, DNS_SUBDOMAIN, IPV4, MAC

Quantity = Annotated[str | int, Meta(extra_json_schema={"x-kubernetes-int-or-string": True})]
"""A Kubernetes quantity as written; `kinds.quantity` reads it."""

IntOrString = Annotated[str | int, Meta(extra_json_schema={"x-kubernetes-int-or-string": True})]
"""A count, or a percentage such as "25%"."""

Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 text."""

Duration = Annotated[str, Meta(pattern=PATTERN)]
"""A Go duration such as 1h30m; `kinds.duration` reads it."""

AnyObject = Annotated[dict[str, Any], Meta(extra_json_schema={"x-kubernetes-preserve-unknown-fields": True})]
"""An object of Kubernetes core that is handed on as it stands."""


class CoreReference(Model):
    """An object of the same namespace by name, as Kubernetes core writes it."""

    name: Annotated[str, Meta(description="Name; empty is the same as no reference")] = ""


class ObjectRef(Model):
    """An object by name, in this namespace or another that grants its use."""

    name: Annotated[str, Meta(description="Name of the object", pattern=DNS_SUBDOMAIN, max_length=253)]
    namespace: Annotated[
        Annotated[str, Meta(pattern=DNS_LABEL, max_length=63)] | None,
        Meta(description="Its namespace; empty means the one of the referring object. Another one must grant the use"),
    ] = None


class LocalObjectReference(Model):
    """An object of the same namespace by name."""

    name: Annotated[
        str, Meta(description="Name of an object in the referrer's namespace", pattern=DNS_SUBDOMAIN, max_length=253)
    ]


class CdromSpec(Model):
    """One drive for optical disks of a machine."""

    name: Annotated[str, Meta(description="Name of the drive, unique in the machine", pattern=DNS_LABEL, max_length=63)]
    medium: Annotated[
        Annotated[str, Meta(max_length=4096)] | None,
        Meta(
            description=(
                "Image of the disk in it, in the hypervisor's words ([datastore] iso/debian.iso); empty leaves the "
                "drive empty. It may be changed while the machine runs, and is never removed"
            )
        ),
    ] = None


class VMNetworkRef(Model):
    """One NIC of a machine."""

    name: Annotated[str, Meta(description="Name of the NIC, unique in the machine", pattern=DNS_LABEL, max_length=63)]
    dns: Annotated[str | None, Meta(description="Resolver addresses, separated by commas")] = None
    gateway: Annotated[Annotated[str, Meta(pattern=IPV4)] | None, Meta(description="IPv4 default gateway")] = None
    ip_address: Annotated[
        Annotated[str, Meta(pattern=IPV4)] | None,
        Meta(description="Static IPv4 address of the guest, together with prefix; unset means DHCP"),
    ] = None
    mac_address: Annotated[
        Annotated[str, Meta(pattern=MAC)] | None,
        Meta(description="Hardware address of the NIC; unset takes one that is derived from the machine's identity"),
    ] = None
    network_ref: Annotated[ObjectRef | None, Meta(description="VMNetworkAttachment to plug into; unset means NAT")] = (
        None
    )
    prefix: Annotated[Annotated[int, Meta(ge=1, le=32)] | None, Meta(description="Prefix length of ipAddress")] = None
    addresses: Annotated[
        list[str],
        Meta(
            description="Static addresses in CIDR notation, IPv4 or IPv6; replaces ipAddress and prefix", max_length=16
        ),
    ] = []
    gateway6: Annotated[Annotated[str, Meta(max_length=45)] | None, Meta(description="IPv6 default gateway")] = None
    nameservers: Annotated[list[str], Meta(description="Resolver addresses; replaces dns", max_length=8)] = []
    search_domains: Annotated[list[str], Meta(description="Domains that the resolver tries", max_length=16)] = []
    mtu: Annotated[
        Annotated[int, Meta(ge=68, le=65520)] | None,
        Meta(description="MTU of the NIC; unset takes that of the network"),
    ] = None


class Scsi(Model):
    """SCSI controller that the disk hangs on."""

    controller: Annotated[
        Annotated[int, Meta(ge=0, le=3)] | None, Meta(description='Bus number 0-3; unset means "first with room"')
    ] = None
    controller_type: Annotated[
        Literal["lsilogic", "buslogic", "lsilogic-sas", "pvscsi"], Meta(description="Controller that is emulated")
    ] = "pvscsi"
    shared_bus: Annotated[
        Literal["noSharing", "virtualSharing", "physicalSharing"],
        Meta(description="Bus sharing mode for clustered guests"),
    ] = "noSharing"


class DiskSpec(Model):
    """One disk beside the boot disk."""

    name: Annotated[str, Meta(description="Name of the disk, unique in the machine", pattern=DNS_LABEL, max_length=63)]
    size_gib: Annotated[int, Meta(description="Capacity in GiB. It may grow and never shrinks", ge=1, le=65536)] = (
        named(name="sizeGiB")
    )
    expand_policy: Annotated[
        Literal["Online", "Offline"],
        Meta(description="Whether the disk may grow while the machine runs (Online) or only while it is off (Offline)"),
    ] = "Offline"
    scsi: Annotated[Scsi | None, Meta(description="SCSI controller that the disk hangs on")] = None
    storage_class: Annotated[str | None, Meta(description="Storage tier or pool by name")] = None
    type: Annotated[
        Literal["thin", "thick", "eagerzeroedthick", "ssd", "hdd"],
        Meta(description="How space is taken: thin or thick, or a hint at the medium"),
    ] = "thin"
    bus: Annotated[
        Literal["virtio", "scsi", "sata"] | None,
        Meta(description="Bus that the disk is plugged into; unset leaves the choice to the provider"),
    ] = None
    storage_pool: Annotated[
        Annotated[str, Meta(max_length=255)] | None,
        Meta(description="Storage pool or datastore of this disk; wins over storageClass"),
    ] = None
    storage_policy: Annotated[
        Annotated[str, Meta(max_length=255)] | None,
        Meta(description="Storage policy by name or id; unset means the default of the storage"),
    ] = None


class CloudInit(Model):
    """cloud-init payload."""

    inline: Annotated[
        str | None,
        Meta(description="cloud-config, script or MIME text. With a secret too, both are sent as one MIME multipart"),
    ] = None
    secret_ref: Annotated[
        LocalObjectReference | None,
        Meta(
            description=(
                "Secret of this namespace; the first key present of userdata, user-data, cloud-init, cloud-"
                "config counts"
            )
        ),
    ] = None


class Ignition(Model):
    """Ignition payload (CoreOS family)."""

    inline: Annotated[str | None, Meta(description="Literal Ignition JSON")] = None
    secret_ref: Annotated[LocalObjectReference | None, Meta(description="Secret holding Ignition JSON")] = None


class UserData(Model):
    """First-boot payload of the guest."""

    cloud_init: Annotated[CloudInit | None, Meta(description="cloud-init payload")] = None
    ignition: Annotated[Ignition | None, Meta(description="Ignition payload (CoreOS family)")] = None


class LifecycleHandlerExec(Model):
    """Run a command in the guest, through its agent."""

    command: Annotated[list[str], Meta(description="Argument vector", min_length=1)]


class HttpGet(Model):
    """Call an HTTP endpoint in the guest."""

    port: Annotated[int, Meta(description="TCP port", ge=1, le=65535)]
    host: Annotated[str | None, Meta(description="Host; intended default is the VM's address")] = None
    path: Annotated[str | None, Meta(description="URL path")] = None
    scheme: Annotated[Literal["HTTP", "HTTPS"], Meta(description="Protocol")] = "HTTP"


class LifecycleHandlerSnapshot(Model):
    """Take a snapshot as the hook action."""

    name: Annotated[str, Meta(description="Snapshot name hint")]
    description: Annotated[str | None, Meta(description="Free text")] = None
    include_memory: Annotated[bool | None, Meta(description="Also capture RAM")] = None


class LifecycleHandler(Model):
    """What to do at a point of the life cycle."""

    exec: Annotated[LifecycleHandlerExec | None, Meta(description="Run a command in the guest, through its agent")] = (
        None
    )
    http_get: Annotated[HttpGet | None, Meta(description="Call an HTTP endpoint in the guest")] = None
    snapshot: Annotated[LifecycleHandlerSnapshot | None, Meta(description="Take a snapshot as the hook action")] = None


class Gpu(Model):
    """Graphics devices."""

    count: Annotated[int, Meta(description="Number of devices", ge=1, le=8)]
    memory: Annotated[Annotated[int, Meta(ge=512)] | None, Meta(description="Device memory in MiB")] = None
    type: Annotated[
        Annotated[str, Meta(pattern=r"^[a-zA-Z0-9-_]+$")] | None, Meta(description="Provider-specific model/profile")
    ] = None


class VirtualMachineResources(Model):
    """Size of one machine, over that of its class."""

    cpu: Annotated[Annotated[int, Meta(ge=1, le=128)] | None, Meta(description="Virtual CPUs")] = None
    gpu: Annotated[Gpu | None, Meta(description="Graphics devices")] = None
    memory_mib: Annotated[Annotated[int, Meta(ge=128, le=1048576)] | None, Meta(description="Memory in MiB")] = named(
        name="memoryMiB", default=None
    )


class PasswordSpec(Model):
    """Where a password is kept."""

    secret_key: Annotated[str, Meta(description="Key inside that secret")] = "password"
    secret_ref: Annotated[LocalObjectReference | None, Meta(description="Secret that holds it")] = None
    value: Annotated[str | None, Meta(description="The password in clear text; prefer a secret")] = None


class MatchExpression(Model):
    """Match expressions."""

    key: Annotated[str, Meta(description="Label key", max_length=253)]
    operator: Annotated[Literal["In", "NotIn", "Exists", "DoesNotExist"], Meta(description="Comparison")]
    values: Annotated[list[str], Meta(description="Operand list", max_length=50)] = []


class VMAffinityTerm(Model):
    """Machines that a rule is about."""

    topology_key: Annotated[str, Meta(description="Failure/locality domain (host", max_length=253)]
    label_selector: Annotated[LabelSelector | None, Meta(description="Which VMs the rule relates to")] = None
    match_expressions: Annotated[list[MatchExpression], Meta(description="Match expressions", max_length=20)] = []
    namespace_selector: Annotated[LabelSelector | None, Meta(description="Namespaces to look in, by label")] = None
    namespaces: Annotated[list[str], Meta(description="Namespaces to look in, by name", max_length=20)] = []


class Toleration(Model):
    """Taints the VM may live with."""

    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None, Meta(description="Taint effect")
    ] = None
    key: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Taint key")] = None
    operator: Annotated[Literal["Exists", "Equal"], Meta(description="Match mode")] = "Equal"
    toleration_seconds: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="How long NoExecute is tolerated")
    ] = None
    value: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Taint value")] = None


class PlacementConstraints(Model):
    """Where machines may and may not run."""

    clusters: Annotated[list[str], Meta(description="Allow-list of clusters", max_length=50)] = []
    datastores: Annotated[list[str], Meta(description="Allow-list of datastores/storages", max_length=100)] = []
    excluded_clusters: Annotated[list[str], Meta(description="Deny-list of clusters", max_length=50)] = []
    excluded_datastores: Annotated[list[str], Meta(description="Deny-list of datastores", max_length=100)] = []
    excluded_hosts: Annotated[list[str], Meta(description="Deny-list of hosts", max_length=200)] = []
    folders: Annotated[list[str], Meta(description="Folders", max_length=50)] = []
    hosts: Annotated[list[str], Meta(description="Allow-list of hosts/nodes", max_length=200)] = []
    networks: Annotated[
        list[str], Meta(description="Networks that must be reachable from the chosen host", max_length=50)
    ] = []
    node_selector: Annotated[dict[str, str], Meta(description="Label match on libvirt hosts", max_length=20)] = {}
    regions: Annotated[list[str], Meta(description="Allow-list of regions", max_length=20)] = []
    resource_pools: Annotated[list[str], Meta(description="Allow-list of resource pools", max_length=100)] = []
    tolerations: Annotated[list[Toleration], Meta(description="Taints the VM may live with", max_length=20)] = []
    zones: Annotated[list[str], Meta(description="Allow-list of zones", max_length=20)] = []


class ResourceUsageStats(Model):
    """How much of something is used."""

    available: Annotated[int | None, Meta(description="Free amount")] = None
    total: Annotated[
        int | None, Meta(description="Capacity in the resource's own unit (unit not specified by the API)")
    ] = None
    usage_percent: Annotated[int | None, Meta(description="0-100")] = None
    used: Annotated[int | None, Meta(description="Consumed amount")] = None
