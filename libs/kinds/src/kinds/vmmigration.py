"""VMMigration: the move of a machine from one provider to another."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, Model, Resource
from .patterns import DNS_LABEL
from .shared import DiskSpec, Duration, LocalObjectReference, ObjectRef, Quantity, Timestamp, VMNetworkRef


class VMMigrationSource(Model):
    """Where from."""

    vm_ref: Annotated[LocalObjectReference, Meta(description="Source VirtualMachine in the migration's namespace")]
    create_snapshot: Annotated[bool, Meta(description="Take a snapshot before the export")] = True
    delete_after_migration: Annotated[bool, Meta(description="Delete the source machine at the end")] = False
    power_off_before_migration: Annotated[
        bool, Meta(description="Force a hard power-off first; without it the copy is crash-consistent")
    ] = False
    provider_ref: Annotated[
        ObjectRef | None, Meta(description="Provider of the source, where it is not the machine's own")
    ] = None
    snapshot_ref: Annotated[LocalObjectReference | None, Meta(description="Existing snapshot")] = None


class VMMigrationTarget(Model):
    """Where to."""

    name: Annotated[str, Meta(description="Name of the VM to create", pattern=DNS_LABEL, max_length=253)]
    provider_ref: Annotated[ObjectRef, Meta(description="Target Provider")]
    annotations: Annotated[dict[str, str], Meta(description="Annotations of the new machine", max_length=50)] = {}
    class_ref: Annotated[LocalObjectReference | None, Meta(description="Size")] = None
    disks: Annotated[list[DiskSpec], Meta(description="Extra disks", max_length=20)] = []
    image_ref: Annotated[LocalObjectReference | None, Meta(description="Image")] = None
    labels: Annotated[dict[str, str], Meta(description="Copied to the new VM", max_length=50)] = {}
    namespace: Annotated[
        Annotated[str, Meta(pattern=DNS_LABEL, max_length=63)] | None,
        Meta(description="Namespace of that VM; empty means that of the migration"),
    ] = None
    networks: Annotated[list[VMNetworkRef], Meta(description="Copied to the new VM", max_length=10)] = []
    placement_ref: Annotated[LocalObjectReference | None, Meta(description="VMPlacementPolicy of the new machine")] = (
        None
    )
    power_on: Annotated[bool, Meta(description="Start the new machine")] = False


class VMMigrationMetadata(Model):
    """Informational."""

    created_by: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Who")] = None
    environment: Annotated[Literal["dev", "staging", "prod", "test", "qa", "uat"] | None, Meta(description="Stage")] = (
        None
    )
    project: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Project")] = None
    purpose: Annotated[
        Literal["disaster-recovery", "cloud-migration", "provider-change", "testing", "maintenance"] | None,
        Meta(description="Why"),
    ] = None
    tags: Annotated[dict[str, str], Meta(description="Tags", max_length=50)] = {}


class RetryPolicy(Model):
    """Retries; no block = no retry at all."""

    backoff_multiplier: Annotated[
        int, Meta(description="Factor by which the delay grows, up to 30 minutes", ge=1, le=10)
    ] = 2
    max_retries: Annotated[int, Meta(description="Attempts", ge=0, le=10)] = 3
    retry_delay: Annotated[Duration, Meta(description="First delay")] = "5m"


class ValidationChecks(Model):
    """Checks after the migration."""

    check_boot: Annotated[bool, Meta(description="Wait for boot")] = False
    check_checksum: Annotated[bool, Meta(description="Compare digests")] = True
    check_connectivity: Annotated[bool, Meta(description="Probe network")] = False
    check_disk_size: Annotated[bool, Meta(description="Compare sizes")] = True


class VMMigrationOptions(Model):
    """Behaviour."""

    cleanup_policy: Annotated[
        Literal["Always", "OnSuccess", "Never"], Meta(description="When staged data is removed")
    ] = "OnSuccess"
    compress: Annotated[bool, Meta(description="Ask the source to compress the exported disk")] = False
    disk_format: Annotated[
        Literal["qcow2", "vmdk", "raw"] | None,
        Meta(description="Wanted target format; otherwise vmdk for vSphere and qcow2 elsewhere"),
    ] = None
    retry_policy: Annotated[RetryPolicy | None, Meta(description="Retries; no block = no retry at all")] = None
    timeout: Annotated[Duration, Meta(description="Limit for the whole migration")] = "4h"
    validation_checks: Annotated[ValidationChecks | None, Meta(description="Checks after the migration")] = None
    verify_checksums: Annotated[
        bool,
        Meta(description="Pass the source digest and ask the target to verify (on when the options block is absent)"),
    ] = True


class Nfs(Model):
    """NFS staging."""

    export: Annotated[str, Meta(description="Exported path", max_length=4096)]
    server: Annotated[str, Meta(description="Server; host checked like the S3 endpoint", max_length=253)]
    gid: Annotated[Annotated[int, Meta(ge=0, le=4294967295)] | None, Meta(description="AUTH_SYS gid presented")] = None
    path: Annotated[Annotated[str, Meta(max_length=4096)] | None, Meta(description="Directory below the export")] = None
    read_only: Annotated[bool, Meta(description="Read-only")] = False
    uid: Annotated[Annotated[int, Meta(ge=0, le=4294967295)] | None, Meta(description="AUTH_SYS uid presented")] = None


class Pvc(Model):
    """PVC staging."""

    access_mode: Annotated[
        Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"], Meta(description="Access mode of a generated claim")
    ] = "ReadWriteMany"
    mount_path: Annotated[str, Meta(description="Path of the claim in the server")] = "/mnt/migration-storage"
    name: Annotated[str | None, Meta(description="Existing claim (same namespace rule as the providers)")] = None
    size: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(Ei?|Pi?|Ti?|Gi?|Mi?|Ki?)$")] | None,
        Meta(description="Size for a generated claim"),
    ] = None
    storage_class_name: Annotated[str | None, Meta(description="Class for a generated claim")] = None


class S3(Model):
    """Object storage staging."""

    bucket: Annotated[str, Meta(description="Bucket")]
    credentials_secret_ref: Annotated[
        ObjectRef, Meta(description="Secret with accessKeyID, secretAccessKey and optional sessionToken")
    ]
    endpoint: Annotated[
        Annotated[str, Meta(max_length=263)] | None,
        Meta(description="Endpoint"),
    ] = None
    prefix: Annotated[str | None, Meta(description="Key prefix")] = None
    region: Annotated[str | None, Meta(description="Region")] = None
    use_path_style: Annotated[bool, Meta(description="Path-style addressing")] = False


class VMMigrationStorage(Model):
    """Staging area."""

    type: Annotated[Literal["pvc", "nfs", "s3"], Meta(description="Backend")] = "pvc"
    nfs: Annotated[Nfs | None, Meta(description="NFS staging")] = None
    pvc: Annotated[Pvc | None, Meta(description="PVC staging")] = None
    s3: Annotated[S3 | None, Meta(description="Object storage staging")] = None
    transfer_mode: Annotated[
        Literal["auto", "relay", "direct"],
        Meta(description="How bytes travel"),
    ] = "auto"


class VMMigrationSpec(Model):
    """What is wanted."""

    source: Annotated[VMMigrationSource, Meta(description="Where from")]
    target: Annotated[VMMigrationTarget, Meta(description="Where to")]
    metadata: Annotated[VMMigrationMetadata | None, Meta(description="Informational")] = None
    options: Annotated[VMMigrationOptions | None, Meta(description="Behaviour")] = None
    storage: Annotated[VMMigrationStorage | None, Meta(description="Staging area")] = None


class DiskInfo(Model):
    """Disk facts."""

    checksum: Annotated[str | None, Meta(description="Checksum")] = None
    source_checksum: Annotated[str | None, Meta(description="Source digest")] = None
    source_disk_id: Annotated[str | None, Meta(description="Source disk")] = named(name="sourceDiskID", default=None)
    source_format: Annotated[str | None, Meta(description="Source format")] = None
    source_size: Annotated[Quantity | None, Meta(description="Source size")] = None
    target_checksum: Annotated[str | None, Meta(description="Target digest")] = None
    target_disk_id: Annotated[str | None, Meta(description="Target disk")] = named(name="targetDiskID", default=None)
    target_format: Annotated[str | None, Meta(description="Target format")] = None
    target_path: Annotated[
        str | None, Meta(description="Path returned by the import; used to build the VM's importedDisk")
    ] = None
    target_size: Annotated[Quantity | None, Meta(description="Target size")] = None


class Progress(Model):
    """Progress."""

    current_phase: Annotated[
        Literal[
            "Pending",
            "Validating",
            "Snapshotting",
            "Exporting",
            "Transferring",
            "Converting",
            "Importing",
            "Creating",
            "Validating-Target",
            "Ready",
            "Failed",
        ]
        | None,
        Meta(description="Phase"),
    ] = None
    eta: Annotated[str | None, Meta(description="Remaining")] = None
    percentage: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="0-100")] = None
    phase_start_time: Annotated[Timestamp | None, Meta(description="Phase start")] = None
    total_bytes: Annotated[int | None, Meta(description="Size")] = None
    transfer_rate: Annotated[int | None, Meta(description="Bytes/s")] = None
    transferred_bytes: Annotated[int | None, Meta(description="Done")] = None


class StorageInfo(Model):
    """Staging facts."""

    cleaned_up: Annotated[bool | None, Meta(description="Data removed")] = None
    size: Annotated[Quantity | None, Meta(description="Size")] = None
    uploaded_at: Annotated[Timestamp | None, Meta(description="Time")] = None
    url: Annotated[str | None, Meta(description="Location")] = None


class ValidationResults(Model):
    """Outcome of checks."""

    boot_success: Annotated[bool | None, Meta(description="Booted")] = None
    checksum_match: Annotated[bool | None, Meta(description="Digests equal")] = None
    connectivity_success: Annotated[bool | None, Meta(description="Reachable")] = None
    disk_size_match: Annotated[bool | None, Meta(description="Sizes equal")] = None
    validation_errors: Annotated[list[str], Meta(description="Errors")] = []


class VMMigrationStatus(Model):
    """What is true."""

    completion_time: Annotated[Timestamp | None, Meta(description="End")] = None
    conditions: Annotated[Conditions, Meta(description="Conditions")] = []
    disk_info: Annotated[DiskInfo | None, Meta(description="Disk facts")] = None
    export_id: Annotated[str | None, Meta(description="Export handle")] = named(name="exportID", default=None)
    import_id: Annotated[str | None, Meta(description="Import handle")] = named(name="importID", default=None)
    last_retry_time: Annotated[Timestamp | None, Meta(description="Last retry")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    phase: Annotated[
        Literal[
            "Pending",
            "Validating",
            "Snapshotting",
            "Exporting",
            "Transferring",
            "Converting",
            "Importing",
            "Creating",
            "Validating-Target",
            "Ready",
            "Failed",
        ]
        | None,
        Meta(description="Step of the migration"),
    ] = None
    progress: Annotated[Progress | None, Meta(description="Progress")] = None
    retry_count: Annotated[int | None, Meta(description="Retries so far")] = None
    snapshot_id: Annotated[str | None, Meta(description="Provider snapshot id")] = named(
        name="snapshotID", default=None
    )
    snapshot_ref: Annotated[str | None, Meta(description="Name of the snapshot object used")] = None
    start_time: Annotated[Timestamp | None, Meta(description="Start")] = None
    storage_info: Annotated[StorageInfo | None, Meta(description="Staging facts")] = None
    storage_pvcname: Annotated[str | None, Meta(description="Claim in use")] = named(
        name="storagePVCName", default=None
    )
    target_vm_id: Annotated[str | None, Meta(description="Provider id of the new VM")] = named(
        name="targetVMID", default=None
    )
    target_vm_ref: Annotated[LocalObjectReference | None, Meta(description="Reference to the created VM")] = named(
        name="targetVMRef", default=None
    )
    task_ref: Annotated[str | None, Meta(description="Running task")] = None
    validation_results: Annotated[ValidationResults | None, Meta(description="Outcome of checks")] = None


class VMMigration(Resource):
    """The move of a machine from one provider to another."""

    spec: VMMigrationSpec
    status: VMMigrationStatus = named(default_factory=VMMigrationStatus)
