"""VMImages and Providers end to end: what is prepared where, what is said when it cannot be, what is kept secret."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio
from common import v1
from common.errors import DownloadFailedError
from controller_harness import (
    CLASS,
    IMAGE,
    OWNER,
    Cluster,
    because,
    condition,
    controller,
    furnish,
    hypervisor,
    machine,
    ready,
    until,
)
from providerkit.driver import Progress
from providerkit.fake import FakeDriver

pytestmark = pytest.mark.asyncio(loop_scope="session")
VM, URL = "VirtualMachine", "http://images.example/guest.qcow2"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The home of the controller that runs for this module."""
    directory = tmp_path_factory.mktemp("home")
    async with controller(cluster, directory, "--owner", OWNER, "--lease-name", "images"):
        yield directory


async def annotate(cluster: Cluster, kind: str, namespace: str, name: str, word: str) -> None:
    await cluster.patch(kind, namespace, name, {"metadata": {"annotations": {"look": word}}})


async def test_W38_one_image_has_a_state_per_provider(cluster: Cluster, home: Path, namespace: str):
    """It fails on one provider and is ready on the other; the machines see the state of their own."""
    async with hypervisor() as (good, provider), hypervisor() as (bad, other):
        await furnish(cluster, namespace, **provider)
        await cluster.create("Provider", namespace, "other", other)
        await cluster.patch("VMImage", namespace, "guest", {"spec": {"prepare": {"retries": 0}}})
        bad.fail("prepare_image", DownloadFailedError("fetch image: the disk of the mirror is full"))
        await cluster.create(VM, namespace, "web", machine())
        await cluster.create(VM, namespace, "db", machine(providerRef={"name": "other"}))
        await cluster.wait(VM, namespace, "web", ready)
        waiting = await cluster.wait(
            VM, namespace, "db", lambda i: "mirror is full" in condition(i, "Ready")["message"]
        )
        assert waiting["status"]["phase"] == "Pending"
        image = await cluster.wait("VMImage", namespace, "guest", because("DownloadFailed"))
        told = image["status"]["providerStatus"]
        assert told[f"{namespace}/fake"]["available"] is True
        assert told[f"{namespace}/other"]["available"] is False
        assert "retries are spent" in told[f"{namespace}/other"]["message"]
        assert image["status"]["availableOn"] == [f"{namespace}/fake"]
        assert (len(good.images), len(bad.images), len(bad.machines)) == (1, 0, 0)
        assert bad.calls["prepare_image"] == 1
        await annotate(cluster, "VMImage", namespace, "guest", "again")
        await cluster.wait(VM, namespace, "db", ready)
        image = await cluster.wait("VMImage", namespace, "guest", ready)
        assert image["status"]["availableOn"] == [f"{namespace}/fake", f"{namespace}/other"]
        assert good.calls["prepare_image"] == 1


SOURCES = [
    ({"registry": {"image": "images.example/guest:1"}}, "source"),
    ({"registry": {"image": "images.example/guest:1", "pullSecretRef": {"name": "p"}}}, "pullSecretRef"),
    ({"dataVolume": {"name": "d"}}, "spec.source.dataVolume"),
    ({"vsphere": {"contentLibrary": {"library": "l", "item": "i"}}}, "source"),
    ({"libvirt": {}}, "neither is given"),
    ({"http": {"url": URL, "authentication": {"clientCert": {"secretRef": {"name": "c"}}}}}, "clientCert"),
]


async def test_W41_sources_that_are_not_supported_say_so(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        for number, (source, _) in enumerate(SOURCES):
            await cluster.create("VMImage", namespace, f"image{number}", {"source": source})
            image = {"name": f"image{number}"}
            await cluster.create(VM, namespace, f"web{number}", machine(imageRef=image))
        for number, (_, words) in enumerate(SOURCES):
            told = await cluster.wait(
                "VMImage", namespace, f"image{number}", lambda i: i.get("status", {}).get("phase") == "Failed"
            )
            assert condition(told, "Ready")["reason"] in ("UnsupportedByProvider", "ValidationError")
            assert words in condition(told, "Ready")["message"]
            await cluster.wait(VM, namespace, f"web{number}", lambda i, w=words: w in condition(i, "Ready")["message"])
        assert not world.machines
        assert not world.images


@pytest.mark.parametrize(("wish", "reason"), [("Fail", "MissingOnProvider"), ("Wait", "WaitingForImage")])
async def test_on_missing_fail_and_wait(cluster: Cluster, home: Path, namespace: str, wish: str, reason: str):
    """Nothing is fetched; what somebody else prepares meanwhile is used."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.patch("VMImage", namespace, "guest", {"spec": {"prepare": {"onMissing": wish}}})
        await cluster.create(VM, namespace, "web", machine())
        image = await cluster.wait("VMImage", namespace, "guest", because(reason))
        assert image["status"]["phase"] == ("Failed" if wish == "Fail" else "Pending")
        waiting = await cluster.wait(VM, namespace, "web", because("WaitingForDependencies"))
        assert waiting["status"]["phase"] == "Pending"
        assert world.calls["prepare_image"] == 0
        source = v1.ImageSource(url=v1.UrlSource(url=URL))
        request = v1.PrepareImageRequest(uid=image["metadata"]["uid"], name="guest", source=source)
        await FakeDriver(world, owner=OWNER).prepare_image(request, lambda *_: None)
        await annotate(cluster, "VMImage", namespace, "guest", "again")
        await cluster.wait(VM, namespace, "web", ready)
        assert world.calls["prepare_image"] == 1


class Listening(FakeDriver):
    """A provider that remembers what it was sent."""

    headers: ClassVar[dict[str, dict[str, str]]] = {}

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        self.headers[request.name] = dict(request.source.url.headers)
        return await super().prepare_image(request, progress)


async def test_W41_W76_image_credentials_reach_the_provider_and_nobody_else(
    cluster: Cluster, home: Path, namespace: str
):
    canary = "canary-40f2ab"
    coded = base64.b64encode(f"robot:{canary}".encode()).decode()
    async with hypervisor(Listening) as (world, provider):
        await furnish(cluster, namespace, **provider)
        for name, kind in (("token", "bearer"), ("login", "basicAuth")):
            auth = {kind: {"secretRef": {"name": "images"}}}
            http = {"url": f"{URL}?{name}", "headers": {"X-Team": "blue"}, "authentication": auth}
            prepare = {"prepare": {"retries": 0}}
            await cluster.create("VMImage", namespace, name, {"source": {"http": http}, **prepare})
            await cluster.create(VM, namespace, name, machine(imageRef={"name": name}))
            waiting = await cluster.wait(VM, namespace, name, lambda i: "Secret" in condition(i, "Ready")["message"])
            assert f"Secret {namespace}/images" in condition(waiting, "Ready")["message"]
        await cluster.secret(namespace, "images", token=canary, username="robot", password=canary)
        told = ""
        for name, word in (("token", canary), ("login", coded)):
            world.fail("prepare_image", DownloadFailedError(f"fetch image: 403 for {word}"))
            await annotate(cluster, "VMImage", namespace, name, "go")
            refused = await cluster.wait("VMImage", namespace, name, because("DownloadFailed"))
            assert "403 for [redacted]" in condition(refused, "Ready")["message"]
            told += str(refused)
            await annotate(cluster, "VMImage", namespace, name, "again")
            await cluster.wait(VM, namespace, name, ready)
        assert Listening.headers["token"] == {"X-Team": "blue", "Authorization": f"Bearer {canary}"}
        assert Listening.headers["login"] == {"X-Team": "blue", "Authorization": f"Basic {coded}"}
        told += str(await cluster.events(namespace)) + (home / "controller.log").read_text()
        for kind in ("VMImage", "VirtualMachine", "Provider"):
            told += str(await cluster.request("GET", cluster.path(kind, namespace)))
        assert canary not in told
        assert coded not in told


async def test_W24_W29_wishes_that_nobody_fulfils_are_named_once(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider, insecureSkipVerify=True)
        await cluster.patch("VMImage", namespace, "guest", {"spec": {"prepare": {"force": True}}})
        await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", ready)
        for kind, name, field in (
            ("Provider", "fake", "spec.insecureSkipVerify"),
            ("VMImage", "guest", "spec.prepare.force"),
        ):
            found = await cluster.wait(kind, namespace, name, lambda i: condition(i, "FieldsIgnored")["status"])
            assert condition(found, "FieldsIgnored")["message"].startswith(f"{field}: ")
            await until(lambda n=name: _told_once(cluster, namespace, n), "the event")
        await cluster.patch("Provider", namespace, "fake", {"spec": {"insecureSkipVerify": False}})
        await cluster.wait("Provider", namespace, "fake", lambda i: not condition(i, "FieldsIgnored")["status"])


async def _told_once(cluster: Cluster, namespace: str, name: str) -> bool:
    return (await cluster.reasons(namespace, name)).count("FieldsIgnored") == 1


async def test_W19_a_machine_before_its_provider_waits_and_goes_on(cluster: Cluster, home: Path, namespace: str):
    """No Provider, one that does not answer yet: each is a reason to wait, none is a crash."""
    async with hypervisor() as (world, provider):
        await cluster.namespace(namespace)
        await cluster.create("VMClass", namespace, "small", CLASS)
        await cluster.create("VMImage", namespace, "guest", IMAGE)
        await cluster.create(VM, namespace, "web", machine())
        waiting = await cluster.wait(VM, namespace, "web", because("WaitingForDependencies"))
        assert condition(waiting, "Ready")["message"] == f"Provider {namespace}/fake does not exist"
        nowhere = {**provider["runtime"], "address": "127.0.0.1:1"}
        await cluster.create("Provider", namespace, "fake", {**provider, "runtime": nowhere})
        waiting = await cluster.wait(VM, namespace, "web", because("ProviderUnavailable"))
        assert waiting["status"]["phase"] == "Pending"
        assert "id" not in waiting["status"]
        await cluster.patch("Provider", namespace, "fake", {"spec": {"runtime": provider["runtime"]}})
        vm = await cluster.wait(VM, namespace, "web", ready)
        assert list(world.machines) == [vm["metadata"]["uid"]]


@asynccontextmanager
async def without_schema(cluster: Cluster, plural: str) -> AsyncIterator[None]:
    """A time in which any spec of the kind is taken."""
    crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.infra.virtrigaud.io"
    strict = await cluster.request("GET", crd)
    loose = await cluster.request("GET", crd)
    schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema.pop("x-kubernetes-validations", None)
    await cluster.request("PUT", crd, loose)
    try:
        yield
    finally:
        strict["metadata"]["resourceVersion"] = (await cluster.request("GET", crd))["metadata"]["resourceVersion"]
        await cluster.request("PUT", crd, strict)


async def test_an_object_of_an_older_schema_says_that_it_cannot_be_used(cluster: Cluster, home: Path, namespace: str):
    """Stored while the schema took it; the rest of its kind goes on, and its correction is noticed."""
    await cluster.namespace(namespace)
    async with without_schema(cluster, "vmclasses"):
        await cluster.create("VMClass", namespace, "odd", {"cpu": "many", "memory": "1Gi"})
    told = await cluster.wait("VMClass", namespace, "odd", because("InvalidObject"))
    assert "cpu" in condition(told, "Ready")["message"]
    await until(lambda: _has(cluster, namespace, "odd", "InvalidObject"), "the event")
    await cluster.create("VMClass", namespace, "small", CLASS)
    await cluster.wait("VMClass", namespace, "small", ready)
    await cluster.patch("VMClass", namespace, "odd", {"spec": {"cpu": 2}})
    await cluster.wait("VMClass", namespace, "odd", ready)


async def test_nothing_acts_on_what_a_machine_said_before_it_became_unreadable(
    cluster: Cluster, home: Path, namespace: str
):
    """Neither is it healed by its old spec, nor removed, nor does its provider go; once corrected, all goes on."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        vm = await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", ready)
        uid = vm["metadata"]["uid"]
        async with without_schema(cluster, "virtualmachines"):
            await cluster.patch(VM, namespace, "web", {"spec": {"powerState": 5}})
        await cluster.wait(VM, namespace, "web", because("InvalidObject"))
        calls = dict(world.calls)
        world.power_behind_our_back(uid, v1.PowerState.OFF)  # the old self wanted it on
        await cluster.delete(VM, namespace, "web")
        told = await cluster.wait(
            VM, namespace, "web", lambda item: "removal waits" in condition(item, "Ready")["message"]
        )
        assert told["metadata"]["finalizers"]
        await cluster.delete("Provider", namespace, "fake")
        held = await cluster.wait("Provider", namespace, "fake", because("InUse", "DeleteBlocked"))
        assert held["status"]["connectedVMs"] == 1
        for verb in ("create", "power_on", "destroy"):
            assert world.calls.get(verb, 0) == calls.get(verb, 0), verb
        assert list(world.machines) == [uid]
        await cluster.patch(VM, namespace, "web", {"spec": {"powerState": "Off"}})
        await cluster.gone(VM, namespace, "web")
        await cluster.gone("Provider", namespace, "fake")
        assert not world.machines


async def test_an_image_is_not_on_a_provider_that_is_gone(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider), hypervisor() as (_, other):
        await furnish(cluster, namespace, **provider)
        await cluster.create("Provider", namespace, "other", other)
        await cluster.create(VM, namespace, "web", machine())
        await cluster.create(VM, namespace, "db", machine(providerRef={"name": "other"}))
        await cluster.wait(VM, namespace, "web", ready)
        await cluster.wait(VM, namespace, "db", ready)
        both = [f"{namespace}/fake", f"{namespace}/other"]
        await cluster.wait("VMImage", namespace, "guest", lambda item: item["status"].get("availableOn") == both)
        await cluster.delete(VM, namespace, "db")
        await cluster.delete("Provider", namespace, "other")
        image = await cluster.wait(
            "VMImage", namespace, "guest", lambda item: item["status"].get("availableOn") == both[:1]
        )
        assert list(image["status"]["providerStatus"]) == both[:1]
        assert condition(image, "Ready")["message"] == f"ready on provider {namespace}/fake"
        await cluster.delete(VM, namespace, "web")
        await cluster.delete("Provider", namespace, "fake")
        image = await cluster.wait("VMImage", namespace, "guest", lambda item: not item["status"]["ready"])
        assert (image["status"]["phase"], condition(image, "Ready")["status"]) == ("Pending", "False")
        assert not image["status"].get("availableOn")


async def _has(cluster: Cluster, namespace: str, name: str, reason: str) -> bool:
    return reason in await cluster.reasons(namespace, name)
