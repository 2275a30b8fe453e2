"""The watch hub: one place that knows every machine, and tells each subscriber what changed since it last heard.

A subscriber holds nothing but its position. Whatever changed after it is sent as the state that holds when it is sent,
so a slow one skips states in between, blocks nobody and never misses the latest.

Observations carry a ticket that is drawn when they begin. One that began before another of the same machine never
overwrites it: a slow look at the hypervisor cannot undo what a later look has seen.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from common import logging, v1, wire
from common.clock import Clock
from common.errors import HypervisorUnavailableError, ProviderError

from .driver import Driver
from .metrics import Metrics
from .waiting import wait_event

log = logging.get(__name__)

T = TypeVar("T")

_CODEC = wire.codec(v1.Machine)

BATCH = 200
MAX_TOMBSTONES = 10_000
"""Removed machines that are remembered for subscribers who resume; one that lags further gets a fresh snapshot."""


def token_of(machine: v1.Machine) -> str:
    """Token of a state: equal states have equal tokens. Token and operation are no part of the state."""
    bare = dataclasses.replace(machine, token="", operation_id="", settings={})  # a map has no order on the wire
    settings = repr(sorted(machine.settings.items())).encode("utf-8", "backslashreplace")
    return hashlib.sha256(_CODEC.dumps(bare) + settings).hexdigest()[:32]


@dataclass(slots=True)
class _Entry:
    machine: v1.Machine | None
    ticket: int
    token: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How the hub paces itself; seconds."""

    debounce: float = 0.02
    resync: float = 300.0
    retry: float = 1.0
    retry_most: float = 30.0
    observe_timeout: float = 30.0
    bulk_from: int = 25
    """So many changed machines at once are observed by one bulk call."""


class Hub:
    """Consumes a driver's changes; run `run()` in a task group for as long as the driver's session is held."""

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        *,
        operation_of: Callable[[str], str] = lambda uid: "",
        withheld: Callable[[str], bool] = lambda uid: False,
        settings: HubSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Args:
        operation_of: id of the operation that runs on a machine, or "".
        withheld: whether subscribers are not to be told of a machine now, because its state is one of several that a
            short piece of work takes it through; `touch` tells them when that has ended.
        """
        self._driver = driver
        self._clock = clock
        self._operation_of, self._withheld = operation_of, withheld
        self._untold: set[str] = set()
        self._metrics = metrics
        self._hinted: dict[str, float] = {}
        """Since when the driver says that a machine changed (monotonic), until it was looked at."""
        self._settings = settings or HubSettings()
        self._epoch = secrets.token_hex(6)
        self._counter = 0
        self._floor = 0
        self._ticket = 0
        self._entries: dict[str, _Entry] = {}
        self._order: OrderedDict[str, int] = OrderedDict()
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._foreign_names: dict[str, str] = {}
        self._dirty: dict[str, None] = {}
        """UIDs to look at, in the order in which they were named."""
        self._dirty_all = True
        self._work = asyncio.Event()
        self._work.set()
        self._subscribers: dict[asyncio.Event, None] = {}
        self._listeners: dict[str, dict[asyncio.Event, None]] = {}
        """Who came first is told first, in every run alike: a failure that was seen once can be seen again."""
        self._fault: ProviderError | None = None
        self._known = False
        self._settled = asyncio.Event()
        self.turned = asyncio.Event()
        """Set when the hypervisor went away or came back; whoever waits for it clears it."""

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """The last look at the hypervisor succeeded."""
        return self._known and self._fault is None

    @property
    def fault(self) -> ProviderError | None:
        """Why nothing known can be trusted; None while the hypervisor answers."""
        return self._fault

    @property
    def revision(self) -> str:
        """Revision of what is known now."""
        return f"{self._epoch}-{self._counter}"

    async def look(self, uid: str) -> v1.Machine | None:
        """Observe one machine now, tell the subscribers, and answer with it, token and operation set.

        Raises:
            HypervisorUnavailableError: no answer, or none in time.
        """
        ticket = self._draw()
        seen = await self._within(f"observe machine {uid}", self._driver.observe(uid))
        self._publish(uid, seen, ticket)
        return self.dress(seen)

    async def look_all(self) -> list[v1.Machine]:
        """Observe every machine now, foreign ones too, and tell the subscribers."""
        ticket = self._draw()
        machines = await self._within("observe all machines", self._driver.observe_all())
        found: set[str] = set()
        self._foreign_names = {m.hypervisor_name: m.id for m in machines if not _is_ours(m)}
        for machine in machines:
            if machine.identity is not None and _is_ours(machine):
                found.add(machine.identity.uid)
                self._publish(machine.identity.uid, machine, ticket)
        for uid in [uid for uid, entry in self._entries.items() if entry.machine is not None and uid not in found]:
            self._publish(uid, None, ticket)
        self._known = True
        self._hinted.clear()
        self._heal()
        return [dressed for machine in machines if (dressed := self.dress(machine)) is not None]

    def dress(self, machine: v1.Machine | None) -> v1.Machine | None:
        """The machine with what the kit adds to it: token and running operation."""
        if machine is None:
            return None
        uid = machine.identity.uid if machine.identity is not None else ""
        return dataclasses.replace(
            machine, token=token_of(machine), operation_id=self._operation_of(uid) if uid else ""
        )

    def known(self, uid: str) -> v1.Machine | None:
        """One of our machines as it was when it was last seen."""
        entry = self._entries.get(uid)
        return self._dressed(entry) if entry is not None and entry.machine is not None else None

    def machines(self) -> list[v1.Machine]:
        """Ours, as they were last seen; empty while the hypervisor is away, as nothing known can be trusted."""
        if not self.available:
            return []
        return [entry.machine for entry in self._entries.values() if entry.machine is not None]

    @property
    def foreign(self) -> int:
        """Machines at the last full look that are not ours."""
        return len(self._foreign_names)

    def foreign_id(self, name: str) -> str | None:
        """Id of a foreign machine that had this hypervisor name at the last full look; a hint, never a verdict."""
        return self._foreign_names.get(name)

    def touch(self, uid: str) -> None:
        """Work on the machine began or ended: tell the subscribers, also of what was withheld."""
        entry = self._entries.get(uid)
        if uid in self._untold and not self._withheld(uid):
            self._tell(uid)
        if entry is not None and entry.machine is not None:
            self._publish(uid, entry.machine, entry.ticket)

    def suspect(self, uid: str | None) -> None:
        """A machine may have changed (None: any may have): look soon."""
        if uid is None:
            self._dirty_all = True
        else:
            self._dirty[uid] = None
            if self._metrics is not None:
                self._hinted.setdefault(uid, self._clock.monotonic())
        self._work.set()

    @contextmanager
    def listen(self, uid: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the machine was seen to change."""
        event = asyncio.Event()
        self._listeners.setdefault(uid, {})[event] = None
        try:
            yield event
        finally:
            self._listeners[uid].pop(event, None)
            if not self._listeners[uid]:
                del self._listeners[uid]

    # -- subscribing -----------------------------------------------------------------------------------------------

    async def subscribe(self, resume: str = "", heartbeat: float = 30.0) -> AsyncIterator[v1.WatchMachinesResponse]:
        """A snapshot, or what changed since `resume`; then each change, for as long as it is read.

        Raises:
            HypervisorUnavailableError: the hypervisor is away; what is known may be untrue.
        """
        if not self._known and self._fault is None:
            await self._settled.wait()
        wake = asyncio.Event()
        self._subscribers[wake] = None
        try:
            self._refuse_when_away()
            position = self._position(resume)
            if position is None:
                position = self._counter
                for message in self._snapshot():
                    yield message
            else:
                yield v1.WatchMachinesResponse(revision=f"{self._epoch}-{position}")
            while True:
                self._refuse_when_away()
                wake.clear()
                if position < self._floor:
                    position = self._counter
                    for message in self._snapshot():
                        yield message
                    continue
                if position < self._counter:
                    target = self._counter
                    for message in self._since(position):
                        yield message
                    position = target
                    continue
                if not await wait_event(wake, self._clock, heartbeat):
                    yield v1.WatchMachinesResponse(revision=f"{self._epoch}-{position}")
        finally:
            self._subscribers.pop(wake, None)

    def _position(self, resume: str) -> int | None:
        epoch, _, counter = resume.rpartition("-")
        if epoch != self._epoch or not counter.isascii() or not counter.isdigit() or len(counter) > 18:
            return None
        position = int(counter)
        return position if self._floor <= position <= self._counter else None

    def _snapshot(self) -> list[v1.WatchMachinesResponse]:
        """All that is known, in batches, made at one moment."""
        events = [
            v1.MachineEvent(changed=self._dressed(entry))
            for entry in self._entries.values()
            if entry.machine is not None
        ]
        batches = [events[i : i + BATCH] for i in range(0, len(events), BATCH)] or [[]]
        messages = [v1.WatchMachinesResponse(events=batch) for batch in batches]
        messages[0].snapshot_start = True
        messages[-1].snapshot_complete = True
        messages[-1].revision = self.revision
        return messages

    def _since(self, position: int) -> list[v1.WatchMachinesResponse]:
        """What changed after a position, one event per machine, in the order of the last changes."""
        changed: list[str] = []
        for uid, counter in reversed(self._order.items()):
            if counter <= position:
                break
            changed.append(uid)
        changed.reverse()
        events = []
        for uid in changed:
            entry = self._entries.get(uid)
            if entry is not None and entry.machine is not None:
                events.append(v1.MachineEvent(changed=self._dressed(entry)))
            else:
                events.append(v1.MachineEvent(removed=uid))
        messages = [v1.WatchMachinesResponse(events=events[i : i + BATCH]) for i in range(0, len(events), BATCH)]
        # Only the last batch may move a client's position: one that breaks off in between must get the rest again.
        for message in messages[:-1]:
            message.revision = f"{self._epoch}-{position}"
        messages[-1].revision = self.revision
        return messages

    def _dressed(self, entry: _Entry) -> v1.Machine:
        assert entry.machine is not None
        return dataclasses.replace(entry.machine, token=entry.token, operation_id=entry.operation_id)

    def _refuse_when_away(self) -> None:
        if self._fault is not None:
            raise HypervisorUnavailableError(f"watch machines: {self._fault}")

    # -- publishing ------------------------------------------------------------------------------------------------

    def _draw(self) -> int:
        self._ticket += 1
        return self._ticket

    def _publish(self, uid: str, seen: v1.Machine | None, ticket: int) -> None:
        """Note what was seen, and tell whoever listens if it differs. A machine that is not ours is absent here."""
        machine = seen if seen is not None and _is_ours(seen) else None
        entry, since = self._entries.get(uid), self._hinted.pop(uid, None)
        if entry is not None and ticket < entry.ticket:
            return
        token = token_of(machine) if machine is not None else ""
        operation_id = self._operation_of(uid) if machine is not None else ""
        if entry is None and machine is None:
            return
        if entry is not None and (entry.token, entry.operation_id) == (token, operation_id):
            entry.ticket = ticket
            return
        self._entries[uid] = _Entry(machine, ticket, token, operation_id)
        if machine is not None:
            self._tombstones.pop(uid, None)
        for event in self._listeners.get(uid, ()):
            event.set()
        if self._withheld(uid):
            self._untold.add(uid)
            return
        self._tell(uid)
        if since is not None and self._metrics is not None:
            self._metrics.told(self._clock.monotonic() - since)

    def _tell(self, uid: str) -> None:
        """Let subscribers know of a machine's state as it is now."""
        self._untold.discard(uid)
        self._counter += 1
        self._order[uid] = self._counter
        self._order.move_to_end(uid)
        if self._entries[uid].machine is None:
            self._bury(uid)
        for event in self._subscribers:
            event.set()

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = self._counter
        self._tombstones.move_to_end(uid)
        while len(self._tombstones) > MAX_TOMBSTONES:
            old, counter = self._tombstones.popitem(last=False)
            self._floor = counter
            del self._entries[old], self._order[old]

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the driver until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="watch: changes")
            group.create_task(self._observe(), name="watch: observe")
            group.create_task(self._resync(), name="watch: resync")

    async def _follow(self) -> None:
        delay = self._settings.retry
        while True:
            try:
                async for uid in self._driver.changes():
                    delay = self._settings.retry
                    self.suspect(uid)
            except ProviderError as error:
                self._break(error)
            except Exception as error:
                log.exception("watch.changes.bug")
                self._break(HypervisorUnavailableError(f"follow changes: internal error ({type(error).__name__})"))
            await self._clock.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(self._settings.retry_most, delay * 2)
            self.suspect(None)

    async def _observe(self) -> None:
        delay = self._settings.retry
        while True:
            await self._work.wait()
            await self._clock.sleep(self._settings.debounce)
            self._work.clear()
            dirty, everything = self._dirty, self._dirty_all or len(self._dirty) >= self._settings.bulk_from
            self._dirty, self._dirty_all = {}, False
            settled = await (self._try_all() if everything or not self.available else self._try_each(dirty))
            if settled:
                delay = self._settings.retry
                continue
            await self._pause(delay)
            delay = min(self._settings.retry_most, delay * 2)
            self.suspect(None)

    async def _pause(self, delay: float) -> None:
        """Between looks that failed; a word of the driver, which tells when the hypervisor is back, ends it early."""
        least = min(delay, self._settings.retry) * random.uniform(0.8, 1.2)
        await self._clock.sleep(least)
        await wait_event(self._work, self._clock, delay - least)

    async def _try_all(self) -> bool:
        """Look at everything; whether that worked. A failure means that nothing known can be trusted."""
        try:
            await self.look_all()
        except ProviderError as error:
            self._break(error)
        except Exception as error:
            log.exception("watch.observe.bug")
            self._break(HypervisorUnavailableError(f"observe: internal error ({type(error).__name__})"))
        else:
            return True
        return False

    async def _try_each(self, uids: Iterable[str]) -> bool:
        """Look at these machines; whether all answered. One that does not makes the hub look at everything, later."""
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._try_one(uid)) for uid in uids]
        return all(look.result() for look in looks)

    async def _try_one(self, uid: str) -> bool:
        try:
            await self.look(uid)
        except ProviderError as error:
            log.warning("watch.observe.failed", uid=uid, reason=error.reason, message=str(error))
        except Exception:
            log.exception("watch.observe.bug", uid=uid)
        else:
            return True
        return False

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(self._settings.resync * random.uniform(0.9, 1.1))
            self.suspect(None)

    async def _within(self, what: str, look: Awaitable[T]) -> T:
        """A look that takes too long is an answer too: the hypervisor hangs."""
        try:
            async with asyncio.timeout(self._settings.observe_timeout):
                return await look
        except TimeoutError:
            seconds = self._settings.observe_timeout
            raise HypervisorUnavailableError(f"{what}: the hypervisor gave no answer in {seconds:g} s") from None

    def _break(self, error: ProviderError) -> None:
        if self._fault is None:
            if self._metrics is not None:
                self._metrics.outage()
            log.warning("watch.hypervisor.away", reason=error.reason, message=str(error))
            self.turned.set()
        self._fault = error
        self._settled.set()
        for event in self._subscribers:
            event.set()

    def _heal(self) -> None:
        if self._fault is not None:
            log.info("watch.hypervisor.back")
            self.turned.set()
        self._fault = None
        self._settled.set()


def _is_ours(machine: v1.Machine) -> bool:
    return machine.owned and machine.identity is not None
