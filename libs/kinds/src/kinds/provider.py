"""Provider: a hypervisor, and how its provider server runs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, LabelSelector, Model, Resource
from .patterns import ENDPOINT, IMAGE_REFERENCE
from .shared import AnyObject, CoreReference, Duration, ObjectRef, ResourceUsageStats, Timestamp


class ConnectionPooling(Model):
    """Connections to the provider server."""

    connection_timeout: Annotated[Duration, Meta(description="Dial deadline")] = "30s"
    idle_timeout: Annotated[Duration, Meta(description="Idle close")] = "5m"
    max_connections: Annotated[int, Meta(description="Max open", ge=1, le=100)] = 10
    max_idle_connections: Annotated[int, Meta(description="Max idle", ge=1)] = 5


class ProviderDefaults(Model):
    """Fallback placement, handed to the pod as PROVIDER_DEFAULT_* env."""

    cluster: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Cluster")] = None
    datastore: Annotated[
        Annotated[str, Meta(max_length=255)] | None, Meta(description="Datastore; wins over storagePod")
    ] = None
    folder: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Folder")] = None
    network: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Network")] = None
    resource_pool: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Resource pool")] = None
    storage_pod: Annotated[
        Annotated[str, Meta(max_length=255)] | None, Meta(description="vSphere datastore cluster")
    ] = None


class HealthCheck(Model):
    """How the connection is watched."""

    enabled: Annotated[bool, Meta(description="On/off")] = True
    failure_threshold: Annotated[int, Meta(description="Failures before unhealthy", ge=1, le=10)] = 3
    interval: Annotated[Duration, Meta(description="Period")] = "30s"
    success_threshold: Annotated[int, Meta(description="Successes before healthy", ge=1, le=10)] = 1
    timeout: Annotated[Duration, Meta(description="Deadline")] = "10s"


class RateLimit(Model):
    """How fast the provider is called."""

    burst: Annotated[int, Meta(description="Burst", ge=1, le=2000)] = 20
    qps: Annotated[int, Meta(description="Calls per second", ge=1, le=1000)] = 10


class ProviderRuntimeServiceTls(Model):
    """Mutual TLS between controller and server."""

    enabled: Annotated[bool, Meta(description="true = mTLS with the secret")] = True
    insecure_skip_verify: Annotated[bool, Meta(description="Do not verify the server's certificate")] = False
    secret_ref: Annotated[CoreReference | None, Meta(description="Secret with tls.crt, tls.key and ca.crt")] = None


class ProviderRuntimeService(Model):
    """gRPC endpoint of the server."""

    port: Annotated[int, Meta(description="gRPC port", ge=1024, le=65535)] = 9443
    tls: Annotated[ProviderRuntimeServiceTls | None, Meta(description="Mutual TLS between controller and server")] = (
        None
    )


class ProviderRuntime(Model):
    """How the provider server runs."""

    affinity: Annotated[AnyObject | None, Meta(description="Affinity")] = None
    env: Annotated[list[AnyObject], Meta(description="Further environment of the provider server", max_length=50)] = []
    image: Annotated[
        Annotated[str, Meta(pattern=IMAGE_REFERENCE, max_length=512)] | None,
        Meta(description="Image of the provider server"),
    ] = None
    image_pull_policy: Annotated[Literal["Always", "Never", "IfNotPresent"], Meta(description="Pull policy")] = (
        "IfNotPresent"
    )
    image_pull_secrets: Annotated[
        list[CoreReference], Meta(description="Secrets for pulling the image", max_length=10)
    ] = []
    liveness_probe: Annotated[AnyObject | None, Meta(description="Probe in place of the built-in one")] = None
    log_format: Annotated[Literal["text", "json"], Meta(description="Format of the server's log")] = "text"
    log_level: Annotated[Literal["debug", "info", "warn", "error"], Meta(description="Least level that is logged")] = (
        "info"
    )
    mode: Annotated[
        Literal["Remote", "Process", "External", "Kubernetes"],
        Meta(
            description=(
                "Who runs the server: Process (the controller), External (it runs already), Kubernetes, or "
                "Remote (the default)"
            )
        ),
    ] = "Remote"
    node_selector: Annotated[dict[str, str], Meta(description="Node selector")] = {}
    readiness_probe: Annotated[AnyObject | None, Meta(description="Probe in place of the built-in one")] = None
    replicas: Annotated[int, Meta(description="Number of servers", ge=1, le=10)] = 1
    resources: Annotated[AnyObject | None, Meta(description="Resources of the server's container")] = None
    security_context: Annotated[AnyObject | None, Meta(description="Container security context")] = None
    service: Annotated[ProviderRuntimeService | None, Meta(description="gRPC endpoint of the server")] = None
    tolerations: Annotated[list[AnyObject], Meta(description="Tolerations", max_length=20)] = []
    address: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="host:port of a provider server that runs already (mode External)"),
    ] = None


class ProviderSpec(Model):
    """What is wanted."""

    endpoint: Annotated[
        str,
        Meta(
            description=(
                "Address of the hypervisor: a libvirt URI such as qemu:///system, or an https URL; on Proxmox VE "
                "several, with commas in between, are nodes of one cluster"
            ),
            pattern=ENDPOINT,
            max_length=2048,
        ),
    ]
    type: Annotated[
        Literal["vsphere", "libvirt", "firecracker", "qemu", "proxmox", "fake"],
        Meta(description="Kind of hypervisor; fixed"),
    ]
    connection_pooling: Annotated[ConnectionPooling | None, Meta(description="Connections to the provider server")] = (
        None
    )
    credential_secret_ref: Annotated[
        ObjectRef | None, Meta(description="Secret with the hypervisor's credentials; a local libvirt needs none")
    ] = None
    defaults: Annotated[
        ProviderDefaults | None, Meta(description="Fallback placement, handed to the pod as PROVIDER_DEFAULT_* env")
    ] = None
    health_check: Annotated[HealthCheck | None, Meta(description="How the connection is watched")] = None
    insecure_skip_verify: Annotated[bool, Meta(description="Do not verify the hypervisor's certificate")] = False
    rate_limit: Annotated[RateLimit | None, Meta(description="How fast the provider is called")] = None
    runtime: Annotated[ProviderRuntime | None, Meta(description="How the provider server runs")] = None
    consumer_namespace_selector: Annotated[
        LabelSelector | None,
        Meta(description="Namespaces whose machines may use the provider; unset means its own only, {} means all"),
    ] = None
    topology: Annotated[
        Literal["single", "cluster"] | None,
        Meta(description="Whether the endpoint is one host or a cluster of them; fixed once set"),
    ] = None


class Adoption(Model):
    """Outcome of looking for machines to adopt."""

    adopted_vms: Annotated[int | None, Meta(description="Adopted")] = named(name="adoptedVMs", default=None)
    discovered_vms: Annotated[int | None, Meta(description="Found")] = named(name="discoveredVMs", default=None)
    failed_adoptions: Annotated[int | None, Meta(description="Failed")] = None
    last_discovery_time: Annotated[Timestamp | None, Meta(description="Last scan")] = None
    message: Annotated[str | None, Meta(description="Text")] = None


class ReportedCapabilities(Model):
    """What the provider can do on this endpoint."""

    supported_disk_types: Annotated[list[str], Meta(description="Formats")] = []
    supported_export_backends: Annotated[list[str], Meta(description="Staging backends for export (pvc, nfs, s3)")] = []
    supported_export_formats: Annotated[list[str], Meta(description="Export formats")] = []
    supported_import_backends: Annotated[list[str], Meta(description="Staging backends for import")] = []
    supported_import_formats: Annotated[list[str], Meta(description="Import formats")] = []
    supported_network_types: Annotated[list[str], Meta(description="NIC models")] = []
    supported_transfer_modes: Annotated[list[str], Meta(description="relay / direct; empty means relay only")] = []
    supports_disk_expansion_online: Annotated[bool | None, Meta(description="Live disk growth")] = None
    supports_disk_export: Annotated[bool | None, Meta(description="May be a migration source")] = None
    supports_disk_import: Annotated[bool | None, Meta(description="May be a migration target")] = None
    supports_export_compression: Annotated[bool | None, Meta(description="Compressed export")] = None
    supports_image_import: Annotated[bool | None, Meta(description="ImagePrepare")] = None
    supports_linked_clones: Annotated[bool | None, Meta(description="Copy-on-write clones")] = None
    supports_memory_snapshots: Annotated[bool | None, Meta(description="Snapshots with RAM")] = None
    supports_reconfigure_online: Annotated[bool | None, Meta(description="Live CPU/RAM change")] = None
    supports_snapshots: Annotated[bool | None, Meta(description="Snapshots")] = None
    supports_image_artifact_identity: Annotated[bool | None, Meta(description="Images are known by digest")] = None
    supports_honest_reconfigure: Annotated[bool | None, Meta(description="Changes that were not made are told")] = None
    supports_clustering: Annotated[bool | None, Meta(description="Several hosts behind one endpoint")] = None


class ResourceUsageNetwork(Model):
    """Network counters."""

    bytes_received: Annotated[int | None, Meta(description="RX bytes")] = None
    bytes_sent: Annotated[int | None, Meta(description="TX bytes")] = None
    packets_received: Annotated[int | None, Meta(description="RX packets")] = None
    packets_sent: Annotated[int | None, Meta(description="TX packets")] = None


class ResourceUsage(Model):
    """Usage block."""

    cpu: Annotated[ResourceUsageStats | None, Meta(description="CPU")] = None
    memory: Annotated[ResourceUsageStats | None, Meta(description="RAM")] = None
    network: Annotated[ResourceUsageNetwork | None, Meta(description="Network counters")] = None
    storage: Annotated[ResourceUsageStats | None, Meta(description="Storage")] = None


class ProviderStatusRuntime(Model):
    """How the server runs now."""

    available_replicas: Annotated[int | None, Meta(description="Available pods")] = None
    endpoint: Annotated[str | None, Meta(description="Address of the server for gRPC")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    mode: Annotated[Literal["Remote", "Process", "External", "Kubernetes"] | None, Meta(description="Remote")] = None
    phase: Annotated[
        Literal["Pending", "Starting", "Running", "Stopping", "Failed"] | None, Meta(description="State of the server")
    ] = None
    ready_replicas: Annotated[int | None, Meta(description="Ready pods")] = None
    service_ref: Annotated[CoreReference | None, Meta(description="Service")] = None


class ProviderStatus(Model):
    """What is true."""

    adoption: Annotated[Adoption | None, Meta(description="Outcome of looking for machines to adopt")] = None
    capabilities: Annotated[
        list[
            Literal[
                "VirtualMachines",
                "Snapshots",
                "Cloning",
                "LiveMigration",
                "ConsoleAccess",
                "DiskManagement",
                "NetworkManagement",
                "GPUPassthrough",
                "HighAvailability",
                "Backup",
                "Templates",
            ]
        ],
        Meta(description="Capabilities"),
    ] = []
    conditions: Annotated[
        Conditions,
        Meta(description="Ready, ProviderRuntimeReady, ProviderAvailable, TLSConfigured, CapabilitiesReported"),
    ] = []
    connected_vms: Annotated[int | None, Meta(description="Machines that name this provider")] = named(
        name="connectedVMs", default=None
    )
    healthy: Annotated[bool | None, Meta(description="The hypervisor answers")] = None
    last_health_check: Annotated[Timestamp | None, Meta(description="When the health last changed")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    reported_capabilities: Annotated[
        ReportedCapabilities | None, Meta(description="What the provider can do on this endpoint")
    ] = None
    resource_usage: Annotated[ResourceUsage | None, Meta(description="Usage block")] = None
    runtime: Annotated[ProviderStatusRuntime | None, Meta(description="How the server runs now")] = None
    version: Annotated[str | None, Meta(description="Backend version")] = None


class Provider(Resource):
    """A hypervisor, and how its provider server runs."""

    spec: ProviderSpec
    status: ProviderStatus = named(default_factory=ProviderStatus)
