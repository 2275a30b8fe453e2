"""Property collectors of the simulated vCenter: what a wait tells, once, and of what changed alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from pyVim.connect import Disconnect
from pyVmomi import vim, vmodl

from simulators.clients import LIMIT, connect, make, outcome, si, until
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real

Collector = vmodl.query.PropertyCollector
NOW = Collector.WaitOptions(maxWaitSeconds=0)
SOON = Collector.WaitOptions(maxWaitSeconds=int(LIMIT))
PATHS = ["name", "config.hardware.numCPU", "config.annotation", "runtime.powerState", "runtime.question"]


def every_machine(si: vim.ServiceInstance) -> Collector.FilterSpec:
    view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.VirtualMachine], True)
    everyone = Collector.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    return Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[everyone])],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=PATHS)],
    )


@pytest.fixture
def collector(si: vim.ServiceInstance) -> Iterator[Collector]:
    """One with a filter on every machine."""
    made = si.content.propertyCollector.CreatePropertyCollector()
    made.CreateFilter(every_machine(si), False)
    yield made
    made.Destroy()


def told(answer: Collector.UpdateSet) -> list[tuple[str, str, dict[str, object]]]:
    """Kind, object id and changes of everything in an answer."""
    return [
        (each.kind, each.obj._moId, {change.name: change.val for change in each.changeSet})
        for part in answer.filterSet
        for each in part.objectSet
    ]


def test_a_machine_is_told_of_once_and_whole(si, collector):
    """Another machine does not make those that are known news; nor is one shown that is still being made."""
    version = collector.WaitForUpdatesEx("").version
    vm = make(si, "whole", annotation="for people")
    answer = collector.WaitForUpdatesEx(version, SOON)
    ((kind, moid, changes),) = told(answer)
    assert (kind, moid, changes["name"], changes["config.annotation"]) == ("enter", vm._moId, "whole", "for people")
    assert collector.WaitForUpdatesEx(answer.version, NOW) is None
    outcome(vm.Destroy_Task())
    assert told(collector.WaitForUpdatesEx(answer.version, SOON)) == [("leave", vm._moId, {})]


def test_what_differs_is_told_and_nothing_else(si, vcsim, collector):
    vm = make(si, "differs")
    version = collector.WaitForUpdatesEx("").version
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(numCPUs=2, annotation="new")))
    answer = collector.WaitForUpdatesEx(version, SOON)
    assert told(answer) == [("modify", vm._moId, {"config.hardware.numCPU": 2, "config.annotation": "new"})]
    vcsim.control("question", vm="differs", text="really?", choices=["yes"])
    answer = collector.WaitForUpdatesEx(answer.version, SOON)
    (question,) = (changes["runtime.question"] for _, _, changes in told(answer))
    vm.AnswerVM(question.id, "0")
    answer = collector.WaitForUpdatesEx(answer.version, SOON)
    assert told(answer) == [("modify", vm._moId, {"runtime.question": None})]


def test_an_answer_that_was_lost_is_given_again(si, collector):
    vm = make(si, "lost")
    version = collector.WaitForUpdatesEx("").version
    outcome(vm.Rename_Task("found"))
    first = collector.WaitForUpdatesEx(version, SOON)
    again = collector.WaitForUpdatesEx(version, SOON)
    assert told(again) == told(first) == [("modify", vm._moId, {"name": "found"})]
    assert again.version == first.version
    assert collector.WaitForUpdatesEx(first.version, NOW) is None
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collector.WaitForUpdatesEx(version + "0", NOW)


def test_who_begins_anew_is_told_everything_again(si, collector):
    vm = make(si, "known")
    everything = told(collector.WaitForUpdatesEx(""))
    assert told(collector.WaitForUpdatesEx("")) == everything
    assert vm._moId in {moid for _, moid, _ in everything}


def test_pages_hold_every_object_once(si, collector):
    for number in range(3):
        make(si, f"paged-{number}")
    two = Collector.WaitOptions(maxWaitSeconds=0, maxObjectUpdates=2)
    answer, pages = collector.WaitForUpdatesEx("", two), []
    while answer is not None:
        pages.append([moid for _, moid, _ in told(answer)])
        assert bool(answer.truncated) is (len(pages) * 2 < len(told(collector_of_all(si))))
        answer = collector.WaitForUpdatesEx(answer.version, two)
    assert all(len(page) <= 2 for page in pages)
    found = [moid for page in pages for moid in page]
    assert sorted(found) == sorted(moid for _, moid, _ in told(collector_of_all(si)))


def collector_of_all(si: vim.ServiceInstance) -> Collector.UpdateSet:
    """Everything at once."""
    made = si.content.propertyCollector.CreatePropertyCollector()
    made.CreateFilter(every_machine(si), False)
    try:
        return made.WaitForUpdates("")
    finally:
        made.Destroy()


def test_a_new_wait_and_a_cancellation_end_the_one_before(si, vcsim, collector):
    """A client whose connection broke asks anew: what happens next is for the new wait."""
    vm = make(si, "reconnected")
    version = collector.WaitForUpdatesEx("").version
    ended: list[type[Exception]] = []

    def wait() -> None:
        try:
            collector.WaitForUpdatesEx(version)
        except vmodl.fault.RequestCanceled as error:
            ended.append(type(error))

    for interrupt in (lambda: collector.WaitForUpdatesEx(version, NOW), collector.CancelWaitForUpdates):
        vcsim.control("requests/reset")
        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: vcsim.requests().get("WaitForUpdatesEx"), "it does not wait")
        while waiting.is_alive():  # it may have been counted before it waits
            interrupt()
            waiting.join(0.05)
    assert ended == [vmodl.fault.RequestCanceled] * 2
    outcome(vm.Rename_Task("told"))
    assert told(collector.WaitForUpdatesEx(version, SOON)) == [("modify", vm._moId, {"name": "told"})]


def test_default_collectors_of_two_sessions_are_two(si, vcsim):
    vm, other = make(si, "both"), connect(vcsim)
    waits = []
    for collector in (si.content.propertyCollector, other.content.propertyCollector):
        collector.CreateFilter(every_machine(si if collector._stub is si._stub else other), False)
        waits.append((collector, collector.WaitForUpdatesEx("").version))
    outcome(vm.Rename_Task("heard"))
    for collector, version in waits:
        assert told(collector.WaitForUpdatesEx(version, SOON)) == [("modify", vm._moId, {"name": "heard"})]
    Disconnect(other)


def test_what_is_gone_cannot_be_filtered(si, collector):
    vm = make(si, "gone")
    outcome(vm.Destroy_Task())
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=vm)],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        collector.CreateFilter(spec, False)
