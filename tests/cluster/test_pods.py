"""The chart's pods where everything of a cluster but the nodes' own part is real: admission, scheduler, evictions."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.stack import ROOT

from .chart import NAMESPACE, RELEASE, helm, install
from .cluster import Cluster, Object
from .conftest import start_cluster

SECONDS = 60.0
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MERGE = "application/merge-patch+json"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
ROOM = {"cpu": "4", "memory": "8Gi", "pods": "20"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own, with a scheduler, two nodes, and a namespace that takes restricted pods alone."""
    for cluster in start_cluster(tmp_path_factory.mktemp("cluster"), scheduler=True):
        for name in ("one", "two"):
            labels = {"kubernetes.io/hostname": name}
            cluster.make({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
            ready = [{"type": "Ready", "status": "True"}]
            status = {"status": {"capacity": ROOM, "allocatable": ROOM, "conditions": ready}}
            cluster.ask(f"/api/v1/nodes/{name}/status", status, "PATCH", MERGE)
        cluster.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
        yield cluster


async def pods(cluster: Cluster, count: int = 2) -> list[Object]:
    """Of the controller, each on a node; as many as there should be."""
    found: list[Object] = []
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                found = [pod for pod in json.loads(cluster.ask(PODS))["items"] if "nodeName" in pod["spec"]]
                if len(found) == count:
                    return found
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(cluster.ask(PODS).decode() + cluster.log()) from None


def say_ready(cluster: Cluster, pod: Object) -> None:
    """What a kubelet says of a pod that is well."""
    conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
    status = {"status": {"phase": "Running", "conditions": conditions}}
    cluster.ask(f"{PODS}/{pod['metadata']['name']}/status", status, "PATCH", MERGE)


def evict(cluster: Cluster, pod: Object) -> int:
    """As a drain of its node does; answers with the API server's verdict."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    try:
        cluster.ask(f"{PODS}/{pod['metadata']['name']}/eviction", body)
    except urllib.error.HTTPError as error:
        return error.code
    return 201


def test_a_pod_that_is_not_restricted_is_refused_there(cluster: Cluster) -> None:
    """The tests below can fail."""
    container = {"name": "any", "image": "any", "securityContext": {"allowPrivilegeEscalation": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": {"containers": [container]}}
    assert 'violates PodSecurity "restricted' in cluster.try_out(pod, NAMESPACE)


async def test_controllers_are_restricted_pods_on_different_nodes(cluster: Cluster, tmp_path: Path) -> None:
    install(cluster, tmp_path / "helm")
    found = await pods(cluster)
    assert {pod["spec"]["nodeName"] for pod in found} == {"one", "two"}


async def test_drains_of_nodes_take_one_controller_at_a_time(cluster: Cluster, tmp_path: Path) -> None:
    install(cluster, tmp_path / "helm")
    first, second = await pods(cluster)
    for pod in (first, second):
        say_ready(cluster, pod)
    path = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{RELEASE}"
    async with asyncio.timeout(SECONDS):
        while json.loads(cluster.ask(path))["status"].get("currentHealthy") != 2:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.2)
    assert evict(cluster, first) == 201
    assert evict(cluster, second) == 429, "no controller would be left"


def test_what_the_operator_guide_tells_to_type_works(cluster: Cluster, tmp_path: Path) -> None:
    """Word by word, on a cluster that knows nothing of us."""
    text = (ROOT / "docs" / "operators.md").read_text()
    lines = re.findall(r"^\$ (helm .*|kubectl (?:create|get) .*)$", text, re.M)
    assert sum(line.startswith("helm") for line in lines) == 2
    for line in lines:
        command, *words = line.split()
        if command == "helm":
            done = helm(*words, home=tmp_path, cluster=cluster, folder=ROOT)
        else:
            kubectl = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *words]
            done = subprocess.run(kubectl, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for name in ("lab", RELEASE):  # the tests above are done with it
        done = helm("uninstall", name, "-n", f"{name}-system", home=tmp_path, cluster=cluster)
        assert done.returncode == 0, done.stderr
    assert json.loads(cluster.ask("/apis/infra.virtrigaud.io/v1beta1"))["resources"], "the definitions went along"
