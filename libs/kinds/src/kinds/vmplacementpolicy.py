"""VMPlacementPolicy: rules for where machines may run."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, Model, Resource
from .shared import LocalObjectReference, PlacementConstraints, Quantity, Timestamp, VMAffinityTerm


class ApplicationAffinity(Model):
    """Keep one application's VMs together."""

    enabled: Annotated[bool, Meta(description="On/off")]
    application_label: Annotated[str, Meta(description="Label that names the application")] = "app"
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class ClusterAffinity(Model):
    """Same cluster."""

    enabled: Annotated[bool, Meta(description="On/off")]
    preferred_clusters: Annotated[list[str], Meta(description="Preferred clusters", max_length=20)] = []
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class DatastoreAffinity(Model):
    """Same datastore."""

    enabled: Annotated[bool, Meta(description="On/off")]
    preferred_datastores: Annotated[list[str], Meta(description="Preferred datastores", max_length=50)] = []
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class HostAffinity(Model):
    """Same host."""

    enabled: Annotated[bool, Meta(description="On/off")]
    preferred_hosts: Annotated[list[str], Meta(description="Preferred hosts", max_length=50)] = []
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class PreferredDuringScheduling(Model):
    """Should."""

    vm_affinity_term: Annotated[VMAffinityTerm, Meta(description="Term")]
    weight: Annotated[int, Meta(description="Weight", ge=1, le=100)]


class VmAffinity(Model):
    """Relative to other VMs."""

    preferred_during_scheduling: Annotated[
        list[PreferredDuringScheduling], Meta(description="Should", max_length=20)
    ] = []
    required_during_scheduling: Annotated[list[VMAffinityTerm], Meta(description="Must", max_length=20)] = []


class ZoneAffinity(Model):
    """Same zone."""

    enabled: Annotated[bool, Meta(description="On/off")]
    preferred_zones: Annotated[list[str], Meta(description="Preferred zones", max_length=10)] = []
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class Affinity(Model):
    """Keep together."""

    application_affinity: Annotated[
        ApplicationAffinity | None, Meta(description="Keep one application's VMs together")
    ] = None
    cluster_affinity: Annotated[ClusterAffinity | None, Meta(description="Same cluster")] = None
    datastore_affinity: Annotated[DatastoreAffinity | None, Meta(description="Same datastore")] = None
    host_affinity: Annotated[HostAffinity | None, Meta(description="Same host")] = None
    vm_affinity: Annotated[VmAffinity | None, Meta(description="Relative to other VMs")] = None
    zone_affinity: Annotated[ZoneAffinity | None, Meta(description="Same zone")] = None


class ApplicationAntiAffinity(Model):
    """Keep applications apart."""

    enabled: Annotated[bool, Meta(description="On/off")]
    application_label: Annotated[str, Meta(description="Label that names the application")] = "app"
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class ClusterAntiAffinity(Model):
    """Spread over clusters."""

    enabled: Annotated[bool, Meta(description="On/off")]
    max_vms_per_cluster: Annotated[Annotated[int, Meta(ge=1, le=10000)] | None, Meta(description="Cap per cluster")] = (
        named(name="maxVMsPerCluster", default=None)
    )
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class DatastoreAntiAffinity(Model):
    """Spread over datastores."""

    enabled: Annotated[bool, Meta(description="On/off")]
    max_vms_per_datastore: Annotated[
        Annotated[int, Meta(ge=1, le=10000)] | None, Meta(description="Cap per datastore")
    ] = named(name="maxVMsPerDatastore", default=None)
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class HostAntiAffinity(Model):
    """Spread over hosts.."""

    enabled: Annotated[bool, Meta(description="On/off")]
    max_vms_per_host: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="Cap per host")] = named(
        name="maxVMsPerHost", default=None
    )
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class VmAntiAffinityPreferredDuringScheduling(Model):
    """Should."""

    vm_affinity_term: Annotated[VMAffinityTerm, Meta(description="Term")]
    weight: Annotated[int, Meta(description="Weight", ge=1, le=100)]


class VmAntiAffinity(Model):
    """Relative to other VMs."""

    preferred_during_scheduling: Annotated[
        list[VmAntiAffinityPreferredDuringScheduling], Meta(description="Should", max_length=20)
    ] = []
    required_during_scheduling: Annotated[list[VMAffinityTerm], Meta(description="Must", max_length=20)] = []


class ZoneAntiAffinity(Model):
    """Spread over zones."""

    enabled: Annotated[bool, Meta(description="On/off")]
    max_vms_per_zone: Annotated[Annotated[int, Meta(ge=1, le=10000)] | None, Meta(description="Cap per zone")] = named(
        name="maxVMsPerZone", default=None
    )
    scope: Annotated[Literal["strict", "preferred"] | None, Meta(description="Strictness")] = None


class AntiAffinity(Model):
    """Keep apart."""

    application_anti_affinity: Annotated[
        ApplicationAntiAffinity | None, Meta(description="Keep applications apart")
    ] = None
    cluster_anti_affinity: Annotated[ClusterAntiAffinity | None, Meta(description="Spread over clusters")] = None
    datastore_anti_affinity: Annotated[DatastoreAntiAffinity | None, Meta(description="Spread over datastores")] = None
    host_anti_affinity: Annotated[
        HostAntiAffinity | None,
        Meta(description="Spread over hosts."),
    ] = None
    vm_anti_affinity: Annotated[VmAntiAffinity | None, Meta(description="Relative to other VMs")] = None
    zone_anti_affinity: Annotated[ZoneAntiAffinity | None, Meta(description="Spread over zones")] = None


class ResourceConstraints(Model):
    """Capacity rules."""

    max_cpu_utilization: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="CPU ceiling %")] = (
        named(name="maxCPUUtilization", default=None)
    )
    max_disk_utilization: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="Disk ceiling %")] = (
        None
    )
    max_memory_utilization: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="RAM ceiling %")] = (
        None
    )
    min_cpu_per_host: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Free CPUs needed")] = named(
        name="minCPUPerHost", default=None
    )
    min_disk_space_per_host: Annotated[Quantity | None, Meta(description="Free disk needed")] = None
    min_memory_per_host: Annotated[Quantity | None, Meta(description="Free RAM needed")] = None
    preferred_features: Annotated[list[str], Meta(description="Hardware liked", max_length=20)] = []
    required_features: Annotated[list[str], Meta(description="Hardware needed", max_length=20)] = []


class SecurityConstraints(Model):
    """Security rules."""

    allowed_security_groups: Annotated[list[str], Meta(description="Allowed groups", max_length=20)] = []
    denied_security_groups: Annotated[list[str], Meta(description="Denied groups", max_length=20)] = []
    isolation_level: Annotated[Literal["none", "basic", "strict", "maximum"] | None, Meta(description="Isolation")] = (
        None
    )
    require_encrypted_storage: Annotated[bool | None, Meta(description="Host must support it")] = None
    require_numa_topology: Annotated[bool | None, Meta(description="Host must expose NUMA")] = named(
        name="requireNUMATopology", default=None
    )
    require_secure_boot: Annotated[bool | None, Meta(description="Host must support it")] = None
    require_tpm: Annotated[bool | None, Meta(description="Host must support it")] = named(
        name="requireTPM", default=None
    )
    trust_level: Annotated[
        Literal["untrusted", "basic", "trusted", "highly-trusted"] | None, Meta(description="Trust")
    ] = None


class VMPlacementPolicySpec(Model):
    """What is wanted."""

    affinity: Annotated[Affinity | None, Meta(description="Keep together")] = None
    anti_affinity: Annotated[AntiAffinity | None, Meta(description="Keep apart")] = None
    hard: Annotated[PlacementConstraints | None, Meta(description="Constraints that must hold")] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=1000)] | None, Meta(description="Which policy wins on conflict")
    ] = None
    resource_constraints: Annotated[ResourceConstraints | None, Meta(description="Capacity rules")] = None
    security_constraints: Annotated[SecurityConstraints | None, Meta(description="Security rules")] = None
    soft: Annotated[PlacementConstraints | None, Meta(description="Constraints that should hold")] = None
    weight: Annotated[Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="Strength of soft rules")] = None


class ConflictingPolicy(Model):
    """Conflicts."""

    conflict_type: Annotated[Literal["hard", "soft", "resource", "security", "affinity"], Meta(description="Area")]
    policy_name: Annotated[str, Meta(description="Other policy")]
    description: Annotated[str | None, Meta(description="Text")] = None
    resolution_suggestion: Annotated[str | None, Meta(description="Advice")] = None
    severity: Annotated[Literal["low", "medium", "high", "critical"] | None, Meta(description="Severity")] = None


class PlacementStats(Model):
    """Counters."""

    average_placement_time: Annotated[str | None, Meta(description="Mean duration")] = None
    constraint_violations: Annotated[int | None, Meta(description="Violations")] = None
    failed_placements: Annotated[int | None, Meta(description="Bad")] = None
    last_placement_time: Annotated[Timestamp | None, Meta(description="Last")] = None
    placement_distribution: Annotated[dict[str, int], Meta(description="Target → count")] = {}
    successful_placements: Annotated[int | None, Meta(description="Good")] = None
    total_placements: Annotated[int | None, Meta(description="All")] = None


class ValidationResult(Model):
    """Per-provider verdict."""

    valid: Annotated[bool, Meta(description="Verdict")]
    errors: Annotated[list[str], Meta(description="Errors", max_length=20)] = []
    last_validated: Annotated[Timestamp | None, Meta(description="When")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    supported_features: Annotated[list[str], Meta(description="Supported", max_length=50)] = []
    unsupported_features: Annotated[list[str], Meta(description="Unsupported", max_length=50)] = []
    warnings: Annotated[list[str], Meta(description="Warnings", max_length=20)] = []


class VMPlacementPolicyStatus(Model):
    """What is true."""

    conditions: Annotated[Conditions, Meta(description="Ready, Validated, Conflicts, Supported")] = []
    conflicting_policies: Annotated[list[ConflictingPolicy], Meta(description="Conflicts", max_length=50)] = []
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    placement_stats: Annotated[PlacementStats | None, Meta(description="Counters")] = None
    used_by_vms: Annotated[list[LocalObjectReference], Meta(description="Users", max_length=1000)] = named(
        name="usedByVMs", default_factory=list
    )
    validation_results: Annotated[dict[str, ValidationResult], Meta(description="Per-provider verdict")] = {}
    used_by_count: Annotated[int | None, Meta(description="Number of machines that use the policy")] = None


class VMPlacementPolicy(Resource):
    """Rules for where machines may run."""

    spec: VMPlacementPolicySpec = named(default_factory=VMPlacementPolicySpec)
    status: VMPlacementPolicyStatus = named(default_factory=VMPlacementPolicyStatus)
