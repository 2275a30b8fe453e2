"""VirtualMachine: one virtual machine on one provider."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .customization import Customization
from .metadata import Conditions, Model, Resource
from .shared import (
    CdromSpec,
    DiskSpec,
    Duration,
    Gpu,
    LifecycleHandler,
    LocalObjectReference,
    ObjectRef,
    Timestamp,
    UserData,
    VirtualMachineResources,
    VMNetworkRef,
)


class ImportedDisk(Model):
    """Use a disk that exists already as the boot disk, instead of an image."""

    disk_id: Annotated[str, Meta(description="Provider's name for the disk", min_length=1, max_length=253)] = named(
        name="diskID"
    )
    format: Annotated[Literal["qcow2", "vmdk", "raw", "vdi", "vhdx"], Meta(description="Image format of that disk")] = (
        "qcow2"
    )
    migration_ref: Annotated[LocalObjectReference | None, Meta(description="Back-reference to the VMMigration")] = None
    path: Annotated[str | None, Meta(description="Full path of the disk on the provider's side")] = None
    size_gib: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Expected capacity in GiB")] = named(
        name="sizeGiB", default=None
    )
    source: Annotated[
        Literal["migration", "clone", "import", "snapshot", "manual"] | None,
        Meta(description="Where the disk comes from"),
    ] = None


class Lifecycle(Model):
    """Hooks and shutdown tuning."""

    graceful_shutdown_timeout: Annotated[
        Duration, Meta(description="How long the guest may take to shut down before its power is cut")
    ] = "60s"
    post_start: Annotated[LifecycleHandler | None, Meta(description="Hook after power-on")] = None
    pre_stop: Annotated[LifecycleHandler | None, Meta(description="Hook before power-off")] = None


class CloudInit(Model):
    """cloud-init instance metadata."""

    inline: Annotated[str | None, Meta(description="YAML text. With a secret too, the secret's text follows it")] = None
    secret_ref: Annotated[
        LocalObjectReference | None, Meta(description="Secret of this namespace; key metadata, meta-data or meta_data")
    ] = None


class MetaData(Model):
    """cloud-init instance metadata."""

    cloud_init: Annotated[CloudInit | None, Meta(description="cloud-init instance metadata")] = None


class Placement(Model):
    """Where to run."""

    cluster: Annotated[str | None, Meta(description="Cluster name (vSphere)")] = None
    datastore: Annotated[str | None, Meta(description="Datastore / storage; wins over storagePod")] = None
    folder: Annotated[str | None, Meta(description="Folder")] = None
    host: Annotated[str | None, Meta(description="Host or node by name")] = None
    resource_pool: Annotated[str | None, Meta(description="Resource pool by name")] = None
    storage_pod: Annotated[
        str | None, Meta(description="vSphere datastore cluster; the member with most free space is picked")
    ] = None


class VirtualMachineSnapshot(Model):
    """Wishes about snapshots."""

    revert_to_ref: Annotated[LocalObjectReference | None, Meta(description="VMSnapshot to roll back to")] = None


class VirtualMachineSpec(Model):
    """What is wanted."""

    class_ref: Annotated[ObjectRef, Meta(description="VMClass that sizes the machine")]
    provider_ref: Annotated[ObjectRef, Meta(description="Provider that runs the machine; fixed once it is made")]
    disks: Annotated[list[DiskSpec], Meta(description="Disks beside the boot disk", max_length=20)] = []
    image_ref: Annotated[
        ObjectRef | None, Meta(description="VMImage to build the boot disk from; this or importedDisk")
    ] = None
    imported_disk: Annotated[
        ImportedDisk | None, Meta(description="Use a disk that exists already as the boot disk, instead of an image")
    ] = None
    lifecycle: Annotated[Lifecycle | None, Meta(description="Hooks and shutdown tuning")] = None
    meta_data: Annotated[MetaData | None, Meta(description="cloud-init instance metadata")] = None
    cdroms: Annotated[
        list[CdromSpec], Meta(description="Drives for optical disks, besides those of the image", max_length=8)
    ] = []
    networks: Annotated[list[VMNetworkRef], Meta(description="NICs, in the guest's order", max_length=10)] = []
    placement: Annotated[Placement | None, Meta(description="Where to run")] = None
    placement_ref: Annotated[LocalObjectReference | None, Meta(description="VMPlacementPolicy to obey")] = None
    power_state: Annotated[
        Literal["On", "Off", "OffGraceful", "Suspended"] | None,
        Meta(
            description=(
                "Wanted power. Quote it: a bare On is a boolean in YAML. Unset means On; OffGraceful asks the "
                "guest first"
            )
        ),
    ] = None
    resources: Annotated[
        VirtualMachineResources | None, Meta(description="Size of this machine, over that of its class")
    ] = None
    snapshot: Annotated[VirtualMachineSnapshot | None, Meta(description="Wishes about snapshots")] = None
    tags: Annotated[list[str], Meta(description="Tags of the machine on the hypervisor", max_length=50)] = []
    user_data: Annotated[UserData | None, Meta(description="First-boot payload")] = None
    customization: Annotated[
        Customization | None,
        Meta(description="Personalisation of the guest, once, by the hypervisor's own tools and not by cloud-init"),
    ] = None
    attributes: Annotated[
        dict[str, str],
        Meta(
            description="Facts for people and other tools, on the hypervisor: vSphere's custom attributes",
            max_length=50,
        ),
    ] = {}
    extra_config: Annotated[
        dict[str, str],
        Meta(description="Hypervisor settings by key, besides and over those of the class", max_length=50),
    ] = {}
    deletion_policy: Annotated[
        Literal["Delete", "Retain"] | None,
        Meta(
            description=(
                "Delete removes the machine with the object, Retain keeps it on the hypervisor; unset means "
                "Delete, or Retain for an adopted machine"
            )
        ),
    ] = None
    on_missing: Annotated[
        Literal["Recreate", "Report"] | None,
        Meta(
            description=(
                "What to do when the machine has vanished from the hypervisor: Report (the meaning of unset) "
                "says so and waits, Recreate makes it anew, from what is left of its disks or else from the image"
            )
        ),
    ] = None
    restart_policy: Annotated[
        Literal["Manual", "Automatic"] | None,
        Meta(
            description=(
                "Whether the machine may be restarted for changes that need it: Manual (the meaning of unset) "
                "reports them and waits, Automatic shuts down, changes and starts"
            )
        ),
    ] = None


class VirtualMachineStatusSnapshot(Model):
    """Inventory of snapshots."""

    creation_time: Annotated[Timestamp, Meta(description="When taken")]
    id: Annotated[str, Meta(description="Provider snapshot id")]
    name: Annotated[str, Meta(description="Name")]
    description: Annotated[str | None, Meta(description="Text")] = None
    has_memory: Annotated[bool | None, Meta(description="RAM included")] = None
    size_bytes: Annotated[int | None, Meta(description="Size")] = None


class BoundProvider(Model):
    """The Provider that made the machine."""

    namespace: Annotated[str, Meta(description="Its namespace")]
    name: Annotated[str, Meta(description="Its name")]
    uid: Annotated[str | None, Meta(description="Its UID")] = None


class CurrentResources(Model):
    """Size as observed: whatever the hypervisor says, without the limits of a wish."""

    cpu: Annotated[int | None, Meta(description="Virtual CPUs")] = None
    gpu: Annotated[Gpu | None, Meta(description="Graphics devices")] = None
    memory_mib: Annotated[int | None, Meta(description="Memory in MiB")] = named(name="memoryMiB", default=None)


class PendingResources(Model):
    """Size that is being placed."""

    cpu: Annotated[int | None, Meta(description="Virtual CPUs")] = None
    memory_mib: Annotated[int | None, Meta(description="Memory in MiB")] = named(name="memoryMiB", default=None)


class VirtualMachineStatusPlacement(Model):
    """Where the machine was placed."""

    host: Annotated[str | None, Meta(description="Host that runs it")] = None
    pending_host: Annotated[str | None, Meta(description="Host that it is being made on")] = None
    excluded_hosts: Annotated[list[str], Meta(description="Hosts that were tried and refused", max_length=16)] = []
    pending_resources: Annotated[PendingResources | None, Meta(description="Size that is being placed")] = None
    memory_ceiling_mib: Annotated[int | None, Meta(description="Largest memory that fits on the host, in MiB")] = named(
        name="memoryCeilingMiB", default=None
    )
    pool: Annotated[str | None, Meta(description="Host pool")] = None
    last_scheduled_time: Annotated[Timestamp | None, Meta(description="When it was placed")] = None
    reason: Annotated[str | None, Meta(description="Why there")] = None


class PendingChange(Model):
    """Differences between spec and machine that were not made."""

    field: Annotated[str, Meta(description="Field of the machine, in dotted form")]
    effect: Annotated[
        Literal["Online", "Restart", "Recreate", "Unsupported", "Unknown"],
        Meta(description="What making it takes; Unknown: a newer provider has a word for it that we do not know"),
    ]
    message: Annotated[str | None, Meta(description="What would change")] = None
    reasons: Annotated[list[str], Meta(description="Why it was not made, every reason")] = []


class Address(Model):
    """Guest addresses with where they were seen."""

    address: Annotated[str, Meta(description="IPv4 or IPv6 address")]
    interface: Annotated[str | None, Meta(description="Interface name in the guest")] = None
    mac: Annotated[str | None, Meta(description="Hardware address")] = None
    source: Annotated[str | None, Meta(description="All that saw it: agent, arp, lease, tools")] = None


class VirtualMachineStatus(Model):
    """What is true."""

    conditions: Annotated[
        Conditions,
        Meta(description="What holds: Ready, Provisioning, Reconfiguring, RestartRequired, Deleting, DeleteBlocked"),
    ] = []
    console_url: Annotated[str | None, Meta(description="Console link or VNC endpoint")] = named(
        name="consoleURL", default=None
    )
    current_resources: Annotated[CurrentResources | None, Meta(description="Size as observed")] = None
    id: Annotated[str | None, Meta(description="The provider's id of the machine; set once it was made")] = None
    ips: Annotated[list[str], Meta(description="Guest addresses as reported")] = []
    last_reconfigure_time: Annotated[Timestamp | None, Meta(description="When the last resize finished")] = None
    last_task_ref: Annotated[str | None, Meta(description="Handle of the running create/power task")] = None
    message: Annotated[str | None, Meta(description="Human text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    phase: Annotated[
        Literal[
            "Pending",
            "Provisioning",
            "Running",
            "Stopped",
            "Suspended",
            "Reconfiguring",
            "Deleting",
            "Failed",
            "Unknown",
        ]
        | None,
        Meta(description="One word for the state"),
    ] = None
    power_state: Annotated[
        Literal["On", "Off", "OffGraceful", "Suspended", "Paused", "Unknown"] | None,
        Meta(description="Power as observed"),
    ] = None
    provider: Annotated[
        dict[str, str],
        Meta(
            description="Flat string map of provider details",
            extra_json_schema={"x-kubernetes-preserve-unknown-fields": True},
        ),
    ] = {}
    reconfigure_task_ref: Annotated[str | None, Meta(description="Handle of the running resize task")] = None
    snapshots: Annotated[list[VirtualMachineStatusSnapshot], Meta(description="Inventory of snapshots")] = []
    bound_provider: Annotated[BoundProvider | None, Meta(description="The Provider that made the machine")] = None
    placement: Annotated[VirtualMachineStatusPlacement | None, Meta(description="Where the machine was placed")] = None
    hostname: Annotated[str | None, Meta(description="Host name that the guest reports")] = None
    host: Annotated[str | None, Meta(description="Host that runs the machine")] = None
    hypervisor_name: Annotated[str | None, Meta(description="Name on the hypervisor")] = None
    pending_changes: Annotated[
        list[PendingChange], Meta(description="Differences between spec and machine that were not made", max_length=100)
    ] = []
    addresses: Annotated[list[Address], Meta(description="Guest addresses with where they were seen")] = []


class VirtualMachine(Resource):
    """One virtual machine on one provider."""

    spec: VirtualMachineSpec
    status: VirtualMachineStatus = named(default_factory=VirtualMachineStatus)
