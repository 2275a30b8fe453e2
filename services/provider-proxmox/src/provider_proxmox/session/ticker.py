"""The one ticker of a cluster: looks at what is cheap to look at, and reads whatever gave a sign of a change.

Proxmox VE tells nobody of changes. A list per node tells states, names, locks and sizes as they are now
(`cluster/resources` is up to 10 s late, and shows a VMID that is used again with its predecessor's name); the cluster's
list of tasks tells what anybody begins and ends; its resources tell tags, pools, nodes and storages. A guest is read
whole only when one of them differs from before. What a person changes in a configuration without a task and without a
trace in a list is found by the rotation.

A guest that a list lacks is not gone for that: its node may be down, it may have moved, or we may not see it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import HypervisorUnavailableError, PermissionMissingError, ProviderError
from providerkit.waiting import wait_event

from provider_proxmox.session.index import Guest, Index, Node, Storage
from provider_proxmox.session.pace import BUSY_SECONDS, NETWORKS_SECONDS, Pace, pace
from provider_proxmox.session.reading import Ask, Reader, signature
from provider_proxmox.session.tasks import Tasks, parse_upid

log = logging.get(__name__)

AWAY_AFTER = 2
"""So many lists of a node must fail in a row until its guests count as unknown."""
_RETRY_SECONDS = 2.0
_PASSIVE = ("vncproxy", "vncshell", "spiceproxy", "termproxy")
"""Tasks that change nothing and may run for days."""


class Ticker:
    """Keeps an index. `run` does it, as long as it runs."""

    def __init__(
        self, get: Ask, index: Index, reader: Reader, tasks: Tasks, *, clock: Clock, tick: float, concurrency: int
    ) -> None:
        self.known = asyncio.Event()
        """Everything was read once."""
        self.tried = asyncio.Event()
        """The first look has ended, one way or the other."""
        self.fault: ProviderError | None = HypervisorUnavailableError("Proxmox VE: not connected yet", retry_after=1.0)
        """Why what is known may be old; None while the cluster answers."""
        self.on_any: Callable[[], None] = lambda: None
        """Told when anything may have changed."""
        self._get = get
        self._index = index
        self._reader = reader
        self._tasks = tasks
        self._clock = clock
        self._tick = tick
        self._busy_until = 0.0
        self._hurry = asyncio.Event()
        self._stale: dict[int, str] = {}
        """VMIDs to read, and the node where each was seen."""
        self._more = asyncio.Event()
        self._reading = asyncio.Semaphore(concurrency)
        self._failures: dict[str, int] = {}
        self._hidden: set[int] = set()
        """Guests that we may not look at any more."""
        self._told: dict[int, tuple[str, str]] = {}
        """Tags and lock of each guest in the last list of resources."""
        self._running: set[str] = set()
        self._rotation: list[int] = []
        self._networks_due: dict[str, float] = {}

    # -- what others ask for ---------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Something is being changed: look more often for a while."""
        was = self._busy
        self._busy_until = self._clock.monotonic() + BUSY_SECONDS
        if not was:
            self._hurry.set()

    def stale(self, vmid: int, node: str = "") -> None:
        """Have a guest read soon."""
        self._stale[vmid] = node or self._stale.get(vmid, "")
        self._more.set()

    @property
    def _busy(self) -> bool:
        return self._tasks.waiting or self._clock.monotonic() < self._busy_until

    def pace(self) -> Pace:
        """How often things are looked at now."""
        return pace(sum(node.online for node in self._index.nodes.values()), self._tick, busy=self._busy)

    # -- the looks -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, until cancelled."""
        while not await self._tried("look at the whole cluster", self._first_look):
            self.tried.set()
            await self._clock.sleep(_RETRY_SECONDS)
        self.known.set()
        self.tried.set()
        self.on_any()
        async with asyncio.TaskGroup() as group:
            for name, look, seconds in (
                ("tasks", self._look_at_tasks, lambda: self.pace().tasks),
                ("resources", self._look_at_resources, lambda: self.pace().resources),
                ("nodes", self._look_at_nodes, lambda: self.pace().nodes),
                ("rotation", self._rotate, lambda: self.pace().rotation),
            ):
                group.create_task(self._beat(name, look, seconds), name=f"pve {name}")
            group.create_task(self._read_stale(), name="pve details")

    async def _beat(self, name: str, look: Callable[[], Awaitable[None]], seconds: Callable[[], float]) -> None:
        """Look again and again; from start to start, so that a slow answer does not slow the beat."""
        due = self._clock.monotonic()
        while True:
            due = max(due + seconds(), self._clock.monotonic())
            await self._until(due, seconds)
            due = min(due, self._clock.monotonic())
            await self._tried(name, look)

    async def _until(self, due: float, seconds: Callable[[], float]) -> None:
        """Wait until then, or for less when there is a hurry."""
        while (left := due - self._clock.monotonic()) > 0:
            self._hurry.clear()
            if await wait_event(self._hurry, self._clock, left):
                due = min(due, self._clock.monotonic() + seconds())

    async def _tried(self, name: str, look: Callable[[], Awaitable[None]]) -> bool:
        try:
            await look()
        except ProviderError as error:
            self._failed(name, error)
            return False
        if name in ("tasks", "resources") and self.fault is not None and self.known.is_set():
            log.info("pve.session.back")
            self.fault = None
            for vmid in self._index.guests:  # nobody saw what happened meanwhile
                self.stale(vmid)
            self.on_any()
        return True

    def _failed(self, name: str, error: ProviderError) -> None:
        if self.fault is None:
            log.warning("pve.session.lost", look=name, error=str(error))
        if self.fault is None and name in ("tasks", "resources"):
            self.fault = error
            self.on_any()
        elif self.fault is not None:
            self.fault = error

    async def _first_look(self) -> None:
        await self._look_at_resources()
        async with asyncio.TaskGroup() as group:
            for node in list(self._index.nodes.values()):
                if node.online:
                    group.create_task(self._first_look_at(node.name))
        self.fault = None

    async def _first_look_at(self, node: str) -> None:
        number = self._reader.begin()
        try:
            rows = await self._get("list the guests", f"nodes/{node}/qemu", full=True)
        except ProviderError as error:
            self._node_failed(node, error)
            return
        await self._look_at_networks(node)
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(self._first_read(number, node, row))

    async def _first_read(self, number: int, node: str, row: dict[str, Any]) -> None:
        async with self._reading:
            try:
                await self._reader.read_listed(number, node, row, "read the guests")
            except ProviderError as error:
                log.warning("pve.guest.unread", vmid=row["vmid"], node=node, error=str(error))
                self._lay_aside(int(row["vmid"]), node)

    # -- nodes -----------------------------------------------------------------------------------------------------

    async def _look_at_nodes(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name in list(self._index.nodes):
                group.create_task(self._look_at_node(name))

    async def _look_at_node(self, node: str) -> None:
        number = self._reader.begin()
        try:
            rows = await self._get("list the guests", f"nodes/{node}/qemu")
            if self._networks_due.get(node, 0.0) <= self._clock.monotonic():
                await self._look_at_networks(node)
        except ProviderError as error:
            self._node_failed(node, error)
            return
        self._failures.pop(node, None)
        self._take_list(number, node, rows)

    def _take_list(self, number: int, node: str, rows: list[dict[str, Any]]) -> None:
        listed = {int(row["vmid"]): row for row in rows}
        for vmid, row in listed.items():
            known = self._index.guests.get(vmid)
            if not self._reader.is_news(number, vmid):
                continue
            moved = known is None or known.node != node or known.status == "unknown"
            if moved or self._reader.signatures.get(vmid) != signature(row):
                self._hidden.discard(vmid)
                self.stale(vmid, node)
        for guest in list(self._index.on_node(node)):
            if guest.vmid not in listed and guest.vmid not in self._hidden and self._reader.is_news(number, guest.vmid):
                self.stale(guest.vmid)

    def _node_failed(self, node: str, error: ProviderError) -> None:
        failures = self._failures[node] = self._failures.get(node, 0) + 1
        known = self._index.nodes.get(node)
        if failures == 1:
            log.warning("pve.node.silent", node=node, error=str(error))
        if known is not None and (failures >= AWAY_AFTER or not known.online):
            self._lose(node)

    def _lose(self, node: str) -> None:
        """A node does not answer: what its guests do is unknown, not over."""
        known = self._index.nodes.get(node)
        if known is not None and known.online:
            self._index.nodes[node] = replace(known, online=False)
        for guest in list(self._index.on_node(node)):
            if guest.status != "unknown":
                self._reader.put(self._reader.begin(), replace(guest, status="unknown", qmpstatus="", agent={}))

    async def _look_at_networks(self, node: str) -> None:
        self._networks_due[node] = self._clock.monotonic() + NETWORKS_SECONDS
        with contextlib.suppress(PermissionMissingError):
            rows = await self._get("list the networks", f"nodes/{node}/network", type="any_bridge")
            self._index.networks[node] = {str(row["iface"]): str(row.get("type", "bridge")) for row in rows}

    # -- resources -------------------------------------------------------------------------------------------------

    async def _look_at_resources(self) -> None:
        number = self._reader.begin()
        rows = await self._get("look at the resources", "cluster/resources")
        self._take_nodes([row for row in rows if row.get("type") == "node"])
        self._index.storages = {
            (str(row["node"]), str(row["storage"])): _storage(row) for row in rows if row.get("type") == "storage"
        }
        for row in rows:
            if row.get("type") == "qemu":
                self._take_resource(number, row)

    def _take_nodes(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            node = _node(row)
            if node.online and self._failures.get(node.name, 0) >= AWAY_AFTER:
                node = replace(node, online=False)  # the others see it, the API does not reach it
            self._index.nodes[node.name] = node
            if not node.online:
                self._lose(node.name)
        for gone in set(self._index.nodes) - {str(row["node"]) for row in rows}:
            self._lose(gone)
            del self._index.nodes[gone]

    def _take_resource(self, number: int, row: dict[str, Any]) -> None:
        vmid, node = int(row["vmid"]), str(row["node"])
        guest = self._index.guests.get(vmid)
        pool, told = str(row.get("pool") or ""), (str(row.get("tags") or ""), str(row.get("lock") or ""))
        if guest is None:
            online = self._index.nodes.get(node)
            if online is None or not online.online:  # its configuration cannot be read, but it is there
                unread = Guest(vmid, node, name=str(row.get("name") or ""), pool=pool, config=_hints(row))
                self._reader.put(number, unread)
            elif self.known.is_set():
                self.stale(vmid, node)
        elif not self._reader.is_news(number, vmid):
            return
        elif guest.node != node:
            self.stale(vmid, node)
        else:
            if guest.pool != pool:
                guest = self._reader.put(number, replace(guest, pool=pool))
            if self._told.get(vmid) != told and told != (str(guest.config.get("tags") or ""), guest.lock):
                self.stale(vmid, node)
        self._told[vmid] = told

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def _look_at_tasks(self) -> None:
        rows = await self._get("look at the tasks", "cluster/tasks")
        self._tasks.take(rows)
        self.take_tasks(rows)

    def take_tasks(self, rows: list[dict[str, Any]]) -> None:
        """Have the guests read whose tasks began or ended since the last list."""
        running: set[str] = set()
        ended: set[str] = set()
        for row in rows:
            upid = parse_upid(row.get("upid"))
            if upid is None or upid.kind in _PASSIVE:
                continue
            (ended if row.get("endtime") else running).add(upid.text)
        begun, over = running - self._running, self._running & ended
        unseen = {text for text in ended - self._ended if self._watched} - over
        for text in begun | over | unseen:
            upid = parse_upid(text)
            if upid is not None and upid.vmid is not None:
                self.stale(upid.vmid)
                self.hurry()
        self._running, self._ended, self._watched = running, ended, True

    _ended: frozenset[str] | set[str] = frozenset()
    _watched = False

    # -- details ---------------------------------------------------------------------------------------------------

    async def _read_stale(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._more.clear()
                while self._stale:
                    await self._reading.acquire()
                    vmid = next(iter(self._stale))
                    group.create_task(self._read_one(vmid, self._stale.pop(vmid)))
                await self._more.wait()

    async def _read_one(self, vmid: int, node: str) -> None:
        try:
            await self._reader.refresh(vmid, "read a guest", node=node)
            self._hidden.discard(vmid)
        except PermissionMissingError as error:
            if vmid not in self._hidden:
                log.warning("pve.guest.hidden", vmid=vmid, error=str(error))
            self._hidden.add(vmid)
            self._lay_aside(vmid, node)
        except ProviderError as error:
            log.info("pve.guest.unread", vmid=vmid, error=str(error))
            self._lay_aside(vmid, node)
        finally:
            self._reading.release()

    def _lay_aside(self, vmid: int, node: str) -> None:
        """It could not be read: it is there, we do not know how, and the next list begins anew."""
        self._reader.signatures.pop(vmid, None)
        known = self._index.guests.get(vmid)
        if known is None and node:
            self._reader.put(self._reader.begin(), Guest(vmid, node))
        elif known is not None and known.status != "unknown":
            self._reader.put(self._reader.begin(), replace(known, status="unknown", qmpstatus="", agent={}))

    async def _rotate(self) -> None:
        """Read the guest that was read longest ago, in case somebody changed what no list shows."""
        while self._rotation:
            guest = self._index.guests.get(self._rotation.pop())
            if guest is not None and guest.status != "unknown":
                self.stale(guest.vmid)
                return
        self._rotation = sorted(self._index.guests, reverse=True)


def _node(row: dict[str, Any]) -> Node:
    return Node(
        name=str(row["node"]),
        online=row.get("status") == "online",
        cpus=int(row.get("maxcpu") or 0),
        cpu_load=float(row.get("cpu") or 0.0),
        memory_bytes=int(row.get("maxmem") or 0),
        memory_used_bytes=int(row.get("mem") or 0),
    )


def _storage(row: dict[str, Any]) -> Storage:
    capacity, used = int(row.get("maxdisk") or 0), int(row.get("disk") or 0)
    return Storage(
        name=str(row["storage"]),
        node=str(row["node"]),
        kind=str(row.get("plugintype") or ""),
        content=frozenset(filter(None, str(row.get("content") or "").split(","))),
        shared=bool(int(row.get("shared") or 0)),
        active=row.get("status") == "available",
        capacity_bytes=capacity,
        free_bytes=max(capacity - used, 0),
    )


def _hints(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of a configuration that cannot be read."""
    return {"tags": str(row["tags"])} if row.get("tags") else {}
