"""Bad input: always a `Status` that says what is wrong, never a 500, never a change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MAPS = "/api/v1/namespaces/default/configmaps"
WIDGETS = "/apis/test.virtrigaud.io/v1/namespaces/default/widgets"
BOMB = "\n".join(
    ["a: &a [x,x,x,x,x,x,x,x,x]"]
    + [f"{c}: &{c} [{','.join(f'*{chr(ord(c) - 1)}' for _ in range(9))}]" for c in "bcdefghi"]
)


def status(reply) -> dict:
    body = reply.json
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", reply.status)
    assert body["message"]
    return body


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/api/v1/nope", 404),
        ("/api/v2/pods", 404),
        ("/apis/none.io/v1/things", 404),
        ("/apis/test.virtrigaud.io/v9/widgets", 404),
        ("/nonsense", 404),
        ("/api/v1/namespaces/default/configmaps/a/b/c", 404),
        ("/api/v1/namespaces/default/configmaps/a/status", 404),
        ("/api/v1/namespaces/default/configmaps/missing", 404),
        ("/api/v1/namespaces/default/namespaces", 404),
        ("/api/v1//configmaps", 404),
        (f"{MAPS}/..%2f..%2fetc", 404),
        (f"{MAPS}?limit=x", 400),
        (f"{MAPS}?limit=-1", 400),
        (f"{MAPS}?resourceVersion=abc", 400),
        (f"{MAPS}?resourceVersion=99999999", 504),
        (f"{MAPS}?continue=%%%", 400),
        (f"{MAPS}?continue=e30", 400),
        (f"{MAPS}?labelSelector=a%20in", 400),
        (f"{MAPS}?labelSelector=%3D%3D", 400),
        (f"{MAPS}?labelSelector=a%3D{'x' * 64}", 400),
        (f"{MAPS}?fieldSelector=x", 400),
        (f"{MAPS}?watch=perhaps", 400),
        (f"{MAPS}?watch=1&timeoutSeconds=x", 400),
        (f"{MAPS}?resourceVersionMatch=Exact", 422),
        ("/openapi/v3/apis/none.io/v1", 404),
    ],
)
async def test_bad_reads(api, url, code):
    reply = await api.get(url)
    assert reply.status == code
    status(reply)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff\xfe", 400),
        (b'{"metadata":null}', 422),
        (b'{"metadata":"x"}', 400),
        (b'{"metadata":{"name":1}}', 400),
        (b'{"metadata":{"name":"a"},"data":[]}', 400),
        (b'{"metadata":{"name":"a"},"data":{"k":1}}', 400),
        (b'{"metadata":{"name":"a"},"data":{"../k":"v"}}', 422),
        (b'{"metadata":{"name":"A"}}', 422),
        (b'{"metadata":{"name":"a/b"}}', 422),
        (b'{"metadata":{"name":".."}}', 422),
        (b'{"metadata":{"name":"a\\u0000b"}}', 422),
        (b'{"metadata":{"name":"\\ud83d\\ude00"}}', 422),
        (b'{"metadata":{"name":"' + b"a" * 254 + b'"}}', 422),
        (b'{"metadata":{"name":"a","namespace":"other"}}', 400),
        (b'{"metadata":{"name":"a","labels":{"-":"v"}}}', 422),
        (b'{"metadata":{"name":"a","labels":{"k":"a b"}}}', 422),
        (b'{"metadata":{"name":"a","labels":{"k":1}}}', 400),
        (b'{"metadata":{"name":"a","finalizers":["no/slash/es"]}}', 422),
        (b'{"metadata":{"name":"a","ownerReferences":[{}]}}', 422),
        (b'{"metadata":{"name":"a","annotations":{"k":"' + b"x" * (300 << 10) + b'"}}}', 422),
        (b'{"metadata":{"name":"a","resourceVersion":"5"}}', 400),
        (b'{"kind":"Secret","metadata":{"name":"a"}}', 400),
        (b'{"apiVersion":"v2","metadata":{"name":"a"}}', 400),
        (b'{"apiVersion":1,"kind":[],"metadata":{"name":"a"}}', 400),
        (b"[" * 100_000, 400),
        (b'{"metadata":{"name":"a"},"x":' + b"[" * 900 + b"]" * 900 + b"}", 400),
        (b'{"metadata":{"name":"a","managedFields":[{"operation":"Apply","fieldsV1":{"k:x":1}}]}}', 201),
    ],
)  # fmt: skip
async def test_bad_bodies(api, body, code):
    reply = await api.post(MAPS, body)
    assert reply.status == code
    if code >= 400:
        status(reply)
        assert (await api.get(MAPS)).json["items"] == []


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]",
        "x: !!python/object/apply:os.system ['true']",
        "a: b: c",
        "--- 1\n--- 2",
        "? [a]\n: b",
        "a: .nan",
        "[" * 1_000_000,
        "- " * 1_000_000,
    ],
    ids=lambda text: text[:20],
)
async def test_bad_yaml(api, text):
    reply = await api.call("POST", MAPS, text.encode(), kind="application/yaml")
    assert reply.status == 400
    status(reply)


async def test_a_body_above_the_limit(api):
    body = json.dumps({"metadata": {"name": "a"}, "data": {"k": "x" * (3 << 20)}}).encode()
    reply = await api.post(MAPS, body)
    assert (reply.status, status(reply)["reason"]) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/json-patch+json", b"{}", 400),
        ("application/json-patch+json", b'[{"op":"test","path":"/data/a","value":"x"}]', 422),
        ("application/json-patch+json", b'[{"op":"remove","path":"/metadata"}]', 400),
        ("application/json-patch+json", b'[{"op":"replace","path":"","value":[]}]', 400),
        ("application/json-patch+json", b'[{"op":"replace","path":"/metadata/name","value":"z"}]', 400),
        ("application/merge-patch+json", b"[]", 400),
        ("application/merge-patch+json", b'{"metadata":null}', 400),
        ("application/merge-patch+json", b'{"kind":"Secret"}', 400),
        ("application/strategic-merge-patch+json", b'{"$patch":"what"}', 400),
        ("application/strategic-merge-patch+json", b'{"metadata":{"$retainKeys":1}}', 400),
        ("application/apply-patch+yaml", b"a: [", 400),
        ("application/apply-patch+yaml", b"- 1", 400),
        ("application/octet-stream", b"{}", 415),
        ("", b"{}", 415),
    ],
)
async def test_bad_patches(api, kind, body, code):
    await api.post(MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"a": "1"}})
    before = (await api.get(f"{MAPS}/p")).json
    reply = await api.call("PATCH", f"{MAPS}/p?fieldManager=m", body, kind=kind)
    assert reply.status == code
    status(reply)
    assert (await api.get(f"{MAPS}/p")).json == before


@pytest.mark.parametrize(
    ("method", "url", "code"),
    [
        ("POST", f"{MAPS}/a", 405),
        ("PUT", MAPS, 405),
        ("PATCH", MAPS, 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("POST", "/api/v1/configmaps", 405),
        ("OPTIONS", MAPS, 405),
        ("POST", "/version", 405),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ("POST", f"{MAPS}?dryRun=Some", 422),
        ("POST", f"{MAPS}?fieldValidation=Maybe", 422),
        ("POST", f"{MAPS}?fieldManager=%00", 422),
        ("PATCH", f"{WIDGETS}/none", 415),
    ],
)
async def test_bad_methods_and_options(api, method, url, code):
    reply = await api.call(method, url, {"metadata": {"name": "a"}})
    assert reply.status == code
    status(reply)


async def test_what_is_not_acceptable(api):
    reply = await api.get(MAPS, accept="text/html")
    assert (reply.status, status(reply)["reason"]) == (406, "NotAcceptable")


@pytest.mark.parametrize("token", ["", "wrong", "test-token2", "test-toke", "tëst"])
async def test_without_the_token(api, token):
    api.token = token
    for url in ("/api", MAPS, "/version", "/metrics", "/openapi/v2", "/nonsense"):
        reply = await api.get(url)
        assert (reply.status, status(reply)["reason"]) == (401, "Unauthorized")
    for url in ("/healthz", "/readyz", "/livez", "/livez/ping"):
        assert (await api.get(url)).body == b"ok"


async def test_whoever_watches_over_it_reads_metrics_and_nothing_else(api):
    """Prometheus' token lies in a file beside others; whoever finds it must not become an administrator."""
    api.token = "watching-token"
    assert (await api.get("/metrics")).status == 200
    for url in ("/", "/api", "/apis", MAPS, f"{MAPS}/x", "/metrics/x", "/version", "/openapi/v3"):
        reply = await api.get(url)
        assert (reply.status, status(reply)["reason"]) == (403, "Forbidden"), url
        assert f'User "prometheus" cannot get path "{url}"' in status(reply)["message"]
    assert (await api.post(MAPS, {"kind": "ConfigMap", "metadata": {"name": "x"}})).status == 403
    assert (await api.post("/metrics", {})).status == 405


async def test_strangers_make_up_no_metrics(api):
    before = (await api.get("/metrics")).body.decode()
    stranger = type(api)(api.app, token="")
    for number in range(50):
        for path in (f"/api/v1/kind{number}", f"/api/v{number + 2}/configmaps", f"/apis/g{number}/v1/widgets/w"):
            assert (await stranger.get(path)).status == 401
    assert (await stranger.get(MAPS)).status == 401
    after = (await api.get("/metrics")).body.decode()
    made = {line.rpartition(" ")[0] for line in after.splitlines()} - {
        line.rpartition(" ")[0] for line in before.splitlines()
    }
    counted = {line for line in made if line.startswith("apiserver_requests_total")}
    assert 'apiserver_requests_total{code="401",resource="configmaps",verb="list"}' in counted
    assert len(counted) <= 5, sorted(counted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["apiVersion", "kind", "metadata", "name", "spec", "cpu", "disks", "labels", "status", "x"]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


SEEDS = yaml.safe_load((Path(__file__).parent / "seeds.yaml").read_text())
ODD_TEXTS = ["", "x", "On", "Off", "8Gi", "2026-01-01T00:00:00Z", "AA==", "self.a > 1", "["]
ODD_NUMBERS = [0, -1, 3, 2**31, 2**63 - 1, 1.5, True, None]
ODD_TREES = [{}, [], {"name": "x"}, [{"name": "x"}], {"a": "b"}, ["a"], {"$patch": "delete"}, {"type": "string"}]
ODD = JSON | st.sampled_from([*ODD_TEXTS, *ODD_NUMBERS, *ODD_TREES])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths into a value."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, member in below for p in places(member, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid object with something odd in one or two places."""
    seed = draw(st.sampled_from(SEEDS))
    body: Any = copy.deepcopy(seed["body"])
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from([p for p in places(body) if len(p) > 1] or [("metadata",)]))
        here = body
        for step in parents:
            here = here[step]
        here[last] = copy.deepcopy(draw(ODD))
    return seed["url"], body


async def tell(api, url: str, body: Any, how: str):
    """Send a body with a writing verb."""
    name = body["metadata"].get("name", "s") if isinstance(body.get("metadata"), dict) else "s"
    named = f"{url}/{name}" if isinstance(name, str) and name.isalnum() else f"{url}/s"
    if how == "create":
        return await api.post(url, body)
    if how == "update":
        return await api.put(named, body)
    return await api.patch(f"{named}?fieldManager=m", body, how)


async def test_a_patch_cannot_fill_the_memory(api):
    """Each copy doubles the object."""
    await api.post(MAPS, {"metadata": {"name": "p"}, "data": {"a": "x" * 1000}})
    bomb = [{"op": "copy", "from": "/data", "path": f"/data/b{n}"} for n in range(40)]
    reply = await api.patch(f"{MAPS}/p", bomb, "json")
    assert (reply.status, status(reply)["reason"]) == (422, "Invalid")
    assert "exceed" in reply.json["message"]


async def test_patches_cannot_grow_an_object_without_end(api):
    raw = WIDGETS + "/big"
    await api.post(
        WIDGETS,
        {
            "apiVersion": "test.virtrigaud.io/v1",
            "kind": "Widget",
            "metadata": {"name": "big"},
            "spec": {"cpu": 1, "raw": {}},
        },
    )
    statuses = [(await api.patch(raw, {"spec": {"raw": {f"k{n}": "x" * (1 << 20)}}})).status for n in range(4)]
    assert statuses == [200, 200, 413, 413]


@pytest.mark.timeout(30)
async def test_wide_objects_are_handled_in_time(api):
    """Nothing on the way of a write is quadratic in what a client sends."""
    wide = {f"k{n}": "v" for n in range(6_000)}
    disks = [{"name": f"d{n}", "size": n} for n in range(6_000)]
    config = {"apiVersion": "test.virtrigaud.io/v1", "kind": "Widget", "metadata": {"name": "wide"}}
    url = f"{WIDGETS}/wide?fieldManager=m"
    assert (await api.patch(url, {**config, "spec": {"cpu": 1, "labels": wide, "disks": disks}}, "apply")).status == 201
    fewer = dict(list(wide.items())[::2])
    changed = await api.patch(url, {**config, "spec": {"cpu": 1, "labels": fewer, "disks": disks[::2]}}, "apply")
    assert changed.status == 200, changed.body[:300]
    assert len(changed.json["spec"]["disks"]) == 3_000
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    secrets = [{"name": f"s{n}"} for n in range(6_000)]
    await api.post(accounts, {"metadata": {"name": "wide"}, "secrets": secrets})
    order = {"$setElementOrder/secrets": secrets[::-1], "secrets": [{"name": "s1", "kind": "x"}]}
    patched = await api.patch(f"{accounts}/wide", order, "strategic")
    assert patched.json["secrets"][0]["name"] == "s5999"


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=spoiled(), how=st.sampled_from(["create", "update", "merge", "strategic", "apply"]))
async def test_no_spoiled_object_breaks_the_server(api, made, how):
    """Nearly valid objects reach deeper than random ones; reading everything back must work too."""
    url, body = made
    for seed in SEEDS:
        if seed["url"] == url:
            await api.post(url, seed["body"])
    reply = await tell(api, url, body, how)
    assert reply.status < 500
    if url.endswith("reviews"):
        return
    table = await api.get(url, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert table.status == 200
    assert (await api.get("/openapi/v2")).status == 200
    assert (await api.get("/apis/test.virtrigaud.io/v1/gizmos")).status in (200, 404)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON, how=st.sampled_from(["merge", "json", "apply", "create", "crd"]))
async def test_no_body_breaks_the_server(api, body, how):
    """Any JSON at all, to any writing verb."""
    if how == "create":
        reply = await api.post(WIDGETS, body)
    elif how == "crd":
        reply = await api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    else:
        await api.post(
            WIDGETS,
            {"apiVersion": "test.virtrigaud.io/v1", "kind": "Widget", "metadata": {"name": "w1"}, "spec": {"cpu": 1}},
        )
        reply = await api.patch(f"{WIDGETS}/w1?fieldManager=m", body, how)
    assert reply.status < 500


@pytest.mark.parametrize("index", ["9" * 5000, "\u0661"])
async def test_an_index_of_a_patch_that_is_no_index(api, index):
    await api.post(MAPS, {"metadata": {"name": "a", "finalizers": ["x.io/y"]}})
    patch = [{"op": "remove", "path": f"/metadata/finalizers/{index}"}]
    reply = await api.patch(f"{MAPS}/a", patch, "json")
    assert reply.status == 422
    status(reply)
