"""VirtualMachines end to end: real API server, real controller process, real gRPC to a fake hypervisor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from common import v1
from common.errors import HostFullError, HypervisorUnavailableError
from controller_harness import (
    CLASS,
    OWNER,
    Cluster,
    because,
    condition,
    controller,
    furnish,
    hypervisor,
    machine,
    ready,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")
VM = "VirtualMachine"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The home of the controller that runs for this module."""
    directory = tmp_path_factory.mktemp("home")
    flags = ("--owner", OWNER, "--lease-name", "machines")
    async with controller(cluster, directory, *flags):
        yield directory


async def made(cluster: Cluster, namespace: str, name: str = "web", **spec: Any) -> Any:
    """A machine that is Ready."""
    await cluster.create(VM, namespace, name, machine(**spec))
    return await cluster.wait(VM, namespace, name, ready)


def uid(item: Any) -> str:
    return str(item["metadata"]["uid"])


async def test_made_and_removed_on_a_process_provider(cluster: Cluster, home: Path, namespace: str):
    """The embedded stack's own way: the controller starts the provider server, speaks mTLS to it, and ends it."""
    await furnish(cluster, namespace)
    status = (await made(cluster, namespace))["status"]
    assert status["phase"] == "Running"
    assert status["powerState"] == "On"
    assert status["boundProvider"]["name"] == "fake"
    assert status["id"]
    provider = await cluster.get("Provider", namespace, "fake")
    assert condition(provider, "TLSConfigured")["reason"] == "Enabled"
    assert provider["status"]["connectedVMs"] == 1
    await cluster.delete(VM, namespace, "web")
    await cluster.gone(VM, namespace, "web")
    await cluster.delete("Provider", namespace, "fake")
    await cluster.gone("Provider", namespace, "fake")


async def test_edits_online_restart_and_impossible(cluster: Cluster, home: Path, namespace: str):
    """W14: every edit is made, or said to wait, or said to be impossible; never ignored."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace, disks=[{"name": "data", "sizeGiB": 2, "expandPolicy": "Online"}])
        await cluster.patch(VM, namespace, "web", {"spec": {"tags": ["blue"]}})
        await cluster.wait(VM, namespace, "web", ready)
        assert world.machines[uid(vm)].tags == ["blue"]
        await cluster.patch("VMClass", namespace, "small", {"spec": {"firmware": "BIOS", "memory": "128Mi"}})
        waiting = await cluster.wait(VM, namespace, "web", because("RestartRequired"))
        assert condition(waiting, "RestartRequired")["status"] == "True"
        assert [c["field"] for c in waiting["status"]["pendingChanges"]] == ["memory.size_bytes"]
        assert waiting["status"]["currentResources"]["memoryMiB"] == 256
        await cluster.patch(VM, namespace, "web", {"spec": {"restartPolicy": "Automatic"}})
        done = await cluster.wait(VM, namespace, "web", ready)
        assert done["status"]["currentResources"]["memoryMiB"] == 128
        assert done["status"]["powerState"] == "On"
        before = world.snapshot(uid(vm))
        await cluster.patch(VM, namespace, "web", {"spec": {"disks": [{"name": "data", "sizeGiB": 1}]}})
        refused = await cluster.wait(VM, namespace, "web", because("SpecNotApplied"))
        assert condition(refused, "SpecApplied")["status"] == "False"
        assert "shrink disk data" in condition(refused, "SpecApplied")["message"]
        assert world.snapshot(uid(vm)) == before


async def test_W12_resources_override_the_class(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace, resources={"cpu": 3, "memoryMiB": 512})
        assert world.machines[uid(vm)].cpu.count == 3
        assert vm["status"]["currentResources"] == {"cpu": 3, "memoryMiB": 512}


async def test_W2_power_follows_the_spec_and_off_graceful_ends(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor(guest_shutdown_seconds=0.1) as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        for wish, phase in (
            ("OffGraceful", "Stopped"),
            ("On", "Running"),
            ("Suspended", "Suspended"),
            ("Off", "Stopped"),
        ):
            await cluster.patch(VM, namespace, "web", {"spec": {"powerState": wish}})
            after = await cluster.wait(VM, namespace, "web", lambda item: ready(item))
            assert after["status"]["phase"] == phase, wish
        looks = ("check", "observe")  # the provider's own, which go on
        acts = {verb: count for verb, count in world.calls.items() if verb not in looks}
        await asyncio.sleep(0.5)
        assert {verb: count for verb, count in world.calls.items() if verb not in looks} == acts
        assert uid(vm) in world.machines


async def test_W1_W21_drift_is_seen_and_healed(cluster: Cluster, home: Path, namespace: str):
    """Somebody cut the power with another tool: the event stream tells, no poll is waited for."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.power_behind_our_back(uid(vm), v1.PowerState.OFF)
        await until(lambda: world.machines[uid(vm)].power is v1.PowerState.ON, "the machine's power")
        await cluster.wait(VM, namespace, "web", ready)
        await until(lambda: _has(cluster, namespace, "web", "PowerDrift"), "the event")
        assert "Created" in await cluster.reasons(namespace, "web")


async def test_drift_that_an_apply_happens_to_find_is_told(cluster: Cluster, home: Path, namespace: str):
    """Nobody told of it: an apply that was asked for something else met it, and put it right."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.machines[uid(vm)].power = v1.PowerState.OFF
        await cluster.patch(VM, namespace, "web", {"metadata": {"labels": {"look": "again"}}})
        await until(lambda: _has(cluster, namespace, "web", "PowerDrift"), "the event")
        assert world.machines[uid(vm)].power is v1.PowerState.ON
        await cluster.wait(VM, namespace, "web", ready)


async def _has(cluster: Cluster, namespace: str, name: str, reason: str) -> bool:
    return reason in await cluster.reasons(namespace, name)


async def test_W10_a_machine_that_vanished_is_not_made_anew(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.remove_behind_our_back(uid(vm))
        lost = await cluster.wait(VM, namespace, "web", because("MachineMissing"))
        assert lost["status"]["phase"] == "Failed"
        assert uid(vm) not in world.machines
        await cluster.patch(VM, namespace, "web", {"spec": {"onMissing": "Recreate"}})
        await cluster.wait(VM, namespace, "web", ready)
        assert uid(vm) in world.machines


async def test_W9_an_outage_never_leads_to_a_second_machine(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.away()
        await cluster.wait(
            "Provider", namespace, "fake", lambda p: condition(p, "ProviderAvailable")["status"] == "False"
        )
        await cluster.patch(VM, namespace, "web", {"spec": {"tags": ["x"]}})
        unknown = await cluster.wait(VM, namespace, "web", because("ProviderUnavailable"))
        assert condition(unknown, "Ready")["status"] == "Unknown"
        world.back()
        await cluster.wait(VM, namespace, "web", ready)
        assert list(world.machines) == [uid(vm)]
        assert world.calls["create"] == 1


async def test_W27_a_provider_turns_unhealthy_and_back(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.wait("Provider", namespace, "fake", ready)
        world.away()
        down = await cluster.wait("Provider", namespace, "fake", lambda p: not p["status"].get("healthy"))
        assert "switched off" in condition(down, "Ready")["message"]
        world.back()
        await cluster.wait("Provider", namespace, "fake", ready)


async def test_W4_deletion_waits_for_an_unreachable_provider(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.away()
        await cluster.delete(VM, namespace, "web")
        blocked = await cluster.wait(VM, namespace, "web", because("ProviderUnavailable", "DeleteBlocked"))
        assert blocked["status"]["phase"] == "Deleting"
        assert uid(vm) in world.machines
        world.back()
        await cluster.gone(VM, namespace, "web")
        assert uid(vm) not in world.machines
        assert (await cluster.reasons(namespace, "web")).count("DeleteBlocked") == 1


async def test_W4_orphaning_says_what_is_left(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.away()
        await cluster.delete(VM, namespace, "web")
        await cluster.wait(VM, namespace, "web", because("ProviderUnavailable", "DeleteBlocked"))
        annotations = {"virtrigaud.io/orphan-on-delete": "true"}
        await cluster.patch(VM, namespace, "web", {"metadata": {"annotations": annotations}})
        await cluster.gone(VM, namespace, "web")
        assert uid(vm) in world.machines
        await until(lambda: _has(cluster, namespace, "web", "VMLeftOnHypervisor"), "the event")


async def test_W6_retain_keeps_the_machine(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace, deletionPolicy="Retain")
        await cluster.delete(VM, namespace, "web")
        await cluster.gone(VM, namespace, "web")
        left = world.machines[uid(vm)]
        assert left.power is v1.PowerState.ON
        assert left.identity is None or left.identity.owner != OWNER


async def test_W5_the_object_stays_until_the_machine_is_gone(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        world.hang("destroy")
        await cluster.delete(VM, namespace, "web")
        await cluster.wait(VM, namespace, "web", lambda item: item["status"]["phase"] == "Deleting")
        assert uid(vm) in world.machines
        assert (await cluster.get(VM, namespace, "web"))["metadata"]["finalizers"]
        world.unhang()
        await cluster.gone(VM, namespace, "web")
        assert uid(vm) not in world.machines


async def test_W7_equal_names_in_two_namespaces_and_a_foreign_one(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        other = f"{namespace}-b"
        foreign = world.make_foreign("web")
        before = world.snapshot(foreign)
        for each in (namespace, other):
            await furnish(cluster, each, **provider)
        first, second = await made(cluster, namespace), await made(cluster, other)
        assert {uid(first), uid(second), foreign} == set(world.machines)
        assert first["status"]["hypervisorName"] != second["status"]["hypervisorName"]
        await cluster.delete(VM, namespace, "web")
        await cluster.gone(VM, namespace, "web")
        assert {uid(second), foreign} == set(world.machines)
        assert world.snapshot(foreign) == before


async def test_W7_a_foreign_machine_of_our_name_is_reported_and_untouched(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        foreign = world.make_foreign(f"{namespace}.web")
        before = world.snapshot(foreign)
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine())
        conflict = await cluster.wait(VM, namespace, "web", because("ProviderConflict"))
        assert conflict["status"]["phase"] == "Failed"
        assert world.snapshot(foreign) == before
        await cluster.delete(VM, namespace, "web")
        await cluster.gone(VM, namespace, "web")
        assert world.snapshot(foreign) == before


async def test_W22_a_hung_provider_delays_only_its_own(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (sick, provider), hypervisor() as (well, other_provider):
        other = f"{namespace}-b"
        await furnish(cluster, namespace, **provider)
        await furnish(cluster, other, **other_provider)
        canary = await made(cluster, namespace, "canary")
        before = sick.calls["observe"]
        sick.hang()
        for number in range(20):
            await cluster.create(VM, namespace, f"web{number}", machine())
        await until(lambda: sick.calls["create"] > 1 or sick.calls["observe"] > before, "a call that hangs")
        vm = await made(cluster, other)
        assert uid(vm) in well.machines
        assert list(sick.machines) == [uid(canary)]
        sick.unhang()


async def test_W3_W18_a_failed_operation_is_told_and_tried_again(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        world.fail("create", HypervisorUnavailableError("create: the connection broke"))
        vm = await made(cluster, namespace)
        assert list(world.machines) == [uid(vm)]
        world.fail("create", HostFullError("create: no memory left"))
        await cluster.create(VM, namespace, "other", machine())
        full = await cluster.wait(VM, namespace, "other", because("HostFull"))
        assert "no memory left" in condition(full, "Ready")["message"]
        await cluster.patch(VM, namespace, "other", {"spec": {"tags": ["again"]}})  # an edit does not wait
        await cluster.wait(VM, namespace, "other", ready)


async def test_W8_a_bound_machine_keeps_its_provider(cluster: Cluster, home: Path, namespace: str):
    """The schema refuses the edit; an object that got past it is refused by the controller."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create("Provider", namespace, "second", provider)
        vm = await made(cluster, namespace)
        with pytest.raises(AssertionError, match="providerRef"):
            await cluster.patch(VM, namespace, "web", {"spec": {"providerRef": {"name": "second"}}})
        assert list(world.machines) == [uid(vm)]


async def test_W23_what_is_missing_is_named_and_its_arrival_noticed(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider):
        await cluster.namespace(namespace)
        await cluster.create(VM, namespace, "web", machine())
        for kind, name, spec in (
            ("Provider", "fake", provider),
            ("VMClass", "small", CLASS),
        ):
            waiting = await cluster.wait(
                VM,
                namespace,
                "web",
                lambda i, k=kind, n=name: f"{k} {namespace}/{n}" in condition(i, "Ready")["message"],
            )
            assert waiting["status"]["phase"] == "Pending"
            await cluster.create(kind, namespace, name, spec)
        await cluster.wait(VM, namespace, "web", lambda i: "VMImage" in condition(i, "Ready")["message"])
        await cluster.create("VMImage", namespace, "guest", {"source": {"http": {"url": "http://images.example/a"}}})
        await cluster.wait(VM, namespace, "web", ready)


async def test_W70_other_namespaces_need_a_grant(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        owner = f"{namespace}-owner"
        await furnish(cluster, owner, **provider)
        await cluster.namespace(namespace, team="blue")
        refs = {
            "providerRef": {"name": "fake", "namespace": owner},
            "classRef": {"name": "small", "namespace": owner},
            "imageRef": {"name": "guest", "namespace": owner},
        }
        await cluster.create(VM, namespace, "web", machine(**refs))
        grant = {"spec": {"consumerNamespaceSelector": {"matchLabels": {"team": "blue"}}}}
        for kind, name in (("Provider", "fake"), ("VMClass", "small"), ("VMImage", "guest")):
            refused = await cluster.wait(VM, namespace, "web", lambda i, k=kind: k in condition(i, "Ready")["message"])
            assert condition(refused, "Ready")["reason"] == "ConsumerNotAllowed"
            assert not world.machines
            await cluster.patch(kind, owner, name, grant)
        await cluster.wait(VM, namespace, "web", ready)


async def test_W28_a_provider_stays_while_machines_are_on_it(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        await cluster.delete("Provider", namespace, "fake")
        await cluster.wait("Provider", namespace, "fake", because("InUse", "DeleteBlocked"))
        await cluster.delete(VM, namespace, "web")
        await cluster.gone(VM, namespace, "web")
        await cluster.gone("Provider", namespace, "fake")
        assert uid(vm) not in world.machines


async def test_W42_a_broken_image_does_not_stop_power(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(cluster, namespace)
        broken = {"spec": {"source": {"http": {"url": "http://nowhere.invalid/x"}}}}
        await cluster.patch("VMImage", namespace, "guest", broken)
        await cluster.wait("VMImage", namespace, "guest", because("DownloadFailed"))
        await cluster.patch(VM, namespace, "web", {"spec": {"powerState": "Off"}})
        await cluster.wait(VM, namespace, "web", lambda item: item["status"]["powerState"] == "Off")
        assert world.machines[uid(vm)].power is v1.PowerState.OFF


async def test_W24_unsupported_fields_are_named(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        vm = await made(
            cluster, namespace, placementRef={"name": "p"}, lifecycle={"preStop": {"exec": {"command": ["x"]}}}
        )
        told = condition(vm, "FieldsIgnored")
        assert told["status"] == "True"
        assert "spec.placementRef" in told["message"]
        assert "spec.lifecycle.preStop" in told["message"]


async def test_W76_secrets_never_show(cluster: Cluster, home: Path, namespace: str):
    """A password in the boot data reaches the hypervisor, and neither status, nor event, nor log."""
    canary = "canary-6c1d9b"
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        cloud = {"inline": "#cloud-config\nhostname: web\n", "secretRef": {"name": "boot"}}
        await cluster.create(VM, namespace, "web", machine(userData={"cloudInit": cloud}))
        waiting = await cluster.wait(VM, namespace, "web", lambda i: "Secret" in condition(i, "Ready")["message"])
        assert f"Secret {namespace}/boot" in condition(waiting, "Ready")["message"]
        await cluster.secret(namespace, "boot", **{"user-data": f"#cloud-config\npassword: {canary}\n"})
        world.fail("create", HostFullError(f"create: no room for password: {canary}"))
        await cluster.patch(VM, namespace, "web", {"spec": {"tags": ["go"]}})
        await cluster.wait(VM, namespace, "web", because("HostFull"))
        await cluster.patch(VM, namespace, "web", {"spec": {"tags": ["again"]}})
        vm = await cluster.wait(VM, namespace, "web", ready)
        assert uid(vm) in world.machines
        told = str(vm["status"]) + str(await cluster.events(namespace))
        assert canary not in told
        assert canary not in (home / "controller.log").read_text()


async def test_W31_W32_W35_a_steady_fleet_costs_nothing(cluster: Cluster, namespace: str, home: Path):
    """No write to the API, no reconcile that calls the provider, no call to the hypervisor but the health probe."""
    kinds = ("VirtualMachine", "Provider", "VMClass", "VMImage", "Event")
    async with hypervisor() as (world, provider):

        async def cost() -> tuple[Any, ...]:
            objects = [(await cluster.request("GET", cluster.path(kind, namespace)))["items"] for kind in kinds]
            calls = {verb: count for verb, count in world.calls.items() if verb != "check"}
            return objects, calls, await _rpcs(cluster, home, f"{namespace}/fake")

        await furnish(cluster, namespace, **provider)
        for number in range(5):
            await made(cluster, namespace, f"web{number}")
        before: list[tuple[Any, ...]] = [await cost()]

        async def settled() -> bool:
            await asyncio.sleep(1.0)
            before.append(await cost())
            return before[-1] == before[-2]

        await until(settled, "rest")
        probes = world.calls["check"]
        await asyncio.sleep(3.0)
        assert await cost() == before[-1]
        await until(lambda: world.calls["check"] > probes, "a probe")


async def _rpcs(cluster: Cluster, home: Path, provider: str) -> list[str]:
    """Figures of the calls to one provider, health probes not among them."""
    async with cluster.session.get(f"http://{(home / 'ready').read_text()}/metrics") as response:
        lines = (await response.text()).splitlines()
    found = [line for line in lines if "rpc_requests_total" in line and f'provider="{provider}"' in line]
    assert any("apply_machine" in line for line in found)
    return found


async def test_kinds_to_come_say_so(cluster: Cluster, home: Path, namespace: str):
    await cluster.namespace(namespace)
    await cluster.create("VMSnapshot", namespace, "s", {"vmRef": {"name": "web"}})
    told = await cluster.wait("VMSnapshot", namespace, "s", because("NotSupportedYet"))
    assert "VMSnapshot is not supported yet" in condition(told, "Ready")["message"]


async def test_a_namespace_goes_with_everything_in_it(cluster: Cluster, home: Path, namespace: str):
    """Provider, class, image and Secret are deleted in the same sweep as the machines, and nothing is left behind."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.secret(namespace, "boot", **{"user-data": "#cloud-config\n"})
        for number in range(3):
            await made(cluster, namespace, f"web{number}", userData={"cloudInit": {"secretRef": {"name": "boot"}}})
        assert len(world.images) == 1
        await cluster.request("DELETE", f"/api/v1/namespaces/{namespace}")
        for name in ("web0", "web1", "web2"):
            await cluster.gone(VM, namespace, name)
        await cluster.gone("VMImage", namespace, "guest")
        await cluster.gone("Provider", namespace, "fake")
        assert not world.machines
        assert not world.images


async def test_health_and_metrics_are_served(cluster: Cluster, home: Path):
    address = (home / "ready").read_text()
    for page, words in (("readyz", "ok"), ("healthz", "ok"), ("metrics", "virtrigaud_queue_depth")):
        async with cluster.session.get(f"http://{address}/{page}") as response:
            assert response.status == 200
            assert words in await response.text()
