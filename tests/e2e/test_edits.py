"""Editing a machine: what can be done is done, what needs a restart is said, what is impossible changes nothing."""

from __future__ import annotations

import json
import re

from .stack import Stack, condition, machine, manifest


def test_an_online_edit_is_made_while_the_guest_runs(stack: Stack, namespace: str) -> None:
    """A further disk is plugged in; the guest is not restarted for it."""
    stack.apply(machine("box", namespace))
    stack.wait("vm", "box", "jsonpath={.status.ips[0]}", namespace)
    running = stack.virsh("domid", f"{namespace}.box")

    stack.patch("vm", "box", {"disks": [{"name": "data", "sizeGiB": 1}]}, namespace)

    generation = stack.get("vm", "box", namespace)["metadata"]["generation"]
    stack.wait("vm", "box", f"jsonpath={{.status.observedGeneration}}={generation}", namespace)
    stack.wait("vm", "box", "condition=SpecApplied", namespace)
    assert "-data.qcow2" in stack.virsh("domblklist", f"{namespace}.box")
    assert stack.virsh("domid", f"{namespace}.box") == running
    assert condition(stack.get("vm", "box", namespace), "RestartRequired")["status"] == "False"


def test_an_edit_that_needs_a_restart_waits_for_leave(stack: Stack, namespace: str) -> None:
    """More memory than the machine was started with: reported, and made when the owner allows the restart."""
    stack.apply(manifest("VMClass", "size", {"cpu": 1, "memory": "192Mi"}, namespace))
    stack.apply(machine("box", namespace, classRef={"name": "size"}))
    stack.wait("vm", "box", "jsonpath={.status.ips[0]}", namespace)
    running = stack.virsh("domid", f"{namespace}.box")

    stack.patch("vmclass", "size", {"memory": "256Mi"}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired", namespace)

    waiting = stack.get("vm", "box", namespace)
    assert "memory" in waiting["status"]["pendingChanges"][0]["field"]
    assert waiting["status"]["pendingChanges"][0]["reasons"]
    assert stack.virsh("domid", f"{namespace}.box") == running, "nobody restarted it"

    stack.patch("vm", "box", {"restartPolicy": "Automatic"}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired=False", namespace)
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    assert memory_of(stack, f"{namespace}.box") == 256 << 10
    assert stack.virsh("domid", f"{namespace}.box") != running
    assert not stack.get("vm", "box", namespace)["status"].get("pendingChanges")


def test_a_waiting_edit_is_made_when_the_machine_is_off_anyway(stack: Stack, namespace: str) -> None:
    stack.apply(manifest("VMClass", "size", {"cpu": 1, "memory": "192Mi"}, namespace))
    stack.apply(machine("box", namespace, classRef={"name": "size"}))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    stack.patch("vmclass", "size", {"cpu": 2}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired", namespace)

    stack.patch("vm", "box", {"powerState": "Off"}, namespace)

    stack.wait("vm", "box", "condition=RestartRequired=False", namespace)
    assert stack.domains()[f"{namespace}.box"] == "shut off"
    assert "<vcpu placement='static'>2</vcpu>" in stack.virsh("dumpxml", f"{namespace}.box")


def test_an_impossible_edit_changes_nothing_and_says_why(stack: Stack, namespace: str) -> None:
    """A disk never shrinks: the guest's data would be cut off."""
    stack.apply(machine("box", namespace, disks=[{"name": "data", "sizeGiB": 2}]))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    before = stack.virsh("dumpxml", f"{namespace}.box")

    stack.patch("vm", "box", {"disks": [{"name": "data", "sizeGiB": 1}]}, namespace)

    stack.wait("vm", "box", "condition=SpecApplied=False", namespace)
    box = stack.get("vm", "box", namespace)
    assert "data" in condition(box, "SpecApplied")["message"]
    assert "shrink" in condition(box, "SpecApplied")["message"]
    assert box["status"]["powerState"] == "On"
    assert stack.virsh("dumpxml", f"{namespace}.box") == before


def test_the_schema_refuses_what_can_never_be(stack: Stack, namespace: str) -> None:
    """The API server says it at once, with the field."""
    for spec, field in (
        ({"powerState": True}, "powerState"),
        ({"disks": [{"name": "data", "sizeGiB": 0}]}, "sizeGiB"),
        ({"disks": [{"name": "Not A Label", "sizeGiB": 1}]}, "name"),
        ({"providerRef": {}}, "providerRef.name"),
    ):
        body = machine("bad", namespace, **spec)

        assert field in stack.refused("apply", "-f", "-", stdin=json.dumps(body))
    assert stack.kubectl("get", "vm", "-n", namespace, "-o", "name") == ""


def memory_of(stack: Stack, domain: str) -> int:
    """KiB that a domain has."""
    found = re.search(r"<memory unit='KiB'>(\d+)</memory>", stack.virsh("dumpxml", domain))
    assert found is not None
    return int(found[1])
