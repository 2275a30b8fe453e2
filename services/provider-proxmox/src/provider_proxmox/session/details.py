"""Which guests have to be read whole, and reading them: a bounded number at a time, each as often as something changed.

What nothing points at is read, too, one guest after the other and slowly: a person may change a configuration without
a task and without a trace in any list.
"""

from __future__ import annotations

import asyncio
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import HypervisorUnavailableError, PermissionMissingError, ProviderError

from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.reading import Reader
from provider_proxmox.session.rows import GarbledError

log = logging.get(__name__)

FIRST_PAUSE, HIDDEN_PAUSE, LONGEST_PAUSE = 1.0, 60.0, 300.0
"""Seconds for which a guest that could not be read is left alone."""


class Details:
    """Reads what was marked. `run` does it, as long as it runs."""

    def __init__(self, index: Index, reader: Reader, *, clock: Clock, concurrency: int) -> None:
        self._index = index
        self._reader = reader
        self._clock = clock
        self._places = asyncio.Semaphore(concurrency)
        self._stale: dict[int, str] = {}
        self._more = asyncio.Event()
        self._hidden: set[int] = set()
        self._aside: dict[int, tuple[float, float]] = {}
        """Guests that could not be read: until when they are left alone, and the pause after that."""
        self._rotation: list[int] = []

    def stale(self, vmid: int, node: str = "") -> None:
        """Have a guest read soon.

        Args:
            node: where it was seen, if that is not where the index has it.
        """
        until, _ = self._aside.get(vmid, (0.0, 0.0))
        if self._clock.monotonic() >= until:
            self._stale[vmid] = node or self._stale.get(vmid, "")
            self._more.set()

    def is_hidden(self, vmid: int) -> bool:
        """We may not look at it any more: no list shows it, and it is not gone for that."""
        return vmid in self._hidden

    def seen(self, vmid: int) -> None:
        """A list shows it (again)."""
        self._hidden.discard(vmid)

    async def run(self) -> None:
        """Read what is marked, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._more.clear()
                while self._stale:
                    await self._places.acquire()
                    vmid = next(iter(self._stale))
                    group.create_task(self._read(vmid, self._stale.pop(vmid)))
                await self._more.wait()

    async def _read(self, vmid: int, node: str) -> None:
        try:
            await self._reader.refresh(vmid, "read a guest", node=node)
            self._aside.pop(vmid, None)
            self._hidden.discard(vmid)
        except ProviderError as error:
            self.lay_aside(vmid, node, error)
        finally:
            self._places.release()

    async def read_listed(self, number: int, node: str, row: dict[str, Any]) -> None:
        """Read what a row of the full list of a node lacks: at the start, when everything is read."""
        async with self._places:
            try:
                await self._reader.read_listed(number, node, row, "read the guests")
            except ProviderError as error:
                self.lay_aside(row["vmid"], node, error)

    def lay_aside(self, vmid: int, node: str, error: ProviderError) -> None:
        """It could not be read: it is there, nobody knows how, and the next list that shows it begins anew."""
        hidden = isinstance(error, PermissionMissingError)
        if not hidden or vmid not in self._hidden:
            log.warning("pve.guest.unread", vmid=vmid, error=str(error))
        if hidden:
            self._hidden.add(vmid)
        _, pause = self._aside.get(vmid, (0.0, FIRST_PAUSE))
        if hidden:
            pause = max(pause, HIDDEN_PAUSE)
        elif isinstance(error, HypervisorUnavailableError) and not isinstance(error, GarbledError):
            pause = FIRST_PAUSE  # that is about its node, which says when it is back
        self._aside[vmid] = self._clock.monotonic() + pause, min(pause * 2, LONGEST_PAUSE)
        self._reader.signatures.pop(vmid, None)
        known = self._index.guests.get(vmid)
        if known is None and node:
            self._reader.note(Guest(vmid, node))
        elif known is not None:
            self.lose(known)

    def lose(self, guest: Guest) -> None:
        """What it does is unknown; it is not over."""
        if guest.status != "unknown":
            self._reader.amend(guest.vmid, status="unknown", qmpstatus="", agent={})

    async def rotate(self) -> None:
        """Look whether the configuration is still the same of the guest that was looked at longest ago.

        Raises:
            ProviderError: nobody can tell; its turn is over all the same.
        """
        for _ in range(2):
            while self._rotation:
                guest = self._index.guests.get(self._rotation.pop())
                if guest is not None and guest.vmid in self._hidden:
                    self.stale(guest.vmid)  # no list tells when it goes
                elif guest is not None and guest.stamp is not None and guest.status != "unknown":
                    await self._check(guest)
                    return
            self._rotation = sorted(self._index.guests, reverse=True)

    async def check(self, vmid: int) -> None:
        """Look whether the configuration of a guest is still the one that is known; if not, it is read soon.

        Raises:
            HypervisorUnavailableError: nobody can tell.
        """
        guest = self._index.guests.get(vmid)
        if guest is not None and guest.status != "unknown":
            await self._check(guest)

    async def _check(self, guest: Guest) -> None:
        try:
            if await self._reader.digest(guest, "look at a configuration") != guest.digest:
                self.stale(guest.vmid)
        except GarbledError:
            self.stale(guest.vmid)
        except HypervisorUnavailableError:
            raise
        except ProviderError:
            self.stale(guest.vmid)  # reading it whole finds out what is the matter
