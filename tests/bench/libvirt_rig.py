"""What the benches on a real libvirt measure with: the embedded stack, and the clocks that every way is stopped by.

All times are seconds since 1970, so that they may be compared with those of spans. Nothing here asserts how long
anything takes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
from controller import api as kubernetes
from controller.objects import VIRTUAL_MACHINES
from e2e.stack import Object, Stack, condition, machine, manifest
from libvirtd.fixtures import CACHE
from libvirtd.private import PrivateLibvirtd
from provider_libvirt import eventloop

from .spans import Spans

NAMESPACE = "bench"
PATIENCE = 60.0
"""Longest wait in seconds for what takes a second or less."""
USER_DATA = "#cloud-config\nhostname: bench\n"


class Lifecycle:
    """libvirt's own word on a connection of its own: when which domain came to run, stopped, was suspended."""

    def __init__(self, uri: str) -> None:
        eventloop.ensure_running()
        self.connection = libvirt.open(uri)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._seen: list[tuple[str, int, float]] = []
        self.connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._noticed, None)

    def _noticed(self, _connection: object, domain: libvirt.virDomain, event: int, *_details: object) -> None:
        seen = (domain.name(), event, time.time())
        self._loop.call_soon_threadsafe(self._take, seen)

    def _take(self, seen: tuple[str, int, float]) -> None:
        self._seen.append(seen)
        self._changed.set()

    async def wait(self, name: str, event: int, since: float) -> float:
        """When libvirt first told this of the domain after `since`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for known, kind, when in self._seen:
                    if (known, kind) == (name, event) and when >= since:
                        return when
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        """End the connection."""
        for callback in list(self.connection.domainEventCallbackID):
            self.connection.domainEventDeregisterAny(callback)
        self.connection.close()


class Told:
    """What the Kubernetes API tells a client that watches all machines, and when."""

    def __init__(self, api: kubernetes.Api) -> None:
        self._api = api
        self._changed = asyncio.Event()
        self._events: dict[str, list[tuple[float, Object]]] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        path = VIRTUAL_MACHINES.path(NAMESPACE)
        while True:
            async for line in self._api.lines(path, {"watch": "true"}, 3600.0):
                when, event = time.time(), json.loads(line)
                self._events.setdefault(event["object"]["metadata"]["name"], []).append((when, event["object"]))
                self._changed.set()

    async def wait(
        self, name: str, holds: Callable[[Object], bool], since: float = 0.0, patience: float = PATIENCE
    ) -> float:
        """When it was first told, after `since`, that something holds of a machine."""
        async with asyncio.timeout(patience):
            while True:
                for when, body in self._events.get(name, []):
                    if when >= since and holds(body):
                        return when
                self._changed.clear()
                await self._changed.wait()


@dataclass(frozen=True)
class Rig:
    """Everything that a bench on libvirt needs; torn down with its context."""

    stack: Stack
    lifecycle: Lifecycle
    told: Told
    spans: Spans

    @property
    def uri(self) -> str:
        return self.stack.libvirtd.uri


def is_ready(body: Object) -> bool:
    """The machine runs, and its object says so."""
    return body.get("status", {}).get("powerState") == "On" and condition(body, "Ready").get("status") == "True"


def objects(daemon: PrivateLibvirtd, memory: str) -> list[Object]:
    """What every machine of a bench refers to."""
    return [
        manifest("Provider", "local", {"type": "libvirt", "endpoint": daemon.uri}, NAMESPACE),
        manifest("VMClass", "tiny", {"cpu": 1, "memory": memory}, NAMESPACE),
        manifest("VMImage", "guest", {"source": {"libvirt": {"path": "virtrigaud-guest.qcow2"}}}, NAMESPACE),
        manifest("VMNetworkAttachment", "wire", {"network": {"libvirt": {"networkName": daemon.network}}}, NAMESPACE),
    ]


def wish(name: str, **spec: Any) -> Object:  # Any: whatever the spec takes
    """A machine of the bench, with first-boot data as a user's has."""
    here: Object = {
        "providerRef": {"name": "local"},
        "classRef": {"name": "tiny"},
        "imageRef": {"name": "guest"},
        "userData": {"cloudInit": {"inline": USER_DATA}},
    }
    return machine(name, NAMESPACE, **{**here, **spec})


@asynccontextmanager
async def rig(home: Path, daemon: PrivateLibvirtd, image: Path, memory: str = "128Mi") -> AsyncIterator[Rig]:
    """The embedded stack on a private libvirtd, traced, its image prepared, with a network and a class."""
    with Spans() as spans:
        stack = Stack(home, daemon, image)
        stack.environment["VIRTRIGAUD_OTLP_ENDPOINT"] = spans.endpoint
        await asyncio.to_thread(stack.up)
        try:
            await asyncio.to_thread(_furnish, stack, memory)
            lifecycle = Lifecycle(daemon.uri)
            async with kubernetes.connect(str(stack.kubeconfig)) as api, asyncio.TaskGroup() as group:
                told = Told(api)
                watching = group.create_task(told.run())
                try:
                    yield Rig(stack, lifecycle, told, spans)
                finally:
                    watching.cancel()
                    lifecycle.close()
        finally:
            await asyncio.to_thread(stack.down)


@asynccontextmanager
async def own_rig(home: Path) -> AsyncIterator[Rig]:
    """The same on a libvirtd of its own, with the guest image that `make setup` builds."""
    image = CACHE / "images" / "virtrigaud-guest.qcow2"
    with PrivateLibvirtd(CACHE / "libvirt-capabilities") as daemon:
        async with rig(home / "stack", daemon, image) as made:
            yield made


def _furnish(stack: Stack, memory: str) -> None:
    stack.kubectl("create", "namespace", NAMESPACE)
    stack.apply(*objects(stack.libvirtd, memory))
    stack.wait("provider", "local", "condition=Ready", NAMESPACE)
    stack.apply(wish("first", powerState="Off"))  # its image is prepared for it, and stays
    stack.wait("vm", "first", "condition=Ready", NAMESPACE)
    stack.kubectl("delete", "vm", "first", "-n", NAMESPACE)
