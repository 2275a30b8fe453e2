"""What the simulated vCenter tells people: events of failures, questions, alarms."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import make, outcome, si, until
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real


def history(si: vim.ServiceInstance, vm: vim.VirtualMachine, kind: str) -> list[vim.event.Event]:
    """Events of a machine of one type, through a collector as a provider reads them."""
    spec = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"), eventTypeId=[kind]
    )
    collector = si.content.eventManager.CreateCollectorForEvents(spec)
    try:
        return list(collector.latestPage)
    finally:
        collector.DestroyCollector()


def test_a_refused_power_on_is_an_event_with_its_reason(si, vcsim):
    vm = make(si, "refused")
    vcsim.control(
        "faults", method="PowerOnVM_Task", fault="InsufficientMemoryResourcesFault", in_task=True, vm="refused"
    )
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        outcome(vm.PowerOnVM_Task())
    until(lambda: history(si, vm, "VmFailedToPowerOnEvent"), "no event")
    (event,) = history(si, vm, "VmFailedToPowerOnEvent")
    assert isinstance(event.reason, vim.fault.InsufficientMemoryResourcesFault)
    assert (event.vm.vm, event.vm.name) == (vm, "refused")
    outcome(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        outcome(vm.PowerOnVM_Task())
    until(lambda: len(history(si, vm, "VmFailedToPowerOnEvent")) == 2, "no second event")


def test_a_question_waits_for_its_answer(si, vcsim):
    vm = make(si, "asking")
    vcsim.control("question", vm="asking", text="Moved or copied?", choices=["Cancel", "I moved it"])
    question = vm.runtime.question
    assert (question.text, [choice.label for choice in question.choice.choiceInfo]) == (
        "Moved or copied?",
        ["Cancel", "I moved it"],
    )
    with pytest.raises(vim.fault.QuestionPending):
        outcome(vm.PowerOnVM_Task())
    for id, choice in (("nonsense", "0"), (question.id, "7")):
        with pytest.raises(vmodl.fault.InvalidArgument):
            vm.AnswerVM(id, choice)
    vm.AnswerVM(question.id, "1")
    assert vm.runtime.question is None
    outcome(vm.PowerOnVM_Task())


def test_a_task_that_a_question_holds(si, vcsim):
    vm = make(si, "held")
    vcsim.control("question", vm="held", text="Sure?", choices=["Yes"], blocks="PowerOnVM_Task")
    task = vm.PowerOnVM_Task()
    until(lambda: vm.runtime.question, "nothing is asked")
    assert task.info.state == "running"
    vm.AnswerVM(vm.runtime.question.id, "0")
    outcome(task)
    assert (vm.runtime.powerState, vm.runtime.question) == ("poweredOn", None)


def test_an_alarm_is_triggered_and_gone(si, vcsim):
    vm = make(si, "alarmed")
    alarm = si.content.alarmManager.GetAlarm(None)[0]
    vcsim.control("status", vm="alarmed", overall="red", alarm=alarm.info.name)
    assert (vm.overallStatus, vm.summary.overallStatus) == ("red", "red")
    (state,) = vm.triggeredAlarmState
    assert (state.alarm, state.entity, state.overallStatus, state.acknowledged) == (alarm, vm, "red", False)
    vcsim.control("status", vm="alarmed", overall="green")
    assert (vm.overallStatus, list(vm.triggeredAlarmState)) == ("green", [])
    for body in ({"overall": "pink"}, {"overall": "red", "alarm": "nonsense"}):
        with pytest.raises(ValueError, match="error"):
            vcsim.control("status", vm="alarmed", **body)
