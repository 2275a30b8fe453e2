"""Addresses that the cluster's own IPAM gave out: known without an agent, for NICs on networks of its SDN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import logging
from common.errors import NotSupportedError, PermissionMissingError, ResourceNotFoundError

from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.reading import Ask
from provider_proxmox.session.rows import Rows, text

log = logging.get(__name__)

PATH = "cluster/sdn/ipams/pve/status"
VNET = "vnet"


class Leases:
    """Keeps `Index.leases`."""

    def __init__(self, get: Ask, index: Index) -> None:
        self.on_change: Callable[[Guest], None] = lambda _guest: None
        """Told of each guest whose addresses changed."""
        self._get = get
        self._rows = Rows()
        self._index = index
        self._refused = ""

    async def look(self) -> None:
        """Ask, where there are such networks.

        Raises:
            HypervisorUnavailableError: the cluster does not answer.
        """
        if not any(VNET in kinds.values() for kinds in self._index.networks.values()):
            return
        try:
            rows = self._rows.take(await self._get("look at the addresses", PATH), "look at the addresses")
        except (NotSupportedError, PermissionMissingError, ResourceNotFoundError) as error:
            if str(error) != self._refused:
                log.warning("pve.leases.refused", error=str(error))
            self._refused = str(error)
            rows = []
        self._take(rows)

    def _take(self, rows: list[dict[str, Any]]) -> None:
        found: dict[str, set[str]] = {}
        for row in rows:
            mac, address = text(row.get("mac")).lower(), text(row.get("ip"))
            if mac and address and not row.get("gateway"):
                found.setdefault(mac, set()).add(address)
        leases = {mac: tuple(sorted(addresses)) for mac, addresses in found.items()}
        before, self._index.leases = self._index.leases, leases
        changed = {mac for mac in before.keys() | leases.keys() if before.get(mac) != leases.get(mac)}
        if changed:
            for guest in list(self._index.guests.values()):
                if any(mac in nic for nic in _nics(guest) for mac in changed):
                    self.on_change(guest)


def _nics(guest: Guest) -> list[str]:
    """Its NICs as the configuration has them, in lower case."""
    return [str(value).lower() for key, value in guest.config.items() if key.startswith("net") and key[3:].isdigit()]
