"""Reading one guest, whole and afresh, and keeping the index true while others read, too.

What began to be read later knows more: an answer that began before one that is in the index already is thrown away.
`pending` tells the running configuration and what waits for the next start, in one call and one moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from common.clock import Clock
from common.errors import HypervisorUnavailableError, MachineNotFoundError, PermissionMissingError

from provider_proxmox.session import rows as row_of
from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.pve_errors import NodeAwayError, VmidTakenError
from provider_proxmox.session.rows import GarbledError, Rows, every, mapping

Ask = Callable[..., Awaitable[Any]]
"""Pve.get, as far as it is needed here: doing, path, parameters."""

_MOVES = 5
"""So often a guest is looked for again that is not where the cluster says."""
_MOVE_PAUSE = 0.3
"""Seconds; in between, the nodes tell each other where it is."""
_ROW = ("status", "name", "lock", "tags", "template", "maxmem", "cpus", "maxdisk", "pid")
"""What of a list's row says that something changed; the rest changes all the time."""


def signature(row: dict[str, Any]) -> tuple[object, ...]:
    """Of a row of `nodes/N/qemu`, or of `status/current`, which says the same."""
    return tuple(str(row.get(key, "")) for key in _ROW)


class Reader:
    """Reads guests into the index."""

    def __init__(self, get: Ask, index: Index, *, clock: Clock) -> None:
        self.signatures: dict[int, tuple[object, ...]] = {}
        """What the last row or status of each guest said."""
        self.on_change: Callable[[Guest | None, Guest | None], None] = lambda _before, _after: None
        """Told of each guest that differs from what was known."""
        self._get = get
        self._rows = Rows()
        self._index = index
        self._clock = clock
        self._order = itertools.count(1)
        self._seen: dict[int, int] = {}

    def begin(self) -> int:
        """Draw a number before asking; what is put into the index goes with it."""
        return next(self._order)

    def put(self, number: int, guest: Guest) -> Guest:
        """Have it in the index, unless that knows something newer; what the index knows then."""
        known = self._index.guests.get(guest.vmid)
        if self._seen.get(guest.vmid, 0) > number:
            return known if known is not None else guest
        self._seen[guest.vmid] = number
        if known != guest:
            self._index.put(guest)
            self.on_change(known, guest)
        return guest

    def note(self, guest: Guest) -> None:
        """It is there, and more is not known; whatever was read of it, or is being read, says more."""
        if guest.vmid not in self._index.guests:
            self._index.put(guest)
            self.on_change(None, guest)

    def amend(self, vmid: int, **facts: Any) -> None:
        """Add what was learnt in another way than by reading the guest; a reading under way still counts."""
        known = self._index.guests.get(vmid)
        if known is not None and (guest := replace(known, **facts)) != known:
            self._index.put(guest)
            self.on_change(known, guest)

    def is_news(self, number: int, vmid: int) -> bool:
        """Whether what began with this number is newer than what is known of the guest."""
        return number > self._seen.get(vmid, 0)

    def remove(self, number: int, vmid: int) -> None:
        """It is definitely gone."""
        if not self.is_news(number, vmid):
            return
        self._seen[vmid] = number
        self.signatures.pop(vmid, None)
        known = self._index.drop(vmid)
        if known is not None:
            self.on_change(known, None)

    async def refresh(self, vmid: int, doing: str, *, node: str = "") -> Guest | None:
        """Read a guest now; None when it is definitely gone.

        Args:
            node: where it was seen last, if that is not where the index has it.
        Raises:
            HypervisorUnavailableError: its node does not answer, or it is moving and nobody can tell where it is.
            PermissionMissingError: we may not look at it (any more); it is not gone for that.
        """
        known = self._index.guests.get(vmid)
        node = node or (known.node if known is not None else "")
        for turn in range(_MOVES):
            if turn > 1:
                await self._clock.sleep(_MOVE_PAUSE)
            number = self.begin()
            if not node:
                if not await self._is_taken(vmid, doing):
                    self.remove(number, vmid)
                    return None
                node = await self.where(vmid, doing) or ""
                continue
            try:
                return await self._read(number, vmid, node, doing)
            except MachineNotFoundError:
                node = ""  # it moved, or it is gone
            except PermissionMissingError:  # so says Proxmox VE of what is gone, too, if only its pool was ours
                number = self.begin()
                if await self._is_taken(vmid, doing):
                    raise
                self.remove(number, vmid)
                return None
            except NodeAwayError:
                where = await self.where(vmid, doing)  # HA moves guests away from a node that is down
                if where == node:
                    raise
                node = where or ""
        await self._lost(vmid, doing)
        return None

    async def _lost(self, vmid: int, doing: str) -> None:
        """A VMID is taken, and by no guest that can be read."""
        number = self.begin()
        rows = await self.listed(doing)
        found = next((row for row in rows if row["vmid"] == vmid), None)
        if found is None:
            raise PermissionMissingError(f"{doing}: our user lacks VM.Audit on /vms/{vmid}, which is there")
        if found.get("type") != "lxc":
            raise HypervisorUnavailableError(
                f"{doing}: guest {vmid} is not where the cluster says; it may be moving", retry_after=2.0
            )
        self.remove(number, vmid)  # a container has its VMID now

    async def _is_taken(self, vmid: int, doing: str) -> bool:
        """Whether the cluster has a guest of this VMID: the one question whose answer no missing privilege hides."""
        try:
            await self._get(doing, "cluster/nextid", vmid=vmid)
        except VmidTakenError:
            return True
        return False

    async def where(self, vmid: int, doing: str) -> str | None:
        """The node that has it now; None when none has, or we may not see it."""
        found = (row for row in await self.listed(doing) if row["vmid"] == vmid and row.get("type") == "qemu")
        return next((row["node"] for row in found), None)

    async def listed(self, doing: str) -> list[dict[str, Any]]:
        """Rows of the guests and containers that the cluster lists: with their VMIDs and nodes."""
        said = await self._get(doing, "cluster/resources", type="vm")
        return self._rows.take(said, "list the guests", vmid=row_of.vmid, node=row_of.node)

    async def listed_whole(self, doing: str) -> list[dict[str, Any]]:
        """The same, where a guest counts as missing that is not in them.

        Raises:
            GarbledError: a row makes no sense, and may be of that very guest.
        """
        said = await self._get(doing, "cluster/resources", type="vm")
        return every(said, doing, vmid=row_of.vmid, node=row_of.node)

    async def digest(self, guest: Guest, doing: str) -> str:
        """Of its configuration as it is now, in one call."""
        rows = every(await self._get(doing, f"{guest.path}/pending"), doing, key=row_of.word)
        return next((row_of.text(row.get("value")) for row in rows if row["key"] == "digest"), "")

    async def read_listed(self, number: int, node: str, row: dict[str, Any], doing: str) -> Guest | None:
        """Read what a row of the full list of a node lacks; None when it went away meanwhile."""
        try:
            return await self._read(number, row["vmid"], node, doing, status=row)
        except MachineNotFoundError:
            return None

    async def _read(self, number: int, vmid: int, node: str, doing: str, status: dict[str, Any] | None = None) -> Guest:
        path = f"nodes/{node}/qemu/{vmid}"
        # The status first: a change in between then shows in the next list, as it differs from this status.
        listed = status is not None
        if status is None:
            status = mapping(await self._get(doing, f"{path}/status/current"), doing)
        rows = await self._get(doing, f"{path}/pending")
        guest = parsed(vmid, node, status, rows, doing)
        known = self._index.guests.get(vmid)
        if known is not None and known.digest == guest.digest:
            guest = replace(guest, snapshots=known.snapshots)
        elif not listed or guest.stamp is not None:  # nobody asks for those of all the others at a start
            guest = replace(guest, snapshots=snapshots(await self._get(doing, f"{path}/snapshot"), doing))
        if (known := self._index.guests.get(vmid)) is not None:  # what is learnt in other ways
            agent = known.agent if guest.status == "running" else {}
            guest = replace(guest, pool=known.pool, agent=agent)
        if self.is_news(number, vmid):
            self.signatures[vmid] = signature(status)
        return self.put(number, guest)


def parsed(vmid: int, node: str, status: dict[str, Any], said: object, doing: str) -> Guest:
    """A guest of its status and its configuration.

    Raises:
        GarbledError: a part of it makes no sense; without that the rest would be a lie.
    """
    rows = every(said, doing, key=row_of.word)
    config = {row["key"]: row["value"] for row in rows if row.get("value") is not None}
    pending = {
        row["key"]: None if row.get("delete") else row["pending"]
        for row in rows
        if row.get("delete") or row.get("pending") is not None
    }
    for key, value in (*config.items(), *pending.items()):
        if value is not None and not isinstance(value, str | int | float):
            raise GarbledError(f"{doing}: `{key}` of guest {vmid} is no text", retry_after=5.0)
    ha = mapping(status.get("ha") or {}, doing)
    return Guest(
        vmid=vmid,
        node=node,
        name=str(status.get("name") or config.get("name") or ""),
        status=str(status.get("status") or "unknown"),
        qmpstatus=str(status.get("qmpstatus") or ""),
        lock=str(config.get("lock") or status.get("lock") or ""),
        template=str(config.get("template", "0")) == "1",
        ha=str(ha.get("state") or "started") if ha.get("managed") else "",
        config=config,
        pending=pending,
    )


def snapshots(said: object, doing: str) -> tuple[dict[str, Any], ...]:
    """A guest's, without "current".

    Raises:
        GarbledError: one has no name.
    """
    return tuple(row for row in every(said, doing, name=row_of.word) if row["name"] != "current")
