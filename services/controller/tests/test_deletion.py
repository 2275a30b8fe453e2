"""The removal of a machine after operations that failed: a real API server, a real connection to a fake hypervisor."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import InvalidSpecError, MachineNotFoundError
from controller.api import connect
from controller.connection import Connection, HealthPolicy, Limits, Target
from controller.connections import Connections
from controller.core import NAMESPACES
from controller.events import Recorder
from controller.images import Registry
from controller.informer import Informer
from controller.machines import FINALIZER, MachineReconciler
from controller.metrics import Metrics
from controller.objects import CLASSES, IMAGES, NETWORKS, PROVIDERS, VIRTUAL_MACHINES
from controller.references import Caches, References
from controller.secrets import Secrets
from controller.writer import Writer
from controller_harness import OWNER, Cluster, furnish, hypervisor, machine, until
from prometheus_client import CollectorRegistry
from providerkit.fake import FakeHypervisor
from providerkit.fake.shelves import Volume

pytestmark = pytest.mark.asyncio(loop_scope="session")
VM = "VirtualMachine"


@dataclass
class Stage:
    """One machine object that is bound to its provider, and the reconciler that a test drives by hand."""

    cluster: Cluster
    namespace: str
    world: FakeHypervisor
    caches: Caches
    connection: Connection
    reconciler: MachineReconciler
    uid: str

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile((self.namespace, "web"))

    async def delete(self) -> None:
        """Ask for the removal; it is in the cache when this returns."""
        await self.cluster.delete(VM, self.namespace, "web")

        def told() -> bool:
            vm = self.caches.machines.get(self.namespace, "web")
            return vm is not None and vm.metadata.deletion_timestamp is not None

        await until(told, "the wish to delete")

    async def fails(self, verb: str, error: InvalidSpecError) -> None:
        """What hangs in this verb ends with the error, and the connection has heard of it."""
        self.world.fail(verb, error)
        self.world.unhang()
        await until(lambda: self.uid in self.connection.known.failures, "the failure")


@asynccontextmanager
async def staged(cluster: Cluster, namespace: str, **spec: Any) -> AsyncIterator[Stage]:
    clock, rng, metrics = SystemClock(), random.Random(1), Metrics(CollectorRegistry())
    async with hypervisor() as (world, provider), connect(str(cluster.kubeconfig)) as api:
        await furnish(cluster, namespace, **provider)
        vm = await cluster.create(VM, namespace, "web", machine(**spec), finalizers=[FINALIZER])
        uid = vm["metadata"]["uid"]
        provider_uid = (await cluster.get("Provider", namespace, "fake"))["metadata"]["uid"]
        bound = {"namespace": namespace, "name": "fake", "uid": provider_uid}
        await cluster.patch(VM, namespace, "web", {"status": {"boundProvider": bound}}, "status")
        resources: list[Any] = [VIRTUAL_MACHINES, CLASSES, IMAGES, NETWORKS, PROVIDERS, NAMESPACES]
        caches = Caches(*(Informer(api, each, clock, rng, namespace=namespace) for each in resources))
        connections = Connections(clock, rng, metrics, wake=lambda _: None)
        reconciler = MachineReconciler(
            caches, References(caches), connections, Registry(), Secrets(api), Writer(api, metrics),
            Recorder(api, clock), clock, lambda: OWNER, lambda _: None,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in [*caches.all(), connections]]
            for cache in caches.all():
                await cache.synced.wait()
            target = Target(provider["runtime"]["address"], None)
            connection = connections.ensure(
                provider_uid, f"{namespace}/fake", target, HealthPolicy(), Limits(), lambda: None
            )
            await connection.synced.wait()
            yield Stage(cluster, namespace, world, caches, connection, reconciler, uid)
            for task in tasks:
                task.cancel()


async def test_a_create_that_failed_is_no_obstacle_to_the_removal(cluster: Cluster, namespace: str):
    """It would stop the reconcile until the next slow look, though nothing of it is wanted any more."""
    async with staged(cluster, namespace) as stage:
        identity = v1.MachineIdentity(uid=stage.uid, namespace=namespace, name="web", owner=OWNER)
        wanted = v1.MachineSpec(identity=identity, disks=[v1.DiskSpec(name="root", size_bytes=1 << 30)])
        stage.world.hang("create")
        answer = await stage.connection.call("MachineService", "apply_machine", v1.ApplyMachineRequest(spec=wanted))
        stage.connection.follow(answer.operation, stage.uid)
        await stage.fails("create", InvalidSpecError("create: no such firmware"))
        await stage.delete()
        assert await stage.reconcile() is None
        await cluster.gone(VM, namespace, "web")


async def test_a_removal_that_failed_is_told_without_what_secrets_hold(cluster: Cluster, namespace: str):
    user_data = {"cloudInit": {"secretRef": {"name": "boot"}}}
    async with staged(cluster, namespace, userData=user_data) as stage:
        await cluster.secret(namespace, "boot", userdata="#cloud-config\npassword: hunter2-hunter2\n")
        stage.world.make_foreign("web", uid=stage.uid, owner=OWNER)
        stage.world.hang("destroy")
        await stage.delete()
        assert await stage.reconcile()
        await stage.fails("destroy", InvalidSpecError("destroy: password hunter2-hunter2 is in the way"))
        with pytest.raises(InvalidSpecError, match=r"destroy: password .+ is in the way") as told:
            await stage.reconcile()
        assert "hunter2" not in str(told.value)
        assert await stage.reconcile() is None  # told once, then tried again
        await cluster.gone(VM, namespace, "web")
        assert stage.uid not in stage.world.machines


async def test_a_removal_goes_on_when_the_secret_went_before(cluster: Cluster, namespace: str):
    user_data = {"cloudInit": {"secretRef": {"name": "boot"}}}
    async with staged(cluster, namespace, userData=user_data) as stage:
        stage.world.make_foreign("web", uid=stage.uid, owner=OWNER)
        await stage.delete()
        stage.world.fail("destroy", InvalidSpecError("destroy: the machine is locked"))
        with pytest.raises(InvalidSpecError, match="the machine is locked"):
            await stage.reconcile()
        assert await stage.reconcile() is None
        await cluster.gone(VM, namespace, "web")


async def test_a_change_of_provider_that_fails_is_told_without_what_secrets_hold(cluster: Cluster, namespace: str):
    """What the former provider began is removed first, and that can fail as any removal can."""
    user_data = {"cloudInit": {"secretRef": {"name": "boot"}}}
    async with staged(cluster, namespace, userData=user_data, providerRef={"name": "other"}) as stage:
        await cluster.secret(namespace, "boot", userdata="#cloud-config\npassword: hunter2-hunter2\n")
        stage.world.make_foreign("web", uid=stage.uid, owner=OWNER)
        stage.world.fail("destroy", InvalidSpecError("destroy: password hunter2-hunter2 is in the way"))
        with pytest.raises(InvalidSpecError, match=r"destroy: password .+ is in the way") as told:
            await stage.reconcile()
        assert "hunter2" not in str(told.value)
        await cluster.patch(VM, namespace, "web", {"metadata": {"finalizers": None}})


async def test_a_machine_that_somebody_removes_while_it_is_made_is_made_anew(cluster: Cluster, namespace: str):
    """Nobody was told of it yet. Before, its object was taken for one that adopts, and waited for ever."""
    async with staged(cluster, namespace, imageRef=None, importedDisk={"diskID": "lent"}) as stage:
        stage.world.volumes["lent"] = Volume("lent", "", "lent", 1 << 30)
        stage.world.fail("power_on", MachineNotFoundError("power on machine: there is none"))
        with pytest.raises(MachineNotFoundError):
            await stage.reconcile()
        assert await stage.reconcile() is None
        assert list(stage.world.machines) == [stage.uid]
        await stage.delete()
        await stage.reconcile()
        await cluster.gone(VM, namespace, "web")
