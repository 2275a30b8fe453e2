"""A real API server as a process of its own, and what drives it."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import processes
from common import pki
from controller import claims
from processes import script, started
from prometheus_client.parser import text_string_to_metric_families
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.machines import MachineSettings
from providerkit.serving import ServingSettings, serve

GROUP = "/apis/infra.virtrigaud.io/v1beta1"
PLURALS = {
    "VirtualMachine": "virtualmachines",
    "VMClass": "vmclasses",
    "VMImage": "vmimages",
    "VMNetworkAttachment": "vmnetworkattachments",
    "Provider": "providers",
    "VMSnapshot": "vmsnapshots",
    "VMSet": "vmsets",
    "VMClone": "vmclones",
    "VMMigration": "vmmigrations",
    "VMPlacementPolicy": "vmplacementpolicies",
}
DEADLINE = 90.0
"""Seconds after which something that must come will not come: generous, as other work may share the machine."""


@dataclass
class Cluster:
    """An embedded API server, and calls to it."""

    endpoint: str
    kubeconfig: Path
    token: str
    ca: Path
    session: aiohttp.ClientSession = field(init=False)

    async def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        data = msgspec.json.encode(body) if body is not None else None
        url = f"https://{self.endpoint}{path}"
        async with self.session.request(method, url, headers=headers, data=data) as response:
            answer = msgspec.json.decode(await response.read())
            if response.status >= 400:
                raise AssertionError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer

    def path(self, kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
        core = {"Secret": "/api/v1", "Event": "/api/v1"}
        plural = PLURALS.get(kind) or f"{kind.lower()}s"
        parts = [core.get(kind, GROUP), "namespaces", namespace, plural, name, subresource]
        return "/".join(part for part in parts if part)

    async def create(self, kind: str, namespace: str, name: str, spec: Any, **metadata: Any) -> Any:
        body = {
            "apiVersion": "infra.virtrigaud.io/v1beta1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": spec,
        }
        return await self.request("POST", self.path(kind, namespace), body)

    async def namespace(self, name: str, **labels: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        await self.request("POST", "/api/v1/namespaces", body)

    async def secret(self, namespace: str, name: str, **data: str) -> None:
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        await self.request("POST", self.path("Secret", namespace), body)

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        return await self.request("GET", self.path(kind, namespace, name))

    async def patch(self, kind: str, namespace: str, name: str, patch: Any, subresource: str = "") -> Any:
        path = self.path(kind, namespace, name, subresource)
        return await self.request("PATCH", path, patch, "application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        await self.request("DELETE", self.path(kind, namespace, name))

    async def wait(
        self, kind: str, namespace: str, name: str, holds: Callable[[Any], bool], seconds: float = DEADLINE
    ) -> Any:
        """Watch the object until something holds of it; None stands for an object that is gone."""
        seen: Any = None
        try:
            async with asyncio.timeout(seconds):
                async for seen in self._states(kind, namespace, name):
                    if holds(seen):
                        return seen
        except TimeoutError:
            shown = msgspec.json.format(msgspec.json.encode((seen or {}).get("status") if seen else None)).decode()
            raise AssertionError(
                f"{kind} {namespace}/{name} did not get there; its status is {shown}; {(seen or {}).get('metadata')}"
            ) from None
        raise AssertionError("the watch ended")

    async def _states(self, kind: str, namespace: str, name: str) -> AsyncIterator[Any]:
        listed = await self.request("GET", self.path(kind, namespace))
        found = next((item for item in listed["items"] if item["metadata"]["name"] == name), None)
        yield found
        version = listed["metadata"]["resourceVersion"]
        url = f"https://{self.endpoint}{self.path(kind, namespace)}?watch=true&resourceVersion={version}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as response:
            async for line in response.content:
                event = msgspec.json.decode(line)
                if event["object"]["metadata"]["name"] == name:
                    yield None if event["type"] == "DELETED" else event["object"]

    async def gone(self, kind: str, namespace: str, name: str) -> None:
        await self.wait(kind, namespace, name, lambda item: item is None)

    async def events(self, namespace: str) -> list[Any]:
        return list((await self.request("GET", self.path("Event", namespace)))["items"])

    async def reasons(self, namespace: str, name: str) -> list[str]:
        return [e["reason"] for e in await self.events(namespace) if e["involvedObject"]["name"] == name]

    async def forget_installations(self) -> None:
        """Of one that ended its Lease stays, and its claim with it; another test's may want what it served."""
        path = f"/api/v1/namespaces/{claims.NAMESPACE}/configmaps"
        for item in (await self.request("GET", path))["items"]:
            if item["metadata"]["name"] == claims.NAME:
                await self.request("DELETE", f"{path}/{claims.NAME}")

    async def version(self) -> str:
        """Changes with every write to anything."""
        return str((await self.request("GET", "/api/v1/namespaces"))["metadata"]["resourceVersion"])


def condition(item: Any, kind: str) -> Any:
    """The condition of an object, or an empty one."""
    found = (c for c in ((item or {}).get("status") or {}).get("conditions", []) if c["type"] == kind)
    return next(found, {"status": "", "reason": "", "message": ""})


def ready(item: Any) -> bool:
    """It is Ready, and for the spec as it is now."""
    current = item is not None and item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
    return bool(current and condition(item, "Ready")["status"] == "True")


def because(reason: str, kind: str = "Ready") -> Callable[[Any], bool]:
    """The condition has this reason."""
    return lambda item: item is not None and bool(condition(item, kind)["reason"] == reason)


@dataclass
class Process:
    """A process of ours."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await self.process.wait()


async def until(
    holds: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str, seconds: float = DEADLINE
) -> None:
    """Wait for something that no API tells of (a file, a port)."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                verdict = holds()
                if await verdict if isinstance(verdict, Awaitable) else verdict:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come within {seconds:g} s") from None


@asynccontextmanager
async def api_server(directory: Path) -> AsyncIterator[Cluster]:
    """An API server with our CRDs, as a process of its own."""
    authority = pki.Authority.create(directory / "ca")
    async with processes.api_server(directory, authority, seconds=DEADLINE) as server:
        cluster = Cluster(server.address, server.kubeconfig, server.token, server.ca)
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(server.ca)))
        async with aiohttp.ClientSession(connector=connector) as session:
            cluster.session = session
            await until(lambda: _served(cluster), "the CRDs")
            yield cluster


async def _served(cluster: Cluster) -> bool:
    try:
        for plural in PLURALS.values():
            await cluster.request("GET", f"{GROUP}/{plural}")
    except AssertionError:
        return False
    return True


def controller_command(cluster: Cluster, home: Path, *flags: str) -> list[str]:
    return [
        script("virtrigaud-controller"),
        *("--kubeconfig", str(cluster.kubeconfig), "--home", str(home)),
        *("--runtime", "process", "--log-level", "debug"),
        *("--ready-file", str(home / "ready")),
        *flags,
    ]


def _clean(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "ready").unlink(missing_ok=True)


@asynccontextmanager
async def controller(cluster: Cluster, home: Path, *flags: str, **environment: str) -> AsyncIterator[Process]:
    """A controller as a process of its own, its caches filled."""
    _clean(home)
    async with started(controller_command(cluster, home, *flags), home / "controller.log", **environment) as process:
        await until((home / "ready").exists, "the controller")
        yield Process(process, home / "controller.log")
    await cluster.forget_installations()


async def figure(cluster: Cluster, home: Path, name: str, **labels: str) -> float:
    """Sum of a metric of the controller over the series with these labels; -1 for none."""
    async with cluster.session.get(f"http://{(home / 'ready').read_text()}/metrics") as response:
        text = await response.text()
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else -1.0


CLASS = {"cpu": 1, "memory": "256Mi", "diskDefaults": {"size": "1Gi"}, "performanceProfile": {}}
IMAGE = {"source": {"http": {"url": "http://images.example/guest.qcow2"}}}
FAKE = {"type": "fake", "endpoint": "fake://local", "healthCheck": {"interval": "1s", "timeout": "1s"}}


def machine(**spec: Any) -> dict[str, Any]:
    """The spec of a small machine."""
    basic = {
        "providerRef": {"name": "fake"},
        "classRef": {"name": "small"},
        "imageRef": {"name": "guest"},
        "networks": [{"name": "eth0"}],
        "powerState": "On",
    }
    return {key: value for key, value in {**basic, **spec}.items() if value is not None}


async def furnish(cluster: Cluster, namespace: str, **provider: Any) -> None:
    """Namespace, provider, class and image."""
    await cluster.namespace(namespace)
    await cluster.create("Provider", namespace, "fake", {**FAKE, **provider})
    await cluster.create("VMClass", namespace, "small", CLASS)
    await cluster.create("VMImage", namespace, "guest", IMAGE)


OWNER = "test-installation"


@asynccontextmanager
async def hypervisor(
    make: type[FakeDriver] = FakeDriver, **knobs: Any
) -> AsyncIterator[tuple[FakeHypervisor, dict[str, Any]]]:
    """A fake hypervisor in this process behind a real provider server, and the Provider spec that names it."""
    world = FakeHypervisor()
    driver = make(world, owner=OWNER, **knobs)
    machines = MachineSettings(short_wait=0.05)
    settings = ServingSettings(insecure=True, owner=OWNER, grace=0.2, health_timeout=1.0, machines=machines)
    async with serve(driver, settings, registry=None) as serving:
        runtime = {
            "mode": "External",
            "address": serving.server.address,
            "service": {"tls": {"enabled": False}},
        }
        yield world, {**FAKE, "runtime": runtime}
        world.unhang()
