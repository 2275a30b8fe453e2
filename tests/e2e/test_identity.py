"""Exactly one machine, ever, and nobody else's."""

from __future__ import annotations

from pathlib import Path

from .stack import Stack, condition, machine, manifest

FOREIGN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os></domain>"""


def test_equal_names_in_two_namespaces_are_two_machines(stack: Stack, namespace: str) -> None:
    other = f"{namespace}-too"[:60]
    stack.kubectl("create", "namespace", other)
    wire = {"network": {"libvirt": {"networkName": stack.libvirtd.network}}}
    stack.apply(manifest("VMNetworkAttachment", "wire", wire, other))
    stack.apply(machine("twin", namespace), machine("twin", other))
    for place in (namespace, other):
        stack.wait("vm", "twin", "jsonpath={.status.powerState}=On", place)
    assert stack.domains()[f"{namespace}.twin"] == "running"
    assert stack.domains()[f"{other}.twin"] == "running"

    stack.kubectl("delete", "vm", "twin", "-n", other, "--timeout=60s")
    assert f"{other}.twin" not in stack.domains()
    assert stack.domains()[f"{namespace}.twin"] == "running"
    assert condition(stack.get("vm", "twin", namespace), "Ready")["status"] == "True"


def test_a_foreign_domain_of_the_same_name_stays_untouched(stack: Stack, namespace: str, tmp_path: Path) -> None:
    """Its owner made it; we say that the name is taken, and deleting our object leaves it there."""
    name = f"{namespace}.mine"
    (tmp_path / "foreign.xml").write_text(FOREIGN.format(name=name))
    stack.virsh("define", str(tmp_path / "foreign.xml"))
    before = stack.virsh("dumpxml", name)
    try:
        stack.apply(machine("mine", namespace))
        stack.wait("vm", "mine", "jsonpath={.status.phase}=Failed", namespace)
        ready = condition(stack.get("vm", "mine", namespace), "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "ProviderConflict")
        assert name in ready["message"]
        stack.kubectl("delete", "vm", "mine", "-n", namespace, "--timeout=60s")
        assert stack.virsh("dumpxml", name) == before
        assert not [volume for volume in stack.volumes() if name in volume]
    finally:
        stack.virsh("undefine", name)


def test_a_machine_destroyed_behind_our_back_is_seen_and_healed(stack: Stack, namespace: str) -> None:
    """`virsh destroy` is not a wish: the spec still says On."""
    stack.apply(machine("box", namespace))
    stack.wait("vm", "box", "condition=Ready", namespace)
    domain = f"{namespace}.box"
    first = stack.virsh("domid", domain).strip()

    stack.virsh("destroy", domain)

    stack.wait_until("vm", "box", lambda body: stack.virsh("domid", domain).strip() not in ("-", first), namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    second = stack.virsh("domid", domain).strip()
    assert second not in ("-", first), "it runs again"
    assert "PowerDrift" in stack.events("box", namespace), "it was seen before it was healed"
