"""Guest agents are asked when it is worth it, and tell where a machine can be reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from provider_proxmox.session.agents import has_agent
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pace import BUDGET
from simulators.proxmox import Proxmox
from simulators.proxmox.client import client
from simulators.proxmox.guests import run_now

from .conftest import Watched, ours, uid_of, watched

AGENT = "GET /nodes/{node}/qemu/{vmid}/agent/network-get-interfaces"
NIC = "virtio=BC:24:11:00:00:01,bridge=vmbr0"


@pytest.fixture
async def seen(pve: Proxmox, tmp_path: Path) -> AsyncIterator[Watched]:
    """A machine with an agent, that is off."""
    ours(pve, 100, agent="1", net0=NIC)
    pve.world.guests[100].agent = True
    async with watched(pve, tmp_path) as session:
        yield session


@pytest.mark.parametrize(
    ("config", "worth"),
    [
        ({"agent": "1"}, True),
        ({"agent": "enabled=1,fstrim_cloned_disks=1"}, True),
        ({"agent": "fstrim_cloned_disks=1,enabled=0"}, False),
        ({"agent": "0"}, False),
        ({}, False),
    ],
)
def test_only_a_configured_agent_is_worth_asking(config: dict[str, str], worth: bool) -> None:
    """The answer of one that is not there takes three seconds."""
    stamped = '<!-- virtrigaud {"uid":"u","namespace":"n","name":"m","owner":"o","vmid":100} -->'
    guest = Guest(100, "pve1", status="running", config={**config, "description": stamped})
    assert has_agent(guest) is worth
    assert not has_agent(replace(guest, status="stopped"))
    assert not has_agent(replace(guest, qmpstatus="paused"))
    assert not has_agent(replace(guest, config=config))  # a foreign one


async def test_a_machine_that_starts_tells_its_addresses(seen: Watched) -> None:
    """And listeners are told when it does."""
    run_now(seen.server.world, seen.server.world.guests[100])
    await seen.go(10, lambda: seen.guest(100).agent)
    agent = seen.guest(100).agent
    assert [each["name"] for each in agent["interfaces"]] == ["lo", "eth0"]
    assert agent["interfaces"][1]["hardware-address"] == "bc:24:11:00:00:01"
    assert agent["interfaces"][1]["ip-addresses"][0]["ip-address"].startswith("10.")
    assert agent["osinfo"]["pretty-name"]
    assert agent["hostname"]
    assert "statistics" not in agent["interfaces"][1]  # they would be a change each time
    assert seen.told[-1] == uid_of(100)


async def test_what_an_agent_told_ends_with_the_machines_run(seen: Watched) -> None:
    """An address of a machine that is off belongs to nobody, or to somebody else."""
    run_now(seen.server.world, seen.server.world.guests[100])
    await seen.go(10, lambda: seen.guest(100).agent)
    async with client(seen.server) as person:
        await person.run("POST", "/nodes/pve1/qemu/100/status/stop")
    await seen.go(5, lambda: seen.guest(100).status == "stopped")
    assert seen.guest(100).agent == {}


async def test_an_agent_that_does_not_answer_is_asked_more_and_more_rarely(seen: Watched) -> None:
    """Until it does."""
    seen.server.world.guests[100].agent = False
    run_now(seen.server.world, seen.server.world.guests[100])
    await seen.go(60)
    first = seen.server.counted()[AGENT]
    assert 3 <= first <= 6
    await seen.go(240)
    assert seen.server.counted()[AGENT] - first <= 8
    seen.server.world.guests[100].agent = True
    await seen.go(180, lambda: seen.guest(100).agent)
    assert seen.guest(100).agent["interfaces"]


async def test_an_address_that_changes_later_is_found(seen: Watched) -> None:
    """By a slow rotation."""
    guest = seen.server.world.guests[100]
    run_now(seen.server.world, guest)
    await seen.go(10, lambda: seen.guest(100).agent)
    guest.facts["addresses"] = {"net0": ["192.0.2.7/24"]}
    await seen.go(180, lambda: "192.0.2.7" in str(seen.guest(100).agent))
    assert "192.0.2.7" in str(seen.guest(100).agent)


async def test_agents_fit_into_the_budget(pve: Proxmox, tmp_path: Path) -> None:
    """Eighteen machines that run, half of them without an answer."""
    for number in range(18):
        ours(pve, 1000 + number, f"pve{number % 3 + 1}", agent="1", net0=NIC)
        pve.world.guests[1000 + number].agent = number % 2 == 0
        run_now(pve.world, pve.world.guests[1000 + number])
    async with watched(pve, tmp_path) as seen:
        await seen.go(240, step=0.5)
        assert len([guest for guest in seen.pve.index.guests.values() if guest.agent]) == 9
        before = len(pve.requests)
        await seen.go(300, step=0.5)
        asked = Counter(entry.route for entry in pve.requests[before:])
    assert sum(asked.values()) <= 5 * 3 * BUDGET
