"""What was acknowledged survives; what a store must refuse."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sqlite3
import ssl
import stat
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from apiserver.store import Change, NamespaceMissing, Stale, Store, StoreError

MAPS = "/api/v1/namespaces/default/configmaps"


def converse(connection: http.client.HTTPSConnection, method: str, path: str, body: object = None) -> dict:
    """One request on a connection that stays open."""
    headers = {"Authorization": "Bearer test-token", "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    reply = connection.getresponse()
    text = reply.read()
    assert reply.status < 300, text
    return json.loads(text)


def send(url: str, ca: Path, method: str, body: object = None) -> dict:
    """One request to a real server."""
    context = ssl.create_default_context(cafile=str(ca))
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Bearer test-token", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, context=context, timeout=10) as reply:
        return json.load(reply)


def test_kill_nine_loses_no_acknowledged_write(process):
    """Several writers, a SIGKILL in the midst of them, again and again: each acknowledged write is there afterwards."""
    ca = process.directory / "ca.pem"
    acknowledged: dict[str, str] = {}
    deleting: set[str] = set()
    deleted: set[str] = set()
    for round_ in range(3):
        process.start()
        url = process.url
        enough = threading.Event()

        def write(worker: int, url: str = url, round_: int = round_, enough: threading.Event = enough) -> None:
            context = ssl.create_default_context(cafile=str(ca))
            connection = http.client.HTTPSConnection(url.removeprefix("https://"), timeout=10, context=context)
            for index in range(10_000):
                name = f"r{round_}-w{worker}-{index}"
                try:
                    made = converse(connection, "POST", MAPS, {"metadata": {"name": name}, "data": {"n": str(index)}})
                    acknowledged[name] = made["metadata"]["resourceVersion"]
                    if index % 3 == 0:
                        deleting.add(name)  # whether it is gone is open until the answer comes
                        converse(connection, "DELETE", f"{MAPS}/{name}")
                        deleted.add(name)
                except (OSError, http.client.HTTPException, ValueError):
                    connection.close()
                    return
                if index == 40:
                    enough.set()

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        assert enough.wait(30)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join(30)
    process.start()
    found = {
        i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in send(process.url + MAPS, ca, "GET")["items"]
    }
    assert len(acknowledged) > 100
    missing = [name for name in acknowledged if name not in deleting and name not in found]
    assert missing == []
    assert deleted.isdisjoint(found)
    assert all(found[n] == revision for n, revision in acknowledged.items() if n in found)
    newest = max(map(int, acknowledged.values()))
    assert int(send(process.url + MAPS, ca, "GET")["metadata"]["resourceVersion"]) >= newest
    made = send(process.url + MAPS, ca, "POST", {"metadata": {"name": "after"}})
    assert int(made["metadata"]["resourceVersion"]) > newest, "a revision is never given out twice"


def test_start_and_stop(process):
    """Ready quickly, private files, a clean end that closes watches."""
    started = time.monotonic()
    process.start()
    took = time.monotonic() - started
    data = process.directory / "data"
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    context = ssl.create_default_context(cafile=str(process.directory / "ca.pem"))
    request = urllib.request.Request(process.url + MAPS + "?watch=1", headers={"Authorization": "Bearer test-token"})
    with urllib.request.urlopen(request, context=context, timeout=10) as watch, ThreadPoolExecutor(1) as pool:
        rest = pool.submit(watch.read)
        assert process.end() == 0
        assert rest.result(10) == b""
    assert not (data / "endpoint").exists()
    assert took < 10, "start-up is slow"


def test_two_servers_cannot_share_a_directory(process):
    process.start()
    other = type(process)(process.directory)
    with pytest.raises(AssertionError, match="in use by another server"):
        other.start()


async def test_reopened_store_goes_on_where_it_stopped(tmp_path):
    store = Store(tmp_path)
    store.open()
    made = await store.commit(Change("things", "", "a", {"metadata": {"name": "a"}}, 0))
    gone = await store.commit(Change("things", "", "a", {"metadata": {"name": "a"}}, made.revision, delete=True))
    await store.close()
    store = Store(tmp_path)
    store.open()
    assert store.revision == gone.revision, "a deletion's revision counts too"
    assert store.get("things", "", "a") is None
    await store.close()


async def test_conditional_writes(tmp_path):
    store = Store(tmp_path)
    store.open()

    def thing(expect: int, namespace: str = "") -> Change:
        return Change("things", namespace, "a", {"metadata": {"name": "a"}}, expect)

    with pytest.raises(NamespaceMissing):
        await store.commit(thing(0, "nowhere"))
    made = await store.commit(thing(0))
    with pytest.raises(Stale):
        await store.commit(thing(0))
    with pytest.raises(Stale):
        await store.commit(thing(made.revision + 1))
    assert (await store.commit(thing(made.revision))).revision == made.revision + 1
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.commit(thing(0))


async def test_only_one_of_many_racing_writers_wins(tmp_path):
    store = Store(tmp_path)
    store.open()
    made = await store.commit(Change("things", "", "a", {"metadata": {}}, 0))

    async def attempt(number: int) -> bool:
        try:
            await store.commit(Change("things", "", "a", {"metadata": {}, "by": number}, made.revision))
        except Stale:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(n)) for n in range(50)]
    assert sum(t.result() for t in tasks) == 1
    await store.close()


async def test_a_full_disk_refuses_the_write_and_nothing_else(tmp_path, caplog):
    """The page limit stands in for the disk: SQLite answers both with SQLITE_FULL."""
    store = Store(tmp_path)
    store.open()
    first = await store.commit(Change("things", "", "a", {"metadata": {}}, 0))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreError, match="refused the write"):
        await store.commit(Change("things", "", "big", {"metadata": {}, "x": "x" * 100_000}, 0))
    assert store.revision == first.revision
    assert store.get("things", "", "big") is None
    second = await store.commit(Change("things", "", "a", {"metadata": {}}, first.revision))
    assert second.revision == first.revision + 1
    await store.close()


async def test_a_change_that_cannot_be_encoded_fails_alone(tmp_path):
    store = Store(tmp_path)
    store.open()
    async with asyncio.timeout(10):
        with pytest.raises(StoreError, match="a defect"):
            await store.commit(Change("things", "", "odd", {"metadata": {}, "x": object()}, 0))
        made = await store.commit(Change("things", "", "a", {"metadata": {}}, 0))
    assert store.get("things", "", "odd") is None
    assert store.get("things", "", "a") == made
    await store.close()


async def test_a_database_that_is_gone_answers_every_change(tmp_path):
    """Not even a rollback is possible on a closed connection."""
    store = Store(tmp_path)
    store.open()
    store._db.close()
    async with asyncio.timeout(10):
        for _ in range(3):
            with pytest.raises(StoreError, match="refused the write"):
                await store.commit(Change("things", "", "a", {"metadata": {}}, 0))
    await store.close()


async def test_without_a_writer_nothing_waits_and_the_server_is_not_ready(api, instance):
    assert (await api.get("/readyz")).status == 200
    instance.store._queue.put(None)  # the writer's sign to end
    late = [asyncio.create_task(api.post(MAPS, {"metadata": {"name": f"late{n}"}})) for n in range(3)]
    async with asyncio.timeout(10):
        assert {(await task).status for task in late} == {500}
        assert (await api.post(MAPS, {"metadata": {"name": "a"}})).status == 500
    assert (await api.get("/readyz")).status == 503
    assert (await api.get(MAPS)).status == 200, "what is in memory can still be read"


async def test_a_newer_format_is_refused(tmp_path):
    store = Store(tmp_path)
    store.open()
    await store.close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE meta SET value='99' WHERE key='format'")
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path).open()


async def test_an_unusable_directory_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the store"):
        Store(tmp_path / "file").open()


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda d: (d / "tokens.csv").write_text("\n"), "holds no token"),
        (lambda d: (d / "key.pem").write_text("nonsense"), "must be PEM"),
        (lambda d: os.remove(d / "cert.pem"), "no readable file"),
    ],
)
def test_a_start_that_fails_says_why(process, break_, words):
    break_(process.directory)
    with pytest.raises(AssertionError, match=words):
        process.start()
    assert "Traceback" not in process.log()
