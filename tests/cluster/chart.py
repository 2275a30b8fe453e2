"""The chart, installed as a user installs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from e2e.stack import ROOT
from tools.gomodule import released

from .cluster import Cluster

CHART = ROOT / "deploy" / "helm" / "virtrigaud"
HELM = "v4.3.1"
NAMESPACE, RELEASE = "virtrigaud-system", "virtrigaud"

Object = dict[str, Any]  # Any: JSON


def executable() -> Path:
    """helm itself, built if it is not yet. Raises: GoUnavailableError."""
    return released("helm.sh/helm/v4/cmd/helm", HELM)


def helm(*arguments: str, home: Path, cluster: Cluster | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm, with a home of its own.

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
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


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
