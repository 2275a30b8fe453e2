"""The chart: what it refuses, what it makes, and that nothing of it is more than the controller needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from e2e.stack import ROOT

from .chart import CHART, NAMESPACE, RELEASE, helm, install
from .cluster import Cluster
from .stack import ClusterStack

EVERYTHING = (
    *("--set", "authority.certManager.enabled=true", "--set", "metrics.serviceMonitor.enabled=true"),
    *("--set", "watchNamespace=shop", "--set", "owner=here", "--set", "otlpEndpoint=http://collector:4317"),
    *("--set", "priorityClassName=high", "--set", "imagePullSecrets={pull}", "--set", "extraArgs={--resync=5m}"),
)


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["as it is", "everything"])
def test_it_passes_its_own_linter(tmp_path: Path, cluster: Cluster, values: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), *values, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("replicas=-1", "/replicas"),
        ("leaderElection.duration=soon", "/leaderElection/duration"),
        ("providers.images.vmware=x", "/providers/images"),
        ("image.digest=sha256:1", "/image/digest"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_named(tmp_path: Path, cluster: Cluster, value: str, where: str) -> None:
    done = helm("template", RELEASE, str(CHART), "--set", value, home=tmp_path)
    assert done.returncode != 0
    assert where in done.stderr


@pytest.mark.parametrize("values", [(), ("--set", "watchNamespace=default")], ids=["everywhere", "one namespace"])
def test_a_cluster_takes_all_of_it(tmp_path: Path, cluster: Cluster, values: tuple[str, ...]) -> None:
    """The API server validates each object against its schema."""
    install(cluster, tmp_path, "--dry-run=server", *values)


def test_the_definitions_arrive_as_they_are(stack: ClusterStack) -> None:
    for file in (ROOT / "deploy" / "crds").glob("*.yaml"):
        wanted = yaml.safe_load(file.read_text())
        served = json.loads(stack.kubectl("get", "crd", wanted["metadata"]["name"], "-o", "json"))
        assert served["spec"]["versions"] == wanted["spec"]["versions"]
        assert served["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    "may_not",
    [
        ("list", "secrets"),
        ("delete", "virtualmachines.infra.virtrigaud.io"),
        ("update", "virtualmachines.infra.virtrigaud.io"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("get", "nodes"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
    ],
)
def test_the_controller_may_do_no_more_than_it_needs(stack: ClusterStack, may_not: tuple[str, str]) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert stack.refused("auth", "can-i", *may_not, "--as", account, "-A") == ""
