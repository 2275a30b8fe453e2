"""The embedded stack over a simulated Proxmox VE cluster: kubectl in front, the cluster's own switches behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .stack import PATIENCE, ROOT, SHARED, Embedded, Object, machine, manifest

TEMPLATE = "vm100"
"""The guest that was there before us, which is a template."""


class Cluster:
    """A simulated cluster as a process of its own."""

    def __init__(self, told: Object, pid: int) -> None:
        self.told, self.pid = told, pid
        self.url: str = told["url"]

    def switch(self, name: str, **asked: object) -> Any:  # Any: JSON
        """Turn a switch; see tests/simulators/proxmox/README.md."""
        body = json.dumps(asked).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.told['control']}/{name}", body), timeout=10
        ) as reply:
            return json.load(reply)

    def ask(self, name: str) -> Any:  # Any: JSON
        """What it tells of itself."""
        with urllib.request.urlopen(f"{self.told['control']}/{name}", timeout=10) as reply:
            return json.load(reply)

    def guests(self) -> dict[str, Object]:
        """Every guest by its name, with its VMID."""
        return {
            guest["config"].get("name", vmid): {**guest, "vmid": int(vmid)}
            for vmid, guest in self.ask("guests").items()
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Three nodes, at twenty times the speed of real ones."""
    command = [sys.executable, "-m", "simulators.proxmox", "--nodes", "3", "--vms", "1", "--scale", "0.05"]
    with subprocess.Popen(
        command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            made = Cluster(json.loads(process.stdout.readline()), process.pid)
            made.switch("guest", vmid=100, do="edit", config={"template": "1"})
            yield made
        finally:
            process.terminate()


class ProxmoxStack(Embedded):
    """With one cluster, known as the Provider `pve`."""

    def __init__(self, home: Path, server: Cluster) -> None:
        super().__init__(home)
        self.server = server

    def provider_pid(self, name: str, namespace: str = SHARED) -> int:
        """Process of a Provider's server."""
        uid = self.get("provider", name, namespace)["metadata"]["uid"]
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = each.read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if b"virtrigaud-provider-proxmox" in command and f"/{uid}/".encode() in command:
                return int(each.parent.name)
        raise AssertionError(f"no process of provider {name}\n{self.logs()}")

    def wait_server(self, holds: Callable[[Cluster], bool], what: str) -> None:
        """Until something holds of the cluster, of which nobody tells."""
        deadline = time.monotonic() + PATIENCE
        while not holds(self.server):
            assert time.monotonic() < deadline, f"{what} did not come\n{self.logs()}"
            time.sleep(0.05)


def credentials(server: Cluster, name: str, namespace: str = SHARED, **changed: str) -> Object:
    """The Secret of a Provider."""
    told = server.told
    data = {
        "token_id": told["token_id"],
        "token_secret": told["token_secret"],
        "ca.crt": told["certificate"],
        **changed,
    }
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}


def provider(
    server: Cluster, name: str, namespace: str = SHARED, **spec: Any
) -> Object:  # Any: whatever the spec takes
    whole: Object = {
        "type": "proxmox",
        "endpoint": server.url,
        "credentialSecretRef": {"name": name},
        "defaults": {"datastore": "local-lvm", "network": "vmbr0"},
        "runtime": {"mode": "Process"},
    }
    return manifest("Provider", name, {**whole, **spec}, namespace)


def shared_objects(server: Cluster) -> list[Object]:
    """What all tests use, open to every namespace."""
    everyone: Object = {"consumerNamespaceSelector": {}}
    size: Object = {"cpu": 1, "memory": "256Mi"}
    source: Object = {"source": {"proxmox": {"templateName": TEMPLATE}}}
    return [
        credentials(server, "pve"),
        provider(server, "pve", **everyone),
        manifest("VMClass", "tiny", {**size, **everyone}),
        manifest("VMImage", "guest", {**source, **everyone}),
    ]


def wire(namespace: str) -> Object:
    return manifest("VMNetworkAttachment", "wire", {"network": {"proxmox": {"bridge": "vmbr0"}}}, namespace)


def box(namespace: str, **spec: Any) -> Object:  # Any: whatever the spec takes
    """A small machine named `box` on the shared cluster."""
    return machine("box", namespace, **{"providerRef": {"name": "pve", "namespace": SHARED}, **spec})
