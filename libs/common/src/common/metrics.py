"""Prometheus metrics, and the HTTP server that shows them beside `/healthz` and `/readyz`.

Bind labels once and keep the child: `TOTAL.labels(...)` costs more than counting.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST as PLAIN
from prometheus_client.exposition import generate_latest as plain
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bucket bounds for anything that lasts: from a local answer to a copied image."""


@dataclass(frozen=True, slots=True)
class _Families:
    started: Counter
    handled: Counter
    seconds: Histogram
    in_flight: Gauge
    messages: Counter


class RpcMetrics:
    """Rate, errors and duration of the calls of one side ("server" or "client")."""

    def __init__(self, side: str, registry: CollectorRegistry) -> None:
        prefix, method = f"virtrigaud_rpc_{side}", ("service", "method")
        self._families = _Families(
            Counter(f"{prefix}_started", f"Calls begun on the {side}", method, registry=registry),
            Counter(
                f"{prefix}_handled", f"Calls ended on the {side}, by status code", (*method, "code"), registry=registry
            ),
            Histogram(
                f"{prefix}_seconds", f"How long calls took on the {side}", method, registry=registry, buckets=SECONDS
            ),
            Gauge(f"{prefix}_in_flight", f"Calls that are open on the {side}", method, registry=registry),
            Counter(f"{prefix}_stream_messages", f"Messages sent by streams on the {side}", method, registry=registry),
        )
        self.method = functools.lru_cache(maxsize=1024)(self._method)

    def _method(self, path: str) -> MethodMetrics:
        service, _, name = path.lstrip("/").partition("/")
        return MethodMetrics(self._families, service, name)


class MethodMetrics:
    """The bound children of one method."""

    def __init__(self, families: _Families, service: str, name: str) -> None:
        self.started = families.started.labels(service, name)
        self.seconds = families.seconds.labels(service, name)
        self.in_flight = families.in_flight.labels(service, name)
        self.messages = families.messages.labels(service, name)
        self._handled = functools.lru_cache(maxsize=32)(lambda code: families.handled.labels(service, name, code))

    def begin(self) -> None:
        self.started.inc()
        self.in_flight.inc()

    def end(self, code: str, seconds: float) -> None:
        self.in_flight.dec()
        self.seconds.observe(seconds)
        self._handled(code).inc()


@functools.cache
def rpc(side: str, registry: CollectorRegistry = REGISTRY) -> RpcMetrics:
    """The call metrics of one side; one set per registry."""
    return RpcMetrics(side, registry)


def build_info(service: str, version: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Show which build runs, as `virtrigaud_build_info`; a service calls it once."""
    labels = ("service", "version", "python")
    gauge = Gauge("virtrigaud_build_info", "Constantly 1; the labels say what runs", labels, registry=registry)
    gauge.labels(service, version, platform.python_version()).set(1)


@functools.cache
def _certificates(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "virtrigaud_certificate_expiry_timestamp_seconds",
        "Unix time at which a certificate in use expires; 0 when its file cannot be read",
        ("file",),
        registry=registry,
    )


def certificate(file: str, expires: Callable[[], float], registry: CollectorRegistry = REGISTRY) -> None:
    """Show when a certificate expires, asked anew at each scrape, so that a renewal shows at once."""
    _certificates(registry).labels(file).set_function(expires)


def certificate_gone(file: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Drop the series of a certificate that is not used any more; none is as good."""
    gauge = _certificates(registry)
    if (file,) in gauge._metrics:
        gauge.remove(file)


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """Where the metrics are served."""

    host: str
    port: int


def _nothing() -> Sequence[str]:
    return ()


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    ready: Callable[[], Sequence[str]] = _nothing,
    alive: Callable[[], Sequence[str]] = _nothing,
    registry: CollectorRegistry = REGISTRY,
) -> AsyncIterator[MetricsServer]:
    """Serve `/metrics`, `/healthz` and `/readyz` over HTTP; port 0 takes a free one.

    Args:
        ready: what keeps the service from doing its work now; empty means ready. Cheap: called at each request.
        alive: what only a restart of the process would cure; empty means alive.
    Raises:
        OSError: the address cannot be used; the message names it.
    """
    app = web.Application()
    app.router.add_get("/metrics", functools.partial(_metrics, registry))
    app.router.add_get("/healthz", functools.partial(_verdict, alive))
    app.router.add_get("/readyz", functools.partial(_verdict, ready))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            raise OSError(
                error.errno, f"metrics cannot be served on {host}:{port}: {error.strerror}; choose a free port"
            ) from error
        yield MetricsServer(host, int(runner.addresses[0][1]))
    finally:
        await runner.cleanup()


async def _metrics(registry: CollectorRegistry, request: web.Request) -> web.Response:
    if "application/openmetrics-text" in request.headers.get("Accept", ""):
        body: bytes = openmetrics(registry)  # type: ignore[no-untyped-call]
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS})
    return web.Response(body=plain(registry), headers={"Content-Type": PLAIN})


async def _verdict(problems: Callable[[], Sequence[str]], request: web.Request) -> web.Response:
    found = list(problems())
    return web.Response(text="\n".join(found or ["ok"]) + "\n", status=503 if found else 200)
