"""Kinds that load and have no controller yet: each object says so."""

from __future__ import annotations

from typing import Any

import msgspec
from common.clock import Clock
from common.errors import ProviderError

from .conditions import Wish, merged
from .holds import Hold
from .informer import Informer, Name
from .status import READY
from .writer import Writer

REASON = "NotSupportedYet"


class NotYetReconciler:
    """Ready=False with a clear reason, once per generation."""

    def __init__(self, cache: Informer[Any], writer: Writer, clock: Clock) -> None:
        self.kind: str = cache.resource.kind
        self._cache, self._writer, self._clock = cache, writer, clock

    async def reconcile(self, name: Name) -> float | None:
        item = self._cache.get(*name)
        if item is None or item.metadata.deletion_timestamp:
            return None
        message = f"{self.kind} is not supported yet by this version: the object is stored and nothing acts on it"
        status = msgspec.structs.replace(item.status)
        status.observed_generation = item.metadata.generation
        wishes = [Wish(READY, "False", REASON, message)]
        generation, now = item.metadata.generation, self._clock.now()
        status.conditions = merged(item.status.conditions, wishes, (READY,), generation, now)
        await self._writer.status(self._cache, item, status)
        return None

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """It asks nobody, so nothing refuses."""
