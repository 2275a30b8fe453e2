"""A node of one machine: runs the containers of pods as processes here, with their Secrets as files.

It does what the tests of provider servers need of a kubelet: it binds pods to its node, mounts Secrets, starts the
command with the places of the mounts put in, says that it is ready, and ends it with SIGTERM and its grace.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.api import Api, ApiError, NotFoundError
from controller.files import replace_directory

from .cluster import free_ports

NODE = "this-machine"
NODE_LABELS = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": NODE}
READY_SECONDS = 60.0
SCRIPTS = Path(sys.executable).parent
"""Where console scripts are: containers' commands are looked up here."""

Object = dict[str, Any]  # Any: JSON


@dataclass
class Container:
    """One pod's process."""

    pod: Object
    process: asyncio.subprocess.Process
    home: Path
    mounts: dict[str, Path]
    """Where Secrets are, by their URL."""


class Kubelet:
    """Run it with `kubelet(...)`; `address_of` says where the pod of a Service really is."""

    def __init__(self, api: Api, home: Path, namespace: str) -> None:
        self._api, self._home, self._namespace = api, home, namespace
        self._ports: dict[tuple[str, str], int] = {}
        self.running: dict[str, Container] = {}
        """By UID of the pod."""
        self.seen: list[tuple[str, str]] = []
        """What happened, in order: ("started" or "ended", name of the pod)."""
        self.may_end = asyncio.Event()
        """Clear it, and servers take their time to end, as those with work in hand do."""
        self.may_end.set()
        self._ending: set[str] = set()
        self.logs: dict[str, str] = {}
        """Of containers that ended, by name of the pod."""

    def address_of(self, service: str) -> str:
        """Where the pod of a Service "name.namespace.svc" serves: at one place, as a Service has one address."""
        name, namespace, _ = service.split(".")
        return f"127.0.0.1:{self._port(namespace, name)}"

    def _port(self, namespace: str, instance: str) -> int:
        key = (namespace, instance)
        if key not in self._ports:
            (self._ports[key],) = free_ports(1)
        return self._ports[key]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that this node does."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.05)

    async def run(self) -> None:
        """Follow pods until cancelled; ends what runs then."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    path = f"/api/v1/namespaces/{self._namespace}/pods"
                    pods = json.loads(await self._api.request("GET", path))["items"]
                    for pod in pods:
                        with contextlib.suppress(NotFoundError):  # it has gone meanwhile
                            await self._look(pod, pods, group)
                    gone = self.running.keys() - {pod["metadata"]["uid"] for pod in pods} - self._ending
                    for uid in gone:
                        await self._end(uid)
                    await self._renew_mounts()
                    await asyncio.sleep(0.1)
        finally:
            for uid in list(self.running):
                await self._end(uid)

    async def _look(self, pod: Object, pods: list[Object], group: asyncio.TaskGroup) -> None:
        uid = pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp"):
            if uid not in self._ending:
                self._ending.add(uid)
                group.create_task(self._leave(pod), name=f"end {pod['metadata']['name']}")
        elif uid not in self.running and pod["status"].get("phase") == "Pending":
            if pod["spec"].get("nodeName") or _fits(pod, pods):
                await self._start(pod)
            else:
                await self._unscheduled(pod)

    async def _leave(self, pod: Object) -> None:
        """End it beside everything else, as a node does."""
        uid = pod["metadata"]["uid"]
        await self.may_end.wait()
        await self._end(uid)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        with contextlib.suppress(NotFoundError):
            await self._api.request("DELETE", _path(pod), body=body)
        self._ending.discard(uid)

    async def _unscheduled(self, pod: Object) -> None:
        """Say so as the scheduler does."""
        said = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
        told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
        kind = "application/merge-patch+json"
        body = {"status": {"conditions": [told]}}
        await self._api.request("PATCH", _path(pod) + "/status", body=body, content_type=kind)

    async def _start(self, pod: Object) -> None:
        meta, (spec,) = pod["metadata"], pod["spec"]["containers"]
        if shutil.which(spec["command"][0], path=str(SCRIPTS)) is None:
            raise AssertionError(f"no command {spec['command']}")
        if not pod["spec"].get("nodeName"):
            binding = {"metadata": {"name": meta["name"]}, "target": {"kind": "Node", "name": NODE}}
            await self._api.request("POST", _path(pod) + "/binding", body=binding)
        if not spec["image"].startswith("test/"):
            await self._say(pod, waiting={"reason": "ErrImagePull", "message": f"no such image: {spec['image']}"})
            return
        home = self._home / meta["uid"]
        home.mkdir(parents=True)
        ready = home / "ready"
        arguments, mounts = await self._arguments(pod, spec, home)
        command = [str(SCRIPTS / spec["command"][0]), *arguments, "--ready-file", str(ready)]
        environment = {**os.environ, **{each["name"]: each["value"] for each in spec["env"]}}
        with (home / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        self.running[meta["uid"]] = Container(pod, process, home, mounts)
        await self.until(lambda: ready.exists() or process.returncode is not None)
        assert ready.exists(), (home / "log").read_text()
        self.seen.append(("started", meta["name"]))
        await self._say(pod)

    async def _arguments(self, pod: Object, spec: Object, home: Path) -> tuple[list[str], dict[str, Path]]:
        """The container's, with its mounts where they are here, and ports that are free here; and its Secrets."""
        words, mounts = list(spec["args"]), {}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for mount in spec["volumeMounts"]:
            if (secret := volumes[mount["name"]].get("secret")) is None:
                continue
            place = home / mount["name"]
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{secret['secretName']}"
            mounts[path] = place
            await self._mount(path, place)
            words = [word.replace(mount["mountPath"], str(place)) for word in words]
        meta = pod["metadata"]
        port = self._port(meta["namespace"], meta["labels"]["app.kubernetes.io/instance"])
        words[words.index("--listen-address") + 1] = f"127.0.0.1:{port}"
        words[words.index("--metrics-address") + 1] = "127.0.0.1:0"
        return words, mounts

    async def _renew_mounts(self) -> None:
        for container in list(self.running.values()):
            for path, place in container.mounts.items():
                with contextlib.suppress(NotFoundError):
                    await self._mount(path, place)

    async def _mount(self, path: str, place: Path) -> None:
        """Have a Secret as files: all of them change in one step, and within a moment of the Secret, not a minute."""
        held = json.loads(await self._api.request("GET", path)).get("data", {})
        replace_directory(place, {name: base64.b64decode(value) for name, value in held.items()})

    async def _say(self, pod: Object, waiting: Object | None = None) -> None:
        """Write the pod's status."""
        state = {"waiting": waiting} if waiting is not None else {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        (spec,) = pod["spec"]["containers"]
        ready = waiting is None
        container = {
            "name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0, "ready": ready,
            "started": ready, "state": state,
        }  # fmt: skip
        conditions = [
            {"type": kind, "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in ("Initialized", "ContainersReady", "Ready")
        ]
        status = {
            "phase": "Running" if ready else "Pending", "conditions": conditions, "containerStatuses": [container],
        }  # fmt: skip
        kind = "application/merge-patch+json"
        await self._api.request("PATCH", _path(pod) + "/status", body={"status": status}, content_type=kind)

    async def _end(self, uid: str) -> None:
        container = self.running.get(uid)
        if container is None:
            return
        grace = container.pod["spec"]["terminationGracePeriodSeconds"]
        with contextlib.suppress(ProcessLookupError):
            container.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await container.process.wait()
        except TimeoutError:
            container.process.kill()
            await container.process.wait()
        del self.running[uid]  # not before: whoever is cancelled meanwhile ends it once more
        self.seen.append(("ended", container.pod["metadata"]["name"]))
        self.logs[container.pod["metadata"]["name"]] = (container.home / "log").read_text()
        shutil.rmtree(container.home)


def _fits(pod: Object, pods: list[Object]) -> bool:
    """Whether its required anti-affinity lets it onto the node. As to the scheduler, a pod that ends is there yet."""
    rules = pod["spec"].get("affinity", {}).get("podAntiAffinity", {})
    for rule in rules.get("requiredDuringSchedulingIgnoredDuringExecution", []):
        wanted = rule["labelSelector"]["matchLabels"].items()
        for other in pods:
            placed = other["spec"].get("nodeName") and other["status"].get("phase") not in ("Succeeded", "Failed")
            if placed and rule["topologyKey"] in NODE_LABELS and wanted <= other["metadata"]["labels"].items():
                return False
    return True


def _path(pod: Object) -> str:
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


@asynccontextmanager
async def kubelet(api: Api, home: Path, namespace: str) -> AsyncIterator[Kubelet]:
    """A node that runs the pods of a namespace while the context is open."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": NODE_LABELS}}
    with contextlib.suppress(ApiError):  # it is there already
        await api.request("POST", "/api/v1/nodes", body=node)
    running = Kubelet(api, home, namespace)
    async with _while(running.run):
        yield running


@asynccontextmanager
async def _while(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Something that goes on while the context is open."""
    async with asyncio.TaskGroup() as group:

        async def run() -> None:
            await work()

        task = group.create_task(run())
        try:
            yield
        finally:
            task.cancel()
