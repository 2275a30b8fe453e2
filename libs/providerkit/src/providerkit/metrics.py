"""What a provider tells Prometheus of its hypervisor and of its work, beside the calls that every server counts."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common import v1
from common.clock import Clock
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from .operations import Operations
    from .watch import Hub

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

    def show(self, hub: Hub, operations: Operations, clock: Clock) -> Figures:
        """Have what is true at each scrape shown; give it back to `hide`."""
        figures = Figures(hub, operations, clock)
        self._registry.register(figures)
        return figures

    def hide(self, figures: Figures) -> None:
        self._registry.unregister(figures)


class Figures:
    """Read at each scrape: nothing is counted while nobody asks."""

    def __init__(self, hub: Hub, operations: Operations, clock: Clock) -> None:
        self._hub, self._operations, self._clock = hub, operations, clock

    def describe(self) -> list[GaugeMetricFamily]:
        """Names without figures, which there may be none of yet."""
        return [
            GaugeMetricFamily("virtrigaud_hypervisor_up", "1 while the session works and what is known is true"),
            GaugeMetricFamily("virtrigaud_provider_machines", "Our machines, by their power", labels=("power",)),
            GaugeMetricFamily(
                "virtrigaud_provider_foreign_machines", "Machines at the last full look that are not ours"
            ),
            GaugeMetricFamily("virtrigaud_provider_tasks_inflight", "Work under way, by what it is", labels=("kind",)),
            GaugeMetricFamily(
                "virtrigaud_provider_task_oldest_seconds", "Age of the oldest work under way; 0 for none"
            ),
        ]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up, machines, foreign, inflight, oldest = self.describe()
        up.add_metric((), float(self._hub.available))
        for power, count in Count(machine.power for machine in self._hub.machines()).items():
            machines.add_metric(((v1.PowerState(power).name or "UNKNOWN").lower(),), count)
        foreign.add_metric((), self._hub.foreign)
        running = self._operations.running()
        for kind, count in Count(record.kind for record in running).items():
            inflight.add_metric((kind,), count)
        begun = min((record.start_time for record in running if record.start_time is not None), default=None)
        oldest.add_metric((), (self._clock.now() - begun).total_seconds() if begun is not None else 0.0)
        yield from (up, machines, foreign, inflight, oldest)
