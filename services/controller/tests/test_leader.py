"""Leader election against a real API server, with a connection to it that hangs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from common.clock import ManualClock, SystemClock
from controller.api import ApiUnavailableError, connect
from controller.core import CONFIG_MAPS, LEASES
from controller.leader import Leader, LeaseSettings, LostError
from controller_harness import DEADLINE, Cluster

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Line:
    """A TCP proxy to the API server. While it stalls, nothing passes and nothing is closed: the worst outage.

    While it is mute, what is asked arrives and no answer comes back.
    """

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._open = asyncio.Event()
        self._open.set()
        self._answers = asyncio.Event()
        self._answers.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stall(self) -> None:
        self._open.clear()

    def mute(self) -> None:
        self._answers.clear()

    def speak(self) -> None:
        self._answers.set()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[int]:
        """Port of the proxy, while the context is open."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there[1], self._open))
                group.create_task(self._pump(there[0], writer, self._answers))
        except asyncio.CancelledError:
            task.uncancel()
        finally:
            writer.close()
            there[1].close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, may: asyncio.Event) -> None:
        while data := await source.read(65536):
            await self._open.wait()
            await may.wait()
            sink.write(data)
            await sink.drain()
        sink.close()


def lease(namespace: str, identity: str) -> LeaseSettings:
    return LeaseSettings(namespace, "test", identity, duration=4.0, renew_deadline=1.0, retry=0.2)


async def test_a_leader_whose_api_hangs_stops_before_another_leads(cluster: Cluster, tmp_path: Path, namespace: str):
    """Its calls get no answer and no error. It stops by its own clock, and only then the follower takes over."""
    await cluster.namespace(namespace)
    line, told, clock, rng = Line(cluster.endpoint), [], SystemClock(), random.Random(1)
    leads, over = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        told.append("a leads")
        assert leader.holds()
        leads.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("a stopped")

    async def second() -> None:
        told.append("b leads")
        over.set()

    async with line.served() as port:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig.read_text().replace(cluster.endpoint, f"127.0.0.1:{port}"))
        async with connect(str(kubeconfig)) as slow, connect(str(cluster.kubeconfig)) as api:
            follower = Leader(api, clock, rng, lease(namespace, "b"))
            leader = Leader(slow, clock, rng, lease(namespace, "a"))

            async def lead() -> None:
                with pytest.raises(LostError, match="was not renewed in time"):
                    await leader.run(first)
                assert not leader.leading
                assert not leader.holds()

            async with asyncio.TaskGroup() as group:
                group.create_task(lead())
                await leads.wait()
                group.create_task(follower.run(second))
                assert not over.is_set()
                line.stall()
                async with asyncio.timeout(DEADLINE):
                    await over.wait()
    assert told == ["a leads", "a stopped", "b leads"]


async def test_a_lease_counts_from_when_it_was_asked_for_however_late_that_is_heard(
    cluster: Cluster, tmp_path: Path, namespace: str
):
    """Others count from when it was written: the time until the answer is theirs, not ours."""
    await cluster.namespace(namespace)
    line, clock, heard = Line(cluster.endpoint), ManualClock(), asyncio.Event()
    settings = LeaseSettings(namespace, "test", "a", duration=150.0, renew_deadline=100.0, retry=20.0)

    async def lead() -> None:
        heard.set()
        await asyncio.Event().wait()

    async with line.served() as port, connect(str(cluster.kubeconfig)) as api:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig.read_text().replace(cluster.endpoint, f"127.0.0.1:{port}"))
        asked = lambda *told: line.mute()  # noqa: E731  # there is no Lease yet: what follows is the write
        async with connect(str(kubeconfig), "", asked) as slow, asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            leader = Leader(slow, clock, random.Random(1), settings)
            work = group.create_task(leader.run(lead))
            while await api.get(LEASES, namespace, "test") is None:  # noqa: ASYNC110  # of the API server nobody tells
                await asyncio.sleep(0.05)
            await clock.advance(90.0)
            line.speak()
            await heard.wait()
            assert leader.holds()
            await clock.advance(10.0)
            assert not leader.holds()
            work.cancel()


async def test_one_that_leads_no_more_reads_and_writes_nothing(cluster: Cluster, namespace: str):
    """It wakes after a pause, and tasks that are to be cancelled run on for a moment."""
    await cluster.namespace(namespace)
    leads = True
    body = {"metadata": {"name": "any", "namespace": namespace}}
    async with connect(str(cluster.kubeconfig)) as api:
        guarded = api.guarded(lambda: leads)
        await guarded.create(CONFIG_MAPS, namespace, body)
        leads = False
        with pytest.raises(ApiUnavailableError, match="not sent, we lead no more"):
            await guarded.patch(CONFIG_MAPS, namespace, "any", {"data": {"a": "b"}})
        found = await guarded.get(CONFIG_MAPS, namespace, "any")
        assert found is not None
        assert not found.data
