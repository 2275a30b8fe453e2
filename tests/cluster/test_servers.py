"""Provider servers as Deployments: the controller makes the objects, the cluster makes pods, and a node runs them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common import identity, rpc
from common.clock import SystemClock
from common.rpc.inspection import examine
from common.tls import TlsFiles
from controller.api import Api, NotFoundError, connect
from controller.connection import Target
from controller.controller import Controller
from controller.metrics import Metrics
from controller.objects import CLASSES, IMAGES, NETWORKS, NOT_YET, PROVIDERS, VIRTUAL_MACHINES
from controller.runtime.authority import ClusterAuthority
from controller.runtime.certificates import Certificates
from controller.runtime.kubernetes import KubernetesRuntime
from controller.runtime.manifests import ServerSettings
from controller.settings import Settings
from cryptography import x509
from e2e.stack import condition, manifest
from prometheus_client import CollectorRegistry

from .chart import NAMESPACE, RELEASE, install
from .cluster import Cluster
from .conftest import start_cluster
from .kubelet import Kubelet, kubelet

CANARY = "canary-of-the-hypervisor-password"
IMAGE = "test/fake:1"
SECONDS = 60.0
OURS = {resource.plural for resource in (VIRTUAL_MACHINES, CLASSES, IMAGES, NETWORKS, PROVIDERS, *NOT_YET)}
TINY = {"cpu": 1, "memory": "64Mi", "diskDefaults": {"size": "1Gi"}}

Object = dict[str, Any]  # Any: JSON


class Site:
    """A namespace on the cluster with a node under it, and our controller with the chart's rights."""

    def __init__(self, api: Api, kubelet: Kubelet, namespace: str) -> None:
        self.api, self.kubelet, self.namespace = api, kubelet, namespace

    def path(self, kind: str, name: str = "") -> str:
        """URL of a kind in the namespace, or of one object."""
        group = {"deployments": "/apis/apps/v1", "networkpolicies": "/apis/networking.k8s.io/v1"}.get(kind, "/api/v1")
        if kind in OURS:
            group = "/apis/infra.virtrigaud.io/v1beta1"
        return f"{group}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    async def get(self, kind: str, name: str) -> Object | None:
        try:
            found: Object = json.loads(await self.api.request("GET", self.path(kind, name)))
        except NotFoundError:
            return None
        return found

    async def create(self, kind: str, body: Object) -> None:
        await self.api.request("POST", self.path(kind), body=body)

    async def patch(self, kind: str, name: str, patch: Object) -> None:
        kind_of = "application/merge-patch+json"
        await self.api.request("PATCH", self.path(kind, name), body=patch, content_type=kind_of)

    async def delete(self, kind: str, name: str) -> None:
        await self.api.request("DELETE", self.path(kind, name))

    async def until(self, kind: str, name: str, holds: Callable[[Object | None], bool]) -> Object:
        """Look until something holds of the object; answers with it."""
        found: Object | None = None
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    found = await self.get(kind, name)
                    if holds(found):
                        return found or {}
                    await asyncio.sleep(0.2)
        except TimeoutError:
            shown = {part: value for part, value in (found or {}).items() if part in ("spec", "status")}
            raise AssertionError(f"{kind} {name}: {json.dumps(shown)}") from None

    async def provider(self, name: str = "lab", **spec: Any) -> None:
        runtime = {"mode": "Kubernetes", "image": IMAGE, **spec.pop("runtime", {})}
        whole = {"type": "fake", "endpoint": "fake://lab", "runtime": runtime, **spec}
        await self.create("providers", manifest("Provider", name, whole, self.namespace))

    async def ready(self, name: str = "lab") -> Object:
        return await self.until("providers", name, is_ready)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: on the other, the stack's controller would make servers, too."""
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


def is_ready(found: Object | None) -> bool:
    return found is not None and condition(found, "Ready").get("status") == "True"


@pytest.fixture
async def site(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    install(cluster, tmp_path / "helm")
    name = f"site-{abs(hash(request.node.name)) % 10**8}"
    account = cluster.account(tmp_path / "account.kubeconfig", NAMESPACE, RELEASE)
    async with connect(str(cluster.kubeconfig)) as admin, connect(str(account)) as api:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await admin.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name, "labels": labels}})
        async with kubelet(admin, tmp_path / "pods", name) as node, controller(api, node, tmp_path, name):
            yield Site(admin, node, name)
            for kind in ("virtualmachines", "providers"):
                await admin.request("DELETE", f"/apis/infra.virtrigaud.io/v1beta1/namespaces/{name}/{kind}")
                await gone(admin, f"/apis/infra.virtrigaud.io/v1beta1/namespaces/{name}/{kind}")
        await admin.request("DELETE", f"/api/v1/namespaces/{name}")


async def gone(api: Api, path: str) -> None:
    left = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                left = json.loads(await api.request("GET", path))["items"]
                if not left:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still there: {json.dumps(left)}") from None


@asynccontextmanager
async def controller(
    api: Api,
    node: Kubelet,
    home: Path,
    namespace: str,
    images: dict[str, str] | None = None,
    told: Settings | None = None,
    *,
    others_make: bool = False,
) -> AsyncIterator[Controller]:
    """Ours, in this process; names of Services are looked up at the node, as there is no DNS.

    Args:
        images: image by type of hypervisor, where the Provider names none.
        told: settings of the chart's, from which servers are made.
        others_make: the authority is not the controller's to make.
    """
    told = told or Settings()
    clock, rng = SystemClock(), random.Random(1)

    def runtimes(secrets: Any, changed: Callable[[str], None]) -> dict[str, Any]:
        authority = ClusterAuthority(
            api, NAMESPACE, "virtrigaud-authority", home / "authority", clock, others_make=others_make
        )
        settings = ServerSettings(
            "owner-1", NAMESPACE, images or told.images, otlp_endpoint=told.otlp_endpoint, network=told.network
        )
        certificates = Certificates(home / "servers", home / "clients", NAMESPACE, clock, see)
        runtime = KubernetesRuntime(api, settings, authority, certificates, clock, rng, changed, namespace=namespace)
        return {"Kubernetes": runtime}

    def see(address: str, files: TlsFiles, server: identity.Server) -> Any:
        return examine(node.address_of(address.rpartition(":")[0]), files, server)

    def dial(target: Target) -> Any:
        host = target.address.rpartition(":")[0]
        return rpc.connect(node.address_of(host), target.tls, server=target.server, registry=None)

    running = Controller(
        api, clock, rng, Metrics(CollectorRegistry()), owner="owner-1", runtimes=runtimes,
        default_mode="Kubernetes", namespace=namespace, dial=dial,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        task = group.create_task(running.run())
        try:
            yield running
        finally:
            task.cancel()


async def test_a_provider_gets_its_server_and_machines(site: Site) -> None:
    await site.provider()
    provider = await site.ready()
    assert provider["status"]["runtime"]["endpoint"] == f"virtrigaud-provider-lab.{site.namespace}.svc:9443"
    tls = condition(provider, "TLSConfigured")
    assert tls["status"] == "True", tls

    await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
    spec = {
        "providerRef": {"name": "lab"},
        "classRef": {"name": "tiny"},
        "cdroms": [{"name": "install", "medium": "debian.iso"}],
    }
    await site.create("virtualmachines", manifest("VirtualMachine", "box", spec, site.namespace))
    await site.until("virtualmachines", "box", lambda found: bool(found and found.get("status", {}).get("id")))


async def test_W33_W34_changed_credentials_start_the_server_anew_and_never_two_at_once(site: Site) -> None:
    await site.create("secrets", {"metadata": {"name": "login"}, "stringData": {"password": CANARY}})
    await site.provider(credentialSecretRef={"name": "login"})
    await site.ready()
    before = site.kubelet.seen[-1][1]

    await site.patch("secrets", "login", {"stringData": {"password": CANARY + "-2"}})
    await site.patch("providers", "lab", {"metadata": {"annotations": {"look": "now"}}})  # rather than in a minute

    await site.kubelet.until(lambda: len(site.kubelet.seen) >= 3)
    await site.ready()
    after = site.kubelet.seen[-1][1]
    assert before != after
    assert site.kubelet.seen == [("started", before), ("ended", before), ("started", after)]
    deployment = json.dumps(await site.get("deployments", "virtrigaud-provider-lab"))
    assert CANARY not in deployment
    assert CANARY not in json.dumps(await site.get("providers", "lab"))


async def replaced(site: Site, before: str) -> str:
    """Wait for another pod in the place of one, and never beside it; answers with its name."""
    await site.kubelet.until(lambda: site.kubelet.seen[-1][0] == "started" and site.kubelet.seen[-1][1] != before)
    await site.ready()
    after = site.kubelet.seen[-1][1]
    assert site.kubelet.seen[-3:] == [("started", before), ("ended", before), ("started", after)]
    return after


async def test_W34_another_image_waits_for_what_the_old_server_has_begun(site: Site) -> None:
    """A create that is in the middle is ended, not broken off."""
    slow = [{"name": "VIRTRIGAUD_CREATE_SECONDS", "value": "5"}]
    await site.provider(runtime={"env": slow, "logFormat": "json"})
    await site.ready()
    before = site.kubelet.seen[-1][1]
    await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
    spec = {"providerRef": {"name": "lab"}, "classRef": {"name": "tiny"}, "cdroms": [{"name": "a", "medium": "a.iso"}]}
    await site.create("virtualmachines", manifest("VirtualMachine", "box", spec, site.namespace))
    await site.until("virtualmachines", "box", lambda found: bool(found and found.get("status", {}).get("lastTaskRef")))

    await site.patch("providers", "lab", {"spec": {"runtime": {"image": "test/fake:2"}}})

    await replaced(site, before)
    events = [json.loads(line)["event"] for line in site.kubelet.logs[before].splitlines() if line.startswith("{")]
    assert events.index("machine.create") < events.index("provider.leaving") < events.index("provider.left")
    assert not {"provider.drain.unfinished", "operation.failed", "machine.create.cleared"} & set(events)


async def test_W33_the_controller_makes_another_authority_and_no_server_is_started_anew(site: Site) -> None:
    """One that was removed; how cert-manager's is replaced, and what a call notices, is in test_authority.py."""
    await site.provider()
    await site.ready()
    pods, (before,) = list(site.kubelet.seen), await authorities(site)
    await site.api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/secrets/virtrigaud-authority")

    async with asyncio.timeout(SECONDS):
        for number in itertools.count():  # looks of the reconciler, which else come once a minute
            await site.patch("providers", "lab", {"metadata": {"annotations": {"look": str(number)}}})
            now = await authorities(site)
            if len(now) == 1 and now != [before]:
                break
            await asyncio.sleep(0.5)

    await site.ready()
    assert site.kubelet.seen == pods


async def authorities(site: Site) -> list[x509.Certificate]:
    """Whom the server trusts."""
    secret = await site.get("secrets", "virtrigaud-provider-lab")
    assert secret is not None
    return x509.load_pem_x509_certificates(base64.b64decode(secret["data"]["ca.crt"]))


async def test_a_pod_that_the_namespace_does_not_take_is_told_with_its_reason(site: Site) -> None:
    """Pod Security of the API server's own: ours meets `restricted`, and what a Provider asks for may not."""
    await site.provider(runtime={"securityContext": {"allowPrivilegeEscalation": True}})
    said = 'violates PodSecurity "restricted'
    await site.until(
        "providers", "lab", lambda found: said in condition(found or {}, "ProviderRuntimeReady").get("message", "")
    )
    await site.patch("providers", "lab", {"spec": {"runtime": {"securityContext": None}}})
    await site.ready()


async def test_what_is_edited_or_removed_by_hand_is_put_right(site: Site) -> None:
    await site.provider()
    await site.ready()
    name = "virtrigaud-provider-lab"
    policy = await site.get("networkpolicies", name)
    assert policy is not None

    await site.delete("networkpolicies", name)
    await site.patch("deployments", name, {"spec": {"replicas": 2}})

    uid = policy["metadata"]["uid"]
    await site.until("networkpolicies", name, lambda found: bool(found and found["metadata"]["uid"] != uid))
    await site.until("deployments", name, lambda found: bool(found and found["spec"]["replicas"] == 1))


async def test_an_object_of_somebody_else_is_not_taken_over(site: Site) -> None:
    name = "virtrigaud-provider-lab"
    theirs = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}}}
    await site.create("services", theirs)
    before = await site.get("services", name)

    await site.provider()
    said = "exists and is not of this Provider"
    await site.until(
        "providers", "lab", lambda found: said in condition(found or {}, "ProviderRuntimeReady").get("message", "")
    )

    assert await site.get("services", name) == before
    await site.delete("services", name)
    await site.patch("providers", "lab", {"metadata": {"annotations": {"look": "now"}}})
    await site.ready()


async def test_a_server_works_on_while_it_cannot_be_changed(site: Site) -> None:
    """Its Secret is gone, or the object makes no sense any more; its machines are as manageable as before."""
    await site.provider()
    await site.ready()

    def hindered(reason: str) -> Callable[[Object | None], bool]:
        def told(found: Object | None) -> bool:
            available = condition(found or {}, "ProviderAvailable").get("reason")
            return condition(found or {}, "Ready").get("reason") == reason and available == "Connected"

        return told

    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    await site.patch("providers", "lab", {"spec": {"runtime": {"env": twice}}})
    await site.until("providers", "lab", hindered("InvalidConfiguration"))
    await site.patch("providers", "lab", {"spec": {"runtime": {"env": None}}})
    await site.ready()
    await site.patch("providers", "lab", {"spec": {"credentialSecretRef": {"name": "nowhere"}}})
    await site.until("providers", "lab", hindered("WaitingForDependencies"))


async def test_a_pod_that_cannot_run_is_told_with_its_reason(site: Site) -> None:
    await site.provider(runtime={"image": "elsewhere/none:1"})
    found = await site.until(
        "providers",
        "lab",
        lambda found: "ErrImagePull" in condition(found or {}, "ProviderRuntimeReady").get("message", ""),
    )
    assert "no such image: elsewhere/none:1" in condition(found, "ProviderRuntimeReady")["message"]

    await site.patch("providers", "lab", {"spec": {"runtime": {"image": IMAGE}}})
    await site.ready()


async def test_a_provider_that_goes_takes_its_server_along(site: Site) -> None:
    await site.provider()
    await site.ready()
    await site.delete("providers", "lab")
    await site.until("providers", "lab", lambda found: found is None)
    for kind in ("deployments", "services", "serviceaccounts", "networkpolicies", "secrets"):
        await site.until(kind, "virtrigaud-provider-lab", lambda found: found is None)


async def test_a_server_that_is_settled_costs_no_writes(site: Site) -> None:
    await site.provider()
    await site.ready()
    kinds = ("deployments", "services", "serviceaccounts", "networkpolicies", "secrets")

    async def versions() -> list[str]:
        found = [await site.get(kind, "virtrigaud-provider-lab") for kind in kinds]
        return [str(each and each["metadata"]["resourceVersion"]) for each in found]

    before = await versions()
    for number in range(3):
        await site.patch("providers", "lab", {"metadata": {"annotations": {"look": str(number)}}})
        await site.until("providers", "lab", lambda found: bool(found))
        await asyncio.sleep(0.5)
    assert await versions() == before
