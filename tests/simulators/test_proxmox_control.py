"""The port by which other processes break the simulated Proxmox VE."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox
from simulators.proxmox.client import Client, client
from simulators.proxmox.control import controlled
from simulators.proxmox.world import Running, Volume

CONFIG = "/nodes/{node}/qemu/{vmid}/config"
TESTS = Path(__file__).resolve().parents[1]
PATH = "/nodes/pve1/qemu/100/config"


class Switches:
    """What a test in another process would use."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def __call__(self, name: str, /, **body: Any) -> Any:
        async with self._session.post(f"{self._url}/{name}", json=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise ValueError(text)
            return json.loads(text)

    async def read(self, name: str) -> Any:
        async with self._session.get(f"{self._url}/{name}") as answer:
            return await answer.json()


@asynccontextmanager
async def cluster(world: World | None = None) -> AsyncIterator[tuple[Proxmox, Client, Switches]]:
    async with (
        proxmox(world, addresses=2) as pve,
        controlled(pve) as control,
        client(pve) as admin,
        aiohttp.ClientSession() as session,
    ):
        pve.world.add_guest(100, "pve1", {"name": "g100"})
        yield pve, admin, Switches(control.url, session)


async def name_of(admin: Client) -> str:
    return str((await admin.get(PATH))["name"])


async def test_the_connection_is_cut_before_or_after_the_act() -> None:
    """A client cannot tell the two apart; the cluster can. (PUT would be sent again by the client's library.)"""
    pool = {"method": "POST", "template": "/pools"}
    async with cluster() as (pve, admin, switch):
        await switch("fault", drop="before", **pool)
        with pytest.raises(aiohttp.ClientError):
            await admin.post("/pools", poolid="p1")
        assert list(pve.world.pools) == []
        await switch("fault", drop="after", **pool)
        with pytest.raises(aiohttp.ClientError):
            await admin.post("/pools", poolid="p2")
        assert list(pve.world.pools) == ["p2"]
        await admin.post("/pools", poolid="p3")


async def test_a_call_is_refused_or_held() -> None:
    async with cluster() as (_, admin, switch):
        await switch("fault", method="GET", template=CONFIG, status=596, reason="tls: bad", skip=1, times=1)
        assert (await admin.ask("GET", PATH)).status == 200
        refused = await admin.ask("GET", PATH)
        await switch("fault", method="GET", template=CONFIG, hold="one")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(admin.get(PATH))
            await admin.get("/version")
            assert not waiting.done()
            await switch("release", hold="one")
    assert (refused.status, refused.reason) == (596, "tls: bad")
    assert waiting.result()["name"] == "g100"


async def test_tasks_stand_still_until_they_are_released() -> None:
    async with cluster() as (pve, admin, switch):
        await switch("tasks/hold", kind="qmstart")
        upid = await admin.post("/nodes/pve1/qemu/100/status/start")
        await admin.get(f"/nodes/pve1/tasks/{upid}/log")
        assert pve.world.tasks.all[upid].running
        assert pve.world.guests[100].status == "stopped"
        await switch("tasks/release")
        assert (await admin.end(upid)).exitstatus == "OK"
        assert (await switch.read("tasks"))[upid] == "OK"


async def test_others_change_guests() -> None:
    async with cluster() as (pve, admin, switch):
        world = pve.world
        held = world.storages["local-lvm"].on("pve1")
        held["local-lvm:vm-100-disk-0"] = Volume("local-lvm:vm-100-disk-0", "images", "raw", 1 << 30, vmid=100)
        before = (await admin.get(PATH))["smbios1"]
        await switch(
            "guest", do="edit", vmid=100, config={"name": "renamed", "scsi0": "local-lvm:vm-100-disk-0,size=1G"}
        )
        assert await name_of(admin) == "renamed"
        await switch("guest", do="move", vmid=100, node="pve2")
        assert (await admin.ask("GET", PATH)).status == 500
        assert list(world.storages["local-lvm"].on("pve2")) == ["local-lvm:vm-100-disk-0"]
        await switch("guest", do="recreate", vmid=100, node="pve1", config={"name": "another"})
        after = await admin.get(PATH)
        assert (after["name"], after["smbios1"] == before) == ("another", False)
        assert world.storages["local-lvm"].on("pve2") == {}
        await switch("guest", do="inside", vmid=100, agent=True, obeys=False, facts={"host-name": "h"})
        assert world.guests[100].agent
        await switch("guest", do="remove", vmid=100)
        assert await switch.read("guests") == {}
        with pytest.raises(ValueError, match="there is no guest 100"):
            await switch("guest", do="crash", vmid=100)


async def test_a_lost_node_takes_its_guests_and_tasks_along() -> None:
    async with cluster(World(pace=Pace(ha=1e9))) as (pve, admin, switch):
        guest = pve.world.guests[100]
        guest.run = Running(1, "pc")
        await switch("tasks/hold", kind="qmcreate")
        upid = await admin.post("/nodes/pve1/qemu", vmid=101)
        await switch("node", node="pve1", up=False)
        gone = await admin.ask("GET", PATH)
        nodes = {node["node"]: node["status"] for node in await admin.get("/nodes")}
        await switch("node", node="pve1", up=True)
        status = (await admin.get("/nodes/pve1/qemu/100/status/current"))["status"]
        ended = pve.world.tasks.all[upid]
    assert gone.status == 595
    assert nodes == {"pve1": "offline", "pve2": "online", "pve3": "online"}
    assert (status, ended.running) == ("stopped", False)


async def test_an_address_goes_and_comes_back() -> None:
    async with cluster() as (_, admin, switch):
        await switch("address", address=0, up=False)
        with pytest.raises(aiohttp.ClientError):
            await admin.get("/version")
        assert (await admin.ask("GET", "/version", 1)).status == 200
        await switch("address", address=0, up=True)
        assert (await admin.ask("GET", "/version")).status == 200


async def test_a_storage_runs_full_and_has_room_again() -> None:
    async with cluster() as (pve, _admin, switch):
        storage = pve.world.storages["local-lvm"]
        size = storage.total
        assert await switch("storage", storage="local-lvm", total=0) == {"total": size}
        assert storage.total == 0
        assert await switch("storage", storage="local-lvm", total=size) == {"total": 0}
        assert storage.total == size


async def test_the_pace_changes_and_calls_are_counted() -> None:
    async with cluster() as (pve, admin, switch):
        told = await switch("pace", clone_full=60, scale=0.5)
        await switch("requests/reset")
        await admin.get("/version")
        assert await switch.read("requests") == {"GET /version": 1}
        assert (told["clone_full"], pve.world.pace.scale) == (60, 0.5)
        with pytest.raises(ValueError, match="unexpected keyword"):
            await switch("pace", nonsense=1)


async def test_the_process_tells_where_its_switches_are() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.proxmox", "--nodes", "2", "--vms", "4", "--scale", "0.02",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=TESTS, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(60):
        ready = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession() as session:
            guests = await Switches(ready["control"], session).read("guests")
        process.stdin.close()
        assert await process.wait() == 0
    assert sorted(guests) == ["100", "101", "102", "103"]
