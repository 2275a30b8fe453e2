"""Informers and the Api against a real API server, and references between cached objects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from common.clock import SystemClock
from controller.api import (
    Api,
    ApiUnavailableError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    RefusedError,
    connect,
    error_from,
)
from controller.core import NAMESPACES, Meta, Namespace, Secret
from controller.files import replace_directory
from controller.index import Index
from controller.informer import BadObject, Informer
from controller.objects import CLASSES, VIRTUAL_MACHINES
from controller.references import granted
from controller.secrets import Secrets, scrub
from controller_harness import CLASS, Cluster, machine, until
from kinds.compose import BootSources
from kinds.metadata import LabelSelector, LabelSelectorRequirement
from kinds.vmclass import VMClass

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def running(cluster: Cluster, namespace: str, **options: Any) -> AsyncIterator[tuple[Api, Informer[VMClass]]]:
    """An informer of VMClasses, its cache filled."""
    async with connect(str(cluster.kubeconfig)) as api:
        informer = Informer(api, CLASSES, SystemClock(), random.Random(1), namespace=namespace, **options)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(informer.run())
            await informer.synced.wait()
            yield api, informer
            task.cancel()


async def test_a_cache_follows_the_server(cluster: Cluster, namespace: str):
    await cluster.namespace(namespace)
    for number in range(7):
        await cluster.create("VMClass", namespace, f"c{number}", CLASS)
    async with running(cluster, namespace, page=3) as (_, informer):  # three pages
        changes: list[tuple[bool, bool]] = []
        informer.subscribe(lambda before, after: changes.append((before is not None, after is not None)))
        assert len(informer) == 7
        await cluster.create("VMClass", namespace, "new", CLASS)
        await until(lambda: informer.get(namespace, "new") is not None, "the new object")
        await cluster.patch("VMClass", namespace, "new", {"spec": {"cpu": 4}})
        await until(lambda: informer.get(namespace, "new").spec.cpu == 4, "the change")
        await cluster.delete("VMClass", namespace, "new")
        await until(lambda: informer.get(namespace, "new") is None, "the removal")
        assert changes == [(False, True), (True, True), (True, False)]


async def test_every_request_is_counted_by_what_it_asked_and_how_it_ended(cluster: Cluster, namespace: str):
    await cluster.namespace(namespace)
    asked: list[tuple[str, str, int]] = []
    async with connect(str(cluster.kubeconfig), asked=lambda *told: asked.append(told[:3])) as api:
        await api.create(CLASSES, namespace, {"metadata": {"name": "a"}, "spec": CLASS})
        with pytest.raises(ConflictError):
            await api.create(CLASSES, namespace, {"metadata": {"name": "a"}, "spec": CLASS})
        assert await api.get(CLASSES, namespace, "b") is None
        informer = Informer(api, CLASSES, SystemClock(), random.Random(1), namespace=namespace)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(informer.run())
            await until(lambda: asked[-1][0] == "watch", "the watch")
            task.cancel()
    assert asked == [
        ("create", "vmclasses", 201), ("create", "vmclasses", 409), ("get", "vmclasses", 404),
        ("list", "vmclasses", 200), ("watch", "vmclasses", 200),
    ]  # fmt: skip


async def test_a_change_of_a_spec_is_dated_by_the_server_and_told_once(cluster: Cluster, namespace: str):
    """Not by a label, nor by a status, which whoever wrote it may have written long after."""
    await cluster.namespace(namespace)
    before = int(SystemClock().now().timestamp())
    await cluster.create("VMClass", namespace, "a", CLASS)
    async with running(cluster, namespace) as (_, informer):
        assert informer.changed(namespace, "a") is None, "nobody knows of it before the first list"
        await cluster.patch("VMClass", namespace, "a", {"metadata": {"labels": {"tier": "x"}}})
        await until(lambda: informer.get(namespace, "a").metadata.labels, "the label")
        assert informer.changed(namespace, "a") is None
        await cluster.patch("VMClass", namespace, "a", {"spec": {"cpu": 4}})
        await until(lambda: informer.get(namespace, "a").spec.cpu == 4, "the change")
        told = informer.changed(namespace, "a")
        assert told is not None
        assert before <= told <= SystemClock().now().timestamp()
        assert told == int(told)
        assert informer.changed(namespace, "a") is None


async def test_a_bad_object_stops_nothing_but_itself(cluster: Cluster, namespace: str):
    """An object that does not decode (written past the schema, or by a newer version) is told and left out."""
    bad: list[BadObject] = []
    await cluster.namespace(namespace)
    await cluster.create("VMClass", namespace, "good", CLASS)
    async with running(cluster, namespace, on_bad=lambda _, found: bad.append(found)) as (_, informer):
        raw = {"metadata": {"name": "odd", "namespace": namespace, "resourceVersion": "7"}, "spec": {"cpu": "many"}}
        informer._take(msgspec.Raw(msgspec.json.encode(raw)))  # as the stream would hand it over
        assert [found.meta.name for found in bad] == ["odd"]
        assert "Expected `int`" in bad[0].error
        await cluster.create("VMClass", namespace, "later", CLASS)
        await until(lambda: informer.get(namespace, "later") is not None, "the next object")
        assert informer.get(namespace, "odd") is None
        assert (namespace, "odd") in informer.bad


async def test_an_object_that_turns_bad_leaves_the_cache_until_it_is_corrected(cluster: Cluster, namespace: str):
    """Acting on what it said before would undo, or never see, what its user wants now."""
    await cluster.namespace(namespace)
    whole = await cluster.create("VMClass", namespace, "a", CLASS)
    async with running(cluster, namespace) as (_, informer):
        changes: list[tuple[bool, bool]] = []
        informer.subscribe(lambda before, after: changes.append((before is not None, after is not None)))
        whole["metadata"]["resourceVersion"] += "1"
        informer._take(msgspec.Raw(msgspec.json.encode({**whole, "spec": {"cpu": "many"}})))
        assert informer.get(namespace, "a") is None
        assert (namespace, "a") in informer.bad
        await cluster.patch("VMClass", namespace, "a", {"spec": {"cpu": 2}})
        await until(lambda: informer.get(namespace, "a") is not None, "the correction")
        assert not informer.bad
        assert changes == [(True, False), (False, True)]


async def test_an_expired_version_is_listed_anew(cluster: Cluster, namespace: str):
    """410 on the watch: what changed meanwhile is found by comparing."""
    await cluster.namespace(namespace)
    await cluster.create("VMClass", namespace, "a", CLASS)
    async with running(cluster, namespace) as (api, informer):
        await cluster.create("VMClass", namespace, "b", CLASS)
        await until(lambda: informer.get(namespace, "b") is not None, "the object")
        informer._items[(namespace, "ghost")] = informer.get(namespace, "a")
        await informer._list()
        assert informer.get(namespace, "ghost") is None
        assert isinstance(error_from(410, b'{"reason":"Expired","message":"too old"}', "watch"), ExpiredError)
        assert await api.get(CLASSES, namespace, "nothing") is None


async def test_a_watch_that_breaks_does_not_bring_back_the_past(cluster: Cluster, namespace: str):
    """Resumed from where it began, it would show a deleted object as it was alive, and its machine would be made anew.

    The connection breaks after the removal was heard: what a load balancer does now and then.
    """
    await cluster.namespace(namespace)
    async with connect(str(cluster.kubeconfig)) as api:
        breaks, lines, watched = asyncio.Event(), api.lines, asyncio.Event()

        async def breaking(path: str, params: Mapping[str, str], timeout: float) -> AsyncIterator[bytes]:
            async for line in lines(path, params, timeout):
                yield line
                if b'"DELETED"' in line and not breaks.is_set():
                    breaks.set()
                    raise ApiUnavailableError("the connection broke")
                if breaks.is_set():
                    watched.set()

        api.lines = breaking  # type: ignore[method-assign]  # the same stream, with an end of its own
        informer = Informer(api, CLASSES, SystemClock(), random.Random(1), namespace=namespace)
        seen: list[str] = []
        informer.subscribe(lambda before, after: seen.append((after or before).metadata.name + "-+"[after is not None]))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(informer.run())
            await informer.synced.wait()
            await cluster.create("VMClass", namespace, "a", CLASS)
            await until(lambda: informer.get(namespace, "a") is not None, "the object")
            await cluster.delete("VMClass", namespace, "a")
            await breaks.wait()
            await cluster.create("VMClass", namespace, "b", CLASS)
            await watched.wait()
            await until(lambda: informer.get(namespace, "b") is not None, "the next object")
            task.cancel()
        assert seen == ["a+", "a-", "b+"]


async def test_the_api_names_its_refusals(cluster: Cluster, namespace: str):
    await cluster.namespace(namespace)
    created = await cluster.create("VMClass", namespace, "a", CLASS)
    async with connect(str(cluster.kubeconfig)) as api:
        with pytest.raises(ConflictError):
            await api.create(CLASSES, namespace, {"metadata": {"name": "a"}, "spec": CLASS})
        with pytest.raises(NotFoundError):
            await api.patch(CLASSES, namespace, "b", {"spec": {"cpu": 1}})
        with pytest.raises(RefusedError, match="cpu"):
            await api.patch(CLASSES, namespace, "a", {"spec": {"cpu": 0}})
        stale = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "spec": {"cpu": 2}}
        await api.patch(CLASSES, namespace, "a", stale)
        with pytest.raises(ConflictError):
            await api.patch(CLASSES, namespace, "a", {**stale, "spec": {"cpu": 3}})
        found: Namespace | None = await api.get(NAMESPACES, "", namespace)
        assert found is not None


async def test_a_secret_that_lacks_the_key_is_named_and_never_shown(cluster: Cluster, namespace: str):
    await cluster.namespace(namespace)
    await cluster.secret(namespace, "boot", other="canary-11aa")
    boot = {"cloudInit": {"secretRef": {"name": "boot"}}}
    await cluster.create("VirtualMachine", namespace, "web", machine(userData=boot))
    async with connect(str(cluster.kubeconfig)) as api:
        vm = await api.get(VIRTUAL_MACHINES, namespace, "web")
        with pytest.raises(Exception, match=f"Secret {namespace}/boot .* has no key userdata or user-data") as refused:
            await Secrets(api).boot_sources(vm)
        assert "canary" not in str(refused.value)


async def test_passwords_of_a_customization_come_from_secrets(cluster: Cluster, namespace: str):
    await cluster.namespace(namespace)
    await cluster.secret(namespace, "windows", admin="canary-admin", password="canary-join")
    join = {"domain": "lab.example", "username": "joiner", "password": {"secretRef": {"name": "windows"}}}
    admin = {"secretRef": {"name": "windows"}, "secretKey": "admin"}
    sysprep = {"enabled": True, "adminPassword": admin, "joinDomain": join}
    await cluster.create("VirtualMachine", namespace, "web", machine(customization={"sysprep": sysprep}))
    async with connect(str(cluster.kubeconfig)) as api:
        boot = await Secrets(api).boot_sources(await api.get(VIRTUAL_MACHINES, namespace, "web"))
    assert (boot.admin_password, boot.join_password) == ("canary-admin", "canary-join")
    assert "canary" not in scrub("bad password canary-admin of canary-join", boot) + repr(boot)


@pytest.mark.parametrize(
    ("selector", "labels", "allowed"),
    [
        (None, {"team": "blue"}, False),
        (LabelSelector(), {}, True),
        (LabelSelector(), None, False),  # the namespace is not known: no grant
        (LabelSelector(match_labels={"team": "blue"}), {"team": "blue", "x": "y"}, True),
        (LabelSelector(match_labels={"team": "blue"}), {"team": "red"}, False),
        (LabelSelector(match_expressions=[LabelSelectorRequirement(key="t", operator="Exists")]), {"t": ""}, True),
        (LabelSelector(match_expressions=[LabelSelectorRequirement(key="t", operator="Exists")]), {}, False),
    ],
)
async def test_W70_grants(selector: LabelSelector | None, labels: dict[str, str] | None, allowed: bool):
    assert granted(selector, "owner", "other", labels) is allowed
    assert granted(selector, "owner", "owner", labels)


async def test_scrubbed_messages_hold_nothing_of_the_boot_data():
    boot = BootSources(user_data="#cloud-config\npassword: 'hunter22'\nok: yes\n")
    assert scrub("failed at password: 'hunter22'", boot) == "failed at [redacted]"
    assert scrub("bad value hunter22 in yes", boot) == "bad value [redacted] in yes"
    assert scrub("no room", boot) == "no room"
    assert "hunter22" not in repr(boot)
    assert repr(Secret(Meta(name="s", namespace="n"), {"k": b"hunter22"})) == "Secret(n/s)"


async def test_a_directory_changes_in_one_step(tmp_path: Path):
    link = tmp_path / "credentials"
    assert replace_directory(link, {"user": b"a", "password": b"b"})
    assert not replace_directory(link, {"user": b"a", "password": b"b"})
    before = link.resolve()
    assert replace_directory(link, {"user": b"a"})
    assert sorted(entry.name for entry in link.iterdir()) == ["user"]
    assert not before.exists()
    assert (link / "user").stat().st_mode & 0o777 == 0o600
    for name in ("../x", "a/b", "", "..data"):
        with pytest.raises(ValueError, match="is no name of a file"):
            replace_directory(link, {name: b""})


async def test_the_index_follows_references():
    def vm(name: str, provider: str) -> Any:
        meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}"}
        spec = machine(providerRef={"name": provider})
        return msgspec.convert({"metadata": meta, "spec": spec}, VIRTUAL_MACHINES.type)

    index = Index()
    first, second = vm("a", "p"), vm("b", "p")
    index.update(None, first)
    index.update(None, second)
    assert index.users("Provider", "ns", "p") == {("ns", "a"), ("ns", "b")}
    moved = vm("a", "q")
    index.update(first, moved)
    assert index.users("Provider", "ns", "p") == {("ns", "b")}
    assert index.users("VMImage", "ns", "guest") == {("ns", "a"), ("ns", "b")}
    assert index.by_uid("uid-a") == ("ns", "a")
    index.update(moved, None)
    assert index.users("Provider", "ns", "q") == frozenset()
    assert index.by_uid("uid-a") is None


async def test_the_answer_to_a_write_never_undoes_what_the_watch_brought(cluster: Cluster, namespace: str):
    """A deletion that arrived before the answer to our own write would else be forgotten until the resync."""
    await cluster.namespace(namespace)
    await cluster.create("VMClass", namespace, "a", CLASS, finalizers=["test/held"])
    async with running(cluster, namespace) as (_, informer):
        base = informer.get(namespace, "a")
        written = msgspec.structs.replace(
            base, metadata=msgspec.structs.replace(base.metadata, resource_version="0", labels={"late": "answer"})
        )
        await cluster.delete("VMClass", namespace, "a")
        await until(lambda: bool(informer.get(namespace, "a").metadata.deletion_timestamp), "the deletion")
        informer.store(written, base.metadata.resource_version)
        assert informer.get(namespace, "a").metadata.deletion_timestamp
        await cluster.patch("VMClass", namespace, "a", {"metadata": {"finalizers": None}})


class _Garbling:
    """An API server behind something that garbles what it says, once each."""

    def __init__(self) -> None:
        refs = {"providerRef": {"name": "p"}, "classRef": {"name": "c"}}
        machine = {"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "3"}, "spec": refs}
        whole = msgspec.json.encode({"metadata": {"resourceVersion": "3"}, "items": [machine]})
        self.lists = [whole, b"<html>", b'{"metadata": {}, "items": [{"metadata": 7}]}', whole]
        self.watches = [[b'{"type": "ADDED", "obj'], [b'{"type": "ADDED", "object": {"metadata": ' + b"[" * 5000]]
        self.over = asyncio.Event()

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        return self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]

    async def lines(self, path: str, params: Mapping[str, str], timeout: float) -> AsyncIterator[bytes]:
        if not self.watches:
            self.over.set()
            await asyncio.Event().wait()
        for line in self.watches.pop(0):
            yield line


async def test_an_answer_that_was_garbled_on_its_way_is_asked_for_again():
    """It must neither end the controller, nor make it forget what it knows."""
    garbling = _Garbling()
    informer = Informer(garbling, VIRTUAL_MACHINES, _Hurry(), random.Random(1))
    told: list[str] = []
    informer.subscribe(lambda before, after: told.append("gone" if after is None else after.metadata.name))
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(30):
        await garbling.over.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert informer.get("shop", "web") is not None
    assert told == ["web"]


class _Hurry(SystemClock):
    """Nobody waits between attempts."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_a_refusal_with_numbers_beyond_all_bounds_is_one():
    error = error_from(503, b'{"code": ' + b"9" * 5000 + b"}", "GET /x", "\u00b2")
    assert isinstance(error, ApiUnavailableError)
    assert error.retry_after is None


# -- who wrote -----------------------------------------------------------------------------------------------------


class Heard:
    """An informer that is told by hand what a watch or a list would, and what it tells of others' writes."""

    def __init__(self) -> None:
        self.informer: Informer[VMClass] = Informer(None, CLASSES, SystemClock(), random.Random(1))  # type: ignore[arg-type]  # never asked
        self.others: list[str] = []
        self.informer.subscribe_others(lambda name: self.others.append(name[1]))

    def item(self, version: int) -> dict[str, Any]:
        meta = {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": str(version)}
        return {"metadata": meta, "spec": CLASS, "status": {"usedByVMs": version}}

    def watched(self, version: int) -> None:
        """As a line of the watch brings it."""
        raw = msgspec.Raw(msgspec.json.encode(self.item(version)))
        if not self.informer._echo(Meta(name="a", namespace="shop", resource_version=str(version))):
            self.informer._take(raw)

    def listed(self, version: int) -> None:
        self.informer._own.clear()
        self.informer._take(msgspec.Raw(msgspec.json.encode(self.item(version))))

    def answered(self, version: int, instead_of: int) -> None:
        """As our own write is answered."""
        self.informer.store(msgspec.convert(self.item(version), VMClass), str(instead_of))

    @property
    def version(self) -> str:
        found = self.informer.get("shop", "a")
        assert found is not None
        return found.metadata.resource_version


async def test_our_own_writes_are_no_news_however_late_the_watch_shows_them():
    heard = Heard()
    heard.listed(1)
    heard.others.clear()
    heard.answered(2, 1)
    heard.answered(3, 2)
    heard.watched(2)
    assert heard.version == "3"  # not back to the past
    heard.watched(3)
    assert heard.others == []
    assert not heard.informer._own


async def test_a_status_that_somebody_else_wrote_is_news():
    """Of a leader that was stopped, and woke up when another led: the object said what it had left, for ever."""
    heard = Heard()
    heard.listed(1)
    heard.others.clear()
    heard.answered(2, 1)
    heard.watched(2)
    heard.watched(3)
    assert heard.others == ["a"]
    assert heard.version == "3"


async def test_while_a_write_has_no_answer_nobody_can_tell():
    heard = Heard()
    heard.listed(1)
    heard.others.clear()
    with heard.informer.writing(("shop", "a")):
        heard.watched(2)  # the watch is faster than the answer
        heard.answered(2, 1)
    assert heard.others == []
    with heard.informer.writing(("shop", "a")):  # whose answer never comes
        heard.watched(3)
        assert heard.others == []
    assert heard.others == ["a"]


async def test_a_list_that_shows_the_past_is_followed_by_our_write_once_more():
    heard = Heard()
    heard.listed(1)
    heard.informer._own.clear()  # a list begins
    heard.answered(2, 1)  # we write meanwhile
    heard.informer._take(msgspec.Raw(msgspec.json.encode(heard.item(1))))  # it shows what was before
    assert heard.version == "1"
    heard.watched(2)
    assert heard.version == "2"
