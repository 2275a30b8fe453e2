"""Watches: nothing missed, nothing doubled, slow readers cut off."""

from __future__ import annotations

import asyncio

import pytest
from apiserver.watch import Event, Expired, Item, Ring

MAPS = "/api/v1/namespaces/default/configmaps"


def body(name: str, **labels: str):
    return {"metadata": {"name": name, "labels": labels}}


async def test_watch_from_a_list_misses_nothing(api):
    await api.post(MAPS, body("before"))
    revision = (await api.get(MAPS)).json["metadata"]["resourceVersion"]
    await api.post(MAPS, body("between"))
    async with api.watch(f"{MAPS}?watch=1&resourceVersion={revision}") as stream:
        await api.post(MAPS, body("after"))
        await api.patch(f"{MAPS}/after", {"data": {"a": "1"}})
        await api.delete(f"{MAPS}/after")
        seen = [await stream.next() for _ in range(4)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in seen] == [
        ("ADDED", "between"),
        ("ADDED", "after"),
        ("MODIFIED", "after"),
        ("DELETED", "after"),
    ]
    revisions = [int(e["object"]["metadata"]["resourceVersion"]) for e in seen]
    assert revisions == sorted(set(revisions))


async def test_watch_without_revision_starts_with_what_is_there(api):
    await api.post(MAPS, body("a"))
    async with api.watch(f"{MAPS}?watch=1") as stream:
        assert (await stream.next())["object"]["metadata"]["name"] == "a"


async def test_initial_events_end_with_a_bookmark(api):
    await api.post(MAPS, body("a"))
    query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with api.watch(f"{MAPS}?{query}") as stream:
        assert (await stream.next())["type"] == "ADDED"
        mark = await stream.next()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_selector_turns_changes_into_coming_and_going(api):
    revision = (await api.get(MAPS)).json["metadata"]["resourceVersion"]
    async with api.watch(f"{MAPS}?watch=1&resourceVersion={revision}&labelSelector=on%3Dyes") as stream:
        await api.post(MAPS, body("a"))
        await api.patch(f"{MAPS}/a", {"metadata": {"labels": {"on": "yes"}}})
        await api.patch(f"{MAPS}/a", {"data": {"x": "1"}})
        await api.patch(f"{MAPS}/a", {"metadata": {"labels": {"on": "no"}}})
        seen = [(await stream.next())["type"] for _ in range(3)]
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


async def test_watch_of_tables(api):
    kind = "application/json;as=Table;v=v1;g=meta.k8s.io"
    async with api.watch(f"{MAPS}?watch=1", accept=kind) as stream:
        await api.post(MAPS, body("a"))
        await api.post(MAPS, body("b"))
        first, second = await stream.next(), await stream.next()
    assert first["object"]["kind"] == "Table"
    assert [c["name"] for c in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert not second["object"]["columnDefinitions"], "they were told with the first"
    assert second["object"]["rows"][0]["cells"][0] == "b"


async def test_too_old_a_revision_is_gone_at_once(api, instance):
    ring = instance.store.ring("configmaps")
    ring._capacity = 4
    old = (await api.get(MAPS)).json["metadata"]["resourceVersion"]
    for index in range(10):
        await api.post(MAPS, body(f"a{index}"))
    reply = await api.get(f"{MAPS}?watch=1&resourceVersion={old}")
    assert (reply.status, reply.json["reason"]) == (410, "Expired")
    page = await api.get(f"{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")
    assert (page.status, page.json["reason"]) == (410, "Expired")


async def test_a_time_limit_ends_the_watch(api):
    async with api.watch(f"{MAPS}?watch=1&timeoutSeconds=1") as stream:
        assert await stream.next() is None
    assert stream.ended


async def test_shutdown_ends_the_watch(api, instance):
    async with api.watch(f"{MAPS}?watch=1") as stream:
        instance.stop()
        assert await stream.next() is None


async def test_a_deleted_kind_ends_its_watches(api):
    url = "/apis/test.virtrigaud.io/v1/widgets"
    async with api.watch(f"{url}?watch=1") as stream:
        await api.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.virtrigaud.io")
        assert await stream.next() is None
    assert (await api.get(url)).status == 404


async def test_a_slow_watcher_never_holds_a_writer(api, instance):
    """It falls off the ring and is told to list again."""
    ring = instance.store.ring("configmaps")
    ring._capacity = 16
    async with api.watch(f"{MAPS}?watch=1") as stream:
        stream.hold.clear()
        await api.post(MAPS, body("a"))
        async with asyncio.timeout(10):
            for index in range(600):
                await api.patch(f"{MAPS}/a", {"data": {"n": str(index)}})
        stream.hold.set()
        last = None
        while (event := await stream.next()) is not None:
            last = event
    assert last["type"] == "ERROR"
    assert (last["object"]["code"], last["object"]["reason"]) == (410, "Expired")


async def test_watchers_leave_nothing_behind(api, instance):
    ring = instance.store.ring("configmaps")
    async with api.watch(f"{MAPS}?watch=1"):
        assert len(ring._waiting) == 1
    assert len(ring._waiting) == 0


def item(revision: int, size: int = 1) -> Event:
    return Event(Item("r", "", "n", revision, b"x" * size), None, False)


def test_ring_knows_what_it_has_forgotten():
    ring = Ring(10, capacity=4, max_bytes=1 << 20)
    for revision in range(11, 20):
        ring.publish(item(revision))
    assert ring.floor > 10
    with pytest.raises(Expired):
        ring.cursor(ring.floor - 1)
    events, _ = ring.read(ring.cursor(ring.floor))
    assert [e.revision for e in events] == list(range(ring.floor + 1, 20))


def test_ring_is_bounded_in_bytes_and_keeps_the_newest():
    ring = Ring(0, capacity=1000, max_bytes=100)
    for revision in range(1, 50):
        ring.publish(item(revision, 60))
    assert [e.revision for e in ring.after(ring.floor)] == [49]
