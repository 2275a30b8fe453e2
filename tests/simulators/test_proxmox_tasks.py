"""Tasks and locks of the simulated Proxmox VE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox import guests as running
from simulators.proxmox.client import Client, by_ticket, client

__all__ = ["pve"]
QEMU = "/nodes/pve1/qemu"
UNKNOWN = "UPID:pve1:00000001:00000001:6B000000:qmstart:100:root@pam:"


@pytest.fixture
async def admin(pve: Proxmox) -> AsyncIterator[Client]:
    async with client(pve) as made:
        yield made


async def test_a_task_tells_how_it_ended(admin: Client) -> None:
    """In its own status apart from `stopped`, in lists as the status."""
    failed = await admin.run("POST", f"{QEMU}/999/status/start")
    path = f"/nodes/pve1/tasks/{failed.upid}"
    status = await admin.get(f"{path}/status")
    assert (status["status"], status["exitstatus"]) == ("stopped", failed.exitstatus)
    assert (status["user"], status["tokenid"], status["id"]) == ("virtrigaud@pve", "provider", "999")
    (row,) = await admin.get("/cluster/tasks")
    assert (row["status"], row["upid"]) == (failed.exitstatus, failed.upid)
    assert [row["upid"] for row in await admin.get("/nodes/pve1/tasks", errors=1)] == [failed.upid]
    assert await admin.get("/nodes/pve1/tasks", vmid=998) == []


async def test_a_running_task_has_no_end() -> None:
    """It is in the list of the cluster, but not yet in the archive of its node."""
    async with proxmox(World(pace=Pace(create=1e6))) as made, client(made) as slow:
        upid = await slow.post(QEMU, vmid=101)
        (row,) = await slow.get("/cluster/tasks")
        assert not {"endtime", "status"} & row.keys()
        assert await slow.get("/nodes/pve1/tasks") == []
        assert [row["upid"] for row in await slow.get("/nodes/pve1/tasks", source="active")] == [upid]
        assert (await slow.get(f"{QEMU}/101/config"))["lock"] == "create"
        assert await slow.delete(f"/nodes/pve1/tasks/{upid}") is None
        told = await slow.get(f"/nodes/pve1/tasks/{upid}/status")
        assert told["exitstatus"] == "unable to create VM 101 - received interrupt"
        assert made.world.guests == {}
        assert await slow.delete(f"/nodes/pve1/tasks/{upid}") is None


async def test_unknown_tasks_are_told_in_three_ways(pve: Proxmox) -> None:
    """By parameter errors, or by a log with one line."""
    async with client(pve, await by_ticket(pve)) as root:
        status = await root.ask("GET", f"/nodes/pve1/tasks/{UNKNOWN}/status")
        broken = await root.ask("GET", "/nodes/pve1/tasks/nonsense/status")
        log = await root.get(f"/nodes/pve1/tasks/{UNKNOWN}/log")
    assert (status.status, status.errors) == (400, {"upid": "no such task"})
    assert (broken.status, broken.errors) == (400, {"upid": "unable to parse worker upid"})
    assert log == [{"n": 1, "t": "unable to open file - No such file or directory"}]


async def test_a_log_is_read_in_pages(admin: Client) -> None:
    """Lines are counted from one, pages from zero."""
    made = await admin.run("POST", QEMU, vmid=101, scsi0="local-lvm:1")
    path = f"/nodes/pve1/tasks/{made.upid}/log"
    answer = await admin.ask("GET", path, start=1, limit=1)
    assert answer.data == [{"n": 2, "t": made.lines[1]}]
    assert answer.body["total"] == len(made.lines)


async def test_a_guest_that_starts_right_after_it_went_off_is_in_the_way() -> None:
    """What cleans up keeps the file lock while it waits for the guest to be off; a snapshot gets stuck half way."""
    async with proxmox(World(pace=Pace(clean_up=0, refresh=1e9))) as made, client(made) as admin:
        await admin.run("POST", QEMU, vmid=101, scsi0="local-lvm:1")
        guest = made.world.guests[101]
        running.run_now(made.world, guest)
        running.crash(made.world, guest)
        running.run_now(made.world, guest)
        while not made.world.locks.held(101):
            await admin.get("/version")
        answer = await admin.ask("PUT", f"{QEMU}/101/config", description="x")
        assert answer.reason == "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout"


async def test_waiting_for_a_file_lock_is_first_come_first_served(pve: Proxmox) -> None:
    """Those who share it go together, and who gave up is forgotten."""
    locks, order = pve.world.locks, []

    async def work(name: str, shared: bool) -> None:
        async with locks.hold(101, 1e6, shared=shared):
            order.append(name)
            await asyncio.sleep(0)

    release = await locks.acquire(101)
    async with asyncio.TaskGroup() as group:
        group.create_task(work("writer", False))
        gone = group.create_task(work("gone", False))
        for name in ("reader 1", "reader 2"):
            group.create_task(work(name, True))
        await asyncio.sleep(0)
        gone.cancel()
        release()
    assert order == ["writer", "reader 1", "reader 2"]
    assert not locks.held(101)


async def test_a_lost_node_answers_nothing_and_its_guests_are_unknown(pve: Proxmox, admin: Client) -> None:
    """The rest of the cluster goes on."""
    await admin.run("POST", "/nodes/pve2/qemu", vmid=101)
    pve.world.board.report_all()
    pve.world.nodes["pve2"].online = False
    answer = await admin.ask("GET", "/nodes/pve2/qemu")
    assert (answer.status, answer.reason) == (595, "No route to host")
    rows = {row["id"]: row["status"] for row in await admin.get("/cluster/resources")}
    assert (rows["node/pve2"], rows["qemu/101"]) == ("offline", "unknown")
    status = {row["name"]: row for row in await admin.get("/cluster/status")}
    assert (status["pve2"]["online"], status["sim"]["quorate"]) == (0, 1)
