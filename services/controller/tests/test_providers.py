"""Providers: who is woken when one can be used, and when its connection is kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import pytest
from common.clock import SystemClock
from controller.api import Api, ApiUnavailableError
from controller.connection import Health, Target
from controller.connections import Connections
from controller.core import NAMESPACES
from controller.events import Recorder
from controller.index import Index
from controller.informer import Informer
from controller.metrics import Metrics
from controller.objects import CLASSES, IMAGES, NETWORKS, PROVIDERS, VIRTUAL_MACHINES
from controller.providers import FINALIZER, LOOK, LOOK_REFUSED, ProviderReconciler
from controller.references import Caches
from controller.runtime import Runtime, RuntimeState
from controller.runtime.external import ExternalRuntime
from controller.secrets import Secrets
from controller.writer import Writer
from kinds.provider import Provider
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.asyncio(loop_scope="session")


class OneObject(Api):
    """An API server with one Provider, which its last controller told to be healthy. It answers when `up`."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]  # neither is touched: the way to them is overridden
        self.up = True
        runtime = {"mode": "External", "address": "192.0.2.1:9443", "service": {"tls": {"enabled": False}}}
        self.body: dict[str, Any] = {
            "metadata": {"name": "fake", "namespace": "shop", "uid": "u-1", "generation": 1, "resourceVersion": "1",
                         "finalizers": [FINALIZER]},
            "spec": {"type": "fake", "endpoint": "fake://", "runtime": runtime},
            "status": {"healthy": True},
        }  # fmt: skip

    async def request(self, method: str, path: str, *, body: Any = None, **options: Any) -> bytes:
        if not self.up:
            raise ApiUnavailableError(f"{method} {path}: no answer in time")
        if method == "PATCH":
            version = str(int(self.body["metadata"]["resourceVersion"]) + 1)
            self.body["metadata"]["resourceVersion"] = version
            self.body["status"] |= body["status"]
        return msgspec.json.encode(self.body)


@asynccontextmanager
async def reconciler(
    api: OneObject, runtime: Runtime, woken: list[Provider]
) -> AsyncIterator[tuple[ProviderReconciler, Connections]]:
    """Of the one Provider of the API server."""
    clock, rng, metrics = SystemClock(), random.Random(1), Metrics(CollectorRegistry())
    resources = (VIRTUAL_MACHINES, CLASSES, IMAGES, NETWORKS, PROVIDERS, NAMESPACES)
    caches = Caches(*(Informer(api, each, clock, rng) for each in resources))  # type: ignore[arg-type]  # in this order
    caches.providers._set(("shop", "fake"), msgspec.json.decode(msgspec.json.encode(api.body), type=Provider))
    connections = Connections(clock, rng, metrics, wake=lambda _: None)
    made = ProviderReconciler(
        caches, Index(), connections, {"External": runtime}, "External",
        Writer(api, metrics), Recorder(api, clock), metrics, clock, lambda _: None, woken.append,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connections.run())
        await asyncio.sleep(0)
        yield made, connections
        task.cancel()


async def test_machines_are_woken_though_the_first_report_was_not_heard():
    """What this controller made wait, it wakes itself: its predecessor's status says nothing of that."""
    api, woken = OneObject(), []
    async with reconciler(api, ExternalRuntime(Secrets(api), None, None), woken) as (made, connections):  # type: ignore[arg-type]  # no files
        api.up = False
        with pytest.raises(ApiUnavailableError):
            await made.reconcile(("shop", "fake"))
        api.up = True
        connection = connections.get("u-1")
        assert connection is not None
        connection.health = Health(True, "Connected", "the hypervisor answers")
        await made.reconcile(("shop", "fake"))
        assert [provider.metadata.uid for provider in woken] == ["u-1"]
        await made.reconcile(("shop", "fake"))
        assert len(woken) == 1


class Said:
    """A runtime that says what it is told to."""

    mode: Literal["External"] = "External"

    def __init__(self, state: RuntimeState) -> None:
        self.state = state

    async def run(self) -> None:
        """It owns nothing."""

    async def ensure(self, provider: Provider) -> RuntimeState:
        return self.state

    async def remove(self, uid: str) -> None:
        """There is nothing."""


@pytest.mark.parametrize(
    ("reason", "kept", "again"),
    [("RefusedByApiServer", True, LOOK_REFUSED), ("ProcessEnded", True, LOOK), ("InvalidConfiguration", False, LOOK)],
)
async def test_a_right_that_is_lost_takes_no_server_away(reason: str, kept: bool, again: float):
    """The server runs on: its machines need it, and nobody shall wait for long when the right is back."""
    runtime = Said(RuntimeState("Running", "DeploymentReady", "", Target("192.0.2.1:9443", None)))
    async with reconciler(OneObject(), runtime, []) as (made, connections):
        await made.reconcile(("shop", "fake"))
        before = connections.get("u-1")
        runtime.state = RuntimeState("Failed", reason, 'cannot get resource "secrets"')
        assert await made.reconcile(("shop", "fake")) == again
        assert connections.get("u-1") is (before if kept else None)


@pytest.mark.parametrize(
    ("phase", "reason"), [("Pending", "WaitingForDependencies"), ("Failed", "InvalidConfiguration")]
)
async def test_a_server_that_works_on_as_it_was_is_available_and_not_as_it_should_be(phase: Any, reason: str):
    """A Secret is gone, or the object makes no sense: nobody's machines are out of reach for that."""
    api, target = OneObject(), Target("192.0.2.1:9443", None)
    runtime = Said(RuntimeState("Running", "DeploymentReady", "", target))
    async with reconciler(api, runtime, []) as (made, connections):
        await made.reconcile(("shop", "fake"))
        connection = connections.get("u-1")
        assert connection is not None
        connection.health = Health(True, "Connected", "the hypervisor answers")
        runtime.state = RuntimeState(phase, reason, "Secret shop/login does not exist", target)
        await made.reconcile(("shop", "fake"))
        assert connections.get("u-1") is connection
    told = {each["type"]: (each["status"], each["reason"]) for each in api.body["status"]["conditions"]}
    assert told["ProviderAvailable"] == ("True", "Connected")
    assert told["ProviderRuntimeReady"] == told["Ready"] == ("False", reason)
    assert api.body["status"]["healthy"]
