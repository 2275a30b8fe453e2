"""Whatever happens in the cluster is seen, soon and within a budget of requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from common.clock import ManualClock
from common.errors import CredentialsRefusedError, HypervisorUnavailableError
from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pace import BUDGET, FULL_SECONDS, NETWORKS_SECONDS, pace
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.reading import Reader
from provider_proxmox.session.ticker import BLIND_SECONDS
from simulators.proxmox import Proxmox, World, proxmox
from simulators.proxmox.calls import Call, Page
from simulators.proxmox.client import client
from simulators.proxmox.errors import PveError, refused
from simulators.proxmox.faults import Fault
from simulators.proxmox.guests import crash, run_now

from .conftest import STEP, TICK, Watched, credentials_of, ours, uid_of, watched

SOON = 3.0
"""Seconds in which any change is seen."""


@pytest.fixture
async def seen(pve: Proxmox, tmp_path: Path) -> AsyncIterator[Watched]:
    """Three nodes; 100 and 101 on pve1, 102 on pve2, 103 on pve3."""
    for vmid, node in ((100, "pve1"), (101, "pve1"), (102, "pve2"), (103, "pve3")):
        ours(pve, vmid, node)
    async with watched(pve, tmp_path) as session:
        yield session


# -- what is known -------------------------------------------------------------------------------------------------


async def test_everything_is_known_when_the_session_begins(seen: Watched) -> None:
    """Nobody is told that a machine is missing because it was not read yet."""
    assert set(seen.pve.index.guests) == {100, 101, 102, 103}
    assert [guest.vmid for guest in seen.pve.index.with_uid(uid_of(102))] == [102]
    assert seen.guest(102).node == "pve2"
    assert seen.guest(102).status == "stopped"
    assert seen.guest(102).config["memory"] == "256"
    assert len(seen.guest(102).digest) == 40
    assert set(seen.pve.index.nodes) == {"pve1", "pve2", "pve3"}
    assert seen.pve.index.storages["pve1", "local-lvm"].content == {"images", "rootdir"}
    assert seen.pve.index.storages["pve2", "shared"].shared
    assert seen.pve.index.networks["pve1"]["vmbr0"] == "bridge"


async def test_a_start_by_a_person_is_seen(seen: Watched) -> None:
    """It leaves a task, and changes the list."""
    async with client(seen.server) as person:
        await person.run("POST", "/nodes/pve1/qemu/100/status/start")
    assert await seen.go(10, lambda: seen.guest(100).status == "running") <= SOON
    assert seen.told == [uid_of(100)] * len(seen.told)
    assert seen.told


async def test_a_guest_that_dies_is_seen(seen: Watched) -> None:
    """It leaves no task."""
    guest = seen.server.world.guests[102]
    run_now(seen.server.world, guest)
    await seen.go(SOON, lambda: seen.guest(102).status == "running")
    crash(seen.server.world, guest)
    assert await seen.go(10, lambda: seen.guest(102).status == "stopped") <= SOON


async def test_a_guest_that_qemu_stopped_is_seen(seen: Watched) -> None:
    """A disk failed: no task tells of it, and to the list of its node it runs on."""
    run_now(seen.server.world, seen.server.world.guests[102])
    await seen.go(SOON, lambda: seen.guest(102).status == "running")
    run = seen.server.world.guests[102].run
    assert run is not None
    run.status = "io-error"
    assert await seen.go(60, lambda: seen.guest(102).qmpstatus == "io-error") <= FULL_SECONDS + SOON
    assert seen.guest(102).status == "running"


async def test_a_configuration_that_changed_is_seen(seen: Watched) -> None:
    """A synchronous change leaves no task either; its name and sizes stand in the list."""
    async with client(seen.server) as person:
        await person.put("/nodes/pve3/qemu/103/config", name="other", memory=1024)
    assert await seen.go(10, lambda: seen.guest(103).name == "other") <= SOON
    assert seen.guest(103).config["memory"] == "1024"


async def test_a_configuration_that_changed_without_a_task_stands_in_the_log(seen: Watched) -> None:
    """No list of guests shows it, the cluster's log does."""
    async with client(seen.server) as person:
        await person.put("/nodes/pve3/qemu/103/config", net0="virtio,bridge=vmbr0")
    assert await seen.go(60, lambda: "net0" in seen.guest(103).config) <= 31
    assert "net0" in seen.guest(103).config


async def test_a_configuration_that_changed_while_a_session_begins_stands_in_the_log(
    pve: Proxmox, tmp_path: Path
) -> None:
    """After it was read, before everything was: what the log tells by then is no old news."""
    ours(pve, 103, "pve3")

    async def change(call: Call) -> None:
        async with client(pve) as person:
            await person.put("/nodes/pve3/qemu/103/config", net0="virtio,bridge=vmbr0")

    reading = Fault("GET", "/nodes/{node}/qemu/{vmid}/pending", after=change)
    pve.faults.append(reading)
    async with watched(pve, tmp_path) as seen:
        assert reading.met.is_set()
        assert "net0" not in seen.guest(103).config
        await seen.go(31, lambda: "net0" in seen.guest(103).config)
        assert "net0" in seen.guest(103).config


async def test_a_configuration_that_changed_without_a_trace_is_found(seen: Watched) -> None:
    """Nothing tells of an edited file; one guest after the other is looked at."""
    seen.server.world.guests[103].config["net0"] = "virtio=BC:24:11:00:00:03,bridge=vmbr0"
    await seen.go(1200, lambda: "net0" in seen.guest(103).config, step=0.5)
    assert "net0" in seen.guest(103).config


async def test_pools_tags_and_locks_are_seen(seen: Watched) -> None:
    """They stand in the resources of the cluster only."""
    async with client(seen.server) as person:
        await person.post("/pools", poolid="web")
        await person.put("/pools", poolid="web", vms="100")
    seen.server.world.guests[101].lock = "backup"
    await seen.go(30, lambda: seen.guest(100).pool == "web" and seen.guest(101).lock == "backup")
    assert seen.guest(100).pool == "web"
    assert seen.guest(101).lock == "backup"


async def test_the_end_of_anybodys_task_is_seen_within_a_second_in_a_large_cluster(tmp_path: Path) -> None:
    """A snapshot changes nothing in the list of guests."""
    world = World(nodes=tuple(f"pve{number}" for number in range(1, 11)))
    async with proxmox(world) as server:
        ours(server, 100, "pve7")
        async with watched(server, tmp_path) as seen, client(server) as person:
            await seen.go(15)
            await person.run("POST", "/nodes/pve7/qemu/100/snapshot", snapname="before")
            assert await seen.go(10, lambda: seen.guest(100).snapshots) <= 1.0
            assert seen.guest(100).snapshots[0]["name"] == "before"


# -- what is gone, and what is not ---------------------------------------------------------------------------------


async def test_a_machine_that_was_removed_is_told(seen: Watched) -> None:
    """Its node answers without it, and no other has it."""
    async with client(seen.server) as person:
        await person.run("DELETE", "/nodes/pve1/qemu/100")
    assert await seen.go(10, lambda: 100 not in seen.pve.index.guests) <= SOON
    assert uid_of(100) in seen.told
    assert seen.pve.index.with_uid(uid_of(100)) == []


async def test_guests_of_a_node_that_is_down_are_unknown_and_not_gone(seen: Watched) -> None:
    """What does not answer may well be running."""
    run_now(seen.server.world, seen.server.world.guests[102])
    await seen.go(SOON, lambda: seen.guest(102).status == "running")
    seen.server.world.nodes["pve2"].online = False
    await seen.go(20, lambda: seen.guest(102).status == "unknown")
    assert seen.guest(102).status == "unknown"
    assert seen.guest(102).config["memory"] == "256"
    assert not seen.pve.index.nodes["pve2"].online
    seen.told.clear()
    seen.server.world.nodes["pve2"].online = True
    await seen.go(40, lambda: seen.guest(102).status == "running")
    assert seen.guest(102).status == "running"
    assert uid_of(102) in seen.told


async def test_a_guest_of_a_node_that_was_never_up_is_known(pve: Proxmox, tmp_path: Path) -> None:
    """Its configuration cannot be read; that it is there is told by the others."""
    ours(pve, 100, "pve2", tags="virtrigaud")
    pve.world.nodes["pve2"].online = False
    async with watched(pve, tmp_path) as seen:
        assert seen.guest(100).status == "unknown"
        assert not seen.guest(100).digest
        pve.world.nodes["pve2"].online = True
        await seen.go(40, lambda: seen.guest(100).digest)
        assert seen.pve.index.with_uid(uid_of(100))


async def test_W75_a_guest_that_moved_is_followed(seen: Watched) -> None:
    """By HA or by a person; it is not gone in between."""
    async with client(seen.server) as person:
        await person.run("POST", "/nodes/pve1/qemu/100/migrate", target="pve3")
        missing = await seen.go(10, lambda: 100 not in seen.pve.index.guests or seen.guest(100).node == "pve3")
    assert missing <= SOON
    assert seen.guest(100).node == "pve3"
    assert seen.guest(100).path == "nodes/pve3/qemu/100"


async def test_a_recycled_vmid_is_another_guest(seen: Watched) -> None:
    """cluster/resources shows it with its predecessor's name and state for a while."""
    async with client(seen.server) as person:
        await person.run("DELETE", "/nodes/pve1/qemu/100")
        await person.run("POST", "/nodes/pve2/qemu", vmid=100, name="other")
    await seen.go(SOON, lambda: seen.guest(100).name == "other")
    assert seen.guest(100).stamp is None
    assert seen.guest(100).node == "pve2"
    assert seen.pve.index.with_uid(uid_of(100)) == []
    assert uid_of(100) in seen.told


async def test_a_guest_that_we_may_not_see_any_more_is_not_gone(seen: Watched) -> None:
    """Lists leave it out; only a question about itself tells that it is forbidden."""
    seen.server.world.access.grants.clear()
    await seen.go(15)
    assert set(seen.pve.index.guests) == {100, 101, 102, 103}
    assert seen.guest(100).status == "unknown"
    before = seen.pve.requests
    await seen.go(60)
    assert seen.pve.requests - before < 3 * BUDGET


async def test_a_guest_that_goes_unseen_is_gone_after_a_while(seen: Watched) -> None:
    """No list would tell, but whether its VMID is taken can be asked."""
    seen.server.world.access.grants.clear()
    await seen.go(15)
    del seen.server.world.guests[100]
    await seen.go(240, lambda: 100 not in seen.pve.index.guests, step=0.5)
    assert set(seen.pve.index.guests) == {101, 102, 103}
    assert uid_of(100) in seen.told


async def test_a_guest_that_cannot_be_read_is_tried_more_and_more_rarely(seen: Watched) -> None:
    """A broken configuration of one guest must not cost two calls each round, for ever."""

    def broken(call: Call) -> None:
        if call.route.template.endswith("/pending") and call.vmid == 100:
            raise refused("unable to parse the configuration")

    seen.server.checks.append(broken)
    run_now(seen.server.world, seen.server.world.guests[100])
    await seen.go(120)
    assert seen.guest(100).status == "unknown"
    tried = seen.server.counted()["GET /nodes/{node}/qemu/{vmid}/pending"]
    assert tried - 4 <= 15  # of more than forty rounds; some of them look at the others
    seen.server.checks.clear()
    await seen.go(240, lambda: seen.guest(100).status == "running", step=0.5)
    assert seen.guest(100).status == "running"


GARBLED: list[Any] = [{}, None, "row", {"vmid": None}, {"vmid": [1]}, {"vmid": "../1"}, {"type": "qemu", "name": "x"}]
NODES: list[Any] = [{"type": "node"}, {"type": "node", "node": 5}, {"type": "node", "node": "pve1", "maxcpu": "many"}]


@pytest.mark.parametrize(
    ("template", "rows"),
    [
        ("/nodes/{node}/qemu", GARBLED),
        ("/nodes/{node}/network", GARBLED),
        ("/cluster/resources", [*GARBLED, *NODES, {"type": "storage", "node": "pve1"}]),
        ("/cluster/tasks", [*GARBLED, {"upid": []}, {"upid": "UPID:"}]),
        ("/cluster/log", [*GARBLED, {"msg": {}}, {"msg": "update VM " + "9" * 5000 + ": "}]),
    ],
)
async def test_rows_that_make_no_sense_cost_the_others_nothing(seen: Watched, template: str, rows: list[Any]) -> None:
    """Every look goes on, everything is seen as before, and nothing is gone."""
    _alter(seen, template, lambda data: [*rows, *data])
    async with client(seen.server) as person:
        await seen.go(SOON)
        await person.put("/nodes/pve3/qemu/103/config", name="other")
        await seen.go(60, lambda: seen.guest(103).name == "other")
        assert seen.guest(103).name == "other"
        await seen.go(BLIND_SECONDS)
    assert set(seen.pve.known("observe shop/web").guests) == {100, 101, 102, 103}
    assert all(guest.status == "stopped" for guest in seen.pve.index.guests.values())
    assert set(seen.pve.index.nodes) == {"pve1", "pve2", "pve3"}


async def test_a_guest_whose_rows_make_no_sense_is_not_gone(seen: Watched) -> None:
    """A list that has it without its number: it is read by itself, and stays."""

    def nameless(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "vmid"} for row in data]

    for template in ("/nodes/{node}/qemu", "/cluster/resources"):
        _alter(seen, template, nameless)
    await seen.go(BLIND_SECONDS)
    assert set(seen.pve.known("observe shop/web").guests) == {100, 101, 102, 103}
    assert all(guest.status == "stopped" for guest in seen.pve.index.guests.values())


async def test_one_guest_that_makes_no_sense_is_unknown_alone(seen: Watched) -> None:
    """Half of its configuration would be a lie; the others are told as before."""
    _alter(seen, "/nodes/{node}/qemu/{vmid}/pending", lambda data: [{"value": "1"}, *data], vmid=103)
    async with client(seen.server) as person:
        await person.put("/nodes/pve3/qemu/103/config", name="other")
        await seen.go(SOON * 2, lambda: seen.guest(103).status == "unknown")
    assert seen.guest(103).status == "unknown"
    assert seen.guest(103).name == "vm103"
    seen.server.answers.clear()
    await seen.go(120, lambda: seen.guest(103).name == "other", step=0.5)
    assert seen.guest(103).status == "stopped"


def _alter(seen: Watched, template: str, change: Callable[[Any], Any], vmid: int | None = None) -> None:
    """Have the lists that we get changed on their way."""

    def alter(call: Call, answer: Any) -> Any:
        if (
            call.route.template != template
            or call.method != "GET"
            or str(vmid or "") not in ("", call.path.get("vmid"))
        ):
            return answer
        return replace(answer, rows=change(answer.rows)) if isinstance(answer, Page) else change(answer)

    seen.server.answers.append(alter)


async def test_one_guests_node_is_not_the_cluster(seen: Watched) -> None:
    """A look at one configuration fails: everything else is as true as before."""
    away = Fault("GET", "/nodes/{node}/qemu/{vmid}/pending", times=100, refusal=PveError(595, "No route to host"))
    seen.server.faults.append(away)
    seen.told.clear()
    await seen.go(300, away.met.is_set, step=0.5)
    assert away.met.is_set()
    assert None not in seen.told
    assert seen.pve.known("observe shop/web").guests


async def test_a_node_that_hangs_holds_up_nobody(seen: Watched) -> None:
    """Others are asked and told of all the same."""
    hold, news = asyncio.Event(), asyncio.Event()

    async def hang(call: Call) -> None:
        if call.path["node"] == "pve2":
            await hold.wait()

    seen.server.faults.append(Fault("GET", "/nodes/{node}/qemu", times=1000, before=hang))
    seen.pve.on_change(lambda _uid: news.set())
    async with client(seen.server) as person:
        await person.put("/nodes/pve3/qemu/103/config", name="other")
    await seen.clock.advance(TICK + STEP)
    while seen.guest(103).name != "other":
        news.clear()
        await news.wait()
    hold.set()


# -- the cluster itself --------------------------------------------------------------------------------------------


async def test_a_cluster_that_is_away_is_no_cluster_without_machines(seen: Watched) -> None:
    """Nothing known is told for true meanwhile, and everybody is told when it is back."""
    await seen.server.down(0)
    await seen.go(15)
    with pytest.raises(HypervisorUnavailableError, match="observe shop/web"):
        seen.pve.known("observe shop/web")
    assert seen.guest(100).status == "stopped"
    await seen.server.up(0)
    seen.told.clear()
    await seen.go(30, lambda: None in seen.told)
    assert set(seen.pve.known("observe shop/web").guests) == {100, 101, 102, 103}


async def test_a_session_without_good_credentials_says_so(pve: Proxmox, tmp_path: Path) -> None:
    """And goes on by itself when the Secret is corrected."""
    credentials = credentials_of(pve, tmp_path)
    (credentials / "token_secret").write_text("wrong")
    clock = ManualClock()
    cluster = Pve(Endpoint(tuple(pve.urls), credentials=credentials), clock=clock, tick=TICK)
    async with cluster.session():
        with pytest.raises(CredentialsRefusedError):
            cluster.known("observe shop/web")
        credentials_of(pve, tmp_path)
        session = Watched(pve, clock, cluster)
        await session.go(10, lambda: None in session.told)
        assert cluster.known("observe shop/web").nodes


# -- what it costs -------------------------------------------------------------------------------------------------


async def test_a_quiet_cluster_is_asked_within_the_budget(pve: Proxmox, tmp_path: Path) -> None:
    """200 machines on three nodes: it does not matter how many they are."""
    for number in range(200):
        ours(pve, 1000 + number, f"pve{number % 3 + 1}")
    async with watched(pve, tmp_path) as seen:
        await seen.go(60)
        before = len(pve.requests)
        await seen.go(300, step=0.5)
        asked = Counter(entry.route for entry in pve.requests[before:])
    assert sum(asked.values()) <= 5 * 3 * BUDGET
    assert asked["/nodes/{node}/qemu"] >= 5 * 3 * 60 / SOON


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 10, 30])
def test_the_pace_fits_the_budget(nodes: int) -> None:
    """Whatever the size of the cluster."""
    quiet = pace(nodes, TICK, busy=False)
    each_minute = (
        60 / quiet.nodes
        + (60 / quiet.tasks + 60 / quiet.resources + 60 / quiet.log + 60 / quiet.leases + 60 / quiet.rotation) / nodes
        + 60 / NETWORKS_SECONDS
    )
    assert each_minute <= BUDGET
    assert quiet.tasks <= (1.0 if nodes >= 10 else SOON if nodes >= 3 else 20.0)
    busy = pace(nodes, TICK, busy=True)
    assert busy.nodes <= 1.0
    assert busy.tasks <= 0.5


async def test_our_own_changes_are_not_read_twice(seen: Watched) -> None:
    """Whoever changes a guest reads it afterwards; the ticker need not."""

    async def start() -> None:
        await seen.pve.run("start", "POST", "nodes/pve1/qemu/100/status/start", {})
        await seen.pve.refresh(100, "start")

    starting = asyncio.create_task(start())
    await seen.go(60, starting.done)
    await starting
    before = len(seen.server.requests)
    await seen.go(8)
    routes = Counter(entry.route for entry in seen.server.requests[before:])
    assert routes["/nodes/{node}/qemu/{vmid}/pending"] == 0
    assert seen.guest(100).status == "running"


# -- order ---------------------------------------------------------------------------------------------------------


def test_a_late_answer_does_not_undo_a_newer_one() -> None:
    """Two looks at one guest may overtake each other."""

    async def nothing(doing: str, path: str, /, **params: object) -> Any:
        raise AssertionError("nothing is asked here")

    index = Index()
    reader = Reader(nothing, index, clock=ManualClock())
    earlier, later = reader.begin(), reader.begin()
    reader.put(later, Guest(100, "pve1", status="running"))
    reader.put(earlier, Guest(100, "pve1", status="stopped"))
    assert index.guests[100].status == "running"
    reader.remove(earlier, 100)
    assert 100 in index.guests


def test_a_guest_that_could_not_be_read_does_not_hide_what_another_look_reads() -> None:
    """Whoever makes it reads it at the same time."""

    async def nothing(doing: str, path: str, /, **params: object) -> Any:
        raise AssertionError("nothing is asked here")

    index = Index()
    reader = Reader(nothing, index, clock=ManualClock())
    reading = reader.begin()
    reader.note(Guest(100, "pve1"))
    assert reader.put(reading, Guest(100, "pve1", name="web")).name == "web"
    reader.note(Guest(100, "pve1"))
    assert index.guests[100].name == "web"
