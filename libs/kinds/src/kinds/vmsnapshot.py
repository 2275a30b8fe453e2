"""VMSnapshot: a point in time of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, Model, Resource
from .patterns import CRON
from .shared import Duration, LocalObjectReference, Quantity, Timestamp


class VMSnapshotMetadata(Model):
    """Informational."""

    application: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Application")] = None
    environment: Annotated[Literal["dev", "staging", "prod", "test", "qa", "uat"] | None, Meta(description="Stage")] = (
        None
    )
    pinned: Annotated[bool, Meta(description="Protect from retention")] = False
    purpose: Annotated[
        Literal["backup", "testing", "migration", "restore-point", "update", "other"] | None, Meta(description="Why")
    ] = None
    tags: Annotated[dict[str, str], Meta(description="Tags", max_length=50)] = {}


class RetentionPolicy(Model):
    """Lifetime."""

    delete_on_vm_delete: Annotated[bool, Meta(description="Remove with the machine")] = named(
        name="deleteOnVMDelete", default=True
    )
    grace_period: Annotated[Duration, Meta(description="Delay before deletion")] = "24h"
    max_age: Annotated[Duration | None, Meta(description="Age after which the object deletes itself")] = None
    max_count: Annotated[Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="Keep at most N")] = None
    preserve_pinned: Annotated[bool, Meta(description="Spare pinned ones")] = True


class Schedule(Model):
    """Recurring snapshots."""

    concurrency_policy: Annotated[Literal["Allow", "Forbid", "Replace"], Meta(description="Overlap rule")] = "Forbid"
    cron_spec: Annotated[
        Annotated[str, Meta(pattern=CRON)] | None,
        Meta(description="When to take one: five cron fields, or a name such as @daily"),
    ] = None
    enabled: Annotated[bool, Meta(description="On/off")] = False
    failed_jobs_history_limit: Annotated[int, Meta(description="Failed history kept", ge=0, le=100)] = 1
    successful_jobs_history_limit: Annotated[int, Meta(description="History kept", ge=0, le=100)] = 3
    suspend: Annotated[bool, Meta(description="Pause")] = False
    timezone: Annotated[str, Meta(description="IANA zone")] = "UTC"


class Encryption(Model):
    """Encrypt."""

    enabled: Annotated[bool, Meta(description="On/off")] = False
    key_provider: Annotated[Literal["standard", "hardware", "external"] | None, Meta(description="Key source kind")] = (
        None
    )
    key_ref: Annotated[LocalObjectReference | None, Meta(description="Key secret")] = None


class SnapshotConfig(Model):
    """How to take it."""

    compression: Annotated[bool, Meta(description="Compress")] = False
    consistency_level: Annotated[
        Literal["CrashConsistent", "FilesystemConsistent", "ApplicationConsistent"],
        Meta(description="Required consistency"),
    ] = "FilesystemConsistent"
    description: Annotated[Annotated[str, Meta(max_length=1024)] | None, Meta(description="Text")] = None
    encryption: Annotated[Encryption | None, Meta(description="Encrypt")] = None
    include_memory: Annotated[bool, Meta(description="Capture RAM")] = False
    name: Annotated[
        Annotated[str, Meta(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9\-_]*[a-zA-Z0-9])?$", max_length=255)] | None,
        Meta(description="Name hint; falls back to the object's name"),
    ] = None
    quiesce: Annotated[bool, Meta(description="Freeze the guest's file systems first")] = True
    type: Annotated[Literal["Standard", "Crash", "Application"], Meta(description="Snapshot flavour")] = "Standard"


class VMSnapshotSpec(Model):
    """What is wanted."""

    vm_ref: Annotated[LocalObjectReference, Meta(description="VM to snapshot, same namespace")]
    metadata: Annotated[VMSnapshotMetadata | None, Meta(description="Informational")] = None
    retention_policy: Annotated[RetentionPolicy | None, Meta(description="Lifetime")] = None
    schedule: Annotated[Schedule | None, Meta(description="Recurring snapshots")] = None
    snapshot_config: Annotated[SnapshotConfig | None, Meta(description="How to take it")] = None


class Children(Model):
    """Child snapshots."""

    name: Annotated[str, Meta(description="Name")]
    namespace: Annotated[str | None, Meta(description="Namespace")] = None
    uid: Annotated[str | None, Meta(description="UID")] = None


class Parent(Model):
    """Parent snapshot."""

    name: Annotated[str, Meta(description="Name")]
    namespace: Annotated[str | None, Meta(description="Namespace")] = None
    uid: Annotated[str | None, Meta(description="UID")] = None


class Progress(Model):
    """Progress block."""

    completed_bytes: Annotated[int | None, Meta(description="Done")] = None
    eta: Annotated[str | None, Meta(description="Remaining")] = None
    percentage: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="0-100")] = None
    start_time: Annotated[Timestamp | None, Meta(description="Start")] = None
    total_bytes: Annotated[int | None, Meta(description="Size")] = None


class VMSnapshotStatusProviderStatus(Model):
    """Per-provider state."""

    available: Annotated[bool, Meta(description="It is there")]
    id: Annotated[str | None, Meta(description="Id")] = None
    last_updated: Annotated[Timestamp | None, Meta(description="Time")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    path: Annotated[str | None, Meta(description="Path")] = None
    state: Annotated[str | None, Meta(description="State")] = None


class VMSnapshotStatus(Model):
    """What is true."""

    children: Annotated[list[Children], Meta(description="Child snapshots")] = []
    completion_time: Annotated[Timestamp | None, Meta(description="End")] = None
    conditions: Annotated[Conditions, Meta(description="Ready, Creating, Deleting")] = []
    creation_time: Annotated[Timestamp | None, Meta(description="When taken")] = None
    expiry_time: Annotated[Timestamp | None, Meta(description="Expiry time")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    parent: Annotated[Parent | None, Meta(description="Parent snapshot")] = None
    phase: Annotated[
        Literal["Pending", "Creating", "Ready", "Deleting", "Failed", "Expired"] | None,
        Meta(description="State of the snapshot"),
    ] = None
    progress: Annotated[Progress | None, Meta(description="Progress block")] = None
    provider_status: Annotated[dict[str, VMSnapshotStatusProviderStatus], Meta(description="Per-provider state")] = {}
    size: Annotated[Quantity | None, Meta(description="Size")] = None
    snapshot_id: Annotated[str | None, Meta(description="Provider snapshot id")] = named(
        name="snapshotID", default=None
    )
    task_ref: Annotated[str | None, Meta(description="Running task")] = None
    virtual_size: Annotated[Quantity | None, Meta(description="Virtual size")] = None


class VMSnapshot(Resource):
    """A point in time of a machine."""

    spec: VMSnapshotSpec
    status: VMSnapshotStatus = named(default_factory=VMSnapshotStatus)
