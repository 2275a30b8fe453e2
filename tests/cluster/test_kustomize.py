"""The Kustomize base: what the chart makes, taken by a cluster as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from e2e.stack import ROOT

from .chart import NAMESPACE, Object, kustomize
from .cluster import Cluster
from .kustomize import FILE, base

FOLDER = ROOT / "deploy" / "kustomize"


def built(folder: Path) -> list[Object]:
    done = subprocess.run([kustomize(), "build", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "something that kustomize warns of"
    return list(yaml.safe_load_all(done.stdout))


def test_W74_it_is_what_the_chart_makes(cluster: Cluster) -> None:
    assert FILE.read_text() == base(), "run make kustomize"


@pytest.mark.parametrize("name", ["base", "overlays/example"])
def test_a_cluster_takes_all_of_it(cluster: Cluster, name: str) -> None:
    bodies = built(FOLDER / name)
    assert sum(body["kind"] == "CustomResourceDefinition" for body in bodies) == 10
    place = next(body for body in bodies if body["kind"] == "Namespace")
    assert place["metadata"]["name"] == NAMESPACE
    cluster.make(place)
    told = {f"{body['kind']} {body['metadata']['name']}": cluster.try_out(body, NAMESPACE) for body in bodies}
    assert {name: said for name, said in told.items() if said} == {}


def test_the_overlay_changes_what_it_names(cluster: Cluster) -> None:
    (deployment,) = (body for body in built(FOLDER / "overlays" / "example") if body["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/virtrigaud/controller:0.1.0"
    assert container["args"][-1] == "--provider-image=libvirt=registry.example.com/virtrigaud/provider-libvirt:0.1.0"
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
