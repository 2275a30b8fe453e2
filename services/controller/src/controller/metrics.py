"""What the controller tells Prometheus. Names keep to the original's where it had one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from common.errors import ProviderError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RECONCILE_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60)
RPC_BUCKETS = (0.002, 0.01, 0.05, 0.2, 1, 5, 30, 120)


class Metrics:
    """Counters and gauges of one controller, on a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._reconciles = Counter(
            "virtrigaud_manager_reconcile", "Reconciles by outcome", ("kind", "outcome"), registry=registry
        )
        self._seconds = Histogram(
            "virtrigaud_manager_reconcile_duration_seconds", "Time of one reconcile", ("kind",),
            buckets=RECONCILE_BUCKETS, registry=registry,
        )  # fmt: skip
        self._depth = Gauge("virtrigaud_queue_depth", "Keys that wait for a worker", registry=registry)
        self._age = Gauge("virtrigaud_queue_age_seconds", "Age of the oldest waiting key", registry=registry)
        self._up = Gauge("virtrigaud_provider_up", "1 while the hypervisor answers", ("provider",), registry=registry)
        self._vms = Gauge("virtrigaud_vms", "Virtual machines by phase", ("phase",), registry=registry)
        self._breaker = Gauge(
            "virtrigaud_circuit_breaker_state", "0 closed, 1 half-open, 2 open", ("provider",), registry=registry
        )
        self._calls = Counter(
            "virtrigaud_provider_rpc_requests",
            "Calls to providers",
            ("provider", "method", "reason"),
            registry=registry,
        )
        self._latency = Histogram(
            "virtrigaud_provider_rpc_latency_seconds", "Time of one call", ("provider", "method"),
            buckets=RPC_BUCKETS, registry=registry,
        )  # fmt: skip
        self._writes = Counter(
            "virtrigaud_api_writes", "Writes to the Kubernetes API by kind", ("kind",), registry=registry
        )

    @contextmanager
    def reconcile(self, kind: str) -> Iterator[None]:
        """Time one reconcile and count its outcome."""
        begun, outcome = time.monotonic(), "success"
        try:
            yield
        except BaseException as error:
            outcome = error.reason if isinstance(error, ProviderError) else "error"
            raise
        finally:
            self._reconciles.labels(kind, outcome).inc()
            self._seconds.labels(kind).observe(time.monotonic() - begun)

    def unchanged(self, kind: str) -> None:
        """Count a look that found at once that nothing differs."""
        self._reconciles.labels(kind, "unchanged").inc()

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

    def queue(self, depth: int, age: float) -> None:
        self._depth.set(depth)
        self._age.set(age)

    def provider_up(self, provider: str, up: bool) -> None:
        self._up.labels(provider).set(up)

    def provider_gone(self, provider: str) -> None:
        """Drop the series of a Provider that was deleted."""
        for gauge in (self._up, self._breaker):
            if (provider,) in gauge._metrics:
                gauge.remove(provider)

    def breaker(self, provider: str, state: int) -> None:
        self._breaker.labels(provider).set(state)

    def vms(self, phases: Mapping[str, int]) -> None:
        """Replace the whole picture."""
        self._vms.clear()
        for phase, count in phases.items():
            self._vms.labels(phase).set(count)

    def wrote(self, kind: str) -> None:
        self._writes.labels(kind).inc()
