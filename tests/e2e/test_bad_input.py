"""Bad input ends in a sentence that names the cause, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

from libvirtd.fixtures import own_libvirtd
from libvirtd.private import PrivateLibvirtd

from .stack import Stack, condition, machine, manifest

__all__ = ["own_libvirtd"]  # fixture


def test_text_that_is_no_manifest_is_refused(stack: Stack) -> None:
    assert "error" in stack.refused("apply", "-f", "-", stdin="apiVersion: [")
    unknown = "apiVersion: infra.virtrigaud.io/v1beta1\nkind: VirtualMashine\nmetadata: {name: a}\n"
    assert "VirtualMashine" in stack.refused("apply", "-f", "-", stdin=unknown)
    typo = (
        'apiVersion: infra.virtrigaud.io/v1beta1\nkind: VMClass\nmetadata: {name: a}\nspec: {cpus: 1, memory: "1Gi"}\n'
    )
    assert "cpu" in stack.refused("apply", "-f", "-", stdin=typo)


def test_a_missing_reference_is_named_and_waited_for(stack: Stack, namespace: str) -> None:
    """The class comes later, and the machine goes on by itself."""
    stack.apply(machine("box", namespace, classRef={"name": "later"}))
    stack.wait("vm", "box", "jsonpath={.status.phase}=Pending", namespace)
    waiting = condition(stack.get("vm", "box", namespace), "Ready")
    assert waiting["reason"] == "WaitingForDependencies"
    assert f"{namespace}/later" in waiting["message"]

    stack.apply(manifest("VMClass", "later", {"cpu": 1, "memory": "192Mi"}, namespace))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)


def test_a_broken_image_is_named_and_no_machine_is_made(stack: Stack, namespace: str) -> None:
    (stack.home / "images" / "broken.qcow2").write_bytes(b"this is no image" * 100)
    image = {"source": {"libvirt": {"path": "broken.qcow2", "format": "qcow2"}}}
    stack.apply(manifest("VMImage", "broken", image, namespace))
    stack.apply(machine("box", namespace, imageRef={"name": "broken"}))
    stack.wait_said("vmimage", "broken", "Ready", "qcow2", namespace)
    stack.wait_said("vm", "box", "Ready", "broken", namespace)
    assert f"{namespace}.box" not in stack.domains()


def test_an_image_outside_of_the_image_directory_is_refused(stack: Stack, namespace: str, tmp_path: Path) -> None:
    """A path in a manifest must not read any file of the provider's host."""
    secret = tmp_path / "secret.qcow2"
    secret.write_bytes(stack.image.read_bytes()[:4096])
    stack.apply(manifest("VMImage", "stolen", {"source": {"libvirt": {"path": str(secret)}}}, namespace))
    stack.apply(machine("box", namespace, imageRef={"name": "stolen"}))
    stack.wait_said("vmimage", "stolen", "Ready", "secret.qcow2", namespace)
    assert f"{namespace}.box" not in stack.domains()


def test_an_unreachable_hypervisor_holds_only_its_own(stack: Stack, namespace: str) -> None:
    nowhere = {"type": "libvirt", "endpoint": "qemu+unix:///system?socket=/nonexistent/libvirt-sock"}
    stack.apply(manifest("Provider", "nowhere", nowhere, namespace))
    stack.apply(machine("stuck", namespace, providerRef={"name": "nowhere"}), machine("fine", namespace))

    stack.wait("vm", "fine", "jsonpath={.status.powerState}=On", namespace)

    stack.wait_said("provider", "nowhere", "Ready", "/nonexistent/libvirt-sock", namespace)
    stuck = condition(stack.get("vm", "stuck", namespace), "Ready")
    assert (stuck["status"], "nowhere" in stuck["message"]) == ("False", True)


def test_a_hung_hypervisor_delays_nobody_else_and_is_found_again(
    stack: Stack, namespace: str, own_libvirtd: PrivateLibvirtd
) -> None:
    """libvirtd stops answering in the middle; the others go on, and so does it when it is back."""
    stack.apply(manifest("Provider", "slow", {"type": "libvirt", "endpoint": own_libvirtd.uri}, namespace))
    stack.wait("provider", "slow", "condition=Ready", namespace)
    own_libvirtd.pause()
    try:
        stack.apply(machine("stuck", namespace, providerRef={"name": "slow"}), machine("fine", namespace))
        stack.wait("vm", "fine", "jsonpath={.status.powerState}=On", namespace)
        stack.wait("provider", "slow", "condition=Ready=False", namespace, seconds=90)
    finally:
        own_libvirtd.resume()
    stack.wait("provider", "slow", "condition=Ready", namespace)
    stack.wait("vm", "stuck", "jsonpath={.status.powerState}=On", namespace, seconds=90)
    stack.kubectl("delete", "vm", "stuck", "-n", namespace, "--timeout=60s")


def test_deleting_while_the_hypervisor_is_away_is_held_and_said(
    stack: Stack, namespace: str, own_libvirtd: PrivateLibvirtd
) -> None:
    """Forgetting the machine would leave it running with nobody's knowledge."""
    stack.apply(manifest("Provider", "away", {"type": "libvirt", "endpoint": own_libvirtd.uri}, namespace))
    stack.apply(machine("box", namespace, providerRef={"name": "away"}))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    own_libvirtd.kill()
    stack.wait("provider", "away", "condition=Ready=False", namespace, seconds=90)

    stack.kubectl("delete", "vm", "box", "-n", namespace, "--wait=false")
    assert "virtrigaud.io/force-delete" in stack.wait_said(
        "vm", "box", "DeleteBlocked", str(own_libvirtd.path), namespace
    ), "the cure is named"

    own_libvirtd.start()
    stack.wait_gone("vm", "box", namespace, seconds=90)
    assert own_libvirtd.guests() == []
