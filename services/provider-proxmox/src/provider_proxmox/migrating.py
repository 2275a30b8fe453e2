"""Moving machines: to another node while they run or not, into another pool, to another storage."""

from __future__ import annotations

import re
from typing import Any, Final

from common import logging, v1
from common.clock import Clock
from common.errors import (
    HypervisorUnavailableError,
    NotSupportedError,
    OperationCancelledError,
    OperationInProgressError,
    ProviderError,
    ResourceNotFoundError,
)

from provider_proxmox import locks, power
from provider_proxmox.config import disks
from provider_proxmox.guests import Guests
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import from_text

log = logging.get(__name__)

_TASKS: Final = ("qmigrate", "hamigrate")
_PATIENCE, _LOOK_EVERY = 280.0, 2.0
"""Seconds until HA must have moved a machine; the kit waits for 300 s, and asks again."""
_DATASTORE: Final = "placement.datastore"
_LOG_LINES: Final = 500
_TELLING: Final = re.compile(r"ERROR: |can't migrate")
_ABORTED: Final = re.compile(r"migration aborted(?: \(duration [\d:]+\))?")
_ABORTED_BY: Final = re.compile(r"^migration aborted(?: \(duration [\d:]+\))?: ")


class Moving:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, change: Reconfiguring, clock: Clock) -> None:
        self._pve = pve
        self._guests = guests
        self._change = change
        self._clock = clock

    async def set_placement(self, uid: str, placement: v1.Placement) -> None:
        """Move it to each place that is named; being there already is success.

        Raises:
            ResourceNotFoundError: there is no such node, pool or storage.
            NotSupportedError: something of it cannot go there; says what.
        """
        if placement.resource_pool:
            await self._into_pool(uid, placement.resource_pool)
        if placement.datastore:
            await self._to_storage(uid, placement.datastore)
        if placement.host:
            await self._to_node(uid, placement.host)

    # -- node ------------------------------------------------------------------------------------------------------

    async def _to_node(self, uid: str, node: str) -> None:
        """A move that an earlier call began is waited for."""
        doing = f"move machine {uid} to node {node}"
        guest = await self._guests.get(uid, doing)
        if await locks.wait_tasks(self._pve, guest, doing, _TASKS):
            guest = await self._guests.get(uid, doing)
        if guest.node == node:
            return
        known = self._pve.index.nodes
        if node not in known:
            raise ResourceNotFoundError(f"{doing}: there is no such node, only {', '.join(sorted(known))}")
        if not known[node].online:
            raise HypervisorUnavailableError(f"{doing}: the node is offline", retry_after=10.0)
        await locks.require_free(self._pve, guest, doing)
        await self._require_movable(guest, node, doing)
        running = guest.status == "running"
        order = {"target": node, "online": running or None, "with-local-disks": running or None}
        log.info("proxmox.machine.move", uid=uid, vmid=guest.vmid, source=guest.node, target=node, running=running)
        upid = str(await self._pve.post(doing, f"{guest.path}/migrate", **order))
        try:
            await self._pve.task(doing, upid)
        except OperationCancelledError as error:
            raise await self._why(upid, doing) or error from error
        if power.is_managed(guest):
            await self._until_there(guest, node, doing)
        else:
            await self._pve.refresh(guest.vmid, doing, node=node)

    async def _why(self, upid: str, doing: str) -> ProviderError | None:
        """What stopped a move: its task ends with "migration aborted" whatever it was, and its log tells."""
        node = upid.split(":")[1]
        lines = await self._pve.get(doing, f"nodes/{node}/tasks/{upid}/log", limit=_LOG_LINES)
        said = [str(line.get("t")).rpartition("ERROR: ")[2] for line in lines if _TELLING.search(str(line.get("t")))]
        why = [text for text in said if not _ABORTED.fullmatch(text)]
        return from_text("; ".join(_ABORTED_BY.sub("", text) for text in why), doing) if why else None

    async def _require_movable(self, guest: Guest, node: str, doing: str) -> None:
        """Proxmox VE would say so only in the log of a task that failed."""
        told: dict[str, Any] = await self._pve.get(doing, f"{guest.path}/migrate", target=node)
        stuck = [f"device {name} of the node" for name in told.get("local_resources") or ()]
        for disk in told.get("local_disks") or ():
            if int(disk.get("cdrom") or 0):
                stuck.append(f"medium {disk.get('volid')}, which only this node has")
        if guest.status == "running" and guest.config.get("parent") and told.get("local_disks"):
            stuck.append("disks that only this node has, with snapshots")
        if stuck:
            raise NotSupportedError(f"{doing}: it cannot move with {', '.join(stuck)}")

    async def _until_there(self, guest: Guest, node: str, doing: str) -> None:
        """Wait until HA has moved it: the task only asks for that."""
        end = self._clock.monotonic() + _PATIENCE
        while True:
            now = await self._pve.refresh(guest.vmid, doing)
            if now is not None and now.node == node and not now.lock:
                return
            if self._clock.monotonic() >= end:
                raise OperationInProgressError(f"{doing}: HA was asked, and has not done it yet", retry_after=10.0)
            await self._clock.sleep(_LOOK_EVERY)

    # -- pool and storage ------------------------------------------------------------------------------------------

    async def _into_pool(self, uid: str, pool: str) -> None:
        doing = f"move machine {uid} into pool {pool}"
        guest = await self._guests.get(uid, doing)
        if await self._pve.pool_of(guest.vmid, doing) != pool:
            await self._pve.put(doing, "pools", poolid=pool, vms=str(guest.vmid), **{"allow-move": True})
            await self._pve.pool_of(guest.vmid, doing)

    async def _to_storage(self, uid: str, storage: str) -> None:
        """Everything of ours that lies where it was placed before; a disk that its spec put elsewhere stays there."""
        doing = f"move machine {uid} to storage {storage}"
        guest = await self._guests.get(uid, doing)
        record = guest.stamp
        old = record.settings.get(_DATASTORE, "") if record is not None else ""
        for disk in record.disks if record is not None else ():
            drive = disks.drive_in(guest.config, disk.slot)
            if disk.owned and drive is not None and drive.storage == old:
                await self._change.move_disk(uid, disk.name, storage, live=guest.status == "running")
        await self._change.move_states(uid, old, storage)
        await self._change.record(uid, "place", {_DATASTORE: storage}, without=_DATASTORE)
