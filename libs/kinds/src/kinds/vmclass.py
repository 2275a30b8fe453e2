"""VMClass: a size and shape that machines share."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, LabelSelector, Model, Resource
from .shared import Quantity, Timestamp


class DiskDefaults(Model):
    """Root-disk defaults."""

    iops: Annotated[Annotated[int, Meta(ge=100, le=100000)] | None, Meta(description="IOPS cap")] = None
    size: Annotated[Quantity, Meta(description="Capacity of the boot disk; never smaller than the image")] = "40Gi"
    storage_class: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Storage tier name")] = None
    type: Annotated[
        Literal["thin", "thick", "eagerzeroedthick", "ssd", "hdd", "nvme"],
        Meta(description="Provisioning type passed through"),
    ] = "thin"
    storage_policy: Annotated[
        Annotated[str, Meta(max_length=255)] | None,
        Meta(description="Storage policy by name or id; of all disks that name none"),
    ] = None


class PerformanceProfile(Model):
    """Tuning block."""

    cpu_hot_add_enabled: Annotated[bool, Meta(description="Leave room to add CPUs while the machine runs")] = False
    hyper_threading_policy: Annotated[
        Literal["auto", "prefer", "avoid", "require"], Meta(description="How to treat sibling threads")
    ] = "auto"
    latency_sensitivity: Annotated[
        Literal["low", "normal", "high"], Meta(description="How much the scheduler favours the machine")
    ] = "normal"
    memory_hot_add_enabled: Annotated[bool, Meta(description="Leave room to add memory while the machine runs")] = False
    nested_virtualization: Annotated[bool, Meta(description="Let the guest run virtual machines")] = False
    virtualization_based_security: Annotated[bool, Meta(description="Windows virtualization-based security")] = False


class ResourceLimits(Model):
    """Reservations, limits and shares."""

    cpu_limit: Annotated[
        Annotated[int, Meta(ge=100, le=100000)] | None, Meta(description="Most CPU it may use, in MHz")
    ] = None
    cpu_reservation: Annotated[
        Annotated[int, Meta(ge=0, le=100000)] | None, Meta(description="Guaranteed CPU in MHz")
    ] = None
    cpu_shares: Annotated[Annotated[int, Meta(ge=1, le=1000000)] | None, Meta(description="Relative weight")] = None
    memory_limit: Annotated[Quantity | None, Meta(description="RAM cap")] = None
    memory_reservation: Annotated[Quantity | None, Meta(description="Guaranteed RAM")] = None


class EncryptionPolicy(Model):
    """VM encryption."""

    enabled: Annotated[bool, Meta(description="Turn on")] = False
    key_provider: Annotated[Literal["standard", "hardware", "external"] | None, Meta(description="Key source kind")] = (
        None
    )
    require_encryption: Annotated[bool, Meta(description="Fail when not possible")] = False


class SecurityProfile(Model):
    """Security block."""

    encryption_policy: Annotated[EncryptionPolicy | None, Meta(description="VM encryption")] = None
    secure_boot: Annotated[bool, Meta(description="Boot signed code only; needs UEFI")] = False
    tpm_enabled: Annotated[bool, Meta(description="Virtual TPM")] = False
    tpm_version: Annotated[Literal["1.2", "2.0", "2"] | None, Meta(description="Version of the TPM")] = None
    vtd_enabled: Annotated[bool, Meta(description="IOMMU for the guest")] = False


class VMClassSpec(Model):
    """What is wanted."""

    cpu: Annotated[int, Meta(description="Virtual CPUs", ge=1, le=128)]
    memory: Annotated[Quantity, Meta(description="Memory, for example 4Gi")]
    disk_defaults: Annotated[DiskDefaults | None, Meta(description="Root-disk defaults")] = None
    extra_config: Annotated[dict[str, str], Meta(description="Hypervisor settings by key", max_length=50)] = {}
    firmware: Annotated[Literal["BIOS", "UEFI", "EFI"], Meta(description="Boot firmware; EFI is the same as UEFI")] = (
        "BIOS"
    )
    guest_tools_policy: Annotated[
        Literal["install", "skip", "upgrade", "uninstall"], Meta(description="What to do about the guest tools")
    ] = "install"
    performance_profile: Annotated[PerformanceProfile | None, Meta(description="Tuning block")] = None
    resource_limits: Annotated[ResourceLimits | None, Meta(description="Reservations, limits and shares")] = None
    security_profile: Annotated[SecurityProfile | None, Meta(description="Security block")] = None
    consumer_namespace_selector: Annotated[
        LabelSelector | None,
        Meta(description="Namespaces whose machines may use the class; unset means its own only, {} means all"),
    ] = None


class ValidationResult(Model):
    """Per-provider verdict, keyed by provider."""

    valid: Annotated[bool, Meta(description="Verdict")]
    last_validated: Annotated[Timestamp | None, Meta(description="When checked")] = None
    message: Annotated[str | None, Meta(description="Explanation")] = None
    warnings: Annotated[list[str], Meta(description="Non-fatal notes")] = []


class VMClassStatus(Model):
    """What is true."""

    conditions: Annotated[Conditions, Meta(description="What holds: Ready, Validated, Supported")] = []
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    supported_providers: Annotated[list[str], Meta(description="Providers that accept the class")] = []
    used_by_vms: Annotated[int | None, Meta(description="Number of machines that use the class")] = named(
        name="usedByVMs", default=None
    )
    validation_results: Annotated[
        dict[str, ValidationResult], Meta(description="Per-provider verdict, keyed by provider")
    ] = {}


class VMClass(Resource):
    """A size and shape that machines share."""

    spec: VMClassSpec
    status: VMClassStatus = named(default_factory=VMClassStatus)
