"""Every metric of ours, read from the registries that our services really make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apiserver.app import Metrics as ApiServerMetrics
from common import metrics
from common.clock import SystemClock
from controller.metrics import Metrics as ControllerMetrics
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.figures import Figures
from providerkit.metrics import Metrics as ProviderMetrics
from providerkit.operations import Operations
from providerkit.watch import Hub

LIBRARY = (ProcessCollector, PlatformCollector, GCCollector)
"""process_* and python_*, which every service has."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@dataclass(frozen=True)
class Family:
    """A metric as it is written in queries: counters with `_total`, histograms without their suffixes."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    services: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query may use."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in SUFFIXES["histogram"])
        return (self.name,)


def families() -> dict[str, Family]:
    """By name."""
    found: dict[str, Family] = {}
    for service, registry in _registries():
        for family in _of(service, registry):
            known = found.get(family.name)
            services = (*known.services, service) if known is not None else (service,)
            assert known is None or (known.kind, known.labels) == (family.kind, family.labels), family
            found[family.name] = Family(family.name, family.kind, family.labels, family.help, services)
    return found


def _registries() -> Iterator[tuple[str, CollectorRegistry]]:
    controller, provider = CollectorRegistry(), CollectorRegistry()
    for registry, side in ((controller, "client"), (provider, "server")):
        metrics.build_info("inventory", "0", registry)
        metrics.certificate("inventory", lambda: 0.0, registry)
        metrics.rpc(side, registry)
    ControllerMetrics(controller)
    clock = SystemClock()
    ProviderMetrics(provider)
    provider.register(Figures(Hub(FakeDriver(FakeHypervisor(), owner="x"), clock), Operations(clock), clock))
    yield "controller", controller
    yield "provider", provider
    yield "API server", ApiServerMetrics(lambda: 0).registry


def _of(service: str, registry: CollectorRegistry) -> Iterator[Family]:
    ours = [each for each in registry._collector_to_names if not isinstance(each, LIBRARY)]
    for collector in ours:
        for each in collector.describe():  # type: ignore[attr-defined]  # all of ours have it
            # The library keeps labels to itself: there is no other way to learn them before a series exists.
            labels = getattr(collector, "_labelnames", None) or getattr(each, "_labelnames", ())
            name = each.name + ("_total" if each.type == "counter" else "")
            yield Family(name, each.type, tuple(labels), each.documentation, (service,))
