"""A release is changed and removed: what has nothing to do with it stays as it is."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.stack import ROOT, manifest

from .chart import NAMESPACE, RELEASE, helm, install
from .cluster import Cluster
from .conftest import start_cluster
from .test_rights import ROLES, place, until
from .test_servers import TINY, Object, Site, controller, gone

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CONTROLLER = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
SERVER = "virtrigaud-provider-lab"
MACHINE = {
    "providerRef": {"name": "lab"},
    "classRef": {"name": "tiny"},
    "cdroms": [{"name": "install", "medium": "debian.iso"}],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: releases come and go on it."""
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


def definitions(cluster: Cluster) -> set[str]:
    items = json.loads(cluster.ask(CRDS))["items"]
    return {item["metadata"]["uid"] for item in items if item["spec"]["group"] == "infra.virtrigaud.io"}


def pods(cluster: Cluster) -> list[str]:
    """Phases of the controller's."""
    items = json.loads(cluster.ask(f"/api/v1/namespaces/{NAMESPACE}/pods"))["items"]
    return [item["status"]["phase"] for item in items if item["metadata"]["labels"]["app.kubernetes.io/instance"]]


async def made_as(site: Site, name: str) -> str:
    """Id of a machine, once it runs."""
    found = await site.until("virtualmachines", name, lambda found: power(found) == "On")
    return str(found["status"]["id"])


def power(found: Object | None) -> str:
    return str((found or {}).get("status", {}).get("powerState", ""))


async def test_an_upgrade_and_an_uninstall_leave_servers_and_definitions_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.ask("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    async with (
        place(cluster, tmp_path, "upgraded") as (site, api),
        controller(api, site.kubelet, tmp_path, site.namespace),
    ):
        await until(lambda: pods(cluster) == ["Pending"] * 2)  # made, as the namespace lets nothing else in
        await site.provider()
        await site.ready()
        await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
        for name in ("stays", "goes"):
            await site.create("virtualmachines", manifest("VirtualMachine", name, MACHINE, site.namespace))
        ids = {name: await made_as(site, name) for name in ("stays", "goes")}
        before, made = await site.get("deployments", SERVER), definitions(cluster)
        assert before is not None
        first = json.loads(cluster.ask(CONTROLLER))["spec"]

        install(cluster, tmp_path / "helm", "--set", "logLevel=debug", "--set", "podLabels.team=x")
        second = json.loads(cluster.ask(CONTROLLER))["spec"]
        assert second["template"] != first["template"]
        assert second["selector"] == first["selector"]

        done = helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", home=tmp_path / "helm", cluster=cluster)
        assert done.returncode == 0, done.stderr
        with pytest.raises(urllib.error.HTTPError, match="404"):
            cluster.ask(f"{ROLES}/clusterroles/{RELEASE}")
        assert definitions(cluster) == made, "with a definition all of its objects would have gone"
        await site.delete("virtualmachines", "goes")

        install(cluster, tmp_path / "helm")
        assert definitions(cluster) == made
        assert len(made) == len(list((ROOT / "deploy" / "crds").glob("*.yaml")))
        after = await site.get("deployments", SERVER)
        assert after is not None
        assert (after["metadata"]["uid"], after["metadata"]["generation"]) == (
            before["metadata"]["uid"],
            before["metadata"]["generation"],
        )
        assert [what for what, _ in site.kubelet.seen] == ["started"], "its server ran on"
        await site.ready()
        await site.until("virtualmachines", "goes", lambda found: found is None)  # it has waited for somebody
        await site.patch("virtualmachines", "stays", {"spec": {"powerState": "Off"}})
        found = await site.until("virtualmachines", "stays", lambda found: power(found) == "Off")
        assert found["status"]["id"] == ids["stays"], "found again, and not made again"
        await site.delete("virtualmachines", "stays")
        await gone(site.api, site.path("virtualmachines"))
        await site.delete("providers", "lab")
        await gone(site.api, site.path("providers"))
