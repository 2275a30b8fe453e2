"""The product as a user has it, for measuring: API server, controller and fake providers, each a process of its own.

Everything goes through the Kubernetes API over HTTPS; providers are spoken to over gRPC with mutual TLS. Writes are
counted by the API server's revision, which grows by one with each, and calls by the providers' own metrics.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import processes
from common import rpc
from common.identity import Server
from common.pki import Authority
from common.rpc import Stub
from common.tls import CONTROLLER, TlsFiles
from controller.api import MERGE, Api, ConflictError, connect
from processes import script, wait_started
from prometheus_client.parser import text_string_to_metric_families
from providerkit.serving import PACKAGE

GROUP = "infra.virtrigaud.io/v1beta1"
NAMESPACE = "bench"
VMS = f"/apis/{GROUP}/namespaces/{NAMESPACE}/virtualmachines"
START_SECONDS = 600.0
"""Longest start of a process; a fake hypervisor of 50,000 machines reads its file for a minute."""
OWNER = "bench"
CLIENTS = 16
"""Requests of the bench that are under way at the same time."""

Object = dict[str, Any]  # Any: JSON


@dataclass
class Process:
    """One of ours."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    metrics: str = ""
    """host:port of its metrics."""

    @property
    def pid(self) -> int:
        return self.process.pid


@asynccontextmanager
async def started(name: str, command: Sequence[str], log: Path) -> AsyncIterator[Process]:
    """A command in the background; ended when the context is left."""
    async with processes.started(command, log) as process:
        yield Process(name, process, log)


@dataclass
class Rig:
    """What runs, and how it is spoken to."""

    home: Path
    api: Api
    kubeconfig: Path
    apiserver: Process
    authority: Authority
    client: TlsFiles
    http: aiohttp.ClientSession
    providers: dict[str, Process] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    # -- objects ---------------------------------------------------------------------------------------------------

    async def create(self, kind: str, name: str, spec: Object, namespace: str = NAMESPACE) -> None:
        """Create an object of ours."""
        path = f"/apis/{GROUP}/namespaces/{namespace}/{_plural(kind)}"
        await self.api.request("POST", path, body=manifest(kind, name, spec, namespace))

    async def furnish(self, namespace: str) -> None:
        """Make a namespace with what its machines refer to; providers of the bench's own serve it."""
        await self.api.request("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
        source = {"http": {"url": "http://images.example/guest.qcow2"}}
        small = {"cpu": 1, "memory": "256Mi", "diskDefaults": {"size": "1Gi"}}
        await self.create("VMClass", "small", small, namespace)
        await self.create("VMImage", "guest", {"source": source}, namespace)
        await self.create("VMNetworkAttachment", "lan", {"network": {"libvirt": {"networkName": "lan"}}}, namespace)

    async def many(self, requests: Iterable[Mapping[str, Any]], clients: int = CLIENTS) -> list[float]:
        """Make requests, so many at a time; answers with when each was acknowledged, by the wall clock."""
        waiting, answered = iter(list(enumerate(requests))), {}

        async def client() -> None:
            for number, request in waiting:
                await self.api.request(**request)
                answered[number] = time.time()

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return [answered[number] for number in sorted(answered)]

    async def revision(self) -> int:
        """How often anything was written since the store was made."""
        body = json.loads(await self.api.request("GET", VMS, params={"limit": "1"}))
        return int(body["metadata"]["resourceVersion"])

    # -- processes -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def provider(self, name: str, *flags: str, named: bool = True) -> AsyncIterator[Process]:
        """A fake hypervisor behind a provider server, and the Provider object that names it.

        Args:
            named: whether there is such an object; otherwise only the bench knows of the server.
        """
        server = Server(NAMESPACE, name)
        tls = self.authority.issue(self.home / name, server.host, [server.uri, "127.0.0.1", "localhost"])
        ready, log = self.home / f"{name}.ready", self.home / f"{name}.log"
        ready.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        command = [
            script("virtrigaud-provider-fake"),
            *("--owner", OWNER, "--listen-address", "127.0.0.1:0", "--ready-file", str(ready)),
            *("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-ca", str(tls.ca)),
            *("--metrics-address", "127.0.0.1:0", *flags),
        ]
        async with started(f"provider {name}", command, log) as process:
            await wait_started(ready.exists, process.process, log, START_SECONDS)
            self.addresses[name] = ready.read_text().strip()
            process.metrics = _said(log, "provider.metrics")
            self.providers[name] = process
            if named:
                await self._name(name)
            yield process

    async def _name(self, provider: str) -> None:
        """Have a Provider object name this server; one of an earlier server names it from now on."""
        spec = _provider(self.addresses[provider])
        try:
            await self.create("Provider", provider, spec)
        except ConflictError:
            path = f"/apis/{GROUP}/namespaces/{NAMESPACE}/providers/{provider}"
            await self.api.request("PATCH", path, body={"spec": spec}, content_type=MERGE)

    @asynccontextmanager
    async def controller(self, *flags: str) -> AsyncIterator[Process]:
        """The controller, its caches filled."""
        ready, log = self.home / "controller.ready", self.home / "controller.log"
        ready.unlink(missing_ok=True)
        command = [
            script("virtrigaud-controller"),
            *("--kubeconfig", str(self.kubeconfig), "--home", str(self.home / "state"), "--owner", OWNER),
            *("--runtime", "process", "--no-leader-elect", "--ready-file", str(ready), *flags),
        ]
        async with started("controller", command, log) as process:
            await wait_started(ready.exists, process.process, log, START_SECONDS)
            process.metrics = ready.read_text().strip()
            yield process

    @asynccontextmanager
    async def machines(self, provider: str) -> AsyncIterator[Stub]:
        """The provider spoken to directly, without a controller."""
        async with rpc.connect(self.addresses[provider], self.client, registry=None) as channel:
            yield rpc.stub(channel, f"{PACKAGE}.MachineService")

    async def metric(self, process: Process, family: str, **labels: str) -> float:
        """Sum of a process's metric over all series that have these labels."""
        async with self.http.get(f"http://{process.metrics}/metrics") as response:
            text = await response.text()
        return sum(
            sample.value
            for metric in text_string_to_metric_families(text)
            for sample in metric.samples
            if sample.name == family and labels.items() <= sample.labels.items()
        )

    async def calls(self, process: Process) -> float:
        """Calls that a provider has begun to answer, by itself counted; health, which is one per provider, aside."""
        every = await self.metric(process, "virtrigaud_rpc_server_started_total")
        return every - await self.metric(
            process, "virtrigaud_rpc_server_started_total", service=f"{PACKAGE}.ProviderService"
        )


@asynccontextmanager
async def rig(home: Path, *, furnished: bool = False) -> AsyncIterator[Rig]:
    """An API server with our kinds, and what machines refer to; no provider and no controller yet.

    Args:
        furnished: it was on this directory before.
    """
    authority = Authority.create(home / "ca")
    client = authority.issue(home / "client", CONTROLLER)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            processes.api_server(home, authority, namespace=NAMESPACE, seconds=START_SECONDS)
        )
        kubeconfig, apiserver = server.kubeconfig, Process("API server", server.process, home / "apiserver.log")
        api = await stack.enter_async_context(connect(str(kubeconfig)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        found = Rig(home, api, kubeconfig, apiserver, authority, client, http)
        if furnished:
            yield found
            return
        await found.furnish(NAMESPACE)
        files = {"tls.crt": client.cert, "tls.key": client.key, "ca.crt": client.ca}
        data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
        body = {"metadata": {"name": "client"}, "type": "kubernetes.io/tls", "data": data}
        await api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", body=body)
        yield found


def _provider(address: str) -> Object:
    tls = {"enabled": True, "secretRef": {"name": "client"}}
    runtime = {"mode": "External", "address": address, "service": {"tls": tls}}
    return {"type": "fake", "endpoint": "fake://bench", "runtime": runtime, "consumerNamespaceSelector": {}}


def _said(log: Path, event: str) -> str:
    """host:port that a process told in its log."""
    for line in log.read_text().splitlines():
        told = json.loads(line)
        if told["event"] == event:
            return f"{told['host']}:{told['port']}"
    raise LookupError(f"{log} tells no {event}")


def _plural(kind: str) -> str:
    return {"VMClass": "vmclasses"}.get(kind, f"{kind.lower()}s")


def manifest(kind: str, name: str, spec: Object, namespace: str = NAMESPACE) -> Object:
    """An object, whole."""
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def machine(name: str, provider: str = "one", namespace: str = NAMESPACE) -> Object:
    """A small machine that shall run, as the quickstart has it."""
    spec = {
        "providerRef": {"name": provider, "namespace": NAMESPACE},
        "classRef": {"name": "small"},
        "imageRef": {"name": "guest"},
        "networks": [{"name": "eth0", "networkRef": {"name": "lan"}}],
        "powerState": "On",
    }
    return manifest("VirtualMachine", name, spec, namespace)


def environment(rig: Rig) -> dict[str, str]:
    """For kubectl."""
    return {**os.environ, "KUBECONFIG": str(rig.kubeconfig), "HOME": str(rig.home)}
