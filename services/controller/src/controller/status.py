"""The status of a VirtualMachine: a pure function of the object and of what a reconcile found.

Nothing in it ticks: no counters, ages or delays, so that a hold writes once and a steady fleet writes never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from common import v1
from common.errors import (
    ClientRefusedError,
    CredentialsRefusedError,
    ForeignMachineError,
    HypervisorUnavailableError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    OutcomeUnknownError,
    ProviderError,
    WrongServerError,
)
from kinds.reports import FieldReport
from kinds.virtualmachine import (
    Address,
    BoundProvider,
    CurrentResources,
    PendingChange,
    VirtualMachine,
    VirtualMachineStatus,
)

from .conditions import Wish, find, merged, timestamp
from .events import NORMAL, WARNING

READY, PROVISIONING, RECONFIGURING, RESTART_REQUIRED = "Ready", "Provisioning", "Reconfiguring", "RestartRequired"
SPEC_APPLIED, FIELDS_IGNORED = "SpecApplied", "FieldsIgnored"
DELETING, DELETE_BLOCKED = "Deleting", "DeleteBlocked"
OWNED = (READY, PROVISIONING, RECONFIGURING, RESTART_REQUIRED, SPEC_APPLIED, FIELDS_IGNORED, DELETING, DELETE_BLOCKED)

MISSING = "MachineMissing"
UNREACHABLE = (
    HypervisorUnavailableError, OutcomeUnknownError, CredentialsRefusedError, ClientRefusedError, WrongServerError,
)  # fmt: skip
"""Nobody has asked the hypervisor: what was known of it may be untrue by now."""
REASONS: dict[type[ProviderError], str] = {
    HypervisorUnavailableError: "ProviderUnavailable",
    OutcomeUnknownError: "ProviderUnavailable",
    NameConflictError: "ProviderConflict",
    ForeignMachineError: "ProviderConflict",
    InvalidSpecError: "ValidationError",
    NotSupportedError: "UnsupportedByProvider",
}
POWER: dict[v1.PowerState, str] = {
    v1.PowerState.ON: "On",
    v1.PowerState.OFF: "Off",
    v1.PowerState.SUSPENDED: "Suspended",
    v1.PowerState.PAUSED: "Paused",
}
PHASES = {"On": "Running", "Off": "Stopped", "Suspended": "Suspended", "Paused": "Failed"}
EFFECTS = {
    v1.Effect.ONLINE: "Online",
    v1.Effect.RESTART: "Restart",
    v1.Effect.RECREATE: "Recreate",
    v1.Effect.UNSUPPORTED: "Unsupported",
}
MAX_PENDING = 100
"""As many as the schema takes."""


@dataclass(frozen=True)
class Problem:
    """Why the reconcile ended before its end. `kind`: "waiting", "stopped" (a new spec is needed) or "failing"."""

    reason: str
    message: str
    kind: str
    unreachable: bool = False

    @staticmethod
    def of(error: ProviderError, *, stop: bool) -> Problem:
        return Problem(
            REASONS.get(type(error), error.reason), str(error), "stopped" if stop else "failing",
            isinstance(error, UNREACHABLE),
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one reconcile of a machine that shall exist found."""

    machine: v1.Machine | None = None
    operation: v1.Operation | None = None
    pending: Sequence[v1.Change] = ()
    applied: Sequence[v1.Change] = ()
    ignored: Sequence[FieldReport] = ()
    bound: BoundProvider | None = None
    problem: Problem | None = None
    drifted: bool = False
    """The power was seen to differ though nobody changed the spec; it is about to be put right."""
    healed: str = ""
    """The same, met by an apply: how that put it right."""


@dataclass(frozen=True)
class Deletion:
    """What one reconcile of a machine that shall go found. `blocked` is None while it goes on."""

    operation: v1.Operation | None = None
    blocked: Problem | None = None


@dataclass(frozen=True)
class Happening:
    """An Event to be."""

    kind: str
    reason: str
    message: str


@dataclass
class _Verdict:
    phase: str
    ready: Wish
    more: list[Wish] = field(default_factory=list)


def status_of(vm: VirtualMachine, outcome: Outcome, now: datetime) -> VirtualMachineStatus:
    """The status after a reconcile."""
    before = vm.status
    status = msgspec.structs.replace(before)
    machine, problem = outcome.machine, outcome.problem
    status.observed_generation = vm.metadata.generation
    status.bound_provider = outcome.bound or before.bound_provider
    if machine is not None:
        _observed(status, machine)
    elif problem is not None and (problem.unreachable or problem.reason == MISSING) and before.id:
        status.power_state = "Unknown"
        if problem.reason == MISSING:
            status.ips, status.addresses = [], []
    making = machine is None and outcome.operation is not None
    status.last_task_ref = outcome.operation.id if outcome.operation is not None and making else None
    status.reconfigure_task_ref = outcome.operation.id if outcome.operation is not None and not making else None
    if problem is None:
        status.pending_changes = [_pending(change) for change in outcome.pending[:MAX_PENDING]]
    done = {change.kind for change in outcome.applied}
    if done - {v1.ChangeKind.SET_POWER} and v1.ChangeKind.CREATE not in done:
        status.last_reconfigure_time = timestamp(now)
    verdict = _verdict(vm, status, outcome)
    status.phase = verdict.phase  # type: ignore[assignment]  # one of the schema's words, by the tables above
    status.message = verdict.ready.message
    wishes = [verdict.ready, *verdict.more]
    status.conditions = merged(before.conditions, wishes, OWNED, vm.metadata.generation, now)
    return status


def deleting_status(vm: VirtualMachine, deletion: Deletion, now: datetime) -> VirtualMachineStatus:
    """The status of an object that goes."""
    status = msgspec.structs.replace(vm.status)
    status.phase = "Deleting"
    status.observed_generation = vm.metadata.generation
    status.last_task_ref = deletion.operation.id if deletion.operation is not None else None
    blocked = deletion.blocked
    message = "the machine is being removed" if blocked is None else f"removal waits: {blocked.message}"
    status.message = message
    wishes = [
        Wish(READY, "False", DELETING, message),
        Wish(DELETING, "True", DELETING if blocked is None else blocked.reason, message),
    ]
    if blocked is not None:
        wishes.append(Wish(DELETE_BLOCKED, "True", blocked.reason, message))
    status.conditions = merged(vm.status.conditions, wishes, OWNED, vm.metadata.generation, now)
    return status


def happenings(before: VirtualMachineStatus, after: VirtualMachineStatus, outcome: Outcome) -> list[Happening]:
    """The transitions worth an Event."""
    found: list[Happening] = []
    if after.id and not before.id:
        found.append(Happening(NORMAL, "Created", f"machine {after.hypervisor_name or after.id} was created"))
    elif after.id and before.id and after.id != before.id:
        found.append(Happening(WARNING, "Recreated", f"the machine was missing and was made anew as {after.id}"))
    if outcome.drifted:
        message = f"the machine was {after.power_state} though the spec did not change; putting it right"
        found.append(Happening(WARNING, "PowerDrift", message))
    elif outcome.healed:
        message = f"the power was not what it shall be though the spec did not change; put right: {outcome.healed}"
        found.append(Happening(WARNING, "PowerDrift", message))
    elif before.power_state and after.power_state not in (None, "Unknown", before.power_state):
        found.append(Happening(NORMAL, "PowerChanged", f"power went from {before.power_state} to {after.power_state}"))
    done = [c for c in outcome.applied if c.kind not in (v1.ChangeKind.CREATE, v1.ChangeKind.SET_POWER)]
    if done and before.id:
        found.append(Happening(NORMAL, "Reconfigured", "; ".join(change.message for change in done)))
    found += _condition_happenings(before, after)
    return found


def _condition_happenings(before: VirtualMachineStatus, after: VirtualMachineStatus) -> list[Happening]:
    found = []
    ready, was = find(after.conditions, READY), find(before.conditions, READY)
    quiet = ("Creating", "Updating", "TaskInProgress", "PowerDrift", RESTART_REQUIRED)
    told = (was.reason, was.message) if was is not None else None
    loud = ready is not None and ready.status != "True" and ready.reason not in quiet
    if ready is not None and loud and told != (ready.reason, ready.message):
        kind = NORMAL if ready.reason == "WaitingForDependencies" else WARNING
        found.append(Happening(kind, ready.reason, ready.message))
    for kind in (RESTART_REQUIRED, FIELDS_IGNORED):
        now, old = find(after.conditions, kind), find(before.conditions, kind)
        if now is not None and now.status == "True" and (old is None or old.message != now.message):
            found.append(Happening(NORMAL if kind == RESTART_REQUIRED else WARNING, kind, now.message))
    return found


# -- the parts -----------------------------------------------------------------------------------------------------


def _observed(status: VirtualMachineStatus, machine: v1.Machine) -> None:
    status.id = machine.id or status.id
    status.power_state = POWER.get(machine.power, "Unknown")  # type: ignore[assignment]  # words of the schema
    status.hypervisor_name = machine.hypervisor_name or None
    status.host = machine.host or None
    status.hostname = (machine.guest.hostname if machine.guest is not None else "") or None
    status.addresses = [
        Address(
            address=seen.address,
            interface=seen.interface or None,
            mac=seen.mac or None,
            source=",".join(seen.sources) or None,
        )
        for seen in machine.addresses
    ]
    status.ips = list(dict.fromkeys(seen.address for seen in machine.addresses))
    cpu, memory = machine.cpu, machine.memory
    status.current_resources = CurrentResources(
        cpu=cpu.count if cpu is not None and cpu.count else None,
        memory_mib=memory.size_bytes >> 20 if memory is not None and memory.size_bytes else None,
    )


def _pending(change: v1.Change) -> PendingChange:
    return PendingChange(
        field=change.field or change.kind.name or "machine",
        effect=EFFECTS.get(change.effect, "Unknown"),  # type: ignore[arg-type]  # words of the schema
        message=change.message or None,
        reasons=_whys(change),
    )


def _whys(change: v1.Change) -> list[str]:
    """Every reason for people; one that a newer provider gives by a number is one, too."""
    whys = [reason.message or reason.code for reason in change.reasons]
    if change.effect not in EFFECTS:
        whys.append(f"the provider names an effect that this controller does not know: {int(change.effect)}")
    return whys


def _lines(changes: Sequence[v1.Change]) -> str:
    lines = []
    for change in changes:
        why = ", ".join(_whys(change))
        lines.append(f"{change.message} ({why})" if why else change.message)
    return "; ".join(lines)


def _verdict(vm: VirtualMachine, status: VirtualMachineStatus, outcome: Outcome) -> _Verdict:
    verdict = _troubled(vm, status, outcome) if outcome.problem is not None else _settled(status, outcome)
    if outcome.ignored:
        message = "; ".join(f"{report.field}: {report.message}" for report in outcome.ignored)
        verdict.more.append(Wish(FIELDS_IGNORED, "True", outcome.ignored[0].reason, message))
    elif outcome.problem is not None and (kept := find(vm.status.conditions, FIELDS_IGNORED)) is not None:
        verdict.more.append(Wish(kept.type, kept.status, kept.reason, kept.message))  # it was not looked at this time
    return verdict


def _troubled(vm: VirtualMachine, status: VirtualMachineStatus, outcome: Outcome) -> _Verdict:
    problem = outcome.problem
    assert problem is not None
    unknown = problem.unreachable and bool(status.id)
    ready = Wish(READY, "Unknown" if unknown else "False", problem.reason, problem.message)
    if status.id and problem.reason == MISSING:
        phase = "Failed"
    elif unknown and outcome.machine is None:
        phase = "Unknown"
    elif status.id:
        phase = PHASES.get(status.power_state or "", "Unknown")
    elif problem.kind == "waiting":
        phase = "Pending"
    elif problem.kind == "stopped" or problem.reason == "ProviderConflict":
        phase = "Failed"
    else:
        phase = "Pending" if status.bound_provider is None else "Provisioning"
    more = [Wish(PROVISIONING, "True" if phase == "Provisioning" else "False", problem.reason, problem.message)]
    more.append(Wish(RECONFIGURING, "False", problem.reason, problem.message))
    told = problem.kind == "stopped" or not status.id
    if told:
        more.append(Wish(SPEC_APPLIED, "False", problem.reason, problem.message))
    kept = [RESTART_REQUIRED] if told else [SPEC_APPLIED, RESTART_REQUIRED]
    for kind in kept:  # they speak of the last look at the machine, which this was not
        if (condition := find(vm.status.conditions, kind)) is not None:
            more.append(Wish(kind, condition.status, condition.reason, condition.message))
    return _Verdict(phase, ready, more)


def _settled(status: VirtualMachineStatus, outcome: Outcome) -> _Verdict:
    machine, operation = outcome.machine, outcome.operation
    restart = [change for change in outcome.pending if change.effect is v1.Effect.RESTART]
    never = [c for c in outcome.pending if c.effect not in (v1.Effect.ONLINE, v1.Effect.RESTART)]
    soon = [change for change in outcome.pending if change.effect is v1.Effect.ONLINE]
    if machine is None:
        return _unmade(operation, never)
    phase = PHASES.get(status.power_state or "", "Unknown")
    if operation is not None and operation.kind not in ("create", "start", "shutdown", "stop", "suspend"):
        phase = "Reconfiguring"
    ready = _ready(machine, outcome, restart, never, soon)
    more = [
        Wish(PROVISIONING, "False", "Created", "the machine exists"),
        Wish(RECONFIGURING, "True", "TaskInProgress", f"{operation.kind or 'a change'} is in progress")
        if operation is not None
        else Wish(RECONFIGURING, "False", "ReconcileSuccess", "no change is in progress"),
        Wish(RESTART_REQUIRED, "True", "ChangesPending", _lines(restart))
        if restart
        else Wish(RESTART_REQUIRED, "False", "NothingPending", "no change waits for a restart"),
        _spec_applied(ready, restart, never, soon),
    ]
    return _Verdict(phase, ready, more)


def _unmade(operation: v1.Operation | None, never: Sequence[v1.Change]) -> _Verdict:
    """There is no machine yet: it is being made, or the provider will not make it."""
    refused = bool(never) and operation is None
    reason, message = ("SpecNotApplied", _lines(never)) if refused else ("Creating", "the machine is being created")
    more = [
        Wish(PROVISIONING, "False" if refused else "True", reason, message),
        Wish(RECONFIGURING, "False", reason, message),
        Wish(SPEC_APPLIED, "False", reason, message),
    ]
    return _Verdict("Failed" if refused else "Provisioning", Wish(READY, "False", reason, message), more)


def _spec_applied(
    ready: Wish, restart: Sequence[v1.Change], never: Sequence[v1.Change], soon: Sequence[v1.Change]
) -> Wish:
    if never:
        effects = {EFFECTS.get(change.effect, "Unknown") for change in never}
        if "Recreate" in effects:
            reason = "RecreateRequired"
        else:
            reason = "UnknownEffect" if "Unknown" in effects else "Unsupported"
        return Wish(SPEC_APPLIED, "False", reason, _lines(never))
    if restart:
        return Wish(SPEC_APPLIED, "False", RESTART_REQUIRED, _lines(restart))
    if soon:
        return Wish(SPEC_APPLIED, "False", "Updating", _lines(soon))
    if ready.status != "True":  # drifted, paused, or still being changed
        return Wish(SPEC_APPLIED, "False", ready.reason, ready.message)
    return Wish(SPEC_APPLIED, "True", "Applied", "the machine is what the spec says")


def _ready(
    machine: v1.Machine,
    outcome: Outcome,
    restart: Sequence[v1.Change],
    never: Sequence[v1.Change],
    soon: Sequence[v1.Change],
) -> Wish:
    if machine.power is v1.PowerState.PAUSED:
        why = machine.power_reason or "the hypervisor stopped its CPUs"
        return Wish(READY, "False", "MachinePaused", f"the machine does not run: {why}")
    if machine.power not in POWER:
        return Wish(READY, "Unknown", "PowerUnknown", _told(machine, _power_unknown(machine)))
    if outcome.drifted:
        drift = _told(machine, "the power is not what the spec says; it is being put right")
        return Wish(READY, "False", "PowerDrift", drift)
    if outcome.operation is not None:
        return Wish(READY, "False", "TaskInProgress", f"{outcome.operation.kind or 'a change'} is in progress")
    if never:
        return Wish(READY, "False", "SpecNotApplied", _lines(never))
    if restart:
        return Wish(READY, "False", RESTART_REQUIRED, _lines(restart))
    if soon:
        return Wish(READY, "False", "Updating", _lines(soon))
    return Wish(READY, "True", "ReconcileSuccess", _told(machine, "the machine is what the spec says"))


def _power_unknown(machine: v1.Machine) -> str:
    if machine.power is v1.PowerState.UNSPECIFIED:
        return "the hypervisor does not tell the power state"
    return f"the provider tells a power state that this controller does not know: {int(machine.power)}"


def _told(machine: v1.Machine, text: str) -> str:
    """With what the hypervisor says of the machine's state: an alarm, a host that is away, who switched it off."""
    return f"{text}; the hypervisor tells: {machine.power_reason}" if machine.power_reason else text
