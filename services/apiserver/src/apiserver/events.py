"""One store, two views: core/v1 Event and events.k8s.io/v1 Event."""

from __future__ import annotations

from typing import Any

_NAMES = {  # events.k8s.io/v1 -> core/v1
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_BACK = {core: new for new, core in _NAMES.items()}


def to_core(obj: dict[str, Any]) -> dict[str, Any]:
    """Return an events.k8s.io/v1 Event as core/v1."""
    return {**{_NAMES.get(key, key): value for key, value in obj.items()}, "apiVersion": "v1", "kind": "Event"}


def from_core(obj: dict[str, Any]) -> dict[str, Any]:
    """Return a core/v1 Event as events.k8s.io/v1."""
    out = {_BACK.get(key, key): value for key, value in obj.items()}
    return {**out, "apiVersion": "events.k8s.io/v1", "kind": "Event"}
