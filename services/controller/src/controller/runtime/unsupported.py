"""A mode that is not there says so, clearly."""

from __future__ import annotations

import asyncio
from typing import Literal

from kinds.provider import Provider

from . import RuntimeState


class UnsupportedRuntime:
    """Refuses every Provider of its mode."""

    def __init__(self, mode: Literal["Process", "External", "Kubernetes"], cure: str) -> None:
        self.mode = mode
        self._cure = cure

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def ensure(self, provider: Provider) -> RuntimeState:
        message = f"runtime mode {self.mode} is not supported by this controller; {self._cure}"
        return RuntimeState("Failed", "NotSupportedYet", message)

    async def remove(self, uid: str) -> None:
        """Nothing was started."""
