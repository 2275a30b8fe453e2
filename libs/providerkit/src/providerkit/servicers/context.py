"""What a servicer needs of the call's context."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class Context(Protocol):
    """The part of grpc.aio.ServicerContext that is used here."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        ...


def seconds(duration: timedelta | None, default: float) -> float:
    """A duration of the wire in seconds, negative ones as none at all."""
    return default if duration is None else max(0.0, duration.total_seconds())
