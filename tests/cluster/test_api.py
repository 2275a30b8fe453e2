"""The embedded API server and kube-apiserver answer alike: the suite of the one, run against the other."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from libvirtd.fixtures import missing

from .cluster import Cluster
from .conftest import start_cluster
from .suite import Client, Server, clean, fixtures, own, server, shared

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:The test .* is marked with '@pytest.mark.asyncio'"),  # those of kubectl are not
]
globals().update(shared())
(crd,) = fixtures("test_definitions", "crd")
make_widget, kubectl = fixtures("conftest", "make_widget", "kubectl")

STATUS = "the embedded server says every failure in a Status; kube-apiserver says these in plain text, or not at all"
LENIENT = "kube-apiserver takes it, as Go's parsers do; the embedded server tells what is wrong"
CODE = "refused by both; kube-apiserver with 422 or 500, where the embedded server says 400: it cannot be understood"
ANONYMOUS = "kube-apiserver knows anonymous users, and takes no wrong token even where none is needed"
METRICS = "each server has metrics of its own"
MAPS = "/api/v1/namespaces/default/configmaps"

DIFFERENCES = {
    "test_a_definition_that_is_refused[path8-value8-spec.versions[0].additionalPrinterColumns[0].jsonPath]": LENIENT,
    "test_a_definition_that_is_refused[path9-value9-spec.conversion.strategy]": "only a cluster calls webhooks",
    "test_a_kind_of_the_servers_own_cannot_be_redefined": "kube-apiserver wants groups of *.k8s.io approved instead",
    "test_openapi_2_as_protobuf_is_an_empty_document": "kube-apiserver writes protobuf",
    "test_openapi_2_has_no_words_of_3": "kube-apiserver describes JSONSchemaProps, which has a property `nullable`",
    "test_bad_reads[/apis/none.io/v1/things-404]": STATUS,
    "test_bad_reads[/apis/test.virtrigaud.io/v9/widgets-404]": STATUS,
    "test_bad_reads[/nonsense-404]": STATUS,
    "test_bad_reads[/openapi/v3/apis/none.io/v1-404]": STATUS,
    f"test_bad_reads[{MAPS}?limit=-1-400]": LENIENT,
    f"test_bad_reads[{MAPS}?continue=%%%-400]": LENIENT,
    "test_bad_bodies[null-400]": CODE,
    'test_bad_bodies[{"metadata":{"name":"a","resourceVersion":"5"}}-400]': CODE,
    "test_bad_bodies[body30-400]": LENIENT,
    "test_bad_yaml[x: !!python/object/a]": CODE,
    'test_bad_patches[application/json-patch+json-[{"op":"replace","path":"","value":[]}]-400]': CODE,
    'test_bad_patches[application/merge-patch+json-{"kind":"Secret"}-400]': CODE,
    'test_bad_patches[application/strategic-merge-patch+json-{"$patch":"what"}-400]': CODE,
    "test_a_patch_cannot_fill_the_memory": "kube-apiserver refuses it, too, and does not say why",
    "test_without_the_token": ANONYMOUS,
    "test_strangers_make_up_no_metrics": ANONYMOUS,
    "test_patches_cannot_grow_an_object_without_end": "etcd takes 1.5 MiB and answers 500; SQLite 2 MiB, and 413",
    "test_a_definition_takes_its_objects_along": "of a kind that goes, a new object is refused with 403, not with 405",
    "test_metrics_count_requests": METRICS,
    "test_whoever_watches_over_it_reads_metrics_and_nothing_else": "a cluster's tokens and roles are its own",
    "test_reviews_store_nothing": "kube-apiserver answers a TokenReview with the token in it",
}
"""Tests that must fail here, as the servers differ by design: name, with parameters or without -> why."""

LEFT_OUT = {
    f"test_bad_reads[{MAPS}?watch=perhaps-400]": "kube-apiserver takes it for a yes, and the answer has no end",
    "test_changed_schema_counts_from_then_on": "a cluster takes it up a moment later, and does not say when",
    "test_creating_races_with_a_namespaces_end": "a cluster looks after a namespace that goes every 5 s, which is 25 s",
    "test_namespace_takes_its_content_along": "a cluster looks again later and later while content stays",
    "test_openapi_index_leads_to_every_document": "an entry is led on while definitions change, with no document in it",
    "test_orphans_that_are_no_longer_served_stay_as_they_are": "a cluster's collector looks every 30 s what is served",
    "test_wide_objects_are_handled_in_time": "about what the embedded server's own code costs",
}
"""Tests that are not run here: name -> why."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of its own, without the ConfigMap that a cluster puts into every namespace: tests count theirs."""
    without = ("root-ca-certificate-publisher-controller",)
    yield from start_cluster(tmp_path_factory.mktemp("cluster"), token=own.TOKEN, without=without)


@pytest.fixture(autouse=True)
def _differs(request: pytest.FixtureRequest) -> None:
    name, base = request.node.name, request.node.originalname
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    if reason := DIFFERENCES.get(name, DIFFERENCES.get(base, "")):
        request.applymarker(
            pytest.mark.xfail(strict=True, reason=reason, raises=(AssertionError, LookupError, ValueError))
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reached(cluster: Cluster) -> AsyncIterator[Server]:
    async with server(cluster) as found:
        yield found
    await asyncio.sleep(0.5)  # connections by TLS are closed a moment later than their client


@pytest_asyncio.fixture(loop_scope="module")
async def api(reached: Server) -> Client:
    made = Client(reached)
    await clean(made)
    return made


@pytest.fixture(scope="module")
def kubectl_env(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """kubectl, and the environment in which it finds the cluster."""
    path = shutil.which("kubectl")
    if path is None:
        missing("kubectl is not installed")
    home: Path = tmp_path_factory.mktemp("home")
    cluster.make(own.widget_crd())
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(cluster.kubeconfig)}
    return path, env


def test_every_difference_is_of_a_test() -> None:
    here = {name for name in globals() if name.startswith("test_")}
    assert {name.partition("[")[0] for name in DIFFERENCES | LEFT_OUT} <= here
