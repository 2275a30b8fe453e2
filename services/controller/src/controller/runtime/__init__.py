"""How provider servers run, behind one small interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from kinds.provider import Provider

from controller.connection import Target

Phase = Literal["Pending", "Starting", "Running", "Stopping", "Failed"]
API_REFUSED = "RefusedByApiServer"
"""Reason of a state: the API server refused us what keeps the server in order. The server itself may run well."""


@dataclass(frozen=True)
class RuntimeState:
    """How the server of one Provider runs now."""

    phase: Phase
    reason: str
    message: str
    target: Target | None = None
    """Where to dial; None while there is nothing to dial. A server may work on though it is not as it should be."""


class Runtime(Protocol):
    """Runs, or knows, the provider servers of one mode."""

    mode: Literal["Process", "External", "Kubernetes"]

    async def run(self) -> None:
        """Own what it starts, until cancelled."""
        ...

    async def ensure(self, provider: Provider) -> RuntimeState:
        """Make the server run as the object says; answers at once with how far it is."""
        ...

    async def remove(self, uid: str) -> None:
        """End the server of a Provider that goes."""
        ...
