"""Spans of our processes, received as any collector receives them: OTLP over gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """One span; times in seconds since 1970."""

    name: str
    service: str
    trace: bytes
    id: bytes
    parent: bytes
    begin: float
    end: float
    attributes: dict[str, str]


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that keeps everything. Exporters send in batches, some seconds after a span has ended."""

    def __init__(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._news = threading.Condition()
        self._spans: list[Span] = []

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.stop(None).wait()

    def Export(self, request: Any, context: Any) -> Any:  # gRPC's name
        """Take a batch. Any: protobuf's messages have no types."""
        found = []
        for resource in request.resource_spans:
            service = _texts(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                found += [_span(span, service) for span in scope.spans]
        with self._news:
            self._spans += found
            self._news.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait(self, read: Callable[[Sequence[Span]], T], seconds: float = 30.0) -> T:
        """What a function makes of all spans, as soon as it finds all that it needs (until then: LookupError)."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                try:
                    return read(sorted(self._spans, key=lambda span: span.begin))
                except LookupError:
                    if not self._news.wait(deadline - time.monotonic()):
                        raise


def _span(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        service=service,
        trace=span.trace_id,
        id=span.span_id,
        parent=span.parent_span_id,
        begin=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=_texts(span.attributes),
    )


def _texts(attributes: Iterable[Any]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}
