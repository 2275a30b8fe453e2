"""Server-side apply: who owns what, what a manager may drop, and conflicts."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver.patch import fields
from hypothesis import given
from hypothesis import strategies as st

WIDGETS = "/apis/test.virtrigaud.io/v1/namespaces/default/widgets"


def config(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "test.virtrigaud.io/v1", "kind": "Widget", "metadata": {"name": "w1"}, "spec": spec}


async def apply(api, manager: str, body: dict[str, Any], *, force: bool = False, sub: str = ""):
    flag = "&force=true" if force else ""
    return await api.patch(f"{WIDGETS}/w1{sub}?fieldManager={manager}{flag}", body, "apply")


def owned(obj: dict[str, Any], manager: str) -> dict[str, Any]:
    return next((m["fieldsV1"] for m in obj["metadata"].get("managedFields", []) if m["manager"] == manager), {})


async def test_apply_creates_then_does_nothing(api):
    made = await apply(api, "one", config(cpu=2))
    assert made.status == 201
    assert owned(made.json, "one") == {"f:spec": {"f:cpu": {}}}
    again = await apply(api, "one", config(cpu=2))
    assert again.status == 200
    assert again.json["metadata"]["resourceVersion"] == made.json["metadata"]["resourceVersion"]


async def test_a_field_no_longer_applied_goes_away(api):
    await apply(api, "one", config(cpu=2, labels={"a": "1", "b": "2"}))
    after = (await apply(api, "one", config(cpu=2, labels={"b": "2"}))).json
    assert after["spec"]["labels"] == {"b": "2"}
    after = (await apply(api, "one", config(cpu=2))).json
    assert "labels" not in after["spec"]


async def test_what_others_set_stays(api):
    await apply(api, "one", config(cpu=2, disks=[{"name": "root", "size": 1}]))
    await apply(api, "two", config(cpu=2, disks=[{"name": "data", "size": 2}]))
    after = (await apply(api, "one", config(cpu=2, disks=[{"name": "root", "size": 5}]))).json
    assert [(d["name"], d["size"]) for d in after["spec"]["disks"]] == [("root", 5), ("data", 2)]
    after = (await apply(api, "one", config(cpu=2))).json
    assert [d["name"] for d in after["spec"]["disks"]] == ["data"]


async def test_a_shared_field_stays_until_its_last_owner_lets_go(api):
    await apply(api, "one", config(cpu=2, image="a"))
    await apply(api, "two", config(cpu=2, image="a"))
    assert (await apply(api, "one", config(cpu=2))).json["spec"]["image"] == "a"
    assert "image" not in (await apply(api, "two", config(cpu=2))).json["spec"]


async def test_conflict_names_field_and_manager(api):
    await apply(api, "one", config(cpu=2))
    refused = await apply(api, "two", config(cpu=3))
    assert refused.status == 409
    assert refused.json["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.cpu'
    causes = refused.json["details"]["causes"]
    assert causes == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.cpu"}]
    assert (await api.get(f"{WIDGETS}/w1")).json["spec"]["cpu"] == 2


async def test_force_takes_the_field(api):
    await apply(api, "one", config(cpu=2, replicas=1))
    taken = (await apply(api, "two", config(cpu=3), force=True)).json
    assert taken["spec"]["cpu"] == 3
    assert owned(taken, "one") == {"f:spec": {"f:replicas": {}}}
    assert owned(taken, "two") == {"f:spec": {"f:cpu": {}}}


async def test_an_ordinary_write_takes_what_it_changes(api):
    await apply(api, "one", config(cpu=2, replicas=1))
    await api.call(
        "PATCH", f"{WIDGETS}/w1", {"spec": {"cpu": 4}}, kind="application/merge-patch+json", user_agent="editor/1.0 x"
    )
    now = (await api.get(f"{WIDGETS}/w1")).json
    assert owned(now, "one") == {"f:spec": {"f:replicas": {}}}
    assert owned(now, "editor") == {"f:spec": {"f:cpu": {}}}
    refused = await apply(api, "one", config(cpu=2, replicas=1))
    assert refused.json["message"].endswith('conflict with "editor" using test.virtrigaud.io/v1: .spec.cpu')


async def test_status_is_applied_apart(api):
    await apply(api, "one", config(cpu=2))
    status = {**config(), "status": {"host": "h"}}
    status.pop("spec")
    after = (await apply(api, "ctl", status, sub="/status")).json
    assert (after["spec"]["cpu"], after["status"]) == (2, {"host": "h"})
    assert owned(after, "ctl") == {"f:status": {"f:host": {}}}
    again = (await apply(api, "one", config(cpu=3))).json
    assert again["status"] == {"host": "h"}


async def test_apply_needs_a_manager_and_no_managed_fields(api):
    refused = await api.patch(f"{WIDGETS}/w1", config(cpu=2), "apply")
    assert (refused.status, refused.json["details"]["causes"][0]["field"]) == (422, "fieldManager")
    body = config(cpu=2)
    body["metadata"]["managedFields"] = [{"manager": "x"}]
    assert (await apply(api, "one", body)).status == 400


async def test_apply_of_an_invalid_object_changes_nothing(api):
    refused = await apply(api, "one", config(cpu=0))
    assert (refused.status, refused.json["reason"]) == (422, "Invalid")
    assert (await api.get(f"{WIDGETS}/w1")).status == 404


async def test_managers_can_be_reset(api):
    made = (await apply(api, "one", config(cpu=2))).json
    made["metadata"]["managedFields"] = [{}]
    reset = (await api.put(f"{WIDGETS}/w1", made)).json
    assert "managedFields" not in reset["metadata"]


ELEMENTS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])
PATHS = st.frozensets(st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple), max_size=8)


@given(PATHS)
def test_field_sets_round_trip(paths):
    assert fields.from_wire(fields.to_wire(paths)) == paths


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("f:spec", "f:cpu"), ".spec.cpu"),
        (("f:spec", "f:disks", 'k:{"name":"root"}', "f:size"), '.spec.disks[name="root"].size'),
        (("f:metadata", "f:finalizers", 'v:"x"'), '.metadata.finalizers[="x"]'),
    ],
)
def test_paths_for_people(path, text):
    assert fields.show(path) == text


TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.sampled_from("abc"), TREES), st.dictionaries(st.sampled_from("abc"), TREES))
def test_merge_holds_all_that_was_applied(live, applied):
    """After an apply, comparing the configuration with itself merged in again finds nothing to do."""
    merged = fields.merge(None, live, applied)
    assert fields.merge(None, merged, applied) == merged
    changed, removed = fields.compare(None, merged, fields.merge(None, merged, applied))
    assert (changed, removed) == (set(), set())
