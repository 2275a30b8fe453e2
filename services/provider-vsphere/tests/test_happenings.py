"""What happened to a VM explains one power state, and no other and no earlier one."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from provider_vsphere.session import happenings
from provider_vsphere.session.happenings import HAPPENING, OFF, ON, Happening
from pyVmomi import vim

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
event = vim.event


def about(kind: Any, key: int, vm: str = "vm-1", **fields: Any) -> Any:
    argument = event.VmEventArgument(name=vm, vm=vim.VirtualMachine(vm))
    return kind(key=key, createdTime=NOON, vm=argument, **fields)


REFUSED = about(event.VmFailedToPowerOnEvent, 1, reason=vim.fault.InsufficientMemoryResourcesFault())
RESTARTED = about(
    event.VmRestartedOnAlternateHostEvent, 2, sourceHost=event.HostEventArgument(name="esx1", host=vim.HostSystem("h"))
)


@pytest.mark.parametrize(
    ("told", "text", "explains"),
    [
        (REFUSED, "it could not be started: insufficient memory resources fault", OFF),
        (RESTARTED, "HA restarted it, as host esx1 failed", ON),
        (about(event.VmDasBeingResetEvent, 3, reason="vmtoolsHeartbeatFailure"), "HA reset it (vmtools", ON),
        (about(event.VmShutdownOnIsolationEvent, 4), "HA shut it down", OFF),
        (about(event.NotEnoughResourcesToStartVmEvent, 5), "HA finds no host", OFF),
    ],
)
def test_an_event_is_told_in_words(told: Any, text: str, explains: str) -> None:
    found, last = happenings.newest([told], 0, history=False)
    assert found["vm-1"].text.startswith(text)
    assert (found["vm-1"].explains, last) == (explains, told.key)


def test_the_last_one_counts_once() -> None:
    page = [RESTARTED, about(event.VmPoweredOffEvent, 9), REFUSED]
    found, last = happenings.newest(page, 0, history=False)
    assert [found["vm-1"].explains, last] == [ON, 2], "a page is unordered, and holds what nobody asked for"
    assert happenings.newest(page, last, history=False) == ({}, 2)


def test_why_a_vm_was_off_before_we_came_is_not_why_it_is_off_now() -> None:
    assert happenings.newest([REFUSED], 0, history=True) == ({}, 1)
    assert happenings.newest([RESTARTED], 0, history=True)[0].keys() == {"vm-1"}


@pytest.mark.parametrize(
    ("explains", "power", "boot", "shows"),
    [
        (OFF, OFF, None, True),
        (OFF, ON, NOON, False),
        (ON, ON, NOON, True),
        (ON, ON, NOON + datetime.timedelta(minutes=5), True),
        (ON, ON, NOON + datetime.timedelta(days=1), False),
        (ON, ON, None, False),
        (ON, OFF, None, False),
    ],
)
def test_it_explains_its_own_state_alone(
    explains: str, power: str, boot: datetime.datetime | None, shows: bool
) -> None:
    facts = {HAPPENING: Happening("so it is", explains, NOON), "runtime.powerState": power, "runtime.bootTime": boot}
    assert happenings.reason(facts) == ("so it is" if shows else "")


def test_alarms_are_those_that_are_red_and_that_nobody_has_seen() -> None:
    def state(alarm: str, status: str, seen: bool = False) -> Any:
        return vim.alarm.AlarmState(alarm=vim.alarm.Alarm(alarm), overallStatus=status, acknowledged=seen)

    states = [state("b", "red"), state("a", "red"), state("c", "yellow"), state("d", "red", seen=True)]
    assert happenings.raised(states) == ("a", "b")
