"""Custom resource definitions: what is accepted, and what they make."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from apiserver.openapi import definition_name

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEPLOYED = Path(__file__).parents[3] / "deploy" / "crds"
THINGS = "/apis/test.virtrigaud.io/v1/namespaces/default/things"


@pytest.fixture
def crd():
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.virtrigaud.io"},
        "spec": {
            "group": "test.virtrigaud.io",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def thing(name, version="v1"):
    meta = {"name": name}
    return {"apiVersion": f"test.virtrigaud.io/{version}", "kind": "Thing", "metadata": meta, "spec": {"a": "x"}}


def conditions(crd):
    return {c["type"]: c["status"] for c in crd["status"]["conditions"]}


async def test_a_definition_is_served_at_once(api, crd):
    made = (await api.post(CRD, crd)).json
    assert conditions(made) == {"NamesAccepted": "True", "Established": "True"}
    assert made["status"]["acceptedNames"] == {
        "plural": "things",
        "kind": "Thing",
        "singular": "thing",
        "listKind": "ThingList",
    }
    assert made["status"]["storedVersions"] == ["v1"]
    assert (await api.post(THINGS, thing("t"))).status == 201
    found = (await api.get("/apis/test.virtrigaud.io/v1")).json["resources"]
    assert "things" in [r["name"] for r in found]


async def test_names_that_are_taken(api, crd):
    crd["spec"]["names"]["shortNames"] = ["wd"]
    made = (await api.post(CRD, crd)).json
    assert conditions(made) == {"NamesAccepted": "False", "Established": "False"}
    assert (await api.get(THINGS)).status == 404


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("metadata", "name"), "other.test.virtrigaud.io", "metadata.name"),
        (("spec", "group"), "nodots", "spec.group"),
        (("spec", "scope"), "Everywhere", "spec.scope"),
        (("spec", "names", "plural"), "Things", "spec.names.plural"),
        (("spec", "names", "kind"), "", "spec.names.kind"),
        (("spec", "versions", 0, "storage"), False, "spec.versions"),
        (("spec", "versions", 0, "name"), "V1", "spec.versions[0].name"),
        (("spec", "versions", 0, "schema"), {}, "spec.versions[0].schema.openAPIV3Schema"),
        (("spec", "versions", 0, "additionalPrinterColumns"), [{"name": "A", "type": "string", "jsonPath": ".a["}],
         "spec.versions[0].additionalPrinterColumns[0].jsonPath"),
        (("spec", "conversion"), {"strategy": "Webhook"}, "spec.conversion.strategy"),
    ],
)  # fmt: skip
async def test_a_definition_that_is_refused(api, crd, path, value, field):
    here = crd
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    reply = await api.post(CRD, crd)
    assert reply.status == 422
    assert field in [c["field"] for c in reply.json["details"]["causes"]]


async def test_changed_schema_counts_from_then_on(api, crd):
    """Objects stored before get new defaults when they are read."""
    await api.post(CRD, crd)
    await api.post(THINGS, thing("old"))
    now = (await api.get(f"{CRD}/things.test.virtrigaud.io")).json
    properties = now["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["b"] = {"type": "string", "default": "new"}
    assert (await api.put(f"{CRD}/things.test.virtrigaud.io", now)).status == 200
    assert (await api.get(f"{THINGS}/old")).json["spec"] == {"a": "x", "b": "new"}
    assert (await api.get(THINGS)).json["items"][0]["spec"]["b"] == "new"


async def test_two_versions_of_one_object(api, crd):
    second = copy.deepcopy(crd["spec"]["versions"][0]) | {"name": "v1beta1", "storage": False, "deprecated": True}
    crd["spec"]["versions"].append(second)
    await api.post(CRD, crd)
    beta = THINGS.replace("/v1/", "/v1beta1/")
    made = await api.post(beta, thing("t", "v1beta1"))
    assert made.json["apiVersion"] == "test.virtrigaud.io/v1beta1"
    assert "deprecated" in made.header("warning")[0]
    assert (await api.get(f"{THINGS}/t")).json["apiVersion"] == "test.virtrigaud.io/v1"
    assert (await api.get("/apis/test.virtrigaud.io")).json["preferredVersion"]["version"] == "v1"


async def test_immutable_parts(api, crd):
    await api.post(CRD, crd)
    reply = await api.patch(f"{CRD}/things.test.virtrigaud.io", {"spec": {"scope": "Cluster"}})
    assert (reply.status, reply.json["details"]["causes"][0]["field"]) == (422, "spec.scope")


async def test_aggregated_discovery(api):
    kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    reply = await api.get("/apis", accept=f"{kind},application/json")
    assert reply.header("content-type") == [kind]
    groups = {g["metadata"]["name"]: g for g in reply.json["items"]}
    (version,) = groups["test.virtrigaud.io"]["versions"]
    (resource,) = version["resources"]
    assert (resource["resource"], resource["scope"], resource["shortNames"]) == ("widgets", "Namespaced", ["wd"])
    assert [s["subresource"] for s in resource["subresources"]] == ["status", "scale"]
    core = (await api.get("/api", accept=kind)).json["items"]
    assert [len(core), core[0]["versions"][0]["version"]] == [1, "v1"]


async def test_openapi_index_leads_to_every_document(api):
    index = (await api.get("/openapi/v3")).json["paths"]
    assert {"api/v1", "apis/test.virtrigaud.io/v1", "apis/coordination.k8s.io/v1"} <= set(index)
    for entry in index.values():
        document = (await api.get(entry["serverRelativeURL"])).json
        assert document["openapi"].startswith("3.")
        text = str(document)
        schemas = document.get("components", {}).get("schemas", {})
        assert all(schemas)
        for ref in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
            assert ref in schemas, f"dangling reference to {ref}"


async def test_openapi_of_a_custom_kind(api, instance):
    document = (await api.get("/openapi/v3/apis/test.virtrigaud.io/v1")).json
    resource = instance.operations.registry.find("test.virtrigaud.io", "v1", "widgets")
    schema = document["components"]["schemas"][definition_name(resource)]
    assert schema["x-kubernetes-group-version-kind"] == [
        {"group": "test.virtrigaud.io", "version": "v1", "kind": "Widget"}
    ]
    patch = document["paths"]["/apis/test.virtrigaud.io/v1/namespaces/{namespace}/widgets/{name}"]["patch"]
    assert "fieldValidation" in [p["name"] for p in patch["parameters"]]
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]


async def test_openapi_2_as_protobuf_is_an_empty_document(api):
    """kubectl asks for it when it applies a List or a misspelt kind; the server validates anyway."""
    reply = await api.get("/openapi/v2", accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert (reply.status, reply.body) == (200, b"")


async def test_openapi_2_has_no_words_of_3(api):
    document = (await api.get("/openapi/v2")).json
    assert document["swagger"] == "2.0"
    text = str(document)
    assert "components/schemas" not in text
    assert "'nullable'" not in text


@pytest.mark.parametrize("path", sorted(DEPLOYED.glob("*.yaml")), ids=lambda path: path.stem)
async def test_our_own_definitions_are_accepted(api, path):
    """The definitions that VirtRigaud ships must be structural, with rules that compile."""
    body = path.read_bytes()
    reply = await api.call("POST", f"{CRD}?fieldValidation=Strict", body, kind="application/yaml")
    assert reply.status == 201, reply.json["message"]
    assert conditions(reply.json)["Established"] == "True"


def test_the_deployed_definitions_are_found():
    assert len(list(DEPLOYED.glob("*.yaml"))) == 10


async def test_a_kind_of_the_servers_own_cannot_be_redefined(api, crd):
    """It would take the place of the built-in one, and its deletion all Leases with it."""
    crd["metadata"]["name"] = "leases.coordination.k8s.io"
    crd["spec"] |= {"group": "coordination.k8s.io", "names": {"plural": "leases", "kind": "Lease"}}
    reply = await api.post(CRD, crd)
    assert reply.status == 422
    assert "is a kind that this server has by itself" in reply.json["message"]
    assert (await api.get("/apis/coordination.k8s.io/v1/leases")).status == 200
