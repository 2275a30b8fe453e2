"""When a machine need not be asked of again: nothing differs, and the stream that would tell so is whole."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import msgspec
import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HypervisorUnavailableError
from controller.connection import Connection, Health, HealthPolicy, Limits, Target
from controller.machines import MachineReconciler
from controller.metrics import Metrics
from controller.status import Outcome
from kinds.provider import Provider
from kinds.virtualmachine import VirtualMachine
from prometheus_client import CollectorRegistry

UID, ASKED = "m-1", b"what was asked"
MACHINE = v1.Machine(identity=v1.MachineIdentity(uid=UID), id=UID, token="t1")
LATER = v1.Machine(identity=v1.MachineIdentity(uid=UID), id=UID, token="t2")
BUSY = v1.Machine(identity=v1.MachineIdentity(uid=UID), id=UID, token="t1", operation_id="o")
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
RESTART = v1.Change(kind=v1.ChangeKind.SET_MEMORY, effect=v1.Effect.RESTART)
ONLINE = v1.Change(kind=v1.ChangeKind.SET_MEMORY, effect=v1.Effect.ONLINE)


def connection() -> Connection:
    """One that nobody runs, whose stream is whole."""
    found = Connection(
        "ns/p", Target("nowhere:1", None), ManualClock(), random.Random(1), Metrics(CollectorRegistry()),
        policy=HealthPolicy(), limits=Limits(), wake=lambda _: None, changed=lambda: None,
    )  # fmt: skip
    found.synced.set()
    found.health = Health(True)
    return found


def told(found: Connection, machine: v1.Machine) -> None:
    """The stream tells of a machine."""
    found.known.take(v1.MachineEvent(changed=machine), None)


def test_an_answer_is_good_until_something_differs():
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE, pending=[RESTART]), None)
    told(found, MACHINE)
    answer = found.known.settled(UID, ASKED)
    assert answer is not None
    assert (answer.machine, answer.pending, answer.applied, answer.operation) == (MACHINE, [RESTART], [], None)


def _broken(found: Connection) -> None:
    found.synced.clear()


def _ill(found: Connection) -> None:
    found.health = Health(False)


def _failing(found: Connection) -> None:
    for _ in range(5):
        found.breaker.record(HypervisorUnavailableError("no answer"))


def _able(found: Connection) -> None:
    found.known.info = v1.GetProviderResponse(version="2")


@pytest.mark.parametrize(
    "differs",
    [
        lambda found: told(found, LATER),
        lambda found: told(found, BUSY),
        lambda found: found.known.take(v1.MachineEvent(removed=UID), None),
        lambda found: found.known.remember(UID, None),
        _broken,
        _ill,
        _failing,
        _able,
    ],
    ids=[
        "another state",
        "an operation",
        "gone",
        "found to be gone",
        "the stream is broken",
        "it is not well",
        "calls fail",
        "the provider can more",
    ],
)
def test_it_is_asked_again_when_something_differs(differs: Callable[[Connection], None]):
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), None)
    differs(found)
    assert found.known.settled(UID, ASKED) is None


def test_a_report_stands_while_machine_and_ground_are_the_same():
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), None)
    assert not found.known.stands(UID, None)
    assert not found.known.stands(UID, ("vm", 1))
    found.known.note(UID, ("vm", 1))
    assert found.known.stands(UID, ("vm", 1))
    assert not found.known.stands(UID, ("vm", 2))
    found.known.failures[UID] = ("reshape", HypervisorUnavailableError("no answer"))
    assert not found.known.stands(UID, ("vm", 1))
    found.known.take_failure(UID)
    told(found, LATER)
    assert not found.known.stands(UID, ("vm", 1))


def test_another_question_is_asked():
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), None)
    assert found.known.settled(UID, b"another") is None


@pytest.mark.parametrize(
    "answer",
    [
        v1.ApplyMachineResponse(machine=MACHINE, operation=v1.Operation(id="o")),
        v1.ApplyMachineResponse(machine=MACHINE, pending=[RESTART, ONLINE]),
        v1.ApplyMachineResponse(machine=BUSY),
        v1.ApplyMachineResponse(),
    ],
    ids=["an operation goes on", "something can be done yet", "other work goes on", "there is no machine"],
)
def test_an_answer_that_leaves_something_to_do_is_not_kept(answer: v1.ApplyMachineResponse):
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), None)
    found.known.settle(UID, ASKED, answer, MACHINE)
    assert found.known.settled(UID, ASKED) is None


def test_what_the_stream_told_during_the_call_may_be_newer_than_its_answer():
    """Somebody else's change must not be hidden behind an answer that is older than it."""
    found = connection()
    before = found.known.machines.get(UID)
    told(found, LATER)
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), before)
    assert found.known.settled(UID, ASKED) is None


async def test_what_was_on_its_way_when_a_call_was_answered_is_not_told_as_drift():
    """The power as it was before the apply that changed it: the machine never went back."""
    found, reports = connection(), []
    on = dataclasses.replace(LATER, power=v1.PowerState.ON)
    off = dataclasses.replace(MACHINE, power=v1.PowerState.OFF)
    object_ = {
        "metadata": {"name": "web", "namespace": "shop", "uid": UID, "generation": 2},
        "spec": {"providerRef": {"name": "p"}, "classRef": {"name": "c"}, "powerState": "Off"},
        "status": {"id": UID, "powerState": "Off", "observedGeneration": 2, "conditions": [READY]},
    }
    vm = msgspec.convert(object_, VirtualMachine)
    provider = msgspec.convert(
        {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"type": "fake", "endpoint": "fake://"}}, Provider
    )

    class Reconciler(MachineReconciler):
        def __init__(self) -> None:
            """Nobody is asked and nothing is written."""

        async def _report(self, vm: VirtualMachine, outcome: Outcome) -> VirtualMachine:
            reports.append(outcome)
            return vm

    async def drifts() -> bool:
        reports.clear()
        await Reconciler()._announce(vm, provider, found)
        return any(report.drifted for report in reports)

    told(found, on)
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=off), on)
    told(found, dataclasses.replace(on, token="t0"))  # another state on the way to "off"
    assert found.known.settled(UID, ASKED) is None
    assert not await drifts()
    told(found, off)
    assert not await drifts()
    told(found, on)  # this one came after the answer: somebody switched it on
    assert await drifts()


def test_a_doubt_ends_with_the_next_answer():
    """The stream skips states: it may never tell of the one that was answered."""
    found = connection()
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=MACHINE), None)
    told(found, LATER)
    assert found.known.doubted(UID)
    found.known.settle(UID, ASKED, v1.ApplyMachineResponse(machine=LATER), LATER)
    assert not found.known.doubted(UID)
