"""VMSet: a number of like machines."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, EmbeddedMetadata, LabelSelector, Model, Resource
from .shared import AnyObject, IntOrString, Timestamp
from .virtualmachine import VirtualMachineSpec


class VMSetTemplate(Model):
    """VM blueprint."""

    spec: Annotated[VirtualMachineSpec, Meta(description="Member spec, identical to VirtualMachine.spec")]
    metadata: Annotated[EmbeddedMetadata | None, Meta(description="Labels and annotations of the members")] = None


class Ordinals(Model):
    """Numbering."""

    start: Annotated[int, Meta(description="First ordinal", ge=0, le=999999)] = 0


class PersistentVolumeClaimRetentionPolicy(Model):
    """Claim lifetime."""

    when_deleted: Annotated[Literal["Retain", "Delete"], Meta(description="On set deletion")] = "Retain"
    when_scaled: Annotated[Literal["Retain", "Delete"], Meta(description="On scale-down")] = "Retain"


class RollingUpdate(Model):
    """Rolling parameters."""

    max_surge: Annotated[IntOrString, Meta(description="Count or percentage")] = "25%"
    max_unavailable: Annotated[IntOrString, Meta(description="Count or percentage")] = "25%"
    partition: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="Ordinals at or above are updated")] = None
    pod_management_policy: Annotated[
        Literal["OrderedReady", "Parallel"], Meta(description="Ordered or parallel (oddly nested under rollingUpdate)")
    ] = "OrderedReady"


class UpdateStrategy(Model):
    """Rollout."""

    rolling_update: Annotated[RollingUpdate | None, Meta(description="Rolling parameters")] = None
    type: Annotated[Literal["RollingUpdate", "OnDelete", "Recreate"], Meta(description="Kind")] = "RollingUpdate"


class VolumeClaimTemplate(Model):
    """Claims per member."""

    spec: Annotated[AnyObject, Meta(description="Claim spec")]
    metadata: Annotated[
        EmbeddedMetadata | None,
        Meta(description="Name/labels of the claim."),
    ] = None


class VMSetSpec(Model):
    """What is wanted."""

    selector: Annotated[LabelSelector, Meta(description="Labels that identify members")]
    template: Annotated[VMSetTemplate, Meta(description="VM blueprint")]
    min_ready_seconds: Annotated[
        Annotated[int, Meta(ge=0, le=3600)] | None, Meta(description="Seconds ready before available")
    ] = None
    ordinals: Annotated[Ordinals | None, Meta(description="Numbering")] = None
    persistent_volume_claim_retention_policy: Annotated[
        PersistentVolumeClaimRetentionPolicy | None, Meta(description="Claim lifetime")
    ] = None
    replicas: Annotated[int, Meta(description="Wanted count", ge=0, le=1000)] = 1
    revision_history_limit: Annotated[int, Meta(description="Old revisions kept", ge=0, le=100)] = 10
    service_name: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Governing Service")] = None
    update_strategy: Annotated[UpdateStrategy | None, Meta(description="Rollout")] = None
    volume_claim_templates: Annotated[
        list[VolumeClaimTemplate], Meta(description="Claims per member", max_length=20)
    ] = []


class FailedVM(Model):
    """Failed."""

    name: Annotated[str, Meta(description="VM")]
    last_attempt: Annotated[Timestamp | None, Meta(description="When")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    reason: Annotated[str | None, Meta(description="Code")] = None
    retry_count: Annotated[int | None, Meta(description="Retries")] = None


class UpdateStatus(Model):
    """Rollout view."""

    completion_time: Annotated[Timestamp | None, Meta(description="End")] = None
    failed_vms: Annotated[list[FailedVM], Meta(description="Failed", max_length=1000)] = named(
        name="failedVMs", default_factory=list
    )
    message: Annotated[str | None, Meta(description="Text")] = None
    pending_vms: Annotated[list[str], Meta(description="To do", max_length=1000)] = named(
        name="pendingVMs", default_factory=list
    )
    phase: Annotated[
        Literal["Pending", "InProgress", "Paused", "Completed", "Failed"] | None, Meta(description="Rollout phase")
    ] = None
    start_time: Annotated[Timestamp | None, Meta(description="Start")] = None
    updated_vms: Annotated[list[str], Meta(description="Done", max_length=1000)] = named(
        name="updatedVMs", default_factory=list
    )


class VmStatus(Model):
    """Per-member view."""

    name: Annotated[str, Meta(description="VM")]
    creation_time: Annotated[Timestamp | None, Meta(description="Created")] = None
    last_update_time: Annotated[Timestamp | None, Meta(description="Updated")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    phase: Annotated[
        Literal["Pending", "Provisioning", "Running", "Stopped", "Reconfiguring", "Deleting", "Failed"] | None,
        Meta(description="Its phase"),
    ] = None
    ready: Annotated[bool | None, Meta(description="Ready")] = None
    revision: Annotated[str | None, Meta(description="Revision")] = None


class VMSetStatus(Model):
    """What is true."""

    available_replicas: Annotated[int | None, Meta(description="Available members")] = None
    collision_count: Annotated[int | None, Meta(description="Hash collisions")] = None
    conditions: Annotated[Conditions, Meta(description="What holds: Ready, Progressing")] = []
    current_replicas: Annotated[int | None, Meta(description="Members at the current revision")] = None
    current_revision: Annotated[str | None, Meta(description="Revision hash")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    ready_replicas: Annotated[int | None, Meta(description="Ready members")] = None
    replicas: Annotated[int | None, Meta(description="Members")] = None
    update_revision: Annotated[str | None, Meta(description="New revision hash")] = None
    update_status: Annotated[UpdateStatus | None, Meta(description="Rollout view")] = None
    updated_replicas: Annotated[int | None, Meta(description="Members at the new revision")] = None
    vm_status: Annotated[list[VmStatus], Meta(description="Per-member view", max_length=1000)] = []
    selector: Annotated[str | None, Meta(description="Label selector of the members, in text form, for scale")] = None


class VMSet(Resource):
    """A number of like machines."""

    spec: VMSetSpec
    status: VMSetStatus = named(default_factory=VMSetStatus)
