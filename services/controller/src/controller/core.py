"""The little of Kubernetes' own kinds that the controller reads or writes."""

from __future__ import annotations

import msgspec

from .api import Resource


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


class Namespace(msgspec.Struct, gc=False):
    """Its labels decide who may use what."""

    metadata: Meta


class Secret(msgspec.Struct, gc=False):
    """Read by GET when needed, never cached. Values are base64 text; msgspec decodes them into bytes."""

    metadata: Meta
    data: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name})"


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


NAMESPACES = Resource("v1", "Namespace", "namespaces", Namespace, namespaced=False)
SECRETS = Resource("v1", "Secret", "secrets", Secret)
EVENTS = Resource("v1", "Event", "events", Event)
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases", Lease)
