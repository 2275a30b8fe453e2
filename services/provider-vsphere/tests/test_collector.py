"""What is pushed and what is read meet in the tree: neither undoes the other's news."""

from __future__ import annotations

from typing import Any

import pytest
from provider_vsphere.session.collector import Collector, Update
from provider_vsphere.session.tree import Tree

VERSION, POWER, CPUS = "config.changeVersion", "runtime.powerState", "config.hardware.numCPU"


class Heard:
    def __init__(self) -> None:
        self.machines: list[str] = []
        self.tasks: list[str] = []


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@pytest.fixture
async def collector(heard: Heard) -> Collector:
    """Without a server: updates are put into it by hand."""
    login: Any = None  # nothing is asked
    return Collector(
        login, Tree(), on_machine=heard.machines.append, on_task=lambda moid, _changed: heard.tasks.append(moid)
    )


def vm(**facts: Any) -> Update:
    names = {"version": VERSION, "power": POWER, "cpus": CPUS, "uuid": "config.instanceUuid"}
    return Update("VirtualMachine", "vm-1", changed={names[key]: value for key, value in facts.items()})


def tree_of(collector: Collector) -> Tree:
    return collector._tree


def fact(collector: Collector, name: str) -> Any:
    entity = tree_of(collector).get("vm-1")
    assert entity is not None
    return entity.facts.get(name)


async def test_a_read_does_not_undo_what_was_pushed_meanwhile(collector: Collector) -> None:
    collector.take([vm(uuid="u", version="1", power="poweredOff", cpus=1)])
    with collector.reading(["vm-1"]) as reading:
        collector.take([vm(power="poweredOn")])
        collector.take_read(reading, [vm(uuid="u", version="1", power="poweredOff", cpus=2)])
    assert (fact(collector, POWER), fact(collector, CPUS)) == ("poweredOn", 2)


async def test_a_read_does_not_bring_back_what_went_meanwhile(collector: Collector, heard: Heard) -> None:
    collector.take([vm(uuid="u", version="1")])
    with collector.reading(["vm-1"]) as reading:
        collector.take([Update("VirtualMachine", "vm-1", gone=True)])
        collector.take_read(reading, [vm(uuid="u", version="1")])
    assert tree_of(collector).get("vm-1") is None
    assert heard.machines == ["u", "u"]


async def test_leaves_that_are_not_pushed_are_to_be_read(collector: Collector) -> None:
    """A version alone says that something changed and not what."""
    collector.take([vm(uuid="u", version="1", cpus=1)])
    collector.take([vm(version="2")])
    assert await collector.wait_behind() == ["vm-1"]
    with collector.reading(["vm-1"]) as reading:
        collector.take_read(reading, [vm(uuid="u", version="2", cpus=2)])
    assert fact(collector, CPUS) == 2


async def test_what_was_read_already_is_not_read_again(collector: Collector) -> None:
    collector.take([vm(uuid="u", version="1", cpus=1)])
    with collector.reading(["vm-1"]) as reading:
        collector.take_read(reading, [vm(uuid="u", version="2", cpus=2)])
    collector.take([vm(version="2")])
    assert not collector._behind


async def test_a_read_that_was_overtaken_is_repeated(collector: Collector) -> None:
    collector.take([vm(uuid="u", version="1", cpus=1)])
    with collector.reading(["vm-1"]) as reading:
        collector.take([vm(version="3")])
        collector.take_read(reading, [vm(uuid="u", version="2", cpus=2)])
    assert fact(collector, VERSION) == "3"
    assert await collector.wait_behind() == ["vm-1"]


async def test_equal_facts_are_told_to_nobody(collector: Collector, heard: Heard) -> None:
    for _ in range(3):
        collector.take([vm(uuid="u", version="1", cpus=1)])
    assert heard.machines == ["u"]
    collector.take([Update("Task", "task-1", changed={"info.state": "success"})])
    assert heard.tasks == ["task-1"]


async def test_a_machine_whose_files_cannot_be_reached_is_still_there(collector: Collector) -> None:
    """It loses its whole configuration; a stamp that alone goes was taken off."""
    collector.take([vm(uuid="u", version="1", cpus=2)])
    collector.take([Update("VirtualMachine", "vm-1", unset=("config.instanceUuid", VERSION, CPUS))])
    assert [entity.moid for entity in tree_of(collector).with_uuid("u")] == ["vm-1"]
    assert fact(collector, CPUS) == 2
    with collector.reading(["vm-1"]) as reading:
        collector.take_read(reading, [Update("VirtualMachine", "vm-1", unset=("config.instanceUuid", CPUS))])
    assert tree_of(collector).with_uuid("u")
    collector.take([Update("VirtualMachine", "vm-1", unset=(CPUS,))])
    assert fact(collector, CPUS) is None
