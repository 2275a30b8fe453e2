"""What a provider counts of its hypervisor and of its work, beside the calls that every server counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector

WORK_BUCKETS = (0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """On one registry, for one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._work = Histogram(
            "virtrigaud_provider_task_duration_seconds", "Time of a piece of work, by what it was and how it ended",
            ("kind", "outcome"), buckets=WORK_BUCKETS, registry=registry,
        )  # fmt: skip
        self._lag = Histogram(
            "virtrigaud_provider_change_lag_seconds", "From the hypervisor's word that a machine changed to telling it",
            buckets=LAG_BUCKETS, registry=registry,
        )  # fmt: skip
        self._outages = Counter(
            "virtrigaud_hypervisor_outages", "Times that the hypervisor stopped answering", registry=registry
        )

    def ended(self, kind: str, outcome: str, seconds: float) -> None:
        """A piece of work has ended."""
        self._work.labels(kind, outcome).observe(seconds)

    def told(self, seconds: float) -> None:
        """Subscribers are told of a machine, so long after the hypervisor's word."""
        self._lag.observe(seconds)

    def outage(self) -> None:
        self._outages.inc()

    @contextmanager
    def showing(self, figures: Collector) -> Iterator[None]:
        """Show what is true at each scrape, as long as it is."""
        self._registry.register(figures)
        try:
            yield
        finally:
            self._registry.unregister(figures)
