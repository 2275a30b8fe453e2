"""One provider as the controller holds it: limits, health, and its traces. Real gRPC to a fake hypervisor."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HypervisorUnavailableError
from common.identity import Server
from common.pki import Authority
from common.tls import CONTROLLER, TlsFiles, server_credentials
from controller.connection import Connection, HealthPolicy, Limits, Target
from controller.connections import Connections
from controller.metrics import Metrics
from controller_harness import OWNER, Cluster, controller, figure, furnish, machine, ready, until
from observability.collector import collecting
from prometheus_client import CollectorRegistry
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.serving import ServingSettings, serve

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIST = ("ImageService", "list_images", v1.ListImagesRequest())


@asynccontextmanager
async def connected(
    clock: ManualClock, policy: HealthPolicy | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[FakeHypervisor, Connection, list[tuple[int, bool | None]]]]:
    """A connection that is up, and its verdicts on the health: after how many probes, and which."""
    world = FakeHypervisor()
    settings = ServingSettings(insecure=True, owner=OWNER, grace=0.1, health_interval=3600.0)
    verdicts: list[tuple[int, bool | None]] = []
    async with serve(FakeDriver(world, owner=OWNER), settings, registry=None) as serving, asyncio.TaskGroup() as group:

        def changed() -> None:
            if not verdicts or verdicts[-1][1] is not connection.health.healthy:
                verdicts.append((world.calls["check"], connection.health.healthy))

        connection = Connection(
            "ns/fake", Target(serving.server.address, None), clock, random.Random(1), Metrics(CollectorRegistry()),
            policy=policy or HealthPolicy(), limits=limits or Limits(), wake=lambda _: None, changed=changed,
        )  # fmt: skip
        task = group.create_task(connection.run())
        await connection.synced.wait()
        yield world, connection, verdicts
        task.cancel()


async def test_W29_the_rate_limit_holds_calls_back():
    clock = ManualClock()
    async with (
        connected(clock, limits=Limits(qps=0.001, burst=2)) as (world, connection, _),
        asyncio.TaskGroup() as group,
    ):
        calls = [group.create_task(connection.call(*LIST)) for _ in range(3)]
        await until(lambda: world.calls["list_images"] == 2, "the burst")
        await asyncio.wait(calls[:2])
        await connection._send(*LIST, 30.0)  # the provider would have answered: it was not asked
        assert world.calls["list_images"] == 3
        assert not calls[2].done()
        await clock.advance(1000.0)
        await calls[2]
        assert world.calls["list_images"] == 4


async def test_W29_no_more_calls_at_a_time_than_max_connections():
    async with connected(ManualClock(), limits=Limits(concurrent=2)) as (world, connection, _):
        async with asyncio.TaskGroup() as group:
            world.hang("list_images")
            calls = [group.create_task(connection.call(*LIST)) for _ in range(3)]
            await until(lambda: world.calls["list_images"] == 2, "two calls")
            await connection._send("ProviderService", "get_provider", v1.GetProviderRequest(), 30.0)
            assert world.calls["list_images"] == 2
            assert not any(call.done() for call in calls)
            world.unhang()
        assert world.calls["list_images"] == 3


async def test_W29_health_turns_at_its_thresholds():
    """Two probes that succeed make it healthy, three that fail in a row unhealthy; one that fails does nothing."""
    clock = ManualClock()
    refused = HypervisorUnavailableError("check: the fake is away")
    async with connected(clock, HealthPolicy(interval=10.0, failures=3, successes=2)) as (world, _, verdicts):

        async def until_told(count: int) -> None:
            async def told() -> bool:
                await clock.advance(0.5)
                return len(verdicts) >= count

            await until(told, f"verdict {count}")

        async def probed(count: int) -> None:
            async def done() -> bool:
                await clock.advance(0.5)
                return world.calls["check"] >= count

            await until(done, f"probe {count}")

        async def healthy() -> bool:
            await clock.advance(0.5)
            return bool(verdicts and verdicts[-1][1])

        await until(healthy, "the first verdict")
        told = len(verdicts)
        world.fail("check", refused)
        await probed(world.calls["check"] + 3)
        assert len(verdicts) == told  # one of three is not enough
        before = world.calls["check"]
        world.fail("check", refused, times=3)
        await until_told(told + 2)
        assert verdicts[told:] == [(before + 3, False), (before + 5, True)]


@asynccontextmanager
async def dialled(target: Target, changed: Callable[[], None] = lambda: None) -> AsyncIterator[Callable[[str], Any]]:
    """A connection among others; gives a wait for the reason of its health, on a clock that goes on meanwhile."""
    clock = ManualClock()
    connections = Connections(clock, random.Random(1), Metrics(CollectorRegistry()), wake=lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connections.run())
        await asyncio.sleep(0)
        connection = connections.ensure("u-1", "ns/far", target, HealthPolicy(), Limits(), changed)

        async def until_reason(reason: str) -> str:
            async def told() -> bool:
                await clock.advance(0.5)
                return connection.health.reason == reason

            await until(told, reason, 20)
            assert not task.done()
            return connection.health.message

        yield until_reason
        task.cancel()


async def test_a_certificate_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path):
    """It ends neither the other connections nor the controller, and is taken up when it is there."""
    authority = Authority.create(tmp_path / "ca")
    name = Server("ns", "far")
    server = server_credentials(authority.issue(tmp_path / "server", name.host, [name.uri]))
    client = tmp_path / "client"
    files = TlsFiles(client / "tls.crt", client / "tls.key", client / "ca.crt")
    settings = ServingSettings(owner=OWNER, grace=0.1, health_interval=3600.0)
    driver = FakeDriver(FakeHypervisor(), owner=OWNER)
    async with (
        serve(driver, settings, credentials=server, registry=None) as serving,
        dialled(Target(serving.server.address, files, name)) as until_reason,
    ):
        message = await until_reason("ConnectionFailed")
        assert message.startswith(f"connect to {serving.server.address}: TLS file {files.cert} cannot be read")
        assert authority.issue(client, CONTROLLER) == files
        await until_reason("Connected")


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError("the disk is full"), "the disk is full"), (KeyError("hunter2"), "internal error (KeyError)")],
    ids=["the world", "a bug"],
)
async def test_an_error_inside_a_connection_is_told_and_tried_again(error: Exception, words: str):
    """What its own tasks raise comes as a group of groups, and ends no other connection."""
    settings = ServingSettings(insecure=True, owner=OWNER, grace=0.1, health_interval=3600.0)
    broken = [error]

    def changed() -> None:
        if broken:
            raise broken.pop()

    async with (
        serve(FakeDriver(FakeHypervisor(), owner=OWNER), settings, registry=None) as serving,
        dialled(Target(serving.server.address, None), changed) as until_reason,
    ):
        assert await until_reason("ConnectionFailed") == f"connect to {serving.server.address}: {words}"
        await until_reason("Connected")


async def test_one_trace_from_the_reconcile_to_the_provider(cluster: Cluster, tmp_path: Path, namespace: str):
    """Two real processes: the controller's call and the provider's work are spans of the reconcile's trace."""

    async def settled() -> bool:
        return await figure(cluster, tmp_path, "virtrigaud_time_to_ready_seconds_count", kind="VirtualMachine") == 1

    flags = ("--owner", OWNER, "--namespace", namespace, "--lease-name", namespace)
    async with (
        collecting() as collector,
        controller(cluster, tmp_path, *flags, "--otlp-endpoint", collector.url),
    ):
        await furnish(cluster, namespace)
        await cluster.create("VirtualMachine", namespace, "web", machine())
        await cluster.wait("VirtualMachine", namespace, "web", ready)
        await until(settled, "the end of the look")
    # Both processes have ended, and sent what they had.
    by_id = {span.span_id: (service, span) for service, span in collector.spans}
    (served, *_) = [
        span
        for service, span in collector.spans
        if span.name.endswith("/ApplyMachine") and service == "virtrigaud-provider-fake"
    ]
    chain = []
    at = served
    while at.parent_span_id:
        service, at = by_id[at.parent_span_id]
        chain.append((service, at.name))
    assert {service for service, _ in chain} == {"virtrigaud-controller"}
    assert [name for _, name in chain][-3:] == [
        "provider apply_machine", "reconcile VirtualMachine", "spec VirtualMachine",
    ]  # fmt: skip
    assert at.trace_id == served.trace_id
