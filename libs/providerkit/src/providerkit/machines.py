"""What the contract promises of machines, kept over any driver: asking twice is asking once, one change at a time.

Every change of a machine is a job, and a machine has at most one (jobs.py). A caller waits a moment for the end and
gets the result, or else the operation, which goes on without it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from common import faults, logging, tracing, v1, wire
from common.clock import Clock
from common.errors import (
    ForeignMachineError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationInProgressError,
    WrongPowerStateError,
)

from . import planner
from .apply import Apply, Outcome, Parts
from .driver import Driver
from .jobs import Jobs, Patience, until_ended
from .late import Fence, Unsettled
from .operations import Job, Operations
from .power import DEFAULT_GRACE, Power
from .slots import AFTER, BEFORE, Slots
from .violations import check_identity, has_control, is_uid, shown
from .watch import Hub

log = logging.get(__name__)

T = TypeVar("T")

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
_LONG = ("create-snapshot", "delete-snapshot", "revert-snapshot", "clone")
LONG_BEFORE = {
    kind: faults.declare(f"machines.{kind}.before", f"{kind} was decided, nothing is done") for kind in _LONG
}
LONG_AFTER = {kind: faults.declare(f"machines.{kind}.after", f"{kind} is done and nobody knows yet") for kind in _LONG}
POWER_REPLY = faults.declare("machines.power.reply", "a power action is done and nobody knows yet")


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """Patience and limits; seconds."""

    short_wait: float = 1.0
    """How long a call waits for its result before it answers with the operation."""
    deadline_share: float = 0.8
    """Part of a caller's own deadline that may be spent waiting."""
    verb_timeout: float = 300.0
    """After this a call that should be short is given up."""
    longest_hold: float = 60.0
    """How long a create, a destroy or other long work counts as one of the concurrent changes."""
    max_concurrent_changes: int = 16
    settle: float = 120.0
    """How long a create that failed without an answer may still take effect."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Outcome of a delete."""

    gone: bool
    operation: v1.Operation | None = None


class Machines:
    """Machines of one installation on one hypervisor."""

    def __init__(
        self,
        driver: Driver,
        hub: Hub,
        operations: Operations,
        clock: Clock,
        *,
        owner: str,
        settings: MachineSettings | None = None,
    ) -> None:
        self._driver = driver
        self._hub = hub
        self._clock = clock
        self._owner = owner
        self._settings = settings or MachineSettings()
        slots = Slots(
            self._settings.max_concurrent_changes,
            verb_timeout=self._settings.verb_timeout,
            longest_hold=self._settings.longest_hold,
        )
        unsettled = Unsettled(clock, self._settings.settle)
        self._parts = Parts(driver, hub, clock, slots, Power(driver, hub, clock, slots), unsettled)
        self.fence = Fence()
        self.jobs = Jobs(operations, hub, clock, freed=lambda uid: self._applies.pop(uid, None))
        self._adopting: set[str] = set()
        self._applies: dict[str, Apply] = {}

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(self, uid: str) -> v1.Machine:
        """One machine as it is now, ours or not.

        Raises:
            MachineNotFoundError: there is definitely none.
        """
        seen = await self._hub.look(_uid(uid))
        if seen is None:
            await self._driver.rule_out(v1.MachineIdentity(uid=uid))
            raise MachineNotFoundError(f"there is no machine {uid}")
        return seen

    async def everything(self, *, include_foreign: bool) -> list[v1.Machine]:
        """All machines, from one look at the hypervisor."""
        machines = await self._hub.look_all()
        return [machine for machine in machines if machine.owned or include_foreign]

    async def plan(self, spec: v1.MachineSpec | None) -> tuple[list[v1.Change], v1.Machine | None]:
        """What separates the machine from the spec; changes nothing."""
        facts = await self._driver.describe()
        want = self._own(planner.require_valid(spec, facts.limits))
        assert want.identity is not None
        seen = await self._look_surely(want.identity)
        _refuse_foreign("plan", want.identity.uid, seen)
        return planner.plan(want, seen, facts.capabilities or v1.Capabilities(), facts.limits), seen

    # -- changing --------------------------------------------------------------------------------------------------

    async def apply(self, request: v1.ApplyMachineRequest, *, remaining: float | None = None) -> Outcome:
        """Bring a machine closer to its spec; see ApplyMachine in the contract.

        Args:
            remaining: seconds until the caller's deadline, if it has one.
        Raises:
            ProviderError: what the steps failed with. A failure of an operation that an earlier call began is raised
                once, to the next call with the same spec; the call after that tries anew.
        """
        facts = await self._driver.describe()
        want = self._own(planner.require_valid(request.spec, facts.limits))
        _known("restart_policy", request.restart_policy)
        request = dataclasses.replace(request, spec=want)
        assert want.identity is not None
        uid, digest, patience = want.identity.uid, _digest(want), self._patience(remaining)
        self.fence.apply(uid, request.fence)
        while (running := self.jobs.get(uid)) is not None:
            if running.begun_as in ("delete", "release"):
                raise OperationInProgressError(f"apply machine {uid}: {running.begun_as} is running", retry_after=1.0)
            if not await running.wait(self._clock, patience.left):
                return self._during(uid, running, want, facts)
        self.fence.apply(uid, request.fence)  # once more: it may have waited behind a newer one
        self.jobs.raise_once(uid, digest)
        apply = Apply(self._parts, request, facts)
        job = self.jobs.begin("apply", uid, apply.run, digest)
        self._applies[uid] = apply
        if not await self.jobs.wait(uid, job, patience):
            return apply.outcome(self.jobs.show(uid, job))
        self.jobs.forget_failure(uid)
        return job.result()

    async def delete(
        self, identity: v1.MachineIdentity | None, *, retain: bool = False, grace: float | None = None,
        remaining: float | None = None, fence: v1.Fence | None = None,
    ) -> Gone:  # fmt: skip
        """Remove a machine, or take our stamp off it; see DeleteMachine in the contract."""
        identity = self._own_identity(identity)
        uid, kind = identity.uid, "release" if retain else "delete"
        self.fence.remove(uid, fence)
        patience, running = self._patience(remaining), self.jobs.get(uid)
        if running is not None and running.begun_as == kind:
            job: Job[object] = running
        else:
            if running is not None:
                running.cancel()
                self._applies.pop(uid, None)

            async def body(job: Job[object]) -> object:
                await until_ended(job.ahead)
                await (self._release(identity) if retain else self._destroy(identity, job, grace))
                return None

            job = self.jobs.begin(kind, uid, body, ahead=running)
        if not await self.jobs.wait(uid, job, patience):
            return Gone(False, self.jobs.show(uid, job))
        job.result()
        return Gone(True)

    async def act(self, request: v1.RunPowerActionRequest, *, remaining: float | None = None) -> Outcome:
        """One imperative power action; see RunPowerAction in the contract."""
        uid, action = _uid(request.uid), request.action
        _known("action", action)
        if action is v1.PowerAction.UNSPECIFIED:
            raise InvalidSpecError("action: is missing")
        self._refuse_lacking(action, await self._capabilities())

        async def body(job: Job[v1.Machine | None]) -> v1.Machine | None:
            seen = await self._ours(f"{action.name.lower()} machine", uid)
            await self._act(request, seen)
            await faults.point(POWER_REPLY)
            return await self._hub.look(uid)

        kind = action.name.lower()
        patience, join = self._patience(remaining), kind if action is v1.PowerAction.SHUTDOWN else ""
        job = await self.jobs.exclusive(kind, uid, body, patience, join=join)
        if not await job.wait(self._clock, patience.left):
            return Outcome(self._hub.dress(await self._hub.look(uid)), self.jobs.show(uid, job))
        return Outcome(job.result())

    async def exclusive(
        self, kind: str, uid: str, about: str, body: Callable[[Job[T]], Awaitable[T]], *, remaining: float | None = None
    ) -> tuple[T | None, v1.Operation | None]:
        """Other work that holds one machine of ours (snapshots): its result, or the operation when it takes longer.

        Args:
            about: what tells this piece of work from others of its kind; asking for the same again joins it.
        Raises:
            ForeignMachineError: it does not carry our stamp.
        """

        async def ours(job: Job[T]) -> T:
            await self._ours(kind.replace("-", " ") + " of machine", uid)
            async with self._parts.slots.slot():
                await faults.point(LONG_BEFORE[kind])
                done = await body(job)
                await faults.point(LONG_AFTER[kind])
                return done

        patience = self._patience(remaining)
        job = await self.jobs.exclusive(kind, _uid(uid), ours, patience, join=f"{kind} {about}")
        if not await job.wait(self._clock, patience.left):
            return None, self.jobs.show(uid, job)
        return job.result(), None

    async def hold(self, kind: str, uid: str, body: Callable[[Job[T]], Awaitable[T]]) -> T:
        """Other work that holds one machine of ours and lives as long as its caller waits (streams of requests).

        Raises:
            ForeignMachineError: it does not carry our stamp.
        """

        async def ours(job: Job[T]) -> T:
            await self._ours(kind.replace("-", " ") + " of machine", uid)
            return await body(job)

        job = await self.jobs.exclusive(kind, _uid(uid), ours, self._patience(None), join="")
        try:
            await job.ended.wait()
        except asyncio.CancelledError:
            job.cancel()
            await until_ended((job,))  # type: ignore[arg-type]  # whatever its answer would have been
            raise
        return job.result()

    async def clone(
        self, request: v1.CloneMachineRequest, *, remaining: float | None = None
    ) -> tuple[v1.Machine | None, v1.Operation | None]:
        """Copy a machine of ours under another identity of ours; see CloneMachine in the contract.

        Raises:
            NotSupportedError: this kind of clone is not on offer, or the copy could not be without what we lack.
        """
        facts = await self._driver.describe()
        can = facts.capabilities or v1.Capabilities()
        _known("kind", request.kind)
        _refuse_clone(request.kind, can)
        if request.target is None:
            raise InvalidSpecError("target: is missing")
        target = self._own(planner.require_valid(request.target, facts.limits))
        assert target.identity is not None
        target_identity = target.identity
        uid, source = target_identity.uid, _uid(request.source_uid)
        create = planner.plan(target, None, can, facts.limits)[0]
        if create.effect is not v1.Effect.ONLINE:
            raise NotSupportedError("; ".join([f"clone machine {source}", *(why.message for why in create.reasons)]))
        request = dataclasses.replace(request, target=planner.supported(target, can))

        async def body(job: Job[None]) -> None:
            await self._ours("clone machine", source)
            _refuse_foreign("clone to machine", uid, await self._look_surely(target_identity))
            async with self._parts.slots.slot():
                await faults.point(LONG_BEFORE["clone"])
                with self._parts.unsettled.noted(uid):
                    await self._driver.clone(request, job.progress)
                await faults.point(LONG_AFTER["clone"])

        patience = self._patience(remaining)
        job = await self.jobs.exclusive("clone", uid, body, patience, join=f"clone {source}")
        if not await job.wait(self._clock, patience.left):
            return None, self.jobs.show(uid, job)
        job.result()
        return await self.get(uid), None

    async def adopt(
        self, identity: v1.MachineIdentity | None, machine_id: str, *, remaining: float | None = None
    ) -> v1.Machine:
        """Put our stamp on a foreign machine; see AdoptMachine in the contract.

        Raises:
            NameConflictError: another machine has this identity.
            OperationInProgressError: it takes longer than the caller waits, or another adoption of it is running.
        """
        identity = self._own_identity(identity)
        if not machine_id or len(machine_id) > 253 or has_control(machine_id):
            raise InvalidSpecError(f"id: {shown(machine_id)} is no id of a machine")
        if not (await self._capabilities()).adoption:
            raise NotSupportedError("this provider does not adopt machines")
        uid = identity.uid

        async def body(job: Job[v1.Machine]) -> v1.Machine:
            seen = await self._hub.look(uid)
            if seen is not None and seen.id != machine_id:
                raise NameConflictError(f"adopt machine {shown(machine_id)}: {seen.id} is machine {uid} already")
            if seen is not None and seen.owned:
                return seen
            with self._alone_adopting(machine_id):
                await self._parts.slots.call("adopt", uid, lambda: self._driver.adopt(machine_id, identity))
            seen = await self._hub.look(uid)
            if seen is None or not seen.owned:
                raise OperationInProgressError(f"adopt machine {uid}: it does not show our stamp yet", retry_after=1.0)
            log.info("machine.adopted", uid=uid, id=machine_id, name=seen.hypervisor_name)
            return seen

        patience = self._patience(remaining)
        job = await self.jobs.exclusive("adopt", uid, body, patience, join=f"adopt {machine_id}")
        if not await job.wait(self._clock, patience.left):
            raise OperationInProgressError(f"adopt machine {uid}: it is still running", retry_after=1.0)
        return job.result()

    @contextmanager
    def _alone_adopting(self, machine_id: str) -> Iterator[None]:
        """A foreign machine has no UID that a job could hold it by: two identities must not get it both."""
        if machine_id in self._adopting:
            raise OperationInProgressError(f"adopt machine {shown(machine_id)}: it is being adopted", retry_after=1.0)
        self._adopting.add(machine_id)
        try:
            yield
        finally:
            self._adopting.discard(machine_id)

    async def screenshot(self, uid: str) -> bytes:
        """What the display of one of our machines shows, as PNG."""
        if not (await self._capabilities()).screenshot:
            raise NotSupportedError("this provider takes no screenshots")
        seen = await self._ours("take a screenshot of machine", _uid(uid))
        if seen.power in (OFF, SUSPENDED):
            raise WrongPowerStateError(f"take a screenshot of machine {uid}: it is {seen.power.name}")
        return await self._parts.slots.call("screenshot", uid, lambda: self._driver.screenshot(uid))

    async def _look_surely(self, identity: v1.MachineIdentity) -> v1.Machine | None:
        """The machine, or None when there is definitely none."""
        seen = await self._hub.look(identity.uid)
        if seen is None:
            await self._driver.rule_out(identity)
        return seen

    # -- bodies ----------------------------------------------------------------------------------------------------

    async def _destroy(self, identity: v1.MachineIdentity, job: Job[object], grace: float | None) -> None:
        uid, seen = identity.uid, await self._look_surely(identity)
        _refuse_foreign("delete", uid, seen)
        runs = seen is not None and seen.power is ON
        if runs and grace is not None and (await self._capabilities()).graceful_shutdown:
            job.progress(0.0, "shutting down")
            await self._parts.power.wait_off(uid, grace)
            _refuse_foreign("delete", uid, await self._hub.look(uid))
        job.progress(0.0, "removing")
        async with self._parts.slots.slot():
            await faults.point(BEFORE["destroy"])
            with tracing.span("driver.destroy", machine_uid=uid):
                await self._driver.destroy(uid, job.progress)
            await faults.point(AFTER["destroy"])
        if await self._look_surely(identity) is not None:
            raise OperationInProgressError(f"delete machine {uid}: the hypervisor still shows it", retry_after=1.0)
        self._parts.unsettled.refuse("delete", uid)
        self._parts.restarts.pop(uid, None)
        self.jobs.forget_failure(uid)
        log.info("machine.deleted", uid=uid, existed=seen is not None)

    async def _release(self, identity: v1.MachineIdentity) -> None:
        uid = identity.uid
        await self._look_surely(identity)
        await self._parts.slots.verb("release", uid, self._driver.release)
        seen = await self._hub.look(uid)
        if seen is not None and seen.owned:
            raise OperationInProgressError(f"release machine {uid}: it still carries our stamp", retry_after=1.0)
        self._parts.unsettled.refuse("release", uid)
        log.info("machine.released", uid=uid)

    async def _act(self, request: v1.RunPowerActionRequest, seen: v1.Machine) -> None:
        uid, power, slots, driver = request.uid, self._parts.power, self._parts.slots, self._driver
        grace = DEFAULT_GRACE if request.timeout is None else request.timeout.total_seconds()
        what = f"{request.action.name.lower()} machine {uid}"
        match request.action:
            case v1.PowerAction.START:
                await power.on(seen)
            case v1.PowerAction.STOP:
                await power.off(uid)
            case v1.PowerAction.SHUTDOWN:
                await power.shut_down(seen, grace, force=request.force_after_timeout)
            case v1.PowerAction.REBOOT:
                _require(seen, what, ON)
                if not request.force_after_timeout:
                    await slots.verb("ask_reboot", uid, driver.ask_reboot)
                    return
                # Nothing tells that a guest has restarted by itself; only a cold restart can be made sure of.
                await power.shut_down(seen, grace, force=True)
                await slots.verb("power_on", uid, driver.power_on)
            case v1.PowerAction.RESET:
                _require(seen, what, ON, PAUSED)
                await slots.verb("reset", uid, driver.reset)
            case v1.PowerAction.SUSPEND:
                _require(seen, what, ON, PAUSED, SUSPENDED)
                if seen.power is not SUSPENDED:
                    await power.suspend(uid)
            case _:
                _require(seen, what, ON, PAUSED, SUSPENDED)
                await power.on(seen)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _during(self, uid: str, job: Job[object], want: v1.MachineSpec, facts: v1.GetProviderResponse) -> Outcome:
        """The answer to an apply while another piece of work holds the machine."""
        operation, apply = self.jobs.show(uid, job), self._applies.get(uid)
        if apply is None:
            return Outcome(self._hub.known(uid), operation)
        pending = planner.plan(want, apply.seen, facts.capabilities or v1.Capabilities(), facts.limits)
        return Outcome(self._hub.dress(apply.seen), operation, pending, list(apply.applied))

    def _patience(self, remaining: float | None) -> Patience:
        seconds = self._settings.short_wait
        if remaining is not None:
            seconds = min(seconds, remaining * self._settings.deadline_share)
        return Patience(self._clock, seconds)

    # -- whose -----------------------------------------------------------------------------------------------------

    def _own(self, want: v1.MachineSpec) -> v1.MachineSpec:
        return dataclasses.replace(want, identity=self._own_identity(want.identity))

    def _own_identity(self, identity: v1.MachineIdentity | None) -> v1.MachineIdentity:
        if violations := check_identity(identity):
            raise InvalidSpecError("; ".join(violations))
        assert identity is not None
        if identity.owner not in ("", self._owner):
            raise InvalidSpecError(
                f"identity.owner: this server keeps machines of {shown(self._owner)}, not of {shown(identity.owner)}"
            )
        return dataclasses.replace(identity, owner=self._owner)

    async def _capabilities(self) -> v1.Capabilities:
        return (await self._driver.describe()).capabilities or v1.Capabilities()

    async def _ours(self, what: str, uid: str) -> v1.Machine:
        seen = await self._hub.look(uid)
        if seen is None:
            raise MachineNotFoundError(f"{what} {uid}: there is none")
        _refuse_foreign(what, uid, seen)
        return seen

    def _refuse_lacking(self, action: v1.PowerAction, can: v1.Capabilities) -> None:
        lacking = {
            v1.PowerAction.SHUTDOWN: not can.graceful_shutdown,
            v1.PowerAction.REBOOT: not can.graceful_shutdown,
            v1.PowerAction.RESET: not can.reset,
            v1.PowerAction.SUSPEND: not can.suspend,
        }
        if lacking.get(action, False):
            raise NotSupportedError(f"this provider has no power action {action.name}")


def _require(seen: v1.Machine, what: str, *states: v1.PowerState) -> None:
    if seen.power not in states:
        raise WrongPowerStateError(f"{what}: it is {seen.power.name or int(seen.power)}")


def _refuse_foreign(what: str, uid: str, seen: v1.Machine | None) -> None:
    if seen is not None and not seen.owned:
        raise ForeignMachineError(
            f"{what} {uid}: {seen.hypervisor_name} has this UID and not our stamp; it was not touched"
        )


def _uid(text: str) -> str:
    if not is_uid(text):
        raise InvalidSpecError(f"uid: {shown(text)} is not a lower-case UUID")
    return text


def _refuse_clone(kind: v1.CloneKind, can: v1.Capabilities) -> None:
    offer = {
        v1.CloneKind.UNSPECIFIED: can.full_clone,
        v1.CloneKind.FULL: can.full_clone,
        v1.CloneKind.LINKED: can.linked_clone,
        v1.CloneKind.INSTANT: can.instant_clone,
    }
    if not offer[kind]:
        raise NotSupportedError(f"this provider makes no {(kind.name or 'FULL').lower()} clones of machines")


def _known(field: str, value: v1.PowerAction | v1.RestartPolicy | v1.CloneKind) -> None:
    if not value.name:
        raise InvalidSpecError(f"{field}: {int(value)} is a value that this version does not know")


def _digest(want: v1.MachineSpec) -> str:
    """Tells specs apart without keeping their secrets."""
    bare = dataclasses.replace(want, extra_config={}, attributes={})  # a map has no order on the wire
    maps = repr([sorted(each.items()) for each in (want.extra_config, want.attributes)])
    rest = maps.encode("utf-8", "backslashreplace")
    return hashlib.sha256(wire.codec(v1.MachineSpec).dumps(bare) + rest).hexdigest()
