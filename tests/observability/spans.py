"""What a test may ask of the spans that our code wrote."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider


class Ended(SpanProcessor):
    """Keeps what has ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Ended:
    """OpenTelemetry's provider can be set but once per process; this one is for one test."""
    found, provider = Ended(), TracerProvider()
    provider.add_span_processor(found)
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    return found
