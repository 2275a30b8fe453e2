"""Killed at the worst moment: the controller and the provider process, each by SIGKILL, and then started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from controller_harness import Cluster, condition, controller, furnish, hypervisor, machine, ready, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
VM, OWNER = "VirtualMachine", "test-installation"


def flags(namespace: str) -> tuple[str, ...]:
    """A controller of this test's own: it watches one namespace."""
    return ("--owner", OWNER, "--namespace", namespace, "--lease-name", namespace)


ALONE = {"VIRTRIGAUD_LEADER_ELECT": "false"}
"""No successor has to wait for the Lease of the one that was killed; the last test here is about that."""


QUICK = ("--lease-duration", "8s", "--lease-renew-deadline", "5s", "--lease-retry", "300ms")
"""Short enough to wait for, long enough for an API server that gets little of a busy machine."""


@pytest.mark.parametrize("point", ["controller.machine.before-apply", "controller.machine.after-apply"])
async def test_W17_a_controller_killed_around_the_create(cluster: Cluster, tmp_path: Path, namespace: str, point: str):
    """Its successor finds the machine by its identity: one machine, and the right status."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        async with controller(cluster, tmp_path, *flags(namespace), VIRTRIGAUD_FAULT=f"{point}:kill", **ALONE) as first:
            await cluster.create(VM, namespace, "web", machine())
            assert await first.wait() == -signal.SIGKILL
        async with controller(cluster, tmp_path, *flags(namespace), **ALONE):
            vm = await cluster.wait(VM, namespace, "web", ready)
            assert list(world.machines) == [vm["metadata"]["uid"]]
            assert world.calls["create"] == 1


async def test_W5_a_controller_killed_before_it_lets_the_object_go(cluster: Cluster, tmp_path: Path, namespace: str):
    point = "controller.machine.before-release"
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        async with controller(cluster, tmp_path, *flags(namespace), VIRTRIGAUD_FAULT=f"{point}:kill", **ALONE) as first:
            await cluster.create(VM, namespace, "web", machine())
            await cluster.wait(VM, namespace, "web", ready)
            await cluster.delete(VM, namespace, "web")
            assert await first.wait() == -signal.SIGKILL
        assert await cluster.get(VM, namespace, "web")
        async with controller(cluster, tmp_path, *flags(namespace), **ALONE):
            await cluster.gone(VM, namespace, "web")
        assert not world.machines


async def test_a_controller_that_starts_writes_nothing_to_machines_that_are_well(
    cluster: Cluster, tmp_path: Path, namespace: str
):
    """Each start said of every machine that its provider was not running, and then that it was: five writes each."""
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        async with controller(cluster, tmp_path, *flags(namespace), **ALONE):
            await cluster.create(VM, namespace, "web", machine())
            await cluster.wait(VM, namespace, "web", ready)
        before = await cluster.get(VM, namespace, "web")
        async with controller(cluster, tmp_path, *flags(namespace), **ALONE):

            async def asked() -> bool:
                assert cluster.session is not None
                async with cluster.session.get(f"http://{(tmp_path / 'ready').read_text().strip()}/metrics") as answer:
                    return 'method="apply_machine"' in await answer.text()

            await until(asked, "the first call about the machine")
            assert await cluster.get(VM, namespace, "web") == before


def world_of(home: Path, provider: Any) -> dict[str, Any]:
    """The fake hypervisor's own record."""
    path = home / "run" / "providers" / provider["metadata"]["uid"] / "world.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"machines": {}}


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def provider_pids(home: Path) -> list[int]:
    """Provider processes of this controller, by their ready files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if "virtrigaud-provider-fake" in command and str(home) in command:
                found.append(int(entry.name))
    return found


async def test_a_provider_killed_in_the_middle_of_a_create(cluster: Cluster, tmp_path: Path, namespace: str):
    """It is started again, and goes on with the machine that it had begun."""
    async with controller(cluster, tmp_path, *flags(namespace)):
        env = [{"name": "VIRTRIGAUD_CREATE_SECONDS", "value": "2"}]
        await furnish(cluster, namespace, runtime={"mode": "Process", "env": env})
        await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", lambda i: bool(i.get("status", {}).get("lastTaskRef")))
        (pid,) = provider_pids(tmp_path)
        os.kill(pid, signal.SIGKILL)
        vm = await cluster.wait(VM, namespace, "web", ready)
        provider = await cluster.get("Provider", namespace, "fake")
        assert list(world_of(tmp_path, provider)["machines"]) == [vm["metadata"]["uid"]]
        assert provider_pids(tmp_path) != [pid]


async def test_no_provider_outlives_its_controller(cluster: Cluster, tmp_path: Path, namespace: str):
    """Killed or told to leave: its children see the end of their input and go."""
    async with controller(cluster, tmp_path, *flags(namespace)) as first:
        await furnish(cluster, namespace, runtime={"mode": "Process"})
        await cluster.wait("Provider", namespace, "fake", ready)
        assert len(provider_pids(tmp_path)) == 1
        first.kill()
        await first.wait()
    await until(lambda: not provider_pids(tmp_path), "the end of the provider")


async def test_W33_rotated_credentials_reach_the_provider(cluster: Cluster, tmp_path: Path, namespace: str):
    async with controller(cluster, tmp_path, *flags(namespace)):
        await furnish(cluster, namespace, credentialSecretRef={"name": "login"}, runtime={"mode": "Process"})
        waiting = await cluster.wait("Provider", namespace, "fake", lambda p: bool(condition(p, "Ready")["message"]))
        assert f"Secret {namespace}/login" in condition(waiting, "Ready")["message"]
        await cluster.secret(namespace, "login", password="first-secret")
        await cluster.patch("Provider", namespace, "fake", {"metadata": {"annotations": {"look": "1"}}})
        provider = await cluster.wait("Provider", namespace, "fake", ready)
        place = tmp_path / "run" / "providers" / provider["metadata"]["uid"] / "credentials"
        assert (place / "password").read_text() == "first-secret"
        assert (place / "password").stat().st_mode & 0o077 == 0
        (before,) = provider_pids(tmp_path)
        assert "first-secret" not in command_line(before)
        patch = {"stringData": {"password": "second-secret"}}
        path = cluster.path("Secret", namespace, "login")
        await cluster.request("PATCH", path, patch, "application/merge-patch+json")
        await cluster.patch("Provider", namespace, "fake", {"metadata": {"annotations": {"look": "2"}}})
        await until(lambda: len(p := provider_pids(tmp_path)) == 1 and p != [before], "the restart")
        assert (place / "password").read_text() == "second-secret"


async def test_another_runtime_mode_ends_the_server_of_the_former(cluster: Cluster, tmp_path: Path, namespace: str):
    async with hypervisor() as (_, outside), controller(cluster, tmp_path, *flags(namespace), **ALONE):
        await furnish(cluster, namespace, runtime={"mode": "Process"})
        provider = await cluster.wait("Provider", namespace, "fake", ready)
        place = tmp_path / "run" / "providers" / provider["metadata"]["uid"]
        assert len(provider_pids(tmp_path)) == 1
        assert (place / "tls" / "tls.key").exists()
        await cluster.patch("Provider", namespace, "fake", {"spec": {"runtime": outside["runtime"]}})
        there = outside["runtime"]["address"]
        await cluster.wait(
            "Provider", namespace, "fake", lambda p: ready(p) and p["status"]["runtime"]["endpoint"] == there
        )
        assert not provider_pids(tmp_path)
        assert not place.exists()


async def test_one_of_two_controllers_leads_and_the_other_follows(cluster: Cluster, tmp_path: Path, namespace: str):
    """The leader is killed; the follower takes over when the Lease has run out, and never before."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{namespace}"
        async with controller(cluster, tmp_path / "a", *flags(namespace), *QUICK) as first:
            holder = (await cluster.request("GET", lease))["spec"]["holderIdentity"]
            async with asyncio.TaskGroup() as group:
                second = controller(cluster, tmp_path / "b", *flags(namespace), *QUICK)
                follower = group.create_task(second.__aenter__())
                await cluster.create(VM, namespace, "web", machine())
                await cluster.wait(VM, namespace, "web", ready)
                assert not follower.done()
                assert (await cluster.request("GET", lease))["spec"]["holderIdentity"] == holder
                first.kill()
                await first.wait()
                await follower
            assert (await cluster.request("GET", lease))["spec"]["holderIdentity"] != holder
            await cluster.patch(VM, namespace, "web", {"spec": {"powerState": "Off"}})
            await cluster.wait(VM, namespace, "web", lambda i: i["status"]["powerState"] == "Off")
            assert world.calls["create"] == 1
            await second.__aexit__(None, None, None)
