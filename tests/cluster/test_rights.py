"""The chart's rights, held against what the API server's audit log says: each is used, and none is missing.

A right too few is told in the server's own words, by the log, /readyz or the object: which verb, on which resource.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common.clock import SystemClock
from common.pki import Authority
from controller.api import Api, connect
from controller.claims import Claim, Installation
from controller.events import WARNING, Recorder, Subject
from controller.installation import owner_id
from controller.leader import Leader, LeaseSettings
from e2e.stack import condition, manifest

from .chart import NAMESPACE, RELEASE, install
from .cluster import Cluster
from .conftest import start_cluster
from .kubelet import kubelet
from .test_servers import IMAGE, SECONDS, TINY, Site, controller, gone, is_ready

ROLES = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
LEASE = LeaseSettings(NAMESPACE, RELEASE, "this-test")

Object = dict[str, Any]  # Any: JSON
Right = tuple[str, str, str]
"""Verb, API group, and resource with its subresource."""

NOT_YET = {
    "vmclones": manifest("VMClone", "any", {"source": {"vmRef": {"name": "box"}}, "target": {"name": "copy"}}),
    "vmmigrations": manifest(
        "VMMigration", "any",
        {"source": {"vmRef": {"name": "box"}}, "target": {"name": "box", "providerRef": {"name": "lab"}}},
    ),
    "vmplacementpolicies": manifest("VMPlacementPolicy", "any", {}),
    "vmsets": manifest(
        "VMSet", "any",
        {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"classRef": {"name": "tiny"}, "providerRef": {"name": "lab"}},
            },
        },
    ),
    "vmsnapshots": manifest("VMSnapshot", "any", {"vmRef": {"name": "box"}}),
}  # fmt: skip


class Late(SystemClock):
    """The time of day, some hours later if told so."""

    later = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of our own: its audit log holds what these tests do alone."""
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


@asynccontextmanager
async def place(cluster: Cluster, home: Path, name: str) -> AsyncIterator[tuple[Site, Api]]:
    """A namespace with a node under it, and the API as the chart's account has it."""
    install(cluster, home / "helm")
    account = cluster.account(home / "account.kubeconfig", NAMESPACE, RELEASE)
    async with connect(str(cluster.kubeconfig)) as admin, connect(str(account)) as api:
        await admin.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        async with kubelet(admin, home / "pods", name) as node:
            yield Site(admin, node, name), api
        await admin.request("DELETE", f"/api/v1/namespaces/{name}")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.05)


def granted(cluster: Cluster) -> set[Right]:
    """All that the account has a right to, wherever."""
    paths = (
        f"clusterroles/{RELEASE}",
        f"namespaces/{NAMESPACE}/roles/{RELEASE}",
        f"namespaces/default/roles/{NAMESPACE}-{RELEASE}-installation",
    )
    rules = [rule for path in paths for rule in json.loads(cluster.ask(f"{ROLES}/{path}"))["rules"]]
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used(cluster: Cluster) -> set[Right]:
    """All that it asked for, and got."""
    rights = set()
    for request in cluster.audited():
        assert request["user"]["username"] == ACCOUNT
        assert request["responseStatus"]["code"] != 403, request
        what = request["objectRef"]
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        verbs = [request["verb"]]
        if request["verb"] == "patch" and request["responseStatus"]["code"] == 201:
            verbs.append("create")  # an apply of what was not there needs both
        rights |= {(verb, what.get("apiGroup", ""), resource) for verb in verbs}
    return rights


async def test_P34_every_right_is_used_and_none_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    """A whole life: who leads, a server and its end, a machine, what is not there yet, an Event that is repeated."""
    async with place(cluster, tmp_path, "rights") as (site, api):

        async def claim(namespace: str) -> None:
            await Claim(api, SystemClock(), random.Random(1), Installation(NAMESPACE, RELEASE, namespace)).obtain()

        async def lead() -> None:
            await claim("elsewhere")
            await claim(site.namespace)  # the chart was upgraded with another watchNamespace
            async with controller(api, site.kubelet, tmp_path, site.namespace):
                await life(site)

        assert await owner_id(api)
        cluster.ask(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{RELEASE}", method="DELETE")
        await Leader(api, SystemClock(), random.Random(1), LEASE).run(lead)
        await repeated_event(cluster, api, site)

    assert granted(cluster) == used(cluster)


async def life(site: Site) -> None:
    await site.provider(runtime={"image": "elsewhere/none:1"})
    await site.until("providers", "lab", says("ProviderRuntimeReady", "ErrImagePull"))
    await site.patch("providers", "lab", {"spec": {"runtime": {"image": IMAGE}}})
    await site.ready()
    await site.create("secrets", {"metadata": {"name": "boot"}, "stringData": {"user-data": "#cloud-config\n"}})
    await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
    image = {"source": {"http": {"url": "https://images.example/small.qcow2"}}}
    await site.create("vmimages", manifest("VMImage", "small", image, site.namespace))
    await site.create("vmnetworkattachments", manifest("VMNetworkAttachment", "wire", WIRE, site.namespace))
    await site.create("virtualmachines", box(site.namespace))
    await site.until("virtualmachines", "box", is_ready)
    for kind, body in NOT_YET.items():
        await site.create(kind, {**body, "metadata": {"name": "any", "namespace": site.namespace}})
        await site.until(kind, "any", lambda body: bool(condition(body or {}, "Ready")))
    for kind in ("vmclasses/tiny", "vmnetworkattachments/wire"):
        await site.until(*kind.split("/"), lambda body: bool(body and body.get("status")))
    for kind in ("virtualmachines", "vmimages", "providers"):
        await site.api.request("DELETE", site.path(kind))
        await gone(site.api, site.path(kind))


WIRE = {"network": {"libvirt": {"networkName": "default"}}}


def box(namespace: str) -> Object:
    return manifest(
        "VirtualMachine",
        "box",
        {
            "providerRef": {"name": "lab"},
            "classRef": {"name": "tiny"},
            "imageRef": {"name": "small"},
            "networks": [{"name": "eth0", "networkRef": {"name": "wire"}}],
            "userData": {"cloudInit": {"secretRef": {"name": "boot"}}},
        },
        namespace,
    )


async def repeated_event(cluster: Cluster, api: Api, site: Site) -> None:
    """Once, and once more after the time in which a repeated one is not written."""
    clock = Late()
    recorder = Recorder(api, clock)
    subject = Subject("infra.virtrigaud.io/v1beta1", "Provider", site.namespace, "lab", "any-uid")

    def counted(wanted: int) -> Callable[[], bool]:
        def holds() -> bool:
            events = json.loads(cluster.ask(site.path("events")))["items"]
            mine = [event["count"] for event in events if event["involvedObject"].get("uid") == "any-uid"]
            return mine == [wanted]

        return holds

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(recorder.run())
        for wanted in (1, 2):
            recorder.record(subject, WARNING, "Unavailable", "it does not answer")
            clock.later = 3600.0
            await until(counted(wanted))
        writing.cancel()


# -- a right too few ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def without(cluster: Cluster, right: Right, role: str = f"clusterroles/{RELEASE}") -> AsyncIterator[None]:
    """The account lacks a right inside of this context."""
    path = f"{ROLES}/{role}"
    before = json.loads(cluster.ask(path))
    verb, group, resource = right
    rules = []
    for rule in before["rules"]:
        concerned = verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
        others = [each for each in rule["resources"] if each != resource]
        if not concerned:
            rules.append(rule)
            continue
        rules += [{**rule, "resources": others}] if others else []
        rules += [{**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]}]
    rules = [rule for rule in rules if rule["verbs"]]
    cluster.ask(path, {**before, "metadata": {"name": RELEASE}, "rules": rules}, "PUT")
    try:
        await refused(cluster, right)
        yield
    finally:
        cluster.ask(path, {**before, "metadata": {"name": RELEASE, "labels": before["metadata"]["labels"]}}, "PUT")


async def refused(cluster: Cluster, right: Right) -> None:
    """Wait until the API server knows."""
    verb, group, resource = right
    name, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": NAMESPACE}
    body = {"spec": {"user": ACCOUNT, "resourceAttributes": asked}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    await until(lambda: not json.loads(cluster.ask(path, body))["status"]["allowed"])


def told(right: Right) -> str:
    """What the API server says of it."""
    verb, group, resource = right
    return f'cannot {verb} resource "{resource}" in API group "{group}"'


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await until(lambda: any(text in each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING))


LIST = ("list", "infra.virtrigaud.io", "vmclasses")
STATUS = ("patch", "infra.virtrigaud.io", "vmclasses/status")
OBJECT = ("patch", "apps", "deployments")
SECRET = ("get", "", "secrets")
HOLDER = ("patch", "coordination.k8s.io", "leases")


async def test_without_a_right_to_list_it_is_not_ready_and_says_why(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        place(cluster, tmp_path, "no-list") as (site, api),
        without(cluster, LIST),
        controller(api, site.kubelet, tmp_path, site.namespace) as running,
    ):
        await logged(caplog, told(LIST))
        await until(lambda: len(running.problems()) == 1)  # the other caches are filled a moment later
        (problem,) = running.problems()
        assert problem.startswith("cache of VMClass is not filled yet: ")
        assert told(LIST) in problem


async def test_without_a_right_to_a_status_the_log_says_why(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        place(cluster, tmp_path, "no-status") as (site, api),
        without(cluster, STATUS),
        controller(api, site.kubelet, tmp_path, site.namespace),
    ):
        await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
        await logged(caplog, told(STATUS))


async def test_without_a_right_to_make_servers_the_provider_says_why(cluster: Cluster, tmp_path: Path) -> None:
    async with (
        place(cluster, tmp_path, "no-servers") as (site, api),
        controller(api, site.kubelet, tmp_path, site.namespace),
    ):
        async with without(cluster, OBJECT):
            await site.provider()
            await site.until("providers", "lab", says("ProviderRuntimeReady", told(OBJECT)))
        await site.patch("providers", "lab", {"metadata": {"annotations": {"look": "now"}}})
        await site.ready()
        await site.delete("providers", "lab")
        await gone(site.api, site.path("providers"))


async def test_without_a_right_to_secrets_the_machine_says_why(cluster: Cluster, tmp_path: Path) -> None:
    async with (
        place(cluster, tmp_path, "no-secrets") as (site, api),
        controller(api, site.kubelet, tmp_path, site.namespace),
    ):
        await site.provider()
        await site.ready()
        await site.create("secrets", {"metadata": {"name": "boot"}, "stringData": {"user-data": "#cloud-config\n"}})
        await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
        image = {"source": {"http": {"url": "https://images.example/small.qcow2"}}}
        await site.create("vmimages", manifest("VMImage", "small", image, site.namespace))
        await site.create("vmnetworkattachments", manifest("VMNetworkAttachment", "wire", WIRE, site.namespace))
        async with without(cluster, SECRET):
            await site.create("virtualmachines", box(site.namespace))
            await site.until("virtualmachines", "box", says("Ready", told(SECRET)))
            await site.patch("providers", "lab", {"metadata": {"annotations": {"look": "now"}}})
            await site.until("providers", "lab", says("ProviderRuntimeReady", told(SECRET)))
            await site.delete("virtualmachines", "box")  # that needs no Secret, and the server runs on
            await gone(site.api, site.path("virtualmachines"))
        for kind in ("vmimages", "providers"):
            await site.api.request("DELETE", site.path(kind))
            await gone(site.api, site.path(kind))


async def test_without_a_right_to_the_lease_the_log_says_why(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def lead() -> None:
        raise AssertionError("it leads without a Lease")

    role = f"namespaces/{NAMESPACE}/roles/{RELEASE}"
    async with (
        place(cluster, tmp_path, "no-lease") as (_, api),
        without(cluster, HOLDER, role),
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(Leader(api, SystemClock(), random.Random(1), LEASE).run(lead))
        await logged(caplog, told(HOLDER))
        waiting.cancel()


# -- no right at all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "authority", "why"),
    [
        ("a token of nobody's", "", "Unauthorized"),
        ("", "", 'User "system:anonymous" cannot list resource "providers"'),
        ("an-unused-token", "another", "certificate verify failed"),
    ],
    ids=["wrong token", "no token", "wrong authority"],
)
async def test_a_controller_that_nobody_knows_is_not_ready_and_says_why(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str, authority: str, why: str
) -> None:
    """Its own token, and the authority that it takes the API server to be of."""
    install(cluster, tmp_path / "helm")  # for the kinds
    file = cluster.write_kubeconfig(tmp_path / "kubeconfig", token)
    config = json.loads(file.read_text())
    if not token:
        config["users"][0]["user"] = {}
    if authority:
        Authority.create(tmp_path / "another")
        config["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / "another" / "ca.crt")
    file.write_text(json.dumps(config))
    async with (
        connect(str(cluster.kubeconfig)) as admin,
        connect(str(file)) as api,
        kubelet(admin, tmp_path / "pods", "default") as node,
        controller(api, node, tmp_path, "default") as running,
    ):
        await logged(caplog, why)
        await until(lambda: any(why in problem for problem in running.problems()))
    assert not token or token not in caplog.text


def says(kind: str, text: str) -> Callable[[Object | None], bool]:
    """A condition's message holds a text."""
    return lambda body: text in condition(body or {}, kind).get("message", "")
