"""The chart, installed as a user installs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from e2e.stack import ROOT
from tools.gomodule import files, program, released

from .cluster import Cluster

CHART = ROOT / "deploy" / "helm" / "virtrigaud"
HELM = "v4.3.1"
KUSTOMIZE = "v5.8.2"
OTHERS = {
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0", "example/prometheus-operator-crd"): (
        "monitoring.coreos.com_servicemonitors.yaml",
        "monitoring.coreos.com_prometheusrules.yaml",
    ),
    ("github.com/cert-manager/cert-manager", "v1.21.2", "deploy/crds"): (
        "cert-manager.io_certificaterequests.yaml",
        "cert-manager.io_certificates.yaml",
        "cert-manager.io_clusterissuers.yaml",
        "cert-manager.io_issuers.yaml",
    ),
}
"""Whose kinds the chart makes: modules by name, and the files of their definitions."""
NAMESPACE, RELEASE = "virtrigaud-system", "virtrigaud"

Object = dict[str, Any]  # Any: JSON


def executable() -> Path:
    """helm itself, built if it is not yet. Raises: GoUnavailableError."""
    return released("helm.sh/helm/v4/cmd/helm", HELM)


def kustomize() -> Path:
    """kustomize, built if it is not yet; Debian's kubectl has one of 2019. Raises: GoUnavailableError."""
    return released("sigs.k8s.io/kustomize/kustomize/v5", KUSTOMIZE)


def definitions_of_others() -> list[Object]:
    """As their projects publish them. Raises: GoUnavailableError."""
    return [yaml.safe_load((files(*module) / name).read_text()) for module, names in OTHERS.items() for name in names]


def define_others(cluster: Cluster) -> None:
    """Have the kinds of others served."""
    for body in definitions_of_others():
        name = body["metadata"]["name"]
        cluster.ask("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
        cluster.wait_for(f"/apis/{body['spec']['group']}/v1/{name.partition('.')[0]}")


def cert_manager() -> Path:
    """cert-manager's controller, of the same version as its definitions. Raises: GoUnavailableError."""
    return program(Path(__file__).resolve().parents[1] / "tools" / "certmanager")


def rendered(home: Path, *arguments: str) -> list[Object]:
    """What `helm template` makes."""
    done = helm("template", RELEASE, str(CHART), "-n", NAMESPACE, *arguments, home=home)
    assert done.returncode == 0, done.stderr
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def helm(
    *arguments: str, home: Path, cluster: Cluster | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run helm, with a home of its own, in a folder.

    Raises:
        GoUnavailableError: it cannot be built here.
    """
    environment = {
        **os.environ,
        "HELM_DATA_HOME": str(home),
        "HELM_CONFIG_HOME": str(home),
        "HELM_CACHE_HOME": str(home),
    }
    if cluster is not None:
        environment["KUBECONFIG"] = str(cluster.kubeconfig)
    command = [str(executable()), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=folder
    )


def install(cluster: Cluster, home: Path, *arguments: str) -> str:
    """Install or upgrade the release; answers with what helm says."""
    command = ["upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "--create-namespace", *arguments]
    done = helm(*command, home=home, cluster=cluster)
    assert done.returncode == 0, done.stderr
    return done.stdout


def controller_arguments(cluster: Cluster) -> list[str]:
    """What the chart tells the controller, as the cluster has it."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
    deployment: Object = json.loads(cluster.ask(path))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return list(container["args"])
