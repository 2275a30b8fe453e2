"""The whole stack on a simulated Proxmox VE cluster: what a user does, and what happens to it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import pytest

from .proxmox import Cluster, ProxmoxStack, box, cluster, credentials, provider, shared_objects, wire
from .stack import Object, condition

ON, OFF = "jsonpath={.status.powerState}=On", "jsonpath={.status.powerState}=Off"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxmoxStack]:
    """The embedded stack with one cluster, a tiny class and a template, for all."""
    with cluster() as server:
        stack = ProxmoxStack(tmp_path_factory.mktemp("stack"), server)
        stack.up()
        try:
            stack.apply(*shared_objects(server))
            stack.wait("provider", "pve", "condition=Ready")
            yield stack
        finally:
            stack.down()


@pytest.fixture
def namespace(stack: ProxmoxStack, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own with a network named `wire`; nothing of it is left on the cluster at the end."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"{words[:30].strip('-')}-{zlib.crc32(request.node.nodeid.encode()):08x}"
    stack.kubectl("create", "namespace", name)
    stack.apply(wire(name))
    yield name
    stack.server.switch("reset")
    for kind in ("vm", "vmimage", "provider"):  # a provider goes last: the others need it to go
        stack.kubectl("delete", kind, "--all", "-n", name, "--timeout=60s")
    assert not [guest for guest in stack.server.guests() if guest.startswith(f"{name}.")]


def guest_of(stack: ProxmoxStack, namespace: str) -> Object:
    return stack.server.guests()[f"{namespace}.box"]


def test_a_machine_from_a_template_runs_and_tells_its_address(stack: ProxmoxStack, namespace: str) -> None:
    """It is the template's copy, of the size that its class says, with its first-boot data; and it goes whole."""
    data = {"cloudInit": {"inline": "#cloud-config\npackages: [nginx]\n"}}
    stack.apply(box(namespace, disks=[{"name": "data", "sizeGiB": 1}], userData=data, tags=["blue"]))
    stack.wait("vm", "box", ON, namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    body, guest = stack.get("vm", "box", namespace), guest_of(stack, namespace)
    assert body["status"]["id"] == str(guest["vmid"])
    assert (guest["config"]["memory"], guest["config"]["tags"]) == ("256", "blue;virtrigaud")
    assert "media=cdrom" in guest["config"]["ide2"], "the ISO with its first-boot data"
    stack.server.switch("guest", vmid=guest["vmid"], do="inside", agent=True)
    stack.wait("vm", "box", "jsonpath={.status.ips[0]}", namespace)
    stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
    assert f"{namespace}.box" not in stack.server.guests()


def test_power_follows_the_spec(stack: ProxmoxStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", ON, namespace)
    for wish, seen, state in (
        ("Suspended", "Suspended", "running"),
        ("On", "On", "running"),
        ("OffGraceful", "Off", "stopped"),
        ("On", "On", "running"),
        ("Off", "Off", "stopped"),
    ):
        stack.patch("vm", "box", {"powerState": wish}, namespace)
        stack.wait("vm", "box", f"jsonpath={{.status.powerState}}={seen}", namespace)
        assert guest_of(stack, namespace)["status"] == state


def test_an_edit_that_needs_a_restart_waits_for_leave(stack: ProxmoxStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", "condition=Ready", namespace)
    stack.patch("vm", "box", {"resources": {"cpu": 2, "memoryMiB": 512}}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired", namespace)
    pending = stack.get("vm", "box", namespace)["status"]["pendingChanges"]
    assert {change["field"] for change in pending} == {"cpu.count", "memory.size_bytes"}
    stack.patch("vm", "box", {"restartPolicy": "Automatic"}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired=False", namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    guest = guest_of(stack, namespace)
    assert (guest["config"]["cores"], guest["config"]["memory"], guest["status"]) == ("2", "512", "running")


def test_a_machine_moves_to_the_node_that_its_spec_names(stack: ProxmoxStack, namespace: str) -> None:
    stack.apply(box(namespace, placement={"host": "pve1"}))
    stack.wait("vm", "box", "condition=Ready", namespace)
    before = guest_of(stack, namespace)
    assert before["node"] == "pve1"
    stack.patch("vm", "box", {"placement": {"host": "pve3"}}, namespace)
    stack.wait_server(lambda server: server.guests()[f"{namespace}.box"]["node"] == "pve3", "the move")
    stack.wait("vm", "box", "condition=Ready", namespace)
    after = guest_of(stack, namespace)
    assert (after["vmid"], after["status"]) == (before["vmid"], "running")


def test_what_others_do_is_seen_and_healed(stack: ProxmoxStack, namespace: str) -> None:
    """Somebody moves it, and QEMU dies: it is followed, and started again where it is."""
    stack.apply(box(namespace))
    stack.wait("vm", "box", "condition=Ready", namespace)
    guest = guest_of(stack, namespace)
    other = next(node for node in ("pve1", "pve2", "pve3") if node != guest["node"])
    stack.server.switch("guest", vmid=guest["vmid"], do="move", node=other)
    stack.server.switch("guest", vmid=guest["vmid"], do="crash")
    stack.wait_server(lambda server: server.guests()[f"{namespace}.box"]["status"] == "running", "the start")
    stack.wait("vm", "box", "condition=Ready", namespace)
    assert guest_of(stack, namespace)["node"] == other
    assert "PowerDrift" in stack.events("box", namespace), "it was seen before it was healed"


def test_a_foreign_guest_of_the_same_name_stays_untouched(stack: ProxmoxStack, namespace: str) -> None:
    """Its owner made it; we say that the name is taken, and deleting our object leaves it there."""
    stack.apply(box(namespace, deletionPolicy="Retain"))
    stack.wait("vm", "box", "condition=Ready", namespace)
    stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
    before = guest_of(stack, namespace)
    assert "virtrigaud" not in before["config"].get("description", ""), "it is nobody's of ours any more"
    try:
        stack.apply(box(namespace))
        stack.wait("vm", "box", "jsonpath={.status.phase}=Failed", namespace)
        ready = condition(stack.get("vm", "box", namespace), "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "ProviderConflict")
        stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
        assert guest_of(stack, namespace) == before
    finally:
        stack.server.switch("guest", vmid=before["vmid"], do="remove")


def test_a_provider_killed_in_the_middle_of_a_clone_leaves_one_machine(stack: ProxmoxStack, namespace: str) -> None:
    """The cluster goes on with the clone; the next process finds it by its stamp."""
    stack.server.switch("tasks/hold", kind="qmclone")
    stack.apply(box(namespace))
    stack.wait_server(lambda server: any(guest["lock"] == "clone" for guest in server.guests().values()), "the clone")
    stack.kill(stack.provider_pid("pve"))
    stack.server.switch("tasks/release")
    stack.wait("vm", "box", ON, namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    uid = stack.get("vm", "box", namespace)["metadata"]["uid"]
    ours = [guest for guest in stack.server.guests().values() if uid in guest["config"].get("description", "")]
    assert len(ours) == 1


def test_a_wrong_token_says_so_and_a_right_one_helps(stack: ProxmoxStack, namespace: str) -> None:
    server: Cluster = stack.server
    stack.apply(credentials(server, "mine", namespace, token_secret="wrong"), provider(server, "mine", namespace))
    stack.wait("provider", "mine", "condition=Ready=False", namespace)
    told = condition(stack.get("provider", "mine", namespace), "Ready")["message"]
    assert "wrong" not in told
    stack.apply(credentials(server, "mine", namespace))
    stack.wait("provider", "mine", "condition=Ready", namespace, seconds=120)
