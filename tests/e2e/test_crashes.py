"""Killed at the worst moment: whoever dies, there is one machine, no orphan file, and a status that is true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .stack import Stack, condition, machine, manifest

FAULT = "VIRTRIGAUD_FAULT"


@pytest.fixture
def crashing(stack: Stack, namespace: str) -> Iterator[str]:
    """A provider of the test's own, on the same libvirt, which faults can be given to."""
    stack.apply(manifest("Provider", "own", {"type": "libvirt", "endpoint": stack.libvirtd.uri}, namespace))
    stack.wait("provider", "own", "condition=Ready", namespace)
    yield namespace
    give_fault(stack, namespace, "")
    stack.kubectl("delete", "vm", "--all", "-n", namespace, "--timeout=90s")


def give_fault(stack: Stack, namespace: str, fault: str) -> None:
    """Restart the provider with a fault, or without any."""
    env = [{"name": FAULT, "value": fault}] if fault else []
    stack.patch("provider", "own", {"runtime": {"mode": "Process", "env": env}}, namespace)


def own_machine(namespace: str) -> dict[str, object]:
    return machine("box", namespace, providerRef={"name": "own"})


def assert_one_true_machine(stack: Stack, namespace: str, before: set[str]) -> None:
    """One domain, running; no file but its own; and the object says so."""
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    box = stack.get("vm", "box", namespace)
    mine = [name for name in stack.domains() if namespace in name]
    assert mine == [f"{namespace}.box"]
    assert stack.domains()[mine[0]] == "running"
    assert stack.virsh("domuuid", mine[0]).strip() == box["metadata"]["uid"] == box["status"]["id"]
    kept = {volume for volume in stack.volumes() if volume.endswith(".log") or volume.startswith("virtrigaud-image-")}
    assert stack.volumes() - kept - before == used_files(stack, mine[0])


def used_files(stack: Stack, domain: str) -> set[str]:
    """Files that the domain has as its disks."""
    lines = stack.virsh("domblklist", domain).splitlines()
    return {line.split()[-1].rpartition("/")[2] for line in lines if "/" in line}


@pytest.mark.parametrize(
    "point", ["libvirt.create.begun", "libvirt.create.files", "libvirt.create.defined", "machines.create.after"]
)
def test_a_provider_killed_in_the_middle_of_create_makes_one_machine(stack: Stack, crashing: str, point: str) -> None:
    before = stack.volumes()
    give_fault(stack, crashing, f"{point}:kill")
    stack.apply(own_machine(crashing))
    stack.wait("provider", "own", "condition=Ready=False", crashing)  # it died, and dies again at each attempt

    give_fault(stack, crashing, "")

    assert_one_true_machine(stack, crashing, before)


@pytest.mark.parametrize("point", ["machines.power_off.before", "machines.power_off.after"])
def test_a_provider_killed_in_the_middle_of_power_gets_there(stack: Stack, crashing: str, point: str) -> None:
    stack.apply(own_machine(crashing))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", crashing)
    give_fault(stack, crashing, f"{point}:kill")
    stack.wait("provider", "own", "condition=Ready", crashing)
    stack.patch("vm", "box", {"powerState": "Off"}, crashing)
    stack.wait("provider", "own", "condition=Ready=False", crashing)

    give_fault(stack, crashing, "")

    stack.wait("vm", "box", "jsonpath={.status.powerState}=Off", crashing)
    assert stack.domains()[f"{crashing}.box"] == "shut off"


@pytest.mark.parametrize("point", ["machines.destroy.before", "libvirt.destroy.done"])
def test_a_provider_killed_in_the_middle_of_delete_leaves_nothing(stack: Stack, crashing: str, point: str) -> None:
    before = stack.volumes()
    stack.apply(own_machine(crashing))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", crashing)
    give_fault(stack, crashing, f"{point}:kill")
    stack.wait("provider", "own", "condition=Ready", crashing)
    stack.kubectl("delete", "vm", "box", "-n", crashing, "--wait=false")
    stack.wait("provider", "own", "condition=Ready=False", crashing)

    give_fault(stack, crashing, "")

    stack.wait_gone("vm", "box", crashing)
    assert f"{crashing}.box" not in stack.domains()
    assert stack.volumes() <= before


def test_a_controller_killed_in_the_middle_of_create_makes_one_machine(stack: Stack, crashing: str) -> None:
    """The provider hangs with the files made; the controller dies, and its provider with it."""
    before = stack.volumes()
    give_fault(stack, crashing, "libvirt.create.files:hang")
    stack.wait("provider", "own", "condition=Ready", crashing)
    stack.apply(own_machine(crashing))
    stack.wait("vm", "box", "condition=Provisioning", crashing)

    stack.kill(stack.controller_pid())
    give_fault(stack, crashing, "")

    assert_one_true_machine(stack, crashing, before)


def test_a_controller_killed_in_the_middle_of_power_and_delete_goes_on(stack: Stack, crashing: str) -> None:
    before = stack.volumes()
    stack.apply(own_machine(crashing))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", crashing)
    give_fault(stack, crashing, "machines.power_off.before:hang")
    stack.wait("provider", "own", "condition=Ready", crashing)
    stack.patch("vm", "box", {"powerState": "Off"}, crashing)

    stack.kill(stack.controller_pid())
    give_fault(stack, crashing, "")
    stack.wait("vm", "box", "jsonpath={.status.powerState}=Off", crashing)
    assert stack.domains()[f"{crashing}.box"] == "shut off"

    give_fault(stack, crashing, "machines.destroy.before:hang")
    stack.wait("provider", "own", "condition=Ready", crashing)
    stack.kubectl("delete", "vm", "box", "-n", crashing, "--wait=false")
    stack.kill(stack.controller_pid())
    give_fault(stack, crashing, "")
    stack.wait_gone("vm", "box", crashing)
    assert f"{crashing}.box" not in stack.domains()
    assert stack.volumes() <= before


def test_a_killed_api_server_loses_nothing(stack: Stack, namespace: str) -> None:
    """An acknowledged write is there afterwards, and the machine comes to be."""
    stack.apply(machine("box", namespace))
    stack.kill(stack.component_pid("apiserver"))
    stack.vrtg("up")  # waits until it serves again
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    assert condition(stack.get("vm", "box", namespace), "Ready")["status"] == "True"
