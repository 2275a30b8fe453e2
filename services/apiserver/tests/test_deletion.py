"""What follows a deletion: garbage collection, namespaces, definitions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MAPS = "/api/v1/namespaces/default/configmaps"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.virtrigaud.io"
WIDGETS = "/apis/test.virtrigaud.io/v1/namespaces/default/widgets"


async def make(api, name: str, *owners: dict[str, Any], block: bool = False, finalizers: tuple[str, ...] = ()):
    refs = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for o in owners
    ]
    meta = {"name": name, "ownerReferences": refs, "finalizers": list(finalizers)}
    reply = await api.post(MAPS, {"metadata": meta})
    assert reply.status == 201, reply.body
    return reply.json


async def gone(api, url: str) -> None:
    """Wait until an object is gone, by watching it."""
    collection, _, name = url.rpartition("/")
    async with api.watch(f"{collection}?watch=1&fieldSelector=metadata.name%3D{name}") as stream:
        if (await api.get(url)).status == 404:
            return
        await stream.until("DELETED", name)


async def changed(api, url: str, test: Any) -> dict[str, Any]:
    """Wait until an object satisfies a test, by watching it."""
    collection, _, name = url.rpartition("/")
    async with api.watch(f"{collection}?watch=1&fieldSelector=metadata.name%3D{name}") as stream:
        while (event := await stream.next()) is not None:
            if event["type"] != "DELETED" and test(event["object"]):
                return event["object"]
    raise AssertionError


async def test_dependents_follow_their_owner(api):
    owner = await make(api, "owner")
    child = await make(api, "child", owner)
    await make(api, "grandchild", child)
    await make(api, "bystander")
    await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Background"})
    await gone(api, f"{MAPS}/child")
    await gone(api, f"{MAPS}/grandchild")
    assert (await api.get(f"{MAPS}/bystander")).status == 200


async def test_a_second_owner_keeps_the_dependent(api):
    one, two = await make(api, "one"), await make(api, "two")
    await make(api, "child", one, two)
    await api.delete(f"{MAPS}/one")
    child = await changed(api, f"{MAPS}/child", lambda o: len(o["metadata"]["ownerReferences"]) == 1)
    assert child["metadata"]["ownerReferences"][0]["name"] == "two"


async def test_foreground_waits_for_the_dependents(api):
    owner = await make(api, "owner")
    await make(api, "child", owner, block=True, finalizers=("test.virtrigaud.io/hold",))
    held = (await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})).json
    assert held["metadata"]["finalizers"] == ["foregroundDeletion"]
    await changed(api, f"{MAPS}/child", lambda o: o["metadata"].get("deletionTimestamp"))
    assert (await api.get(f"{MAPS}/owner")).status == 200
    await api.patch(f"{MAPS}/child", {"metadata": {"finalizers": None}})
    await gone(api, f"{MAPS}/owner")
    assert (await api.get(f"{MAPS}/child")).status == 404


async def test_orphans_stay(api):
    owner = await make(api, "owner")
    await make(api, "child", owner)
    await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
    await gone(api, f"{MAPS}/owner")
    assert "ownerReferences" not in (await api.get(f"{MAPS}/child")).json["metadata"]


async def test_an_owner_that_never_was(api):
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no", "uid": "no-such-uid"}}
    await make(api, "child", owner)
    await gone(api, f"{MAPS}/child")


async def test_an_owner_of_an_unknown_kind_proves_nothing(api):
    """Its definition may come back: deleting the dependent could not be undone."""
    unknown = {"apiVersion": "x.io/v1", "kind": "What", "metadata": {"name": "no", "uid": "no-such-uid"}}
    await make(api, "child", unknown)
    dead = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no", "uid": "no-such-uid"}}
    await make(api, "marker", dead)
    await gone(api, f"{MAPS}/marker")  # handled after the child
    assert (await api.get(f"{MAPS}/child")).status == 200


async def test_an_owner_in_a_namespace_proves_nothing_for_a_cluster_object(api):
    """As in Kubernetes: such a reference cannot be resolved, so nothing is deleted for it."""
    owner = await make(api, "owner")
    ref = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    await api.post("/api/v1/namespaces", {"metadata": {"name": "child", "ownerReferences": [ref]}})
    dead = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no", "uid": "no-such-uid"}}
    await make(api, "marker", dead)
    await gone(api, f"{MAPS}/marker")  # handled after the child
    assert "deletionTimestamp" not in (await api.get("/api/v1/namespaces/child")).json["metadata"]


async def test_namespace_takes_its_content_along(api):
    await api.post("/api/v1/namespaces", {"metadata": {"name": "team"}})
    inside = "/api/v1/namespaces/team/configmaps"
    await api.post(inside, {"metadata": {"name": "a"}})
    await api.post(inside, {"metadata": {"name": "held", "finalizers": ["test.virtrigaud.io/hold"]}})
    deleted = (await api.delete("/api/v1/namespaces/team")).json
    assert deleted["status"]["phase"] == "Terminating"
    await gone(api, f"{inside}/a")
    refused = await api.post(inside, {"metadata": {"name": "late"}})
    assert (refused.status, refused.json["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    said = "configmaps has 1 resource instances"
    await changed(
        api, "/api/v1/namespaces/team", lambda o: any(said in c["message"] for c in o["status"].get("conditions", ()))
    )
    await api.patch(f"{inside}/held", {"metadata": {"finalizers": None}})
    await gone(api, "/api/v1/namespaces/team")
    assert (await api.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dteam")).json["items"] == []


async def test_creating_races_with_a_namespaces_end(api):
    """Whatever the order: nothing is ever left in a namespace that is gone."""
    for _ in range(5):
        await api.post("/api/v1/namespaces", {"metadata": {"name": "brief"}})
        async with asyncio.TaskGroup() as group:
            for index in range(10):
                url = "/api/v1/namespaces/brief/configmaps"
                group.create_task(api.post(url, {"metadata": {"name": f"c{index}"}}))
            group.create_task(api.delete("/api/v1/namespaces/brief"))
        await gone(api, "/api/v1/namespaces/brief")
        left = (await api.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dbrief")).json["items"]
        assert left == []


@pytest.mark.parametrize("name", ["default", "kube-system"])
async def test_a_protected_namespace_stays(api, name):
    reply = await api.delete(f"/api/v1/namespaces/{name}")
    assert (reply.status, reply.json["reason"]) == (403, "Forbidden")


async def test_a_namespace_has_a_default_service_account(api):
    await api.post("/api/v1/namespaces", {"metadata": {"name": "team"}})
    await changed(api, "/api/v1/namespaces/team/serviceaccounts/default", lambda _: True)


async def test_a_definition_takes_its_objects_along(api, make_widget):
    await api.post(WIDGETS, make_widget())
    held = make_widget("held")
    held["metadata"]["finalizers"] = ["test.virtrigaud.io/hold"]
    await api.post(WIDGETS, held)
    await api.delete(CRD)
    await gone(api, f"{WIDGETS}/w1")
    refused = await api.post(WIDGETS, make_widget("late"))
    assert refused.status == 405
    assert (await api.get(CRD)).status == 200
    await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})
    await gone(api, CRD)
    assert (await api.get(WIDGETS)).status == 404


async def serve(api, *, served: bool) -> None:
    """Have the definition of widgets serve its versions, or none of them."""
    versions = (await api.get(CRD)).json["spec"]["versions"]
    reply = await api.patch(CRD, {"spec": {"versions": [{**v, "served": served} for v in versions]}})
    assert reply.status == 200, reply.body


async def test_a_namespace_takes_along_what_is_no_longer_served(api, instance, make_widget):
    await api.post("/api/v1/namespaces", {"metadata": {"name": "team"}})
    inside = WIDGETS.replace("default", "team")
    assert (await api.post(inside, make_widget())).status == 201
    held = make_widget("held")
    held["metadata"]["finalizers"] = ["test.virtrigaud.io/hold"]
    await api.post(inside, held)
    await serve(api, served=False)
    await api.delete("/api/v1/namespaces/team")
    told = await changed(api, "/api/v1/namespaces/team", lambda o: o["status"].get("conditions"))
    condition = told["status"]["conditions"][0]
    assert condition["type"] == "NamespaceContentRemaining"
    assert "widgets.test.virtrigaud.io has 1 resource instances" in condition["message"]
    assert [i.name for i in instance.store.items("widgets.test.virtrigaud.io")] == ["held"]
    await serve(api, served=True)
    await api.patch(f"{inside}/held", {"metadata": {"finalizers": None}})
    await gone(api, "/api/v1/namespaces/team")
    assert instance.store.items("widgets.test.virtrigaud.io") == []


async def test_a_definition_that_serves_nothing_takes_its_objects_along(api, instance, make_widget):
    await api.post(WIDGETS, make_widget())
    held = make_widget("held")
    held["metadata"]["finalizers"] = ["test.virtrigaud.io/hold"]
    await api.post(WIDGETS, held)
    await serve(api, served=False)
    await api.delete(CRD)
    await asyncio.sleep(0.5)  # a cleanup that let go would have done it by now
    assert [i.name for i in instance.store.items("widgets.test.virtrigaud.io")] == ["held"]
    assert (await api.get(CRD)).status == 200, "an object is still stored"
    await serve(api, served=True)
    await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})
    await gone(api, CRD)
    assert instance.store.items("widgets.test.virtrigaud.io") == []


def owned(widget: dict[str, Any], owner: dict[str, Any], *, block: bool = False) -> dict[str, Any]:
    ref = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    ref |= {"uid": owner["metadata"]["uid"], "blockOwnerDeletion": block}
    widget["metadata"]["ownerReferences"] = [ref]
    return widget


async def stored(instance, holds: Callable[[list[Any]], bool]) -> None:
    """Wait until something holds of the widgets in the store, which nobody can watch while they are not served."""
    changed = asyncio.Event()
    instance.store.listen(lambda _: changed.set())
    async with asyncio.timeout(20):
        while not holds(instance.store.items("widgets.test.virtrigaud.io")):
            changed.clear()
            await changed.wait()


async def test_dependents_that_are_no_longer_served_follow_their_owner(api, instance, make_widget):
    owner = await make(api, "owner")
    await api.post(WIDGETS, owned(make_widget(), owner))
    await serve(api, served=False)
    await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Background"})
    await gone(api, f"{MAPS}/owner")
    await stored(instance, lambda widgets: not widgets)


async def test_foreground_waits_for_dependents_that_are_no_longer_served(api, instance, make_widget):
    owner = await make(api, "owner")
    held = owned(make_widget("held"), owner, block=True)
    held["metadata"]["finalizers"] = ["test.virtrigaud.io/hold"]
    await api.post(WIDGETS, held)
    await serve(api, served=False)
    await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    await stored(instance, lambda widgets: bool(widgets[0].meta.deletionTimestamp))
    assert (await api.get(f"{MAPS}/owner")).status == 200
    await serve(api, served=True)
    await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})
    await gone(api, f"{MAPS}/owner")


async def test_orphans_that_are_no_longer_served_stay_as_they_are(api, make_widget):
    owner = await make(api, "owner")
    before = (await api.post(WIDGETS, owned(make_widget(), owner))).json
    await serve(api, served=False)
    await api.delete(f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
    await gone(api, f"{MAPS}/owner")
    await serve(api, served=True)
    after = (await api.get(f"{WIDGETS}/w1")).json
    assert "ownerReferences" not in after["metadata"]
    for key in ("apiVersion", "kind", "spec"):
        assert after[key] == before[key]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_a_namespace_that_cannot_go_says_so_and_waits(api, instance, memory: Path):
    """A row that the mirror does not have stands in for whatever makes the store refuse."""
    url = "/api/v1/namespaces/team"
    await api.post("/api/v1/namespaces", {"metadata": {"name": "team"}})
    await changed(api, f"{url}/serviceaccounts/default", lambda _: True)
    with sqlite3.connect(memory / "data" / "state.db") as db:
        db.execute("INSERT INTO objects VALUES ('things', 'team', 'a', 1, '{}')")
    transactions: list[str] = []
    instance.store._db.set_trace_callback(lambda sql: transactions.append(sql) if sql.startswith("BEGIN") else None)
    await api.delete(url)
    told = await changed(api, url, lambda o: o["status"].get("conditions"))
    assert told["status"]["conditions"][0]["type"] == "NamespaceDeletionContentFailure"
    await asyncio.sleep(2)
    assert len(transactions) < 15, "each refusal waits longer"
    with db:
        db.execute("DELETE FROM objects WHERE resource = 'things'")
    db.close()
    await gone(api, url)
