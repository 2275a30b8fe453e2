"""A Provider has one server at a time, whoever takes the last one away (ADR 20)."""

from __future__ import annotations

import json

import pytest
from e2e.stack import condition, manifest

from .test_servers import IMAGE, TINY, Object, Site, cluster, site

__all__ = ["cluster", "site"]  # fixtures

NAME = "virtrigaud-provider-lab"
RESTART = {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}
"""What `kubectl rollout restart` does."""


async def pods(site: Site) -> list[str]:
    items = json.loads(await site.api.request("GET", site.path("pods")))["items"]
    return [item["metadata"]["name"] for item in items]


@pytest.mark.parametrize("kind", ["pods", "deployments"])
async def test_W34_the_next_server_waits_until_the_last_has_ended(site: Site, kind: str) -> None:
    """Of a drained node, an eviction, somebody's hand: the next pod is made while the last one ends what it began."""
    await site.provider()
    await site.ready()
    (first,) = await pods(site)
    site.kubelet.may_end.clear()

    await site.delete(kind, first if kind == "pods" else NAME)

    def waits(found: Object | None) -> bool:
        return f"pod {first} on node" in condition(found or {}, "Ready").get("message", "")

    await site.until("providers", "lab", waits)
    assert len(await pods(site)) == 2, "the next one is there"
    assert site.kubelet.seen == [("started", first)]

    site.kubelet.may_end.set()
    await site.kubelet.until(lambda: len(site.kubelet.seen) >= 3)
    (second,) = await pods(site)
    assert site.kubelet.seen == [("started", first), ("ended", first), ("started", second)]
    await site.ready()


async def test_W34_a_second_replica_never_runs(site: Site) -> None:
    await site.provider()
    await site.ready()
    (first,) = await pods(site)
    before = await site.get("deployments", NAME)

    await site.patch("deployments", NAME, {"spec": {"replicas": 2}})

    def settled(found: Object | None) -> bool:
        if found is None or found["spec"]["replicas"] != 1:
            return False
        return bool(found["metadata"]["generation"] == found["status"]["observedGeneration"])

    after = await site.until("deployments", NAME, settled)
    assert before is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 2, "there, and back"
    await site.ready()
    assert site.kubelet.seen == [("started", first)]


@pytest.mark.parametrize("edit", [RESTART, {**RESTART, "strategy": {"type": "RollingUpdate"}}], ids=["", "rolling"])
async def test_a_restart_by_hand_is_one_after_the_other(site: Site, edit: Object) -> None:
    """Also of a Deployment whose strategy somebody changed: it is put right, and not refused for ever."""
    await site.provider()
    await site.ready()
    (first,) = await pods(site)

    await site.patch("deployments", NAME, {"spec": edit})

    await site.kubelet.until(lambda: len(site.kubelet.seen) >= 3)
    (second,) = [name for name in await pods(site) if name != first]
    assert site.kubelet.seen == [("started", first), ("ended", first), ("started", second)]
    found = await site.until("deployments", NAME, lambda found: bool(found))
    assert found["spec"]["strategy"] == {"type": "Recreate"}
    await site.ready()


async def test_a_rollout_that_somebody_paused_goes_on(site: Site) -> None:
    await site.provider()
    await site.ready()
    (first,) = await pods(site)

    await site.patch("deployments", NAME, {"spec": {"paused": True}})
    await site.patch("providers", "lab", {"spec": {"runtime": {"image": f"{IMAGE}.1"}}})

    await site.kubelet.until(lambda: len(site.kubelet.seen) >= 3)
    assert site.kubelet.seen[:2] == [("started", first), ("ended", first)]
    await site.ready()


BROKEN = {
    "probe": {"livenessProbe": {"nonsense": 1}},
    "twice": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
    "shape": {"resources": {"limits": "x"}},
    "affinity": {"affinity": {"nodeAffinity": 3}},
}
"""What the definition of Providers lets through, and the API server answers with code 500."""


async def test_a_pod_that_cannot_be_is_told_and_not_tried_in_silence(site: Site) -> None:
    for name, runtime in BROKEN.items():
        await site.provider(name, runtime=runtime)
    for name in BROKEN:
        found = await site.until("providers", name, is_failed)
        assert "spec" in condition(found, "Ready")["message"]


def is_failed(found: Object | None) -> bool:
    return condition(found or {}, "Ready").get("reason") == "InvalidConfiguration"


async def test_a_webhook_that_does_not_answer_is_told(site: Site) -> None:
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
    hook = {
        "name": "away.example.org", "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "timeoutSeconds": 1,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}},
    }  # fmt: skip
    await site.api.request("POST", hooks, body={"metadata": {"name": site.namespace}, "webhooks": [hook]})
    try:
        await site.provider()
        await site.until(
            "providers", "lab", lambda found: condition(found or {}, "Ready").get("reason") == "WebhookFailed"
        )
    finally:
        await site.api.request("DELETE", f"{hooks}/{site.namespace}")
    await site.patch("providers", "lab", {"metadata": {"annotations": {"look": "now"}}})  # rather than in a minute
    await site.ready()


async def test_a_namespace_that_is_deleted_says_why_its_machines_cannot_go(site: Site) -> None:
    """Its servers go with all else at once, and nothing can be made in it any more."""
    await site.provider()
    await site.ready()
    await site.create("vmclasses", manifest("VMClass", "tiny", TINY, site.namespace))
    spec = {"providerRef": {"name": "lab"}, "classRef": {"name": "tiny"}, "cdroms": [{"name": "a", "medium": "x.iso"}]}
    await site.create("virtualmachines", manifest("VirtualMachine", "box", spec, site.namespace))
    await site.until("virtualmachines", "box", lambda found: bool(found and found.get("status", {}).get("id")))

    await site.api.request("DELETE", f"/api/v1/namespaces/{site.namespace}")

    def told(found: Object | None) -> bool:
        return condition(found or {}, "ProviderRuntimeReady").get("reason") == "NamespaceTerminating"

    found = await site.until("providers", "lab", told)
    assert "orphan-on-delete" in condition(found, "ProviderRuntimeReady")["message"]
    await site.patch(
        "virtualmachines", "box", {"metadata": {"annotations": {"virtrigaud.io/orphan-on-delete": "true"}}}
    )
    for kind, name in (("virtualmachines", "box"), ("providers", "lab")):
        await site.until(kind, name, lambda found: found is None)
