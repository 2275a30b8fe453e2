"""OpenTelemetry traces: off unless a service sets them up.

When on, W3C trace context crosses gRPC, tasks and `asyncio.to_thread`, and its ids stand in every log record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common import redact

_SCOPE = "virtrigaud"


class Tracing:
    """Traces of this process; `close` sends what is left."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider

    def close(self) -> None:
        """Send what is left and stop; harmless when tracing is off or closed."""
        if self._provider is not None:
            self._provider.shutdown()

    def __enter__(self) -> Tracing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def setup(
    service: str,
    otlp_endpoint: str | None,
    *,
    version: str = "",
    ratio: float = 1.0,
    processors: tuple[SpanProcessor, ...] = (),
) -> Tracing:
    """Begin to trace, once per process, before servers and channels are made.

    Args:
        otlp_endpoint: "http://host:4317" for plaintext gRPC, "https://..." for TLS; None leaves tracing off.
        ratio: part of the traces that begin here which is kept; those begun elsewhere follow their sampling flag.
        processors: further receivers of spans.
    Raises:
        ValueError: the endpoint is no http(s) URL.
    """
    if not otlp_endpoint and not processors:
        return Tracing(None)
    if otlp_endpoint and not otlp_endpoint.startswith(("http://", "https://")):
        raise ValueError(f"OTLP endpoint {redact.text(otlp_endpoint)!r}: write http://host:4317, or https:// for TLS")
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": version}),
        sampler=ParentBased(TraceIdRatioBased(ratio)),
    )
    for processor in processors:
        provider.add_span_processor(processor)
    if otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    propagate.set_global_textmap(TraceContextTextMapPropagator())
    return Tracing(provider)


def enabled() -> bool:
    """Whether spans go anywhere."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


@contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, **attributes: object) -> Iterator[Span]:
    """Do something as a span; an exception makes it a failed one. Secrets in attributes are masked.

    Of an error a span tells the type alone: what a hypervisor says may quote the boot data that it was given.

    Code run by `asyncio.to_thread` and tasks started inside belong to the span, as they share its context.
    """
    tracer = trace.get_tracer(_SCOPE)
    with tracer.start_as_current_span(
        name, kind=kind, record_exception=False, set_status_on_exception=False
    ) as current:
        if current.is_recording():
            for key, item in attributes.items():
                current.set_attribute(key.replace("__", "."), _attribute(key, item))
        try:
            yield current
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def headers() -> tuple[tuple[str, str], ...]:
    """The current span as gRPC metadata; empty outside of any."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def server_interceptors() -> list[grpc.aio.ServerInterceptor]:
    """What a server needs to continue its callers' traces; none when tracing is off."""
    if not enabled():
        return []
    make: Any = aio_server_interceptor  # it has no types
    return [make(filter_=lambda details: not details.method.startswith("/grpc."))]


def _attribute(key: str, item: object) -> str | bool | int | float:
    shown = redact.value(key, item)
    return shown if isinstance(shown, str | bool | int | float) else str(shown)
