"""The authority of an installation on a cluster: of cert-manager itself, which is waited for, or of our own making.

It is replaced under a server and a controller that work: nothing is cut off, and no status says otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from common.clock import SystemClock
from controller.api import Api, NotFoundError, connect
from controller.holds import Hold
from controller.runtime.authority import ClusterAuthority
from cryptography import x509
from e2e.stack import condition, manifest

from .chart import NAMESPACE, RELEASE, cert_manager, controller_arguments, define_others, install
from .cluster import Cluster
from .conftest import start_cluster
from .kubelet import kubelet
from .test_servers import SECONDS, TINY, Site, controller, gone, is_ready

WITH_CERT_MANAGER = ("--set", "authority.certManager.enabled=true", "--set", "watchNamespace={}")
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/virtrigaud-authority"
CERTIFICATE = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates/virtrigaud-authority"
NAME = "virtrigaud-provider-lab"

Object = dict[str, Any]  # Any: JSON


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: its authority is changed."""
    for found in start_cluster(tmp_path_factory.mktemp("cluster")):
        define_others(found)
        yield found


@asynccontextmanager
async def issuing(cluster: Cluster, home: Path) -> AsyncIterator[None]:
    """cert-manager runs."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", str(cert_manager()), "--kubeconfig", str(cluster.kubeconfig)]
    with (home / "cert-manager.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
        assert running.returncode is None, (home / "cert-manager.log").read_text()
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


@asynccontextmanager
async def place(cluster: Cluster, home: Path, name: str) -> AsyncIterator[tuple[Site, Api]]:
    """A namespace with a node under it, and the chart with cert-manager's authority, and rights in that namespace."""
    async with connect(str(cluster.kubeconfig)) as admin:
        await admin.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        install(cluster, home / "helm", *(word.format(name) for word in WITH_CERT_MANAGER))
        account = cluster.account(home / "account.kubeconfig", NAMESPACE, RELEASE)
        async with connect(str(account)) as api, kubelet(admin, home / "pods", name) as node:
            yield Site(admin, node, name), api
        await admin.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def site(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A controller, a server that is ready, and cert-manager."""
    name = f"site-{abs(hash(request.node.name)) % 10**8}"
    async with (
        place(cluster, tmp_path, name) as (site, api),
        issuing(cluster, tmp_path),
        controller(api, site.kubelet, tmp_path, name, others_make=True),
    ):
        await site.provider()
        await site.create("vmclasses", manifest("VMClass", "tiny", TINY, name))
        await site.ready()
        yield site
        for kind in ("virtualmachines", "providers"):
            await site.api.request("DELETE", site.path(kind))
            await gone(site.api, site.path(kind))


async def served(site: Site, name: str = "ca.crt") -> list[x509.Certificate]:
    """What the server's Secret holds in a file."""
    secret = await site.get("secrets", NAME)
    assert secret is not None
    return x509.load_pem_x509_certificates(base64.b64decode(secret["data"][name]))


async def authority(site: Site) -> x509.Certificate:
    """What cert-manager has made last. Raises: NotFoundError."""
    found = json.loads(await site.api.request("GET", SECRET))
    return x509.load_pem_x509_certificate(base64.b64decode(found["data"]["tls.crt"]))


# -- waiting -----------------------------------------------------------------------------------------------------------


def may(cluster: Cluster, verb: str, name: str = "") -> bool:
    """Whether the controller has this right to Secrets of its own namespace."""
    attributes = {"verb": verb, "group": "", "resource": "secrets", "namespace": NAMESPACE, "name": name}
    body = {"spec": {"user": f"system:serviceaccount:{NAMESPACE}:{RELEASE}", "resourceAttributes": attributes}}
    answer = json.loads(cluster.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", body))
    return bool(answer["status"]["allowed"])


async def test_cert_managers_authority_is_waited_for_and_used(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The controller is first, and makes none; the Provider says what it waits for."""
    async with place(cluster, tmp_path, "early") as (site, api):
        assert "--no-make-authority" in controller_arguments(cluster)
        assert not may(cluster, "create")
        assert may(cluster, "get", "virtrigaud-authority")
        async with controller(api, site.kubelet, tmp_path, "early", others_make=True):
            await site.provider()
            said = f"Secret {NAMESPACE}/virtrigaud-authority holds no authority yet"
            found = await site.until(
                "providers",
                "lab",
                lambda body: said in condition(body or {}, "ProviderRuntimeReady").get("message", ""),
            )
            assert "kubectl describe certificate" in condition(found, "ProviderRuntimeReady")["message"]
            assert condition(found, "ProviderRuntimeReady")["reason"] == "WaitingForDependencies"
            assert sum("authority.awaited" in record.getMessage() for record in caplog.records) == 1
            assert "virtrigaud-authority" not in names(cluster)

            async with issuing(cluster, tmp_path):
                await site.ready()
            made = await authority(site)
            assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            assert await served(site) == [made]
            (await served(site, "tls.crt"))[0].verify_directly_issued_by(made)
            await site.delete("providers", "lab")
            await gone(site.api, site.path("providers"))
    cluster.ask(SECRET, method="DELETE")


async def test_without_the_right_to_make_one_the_provider_says_why(cluster: Cluster, tmp_path: Path) -> None:
    """The chart gives it only with the flag; whoever takes one without the other is told."""
    async with (
        place(cluster, tmp_path, "no-right") as (site, api),
        controller(api, site.kubelet, tmp_path, "no-right"),
    ):
        await site.provider()
        why = 'cannot create resource "secrets" in API group ""'
        await site.until(
            "providers", "lab", lambda body: why in condition(body or {}, "ProviderRuntimeReady").get("message", "")
        )
        assert "virtrigaud-authority" not in names(cluster)
        await site.delete("providers", "lab")
        await gone(site.api, site.path("providers"))


def names(cluster: Cluster) -> set[str]:
    """Secrets of the controller's namespace."""
    found = json.loads(cluster.ask(f"/api/v1/namespaces/{NAMESPACE}/secrets"))["items"]
    return {each["metadata"]["name"] for each in found}


async def test_controllers_that_start_at_once_agree_on_one(cluster: Cluster, tmp_path: Path) -> None:
    """Without cert-manager whoever is first makes it, and the others take that."""
    clock = SystemClock()
    async with connect(str(cluster.kubeconfig)) as api:
        with pytest.raises(Hold, match=r"default/shared holds no authority yet"):
            await ClusterAuthority(api, "default", "shared", tmp_path / "none", clock, others_make=True).load()
        all_of_them = [ClusterAuthority(api, "default", "shared", tmp_path / str(n), clock) for n in range(8)]
        async with asyncio.TaskGroup() as group:
            loading = [group.create_task(each.load()) for each in all_of_them]
        assert len({each.result().certificate_pem() for each in loading}) == 1
        again = await all_of_them[0].load()
        assert again.certificate_pem() == loading[0].result().certificate_pem()


# -- replacing ---------------------------------------------------------------------------------------------------------


class Witness:
    """Every state of every object of ours in a namespace, as the API told it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.states: list[tuple[str, str, Object]] = []

    async def watch(self, kind: str) -> None:
        path = self._site.path(kind)
        listed = json.loads(await self._site.api.request("GET", path))
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async for line in self._site.api.lines(path, query, 600):
            event = json.loads(line)
            self.states.append((kind, event["type"], event["object"]))

    def unready(self, kind: str, *conditions: str) -> list[Object]:
        """Conditions that were not True in some state, but for the moment in which there is no authority."""
        found = [condition(body, each) for k, event, body in self.states if k == kind for each in conditions]
        return [each for each in found if each.get("status") != "True" and not _between(each)]


def _between(told: Object) -> bool:
    """Somebody looked while the one was gone and the next had not come; the server is called all the same."""
    held = ("Ready", "ProviderRuntimeReady")
    return told["type"] in held and told["reason"] == "WaitingForDependencies"


async def renew(site: Site) -> None:
    """What `cmctl renew` does."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = json.loads(await site.api.request("GET", CERTIFICATE))
    asked = {
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by hand",
        "lastTransitionTime": now.replace("+00:00", "Z"),
    }  # fmt: skip
    conditions = [each for each in found["status"]["conditions"] if each["type"] != "Issuing"] + [asked]
    body = {**found, "status": {**found["status"], "conditions": conditions}}
    await site.api.request("PUT", f"{CERTIFICATE}/status", body=body)


async def lose(site: Site) -> None:
    """The Secret goes, and with it its key: whatever comes is another authority."""
    await site.api.request("DELETE", SECRET)


@pytest.mark.parametrize("change", [renew, lose])
async def test_another_authority_cuts_nothing_off(site: Site, change: Any) -> None:
    before, pods = await authority(site), list(site.kubelet.seen)
    witness = Witness(site)
    async with asyncio.TaskGroup() as group:
        watching = [group.create_task(witness.watch(kind)) for kind in ("providers", "virtualmachines")]
        await site.create("virtualmachines", box("before", site))
        await change(site)
        made = await changed(site, before)
        assert (made.public_key() == before.public_key()) == (change is renew)
        for number in range(12):  # looks of the reconciler, which else come once a minute; a machine on its way in each
            await site.create("virtualmachines", box(f"box-{number}", site))
            await site.patch("providers", "lab", {"metadata": {"annotations": {"look": str(number)}}})
            await asyncio.sleep(1.0)
            if number > 6 and await served(site) == [made]:
                break
        for name in ("before", *(f"box-{each}" for each in range(number + 1))):
            await site.until("virtualmachines", name, is_ready)
        assert await served(site) == [made]
        (await served(site, "tls.crt"))[0].verify_directly_issued_by(made)
        for task in watching:
            task.cancel()
    assert site.kubelet.seen == pods, "the server was started anew"
    assert witness.unready("providers", "Ready", "ProviderAvailable", "TLSConfigured", "ProviderRuntimeReady") == []
    once_ready_stays_ready(witness)


def once_ready_stays_ready(witness: Witness) -> None:
    """No machine was told to be anything else after it was ready, nor to be another one."""
    seen: dict[str, str] = {}
    for kind, _, body in witness.states:
        if kind != "virtualmachines":
            continue
        name, known = body["metadata"]["name"], body.get("status", {}).get("id", "")
        if name in seen:
            assert is_ready(body), (name, body["status"])
            assert known == seen[name]
        elif is_ready(body):
            seen[name] = known
    assert len(seen) >= 8
    assert len(set(seen.values())) == len(seen)


async def changed(site: Site, before: x509.Certificate) -> x509.Certificate:
    """The authority once it is another one."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(NotFoundError):  # between the one and the other
                if (now := await authority(site)) != before:
                    return now
            await asyncio.sleep(0.1)


def box(name: str, site: Site) -> Object:
    spec = {
        "providerRef": {"name": "lab"},
        "classRef": {"name": "tiny"},
        "cdroms": [{"name": "install", "medium": "debian.iso"}],
    }
    return manifest("VirtualMachine", name, spec, site.namespace)
