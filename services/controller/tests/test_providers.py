"""Providers: who is woken when one can be used."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from common.clock import SystemClock
from controller.api import Api, ApiUnavailableError
from controller.connection import Health
from controller.connections import Connections
from controller.core import NAMESPACES
from controller.events import Recorder
from controller.index import Index
from controller.informer import Informer
from controller.metrics import Metrics
from controller.objects import CLASSES, IMAGES, NETWORKS, PROVIDERS, VIRTUAL_MACHINES
from controller.providers import FINALIZER, ProviderReconciler
from controller.references import Caches
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


async def test_machines_are_woken_though_the_first_report_was_not_heard():
    """What this controller made wait, it wakes itself: its predecessor's status says nothing of that."""
    clock, rng, metrics, api, woken = SystemClock(), random.Random(1), Metrics(CollectorRegistry()), OneObject(), []
    resources = (VIRTUAL_MACHINES, CLASSES, IMAGES, NETWORKS, PROVIDERS, NAMESPACES)
    caches = Caches(*(Informer(api, each, clock, rng) for each in resources))  # type: ignore[arg-type]  # in this order
    caches.providers._set(("shop", "fake"), msgspec.json.decode(msgspec.json.encode(api.body), type=Provider))
    connections = Connections(clock, rng, metrics, wake=lambda _: None)
    reconciler = ProviderReconciler(
        caches, Index(), connections, {"External": ExternalRuntime(Secrets(api), None, None)}, "External",  # type: ignore[arg-type]  # no files
        Writer(api, metrics), Recorder(api, clock), metrics, clock, lambda _: None, woken.append,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        task = group.create_task(connections.run())
        await asyncio.sleep(0)
        api.up = False
        with pytest.raises(ApiUnavailableError):
            await reconciler.reconcile(("shop", "fake"))
        api.up = True
        connection = connections.get("u-1")
        assert connection is not None
        connection.health = Health(True, "Connected", "the hypervisor answers")
        await reconciler.reconcile(("shop", "fake"))
        assert [provider.metadata.uid for provider in woken] == ["u-1"]
        await reconciler.reconcile(("shop", "fake"))
        assert len(woken) == 1
        task.cancel()
