"""Members and rules of HA on a simulated cluster: what the stamps say, whoever comes first."""

from __future__ import annotations

import asyncio

import pytest
from common import v1
from common.clock import SystemClock
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.guests import Guests
from provider_proxmox.ha import JOINED, Ha
from provider_proxmox.placing import Places
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from simulators.proxmox import Proxmox

from .conftest import OWNER
from .ours import UID, machine

DB = v1.AffinityRule(name="db", apart=True, required=True)


def uid_of(number: int) -> str:
    """Of one of several machines."""
    return f"{UID[:-1]}{number}"


@pytest.fixture
def change(cluster: Pve) -> Reconfiguring:
    guests = Guests(cluster, owner=OWNER)
    snapshots = Snapshots(cluster, guests, owner=OWNER)
    return Reconfiguring(cluster, guests, Places(cluster.index, SystemClock()), BootData(cluster), snapshots)


@pytest.fixture
def ha(cluster: Pve, change: Reconfiguring) -> Ha:
    return Ha(cluster, Guests(cluster, owner=OWNER), change)


def _several(server: Proxmox, count: int = 3) -> None:
    for number in range(1, count + 1):
        identity = v1.MachineIdentity(uid=uid_of(number), namespace="shop", name=f"db{number}", owner=OWNER)
        machine(server, 1000 + number, f"pve{number}", identity=identity)


def _rules(server: Proxmox) -> list[tuple[str, list[str]]]:
    return [(str(rule["affinity"]), sorted(rule["resources"].split(","))) for rule in server.world.ha_rules.values()]


async def test_the_first_waits_for_the_second_and_the_last_but_one_ends_it(pve: Proxmox, cluster: Pve, ha: Ha) -> None:
    _several(pve)
    await ha.set_affinity(uid_of(1), [DB])
    assert (_rules(pve), sorted(pve.world.ha)) == ([], ["vm:1001"])
    for number in (2, 3):
        await ha.set_affinity(uid_of(number), [DB])
    assert _rules(pve) == [("negative", ["vm:1001", "vm:1002", "vm:1003"])]
    assert {entry["state"] for entry in pve.world.ha.values()} == {"stopped"}
    for number in (1, 2, 3):
        guest = cluster.index.guests[1000 + number]
        assert guest.stamp is not None
        assert guest.stamp.settings == {"placement.affinity[db]": "apart required", JOINED: "true"}
    await ha.set_affinity(uid_of(3), [])
    assert _rules(pve) == [("negative", ["vm:1001", "vm:1002"])]
    assert sorted(pve.world.ha) == ["vm:1001", "vm:1002"]
    await ha.leave(await Guests(cluster, owner=OWNER).get(uid_of(2), "look"), "leave")
    assert (_rules(pve), sorted(pve.world.ha)) == ([], ["vm:1001"])


async def test_two_that_join_at_once_are_both_in(pve: Proxmox, ha: Ha) -> None:
    _several(pve)
    async with asyncio.TaskGroup() as group:
        for number in (1, 2, 3):
            group.create_task(ha.set_affinity(uid_of(number), [DB]))
    assert _rules(pve) == [("negative", ["vm:1001", "vm:1002", "vm:1003"])]


async def test_a_rule_that_says_something_else_is_another_rule(pve: Proxmox, ha: Ha) -> None:
    _several(pve)
    for number in (1, 2):
        await ha.set_affinity(uid_of(number), [DB])
    together = v1.AffinityRule(name="db", required=True)
    await ha.set_affinity(uid_of(1), [together])
    assert _rules(pve) == []
    await ha.set_affinity(uid_of(2), [together])
    assert _rules(pve) == [("positive", ["vm:1001", "vm:1002"])]


async def test_a_wish_makes_nobody_a_member(pve: Proxmox, cluster: Pve, ha: Ha) -> None:
    """HA would not start a machine that breaks it."""
    _several(pve)
    for number in (1, 2):
        await ha.set_affinity(uid_of(number), [v1.AffinityRule(name="db", apart=True)])
    assert (_rules(pve), pve.world.ha) == ([], {})
    guest = cluster.index.guests[1001]
    assert guest.stamp is not None
    assert guest.stamp.settings == {"placement.affinity[db]": "apart"}


async def test_a_member_by_its_own_wish_stays_one(pve: Proxmox, cluster: Pve, ha: Ha, change: Reconfiguring) -> None:
    _several(pve)
    await change.set_tuning(uid_of(1), v1.MachineSpec(extra_config={"proxmox.ha": "started"}))
    await ha.set_member(uid_of(1), "")
    assert pve.world.ha["vm:1001"]["state"] == "stopped"  # until it is started
    for number in (1, 2):
        await ha.set_affinity(uid_of(number), [DB])
    for number in (1, 2):
        await ha.set_affinity(uid_of(number), [])
    assert (sorted(pve.world.ha), _rules(pve)) == (["vm:1001"], [])
    await change.set_tuning(uid_of(1), v1.MachineSpec())
    await ha.set_member(uid_of(1), "started")
    assert pve.world.ha == {}
    guest = cluster.index.guests[1001]
    assert guest.stamp is not None
    assert guest.stamp.settings == {}


async def test_a_member_that_is_none_becomes_one_again(pve: Proxmox, ha: Ha) -> None:
    """Whoever wrote its stamp died before HA was told, or a person took it out: the stamp alone makes no member."""
    machine(pve, settings={"proxmox.ha": "started"})
    await ha.set_member(UID, "started")
    assert sorted(pve.world.ha) == ["vm:1042"]
