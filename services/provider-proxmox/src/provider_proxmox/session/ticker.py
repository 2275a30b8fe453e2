"""The one ticker of a cluster: looks at what is cheap to look at, and marks what gave a sign of a change.

Proxmox VE tells nobody of changes. A list per node tells states, names, locks and sizes as they are now
(`cluster/resources` is up to 10 s late, and shows a VMID that is used again with its predecessor's name); the cluster's
list of tasks tells what anybody begins and ends; its resources tell tags, pools, nodes and storages. A guest is read
whole only when one of them differs from before.

A guest that a list lacks is not gone for that: its node may be down, it may have moved, or we may not see it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, PermissionMissingError, ProviderError
from providerkit.waiting import wait_event

from provider_proxmox.session import rows as row_of
from provider_proxmox.session.details import Details
from provider_proxmox.session.index import Guest, Index, Node, Storage
from provider_proxmox.session.line import UnreachableError
from provider_proxmox.session.pace import BUSY_SECONDS, FULL_SECONDS, NETWORKS_SECONDS, Pace, pace
from provider_proxmox.session.reading import Ask, Reader, signature
from provider_proxmox.session.rows import Rows
from provider_proxmox.session.tasks import parse_upid

log = logging.get(__name__)

AWAY_AFTER = 2
"""So many lists of a node must fail in a row until what its guests do counts as unknown."""
BLIND_SECONDS = 30.0
"""After so long without an answer of the cluster everything is read anew."""
CONFIGURATION_TURN = 4
"""Of so many turns one is for a configuration, the others for agents."""
_RETRY_SECONDS = 2.0
_PASSIVE = ("vncproxy", "vncshell", "spiceproxy", "termproxy")
"""Tasks that change nothing and may run for days."""


class Ticker:
    """Keeps an index. `run` does it, as long as it runs."""

    def __init__(self, get: Ask, index: Index, reader: Reader, details: Details, *, clock: Clock, tick: float) -> None:
        self.known = asyncio.Event()
        """Everything was read once."""
        self.tried = asyncio.Event()
        """The first look has ended, one way or the other."""
        self.fault: ProviderError | None = HypervisorUnavailableError("Proxmox VE: not connected yet", retry_after=1.0)
        """Why what is known may be old; None while the cluster answers."""
        self.on_any: Callable[[], None] = lambda: None
        """Told when anything may have changed."""
        self.look_at_log: Callable[[], Awaitable[None]] | None = None
        """Reads what is new in the cluster's log."""
        self.look_at_leases: Callable[[], Awaitable[None]] | None = None
        """Asks for the addresses that the cluster gave out."""
        self.rotate_agents: Callable[[], Awaitable[bool]] | None = None
        """Asks one guest's agent, if there is one to ask, in turns with looking at configurations."""
        self.on_tasks: Callable[[list[dict[str, Any]]], None] = lambda _rows: None
        """Gets each list of the cluster's tasks."""
        self._get = get
        self._rows = Rows()
        self._index = index
        self._reader = reader
        self._details = details
        self._clock = clock
        self._tick = tick
        self._busy_until = 0.0
        self._hurries: list[asyncio.Event] = []
        self._blind_since = 0.0
        self._looking: set[str] = set()
        self._failures: dict[str, int] = {}
        self._told: dict[int, tuple[str, str]] = {}
        """Tags and lock of each guest in the last list of resources."""
        self._tasks: tuple[set[str], set[str]] | None = None
        """Those that ran and those that had ended in the last list; None before the first."""
        self._ours: dict[str, bool] = {}
        """UPIDs of our own tasks that are waited for here, and whether they are done."""
        self._networks_due: dict[str, float] = {}
        self._full_due: dict[str, float] = {}
        self._turn = 0

    # -- what others ask for ---------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Something is being changed: look more often for a while."""
        was_busy = self._busy
        self._busy_until = self._clock.monotonic() + BUSY_SECONDS
        if not was_busy:
            for hurry in self._hurries:
                hurry.set()

    @contextlib.contextmanager
    def ours(self, upid: str) -> Iterator[None]:
        """Around a task whose end somebody here waits for, and reads the guest afterwards: once is enough."""
        self._ours[upid] = False
        self.hurry()
        try:
            yield
        except BaseException:
            self._ours.pop(upid, None)  # nobody reads what it did
            raise
        else:
            self._ours[upid] = True
        finally:
            self.hurry()

    @property
    def _busy(self) -> bool:
        return self._clock.monotonic() < self._busy_until

    def pace(self) -> Pace:
        """How often things are looked at now."""
        return pace(sum(node.online for node in self._index.nodes.values()), self._tick, busy=self._busy)

    # -- the looks -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while not await self._tried(self._first_look):
                self.tried.set()
                await self._clock.sleep(_RETRY_SECONDS)
            self.known.set()
            self.tried.set()
            self.on_any()
            self._beat(group, "pve tasks", self._look_at_tasks, lambda: self.pace().tasks)
            self._beat(group, "pve resources", self._look_at_resources, lambda: self.pace().resources)
            self._beat(group, "pve rotation", self._beside(self._rotate), lambda: self.pace().rotation)
            self._beat(group, "pve nodes", lambda: self._look_at_nodes(group), lambda: self.pace().nodes)
            if self.look_at_log is not None:
                self._beat(group, "pve log", self._beside(self.look_at_log), lambda: self.pace().log)
            if self.look_at_leases is not None:
                look_at_leases = self._beside(self.look_at_leases)
                await look_at_leases()
                self._beat(group, "pve leases", look_at_leases, lambda: self.pace().leases)
            group.create_task(self._details.run(), name="pve details")

    def _beat(
        self, group: asyncio.TaskGroup, name: str, look: Callable[[], Awaitable[None]], seconds: Callable[[], float]
    ) -> None:
        """Look again and again, from start to start, so that a slow answer does not slow the beat."""
        hurry = asyncio.Event()
        self._hurries.append(hurry)

        async def beat() -> None:
            last = self._clock.monotonic()
            while True:
                while (left := last + seconds() - self._clock.monotonic()) > 0:
                    hurry.clear()
                    await wait_event(hurry, self._clock, left)
                last = self._clock.monotonic()
                await self._tried(look)

        group.create_task(beat(), name=name)

    @staticmethod
    def _beside(look: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """A look whose failure says nothing about the cluster: it may be about one node, and the others tell anyway."""

        async def tolerant() -> None:
            try:
                await look()
            except ProviderError as error:
                log.info("pve.look.failed", error=str(error))

        return tolerant

    async def _tried(self, look: Callable[[], Awaitable[None]]) -> bool:
        try:
            await look()
        except ProviderError as error:
            self._failed(error)
            return False
        return True

    def _answered(self) -> None:
        """The cluster answers (again)."""
        if self.fault is None or not self.known.is_set():
            return
        log.info("pve.session.back")
        self.fault = None
        if self._clock.monotonic() - self._blind_since > BLIND_SECONDS:
            for vmid in self._index.guests:  # nobody saw what happened meanwhile
                self._details.stale(vmid)
        self.on_any()

    def _failed(self, error: ProviderError) -> None:
        if self.fault is None:
            log.warning("pve.session.lost", error=str(error))
            self._blind_since = self._clock.monotonic()
            self.fault = error
            self.on_any()
        self.fault = error

    async def _first_look(self) -> None:
        self._tasks = None
        await self._look_at_tasks()
        await self._look_at_resources()
        if self.look_at_log is not None:  # before the guests: what it tells after that may be newer than they are
            await self._beside(self.look_at_log)()
        async with asyncio.TaskGroup() as group:
            for node in list(self._index.nodes.values()):
                if node.online:
                    group.create_task(self._first_look_at(node.name))
        self.fault = None

    async def _first_look_at(self, node: str) -> None:
        number = self._reader.begin()
        try:
            rows = await self._guests_on(node, full=True)
            await self._look_at_networks(node)
        except ProviderError as error:
            self._node_failed(node, error)
            return
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(self._details.read_listed(number, node, row))

    async def _rotate(self) -> None:
        """An agent, or a configuration: what changes those is mostly seen in other ways."""
        self._turn = (self._turn + 1) % CONFIGURATION_TURN
        if self._turn == 0 or self.rotate_agents is None or not await self.rotate_agents():
            await self._details.rotate()

    # -- nodes -----------------------------------------------------------------------------------------------------

    async def _look_at_nodes(self, group: asyncio.TaskGroup) -> None:
        """Ask each node by itself: one that hangs holds up nobody."""
        for name in self._index.nodes:
            if name not in self._looking:
                group.create_task(self._look_at_node(name), name=f"pve node {name}")

    async def _look_at_node(self, node: str) -> None:
        self._looking.add(node)
        number = self._reader.begin()
        try:
            rows = await self._guests_on(node, full=self._is_full_due(node) or None)
            if self._networks_due.get(node, 0.0) <= self._clock.monotonic():
                await self._look_at_networks(node)
        except (UnreachableError, CredentialsRefusedError) as error:
            self._failed(error)
        except ProviderError as error:
            self._node_failed(node, error)
        else:
            self._answered()
            self._failures.pop(node, None)
            self._take_list(number, node, rows)
        finally:
            self._looking.discard(node)

    async def _guests_on(self, node: str, *, full: bool | None) -> list[dict[str, Any]]:
        said = await self._get("list the guests", f"nodes/{node}/qemu", full=full)
        return self._rows.take(said, f"list the guests of {node}", vmid=row_of.vmid)

    def _is_full_due(self, node: str) -> bool:
        """Whether the next list shall tell what QEMU says, too: paused, or stopped by an error of a disk."""
        now = self._clock.monotonic()
        due = self._full_due.get(node, 0.0) <= now
        if due:
            self._full_due[node] = now + FULL_SECONDS
        return due

    def _take_list(self, number: int, node: str, rows: list[dict[str, Any]]) -> None:
        listed = {row["vmid"]: row for row in rows}
        for vmid, row in listed.items():
            known = self._index.guests.get(vmid)
            if not self._reader.is_news(number, vmid):
                continue
            moved = known is None or known.node != node or known.status == "unknown"
            told = "qmpstatus" in row and known is not None and row["qmpstatus"] != known.qmpstatus
            if moved or told or self._reader.signatures.get(vmid) != signature(row):
                self._details.seen(vmid)
                self._details.stale(vmid, node)
        for guest in list(self._index.on_node(node)):
            if guest.vmid not in listed and self._reader.is_news(number, guest.vmid):
                self._missing(guest.vmid)

    def _missing(self, vmid: int) -> None:
        """No list shows it: reading it finds out why."""
        if not self._details.is_hidden(vmid):
            self._details.stale(vmid)

    def _node_failed(self, node: str, error: ProviderError) -> None:
        failures = self._failures[node] = self._failures.get(node, 0) + 1
        known = self._index.nodes.get(node)
        if failures == 1:
            log.warning("pve.node.silent", node=node, error=str(error))
            self.hurry()  # the others know whether it is down
        if known is not None and (failures >= AWAY_AFTER or not known.online):
            self._lose(node)

    def _lose(self, node: str) -> None:
        """A node does not answer: what its guests do is unknown."""
        known = self._index.nodes.get(node)
        if known is not None and known.online:
            self._index.nodes[node] = replace(known, online=False)
        for guest in list(self._index.on_node(node)):
            self._details.lose(guest)

    async def _look_at_networks(self, node: str) -> None:
        self._networks_due[node] = self._clock.monotonic() + NETWORKS_SECONDS
        with contextlib.suppress(PermissionMissingError):
            said = await self._get("list the networks", f"nodes/{node}/network", type="any_bridge")
            rows = self._rows.take(said, f"list the networks of {node}", iface=row_of.word)
            self._index.networks[node] = {row["iface"]: str(row.get("type", "bridge")) for row in rows}

    # -- resources -------------------------------------------------------------------------------------------------

    async def _look_at_resources(self) -> None:
        number = self._reader.begin()
        doing = "look at the resources"
        said = await self._get(doing, "cluster/resources")
        rows = self._rows.take(said, doing, type=row_of.word)
        self._answered()
        of = {kind: [row for row in rows if row["type"] == kind] for kind in ("node", "storage", "qemu")}
        nodes = self._rows.take(of["node"], doing, node=row_of.node)
        self._take_nodes(nodes, complete=len(rows) == len(said) and len(nodes) == len(of["node"]))
        storages = self._rows.take(of["storage"], doing, node=row_of.node, storage=row_of.word)
        self._index.storages = {(row["node"], row["storage"]): _storage(row) for row in storages}
        guests = {row["vmid"]: row for row in self._rows.take(of["qemu"], doing, vmid=row_of.vmid, node=row_of.node)}
        for vmid, row in guests.items():
            self._take_resource(number, vmid, row)
        self._told = {vmid: told for vmid, told in self._told.items() if vmid in guests}
        for vmid in set(self._index.guests) - set(guests):
            if self._reader.is_news(number, vmid):
                self._missing(vmid)

    def _take_nodes(self, rows: list[dict[str, Any]], *, complete: bool) -> None:
        """Args: complete: no row was left out, so that a node without one has left the cluster."""
        for row in rows:
            node = _node(row)
            if self._failures.get(node.name, 0) >= AWAY_AFTER:
                node = replace(node, online=False)  # the others see it, the API does not reach it
            self._index.nodes[node.name] = node
            if not node.online:
                self._lose(node.name)
        for gone in set(self._index.nodes) - {row["node"] for row in rows} if complete else ():
            self._lose(gone)
            del self._index.nodes[gone]

    def _take_resource(self, number: int, vmid: int, row: dict[str, Any]) -> None:
        guest, node = self._index.guests.get(vmid), row["node"]
        pool, told = str(row.get("pool") or ""), (str(row.get("tags") or ""), str(row.get("lock") or ""))
        before, self._told[vmid] = self._told.get(vmid), told
        if guest is None:
            here = self._index.nodes.get(node)
            if here is None or not here.online:  # its configuration cannot be read, but it is there
                self._reader.note(Guest(vmid, node, str(row.get("name") or ""), pool=pool, config=_hints(row)))
            elif self.known.is_set():
                self._details.stale(vmid, node)
        elif not self._reader.is_news(number, vmid):
            return
        elif guest.node != node:
            self._details.stale(vmid, node)
        else:
            if guest.pool != pool:
                self._reader.amend(vmid, pool=pool)
            if before != told and told != (str(guest.config.get("tags") or ""), guest.lock):
                self._details.stale(vmid, node)

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def _look_at_tasks(self) -> None:
        said = await self._get("look at the tasks", "cluster/tasks")
        rows = self._rows.take(said, "look at the tasks", upid=row_of.word)
        self._answered()
        self.take_tasks(rows)
        self.on_tasks(rows)

    def take_tasks(self, rows: list[dict[str, Any]]) -> None:
        """Mark the guests whose tasks began or ended since the last list, whoever asked for it."""
        upids = {upid.text: (upid, row) for row in rows if (upid := parse_upid(row.get("upid"))) is not None}
        running = {text for text, (_, row) in upids.items() if not row.get("endtime")}
        ended = set(upids) - running
        if self._tasks is not None:
            was_running, had_ended = self._tasks
            for text in ((running - was_running) | (ended - had_ended)) - set(self._ours):
                upid, _ = upids[text]
                if upid.vmid is not None and upid.kind not in _PASSIVE:
                    self._details.stale(upid.vmid)
                    self.hurry()
        self._tasks = running, ended
        for text in [text for text, done in self._ours.items() if done and text not in running]:
            del self._ours[text]


def _node(row: dict[str, Any]) -> Node:
    return Node(
        name=row["node"],
        online=row.get("status") == "online",
        cpus=row_of.whole(row.get("maxcpu")),
        cpu_load=row_of.real(row.get("cpu")),
        memory_bytes=row_of.whole(row.get("maxmem")),
        memory_used_bytes=row_of.whole(row.get("mem")),
    )


def _storage(row: dict[str, Any]) -> Storage:
    capacity, used = row_of.whole(row.get("maxdisk")), row_of.whole(row.get("disk"))
    return Storage(
        name=row["storage"],
        node=row["node"],
        kind=str(row.get("plugintype") or ""),
        content=frozenset(filter(None, str(row.get("content") or "").split(","))),
        shared=bool(row_of.whole(row.get("shared"))),
        active=row.get("status") == "available",
        capacity_bytes=capacity,
        free_bytes=max(capacity - used, 0),
    )


def _hints(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of a configuration that cannot be read: its tags, or that it has none."""
    return {"tags": str(row.get("tags") or "")}
