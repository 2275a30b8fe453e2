"""One Proxmox VE cluster: the way in, its index kept true, and its tasks waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from common.clock import Clock
from common.errors import HypervisorUnavailableError
from providerkit.background import running
from providerkit.driver import Progress

from provider_proxmox.session.agents import Agents
from provider_proxmox.session.clusterlog import ClusterLog
from provider_proxmox.session.details import Details
from provider_proxmox.session.entry import Entry
from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.leases import Leases
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pve_errors import FileLockedError
from provider_proxmox.session.reading import Reader
from provider_proxmox.session.tasks import Tasks, Upid
from provider_proxmox.session.ticker import Ticker
from provider_proxmox.session.uploading import forms
from provider_proxmox.session.websocket import Socket, websocket

START_SECONDS = 15.0
"""So long entering the session waits for the first look."""
LEAVE_SECONDS = 2.0
"""So long leaving it waits for calls that were sent."""
LOOK_SECONDS = 10.0
AGENT_SECONDS = 10.0
SMALL_FILE = 16 << 20
"""Bytes of a file that is sent at once if it is here: it does not wait behind those that come from somewhere else."""
LOCK_TRIES = 4
"""Each of which Proxmox VE itself waits 5 or 10 s for the file lock."""
LOCK_PAUSE = 1.0


class Pve:
    """The cluster. What it says comes out as errors of ours and nothing else."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        call_timeout: float = 30.0,
        task_timeout: float = 3600.0,
        tick: float = 2.85,
        concurrency: int = 8,
    ) -> None:
        """Nothing is opened yet.

        Args:
            call_timeout: seconds after which a call without an answer counts as lost.
            task_timeout: seconds after which a task that does not end counts as hanging; it is left to the cluster.
            tick: seconds between two looks at the guests of each node of a quiet cluster.
            concurrency: calls at a time.
        """
        self.endpoint = endpoint
        self.index = Index()
        self._clock = clock
        self._task_timeout = task_timeout
        self._entry = Entry(endpoint, clock=clock, call_timeout=call_timeout, concurrency=concurrency)
        self._reader = Reader(self._look, self.index, clock=clock)
        self._reader.on_change = self._changed
        self._agents = Agents(self.ask_agent, self.index, self._reader, clock=clock)
        self._details = Details(self.index, self._reader, clock=clock, concurrency=concurrency)
        self._ticker = Ticker(self._look, self.index, self._reader, self._details, clock=clock, tick=tick)
        self._tasks = Tasks(self._look, self.delete, clock=clock, task_timeout=task_timeout)
        self._ticker.on_any = lambda: self._tell(None)
        self._ticker.on_tasks = self._tasks.take
        self._ticker.look_at_log = ClusterLog(self._look, self._details.check).look
        leases = Leases(self._look, self.index)
        leases.on_change = lambda guest: self._changed(guest, guest)
        self._ticker.look_at_leases = leases.look
        self._ticker.rotate_agents = self._agents.rotate
        self._tasks.on_list = self._ticker.take_tasks
        self._tell: Callable[[str | None], None] = lambda _uid: None
        self._scanning = asyncio.Lock()
        self._scans_asked = self._scanned = 0

    def on_change(self, tell: Callable[[str | None], None]) -> None:
        """Have it called with the UID of each machine that changed, whoever's stamp it has; None when anything may."""
        self._tell = tell

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Keep the index true until the context is left; entering waits a while for the first look, not its success."""
        async with running(self._keep(), "pve session"):
            with contextlib.suppress(TimeoutError):  # a cluster that hangs must not hold up the start
                async with asyncio.timeout(START_SECONDS):
                    await self._ticker.tried.wait()
            yield

    async def _keep(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ticker.run(), name="pve ticker")
                group.create_task(self._tasks.run(), name="pve waits")
                group.create_task(self._agents.run(), name="pve agents")
        finally:
            with contextlib.suppress(TimeoutError):  # what hangs must not hold up the end
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._entry.wait_back()
            self._entry.close()

    def close(self) -> None:
        """Drop the idle connections; leaving the session does it, too."""
        self._entry.close()

    @property
    def url(self) -> str:
        """Of the node that is asked now."""
        return self._entry.url

    @property
    def requests(self) -> int:
        """Sent so far."""
        return self._entry.requests

    async def wait_quiet(self) -> None:
        """Wait until no call waits for its answer."""
        await self._entry.quiet.wait()

    def known(self, doing: str) -> Index:
        """The index, while it is true.

        Raises:
            ProviderError: it is not, and why.
        """
        if self._ticker.fault is not None:
            fault = self._ticker.fault
            raise type(fault)(f"{doing}: {fault}", retry_after=fault.retry_after or 2.0) from fault
        return self.index

    async def wait_known(self) -> None:
        """Wait until everything was read once."""
        await self._ticker.known.wait()

    # -- calling ---------------------------------------------------------------------------------------------------

    async def get(self, doing: str, path: str, /, **params: object) -> Any:
        """Ask for something; another node is asked when one cannot be reached.

        Args:
            doing: for people: what is being done to which machine.
            path: "nodes/pve1/qemu/101/config".
            params: booleans become 1 and 0; what is None is left out.
        """
        return await self._entry.ask(doing, "GET", path, params)

    async def _look(self, doing: str, path: str, /, **params: object) -> Any:
        """The same for the session's own looks, which nobody's calls can hold up."""
        return await self._entry.ask(doing, "GET", path, params, lane="looks", timeout=LOOK_SECONDS)

    async def ask_agent(self, doing: str, guest: Guest, command: str) -> Any:
        """Ask the agent of a guest; one that does not answer costs Proxmox VE 3 s.

        Raises:
            AgentSilentError: it does not run.
        """
        return await self._entry.ask(
            doing, "GET", f"{guest.path}/agent/{command}", {}, lane="agents", timeout=AGENT_SECONDS
        )

    async def put(self, doing: str, path: str, /, **params: object) -> Any:
        """Change something; see `_change`."""
        return await self._change(doing, "PUT", path, params)

    async def post(self, doing: str, path: str, /, **params: object) -> Any:
        """Do something, often by a task, whose UPID is the answer; see `_change`."""
        return await self._change(doing, "POST", path, params)

    async def delete(self, doing: str, path: str, /, **params: object) -> Any:
        """Remove something; see `_change`."""
        return await self._change(doing, "DELETE", path, params)

    async def _change(self, doing: str, method: str, path: str, params: Mapping[str, object]) -> Any:
        """A call that has an effect: repeated only when it certainly had none.

        Raises:
            OutcomeUnknownError: it may have arrived, and nobody said what became of it.
            FileLockedError: something held the file lock all the time.
        """
        for turn in range(1, LOCK_TRIES + 1):
            self._ticker.hurry()
            try:
                return await self._entry.ask(doing, method, path, params)
            except FileLockedError:
                if turn == LOCK_TRIES:
                    raise
            finally:
                self._ticker.hurry()
            await self._clock.sleep(LOCK_PAUSE)
        raise AssertionError("the loop returns or raises")

    async def upload(
        self,
        doing: str,
        node: str,
        storage: str,
        content: str,
        name: str,
        file: BinaryIO,
        size: int,
        *,
        checksum: str | None = None,
    ) -> str:
        """Send a file into a storage, streamed; the storage overwrites what has this name already.

        Args:
            content: "iso" or "import".
            file: read on a thread, from where it stands; it must give `size` bytes. One that can seek is sent again
                after a refused login.
            checksum: SHA-256 that the cluster compares, in hexadecimal.
        Returns:
            The UPID of the task that puts it into its place.
        Raises:
            OutcomeUnknownError: the line broke; repeat it, or look for the file.
        """
        fields: dict[str, str] = {"content": content}
        if checksum is not None:
            fields |= {"checksum": checksum, "checksum-algorithm": "sha256"}
        upid = await self._entry.ask(
            doing,
            "POST",
            f"nodes/{node}/storage/{storage}/upload",
            {},
            lane="calls" if size <= SMALL_FILE and file.seekable() else "uploads",
            timeout=self._task_timeout,
            body=forms(fields, name, file, size),
        )
        return str(upid)

    @contextlib.asynccontextmanager
    async def websocket(self, doing: str, path: str, /, **params: object) -> AsyncIterator[Socket]:
        """A line to a console's port; see `websocket.websocket`."""
        url, headers = await self._entry.credentials_of(doing)
        trust = await asyncio.to_thread(self._entry.endpoint.trust)
        async with websocket(doing, url, path, params, headers=headers, trust=trust) as socket:
            yield socket

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def task(
        self,
        doing: str,
        upid: object,
        progress: Progress | None = None,
        *,
        at: tuple[float, float] = (0.0, 1.0),
        cancel: bool = False,
    ) -> None:
        """Wait for a task's end; see `Tasks.wait`."""
        if upid is None:
            return
        with self._ticker.ours(str(upid)):
            await self._tasks.wait(doing, upid, progress, at=at, cancel=cancel)

    async def run(
        self,
        doing: str,
        method: str,
        path: str,
        params: Mapping[str, object],
        progress: Progress | None = None,
        *,
        at: tuple[float, float] = (0.0, 1.0),
        cancel: bool = False,
    ) -> None:
        """Begin a task and wait for its end; begun again when all it met was somebody's file lock.

        Args:
            method: "POST", "PUT" or "DELETE".
        Raises:
            ProviderError: what it ended with.
        """
        for turn in range(1, LOCK_TRIES + 1):
            upid = await self._change(doing, method, path, params)
            try:
                await self.task(doing, upid, progress, at=at, cancel=cancel)
            except FileLockedError:
                if turn == LOCK_TRIES:
                    raise
                await self._clock.sleep(LOCK_PAUSE)
            else:
                return

    async def running(self, doing: str, vmid: int) -> list[Upid]:
        """Tasks that work on a guest now, whoever began them."""
        guest = self.index.guests.get(vmid)
        node = guest.node if guest is not None else await self._reader.where(vmid, doing)
        return await self._tasks.running(doing, node, vmid) if node else []

    # -- guests ----------------------------------------------------------------------------------------------------

    async def refresh(self, vmid: int, doing: str, *, node: str = "") -> Guest | None:
        """Read one guest now, whole, and tell the listeners; None when it is definitely gone.

        Args:
            node: where it is, if that is known better than by the index.
        Raises:
            HypervisorUnavailableError: its node does not answer.
        """
        return await self._reader.refresh(vmid, doing, node=node)

    async def rescan(self, doing: str) -> None:
        """Read every guest that the cluster has and the index does not know yet: made a moment ago by somebody.

        Those who ask at the same time share one look, which begins after all of them asked.
        """
        self._scans_asked = asked = self._scans_asked + 1
        async with self._scanning:
            if self._scanned < asked:
                begun = self._scans_asked
                await self._scan(doing)
                self._scanned = begun

    async def _scan(self, doing: str) -> None:
        rows = await self._reader.listed_whole(doing)
        unknown = {row["vmid"]: row["node"] for row in rows if row.get("type") == "qemu"}
        for vmid, node in unknown.items():
            if vmid not in self.index.guests:
                with contextlib.suppress(HypervisorUnavailableError):  # then the ticker keeps it as one that is unread
                    await self._reader.refresh(vmid, doing, node=node)

    async def pool_of(self, vmid: int, doing: str) -> str:
        """The pool that a guest is in now, which the index then knows as well; empty for none."""
        number = self._reader.begin()
        rows = await self._reader.listed_whole(doing)
        pool = next((str(row.get("pool") or "") for row in rows if row["vmid"] == vmid), "")
        guest = self.index.guests.get(vmid)
        if guest is not None and guest.pool != pool:
            self._reader.put(number, replace(guest, pool=pool))
        return pool

    def _changed(self, before: Guest | None, after: Guest | None) -> None:
        self._agents.consider(before, after)
        if not self._ticker.known.is_set():
            return
        stamps = [guest.stamp for guest in (before, after) if guest is not None]
        for uid in dict.fromkeys(stamp.uid for stamp in stamps if stamp is not None):
            self._tell(uid)
