"""The connection to vSphere: logged in, kept, made anew; the one way to call it and to wait for its tasks.

Credentials that ran out and a restarted vCenter are the same to callers: what was refused for want of a session had no
effect, and is repeated once in the next one. Whether a call took effect whose answer got lost, nobody knows; `doubtful`
says that it happened, so that a create looks twice before it makes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from common import logging, tracing
from common.clock import Clock
from common.errors import HypervisorUnavailableError, InternalError, ProviderError
from providerkit.background import running
from providerkit.driver import Progress
from providerkit.threads import Threads
from pyVmomi import vim

from provider_vsphere.session import happenings, watched
from provider_vsphere.session.collector import LEAVE_SECONDS, Collector, Update, read_machines
from provider_vsphere.session.following import Following
from provider_vsphere.session.login import About, Edition, Endpoint, Login, is_unauthenticated, log_in, plain_user
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vim_errors import mapped, translate

log = logging.get(__name__)
T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
LOOK_SECONDS = 0.5
"""So often the credentials are looked at while there is no session."""
SYNC_SECONDS = 15.0
CANCEL_SECONDS = 60.0
LAG_SECONDS = 60.0
"""So late the collector may still tell of a machine that somebody else has made."""
_MAKING = ("Folder.createVm", "VirtualMachine.clone", "VirtualMachine.instantClone")
"""`info.descriptionId` of tasks that end with another machine. Imports are left out: no machine is made by one, and
somebody's may run for hours."""
_MACHINE_TASKS = ("snapshot", "consolidate")
"""What `info.descriptionId` of tasks on snapshots has in it: "VirtualMachine.createSnapshot", "vm.Snapshot.revert"."""


@contextlib.contextmanager
def begun(doing: str) -> Iterator[None]:
    """Around what follows a call that had an effect, in one piece with it: should the session end just there, that
    piece must not count as refused and be repeated."""
    try:
        with mapped("watch it"):
            yield
    except ProviderError as error:
        raise HypervisorUnavailableError(f"{doing}: it began, and nothing tells of its end: {error}") from None


class Vsphere:
    """One endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        call_timeout: float = 30.0,
        task_timeout: float = 3600.0,
        concurrency: int = 8,
        lag: float = LAG_SECONDS,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """Nothing is opened yet.

        Args:
            call_timeout: seconds after which a call without an answer counts as lost.
            task_timeout: seconds after which a task that does not end counts as hanging; it is left to the server.
            lag: seconds after a doubt in which machines are looked up on the server besides.
            concurrency: calls, and tasks, at a time: a vCenter has a budget of them, and other users.
            first_pause: seconds after the first attempt to log in that failed; they grow with each.
        """
        self.endpoint = endpoint
        self.tree = Tree()
        self.about: About | None = None
        """What the server said of itself at the last login; None before the first."""
        self.doubtful = True
        """A making task may run that nobody here waits for: an earlier process began it, or its answer was lost."""
        self._settling = asyncio.Lock()
        self._lag = lag
        self._lag_until = 0.0
        self._clock = clock
        self._call_timeout = call_timeout
        self._task_timeout = task_timeout
        self._calls = Threads(concurrency)
        self._places = asyncio.Semaphore(concurrency)
        self._first_pause = first_pause
        self._login: Login | None = None
        self._collector: Collector | None = None
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._reason: ProviderError = HypervisorUnavailableError(f"{endpoint.url}: not connected yet")
        self._with_events = True
        """Until an answer cannot be decoded: events hold what any product may have put there, and are done without."""
        self.following = Following()
        self._listeners: list[Callable[[str | None], None]] = []

    def on_change(self, tell: Callable[[str | None], None]) -> None:
        """Have it called, too, with the `instanceUuid` of each VM that changed; None when anything may have."""
        self._listeners.append(tell)

    def _tell(self, uid: str | None) -> None:
        for tell in self._listeners:
            tell(uid)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Keep a login until the context is left; entering waits a while for the first one, not for its success."""
        tried = asyncio.Event()
        async with running(self._keep(tried), "vsphere session"):
            with contextlib.suppress(TimeoutError):  # a server that hangs must not hold up the start
                async with asyncio.timeout(SYNC_SECONDS):
                    await tried.wait()
            yield

    async def wait_connected(self) -> None:
        """Wait until there is a login, and the whole inventory in the tree."""
        await self._up.wait()

    async def wait_lost(self) -> None:
        """Wait until the login of now is known to be gone."""
        await self._lost.wait()

    # -- calling ---------------------------------------------------------------------------------------------------

    def login(self, doing: str) -> Login:
        """The login of now, with the whole inventory in the tree.

        Raises:
            ProviderError: there is none, and why.
        """
        if self._login is None or not self._up.is_set():
            raise type(self._reason)(f"{doing}: {self._reason}", retry_after=2.0)
        return self._login

    async def call(self, doing: str, use: Callable[[Login], T]) -> T:
        """Call vSphere on a thread.

        Args:
            doing: for people: what is being done to which machine.
            use: gets the login. Repeated in the next session if this one was refused.
        Raises:
            ProviderError: whatever vSphere said, translated.
        """
        login = self.login(doing)
        try:
            return await self._call(login, doing, use)
        except ProviderError as error:
            if not is_unauthenticated(error):
                raise
            self._drop(login)
        await self._next_session(doing)
        return await self._call(self.login(doing), doing, use)

    async def _call(self, login: Login, doing: str, use: Callable[[Login], T]) -> T:
        def work() -> T:
            with mapped(doing):
                return use(login)

        return await self._calls.run(work, timeout=self._call_timeout, doing=doing)

    async def _next_session(self, doing: str) -> None:
        try:
            async with asyncio.timeout(self._call_timeout):
                await self._up.wait()
        except TimeoutError:
            raise type(self._reason)(f"{doing}: {self._reason}", retry_after=2.0) from None

    def machine(self, entity: Entity, login: Login) -> Any:
        """pyvmomi's object for a VM of the tree."""
        return vim.VirtualMachine(entity.moid, login.instance._stub)

    def object(self, entity: Entity, login: Login) -> Any:
        """pyvmomi's object for anything in the tree."""
        kinds = {"VmwareDistributedVirtualSwitch": vim.dvs.VmwareDistributedVirtualSwitch}
        kind = kinds.get(entity.kind) or getattr(vim, entity.kind, None) or getattr(vim.dvs, entity.kind)
        return kind(entity.moid, login.instance._stub)

    async def refresh(self, *entities: Entity) -> None:
        """Bring these machines up to date, in the tree and in the caller's hands, without waiting for the collector.

        In a new session the tree has new objects: who is in the middle of something holds the old ones, and must not
        go on with what they said before.
        """
        if not entities:
            return
        moids = [entity.moid for entity in entities]
        while True:
            self.login("read machines")
            collector = self._collector
            assert collector is not None  # there is a login
            with collector.reading(moids) as reading:
                updates = await self.call("read machines", lambda login: read_machines(login, moids))
                if collector is self._collector:
                    collector.take_read(reading, updates)
                    break
        for entity in entities:
            known = self.tree.get(entity.moid)
            if known is not None:
                entity.facts = known.facts

    def forget(self, entity: Entity) -> None:
        """It was destroyed: take it out of the tree, without waiting for the collector."""
        if self._collector is not None:
            self._collector.take([Update(entity.kind, entity.moid, gone=True)])

    def learn(self, entity: Entity, facts: dict[str, Any]) -> None:
        """Put facts into the tree that no collector tells: others are told as if one had."""
        if self._collector is not None and self.tree.get(entity.moid) is not None:
            self._collector.take([Update(entity.kind, entity.moid, changed=facts)])

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def task(
        self, doing: str, begin: Callable[[Login], Any], progress: Progress | None = None, *, cancel: bool = False
    ) -> Any:
        """Begin a task and wait for its end, told by the collector.

        Args:
            begin: makes the call that answers with the task.
            progress: gets the part that is done.
            cancel: when the caller stops waiting, cancel the task, and leave only when it has ended.
        Returns:
            `info.result` of the task.
        Raises:
            ProviderError: `info.error`, translated; or its end could not be learned.
        """
        async with self._places:
            with tracing.span("vsphere.task", doing=doing) as span:
                moid = await self._begin(doing, begin)
                span.set_attribute("vsphere.task", moid)
                return await self._ended(doing, moid, progress, cancel=cancel)

    async def _ended(self, doing: str, moid: str, progress: Progress | None, *, cancel: bool) -> Any:
        try:
            return await self._await(doing, moid, progress)
        except asyncio.CancelledError:
            if cancel:
                await asyncio.shield(self._cancel(doing, moid))
            raise
        finally:
            self.following.forget(moid)

    async def _begin(self, doing: str, begin: Callable[[Login], Any]) -> str:
        def start(login: Login) -> tuple[str, Login]:
            task = begin(login)
            with begun(doing):
                login.content.propertyCollector.CreateFilter(watched.task_filter(task), False)
            return str(task._moId), login

        # Not to be interrupted: a task that began and that nobody knows would be a machine that nobody knows.
        beginning = asyncio.ensure_future(self.call(doing, start))
        try:
            moid, login = await asyncio.shield(beginning)
            if login is not self._login:  # and its filters went with it
                raise HypervisorUnavailableError(f"{doing}: it began, and the session ended")
        except asyncio.CancelledError:
            self.doubtful = True
            with contextlib.suppress(ProviderError):
                await self._cancel(doing, (await beginning)[0])
            raise
        except (HypervisorUnavailableError, InternalError):
            self.doubtful = True
            raise
        self.following.begin(moid)
        return moid

    async def _await(self, doing: str, moid: str, progress: Progress | None) -> Any:
        known: dict[str, Any] = {}
        try:
            with self.following.listening(moid) as updates:
                async with asyncio.timeout(self._task_timeout):
                    while True:
                        known |= await updates.get()
                        if (state := known.get("info.state")) == "success":
                            return known.get("info.result")
                        if state == "error":
                            raise translate(known.get("info.error"), doing)
                        if state is None:
                            raise HypervisorUnavailableError(f"{doing}: the session ended before the task did")
                        if progress is not None and known.get("info.progress"):
                            progress(known["info.progress"] / 100, doing)
        except TimeoutError:
            raise HypervisorUnavailableError(f"{doing}: the task has not ended in {self._task_timeout:g} s") from None

    async def _cancel(self, doing: str, moid: str) -> None:
        """Have a task cancelled, and wait for its end."""

        def ask(login: Login) -> None:
            with contextlib.suppress(vim.fault.InvalidState):  # it has ended meanwhile
                vim.Task(moid, login.instance._stub).CancelTask()

        with contextlib.suppress(ProviderError, TimeoutError):  # it failed, as wanted, or nobody can tell
            async with asyncio.timeout(CANCEL_SECONDS):
                with contextlib.suppress(ProviderError):  # not every task can be cancelled: then it is waited for
                    await self.call(f"cancel: {doing}", ask)
                await self._await(doing, moid, None)
                return
        self.doubtful = True

    async def settle_doubts(self) -> bool:
        """Wait until no task runs that may make a machine and that nobody here waits for; whether there was a doubt."""
        async with self._settling:  # whoever comes meanwhile waits for the same answer
            if not self.doubtful:
                return False
            self.doubtful = False  # what becomes doubtful from now on is asked for again
            try:
                await self._settle()
            except BaseException:
                self.doubtful = True
                raise
            self._lag_until = self._clock.monotonic() + self._lag
            return True

    @property
    def tree_may_lag(self) -> bool:
        """A machine may have been made that nobody here waited for, and not be in the tree yet."""
        return self._clock.monotonic() < self._lag_until

    async def _settle(self) -> None:
        await self._until_ended(lambda task: task["info.descriptionId"] in _MAKING)

    async def settle_machine(self, entity: Entity) -> None:
        """Wait until no task runs that changes the snapshots of this machine and that nobody here waits for: one of a
        process that died goes on, and would be done twice."""

        def is_meant(task: dict[str, str]) -> bool:
            what = task["info.descriptionId"].lower()
            return task["info.entity"] == entity.moid and any(kind in what for kind in _MACHINE_TASKS)

        await self._until_ended(is_meant)
        await self.refresh(entity)

    async def _until_ended(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Wait for tasks of our user that run now, whichever process began them. Whether they succeed does not matter:
        what is true is looked up afterwards. Other people's machines may take hours, and are none of ours."""

        def running_now(login: Login) -> list[str]:
            collector, found = login.content.propertyCollector, []
            recent = watched.recent_tasks_filter(login.content.taskManager)
            for each in collector.RetrieveContents([recent]):
                told = dict.fromkeys(watched.RECENT_TASK, "")
                told |= {change.name: str(watched.plain(change.val)) for change in each.propSet}
                ours = plain_user(told["info.reason"]) == login.user
                if told["info.state"] in ("running", "queued") and ours and wanted(told):
                    collector.CreateFilter(watched.task_filter(each.obj), False)
                    found.append(str(each.obj._moId))
            return found

        for moid in await self.call("look for running tasks", running_now):
            with contextlib.suppress(ProviderError):
                await self._await("wait for a task that was begun before", moid, None)

    # -- the keeper ------------------------------------------------------------------------------------------------

    async def _keep(self, tried: asyncio.Event) -> None:
        pause = self._first_pause
        while True:
            edition = self.endpoint.edition()
            try:
                login = await self._log_in()
            except ProviderError as error:
                self._reason = error
                log.warning("vsphere.login.failed", endpoint=self.endpoint.url, error=str(error), pause=pause)
            else:
                try:
                    await self._serve(login, tried)
                except ProviderError as error:
                    self._reason = error
                    self._with_events = self._with_events and not isinstance(error, InternalError)
                    log.warning("vsphere.session.lost", endpoint=self.endpoint.url, error=str(error))
                pause = self._first_pause
            tried.set()
            corrected = await self._pause(pause, edition)
            pause = self._first_pause if corrected else min(pause * 2, LONGEST_PAUSE)

    async def _pause(self, seconds: float, edition: Edition) -> bool:
        """Before another attempt to log in; credentials that somebody corrects end it. Whether they did."""
        end = self._clock.monotonic() + seconds * random.uniform(0.8, 1.2)
        while (left := end - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, LOOK_SECONDS))
            if self.endpoint.edition() != edition:
                return True
        return False

    async def _log_in(self) -> Login:
        return await self._calls.run(lambda: log_in(self.endpoint), timeout=self._call_timeout, doing="log in")

    async def _serve(self, login: Login, tried: asyncio.Event) -> None:
        """One login, until it is lost."""
        before = self.about.uuid if self.about is not None else ""
        self.tree.clear(same_server=before != "" and before == login.about.uuid)
        self._lost.clear()
        self.doubtful = True
        collector = Collector(
            login,
            self.tree,
            on_machine=self._tell,
            on_task=self.following.tell,
            with_events=self._with_events,
        )
        self._login, self._collector, self.about = login, collector, login.about
        collecting = asyncio.ensure_future(collector.run())
        lost = asyncio.ensure_future(self._lost.wait())
        synced = asyncio.ensure_future(collector.synced.wait())
        catching_up = asyncio.ensure_future(self._catch_up(collector))
        naming = asyncio.ensure_future(self._name_alarms(collector))
        try:
            await asyncio.wait({collecting, lost, synced}, return_when=asyncio.FIRST_COMPLETED)
            if synced.done():
                self.tree.settle()
                self._up.set()
                log.info("vsphere.connected", endpoint=self.endpoint.url, product=login.about.product)
                tried.set()
                self._tell(None)
                await asyncio.wait({collecting, lost}, return_when=asyncio.FIRST_COMPLETED)
            if collecting.done():
                collecting.result()
            raise HypervisorUnavailableError(f"{self.endpoint.url}: the session ended")
        finally:
            self._up.clear()
            self._lost.set()
            self._login = self._collector = None
            parts = {collecting, lost, synced, catching_up, naming}
            for future in parts:
                future.cancel()
            await asyncio.wait(parts)
            self.following.lose()
            with contextlib.suppress(ProviderError):  # a server that does not answer forgets us by itself
                await self._calls.run(login.close, timeout=LEAVE_SECONDS, doing="log out")

    async def _catch_up(self, collector: Collector) -> None:
        """Read machines of which the collector told that they changed, and not all that did."""
        while True:
            moids = await collector.wait_behind()
            with contextlib.suppress(ProviderError):  # the next session reads everything
                await self.refresh(*(Entity("VirtualMachine", moid) for moid in moids))

    async def _name_alarms(self, collector: Collector) -> None:
        """Learn the names of alarms as they are raised."""
        while True:
            moids = await collector.wait_nameless()

            def read(login: Login, moids: set[str] = moids) -> dict[str, str]:
                return happenings.alarm_names(login.content, login.instance._stub, moids)

            with contextlib.suppress(ProviderError):  # they are named when they are raised again
                collector.name_alarms(await self.call("read alarms", read))

    def _drop(self, login: Login) -> None:
        if self._login is login:
            self._lost.set()
            self._up.clear()
