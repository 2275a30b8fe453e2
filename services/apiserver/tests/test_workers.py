"""The queue behind the controllers: failures come back later, and never end it."""

from __future__ import annotations

import asyncio

from apiserver import errors
from apiserver.errors import Cause
from apiserver.workers import Worker
from structlog.testing import capture_logs


async def drive(worker: Worker[str], over: asyncio.Event) -> None:
    """Run a worker until an event is set; a worker that ends by itself fails the test."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(worker.run())
        await over.wait()
        task.cancel()


async def test_a_key_that_always_fails_does_not_end_the_worker():
    """Doubling a delay 1025 times leaves the range of floats."""
    over = asyncio.Event()
    count = 0

    async def handle(key: str) -> None:
        nonlocal count
        count += 1
        if count == 1100:
            over.set()
        else:
            worker.add(key)
        raise errors.stale("", "configmaps", key)

    worker: Worker[str] = Worker("test", handle)
    worker.add("a")
    await drive(worker, over)
    assert count == 1100


async def test_a_key_has_one_retry_however_often_it_failed():
    enough, over = asyncio.Event(), asyncio.Event()
    calls = 0

    async def handle(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            return
        if calls == 20:
            enough.set()
        else:
            worker.add(key)
        raise errors.stale("", "configmaps", key)

    worker: Worker[str] = Worker("test", handle, retry=0.0005)  # s; the twentieth delay is 0.5 s
    worker.add("a")

    async def look() -> None:
        await enough.wait()
        await asyncio.sleep(1.5)
        over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        await drive(worker, over)
    assert calls == 21, "twenty failures leave one retry"


async def test_a_log_of_a_refusal_tells_its_place_and_not_the_value():
    """The message quotes what was invalid, which may be a Secret's."""
    over = asyncio.Event()

    async def handle(key: str) -> None:
        over.set()
        cause = Cause("FieldValueInvalid", 'Invalid value: "hunter2": must be base64', "data.password")
        raise errors.invalid("", "Secret", key, [cause])

    worker: Worker[str] = Worker("test", handle)
    worker.add("a")
    with capture_logs() as logs:
        await drive(worker, over)
    assert [(log["event"], log["code"], log["reason"], log["fields"]) for log in logs] == [
        ("worker.failed", 422, "Invalid", ["data.password"])
    ]
    assert "hunter2" not in str(logs)
