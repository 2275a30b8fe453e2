"""The little of Kubernetes' own kinds that the controller reads or writes."""

from __future__ import annotations

import msgspec

from .api import Resource


class OwnerReference(msgspec.Struct, gc=False):
    """Whose an object is."""

    uid: str = ""


class Meta(msgspec.Struct, rename="camel", gc=False):
    """metav1.ObjectMeta as far as it is needed to name an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    owner_references: list[OwnerReference] | None = None


class Namespace(msgspec.Struct, gc=False):
    """Its labels decide who may use what."""

    metadata: Meta


class Secret(msgspec.Struct, gc=False):
    """Read by GET when needed, never cached. Values are base64 text; msgspec decodes them into bytes."""

    metadata: Meta
    data: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name})"


class ConfigMap(msgspec.Struct, gc=False):
    """Which installation serves which namespaces."""

    metadata: Meta
    data: dict[str, str] | None = None


class LeaseSpec(msgspec.Struct, rename="camel", gc=False):
    """coordination.k8s.io/v1; times are RFC 3339 with microseconds."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, gc=False):
    """Who leads."""

    metadata: Meta
    spec: LeaseSpec | None = None


class Event(msgspec.Struct, gc=False):
    """core/v1 Event; the controller only writes them."""

    metadata: Meta


class CoreCondition(msgspec.Struct, gc=False):
    """What a Deployment or a Pod says of itself."""

    type: str = ""
    status: str = ""
    message: str = ""


class WorkloadStatus(msgspec.Struct, rename="camel", gc=False):
    """Of a Deployment; empty on what has none."""

    observed_generation: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    conditions: list[CoreCondition] | None = None


class Workload(msgspec.Struct, gc=False):
    """A part of how a provider server runs on a cluster: its Deployment, or what goes with it."""

    metadata: Meta
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)


class Waiting(msgspec.Struct, gc=False):
    """Why a container does not run."""

    reason: str = ""
    message: str = ""


class Ended(msgspec.Struct, rename="camel", gc=False):
    """How a container ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class ContainerState(msgspec.Struct, gc=False):
    waiting: Waiting | None = None
    terminated: Ended | None = None


class ContainerStatus(msgspec.Struct, rename="camel", gc=False):
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)


class PodSpec(msgspec.Struct, rename="camel", gc=False):
    node_name: str = ""


class PodStatus(msgspec.Struct, rename="camel", gc=False):
    phase: str = ""
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None
    conditions: list[CoreCondition] | None = None


class Pod(msgspec.Struct, gc=False):
    """Read to say what keeps it from running."""

    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Pods(msgspec.Struct, gc=False):
    items: list[Pod]


SERVICE_ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts", Workload)
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", Workload)
SERVICES = Resource("v1", "Service", "services", Workload)
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments", Workload)
PODS = Resource("v1", "Pod", "pods", Pod)
NAMESPACES = Resource("v1", "Namespace", "namespaces", Namespace, namespaced=False)
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps", ConfigMap)
SECRETS = Resource("v1", "Secret", "secrets", Secret)
EVENTS = Resource("v1", "Event", "events", Event)
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases", Lease)
