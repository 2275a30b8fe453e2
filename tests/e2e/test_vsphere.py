"""The whole stack on simulated vCenters: what a user of vSphere does, and what happens to it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim
from simulators.rest_client import Rest
from simulators.vcsim import Vcsim, own_vcsim, start_vcsim, vcsim
from simulators.vcsim.admin import Admin

from .stack import Object, condition, manifest
from .vsphere import TEMPLATE, VsphereStack, box, credentials, make_template, provider, shared_objects, vcenter, wire

__all__ = ["own_vcsim", "vcsim"]  # fixtures

ON, OFF = "jsonpath={.status.powerState}=On", "jsonpath={.status.powerState}=Off"


@pytest.fixture(scope="module")
def stack(vcsim: Vcsim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereStack]:
    """The embedded stack with one vCenter, a tiny class and a template, for all."""
    with vcenter(vcsim) as admin:
        stack = VsphereStack(tmp_path_factory.mktemp("stack"), vcsim, admin)
        stack.up()
        try:
            stack.apply(*shared_objects(vcsim))
            stack.wait("provider", "vcenter", "condition=Ready")
            yield stack
        finally:
            stack.down()


@pytest.fixture
def namespace(stack: VsphereStack, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own with a network named `wire`; nothing of it is left on the vCenter at the end."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"{words[:30].strip('-')}-{zlib.crc32(request.node.nodeid.encode()):08x}"
    stack.kubectl("create", "namespace", name)
    stack.apply(wire(name))
    yield name
    stack.server.control("reset")
    for kind in ("vm", "vmimage", "provider"):  # a provider goes last: the others need it to go
        stack.kubectl("delete", kind, "--all", "-n", name, "--timeout=60s")
    assert not [vm for vm in stack.server.vms() if vm.startswith(f"{name}.")]
    assert stack.admin.orphans() == []


# -- a life ------------------------------------------------------------------------------------------------------------


def test_a_machine_from_a_template_runs_and_tells_its_address(stack: VsphereStack, namespace: str) -> None:
    """It is the template's clone, of the size that its class says, on the network that it names; and it goes whole."""
    stack.apply(box(namespace, disks=[{"name": "data", "sizeGiB": 1}]))
    stack.wait("vm", "box", ON, namespace)
    vm = stack.admin.find(stack.get("vm", "box", namespace)["metadata"]["uid"])
    disks = [each.capacityInKB >> 10 for each in vm.config.hardware.device if hasattr(each, "capacityInKB")]
    assert (vm.config.hardware.memoryMB, disks) == (64, [32, 1024])

    stack.server.control("guest", vm=vm._moId, ip="192.0.2.17", host_name="web", tools="guestToolsRunning")
    stack.wait("vm", "box", "jsonpath={.status.ips[0]}=192.0.2.17", namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    status = stack.get("vm", "box", namespace)["status"]
    assert (status["hypervisorName"], status["hostname"]) == (f"{namespace}.box", "web")

    stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
    assert f"{namespace}.box" not in stack.server.vms()
    assert stack.admin.orphans() == []


def test_attributes_and_customization_reach_the_vcenter(stack: VsphereStack, namespace: str) -> None:
    """vCenter names the new guest, and shows whose it is."""
    wish = {"hostname": "front", "domain": "example.org"}
    stack.apply(box(namespace, attributes={"Owner": "web team"}, customization=wish))
    stack.wait("vm", "box", ON, namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    body = stack.get("vm", "box", namespace)
    vm = stack.admin.find(body["metadata"]["uid"])
    names = {field.key: field.name for field in vm.availableField}
    assert {names[each.key]: each.value for each in vm.customValue}["Owner"] == "web team"
    assert vm.guest.hostName == "front"
    assert "pendingChanges" not in body["status"]


def test_a_snapshot_serves_as_an_image(stack: VsphereStack, namespace: str) -> None:
    """The machine's disk is a delta on the snapshot's, which it shares with others."""
    make_template(stack.admin, f"{namespace}-base", "golden")
    source = {"source": {"vsphere": {"templateName": f"{namespace}-base", "snapshotName": "golden"}}}
    plain = manifest(
        "VMClass", "plain", {"cpu": 1, "memory": "64Mi"}, namespace
    )  # such a disk has the size that it has
    stack.apply(plain, manifest("VMImage", "base", source, namespace))
    stack.apply(box(namespace, imageRef={"name": "base"}, classRef={"name": "plain"}))
    stack.wait("vm", "box", ON, namespace)
    (disk,) = disks_of(stack, namespace)
    assert f"{namespace}-base/" in disk.backing.parent.fileName
    assert disk.capacityInKB == 16 << 10


def test_a_storage_policy_is_given_and_given_again(stack: VsphereStack, namespace: str) -> None:
    """Somebody takes it off in vCenter; that is seen, and put right."""
    wish = {"name": "data", "sizeGiB": 1, "storagePolicy": "vSAN Default Storage Policy"}
    stack.apply(box(namespace, disks=[wish]))
    stack.wait("vm", "box", "condition=Ready", namespace)
    vm, rest = machine_of(stack, namespace), Rest(stack.server)
    _, disk = disks_of(stack, namespace)
    given = policy(rest, vm, disk)
    assert given
    change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk, profile=[vim.vm.DefaultProfileSpec()])
    stack.admin.wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    stack.wait_until("vm", "box", lambda _: policy(rest, vm, disk) == given, namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)


def test_power_follows_the_spec(stack: VsphereStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", ON, namespace)
    stack.server.control("guest", vm=f"{namespace}.box", tools="guestToolsRunning", on_boot=True)
    for wish, seen, state in (
        ("Suspended", "Suspended", "suspended"),
        ("On", "On", "poweredOn"),
        ("OffGraceful", "Off", "poweredOff"),
        ("On", "On", "poweredOn"),
        ("Off", "Off", "poweredOff"),
    ):
        stack.patch("vm", "box", {"powerState": wish}, namespace)
        stack.wait("vm", "box", f"jsonpath={{.status.powerState}}={seen}", namespace)
        assert power(stack, namespace) == state


def test_a_console_is_a_url_and_a_screenshot_a_picture(stack: VsphereStack, namespace: str) -> None:
    """vSphere has no serial console to carry; the URL lets in whoever has it, so no log ever shows it."""
    stack.apply(box(namespace))
    stack.wait("vm", "box", ON, namespace)

    url = stack.vrtg("console", "box", "-n", namespace).strip()
    picture = stack.home / "box.png"
    stack.vrtg("screenshot", "box", "-n", namespace, "-o", str(picture))

    assert re.fullmatch(r"wss://[\w.:]+/ticket/\S+", url)
    assert picture.read_bytes().startswith(b"\x89PNG")
    ticket = url.rpartition("/")[2]
    assert not [log.name for log in (stack.home / "logs").iterdir() if ticket in log.read_text()]


# -- edits -------------------------------------------------------------------------------------------------------------


def test_an_edit_that_needs_a_restart_waits_for_leave(stack: VsphereStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", ON, namespace)
    stack.server.control("guest", vm=f"{namespace}.box", tools="guestToolsRunning")

    stack.patch("vm", "box", {"resources": {"cpu": 2, "memoryMiB": 128}}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired", namespace)
    pending = stack.get("vm", "box", namespace)["status"]["pendingChanges"]
    assert {change["field"] for change in pending} == {"cpu.count", "memory.size_bytes"}
    assert power(stack, namespace) == "poweredOn", "nobody restarted it"

    stack.patch("vm", "box", {"restartPolicy": "Automatic"}, namespace)
    stack.wait("vm", "box", "condition=RestartRequired=False", namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    hardware = stack.admin.find(stack.get("vm", "box", namespace)["metadata"]["uid"]).config.hardware
    assert (hardware.numCPU, hardware.memoryMB, power(stack, namespace)) == (2, 128, "poweredOn")


def test_an_impossible_edit_changes_nothing_and_says_why(stack: VsphereStack, namespace: str) -> None:
    """A disk never shrinks: the guest's data would be cut off."""
    stack.apply(box(namespace, disks=[{"name": "data", "sizeGiB": 2}]))
    stack.wait("vm", "box", "condition=Ready", namespace)
    before = stack.admin.fingerprint(stack.get("vm", "box", namespace)["metadata"]["uid"])

    stack.patch("vm", "box", {"disks": [{"name": "data", "sizeGiB": 1}]}, namespace)

    assert "shrink" in stack.wait_said("vm", "box", "SpecApplied", "data", namespace)
    assert stack.admin.fingerprint(stack.get("vm", "box", namespace)["metadata"]["uid"]) == before


# -- others at the same vCenter ----------------------------------------------------------------------------------------


def test_a_machine_switched_off_behind_our_back_is_seen_and_healed(stack: VsphereStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", "condition=Ready", namespace)

    stack.server.control("act", vm=f"{namespace}.box", act="power_off")

    stack.wait_until("vm", "box", lambda _: power(stack, namespace) == "poweredOn", namespace, seconds=10)
    stack.wait("vm", "box", "condition=Ready", namespace)
    assert "PowerDrift" in stack.events("box", namespace), "it was seen before it was healed"


def test_a_foreign_machine_of_the_same_name_stays_untouched(stack: VsphereStack, namespace: str) -> None:
    """Its owner made it; we say that the name is taken, and deleting our object leaves it there."""
    vm = stack.admin.create(f"{namespace}.box")
    before = stack.admin.fingerprint(vm._moId)
    try:
        stack.apply(box(namespace))
        stack.wait("vm", "box", "jsonpath={.status.phase}=Failed", namespace)
        ready = condition(stack.get("vm", "box", namespace), "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "ProviderConflict")
        assert f"{namespace}.box" in ready["message"]
        stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
        assert stack.admin.fingerprint(vm._moId) == before
    finally:
        stack.admin.wait(vm.Destroy_Task())


def test_two_vcenters_serve_machines_of_one_name(stack: VsphereStack, namespace: str, own_vcsim: Vcsim) -> None:
    """Each Provider has its own vCenter, although the objects there have equal ids and names."""
    with vcenter(own_vcsim) as other:
        twin = {"providerRef": {"name": "second"}}
        stack.apply(credentials(own_vcsim, "second", namespace), provider(own_vcsim, "second", namespace))
        stack.apply(box(namespace), {**box(namespace, **twin), "metadata": {"name": "twin", "namespace": namespace}})
        for name in ("box", "twin"):
            stack.wait("vm", name, ON, namespace)
        assert f"{namespace}.twin" not in stack.server.vms()
        assert f"{namespace}.box" not in own_vcsim.vms()

        stack.kubectl("delete", "vm", "twin", "-n", namespace, "--timeout=60s")
        assert other.orphans() == []
        assert power(stack, namespace) == "poweredOn"


def test_two_vcenters_have_machines_of_equal_names(stack: VsphereStack, namespace: str, own_vcsim: Vcsim) -> None:
    """One was kept on the first when its object went, and the new one is on the second."""
    with vcenter(own_vcsim) as other:
        stack.apply(box(namespace, deletionPolicy="Retain"))
        stack.wait("vm", "box", "condition=Ready", namespace)
        stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
        kept = stack.server.vms()[f"{namespace}.box"]
        before = stack.admin.fingerprint(str(kept["moref"]))

        stack.apply(credentials(own_vcsim, "second", namespace), provider(own_vcsim, "second", namespace))
        stack.apply(box(namespace, providerRef={"name": "second"}))
        stack.wait("vm", "box", "condition=Ready", namespace)
        status = stack.get("vm", "box", namespace)["status"]
        assert own_vcsim.vms()[f"{namespace}.box"]["moref"] == status["id"]

        stack.patch("vm", "box", {"powerState": "Off"}, namespace)
        stack.wait("vm", "box", OFF, namespace)
        stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")
        assert f"{namespace}.box" not in own_vcsim.vms()
        assert other.orphans() == []
        assert stack.admin.fingerprint(str(kept["moref"])) == before
    stack.server.control("act", vm=f"{namespace}.box", act="remove")


def test_paths_lead_into_another_datacenter(stack: VsphereStack, namespace: str) -> None:
    """There is no field for the datacenter: a path in any of the others tells it."""
    for europe in start_vcsim(datacenters=2):
        with vcenter(europe):
            stack.apply(credentials(europe, "europe", namespace), provider(europe, "europe", namespace))
            place = {"cluster": "/DC1/host/DC1_C0", "folder": "/DC1/vm"}
            stack.apply(box(namespace, providerRef={"name": "europe"}, placement=place))
            stack.wait("vm", "box", ON, namespace)
            stack.wait("vm", "box", "condition=Ready", namespace)
            with Admin(europe) as admin:
                vm = admin.find(stack.get("vm", "box", namespace)["metadata"]["uid"])
                assert (vm.parent.parent.name, vm.resourcePool.owner.name) == ("DC1", "DC1_C0")
            stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_an_ended_session_loses_no_change(stack: VsphereStack, namespace: str) -> None:
    stack.apply(box(namespace))
    stack.wait("vm", "box", ON, namespace)

    stack.drop_sessions()
    stack.patch("vm", "box", {"powerState": "Off"}, namespace)

    stack.wait("vm", "box", OFF, namespace)
    assert power(stack, namespace) == "poweredOff"
    stack.wait("vm", "box", "condition=Ready", namespace)


def test_a_vcenter_that_comes_back_is_found_and_gets_what_was_wanted(
    stack: VsphereStack, namespace: str, own_vcsim: Vcsim
) -> None:
    """What is applied while it is away waits for it, and needs no further word."""
    # Each start of the simulator has another certificate.
    spec = {"insecureSkipVerify": True, "healthCheck": {"interval": "1s", "failureThreshold": 1}}
    stack.apply(credentials(own_vcsim, "away", namespace), provider(own_vcsim, "away", namespace, **spec))
    stack.wait("provider", "away", "condition=Ready", namespace)
    own_vcsim.stop()
    stack.wait_said("provider", "away", "Ready", "Connection refused", namespace)
    stack.apply(box(namespace, providerRef={"name": "away"}))
    stack.wait("vm", "box", "condition=Ready=False", namespace)

    own_vcsim.start()
    with vcenter(own_vcsim):
        stack.wait("vm", "box", ON, namespace)
        stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")


def test_a_machine_out_of_reach_is_not_taken_for_gone(stack: VsphereStack, namespace: str) -> None:
    """Its datastore went away, and then the provider came anew, who has never read it."""
    stack.apply(box(namespace))
    stack.wait("vm", "box", "condition=Ready", namespace)
    stack.server.control("reach", vm=f"{namespace}.box", state="inaccessible")
    stack.kill(stack.provider_pid("vcenter"))
    stack.wait_said("vm", "box", "Ready", "is inaccessible", namespace)

    stack.kubectl("delete", "vm", "box", "-n", namespace, "--wait=false")
    stack.wait_said("vm", "box", "DeleteBlocked", "it cannot be told whether it is this one", namespace)
    assert power(stack, namespace) == "poweredOn"

    stack.server.control("reach", vm=f"{namespace}.box", state="connected")
    stack.wait_gone("vm", "box", namespace)
    assert f"{namespace}.box" not in stack.server.vms()


@pytest.mark.parametrize("victim", ["provider", "controller"])
def test_whoever_is_killed_during_a_clone_there_is_one_machine(
    stack: VsphereStack, namespace: str, victim: str
) -> None:
    """The clone goes on in vCenter; whoever comes next finds it by its identity."""
    pid = stack.provider_pid("vcenter") if victim == "provider" else stack.controller_pid()
    with stack.slow_clones():
        stack.apply(box(namespace))
        stack.wait_cloning()
        stack.kill(pid)

    stack.wait("vm", "box", ON, namespace)
    stack.wait("vm", "box", "condition=Ready", namespace)
    body = stack.get("vm", "box", namespace)
    assert [vm._moId for vm in stack.admin.with_uuid(body["metadata"]["uid"])] == [body["status"]["id"]]
    assert [name for name in stack.server.vms() if name.startswith(f"{namespace}.")] == [f"{namespace}.box"]


# -- causes ------------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_named_and_never_shown(stack: VsphereStack, namespace: str) -> None:
    wrong = credentials(stack.server, "typo", namespace, password="not-the-one")
    stack.apply(wrong, provider(stack.server, "typo", namespace))

    body = stack.wait_until("provider", "typo", lambda body: reason(body) == "CredentialsRefused", namespace)

    assert "log in to 127.0.0.1" in condition(body, "Ready")["message"]
    assert "not-the-one" not in str(body)
    stack.apply(credentials(stack.server, "typo", namespace))
    stack.wait("provider", "typo", "condition=Ready", namespace)


def test_a_template_that_is_not_there_is_named_with_those_that_are(stack: VsphereStack, namespace: str) -> None:
    source = {"source": {"vsphere": {"templateName": "debain-12"}}}
    stack.apply(manifest("VMImage", "typo", source, namespace), box(namespace, imageRef={"name": "typo"}))

    assert TEMPLATE in stack.wait_said("vmimage", "typo", "Ready", "debain-12", namespace)
    stack.wait_said("vm", "box", "Ready", "typo", namespace)


def test_a_privilege_that_is_missing_is_named(stack: VsphereStack, namespace: str) -> None:
    missing = {"privilegeId": "VirtualMachine.Inventory.CreateFromExisting"}
    stack.server.control("faults", method="CloneVM_Task", fault="NoPermission", fields=missing, count=0)
    stack.apply(box(namespace))

    stack.wait_said("vm", "box", "Ready", missing["privilegeId"], namespace)

    assert f"{namespace}.box" not in stack.server.vms()


def machine_of(stack: VsphereStack, namespace: str) -> Any:
    """The namespace's box, as vCenter has it."""
    return stack.admin.find(stack.get("vm", "box", namespace)["metadata"]["uid"])


def disks_of(stack: VsphereStack, namespace: str) -> list[Any]:
    devices = machine_of(stack, namespace).config.hardware.device
    return [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]


def policy(rest: Rest, vm: Any, disk: Any) -> str:
    """Id of the storage policy of a disk; empty without one."""
    told = rest("GET", f"vcenter/vm/{vm._moId}/storage/policy")["disks"]
    return str(told.get(str(disk.key), ""))


def power(stack: VsphereStack, namespace: str) -> str:
    """Of the namespace's box, as vCenter says."""
    return str(stack.server.vms()[f"{namespace}.box"]["power"])


def reason(body: Object) -> str:
    return str(condition(body, "Ready").get("reason", ""))
