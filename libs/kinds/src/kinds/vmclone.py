"""VMClone: a copy of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .customization import Customization
from .metadata import Conditions, Model, Resource
from .patterns import DNS_LABEL
from .shared import DiskSpec, Duration, LocalObjectReference, ObjectRef, Timestamp, VMNetworkRef


class VMCloneSource(Model):
    """What to copy; one member."""

    image_ref: Annotated[ObjectRef | None, Meta(description="A VMImage")] = None
    snapshot_ref: Annotated[LocalObjectReference | None, Meta(description="A VMSnapshot")] = None
    template_ref: Annotated[ObjectRef | None, Meta(description="A template")] = None
    vm_ref: Annotated[
        LocalObjectReference | None,
        Meta(description="VirtualMachine of the same namespace"),
    ] = None


class VMCloneTarget(Model):
    """What to make."""

    name: Annotated[
        str, Meta(description="Name of the VM object and of the hypervisor VM", pattern=DNS_LABEL, max_length=253)
    ]
    annotations: Annotated[dict[str, str], Meta(description="Copied", max_length=50)] = {}
    class_ref: Annotated[LocalObjectReference | None, Meta(description="Class of the new VM")] = None
    disks: Annotated[list[DiskSpec], Meta(description="Extra disks", max_length=20)] = []
    labels: Annotated[dict[str, str], Meta(description="Copied", max_length=50)] = {}
    namespace: Annotated[
        Annotated[str, Meta(pattern=DNS_LABEL, max_length=63)] | None,
        Meta(description="Namespace; default the clone's"),
    ] = None
    networks: Annotated[list[VMNetworkRef], Meta(description="Copied to the new VM's spec", max_length=10)] = []
    placement_ref: Annotated[
        LocalObjectReference | None,
        Meta(description='Copied; the "placement JSON" sent to the provider holds only this name'),
    ] = None
    provider_ref: Annotated[
        ObjectRef | None, Meta(description="Other provider; cloning always stays on the source's")
    ] = None


class VMCloneMetadata(Model):
    """Informational."""

    created_by: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Who")] = None
    environment: Annotated[Literal["dev", "staging", "prod", "test", "qa", "uat"] | None, Meta(description="Stage")] = (
        None
    )
    project: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Project")] = None
    purpose: Annotated[
        Literal["backup", "testing", "migration", "development", "production", "staging"] | None,
        Meta(description="Why"),
    ] = None
    tags: Annotated[dict[str, str], Meta(description="Tags", max_length=50)] = {}


class Performance(Model):
    """Throttling."""

    concurrent_disks: Annotated[int, Meta(description="Disks at once", ge=1, le=10)] = 2
    io_throttling: Annotated[bool, Meta(description="Throttle")] = False
    max_iops: Annotated[Annotated[int, Meta(ge=100, le=100000)] | None, Meta(description="IOPS cap")] = named(
        name="maxIOPS", default=None
    )
    priority: Annotated[Literal["Low", "Normal", "High"], Meta(description="Priority")] = "Normal"


class RetryPolicy(Model):
    """Retries; a failed clone is final."""

    backoff_multiplier: Annotated[int, Meta(description="Factor by which the delay grows")] = 2
    max_retries: Annotated[int, Meta(description="Attempts", ge=0, le=10)] = 3
    retry_delay: Annotated[Duration, Meta(description="First delay")] = "5m"


class VMCloneOptionsStorage(Model):
    """Target storage."""

    datastore: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Datastore")] = None
    disk_format: Annotated[
        Literal["thin", "thick", "eagerzeroedthick", "ssd", "hdd", "nvme"] | None,
        Meta(description='Provisioning type (named "format")'),
    ] = None
    enable_compression: Annotated[bool, Meta(description="Compress")] = False
    folder: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Folder")] = None
    prefer_thin_provisioning: Annotated[bool, Meta(description="Thin")] = True
    storage_class: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Storage tier")] = None


class VMCloneOptions(Model):
    """Behaviour."""

    include_snapshots: Annotated[bool, Meta(description="Copy the snapshot tree")] = False
    parallel: Annotated[bool, Meta(description="Copy disks in parallel")] = False
    performance: Annotated[Performance | None, Meta(description="Throttling")] = None
    power_on: Annotated[bool, Meta(description="Start the new machine")] = False
    retry_policy: Annotated[RetryPolicy | None, Meta(description="Retries; a failed clone is final")] = None
    storage: Annotated[VMCloneOptionsStorage | None, Meta(description="Target storage")] = None
    timeout: Annotated[Duration, Meta(description="Limit")] = "30m"
    type: Annotated[
        Literal["FullClone", "LinkedClone", "InstantClone"],
        Meta(description="FullClone, LinkedClone or InstantClone"),
    ] = "FullClone"


class VMCloneSpec(Model):
    """What is wanted."""

    source: Annotated[VMCloneSource, Meta(description="What to copy; one member")]
    target: Annotated[VMCloneTarget, Meta(description="What to make")]
    customization: Annotated[Customization | None, Meta(description="Personalisation of the guest")] = None
    metadata: Annotated[VMCloneMetadata | None, Meta(description="Informational")] = None
    options: Annotated[VMCloneOptions | None, Meta(description="Behaviour")] = None


class CustomizationStatus(Model):
    """Guest work."""

    completed: Annotated[bool | None, Meta(description="Done")] = None
    completed_steps: Annotated[list[str], Meta(description="Steps done")] = []
    current_step: Annotated[str | None, Meta(description="Step")] = None
    failed_steps: Annotated[list[str], Meta(description="Steps failed")] = []
    message: Annotated[str | None, Meta(description="Text")] = None
    started: Annotated[bool | None, Meta(description="Started")] = None


class CurrentDisk(Model):
    """Disk in progress."""

    name: Annotated[str, Meta(description="Name")]
    completed_bytes: Annotated[int | None, Meta(description="Done")] = None
    percentage: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="0-100")] = None
    total_bytes: Annotated[int | None, Meta(description="Size")] = None
    transfer_rate: Annotated[int | None, Meta(description="Bytes/s")] = None


class Progress(Model):
    """Progress."""

    completed_disks: Annotated[int | None, Meta(description="Disks done")] = None
    current_disk: Annotated[CurrentDisk | None, Meta(description="Disk in progress")] = None
    eta: Annotated[str | None, Meta(description="Remaining")] = None
    overall_percentage: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="0-100")] = None
    total_disks: Annotated[int | None, Meta(description="Disks")] = None


class VMCloneStatus(Model):
    """What is true."""

    actual_clone_type: Annotated[
        Literal["FullClone", "LinkedClone", "InstantClone"] | None,
        Meta(description="What was requested of the provider (not verified)"),
    ] = None
    completion_time: Annotated[Timestamp | None, Meta(description="End")] = None
    conditions: Annotated[Conditions, Meta(description="Ready, Cloning")] = []
    customization_status: Annotated[CustomizationStatus | None, Meta(description="Guest work")] = None
    last_retry_time: Annotated[Timestamp | None, Meta(description="Last retry")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    phase: Annotated[
        Literal["Pending", "Preparing", "Cloning", "Customizing", "Powering-On", "Ready", "Failed"] | None,
        Meta(description="Pending / Cloning / Ready / Failed are written"),
    ] = None
    progress: Annotated[Progress | None, Meta(description="Progress")] = None
    retry_count: Annotated[int | None, Meta(description="Retries")] = None
    start_time: Annotated[Timestamp | None, Meta(description="Start")] = None
    target_ref: Annotated[LocalObjectReference | None, Meta(description="Target ref")] = None
    target_vm_id: Annotated[str | None, Meta(description="Provider id; key of the resume logic")] = named(
        name="targetVMID", default=None
    )
    task_ref: Annotated[str | None, Meta(description="Running task")] = None


class VMClone(Resource):
    """A copy of a machine."""

    spec: VMCloneSpec
    status: VMCloneStatus = named(default_factory=VMCloneStatus)
