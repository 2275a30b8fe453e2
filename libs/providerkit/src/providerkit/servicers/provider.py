"""ProviderService on the wire."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from common import v1
from common.clock import Clock

from providerkit.driver import Driver

from .context import Context


class ProviderServicer:
    """Translates ProviderService."""

    def __init__(
        self, driver: Driver, clock: Clock, *, owner: str, version: str, instance: str, max_concurrent_changes: int
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._owner = owner
        self._version = version
        self._instance = instance
        self._max_concurrent_changes = max_concurrent_changes

    async def get_provider(self, request: v1.GetProviderRequest, context: Context) -> v1.GetProviderResponse:
        """What the server is and can do on this endpoint."""
        facts = await self._driver.describe()
        limits = dataclasses.replace(facts.limits or v1.Limits(), max_concurrent_changes=self._max_concurrent_changes)
        return dataclasses.replace(
            facts, type=self._driver.type, version=self._version, owner=self._owner, limits=limits,
            instance=self._instance,
        )  # fmt: skip

    async def check_connection(
        self, request: v1.CheckConnectionRequest, context: Context
    ) -> v1.CheckConnectionResponse:
        """One real round trip."""
        start = self._clock.monotonic()
        hypervisor = await self._driver.check()
        round_trip = timedelta(seconds=self._clock.monotonic() - start)
        return v1.CheckConnectionResponse(round_trip=round_trip, hypervisor=hypervisor)
