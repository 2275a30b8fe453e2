"""A Provider has one server at a time, whoever takes the last one away (ADR 20)."""

from __future__ import annotations

import json

import pytest
from e2e.stack import condition

from .test_servers import Object, Site, cluster, site

__all__ = ["cluster", "site"]  # fixtures

NAME = "virtrigaud-provider-lab"
RESTART = {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}
"""What `kubectl rollout restart` does."""


async def pods(site: Site) -> list[str]:
    items = json.loads(await site.api.request("GET", site.path("pods")))["items"]
    return [item["metadata"]["name"] for item in items]


@pytest.mark.parametrize("kind", ["pods", "deployments"])
async def test_the_next_server_waits_until_the_last_has_ended(site: Site, kind: str) -> None:
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


async def test_a_second_replica_never_runs(site: Site) -> None:
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
