"""NetworkPolicies, judged by an engine that clusters run: which connection passes, and which does not."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.gomodule import program

from .cluster import Cluster, Object

SOURCES = Path(__file__).resolve().parents[1] / "tools" / "policies"
SECONDS = 60.0


@dataclass(frozen=True)
class Connection:
    """From one address to a port of another; which of them are pods' says the cluster."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


def engine() -> Path:
    """The program, built if it is not yet. Raises: GoUnavailableError."""
    return program(SOURCES)


def allowed(cluster: Cluster, connections: list[Connection]) -> list[bool]:
    """What becomes of each. Raises: GoUnavailableError."""
    asked = [
        {"From": each.source, "To": each.target, "Port": each.port, "Protocol": each.protocol} for each in connections
    ]
    done = subprocess.run(
        [engine(), "-kubeconfig", cluster.kubeconfig], input=json.dumps(asked), capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdicts: list[bool] = json.loads(done.stdout)
    return verdicts


def place(cluster: Cluster, pod: Object, address: str) -> None:
    """Give a pod its address, as a node does."""
    meta = pod["metadata"]
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
    cluster.ask(path, status, "PATCH", "application/merge-patch+json")


def stranger(cluster: Cluster, namespace: str, name: str, address: str, **labels: str) -> str:
    """A pod of somebody's; answers with its address."""
    meta = {"name": name, "namespace": namespace, "labels": labels}
    container = {"name": "any", "image": "any", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    cluster.make(pod, namespace)
    place(cluster, pod, address)
    return address
