"""InventoryService on the wire."""

from __future__ import annotations

from common import v1

from providerkit.driver import Driver

from .context import Context


class InventoryServicer:
    """Translates InventoryService."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def get_inventory(self, request: v1.GetInventoryRequest, context: Context) -> v1.GetInventoryResponse:
        """Hosts, storages and networks."""
        return await self._driver.inventory()
