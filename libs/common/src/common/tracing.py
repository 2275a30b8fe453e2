"""OpenTelemetry traces: sent nowhere unless a service sets them up.

W3C trace context crosses gRPC, tasks and `asyncio.to_thread`, and its ids stand in every log record, whether or not
spans are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common import redact

_SCOPE = "virtrigaud"
_W3C = TraceContextTextMapPropagator()


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
        id_generator=_Ids(),
    )
    for processor in processors:
        provider.add_span_processor(processor)
    if otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    propagate.set_global_textmap(_W3C)
    return Tracing(provider)


def enabled() -> bool:
    """Whether spans go anywhere."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, expected: tuple[type[Exception], ...] = (), **attributes: object
) -> Iterator[Span]:
    """Do something as a span; an exception that is not expected makes it a failed one. Secrets are masked.

    Of an error a span tells type and reason alone: what a hypervisor says may quote the boot data that it was given.

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
            current.set_attribute("error.type", str(getattr(error, "reason", "") or type(error).__name__))
            if not isinstance(error, expected):
                current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@dataclass(frozen=True, slots=True)
class Root:
    """The span that holds a whole trace: known by what it is about, before and without being written anywhere."""

    trace_id: int
    span_id: int
    parent: SpanContext | None = None
    """Somebody else's span, which it continues."""


def root(*about: str, traceparent: str = "") -> Root:
    """The root of what is told by these words: always the same one, whichever process asks.

    Args:
        traceparent: W3C trace context of a span that it is part of; empty for a trace of its own.
    Raises:
        ValueError: the traceparent is none.
    """
    digest = hashlib.sha256("\0".join(about).encode()).digest()
    trace_id, span_id = int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1  # zero means: none
    if not traceparent:
        return Root(trace_id, span_id)
    parent = trace.get_current_span(_W3C.extract({"traceparent": traceparent}, Context())).get_span_context()
    if not parent.is_valid:
        raise ValueError(
            f"{redact.text(traceparent[:100])!r} is no W3C traceparent: write 00-TRACE-SPAN-01 in hex digits"
        )
    return Root(parent.trace_id, span_id, parent)


TRACEPARENT = "virtrigaud.io/traceparent"
"""Annotation by which a user has an object's trace be part of one of theirs."""


def of_generation(uid: str, generation: int, annotations: Mapping[str, str]) -> Root:
    """Of a change of an object until it is Ready, told by the object alone (ADR 23).

    Raises:
        ValueError: the annotation `TRACEPARENT` is none.
    """
    return root(uid, str(generation), traceparent=annotations.get(TRACEPARENT, ""))


@contextmanager
def under(origin: Root) -> Iterator[None]:
    """What is done inside belongs to the root's trace: spans, calls, log records."""
    flags = TraceFlags(TraceFlags.SAMPLED if _sampled(origin) else TraceFlags.DEFAULT)
    context = SpanContext(origin.trace_id, origin.span_id, is_remote=True, trace_flags=flags)
    with trace.use_span(NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def apart() -> Iterator[None]:
    """What is begun inside belongs to no trace: tasks that outlive whatever began them."""
    with trace.use_span(trace.INVALID_SPAN, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def unseen() -> Iterator[None]:
    """What is done inside writes no spans, neither here nor where it calls: questions that are asked again for ever."""
    made = RandomIdGenerator()
    context = SpanContext(made.generate_trace_id(), made.generate_span_id(), is_remote=False)
    with trace.use_span(NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
        yield


def end(origin: Root, name: str, begun: float, **attributes: object) -> None:
    """Write the root itself, now that all of it is done. Args: begun: seconds since 1970."""
    if not enabled():
        return
    above = trace.set_span_in_context(NonRecordingSpan(origin.parent), Context()) if origin.parent else Context()
    token = _CHOSEN.set((origin.trace_id, origin.span_id))
    try:
        written = trace.get_tracer(_SCOPE).start_span(name, above, start_time=int(begun * 1e9))
    finally:
        _CHOSEN.reset(token)
    for key, item in attributes.items():
        written.set_attribute(key.replace("__", "."), _attribute(key, item))
    written.end()


def trace_id() -> str:
    """Id of the trace that is worked on, 32 hex digits; empty outside of any."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def continued(metadata: Iterable[tuple[str, str | bytes]]) -> Span:
    """The caller's span by its gRPC metadata, to go on with; one that is not valid when it sent none."""
    carrier = {key: text for key, text in metadata if isinstance(text, str)}
    return trace.get_current_span(_W3C.extract(carrier, Context()))


def headers() -> tuple[tuple[str, str], ...]:
    """The current span as gRPC metadata; empty outside of any."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def serving(name: str, metadata: Iterable[tuple[str, str | bytes]], **attributes: object) -> Iterator[Span]:
    """Answer a call as a span of its caller's trace. How it ended is for the caller of this to say."""
    context = trace.set_span_in_context(continued(metadata), Context())
    told = {key.replace("__", "."): _attribute(key, item) for key, item in attributes.items()}
    with trace.get_tracer(_SCOPE).start_as_current_span(
        name, context, SpanKind.SERVER, told, record_exception=False, set_status_on_exception=False
    ) as current:
        yield current


def _attribute(key: str, item: object) -> str | bool | int | float:
    shown = redact.value(key, item)
    return shown if isinstance(shown, str | bool | int | float) else str(shown)


_CHOSEN: ContextVar[tuple[int, int] | None] = ContextVar("chosen ids", default=None)


class _Ids(RandomIdGenerator):
    """Random, but for a root, whose ids others may know already."""

    def generate_trace_id(self) -> int:
        chosen = _CHOSEN.get()
        return chosen[0] if chosen is not None else super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen = _CHOSEN.get()
        return chosen[1] if chosen is not None else super().generate_span_id()


def _sampled(origin: Root) -> bool:
    """Whether its spans are kept, here or, with tracing off here, by others on the way."""
    if origin.parent is not None:
        return bool(origin.parent.trace_flags.sampled)
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        return True
    decided = provider.sampler.should_sample(Context(), origin.trace_id, "root").decision
    return decided is Decision.RECORD_AND_SAMPLE
