"""The quickstart as whoever has a cluster meets it: chart, Provider as a pod, an image by URL, and kubectl."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller.api import connect
from e2e.stack import ROOT, Object, Stack, condition
from libvirtd.private import PrivateLibvirtd

from .chart import NAMESPACE, RELEASE, controller_arguments, install
from .cluster import Cluster
from .conftest import start_cluster
from .kubelet import Kubelet, kubelet
from .test_servers import controller

FOLDERS = (ROOT / "examples" / "quickstart", ROOT / "examples" / "quickstart-cluster")
PLACE = "default"
FLAG = "--provider-image="


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: on the other, the stack's controller would make servers, too."""
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def image_url(guest_image: Path) -> Iterator[str]:
    """Where a web server of ours has the guest."""

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=guest_image.parent)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{guest_image.name}"
        server.shutdown()
        thread.join()


@pytest.fixture
def user(cluster: Cluster, libvirtd: PrivateLibvirtd, guest_image: Path, tmp_path: Path) -> Stack:
    """kubectl on the cluster, and virsh on its hypervisor."""
    stack = Stack(tmp_path / "user", libvirtd, guest_image)
    stack.kubeconfig = cluster.kubeconfig
    return stack


@pytest.fixture
async def node(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Kubelet]:
    """The chart, installed; the controller with its rights and its image of the provider; and a node."""
    install(cluster, tmp_path / "helm", "--set", "providers.images.libvirt=test/provider-libvirt:1")
    told = [each.removeprefix(FLAG) for each in controller_arguments(cluster) if each.startswith(FLAG)]
    images = dict(each.split("=", 1) for each in told)
    account = cluster.account(tmp_path / "account.kubeconfig", NAMESPACE, RELEASE)
    async with connect(str(cluster.kubeconfig)) as admin, connect(str(account)) as api:
        async with kubelet(admin, tmp_path / "pods", PLACE) as node, controller(api, node, tmp_path, PLACE, images):
            yield node
        await asyncio.sleep(0.5)  # connections by TLS are closed a moment later than their client


def objects(uri: str, url: str, image: Path) -> list[Object]:
    """The example, with this hypervisor and this image: without ssh, and with leave to fetch from this machine."""
    found = {}
    for path in [path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))]:
        body = yaml.safe_load(path.read_text())
        found[body["kind"], body["metadata"]["name"]] = body  # the second folder's in place of the first's
    provider, guest = found["Provider", "local"]["spec"], found["VMImage", "guest"]["spec"]["source"]["libvirt"]
    assert "runtime" not in provider, "the chart's default is what is shown here"
    del provider["credentialSecretRef"]
    allowed = {"name": "VIRTRIGAUD_IMAGE_URL_ALLOW", "value": "127.0.0.1"}
    provider |= {"endpoint": uri, "runtime": {"env": [allowed]}}
    guest |= {"url": url, "checksumType": "sha256", "checksum": hashlib.sha256(image.read_bytes()).hexdigest()}
    return list(found.values())


async def away(call: Callable[..., Any], *arguments: Any) -> Any:
    """Run what blocks, while controller and node go on here."""
    return await asyncio.to_thread(call, *arguments)


async def test_the_quickstart_on_a_cluster(
    node: Kubelet, user: Stack, libvirtd: PrivateLibvirtd, image_url: str, guest_image: Path, tmp_path: Path
) -> None:
    bodies = objects(libvirtd.uri, image_url, guest_image)
    wire = next(body for body in bodies if body["kind"] == "VMNetworkAttachment")
    wire["spec"]["network"] = {"libvirt": {"networkName": libvirtd.network}}
    await away(user.apply, *bodies)

    await away(user.wait, "provider", "local", "condition=Ready")
    provider = await away(user.get, "provider", "local")
    assert provider["status"]["runtime"]["mode"] == "Kubernetes"
    assert [said for said, _ in node.seen] == ["started"]

    await away(user.wait, "vm", "web", "jsonpath={.status.ips[0]}")
    web = await away(user.get, "vm", "web")
    assert (web["status"]["phase"], web["status"]["powerState"]) == ("Running", "On")
    assert condition(web, "Ready")["status"] == "True"
    assert user.domains()["default.web"] == "running"

    machine = next(body for body in bodies if body["kind"] == "VirtualMachine")
    machine["spec"]["disks"] = [{"name": "data", "sizeGiB": 1}]
    await away(user.apply, machine)
    generation = (await away(user.get, "vm", "web"))["metadata"]["generation"]
    await away(user.wait, "vm", "web", f"jsonpath={{.status.observedGeneration}}={generation}")
    await away(user.wait, "vm", "web", "condition=SpecApplied")
    assert "-data.qcow2" in user.virsh("domblklist", "default.web")
    await away(user.patch, "vm", "web", {"powerState": "Off"})
    await away(user.wait, "vm", "web", "jsonpath={.status.powerState}=Off")
    assert user.domains()["default.web"] == "shut off"

    for kind, name in (("vm", "web"), ("vmimage", "guest"), ("provider", "local")):
        await away(user.kubectl, "delete", kind, name, "--timeout=60s")
    assert "default.web" not in user.domains()
    assert not [name for name in user.volumes() if "web" in name]
    await node.until(lambda: [said for said, _ in node.seen] == ["started", "ended"])
