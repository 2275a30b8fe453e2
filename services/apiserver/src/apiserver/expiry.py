"""Events do not live for ever."""

from __future__ import annotations

import asyncio

import structlog

from .errors import ApiError
from .operations import Operations
from .options import DeleteOptions
from .times import instant

log = structlog.get_logger(__name__)
SWEEP_SECONDS = 30.0


class Expiry:
    """Deletes Events that nobody has touched for their time to live."""

    def __init__(self, operations: Operations, ttl: float) -> None:
        """Take the time to live in seconds."""
        self._ops = operations
        self._ttl = ttl

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except ApiError as error:
                log.warning("expiry.failed", **error.place())
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> int:
        """Delete what is too old now; returns how many."""
        resource = self._ops.registry.find("", "v1", "events")
        if resource is None:
            return 0
        count = 0
        limit = self._ops.clock() - self._ttl
        for item in self._ops.store.items(resource.key):
            created = instant(item.meta.creationTimestamp)
            if created is None or created > limit:
                continue
            if self._last_seen(item.object()) <= limit:
                try:
                    await self._ops.delete(resource, item.namespace, item.name, DeleteOptions(uid=item.meta.uid))
                except ApiError as error:
                    if error.code not in (404, 409):
                        raise
                count += 1
        return count

    def _last_seen(self, event: dict[str, object]) -> float:
        series = event.get("series")
        times = [event.get("lastTimestamp"), event.get("eventTime"), event.get("firstTimestamp")]
        if isinstance(series, dict):
            times.append(series.get("lastObservedTime"))
        return max((instant(t) or 0.0 for t in times if isinstance(t, str)), default=0.0)
