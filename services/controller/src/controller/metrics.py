"""What the controller tells Prometheus. Names keep to the original's where it had one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from common.errors import ProviderError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .api import ApiError, ConflictError
from .holds import Hold

RECONCILE_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60)
RPC_BUCKETS = (0.002, 0.01, 0.05, 0.2, 1, 5, 30, 120)
WAIT_BUCKETS = (0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
API_BUCKETS = (0.002, 0.01, 0.05, 0.2, 1, 5, 30)
LONG_BUCKETS = (0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)
"""For what waits for a guest or a hypervisor."""


class Metrics:
    """Counters and gauges of one controller, on a registry of its own, by what they are about."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.work = WorkMetrics(registry)
        self.objects = ObjectMetrics(registry)
        self.providers = ProviderMetrics(registry)
        self.api = ApiMetrics(registry)


class WorkMetrics:
    """The queue, and the looks at what waits in it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reconciles = Counter(
            "virtrigaud_manager_reconcile", "Reconciles by outcome", ("kind", "outcome"), registry=registry
        )
        self._seconds = Histogram(
            "virtrigaud_manager_reconcile_duration_seconds", "Time of one reconcile", ("kind",),
            buckets=RECONCILE_BUCKETS, registry=registry,
        )  # fmt: skip
        self._depth = Gauge("virtrigaud_queue_depth", "Keys that wait for a worker", registry=registry)
        self._age = Gauge("virtrigaud_queue_age_seconds", "Age of the oldest waiting key", registry=registry)
        self._running = Gauge("virtrigaud_queue_running", "Keys that are worked on", registry=registry)
        self._leader = Gauge("virtrigaud_leader", "1 while this controller leads", registry=registry)

    @contextmanager
    def reconcile(self, kind: str) -> Iterator[None]:
        """Time one reconcile and count its outcome."""
        begun, outcome = time.monotonic(), "success"
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            self._reconciles.labels(kind, outcome).inc()
            self._seconds.labels(kind).observe(time.monotonic() - begun)

    def unchanged(self, kind: str) -> None:
        """Count a look that found at once that nothing differs."""
        self._reconciles.labels(kind, "unchanged").inc()

    def queue(self, depth: int, age: float, running: int) -> None:
        self._depth.set(depth)
        self._age.set(age)
        self._running.set(running)

    def leads(self, leading: bool) -> None:
        self._leader.set(leading)


class ObjectMetrics:
    """How many objects there are, and how long it takes until they are as they shall be."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._vms = Gauge("virtrigaud_vms", "Virtual machines by phase", ("provider", "phase"), registry=registry)
        self._readable = Gauge("virtrigaud_objects", "Objects in the caches", ("kind",), registry=registry)
        self._bad = Gauge("virtrigaud_bad_objects", "Objects that cannot be read", ("kind",), registry=registry)
        self._ready = Histogram(
            "virtrigaud_time_to_ready_seconds", "From a change to Ready, by what changed: spec or drift",
            ("kind", "cause"), buckets=LONG_BUCKETS, registry=registry,
        )  # fmt: skip
        self._first_ip = Histogram(
            "virtrigaud_ip_discovery_duration_seconds", "From the object's creation to its first address",
            ("provider_type",), buckets=LONG_BUCKETS, registry=registry,
        )  # fmt: skip
        self._drift = Histogram(
            "virtrigaud_drift_latency_seconds", "From a provider's word that a machine changed to its status written",
            ("provider_type",), buckets=WAIT_BUCKETS, registry=registry,
        )  # fmt: skip
        self._lag = Histogram(
            "virtrigaud_watch_lag_seconds",
            "From a spec's change, as the API server dates it (whole seconds), to the begin of the first look at it",
            ("kind",), buckets=WAIT_BUCKETS, registry=registry,
        )  # fmt: skip

    def vms(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Replace the whole picture. Args: counts: by provider and phase."""
        self._vms.clear()
        for (provider, phase), count in counts.items():
            self._vms.labels(provider, phase).set(count)

    def held(self, kind: str, readable: int, bad: int) -> None:
        self._readable.labels(kind).set(readable)
        self._bad.labels(kind).set(bad)

    def settled(self, kind: str, cause: str, seconds: float) -> None:
        """An object is Ready, so long after the change."""
        self._ready.labels(kind, cause).observe(seconds)

    def first_address(self, provider_type: str, seconds: float) -> None:
        self._first_ip.labels(provider_type).observe(seconds)

    def drift(self, provider_type: str, seconds: float) -> None:
        self._drift.labels(provider_type).observe(seconds)

    def taken_up(self, kind: str, seconds: float) -> None:
        """The first look at what was made or changed begins, so long afterwards."""
        self._lag.labels(kind).observe(seconds)


class ProviderMetrics:
    """What Providers are, whether they answer, and how soon."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge("virtrigaud_provider_up", "1 while the hypervisor answers", ("provider",), registry=registry)
        self._info = Gauge(
            "virtrigaud_provider_info", "Constantly 1; what a Provider is", ("provider", "type", "version"),
            registry=registry,
        )  # fmt: skip
        self._breaker = Gauge(
            "virtrigaud_circuit_breaker_state", "0 closed, 1 half-open, 2 open", ("provider",), registry=registry
        )
        self._failures = Counter(
            "virtrigaud_circuit_breaker_failures", "Calls that count against a provider", ("provider",),
            registry=registry,
        )  # fmt: skip
        self._calls = Counter(
            "virtrigaud_provider_rpc_requests", "Calls to providers", ("provider", "method", "reason"),
            registry=registry,
        )  # fmt: skip
        self._latency = Histogram(
            "virtrigaud_provider_rpc_latency_seconds", "Time of one call", ("provider", "method"),
            buckets=RPC_BUCKETS, registry=registry,
        )  # fmt: skip

    @contextmanager
    def rpc(self, provider: str, method: str) -> Iterator[None]:
        """Time one call and count its outcome."""
        begun, reason = time.monotonic(), ""
        try:
            yield
        except BaseException as error:
            reason = error.reason if isinstance(error, ProviderError) else "Cancelled"
            raise
        finally:
            self._calls.labels(provider, method, reason).inc()
            self._latency.labels(provider, method).observe(time.monotonic() - begun)

    def up(self, provider: str, up: bool) -> None:
        self._up.labels(provider).set(up)

    def known(self, provider: str, kind: str, version: str) -> None:
        """What it is now; what it was is dropped."""
        self._info.remove_by_labels({"provider": provider})
        self._info.labels(provider, kind, version).set(1)

    def gone(self, provider: str) -> None:
        """Drop the series of a Provider that was deleted."""
        for each in (self._up, self._breaker, self._info, self._failures, self._calls, self._latency):
            each.remove_by_labels({"provider": provider})

    def breaker(self, provider: str, state: int) -> None:
        self._breaker.labels(provider).set(state)

    def breaker_failure(self, provider: str) -> None:
        self._failures.labels(provider).inc()


class ApiMetrics:
    """What the Kubernetes API is asked, and what it tells."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "virtrigaud_api_requests",
            "Requests to the Kubernetes API; a code of 0 is no answer, or none in time",
            ("verb", "resource", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "virtrigaud_api_request_duration_seconds",
            "How long the Kubernetes API took for an answer, watches aside",
            ("verb", "resource"), buckets=API_BUCKETS, registry=registry,
        )  # fmt: skip
        self._writes = Counter(
            "virtrigaud_api_writes", "Writes to our own objects by kind", ("kind",), registry=registry
        )
        self._contact = Gauge(
            "virtrigaud_informer_contact_timestamp_seconds", "Unix time of the last word of the API server on a kind",
            ("kind",), registry=registry,
        )  # fmt: skip
        self._relists = Counter(
            "virtrigaud_informer_lists", "Times that all objects of a kind were listed", ("kind",), registry=registry
        )

    def asked(self, verb: str, resource: str, status: int, seconds: float | None) -> None:
        """A request has been answered. Args: status: HTTP's; 0 for none. seconds: None for a watch, which goes on."""
        self._requests.labels(verb, resource, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(verb, resource).observe(seconds)

    def contact(self, kind: str, now: float) -> None:
        """The API server has told something of a kind. Args: now: seconds since 1970."""
        self._contact.labels(kind).set(now)

    def listed(self, kind: str) -> None:
        self._relists.labels(kind).inc()

    def wrote(self, kind: str) -> None:
        self._writes.labels(kind).inc()


def _outcome(error: BaseException) -> str:
    """What a reconcile that did not come to its end is counted as; "error" is a bug of ours."""
    match error:
        case ProviderError():
            return error.reason
        case Hold():
            return "waiting"
        case ConflictError():
            return "conflict"
        case ApiError():
            return "api"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "error"
