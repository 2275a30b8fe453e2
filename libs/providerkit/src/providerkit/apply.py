"""One apply, carried to its end: observe, plan, take a step, and again, until nothing is left that may be done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from common import faults, logging, redact, tracing, v1
from common.clock import Clock
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    ProviderError,
    StalePreconditionError,
)

from . import planner
from .driver import Driver
from .late import Unsettled
from .operations import Job
from .power import DEFAULT_GRACE, Power
from .slots import AFTER, BEFORE, Slots
from .steps import next_step, shape_step, shape_steps, step_key
from .watch import Hub

log = logging.get(__name__)

ON, OFF = v1.PowerState.ON, v1.PowerState.OFF
_Kind = v1.ChangeKind
_Effect = v1.Effect

APPLY_REPLY = faults.declare("machines.apply.reply", "every step of an apply is done and nobody knows yet")

_NO_REASON_TO_RESTART = frozenset({"boot_data", "cpu.hot_add", "memory.hot_add"})

RESTARTED_FOR = "restarted-for"
"""Note on a machine: digest of the changes for which we restarted it last.

What one restart did not bring, a second will not: that must outlive this server, or the guest would pay for its end.
"""

ABSENT = "absent"
"""Precondition that there is no machine."""


@dataclass(slots=True)
class Parts:
    """What every apply works with."""

    driver: Driver
    hub: Hub
    clock: Clock
    slots: Slots
    power: Power
    unsettled: Unsettled
    restarts: dict[str, str] = field(default_factory=dict)
    """By UID what RESTARTED_FOR says, for drivers that keep no notes: it is lost with this process."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is true after an apply, what it did, and what it did not."""

    machine: v1.Machine | None
    operation: v1.Operation | None = None
    pending: list[v1.Change] = field(default_factory=list)
    applied: list[v1.Change] = field(default_factory=list)


class Apply:
    """The state of one apply; `run` is the body of its job, the rest may be read while it runs."""

    def __init__(self, parts: Parts, request: v1.ApplyMachineRequest, facts: v1.GetProviderResponse) -> None:
        assert request.spec is not None
        assert request.spec.identity is not None
        self.want = request.spec
        self.uid = request.spec.identity.uid
        self.seen: v1.Machine | None = None
        self.pending: list[v1.Change] = []
        self.applied: list[v1.Change] = []
        self._parts = parts
        self._precondition = request.precondition
        self._must_exist = request.must_exist
        self._may_restart = request.restart_policy is v1.RestartPolicy.ALLOWED
        self._can = facts.capabilities or v1.Capabilities()
        self._limits = facts.limits or v1.Limits()
        self._narrowed = planner.supported(self.want, self._can)
        self._made: set[tuple[int, str, str, str]] = set()
        self._refused: dict[tuple[int, str, str, str], str] = {}
        self._apart = False
        """Changes of shape are made one by one: all of them in one piece failed."""

    def outcome(self, operation: v1.Operation | None = None) -> Outcome:
        """What is known so far."""
        return Outcome(self._parts.hub.dress(self.seen), operation, list(self.pending), list(self.applied))

    async def run(self, job: Job[Outcome]) -> Outcome:
        """Bring the machine as close to the spec as may be done now."""
        while True:
            job.progress(job.record.progress, "observing")
            with tracing.span("apply.look", machine_uid=self.uid):
                await self._look()
            changes = planner.plan(self.want, self.seen, self._can, self._limits)
            self.pending = [self._judged(change) for change in changes]
            doable = [c for c in self.pending if c.effect is _Effect.ONLINE and step_key(c) not in self._made]
            steps = shape_steps(doable) if self._parts.driver.joins_changes and not self._apart else []
            if len(steps) > 1:
                await self._reshape(job, steps)
            elif doable:
                await self._step(job, next_step(doable))
            elif why := self._restart_for():
                await self._restart(job, why)
            else:
                await self._forget_restart()
                await faults.point(APPLY_REPLY)
                return self.outcome()

    # -- looking ---------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        seen = await self._parts.hub.look(self.uid)
        if seen is None:
            await self._parts.driver.rule_out(self._whom())
        if seen is not None and not seen.owned:
            raise ForeignMachineError(
                f"apply machine {self.uid}: {seen.hypervisor_name} has this UID and not our stamp; it was not touched"
            )
        if not self.applied:
            self._check_precondition(seen)
        elif seen is None:
            raise MachineNotFoundError(f"apply machine {self.uid}: somebody removed it while it was being changed")
        self.seen = seen

    def _whom(self) -> v1.MachineIdentity:
        """Whom to rule out before it counts as gone. One that was there may be under a name that is not its own."""
        assert self.want.identity is not None
        return v1.MachineIdentity(uid=self.uid) if self._must_exist or self.applied else self.want.identity

    def _check_precondition(self, seen: v1.Machine | None) -> None:
        want, now = self._precondition, seen.token if seen is not None else ABSENT
        if want and want != now:
            state = (
                "there is none" if seen is None else "there is one" if want == ABSENT else "its state is another now"
            )
            raise StalePreconditionError(f"apply machine {self.uid}: {state}; plan again")
        if seen is None and self._must_exist:
            raise MachineNotFoundError(f"apply machine {self.uid}: it is gone, and shall not be created anew")

    def _judged(self, change: v1.Change) -> v1.Change:
        """A change that was made and shows again, or that the driver refused, says so."""
        key = step_key(change)
        if key in self._refused:
            reasons = [*change.reasons, v1.Reason(code="NotSupported", message=self._refused[key])]
            return _with(change, _Effect.UNSUPPORTED, reasons)
        if key in self._made and change.effect is _Effect.ONLINE:
            why = v1.Reason(code="DidNotHold", message="it was made, and the hypervisor does not show it")
            return _with(change, change.effect, [*change.reasons, why])
        return change

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _step(self, job: Job[Outcome], step: list[v1.Change]) -> None:
        """Take one step. A verb that the driver lacks is no failure of the rest: the change is reported instead."""
        self._made.update(map(step_key, step))
        job.progress(job.record.progress, step[0].message)
        try:
            match step[0].kind:
                case _Kind.CREATE:
                    await self._create(job)
                case _Kind.SET_POWER:
                    await self._set_power(job)
                case _:
                    assert self.seen is not None
                    call = shape_step(self._parts.driver, self._narrowed, self.seen, step)
                    async with self._parts.slots.slot():
                        await self._still_fresh()
                        await self._parts.slots.limited(step[0].kind.name.lower(), self.uid, call)
        except NotSupportedError as error:
            if step[0].kind is _Kind.CREATE:
                raise
            self._refused.update((step_key(change), redact.text(str(error))) for change in step)
            return
        self.applied += step
        log.info("machine.changed", uid=self.uid, fields=[c.field or c.kind.name.lower() for c in step])

    async def _reshape(self, job: Job[Outcome], steps: list[list[v1.Change]]) -> None:
        """Take all steps of shape in one piece.

        If that fails, each is taken by itself: that tells which of them it was, and lets the others be made.
        """
        driver, made = self._parts.driver, []

        async def all_of_them() -> None:
            assert self.seen is not None
            async with driver.together(self.uid):
                for step in steps:
                    job.progress(job.record.progress, step[0].message)
                    try:
                        await shape_step(driver, self._narrowed, self.seen, step)()
                    except NotSupportedError as error:
                        self._refused.update((step_key(change), redact.text(str(error))) for change in step)
                    else:
                        made.extend(step)

        try:
            async with self._parts.slots.slot():
                await self._still_fresh()
                await self._parts.slots.limited("reshape", self.uid, all_of_them)
        except HypervisorUnavailableError:
            raise
        except ProviderError as error:
            self._apart = True
            log.info("machine.reshape.apart", uid=self.uid, reason=error.reason, message=str(error))
            return
        self._made.update(step_key(change) for step in steps for change in step)
        self.applied += made
        log.info("machine.changed", uid=self.uid, fields=[c.field or c.kind.name.lower() for c in made])

    async def _still_fresh(self) -> None:
        """With a precondition, the first act looks once more when its turn has come: waiting may have aged the plan."""
        if self._precondition and not self.applied:
            self._check_precondition(await self._parts.hub.look(self.uid))

    async def _create(self, job: Job[Outcome]) -> None:
        parts, uid = self._parts, self.uid
        job.record.kind = "create"
        assert self._narrowed.identity is not None
        await self._refuse_foreign_name(planner.hypervisor_name(self._narrowed.identity))
        async with parts.slots.slot():
            await self._still_fresh()
            await faults.point(BEFORE["create"])
            log.info("machine.create", uid=uid, name=planner.hypervisor_name(self._narrowed.identity))
            try:
                with tracing.span("driver.create", machine_uid=uid), parts.unsettled.noted(uid):
                    await parts.driver.create(self._narrowed, job.progress)
            except asyncio.CancelledError:
                await self._clear_away(job)
                raise
            await faults.point(AFTER["create"])

    async def _refuse_foreign_name(self, name: str) -> None:
        """A name that a foreign machine had at the last full look is checked afresh; the driver has the last word."""
        if not self._parts.driver.unique_names or self._parts.hub.foreign_id(name) is None:
            return
        await self._parts.hub.look_all()
        if (foreign := self._parts.hub.foreign_id(name)) is not None:
            raise NameConflictError(
                f"create machine {self.uid}: name {name} belongs to {foreign}, which is not ours; it was not touched"
            )

    async def _clear_away(self, job: Job[Outcome]) -> None:
        """A client cancelled the create: remove what it half made. The end of the server leaves it for the next one."""
        task = asyncio.current_task()
        if not job.cancelled or task is None:
            return
        task.uncancel()
        job.progress(0.0, "clearing away")
        try:
            await self._parts.driver.destroy(self.uid, lambda part, phase: None)
            await self._parts.hub.look(self.uid)
        except ProviderError as error:
            log.warning("machine.create.not_cleared", uid=self.uid, reason=error.reason, message=str(error))
            raise
        log.info("machine.create.cleared", uid=self.uid)

    async def _set_power(self, job: Job[Outcome]) -> None:
        seen, power = self.seen, self.want.power
        assert seen is not None
        assert power is not None
        if self._precondition and not self.applied:
            async with self._parts.slots.slot():
                await self._still_fresh()
        if power.state is ON:
            await self._parts.power.on(seen)
        elif power.state is v1.PowerState.SUSPENDED:
            await self._parts.power.suspend(self.uid)
        elif power.graceful:
            job.record.kind = "shutdown"
            await self._parts.power.shut_down(seen, _grace(power), force=True)
        else:
            await self._parts.power.off(self.uid)

    # -- restart ---------------------------------------------------------------------------------------------------

    def _waiting(self) -> list[v1.Change]:
        """The changes that a restart would bring, and that are a reason for one.

        First-boot data alone is no reason: a guest that has booted may never read it. Neither is room to grow.
        """
        return [c for c in self.pending if c.effect is _Effect.RESTART and c.field not in _NO_REASON_TO_RESTART]

    def _restart_for(self) -> list[v1.Change]:
        """The changes that may be restarted for; those that a restart did not bring say so."""
        waiting = self._waiting()
        wants_on = self.want.power is not None and self.want.power.state is ON
        runs = self.seen is not None and self.seen.power in (ON, v1.PowerState.PAUSED)
        if not (waiting and self._may_restart and wants_on and runs):
            return []
        if self._restarted_for() == _digest(waiting):
            why = v1.Reason(code="RestartDidNotHelp", message="a restart was made for it and did not bring it")
            self.pending = [_with(c, c.effect, [*c.reasons, why]) if c in waiting else c for c in self.pending]
            return []
        return waiting

    async def _restart(self, job: Job[Outcome], why: list[v1.Change]) -> None:
        """Take the machine down; the next rounds change what waited, and power it on again because the spec says so.

        The note is made while it is off: a server that dies before has restarted nothing, and must not say that it did.
        """
        assert self.seen is not None
        job.record.kind = "restart"
        job.progress(job.record.progress, "restarting")
        log.info("machine.restart", uid=self.uid, fields=[change.field for change in why])
        if self._can.graceful_shutdown:
            await self._parts.power.shut_down(self.seen, _grace(self.want.power), force=True)
        else:
            await self._parts.power.off(self.uid)
        await self._note_restart(_digest(why))
        self.applied.append(
            v1.Change(kind=_Kind.RESTART, field="power.state", effect=_Effect.RESTART, message="restart the machine")
        )
        self._made.discard((int(_Kind.SET_POWER), "power.state", "", "power on"))

    def _restarted_for(self) -> str:
        noted = self.seen.settings.get(RESTARTED_FOR, "") if self.seen is not None else ""
        return noted or self._parts.restarts.get(self.uid, "")

    async def _note_restart(self, digest: str) -> None:
        parts = self._parts
        try:
            await parts.slots.call("note", self.uid, lambda: parts.driver.note(self.uid, RESTARTED_FOR, digest))
        except NotSupportedError:
            parts.restarts[self.uid] = digest

    async def _forget_restart(self) -> None:
        """Nothing waits any more: should the same change wait again one day, that is another reason to restart."""
        if not self._restarted_for() or self._waiting():
            return
        await self._note_restart("")
        self._parts.restarts.pop(self.uid, None)
        self.seen = await self._parts.hub.look(self.uid)


def _grace(power: v1.PowerSpec | None) -> float:
    if power is None or power.graceful_timeout is None:
        return DEFAULT_GRACE
    return power.graceful_timeout.total_seconds()


def _with(change: v1.Change, effect: v1.Effect, reasons: list[v1.Reason]) -> v1.Change:
    return v1.Change(
        kind=change.kind,
        field=change.field,
        subject=change.subject,
        effect=effect,
        message=change.message,
        reasons=reasons,
    )


def _digest(changes: Sequence[v1.Change]) -> str:
    return hashlib.sha256(repr(sorted(map(step_key, changes))).encode()).hexdigest()
