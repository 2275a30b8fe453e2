"""The one property collector of a session: it fills the tree, tells who changed, and awaits tasks.

It waits on a thread of its own, so that an idle inventory costs one long request and nothing per machine. What it
learns is handed to the event loop in whole update sets, in the server's order.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from common import logging
from common.errors import HypervisorUnavailableError, ProviderError
from pyVmomi import vim, vmodl

from provider_vsphere.session import happenings, watched
from provider_vsphere.session.happenings import ALARMS, HAPPENING
from provider_vsphere.session.login import WAIT_SECONDS, Login
from provider_vsphere.session.tree import Tree
from provider_vsphere.session.vim_errors import translate, words

log = logging.get(__name__)

PAGE = 500
"""Objects in one answer; more would hold the interpreter's lock for long while they are decoded."""

LEAVE_SECONDS = 3.0
"""How long the thread may take to leave; one whose line is dead is left behind."""
_EVENTS = "EventHistoryCollector"
_FOLLOWED = frozenset({"Task", "HttpNfcLease"})
"""Kinds that are no inventory: somebody waits for each of them."""
_ENDS = {"info.state": ("success", "error"), "state": ("done", "error")}
_SINCE_VERSION = frozenset({
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.annotation",
    "config.template",
})  # fmt: skip
"""Leaves that some servers do not push though they changed; the version that goes with them they do push."""
_VERSION = "config.changeVersion"
SETTLE_SECONDS = 0.05
"""So long a machine whose leaves may be behind waits: whoever changes it usually reads it next."""


@dataclass(frozen=True)
class Update:
    """One object's part of an update set."""

    kind: str
    moid: str
    gone: bool = False
    changed: dict[str, Any] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


@dataclass
class Reading:
    """A read that is under way, and what was pushed meanwhile: that is never older than what the read brings."""

    moids: frozenset[str]
    pushed: dict[str, set[str]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def note(self, update: Update) -> None:
        """This was pushed."""
        if update.moid not in self.moids:
            return
        if update.gone:
            self.gone.add(update.moid)
        self.pushed.setdefault(update.moid, set()).update(update.changed, update.unset)

    def rest(self, update: Update) -> Update | None:
        """What the read adds to what was pushed; None when the machine went away."""
        if update.gone:
            return update
        if update.moid in self.gone:
            return None
        pushed = self.pushed.get(update.moid, set())
        changed = {path: value for path, value in update.changed.items() if path not in pushed}
        return replace(update, changed=changed, unset=tuple(path for path in update.unset if path not in pushed))


class Collector:
    """Lives as long as one login."""

    def __init__(
        self,
        login: Login,
        tree: Tree,
        *,
        on_machine: Callable[[str], None],
        on_task: Callable[[str, dict[str, Any]], None],
        with_events: bool = True,
    ) -> None:
        """Nothing is asked yet.

        Args:
            on_machine: gets the UUID of each VM that changed or went.
            on_task: gets the id of a task or lease and its properties.
            with_events: follow events, too.
        """
        self.synced = asyncio.Event()
        """Set once the tree holds the whole inventory."""
        self._login = login
        self._tree = tree
        self._on_machine = on_machine
        self._on_task = on_task
        self._collector: Any = None
        self._leaving = False
        self._readings: list[Reading] = []
        self._leaves_of: dict[str, str] = {}
        """Version of each machine that its leaves are known to be of."""
        self._behind: set[str] = set()
        self._some_behind = asyncio.Event()
        self._with_events = with_events
        self._last_event = 0
        self._history: list[Any] | None = []
        """Events that are told of before the VMs that they are about; None once everything was told of."""
        self._nameless: set[str] = set()
        self._some_nameless = asyncio.Event()

    async def run(self) -> None:
        """Collect until cancelled.

        Raises:
            ProviderError: the session or the line is gone.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[ProviderError] = loop.create_future()

        def settle(error: ProviderError) -> None:
            if not ended.done():
                ended.set_result(error)

        def work() -> None:
            try:
                self._collect(loop)
            except Exception as error:  # noqa: BLE001  # whatever it is, it ends the session
                failure = error if isinstance(error, ProviderError) else translate(error, "watch the inventory")
            else:
                failure = HypervisorUnavailableError("watch the inventory: it ended")
            _on_loop(loop, settle, failure)

        thread = threading.Thread(target=work, name="vsphere-collector", daemon=True)
        thread.start()
        try:
            raise await asyncio.shield(ended)
        finally:
            self._leaving = True
            await self._wake(loop, ended)

    async def _wake(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[ProviderError]) -> None:
        """Wake the thread that waits, and see it leave: its connection must be back before all of them are closed."""
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(Exception):  # the session may be gone already, and the wait with it
                if self._collector is not None:
                    self._collector.CancelWaitForUpdates()
            _on_loop(loop, lambda: None if woken.done() else woken.set_result(None))

        threading.Thread(target=wake, name="vsphere-wake", daemon=True).start()
        both: set[asyncio.Future[Any]] = {ended, woken}
        await asyncio.wait(both, timeout=LEAVE_SECONDS)

    # -- on the thread ---------------------------------------------------------------------------------------------

    def _collect(self, loop: asyncio.AbstractEventLoop) -> None:
        content = self._login.content
        # The default collector: filters for tasks are added to it while it waits.
        self._collector = content.propertyCollector
        view = content.viewManager.CreateContainerView(content.rootFolder, watched.VIEWED, True)
        self._collector.CreateFilter(watched.inventory_filter(view, content.rootFolder), False)
        if self._with_events:
            self._follow_events(content)
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=WAIT_SECONDS, maxObjectUpdates=PAGE)
        version, complete = "", False
        while not self._leaving:
            answer = self._collector.WaitForUpdatesEx(version, options)
            if answer is None:
                continue  # nothing happened
            version = answer.version
            updates = [update for each in answer.filterSet for update in _updates(each)]
            complete = complete or not answer.truncated
            _on_loop(loop, self._take, updates, complete)
            for over in {each.filter._moId: each.filter for each in answer.filterSet if _has_ended(each)}.values():
                with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):  # it went with its task
                    over.DestroyPropertyFilter()

    def _follow_events(self, content: Any) -> None:
        try:
            events = happenings.collector_for(content)
            self._collector.CreateFilter(watched.events_filter(events), False)
        except vmodl.MethodFault as fault:  # reasons are worth having, and nothing depends on them
            log.warning("vsphere.events.refused", error=words(fault))

    # -- on the loop -----------------------------------------------------------------------------------------------

    def _take(self, updates: list[Update], complete: bool) -> None:
        if self._leaving:
            return
        self.take(updates)
        if complete and not self.synced.is_set():
            self._take_events(self._history or [], history=True)
            self._history = None
            self.synced.set()

    def take(self, updates: list[Update]) -> None:
        """Put what was pushed into the tree and tell who changed."""
        for update in updates:
            if update.kind in _FOLLOWED:
                self._on_task(update.moid, {"gone": True} if update.gone else update.changed)
                continue
            if update.kind == _EVENTS:
                self._take_page(update.changed.get(watched.LATEST_EVENTS) or [])
                continue
            for reading in self._readings:
                reading.note(update)
            self._put(update)
            if _VERSION in update.changed and not update.gone:
                if _SINCE_VERSION & update.changed.keys():
                    self._leaves_of[update.moid] = update.changed[_VERSION]
                self._check_leaves(update.moid)

    def _put(self, update: Update) -> None:
        if update.gone:
            self._leaves_of.pop(update.moid, None)
            self._told(self._tree.remove(update.moid))
            return
        before = self._tree.get(update.moid)
        facts = before.facts if before is not None else None
        unset = (*update.unset, HAPPENING) if _is_over(facts, update.changed) else update.unset
        entity = self._tree.put(update.kind, update.moid, update.changed, unset)
        if entity.facts != facts:
            self._told(entity)
            self._told_members(facts or {}, entity.facts)
        if missing := {moid for moid in update.changed.get(ALARMS) or () if self._tree.get(moid) is None}:
            self._nameless |= missing
            self._some_nameless.set()

    def _told_members(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """A cluster's rules belong to what is true of the VMs in them."""
        was, is_now = before.get(watched.DRS), after.get(watched.DRS)
        if was is not None and is_now is not None:
            for _, moid in _members(was) ^ _members(is_now):
                self._told(self._tree.get(moid))

    def _check_leaves(self, moid: str) -> None:
        entity = self._tree.get(moid)
        if entity is not None and self._leaves_of.get(moid) != entity.facts.get(_VERSION):
            self._behind.add(moid)
            self._some_behind.set()

    async def wait_behind(self) -> list[str]:
        """Wait for machines whose leaves may be older than their version: they are to be read."""
        while True:
            await self._some_behind.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._some_behind.clear()
            behind, self._behind = self._behind, set()
            found = [each for moid in behind if (each := self._tree.get(moid)) is not None]
            if moids := [e.moid for e in found if self._leaves_of.get(e.moid) != e.facts.get(_VERSION)]:
                return moids

    async def wait_nameless(self) -> set[str]:
        """Wait for alarms that are raised and whose names nobody knows yet."""
        await self._some_nameless.wait()
        self._some_nameless.clear()
        nameless, self._nameless = self._nameless, set()
        return nameless

    def name_alarms(self, names: dict[str, str]) -> None:
        """These are the names of alarms."""
        for moid, name in names.items():
            self._tree.put("Alarm", moid, {"name": name})
        for entity in self._tree.of_kind("VirtualMachine"):
            if names.keys() & set(entity.facts.get(ALARMS) or ()):
                self._told(entity)

    def _take_page(self, events: list[Any]) -> None:
        if self._history is not None:
            self._history = events
        else:
            self._take_events(events, history=False)

    def _take_events(self, events: list[Any], *, history: bool) -> None:
        found, self._last_event = happenings.newest(events, self._last_event, history=history)
        for moid, happened in found.items():
            if self._tree.get(moid) is not None:
                self._put(Update("VirtualMachine", moid, changed={HAPPENING: happened}))

    @contextlib.contextmanager
    def reading(self, moids: Iterable[str]) -> Iterator[Reading]:
        """Around a read, so that it undoes nothing that is pushed meanwhile."""
        reading = Reading(frozenset(moids))
        self._readings.append(reading)
        try:
            yield reading
        finally:
            self._readings.remove(reading)

    def take_read(self, reading: Reading, updates: list[Update]) -> None:
        """Put what was read into the tree."""
        for update in updates:
            rest = reading.rest(update)
            if rest is None:
                continue
            self._put(rest)
            if not update.gone:
                self._leaves_of[update.moid] = update.changed.get(_VERSION, "")
                self._check_leaves(update.moid)

    def _told(self, entity: Any) -> None:
        if entity is not None and entity.kind == "VirtualMachine" and entity.uuid:
            self._on_machine(entity.uuid)


def read_machines(login: Login, moids: Iterable[str]) -> list[Update]:
    """Read machines at once; blocks. One that is gone meanwhile is told to be so."""
    stub = login.instance._stub
    machines = [vim.VirtualMachine(moid, stub) for moid in moids]
    collector = login.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    try:
        answer = collector.RetrievePropertiesEx([watched.machine_filter(machines)], options)
    except vmodl.fault.ManagedObjectNotFound:
        if len(machines) == 1:
            return [Update("VirtualMachine", machines[0]._moId, gone=True)]
        return [update for machine in machines for update in read_machines(login, [machine._moId])]
    found = list(answer.objects) if answer is not None else []
    while answer is not None and answer.token:
        answer = collector.ContinueRetrievePropertiesEx(answer.token)
        found += answer.objects
    wanted = watched.PROPERTIES[vim.VirtualMachine]
    updates = []
    for each in found:
        changed = {p.name: watched.plain(p.val) for p in each.propSet}
        unset = tuple(path for path in wanted if path not in changed)
        updates.append(Update(each.obj._wsdlName, each.obj._moId, changed=changed, unset=unset))
    return updates


def _members(cluster: watched.Drs) -> set[tuple[str, str]]:
    return {(name, moid) for name, rule in cluster.rules.items() for moid in rule.members}


def _is_over(before: dict[str, Any] | None, changed: dict[str, Any]) -> bool:
    """What happened explains the power state that a VM was in, and now it is in another."""
    happened = before.get(HAPPENING) if before is not None else None
    return happened is not None and changed.get("runtime.powerState") not in (None, happened.explains)


def _has_ended(filter_update: Any) -> bool:
    """The filter was for a task or a lease, and there is nothing more to come."""
    return any(
        (each.kind == "leave" and each.obj._wsdlName in _FOLLOWED)
        or any(change.name in _ENDS and change.val in _ENDS[change.name] for change in each.changeSet)
        for each in filter_update.objectSet
    )


def _updates(filter_update: Any) -> Iterable[Update]:
    for each in filter_update.objectSet:
        kind, moid = each.obj._wsdlName, each.obj._moId
        if each.kind == "leave":
            yield Update(kind, moid, gone=True)
            continue
        changed, unset = {}, []
        for change in each.changeSet:
            if change.op in ("assign", "add") and change.val is not None:
                changed[change.name] = watched.plain(change.val)
            else:
                unset.append(change.name)
        yield Update(kind, moid, changed=changed, unset=tuple(unset))


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return  # a closed loop: nobody listens any more
