"""The REST verbs, through ASGI."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from apiserver.auth import Tokens, User
from apiserver.server import running
from apiserver.store import Store

WIDGETS = "/apis/test.virtrigaud.io/v1/namespaces/default/widgets"
MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_create_fills_in_what_the_server_owns(api):
    made = (await api.post(MAPS, config_map("a", x="1"))).json
    meta = made["metadata"]
    assert meta["uid"]
    assert int(meta["resourceVersion"]) > 0
    assert meta["creationTimestamp"].endswith("Z")
    assert (await api.get(f"{MAPS}/a")).json == made


async def test_create_of_a_taken_name_conflicts(api):
    assert (await api.post(MAPS, config_map("a"))).status == 201
    again = await api.post(MAPS, config_map("a"))
    assert (again.status, again.json["reason"]) == (409, "AlreadyExists")


async def test_generate_name_makes_different_names(api):
    body = {"metadata": {"generateName": "run-"}}
    names = {(await api.post(MAPS, body)).json["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("run-") and len(name) == 9 for name in names)


async def test_dry_run_stores_nothing(api):
    made = await api.post(f"{MAPS}?dryRun=All", config_map("a"))
    assert made.status == 201
    assert (await api.get(f"{MAPS}/a")).status == 404


async def test_old_resource_version_is_refused(api):
    """Optimistic concurrency: the second of two editors must look again."""
    first = (await api.post(MAPS, config_map("a", x="1"))).json
    assert (await api.put(f"{MAPS}/a", {**first, "data": {"x": "2"}})).status == 200
    stale = await api.put(f"{MAPS}/a", {**first, "data": {"x": "3"}})
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")
    assert (await api.get(f"{MAPS}/a")).json["data"] == {"x": "2"}


async def test_generation_counts_spec_changes_only(api, make_widget):
    made = (await api.post(WIDGETS, make_widget())).json
    assert made["metadata"]["generation"] == 1
    labelled = (await api.patch(f"{WIDGETS}/w1", {"metadata": {"labels": {"a": "b"}}})).json
    assert labelled["metadata"]["generation"] == 1
    status = (await api.patch(f"{WIDGETS}/w1/status", {"status": {"host": "h"}})).json
    assert (status["metadata"]["generation"], status["status"]) == (1, {"host": "h"})
    grown = (await api.patch(f"{WIDGETS}/w1", {"spec": {"cpu": 3}})).json
    assert grown["metadata"]["generation"] == 2


async def test_status_and_spec_do_not_touch_each_other(api, make_widget):
    made = (await api.post(WIDGETS, {**make_widget(), "status": {"host": "liar"}})).json
    assert "status" not in made
    both = {**made, "spec": {"cpu": 9}, "status": {"host": "h"}}
    after = (await api.put(f"{WIDGETS}/w1/status", both)).json
    assert (after["spec"]["cpu"], after["status"]["host"]) == (2, "h")
    both = {**after, "spec": {"cpu": 9}, "status": {"host": "other"}}
    after = (await api.put(f"{WIDGETS}/w1", both)).json
    assert (after["spec"]["cpu"], after["status"]["host"]) == (9, "h")


async def test_write_that_changes_nothing_makes_no_revision(api, make_widget):
    """A steady fleet must cost no writes and wake no watcher."""
    made = (await api.post(WIDGETS, make_widget())).json
    again = (await api.put(f"{WIDGETS}/w1", made)).json
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    patched = (await api.patch(f"{WIDGETS}/w1", {"spec": {"cpu": 2}})).json
    assert patched["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_server_owned_metadata_cannot_be_edited(api):
    made = (await api.post(MAPS, config_map("a"))).json
    old = "2001-01-01T00:00:00Z"
    dying = {**made, "metadata": {**made["metadata"], "deletionTimestamp": old}}
    refused = await api.put(f"{MAPS}/a", dying)
    assert (refused.status, refused.json["details"]["causes"][0]["field"]) == (422, "metadata.deletionTimestamp")
    older = {**made, "metadata": {**made["metadata"], "creationTimestamp": old}, "data": {"x": "1"}}
    after = (await api.put(f"{MAPS}/a", older)).json
    assert after["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert "deletionTimestamp" not in after["metadata"]


async def test_another_uid_is_refused(api):
    made = (await api.post(MAPS, config_map("a"))).json
    reply = await api.put(f"{MAPS}/a", {**made, "metadata": {"name": "a", "uid": "other"}})
    assert (reply.status, reply.json["reason"]) == (409, "Conflict")


async def test_create_in_an_unknown_namespace(api):
    reply = await api.post("/api/v1/namespaces/nowhere/configmaps", config_map("a"))
    assert reply.status == 404
    assert reply.json["message"] == 'namespaces "nowhere" not found'


async def test_finalizer_holds_an_object_until_it_is_gone(api):
    body = config_map("a")
    body["metadata"]["finalizers"] = ["test.virtrigaud.io/hold"]
    await api.post(MAPS, body)
    deleted = await api.delete(f"{MAPS}/a")
    assert deleted.json["metadata"]["deletionTimestamp"]
    assert (await api.get(f"{MAPS}/a")).status == 200
    added = await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": ["test.virtrigaud.io/hold", "x.io/new"]}})
    assert added.status == 422
    assert "no new finalizers" in added.json["message"]
    await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}})
    assert (await api.get(f"{MAPS}/a")).status == 404


async def test_delete_preconditions(api):
    made = (await api.post(MAPS, config_map("a"))).json
    wrong = await api.delete(f"{MAPS}/a", {"preconditions": {"uid": "other"}})
    assert (wrong.status, wrong.json["reason"]) == (409, "Conflict")
    wrong = await api.delete(f"{MAPS}/a", {"preconditions": {"resourceVersion": "1"}})
    assert wrong.status == 409
    right = await api.delete(f"{MAPS}/a", {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (right.status, right.json["status"], right.json["details"]["name"]) == (200, "Success", "a")


async def test_delete_collection_obeys_the_selector(api):
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        body = config_map(name)
        body["metadata"]["labels"] = {"k": label}
        await api.post(MAPS, body)
    deleted = await api.delete(f"{MAPS}?labelSelector=k%3Dx")
    assert [o["metadata"]["name"] for o in deleted.json["items"]] == ["a", "b"]
    assert [o["metadata"]["name"] for o in (await api.get(MAPS)).json["items"]] == ["c"]


async def test_pages_show_one_moment(api):
    """A list read in pages is the list as it was when the first page was read."""
    for index in range(5):
        await api.post(MAPS, config_map(f"m{index}"))
    first = (await api.get(f"{MAPS}?limit=2")).json
    assert first["metadata"]["remainingItemCount"] == 3
    await api.delete(f"{MAPS}/m3")
    await api.post(MAPS, config_map("m9"))
    await api.patch(f"{MAPS}/m4", {"data": {"new": "1"}})
    names = [o["metadata"]["name"] for o in first["items"]]
    page = first
    while token := page["metadata"].get("continue"):
        page = (await api.get(f"{MAPS}?limit=2&continue={token}")).json
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [o["metadata"]["name"] for o in page["items"]]
    assert names == ["m0", "m1", "m2", "m3", "m4"]
    assert "new" not in page["items"][-1].get("data", {})


async def test_list_at_an_exact_revision(api):
    await api.post(MAPS, config_map("a", x="1"))
    then = (await api.get(MAPS)).json["metadata"]["resourceVersion"]
    await api.patch(f"{MAPS}/a", {"data": {"x": "2"}})
    past = (await api.get(f"{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).json
    assert past["items"][0]["data"] == {"x": "1"}


async def test_field_selectors(api):
    for name in ("a", "b"):
        await api.post(MAPS, config_map(name))
    found = (await api.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db,metadata.namespace%3Ddefault")).json
    assert [o["metadata"]["name"] for o in found["items"]] == ["b"]
    refused = await api.get(f"{WIDGETS}?fieldSelector=spec.nope%3D1")
    assert (refused.status, refused.json["message"]) == (400, "field label not supported: spec.nope")


async def test_scale_subresource(api, make_widget):
    await api.post(WIDGETS, make_widget())
    scale = (await api.get(f"{WIDGETS}/w1/scale")).json
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 1})
    scale["spec"]["replicas"] = 4
    assert (await api.put(f"{WIDGETS}/w1/scale", scale)).json["spec"] == {"replicas": 4}
    after = (await api.get(f"{WIDGETS}/w1")).json
    assert (after["spec"]["replicas"], after["metadata"]["generation"]) == (4, 2)
    bad = await api.patch(f"{WIDGETS}/w1/scale", {"spec": {"replicas": -1}})
    assert bad.status == 422


async def test_secret_string_data_becomes_data(api):
    path = "/api/v1/namespaces/default/secrets"
    body = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}, "data": {"user": "YQ=="}}
    made = (await api.post(path, body)).json
    assert made["data"] == {"user": "YQ==", "password": "aHVudGVyMg=="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made


async def test_a_refused_secret_never_shows_its_value(api):
    """Errors reach terminals and logs."""
    path = "/api/v1/namespaces/default/secrets"
    reply = await api.post(path, {"metadata": {"name": "s"}, "data": {"password": "hunter2!"}})
    assert reply.status in (400, 422)
    assert b"hunter2" not in reply.body


async def test_immutable_config_map(api):
    await api.post(MAPS, {**config_map("a", x="1"), "immutable": True})
    reply = await api.patch(f"{MAPS}/a", {"data": {"x": "2"}})
    assert (reply.status, reply.json["details"]["causes"][0]["field"]) == (422, "data")


async def test_event_is_seen_in_both_groups(api):
    core = {
        "metadata": {"name": "e1"},
        "involvedObject": {"kind": "Widget", "name": "w1", "namespace": "default"},
        "reason": "Started",
        "message": "it runs",
        "type": "Normal",
        "firstTimestamp": "2026-01-01T00:00:00Z",
    }
    assert (await api.post("/api/v1/namespaces/default/events", core)).status == 201
    new = (await api.get("/apis/events.k8s.io/v1/namespaces/default/events/e1")).json
    assert (new["apiVersion"], new["note"], new["regarding"]["name"]) == ("events.k8s.io/v1", "it runs", "w1")
    modern = {
        "metadata": {"name": "e2"},
        "regarding": {"kind": "Widget", "name": "w2", "namespace": "default"},
        "reason": "Stopped",
        "action": "Stop",
        "type": "Normal",
        "note": "it stops",
        "reportingController": "test",
        "reportingInstance": "test-1",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    }
    assert (await api.post("/apis/events.k8s.io/v1/namespaces/default/events", modern)).status == 201
    found = (await api.get("/api/v1/events?fieldSelector=involvedObject.name%3Dw2,involvedObject.kind%3DWidget")).json
    assert (found["apiVersion"], [e["message"] for e in found["items"]]) == ("v1", ["it stops"])


async def test_table_of_custom_resources(api, make_widget, clock):
    await api.post(WIDGETS, make_widget())
    conditions = [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]
    await api.patch(f"{WIDGETS}/w1/status", {"status": {"conditions": conditions, "host": "h1"}})
    clock.now += 3 * 3600 + 60
    table = (await api.get(WIDGETS, accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json")).json
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Cpu", "Ready", "Host", "Age"]
    assert table["rows"][0]["cells"] == ["w1", 2, "True", "h1", "3h1m"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "spec" not in table["rows"][0]["object"]


async def test_metadata_only(api, make_widget):
    await api.post(WIDGETS, make_widget())
    kind = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    listed = (await api.get(WIDGETS, accept=kind)).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_yaml_both_ways(api):
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: text\ndata:\n  a: 'yes'\n"
    reply = await api.call("POST", MAPS, body, kind="application/yaml", accept="application/yaml")
    assert reply.status == 201, reply.body
    assert b"name: text\n" in reply.body


async def test_yaml_scalars(api):
    """As kubectl reads them: neither a port mapping nor `y` is a number or text for one and not for the other."""
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: text\ndata:\n  a: %s\n"
    for text in (b"22:22", b"2026-01-01", b"_1"):
        reply = await api.call("POST", f"{MAPS}?dryRun=All", body % text, kind="application/yaml")
        assert (reply.status, reply.json["data"]["a"]) == (201, text.decode()), reply.body
    for text in (b"y", b"off", b"1e3", b"0o17"):
        reply = await api.call("POST", MAPS, body % text, kind="application/yaml")
        assert reply.status == 400


async def test_empty_metadata_is_not_kept(api, make_widget):
    """As Kubernetes leaves it out; whoever compares what it sent with what is there has to know that anyway."""
    empty = {"labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": [], "generateName": ""}
    for url, body in ((MAPS, {"metadata": {"name": "w1"}}), (WIDGETS, make_widget())):
        body["metadata"] |= empty
        made = await api.post(url, body)
        assert made.status == 201
        assert not set(empty) & set(made.json["metadata"])
        labelled = await api.patch(f"{url}/w1", {"metadata": {"labels": {"a": "b"}}})
        assert labelled.json["metadata"]["labels"] == {"a": "b"}
        after = await api.patch(f"{url}/w1", {"metadata": {"labels": {"a": None}, "annotations": {}}})
        assert not set(empty) & set(after.json["metadata"])
        assert (await api.get(f"{url}/w1")).json == after.json


async def test_old_events_expire(api, instance, clock):
    event = {"metadata": {"name": "old"}, "involvedObject": {"namespace": "default"}, "type": "Normal"}
    await api.post("/api/v1/namespaces/default/events", event)
    clock.now += 3500
    await api.post("/api/v1/namespaces/default/events", {**event, "metadata": {"name": "young"}})
    assert await instance.expiry.sweep() == 0
    clock.now += 200
    assert await instance.expiry.sweep() == 1
    left = (await api.get("/api/v1/events")).json["items"]
    assert [e["metadata"]["name"] for e in left] == ["young"]


async def test_warnings_and_strictness_for_unknown_fields(api, make_widget):
    body = make_widget(bogus=1)
    warned = await api.post(WIDGETS, body)
    assert warned.status == 201
    assert warned.header("warning") == ['299 - "unknown field \\"spec.bogus\\""']
    assert "bogus" not in warned.json["spec"]
    strict = await api.post(f"{WIDGETS}?fieldValidation=Strict", {**body, "metadata": {"name": "w2"}})
    assert strict.status == 400
    assert 'strict decoding error: unknown field "spec.bogus"' in strict.json["message"]
    silent = await api.post(f"{WIDGETS}?fieldValidation=Ignore", {**body, "metadata": {"name": "w3"}})
    assert silent.header("warning") == []


async def test_duplicate_fields_are_told(api):
    body = b'{"metadata":{"name":"d"},"data":{"a":"1","a":"2"}}'
    reply = await api.post(MAPS, body)
    assert reply.header("warning") == ['299 - "duplicate field \\"data.a\\""']
    strict = await api.post(f"{MAPS}?fieldValidation=Strict", body)
    assert strict.status == 400


async def test_concurrent_patches_all_count(api):
    """A patch that lost a race is applied to what won it."""
    await api.post(MAPS, config_map("a"))
    async with asyncio.TaskGroup() as group:
        for index in range(40):
            group.create_task(api.patch(f"{MAPS}/a", {"data": {f"k{index}": "x"}}))
    assert len((await api.get(f"{MAPS}/a")).json["data"]) == 40


async def test_custom_resources_are_served_after_a_restart(memory, api, make_widget):
    """The definition comes from the store: nobody has to apply it again."""
    directory = Path(memory) / "again"
    tokens = Tokens([("test-token", User("admin"))])
    async with running(Store(directory), tokens, crds=Path(__file__).parent / "fixtures") as first:
        api.app = first.application
        made = (await api.post(WIDGETS, make_widget())).json
    async with running(Store(directory), tokens) as second:
        api.app = second.application
        assert (await api.get(f"{WIDGETS}/w1")).json == made
        revision = (await api.get(WIDGETS)).json["metadata"]["resourceVersion"]
        async with api.watch(f"{WIDGETS}?watch=1&resourceVersion={revision}") as stream:
            await api.patch(f"{WIDGETS}/w1", {"spec": {"cpu": 3}})
            assert (await stream.next())["object"]["spec"]["cpu"] == 3


async def test_update_of_a_custom_resource_names_its_revision(api, make_widget):
    await api.post(WIDGETS, make_widget())
    reply = await api.put(f"{WIDGETS}/w1", make_widget(cpu=3))
    assert (reply.status, reply.json["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")


@pytest.mark.parametrize(
    ("system", "machine", "told"),
    [
        ("Linux", "x86_64", "linux/amd64"),
        ("Linux", "aarch64", "linux/arm64"),
        ("Darwin", "arm64", "darwin/arm64"),
        ("Linux", "ppc64le", "linux/ppc64le"),
    ],
)
async def test_the_version_tells_the_platform_it_runs_on(api, monkeypatch, system, machine, told):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    version = (await api.get("/version")).json
    assert version["platform"] == told
    assert version["gitVersion"].startswith("v1.")
    fields = {"major", "minor", "gitVersion", "gitCommit", "gitTreeState", "goVersion", "compiler", "platform"}
    assert version.keys() == fields | {"buildDate"}, "what the generated clients demand"
    assert version["buildDate"] == "", "no date is better than a wrong one"


async def test_metrics_count_requests(api, make_widget):
    await api.post(WIDGETS, make_widget())
    await api.get(f"{WIDGETS}/none")
    text = (await api.get("/metrics")).body.decode()
    assert 'apiserver_requests_total{code="201",resource="widgets",verb="create"} 1.0' in text
    assert 'resource="none"' not in text
    assert "apiserver_store_revision" in text
    assert 'apiserver_request_duration_seconds_count{resource="widgets",verb="create"} 1.0' in text
    assert f'service="virtrigaud-apiserver",version="{version("virtrigaud-apiserver")}"' in text
    assert "process_cpu_seconds_total" in text


async def test_reviews_store_nothing(api):
    group = "/apis/authorization.k8s.io/v1"
    review = {"spec": {"resourceAttributes": {"verb": "delete", "resource": "widgets"}}}
    assert (await api.post(f"{group}/selfsubjectaccessreviews", review)).json["status"]["allowed"] is True
    watching = {"spec": {"user": "prometheus", "groups": ["system:monitoring"]}}
    for asked, allowed in (
        ({"resourceAttributes": {"verb": "get", "resource": "secrets"}}, False),
        ({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}, True),
    ):
        said = await api.post(f"{group}/subjectaccessreviews", {"spec": {**watching["spec"], **asked}})
        assert said.json["status"]["allowed"] is allowed
    who = (await api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})).json
    assert who["status"]["userInfo"]["username"] == "admin"
    tokens = "/apis/authentication.k8s.io/v1/tokenreviews"
    known = (await api.post(tokens, {"spec": {"token": "test-token"}})).json
    assert (known["status"]["authenticated"], "token" in known["spec"]) == (True, False)
    unknown = (await api.post(tokens, {"spec": {"token": "guess"}})).json
    assert unknown["status"]["authenticated"] is False
