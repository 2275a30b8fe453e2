"""Installations beside each other, and controllers of one: nothing is ever done by two."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.stack import ROOT, manifest

from .chart import CHART, helm
from .cluster import Cluster, Object
from .conftest import start_cluster
from .controllers import SECONDS, Release, running
from .test_servers import TINY, is_ready

fakes: Any = import_module("services.controller.tests.controller_harness")  # Any: no package, so without types

GROUP = "/apis/infra.virtrigaud.io/v1beta1/namespaces"
FIRST, SECOND = Release("virtrigaud", "virtrigaud-system"), Release("second", "other-system")
OWNER = ("--set", f"owner={fakes.OWNER}")
QUICK = (
    *("--set", "leaderElection.duration=6s", "--set", "leaderElection.renewDeadline=4s"),
    *("--set", "leaderElection.retry=500ms"),
)
MACHINES = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own, with the definitions: on the other, the stack's installation serves all namespaces."""
    for cluster in start_cluster(tmp_path_factory.mktemp("cluster")):
        for file in (ROOT / "deploy" / "crds").glob("*_*.yaml"):
            body = yaml.safe_load(file.read_text())
            cluster.make(body)
        for plural in ("virtualmachines", "providers", "vmclasses", "vmimages"):
            cluster.wait_for(f"/apis/infra.virtrigaud.io/v1beta1/{plural}")
        yield cluster


@asynccontextmanager
async def released(cluster: Cluster, home: Path, release: Release, *values: str) -> AsyncIterator[None]:
    """A release that is installed, and removed in the end."""
    said = install(cluster, home, release, *values)
    assert said == "", said
    try:
        yield
    finally:
        remove(cluster, home, release)


def install(cluster: Cluster, home: Path, release: Release, *values: str) -> str:
    """Install a release; answers with what helm has against it."""
    command = ["install", release.name, str(CHART), "-n", release.namespace, "--create-namespace", *OWNER, *QUICK]
    done = helm(*command, "--set", "crds.install=false", *values, home=home, cluster=cluster)
    return done.stderr if done.returncode else ""


def remove(cluster: Cluster, home: Path, release: Release) -> None:
    done = helm("uninstall", release.name, "-n", release.namespace, home=home, cluster=cluster)
    assert done.returncode == 0 or "not found" in done.stderr, done.stderr


def furnish(cluster: Cluster, namespace: str, provider: Object) -> None:
    """A namespace with what a machine needs."""
    cluster.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    image = {"source": {"http": {"url": "https://images.example/small.qcow2"}}}
    for kind, name, spec in (("Provider", "lab", provider), ("VMClass", "tiny", TINY), ("VMImage", "small", image)):
        cluster.make(manifest(kind, name, spec, namespace), namespace)


def machine(cluster: Cluster, namespace: str, name: str, power: str = "On") -> None:
    spec = {
        "providerRef": {"name": "lab"}, "classRef": {"name": "tiny"}, "imageRef": {"name": "small"},
        "powerState": power,
    }  # fmt: skip
    cluster.make(manifest("VirtualMachine", name, spec, namespace), namespace)


def found(cluster: Cluster, namespace: str) -> dict[str, Object]:
    items = json.loads(cluster.ask(f"{GROUP}/{namespace}/virtualmachines"))["items"]
    return {item["metadata"]["name"]: item for item in items}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if await asyncio.to_thread(holds):
                return
            await asyncio.sleep(0.1)


# -- two installations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(), ("--set", "watchNamespace=shop")], ids=["all", "one of them"])
async def test_helm_refuses_a_second_installation_of_what_is_served(
    cluster: Cluster, tmp_path: Path, values: tuple[str, ...]
) -> None:
    async with released(cluster, tmp_path, FIRST):
        async with running(cluster, tmp_path / "a", FIRST) as first:
            await first.until("controller.ready")
            cluster.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
            said = install(cluster, tmp_path, SECOND, *values)
            remove(cluster, tmp_path, SECOND)
        assert "another installation (Lease virtrigaud-system/virtrigaud) serves all namespaces already" in said
        assert install(cluster, tmp_path, Release("third", FIRST.namespace)) != "", "in one namespace"
        remove(cluster, tmp_path, Release("third", FIRST.namespace))


@pytest.mark.parametrize("key", ["note", "default."])
def test_helm_passes_over_an_entry_by_hand_that_names_no_lease(cluster: Cluster, tmp_path: Path, key: str) -> None:
    claims = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "virtrigaud-installations"}}
    cluster.make({**claims, "data": {key: "*"}})
    try:
        assert install(cluster, tmp_path, FIRST) == ""
    finally:
        remove(cluster, tmp_path, FIRST)
        cluster.ask("/api/v1/namespaces/default/configmaps/virtrigaud-installations", method="DELETE")


async def test_the_second_installation_does_nothing_until_the_first_is_removed(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Both were installed before one of them ran. Not even a first one that is down lets the second one act."""
    async with fakes.hypervisor() as (world, provider), released(cluster, tmp_path, SECOND):
        async with released(cluster, tmp_path, FIRST):
            furnish(cluster, "twice", provider)
            async with running(cluster, tmp_path / "a", FIRST) as first:
                await first.until("controller.ready")
                async with running(cluster, tmp_path / "b", SECOND) as second:
                    machine(cluster, "twice", "one")
                    await until(lambda: is_ready(found(cluster, "twice")["one"]))
                    told = (await second.until("installation.refused"))["message"]
                    assert "Lease virtrigaud-system/virtrigaud serves all namespaces" in told
                    assert (503, told) == await status_and_reason(second)
                    assert await second.metric("virtrigaud_leader") == "0.0"
                    first.process.kill()
                    await first.process.wait()
                    machine(cluster, "twice", "two")
                    await asyncio.sleep(10)  # more than its Lease lasts
                    assert "status" not in found(cluster, "twice")["two"]
                    assert "controller.ready" not in second.events()
        async with running(cluster, tmp_path / "c", SECOND) as second:
            await second.until("controller.ready")
            await until(lambda: is_ready(found(cluster, "twice")["two"]))
        assert sorted(world.machines) == sorted(vm["metadata"]["uid"] for vm in found(cluster, "twice").values())
        assert world.calls["create"] == 2


async def status_and_reason(controller: Any) -> tuple[int, str]:
    status, body = await controller.readiness()
    return status, body.strip()


async def test_installations_of_namespaces_that_differ_work_beside_each_other(cluster: Cluster, tmp_path: Path) -> None:
    async with fakes.hypervisor() as (world, provider):
        for namespace in ("left", "right"):
            furnish(cluster, namespace, provider)
        async with (
            released(cluster, tmp_path, FIRST, "--set", "watchNamespace=left"),
            released(cluster, tmp_path, SECOND, "--set", "watchNamespace=right"),
            running(cluster, tmp_path / "a", FIRST) as first,
            running(cluster, tmp_path / "b", SECOND) as second,
        ):
            for controller, namespace in ((first, "left"), (second, "right")):
                await controller.until("controller.ready")
                machine(cluster, namespace, "box")
            for namespace in ("left", "right"):
                await until(lambda namespace=namespace: is_ready(found(cluster, namespace)["box"]))
                assert "forbidden" not in first.log.read_text() + second.log.read_text()
        assert world.calls["create"] == 2


async def test_definitions_that_are_there_already_are_taken_over_when_helm_is_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Those of kubectl, or of another system with the same kinds: objects of them stay as they are."""
    command = ["install", FIRST.name, str(CHART), "-n", FIRST.namespace, "--create-namespace"]
    done = helm(*command, home=tmp_path, cluster=cluster)
    assert "exists and cannot be imported" in done.stderr
    cluster.make(manifest("VMClass", "kept", TINY, "default"))
    done = helm(*command, "--take-ownership", home=tmp_path, cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert json.loads(cluster.ask(f"{GROUP}/default/vmclasses/kept"))["spec"]["memory"] == TINY["memory"]
    remove(cluster, tmp_path, FIRST)


# -- two controllers of one installation -------------------------------------------------------------------------------


def names(world: Any) -> list[str]:
    """Of all machines on the hypervisor, each as often as it is there."""
    return sorted(machine.identity.name for machine in world.machines.values())


def changes(calls: dict[str, int]) -> dict[str, int]:
    """How often each verb was called that does not only look."""
    looks = ("observe", "observe_all", "check", "inventory", "get_image", "list_images", "list_snapshots")
    return {verb: count for verb, count in calls.items() if verb not in looks}


async def two(first: Any, second: Any) -> tuple[Any, Any]:
    """The one that leads, and the one that waits: nobody says which comes first."""
    async with asyncio.timeout(SECONDS):
        while True:
            for leader, follower in ((first, second), (second, first)):
                if "controller.ready" in leader.events():
                    return leader, follower
            await asyncio.sleep(0.1)


@asynccontextmanager
async def half_done(cluster: Cluster, home: Path, namespace: str) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Two controllers, of which the leader has made some of the machines; the hypervisor, leader and follower."""
    few = ("--set", "concurrency=2")
    async with fakes.hypervisor() as (world, provider), released(cluster, home, FIRST, *few):
        furnish(cluster, namespace, provider)
        async with running(cluster, home / "a", FIRST) as one, running(cluster, home / "b", FIRST) as other:
            leader, follower = await two(one, other)
            world.misbehave.latency["create"] = 0.3
            for number in range(MACHINES):
                machine(cluster, namespace, f"web-{number:02}")
            await until(lambda: len(world.machines) >= 2)
            assert "controller.ready" not in follower.events()
            yield world, leader, follower


def all_ready(cluster: Cluster, namespace: str) -> bool:
    machines = found(cluster, namespace)
    return len(machines) == MACHINES and all(is_ready(vm) for vm in machines.values())


async def test_W17_a_leader_that_is_killed_among_its_creates_leaves_each_machine_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with half_done(cluster, tmp_path, "killed") as (world, leader, follower):
        leader.process.kill()
        await leader.process.wait()
        assert len(world.machines) < MACHINES, "it was killed too late to show anything"
        await follower.until("controller.ready")
        await until(lambda: all_ready(cluster, "killed"))
        assert names(world) == sorted(found(cluster, "killed"))
        assert sorted(world.machines) == sorted(vm["metadata"]["uid"] for vm in found(cluster, "killed").values())


async def test_W17_a_leader_that_slept_past_its_lease_does_nothing_when_it_wakes(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with half_done(cluster, tmp_path, "slept") as (world, leader, follower):
        leader.process.send_signal(signal.SIGSTOP)
        await follower.until("controller.ready")
        await until(lambda: all_ready(cluster, "slept"))
        for number in range(MACHINES):  # what the sleeper knows nothing of
            machine(cluster, "slept", f"web-{number:02}", power="Off")
        await until(lambda: all(vm["status"].get("powerState") == "Off" for vm in found(cluster, "slept").values()))
        await until(lambda: all_ready(cluster, "slept"))
        before, calls = found(cluster, "slept"), dict(world.calls)

        leader.process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(leader.process.wait(), SECONDS) == 1
        assert "leader.lost" in leader.events()
        await asyncio.sleep(2)  # what it may have sent arrives
        assert found(cluster, "slept") == before
        assert changes(world.calls) == changes(calls)
        assert names(world) == sorted(before)
