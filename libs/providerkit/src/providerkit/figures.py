"""What a provider shows Prometheus of what is true now: its session, its machines, its work under way."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator

from common import v1
from common.clock import Clock
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .operations import Operations
from .watch import Hub


class Figures(Collector):
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
