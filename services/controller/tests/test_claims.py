"""Installations beside each other on one API server: each namespace is served by one of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from common.clock import SystemClock
from controller.api import Api, NotFoundError, connect
from controller.claims import NAME, NAMESPACE, Claim, Installation, TakenError
from controller.core import CONFIG_MAPS, LEASES
from controller_harness import DEADLINE, Cluster, api_server, controller, controller_command, started, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = CONFIG_MAPS.path(NAMESPACE, NAME)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One of our own: all installations of a server share what these tests look at."""
    async with api_server(tmp_path_factory.mktemp("api")) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="session")
async def api(server: Cluster) -> AsyncIterator[Api]:
    async with connect(str(server.kubeconfig)) as api:
        yield api
        for path in (PATH, *(LEASES.path("default", name) for name in "ab")):
            try:
                await api.request("DELETE", path)
            except NotFoundError:
                continue


async def claim(api: Api, name: str, namespace: str = "", *, look: float = 0.3) -> Claim:
    """Of an installation whose Lease is there."""
    if await api.get(LEASES, "default", name) is None:
        await api.create(LEASES, "default", {"metadata": {"name": name, "namespace": "default"}})
    return Claim(api, SystemClock(), random.Random(1), Installation("default", name, namespace), retry=0.1, look=look)


async def entries(api: Api) -> dict[str, str]:
    found = await api.get(CONFIG_MAPS, NAMESPACE, NAME)
    return dict((found.data or {}) if found is not None else {})


@pytest.mark.parametrize(("first", "second"), [("", ""), ("", "shop"), ("shop", ""), ("shop", "shop")])
async def test_what_overlaps_is_refused_until_the_other_one_is_removed(api: Api, first: str, second: str):
    """However long the other one is down: with another owner id, machines would be made once more."""
    await (await claim(api, "a", first)).obtain()
    late = await claim(api, "b", second)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        waiting = group.create_task(late.obtain())
        await until(lambda: bool(late.refused), "a refusal")
        assert "the installation with Lease default/a serves" in late.refused
        await asyncio.sleep(1)  # some looks
        assert not waiting.done()
        await api.request("DELETE", LEASES.path("default", "a"))
        await waiting
    assert late.refused == ""
    assert await entries(api) == {"default.b": second or "*"}


async def test_namespaces_that_differ_are_served_beside_each_other(api: Api):
    async with asyncio.timeout(DEADLINE):
        await (await claim(api, "a", "shop")).obtain()
        await (await claim(api, "b", "lab")).obtain()
    assert await entries(api) == {"default.a": "shop", "default.b": "lab"}


async def test_of_many_that_come_at_once_one_serves(api: Api):
    """No look and write of one passes between those of another."""
    claims = [await claim(api, name) for name in "ab"]
    tasks = [asyncio.create_task(each.obtain()) for each in claims]
    try:
        await until(lambda: any(task.done() for task in tasks) and any(each.refused for each in claims), "a verdict")
        assert sum(task.done() for task in tasks) == 1
        assert len(await entries(api)) == 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_claim_that_stands_is_taken_up_again_without_a_write(api: Api):
    await (await claim(api, "a", "shop")).obtain()
    before = await api.request("GET", PATH)
    await (await claim(api, "a", "shop")).obtain()
    assert await api.request("GET", PATH) == before
    await (await claim(api, "a", "lab")).obtain()
    assert await entries(api) == {"default.a": "lab"}


@pytest.mark.parametrize("key", ["note", "default.", ".a"])
async def test_an_entry_by_hand_that_names_no_lease_keeps_nobody_out(api: Api, key: str):
    """Nobody could ever make it void by removing an installation."""
    await api.create(CONFIG_MAPS, NAMESPACE, {"metadata": {"name": NAME}, "data": {key: "*", "default.gone": "shop"}})
    mine = await claim(api, "a", "lab")
    assert "Lease" not in await mine.blocked()
    async with asyncio.timeout(DEADLINE):
        await mine.obtain()
    assert await entries(api) == {"default.gone": "shop", "default.a": "lab"}


async def test_one_whose_entry_was_removed_enters_it_again_or_stops(api: Api):
    mine = await claim(api, "a")
    await mine.obtain()
    keeping = asyncio.create_task(mine.keep())
    await api.request("DELETE", PATH)

    async def back() -> bool:
        return await entries(api) == {"default.a": "*"}

    await until(back, "the entry")
    await claim(api, "b")  # its Lease
    other: dict[str, Any] = {"data": {"default.a": None, "default.b": "*"}}
    await api.patch(CONFIG_MAPS, NAMESPACE, NAME, other)
    with pytest.raises(TakenError, match="default/b serves all namespaces"):
        async with asyncio.timeout(DEADLINE):
            await keeping


async def test_one_without_a_lease_does_not_start_beside_an_installation(server: Cluster, api: Api, tmp_path: Path):
    """Somebody tries a controller out, against the cluster of the kubeconfig that happens to be there."""
    await (await claim(api, "a", "shop")).obtain()
    command = controller_command(server, tmp_path, "--no-leader-elect")
    async with started(command, tmp_path / "log") as refused:
        assert await refused.wait() == 1
    assert "the installation with Lease default/a serves namespace shop" in (tmp_path / "log").read_text()
    async with controller(server, tmp_path / "b", "--no-leader-elect", "--namespace", "lab"):
        assert await entries(api) == {"default.a": "shop"}


async def test_an_api_that_does_not_answer_lets_nobody_serve(tmp_path: Path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\n"
        "clusters: [{name: it, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "contexts: [{name: it, context: {cluster: it, user: it}}]\nusers: [{name: it, user: {token: x}}]\n"
    )
    async with connect(str(kubeconfig)) as nobody:
        mine = Claim(nobody, SystemClock(), random.Random(1), Installation("default", "a"), retry=0.1)
        waiting = asyncio.create_task(mine.obtain())
        await until(lambda: "is not known" in mine.refused, "the reason")
        assert not waiting.done()
        waiting.cancel()
