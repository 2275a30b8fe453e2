"""Moves between nodes of the simulated Proxmox VE, by people and by its HA managers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox.client import Client, client
from simulators.proxmox.world import Guest, Running, Snapshot, Volume

__all__ = ["pve"]


def with_disk(world: World, vmid: int, storage: str, *, running: bool = False, node: str = "pve1") -> Guest:
    volid = f"{storage}:{vmid}/vm-{vmid}-disk-0.raw" if storage == "shared" else f"{storage}:vm-{vmid}-disk-0"
    world.storages[storage].on(node)[volid] = Volume(volid, "images", "raw", 1 << 30, vmid=vmid)
    guest = world.add_guest(
        vmid, node, {"name": f"g{vmid}", "scsi0": f"{volid},size=1G", "net0": "virtio,bridge=vmbr0"}
    )
    if running:
        guest.run = Running(1, "pc-i440fx-10.0+pve0")
    return guest


async def until(world: World, true: Callable[[], bool], rounds: int = 40) -> None:
    """Let the managers work, a round at a time, until something is so."""
    for _ in range(rounds):
        if true():
            return
        world.managers.round()
        async with asyncio.TaskGroup() as waiting:
            for task in world.tasks.active():
                waiting.create_task(world.tasks.wait(task.upid))
    raise AssertionError("the managers did not get there")


def still() -> World:
    """A cluster whose managers only move when told."""
    return World(pace=Pace(ha=1e9))


async def test_a_stopped_guest_moves_with_its_local_disks(pve: Proxmox) -> None:
    guest = with_disk(pve.world, 100, "local-lvm")
    async with client(pve) as admin:
        outcome = await admin.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve2")
        old = await admin.ask("GET", "/nodes/pve1/qemu/100/status/current")
        new = await admin.get("/nodes/pve2/qemu/100/status/current")
        volumes = await admin.get("/nodes/pve2/storage/local-lvm/content")
    assert outcome.exitstatus == "OK", outcome.lines
    assert outcome.upid.split(":")[5] == "qmigrate"
    assert old.reason == "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist"
    assert (new["status"], guest.lock) == ("stopped", "")
    assert [row["volid"] for row in volumes] == ["local-lvm:vm-100-disk-0"]


async def test_a_running_guest_needs_to_be_told_twice(pve: Proxmox) -> None:
    """Once that it may run, once that its local disks may go along."""
    with_disk(pve.world, 100, "local-lvm", running=True)
    path = "/nodes/pve1/qemu/100/migrate"
    async with client(pve) as admin:
        offline = await admin.ask("POST", path, target="pve2")
        without = await admin.run("POST", path, target="pve2", online=1)
        told = await admin.get(path)
        moved = await admin.run("POST", path, target="pve2", online=1, with__local__disks=1, targetstorage="shared")
        config = pve.world.guests[100].config
        state = await admin.get("/nodes/pve2/qemu/100/status/current")
    assert offline.reason == "can't migrate running VM without --online"
    assert without.exitstatus == "migration aborted"
    assert any("without with-local-disks option" in line for line in without.lines)
    assert told["local_disks"] == [
        {"volid": "local-lvm:vm-100-disk-0", "size": 1 << 30, "cdrom": 0, "is_unused": 0},
    ]
    assert moved.exitstatus == "OK", moved.lines
    assert state["status"] == "running"
    assert config["scsi0"] == "shared:100/vm-100-disk-0.raw,size=1G"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("pve1", {"target": "target is local node."}),
        ("nope", "no such cluster node 'nope'"),
        ("pve3", "storage 'local-lvm' is not available on node 'pve3'"),
    ],
)
async def test_moves_that_are_refused_at_once(pve: Proxmox, target: str, reason: object) -> None:
    pve.world.storages["local-lvm"].nodes = {"pve1", "pve2"}
    with_disk(pve.world, 100, "local-lvm")
    async with client(pve) as admin:
        answer = await admin.ask("POST", "/nodes/pve1/qemu/100/migrate", target=target)
        told = await admin.get("/nodes/pve1/qemu/100/migrate")
    assert (answer.errors if answer.status == 400 else answer.reason) == reason
    assert told["allowed_nodes"] == ["pve2"]
    assert told["not_allowed_nodes"] == {"pve3": {"unavailable_storages": ["local-lvm"]}}


async def test_a_move_that_is_cancelled_leaves_the_guest_where_it_was() -> None:
    async with proxmox(World(pace=Pace(migrate=1e6))) as pve, client(pve) as admin:
        guest = with_disk(pve.world, 100, "shared", running=True)
        upid = await admin.post("/nodes/pve1/qemu/100/migrate", target="pve2", online=1)
        while "lock" not in await admin.get("/nodes/pve1/qemu/100/status/current"):
            pass  # the move has not begun
        refused = await admin.ask("PUT", "/cluster/ha/resources/vm:100", comment="x")
        await admin.delete(f"/nodes/pve1/tasks/{upid}")
        outcome = await admin.end(upid)
    assert refused.reason == "update resource failed: no such resource 'vm:100'"
    assert outcome.exitstatus == "migration aborted"
    assert (guest.node, guest.lock, guest.status) == ("pve1", "", "running")


async def test_a_missing_bridge_over_there_stops_a_live_move(pve: Proxmox) -> None:
    guest = with_disk(pve.world, 100, "shared", running=True)
    pve.world.nodes["pve2"].bridges.clear()
    async with client(pve) as admin:
        outcome = await admin.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve2", online=1)
    assert outcome.exitstatus == "migration aborted"
    assert any("bridge 'vmbr0' does not exist" in line for line in outcome.lines)
    assert (guest.node, guest.status) == ("pve1", "running")


async def member(admin: Client, vmid: int, **options: object) -> None:
    await admin.post("/cluster/ha/resources", sid=f"vm:{vmid}", **options)


async def test_members_are_started_and_stopped_later_by_somebody_else() -> None:
    """The task that asks ends before anything has changed; the one that does it is root's."""
    async with proxmox(still()) as pve, client(pve) as admin:
        world = pve.world
        guest = with_disk(world, 100, "shared")
        await member(admin, 100, state="stopped")
        asked = await admin.run("POST", "/nodes/pve1/qemu/100/status/start")
        assert (asked.exitstatus, asked.upid.split(":")[5], guest.status) == ("OK", "hastart", "stopped")
        await until(world, lambda: guest.run is not None)
        state = await admin.get("/nodes/pve1/qemu/100/status/current")
        asked = await admin.run("POST", "/nodes/pve1/qemu/100/status/stop")
        assert (asked.upid.split(":")[5], guest.status) == ("hastop", "running")
        await until(world, lambda: guest.run is None)
        kinds = [(task.kind, task.user) for task in world.tasks.all.values() if task.user == "root@pam"]
        kept = await admin.ask("DELETE", "/nodes/pve1/qemu/100")
    assert state["ha"] == {"managed": 1, "state": "started"}
    assert kinds == [("qmstart", "root@pam"), ("qmstop", "root@pam")]
    assert kept.reason == "unable to remove VM 100 - used in HA resources and purge parameter not set."


async def test_a_lost_nodes_members_come_up_elsewhere() -> None:
    """Those that nobody watches over stay lost."""
    async with proxmox(still()) as pve, client(pve) as admin:
        world = pve.world
        guest, other = with_disk(world, 100, "shared", running=True), with_disk(world, 101, "shared", running=True)
        await member(admin, 100)
        world.nodes["pve1"].online = False
        await until(world, lambda: guest.node != "pve1" and guest.run is not None)
        rows = {row["id"]: row for row in await admin.get("/cluster/ha/status/current")}
    assert guest.node in ("pve2", "pve3")
    assert other.node == "pve1"
    assert rows["service:vm:100"]["state"] == "started"


async def test_rules_move_members_to_where_they_belong() -> None:
    async with proxmox(still()) as pve, client(pve) as admin:
        world = pve.world
        first, second = with_disk(world, 100, "shared", running=True), with_disk(world, 101, "shared", running=True)
        await member(admin, 100)
        await member(admin, 101)
        both = "vm:100,vm:101"
        await admin.post(
            "/cluster/ha/rules", rule="apart", type="resource-affinity", resources=both, affinity="negative"
        )
        await until(world, lambda: first.node != second.node)
        blocked = await admin.post("/cluster/ha/resources/vm:101/migrate", node=first.node)
        await admin.post(
            "/cluster/ha/rules", rule="home", type="node-affinity", resources="vm:100", nodes="pve3:2,pve2"
        )
        await until(world, lambda: first.node == "pve3" and not world.tasks.active())
        await until(world, lambda: second.node != "pve3")
        rules = await admin.get("/cluster/ha/rules", resource="vm:101")
    assert blocked["blocking-resources"] == [{"sid": "vm:100", "cause": "resource-affinity"}]
    assert first.status == second.status == "running"
    assert [rule["rule"] for rule in rules] == ["apart"]


async def test_a_member_that_never_starts_is_given_up() -> None:
    """It is tried again, then elsewhere; only being disabled gets it out of the error."""
    async with proxmox(still()) as pve, client(pve) as admin:
        world = pve.world
        guest = world.add_guest(100, "pve1", {"net0": "virtio,bridge=nowhere"})
        await member(admin, 100)
        service = world.managers.service("vm:100")
        await until(world, lambda: service.state == "error")
        tries = [task.node for task in world.tasks.all.values() if task.kind == "qmstart"]
        kept = await admin.ask("PUT", "/cluster/ha/resources/vm:100", state="stopped")
        await admin.put("/cluster/ha/resources/vm:100", state="disabled")
        await until(world, lambda: service.state == "stopped")
    assert kept.reason == "service 'vm:100' in error state, must be disabled and fixed first"
    assert tries == ["pve1", "pve1", guest.node, guest.node]
    assert guest.node != "pve1"


async def test_a_member_is_moved_by_its_managers() -> None:
    async with proxmox(still()) as pve, client(pve) as admin:
        guest = with_disk(pve.world, 100, "shared", running=True)
        await member(admin, 100)
        asked = await admin.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve3", online=1)
        assert (asked.upid.split(":")[5], guest.node) == ("hamigrate", "pve1")
        await until(pve.world, lambda: guest.node == "pve3")


async def test_groups_have_become_rules(pve: Proxmox) -> None:
    async with client(pve) as admin:
        groups = await admin.ask("GET", "/cluster/ha/groups")
        missing = await admin.ask("POST", "/cluster/ha/resources", sid="vm:999")
    assert groups.reason == "cannot index groups: ha groups have been migrated to rules"
    assert missing.reason == "resource 'vm:999' does not exist in cluster"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (
            {"type": "resource-affinity", "affinity": "negative", "resources": "vm:100,vm:999"},
            "cannot use unmanaged resource(s) vm:999.",
        ),
        (
            {"type": "node-affinity", "nodes": "pve1,nope", "resources": "vm:100"},
            "cannot use non-existant node(s) nope.",
        ),
        (
            {"type": "resource-affinity", "affinity": "positive", "resources": "vm:100"},
            "rule is ineffective as there are less than two resources",
        ),
        (
            {"type": "resource-affinity", "affinity": "negative", "resources": "vm:100,vm:101,vm:102,vm:103"},
            "rule defines more resources than available nodes",
        ),
        (
            {"type": "resource-affinity", "affinity": "positive", "resources": "vm:100,vm:101"},
            "rule shares two or more resources with a negative resource affinity rule",
        ),
        (
            {"type": "node-affinity", "nodes": "pve1", "resources": "vm:103"},
            "resource 'vm:103' is already used in another node affinity rule",
        ),
    ],
)
async def test_rules_that_cannot_be_kept_are_refused(rule: dict[str, str], reason: str) -> None:
    async with proxmox(still()) as pve, client(pve) as admin:
        for vmid in range(100, 104):
            pve.world.add_guest(vmid, "pve1")
            await member(admin, vmid)
        apart = {"type": "resource-affinity", "affinity": "negative", "resources": "vm:100,vm:101"}
        await admin.post("/cluster/ha/rules", rule="apart", **apart)
        await admin.post("/cluster/ha/rules", rule="home", type="node-affinity", nodes="pve2", resources="vm:103")
        answer = await admin.ask("POST", "/cluster/ha/rules", rule="odd", **rule)
        await admin.delete("/cluster/ha/rules/odd")
    assert answer.status == 500
    assert answer.reason.startswith("create ha rule failed: ")
    assert answer.body["message"].rstrip("\n").endswith(reason)


async def test_snapshots_on_thin_volumes_and_bases_keep_a_guest_where_it_is(pve: Proxmox) -> None:
    guest = with_disk(pve.world, 100, "local-lvm")
    held = pve.world.storages["local-lvm"].on("pve1")
    async with client(pve) as admin:
        guest.snapshots["s1"] = Snapshot("s1", dict(guest.config))
        thin = await admin.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve2")
        guest.snapshots.clear()
        held["local-lvm:vm-101-disk-0"] = Volume(
            "local-lvm:vm-101-disk-0", "images", "raw", 1 << 30, vmid=101, parent="local-lvm:vm-100-disk-0"
        )
        base = await admin.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve2")
    assert (thin.exitstatus, base.exitstatus) == ("migration aborted", "migration aborted")
    assert any("non-migratable snapshot exists" in line for line in thin.lines)
    assert any("referenced by linked clone(s)" in line for line in base.lines)
    assert guest.node == "pve1"
