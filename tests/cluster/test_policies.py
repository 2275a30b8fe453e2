"""Who may speak to whom on a cluster: the chart's policy and those of Providers' servers, judged by a real engine.

The API server, what the chart makes of it, and what the controller makes for two Providers are real; their pods are
given addresses, as nothing runs them. What passes from a pod's own node always passes, so probes are no row.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from common.settings import load
from controller.api import connect
from controller.settings import Settings
from e2e.stack import manifest
from libvirtd.fixtures import missing
from tools.gomodule import GoUnavailableError

from .chart import NAMESPACE, controller_arguments, install
from .cluster import Cluster, Object
from .conftest import start_cluster
from .kubelet import Kubelet
from .policies import Connection, allowed, engine, place, stranger
from .test_servers import SECONDS, controller

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
VALUES = {
    "open": (),
    "closed": (
        *("--set-json", f"networkPolicy.metricsFrom=[{json.dumps(PEER)}]"),
        *(
            "--set",
            "networkPolicy.egress.controller.enabled=true",
            "--set",
            "networkPolicy.egress.servers.enabled=true",
        ),
        *("--set", "otlpEndpoint=http://10.2.0.30:4317"),
    ),
}
NETS = {"open": "10.1.0", "closed": "10.2.0"}
SERVERS = {
    "kvm": ("libvirt", "qemu+tls://192.0.2.7/system"),
    "vcenter": ("vsphere", "https://vcenter.example.org/sdk"),
}
CONTROLLER = {"app.kubernetes.io/name": "virtrigaud-controller"}
OUTSIDE = {"hypervisor": "192.0.2.7", "outside": "198.51.100.9", "API server": "192.0.2.1"}
ROWS = [
    # from, to, port, as the chart is, and with everything switched on
    ("controller", "kvm", "9443", True, True),
    ("controller", "vcenter", "9443", True, True),
    ("neighbour", "kvm", "9443", False, False),
    ("false controller", "kvm", "9443", False, False),
    ("housemate", "kvm", "9443", False, False),
    ("vcenter", "kvm", "9443", False, False),
    ("prometheus", "kvm", "9443", False, False),
    ("outside", "kvm", "9443", False, False),
    ("neighbour", "kvm", "8080", False, False),
    ("prometheus", "kvm", "9090", True, True),
    ("neighbour", "kvm", "9090", True, False),
    ("vcenter", "kvm", "9090", True, False),
    ("outside", "kvm", "9090", True, False),
    ("prometheus", "controller", "9090", True, True),
    ("neighbour", "controller", "9090", True, False),
    ("outside", "controller", "9090", True, False),
    ("prometheus", "controller", "22", False, False),
    ("controller", "dns", "53/UDP", True, True),
    ("controller", "API server", "6443", True, True),
    ("controller", "collector", "4317", True, True),
    ("controller", "outside", "8006", True, False),
    ("controller", "neighbour", "9443", True, False),
    ("kvm", "hypervisor", "16514", True, True),
    ("kvm", "outside", "16514", True, False),
    ("kvm", "hypervisor", "22", True, False),
    ("vcenter", "outside", "443", True, True),
    ("vcenter", "outside", "902", True, True),
    ("kvm", "outside", "902", True, False),
    ("kvm", "dns", "53/UDP", True, True),
    ("kvm", "dns", "53", True, True),
    ("kvm", "collector", "4317", True, True),
    ("kvm", "outside", "443", True, True),
    ("kvm", "API server", "6443", True, False),
    ("kvm", "neighbour", "5432", True, False),
    ("neighbour", "dns", "53/UDP", True, True),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: its policies change under these tests."""
    try:
        engine()
    except GoUnavailableError as error:
        missing(str(error))
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


async def appear(cluster: Cluster, namespace: str, name: str, count: int) -> list[Object]:
    """Wait for so many pods with this app.kubernetes.io/name."""
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/name%3D{name}"
    async with asyncio.timeout(SECONDS):
        while True:
            found: list[Object] = json.loads(cluster.ask(path))["items"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)


async def servers(cluster: Cluster, home: Path, namespace: str) -> dict[str, Object]:
    """The pods of two Providers' servers, made by a controller that was told what the chart tells it."""
    settings = load(Settings, controller_arguments(cluster))
    async with (
        connect(str(cluster.kubeconfig)) as api,
        controller(api, Kubelet(api, home, namespace), home, namespace, told=settings),
    ):
        for name, (kind, endpoint) in SERVERS.items():
            spec = {"type": kind, "endpoint": endpoint, "runtime": {"mode": "Kubernetes"}}
            cluster.make(manifest("Provider", name, spec, namespace), namespace)
        found = await appear(cluster, namespace, "virtrigaud-provider", len(SERVERS))
    prefix = "virtrigaud-provider-"
    return {pod["metadata"]["labels"]["app.kubernetes.io/instance"].removeprefix(prefix): pod for pod in found}


async def addresses(cluster: Cluster, home: Path, namespace: str, net: str) -> dict[str, str]:
    """Everybody's, of a net in which nobody else has any."""
    ours = await appear(cluster, NAMESPACE, CONTROLLER["app.kubernetes.io/name"], 1)
    made = {"controller": ours[0], **await servers(cluster, home, namespace)}
    for number, (_, pod) in enumerate(made.items()):
        place(cluster, pod, f"{net}.{10 + number}")
    found = {name: f"{net}.{10 + number}" for number, name in enumerate(made)}
    return {
        **found,
        **OUTSIDE,
        "neighbour": stranger(cluster, namespace, "neighbour", f"{net}.20"),
        "false controller": stranger(cluster, namespace, "false-controller", f"{net}.21", **CONTROLLER),
        "housemate": stranger(cluster, NAMESPACE, "housemate", f"{net}.22"),
        "prometheus": stranger(cluster, "monitoring", "prometheus", f"{net}.23"),
        "dns": stranger(cluster, "kube-system", "dns", f"{net}.24"),
        "collector": stranger(cluster, "monitoring", "collector", f"{net}.30"),
    }


@pytest.mark.parametrize("name", VALUES)
async def test_P33_connections_pass_as_they_should(cluster: Cluster, tmp_path: Path, name: str) -> None:
    install(cluster, tmp_path / "helm", *VALUES[name])
    for namespace in (f"shop-{name}", "monitoring"):
        cluster.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    where = await addresses(cluster, tmp_path, f"shop-{name}", NETS[name])
    connections = [
        Connection(where[source], where[target], int(port.partition("/")[0]), port.partition("/")[2] or "TCP")
        for source, target, port, *_ in ROWS
    ]
    verdicts = dict(zip(ROWS, allowed(cluster, connections), strict=True))
    column = {"open": 3, "closed": 4}[name]
    assert {row[:3]: passes for row, passes in verdicts.items() if passes != row[column]} == {}
