"""The status of a VirtualMachine, row by row; conditions and patches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from common import v1
from common.errors import (
    ClientRefusedError,
    HostFullError,
    HypervisorUnavailableError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    WrongServerError,
)
from common.status import Action, action
from controller.conditions import Wish, find, is_true, merged
from controller.patches import merge_patch
from controller.status import Deletion, Outcome, Problem, deleting_status, happenings, status_of
from kinds.metadata import Condition, ObjectMeta
from kinds.reports import FieldReport
from kinds.shared import ObjectRef
from kinds.virtualmachine import BoundProvider, VirtualMachine, VirtualMachineSpec, VirtualMachineStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOUND = BoundProvider(namespace="ns", name="p", uid="u")
CREATE = v1.Operation(id="op-1", kind="create")
RESIZE = v1.Operation(id="op-2", kind="reconfigure")
GROW = v1.Change(
    kind=v1.ChangeKind.SET_CPU, field="cpu.count", effect=v1.Effect.RESTART, message="change CPUs from 1 to 2",
    reasons=[v1.Reason(code="X", message="needs a restart")],
)  # fmt: skip
SHRINK = v1.Change(
    kind=v1.ChangeKind.GROW_DISK, field="disks[a].size_bytes", effect=v1.Effect.UNSUPPORTED, message="shrink disk a"
)


def vm(*, made: bool = True, **status: object) -> VirtualMachine:
    """An object, with or without a machine that was seen."""
    told = {"id": "dom-1", "bound_provider": BOUND, "power_state": "On", **status} if made else status
    return VirtualMachine(
        metadata=ObjectMeta(name="web", namespace="ns", uid="uid", generation=3),
        spec=VirtualMachineSpec(class_ref=ObjectRef(name="c"), provider_ref=ObjectRef(name="p")),
        status=VirtualMachineStatus(**told),
    )


def seen(power: v1.PowerState = v1.PowerState.ON, **more: object) -> v1.Machine:
    return v1.Machine(id="dom-1", hypervisor_name="ns.web", power=power, **more)


def problem(error: Exception) -> Problem:
    return Problem.of(error, stop=action(error) is Action.STOP)


BAD = problem(InvalidSpecError("x"))
WAITING = Problem("WaitingForDependencies", "VMClass ns/c does not exist", "waiting")
MISSING = Problem("MachineMissing", "gone", "waiting")
AWAY = problem(HypervisorUnavailableError("away"))

ROWS = [
    # made before, outcome, phase, Ready, reason, powerState
    (False, Outcome(problem=WAITING), "Pending", "False", "WaitingForDependencies", None),
    (False, Outcome(problem=AWAY), "Pending", "False", "ProviderUnavailable", None),
    (False, Outcome(problem=AWAY, bound=BOUND), "Provisioning", "False", "ProviderUnavailable", None),
    (False, Outcome(operation=CREATE, bound=BOUND), "Provisioning", "False", "Creating", None),
    (False, Outcome(pending=[SHRINK]), "Failed", "False", "SpecNotApplied", None),
    (False, Outcome(problem=problem(InvalidSpecError("bad"))), "Failed", "False", "ValidationError", None),
    (False, Outcome(problem=problem(NotSupportedError("no"))), "Failed", "False", "UnsupportedByProvider", None),
    (False, Outcome(problem=problem(NameConflictError("no"))), "Failed", "False", "ProviderConflict", None),
    (False, Outcome(problem=problem(HostFullError("no"))), "Pending", "False", "HostFull", None),
    (False, Outcome(machine=seen()), "Running", "True", "ReconcileSuccess", "On"),
    (True, Outcome(machine=seen()), "Running", "True", "ReconcileSuccess", "On"),
    (True, Outcome(machine=seen(v1.PowerState.OFF)), "Stopped", "True", "ReconcileSuccess", "Off"),
    (True, Outcome(machine=seen(v1.PowerState.SUSPENDED)), "Suspended", "True", "ReconcileSuccess", "Suspended"),
    (True, Outcome(machine=seen(v1.PowerState.PAUSED)), "Failed", "False", "MachinePaused", "Paused"),
    (True, Outcome(machine=seen(v1.PowerState.UNKNOWN)), "Unknown", "Unknown", "PowerUnknown", "Unknown"),
    (True, Outcome(machine=seen(), operation=RESIZE), "Reconfiguring", "False", "TaskInProgress", "On"),
    (True, Outcome(machine=seen(), pending=[GROW]), "Running", "False", "RestartRequired", "On"),
    (True, Outcome(machine=seen(), pending=[SHRINK, GROW]), "Running", "False", "SpecNotApplied", "On"),
    (True, Outcome(machine=seen(), drifted=True), "Running", "False", "PowerDrift", "On"),
    (True, Outcome(problem=WAITING), "Running", "False", "WaitingForDependencies", "On"),
    (True, Outcome(problem=AWAY), "Unknown", "Unknown", "ProviderUnavailable", "Unknown"),
    (True, Outcome(problem=problem(WrongServerError("?"))), "Unknown", "Unknown", "WrongServer", "Unknown"),
    (True, Outcome(problem=problem(ClientRefusedError("no"))), "Unknown", "Unknown", "ClientRefused", "Unknown"),
    (True, Outcome(problem=AWAY, machine=seen()), "Running", "Unknown", "ProviderUnavailable", "On"),
    (True, Outcome(problem=MISSING), "Failed", "False", "MachineMissing", "Unknown"),
    (True, Outcome(problem=BAD, machine=seen()), "Running", "False", "ValidationError", "On"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "outcome", "phase", "ready", "reason", "power"), ROWS)
def test_W16_W20_every_outcome_has_its_phase_and_conditions(
    made: bool, outcome: Outcome, phase: str, ready: str, reason: str, power: str | None
):
    status = status_of(vm(made=made), outcome, NOW)
    told = find(status.conditions, "Ready")
    assert told is not None
    assert (status.phase, told.status, told.reason, status.power_state) == (phase, ready, reason, power)
    assert status.message == told.message != ""
    assert status.observed_generation == 3
    assert {c.observed_generation for c in status.conditions} == {3}
    assert msgspec.convert(msgspec.to_builtins(status), VirtualMachineStatus) == status  # the schema takes it
    assert not is_true(status.conditions, "SpecApplied") or told.status == "True", "the spec is not applied"


@pytest.mark.parametrize("row", ROWS)
def test_a_hold_writes_nothing_when_nothing_changed(row: tuple[bool, Outcome, str, str, str, str]):
    """The same outcome an hour later is the same status, to the byte."""
    before = vm(made=row[0])
    once = status_of(before, row[1], NOW)
    again = msgspec.structs.replace(before, status=once)
    assert merge_patch(once, status_of(again, row[1], NOW + timedelta(hours=1))) == {}


def test_pending_changes_are_told_with_all_reasons():
    status = status_of(vm(), Outcome(machine=seen(), pending=[GROW, SHRINK]), NOW)
    assert [(c.field, c.effect, c.reasons) for c in status.pending_changes] == [
        ("cpu.count", "Restart", ["needs a restart"]),
        ("disks[a].size_bytes", "Unsupported", []),
    ]
    assert is_true(status.conditions, "RestartRequired")
    applied = find(status.conditions, "SpecApplied")
    assert applied is not None
    assert (applied.status, applied.reason, applied.message) == ("False", "Unsupported", "shrink disk a")


def test_ignored_fields_are_named_until_they_are_gone():
    report = FieldReport("spec.placementRef", "NotSupportedYet", "not yet")
    first = status_of(vm(), Outcome(machine=seen(), ignored=[report]), NOW)
    assert is_true(first.conditions, "FieldsIgnored")
    held = status_of(msgspec.structs.replace(vm(), status=first), Outcome(problem=AWAY), NOW)
    assert is_true(held.conditions, "FieldsIgnored")
    done = status_of(msgspec.structs.replace(vm(), status=held), Outcome(machine=seen()), NOW)
    assert find(done.conditions, "FieldsIgnored") is None


def test_deletion_is_told_and_blocked_once():
    going = deleting_status(vm(), Deletion(), NOW)
    assert (going.phase, find(going.conditions, "DeleteBlocked")) == ("Deleting", None)
    held = deleting_status(vm(), Deletion(blocked=AWAY), NOW)
    assert is_true(held.conditions, "DeleteBlocked")
    assert "away" in (held.message or "")


def test_W21_transitions_become_events():
    def reasons(before: VirtualMachine, outcome: Outcome) -> list[str]:
        status = status_of(before, outcome, NOW)
        return [found.reason for found in happenings(before.status, status, outcome)]

    assert reasons(vm(made=False), Outcome(machine=seen())) == ["Created"]
    assert reasons(vm(), Outcome(machine=seen())) == []
    assert reasons(vm(), Outcome(machine=seen(v1.PowerState.OFF))) == ["PowerChanged"]
    assert reasons(vm(), Outcome(machine=seen(v1.PowerState.OFF), drifted=True)) == ["PowerDrift"]
    assert reasons(vm(), Outcome(machine=seen(), healed="power on")) == ["PowerDrift"]
    assert reasons(vm(), Outcome(machine=seen(), applied=[GROW])) == ["Reconfigured"]
    assert reasons(vm(), Outcome(machine=seen(), pending=[GROW])) == ["RestartRequired"]
    assert reasons(vm(), Outcome(problem=AWAY)) == ["ProviderUnavailable"]


def test_W73_transition_times_move_on_flips_only():
    first = merged([], [Wish("Ready", "False", "A", "a")], ("Ready",), 1, NOW)
    same = merged(first, [Wish("Ready", "False", "B", "b")], ("Ready",), 2, NOW + timedelta(hours=1))
    assert same[0].last_transition_time == first[0].last_transition_time
    assert (same[0].reason, same[0].observed_generation) == ("B", 2)
    flipped = merged(same, [Wish("Ready", "True", "C", "c")], ("Ready",), 2, NOW + timedelta(hours=2))
    assert flipped[0].last_transition_time == "2026-01-01T02:00:00Z"


def test_conditions_of_others_stay():
    other = Condition(type="Backup/Done", status="True", reason="R", message="m", last_transition_time="t")
    after = merged([other], [Wish("Ready", "True", "A", "a")], ("Ready", "Old"), 1, NOW)
    assert after[0] == other
    assert [c.type for c in after] == ["Backup/Done", "Ready"]


def test_a_merge_patch_says_what_differs_and_no_more():
    before = VirtualMachineStatus(id="a", ips=["1"], host="h", bound_provider=BOUND)
    after = VirtualMachineStatus(
        id="a", ips=["1", "2"], bound_provider=BoundProvider(namespace="ns", name="q", uid="u")
    )
    assert merge_patch(before, after) == {"ips": ["1", "2"], "host": None, "boundProvider": {"name": "q"}}
    assert merge_patch(after, after) == {}


@pytest.mark.parametrize("power", [v1.PowerState.ON, v1.PowerState.UNKNOWN])
def test_what_the_hypervisor_tells_of_a_state_is_shown(power: v1.PowerState) -> None:
    """An alarm, a host that is away, who switched it off: whoever looks with kubectl reads it."""
    machine = seen(power, power_reason="host esx-7 does not answer")
    status = status_of(vm(), Outcome(machine=machine), NOW)
    assert (told := find(status.conditions, "Ready")) is not None
    assert told.message.endswith("; the hypervisor tells: host esx-7 does not answer")
