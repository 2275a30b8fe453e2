"""Our machines are found by their stamp, which is read before anything is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from common import v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    OperationInProgressError,
    PermissionMissingError,
    StalePreconditionError,
)
from provider_proxmox import stamp
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox
from simulators.proxmox.access import Grant
from simulators.proxmox.calls import Call
from simulators.proxmox.client import client
from simulators.proxmox.world import USER

from .conftest import OWNER, vm

UID = "6f1d7c6e-0000-4000-8000-000000000001"


def stamped(vmid: int, *, owner: str = OWNER, uid: str = UID, of: int | None = None) -> str:
    """A description with a stamp.

    Args:
        of: VMID that the stamp was written for, where it is another one.
    """
    identity = v1.MachineIdentity(uid=uid, namespace="shop", name="web", owner=owner)
    return stamp.written("", replace(stamp.of(identity, of or vmid, 0), made=True))


@pytest.fixture
def guests(cluster: Pve) -> Guests:
    return Guests(cluster, owner=OWNER)


async def test_W75_a_machine_that_was_made_a_moment_ago_is_found(pve: Proxmox, guests: Guests) -> None:
    """By another process, or by this one in an earlier life; the ticker has not come round yet."""
    vm(pve, 100, "pve2", description=stamped(100))
    found = await guests.get(UID, "start shop/web")
    assert (found.vmid, found.node) == (100, "pve2")
    assert guests.is_ours(found)


async def test_P20_a_missing_machine_is_missing(guests: Guests) -> None:
    """Definitely, as every node was asked."""
    assert await guests.find(UID, "start shop/web") is None
    with pytest.raises(MachineNotFoundError, match="start shop/web"):
        await guests.get(UID, "start shop/web")


async def test_a_recycled_vmid_is_not_taken_for_the_machine(pve: Proxmox, cluster: Pve, guests: Guests) -> None:
    """What the index says of a VMID is looked at anew before anything is done to it."""
    vm(pve, 100, description=stamped(100))
    await guests.get(UID, "look")
    vm(pve, 100, description="somebody else's")
    with pytest.raises(MachineNotFoundError):
        await guests.get(UID, "delete shop/web")
    assert cluster.index.with_uid(UID) == []


@pytest.mark.parametrize("other", [stamped(100, of=101), stamped(100, owner="another"), "plain"])
async def test_only_our_own_stamp_counts(pve: Proxmox, cluster: Pve, guests: Guests, other: str) -> None:
    """A copy brings its original's stamp along, and another installation has its own."""
    vm(pve, 100, description=other)
    await cluster.rescan("look")
    assert not guests.is_ours(cluster.index.guests[100])
    if "another" in other:
        with pytest.raises(ForeignMachineError, match="was not touched"):
            await guests.find(UID, "delete shop/web")
    else:
        assert await guests.find(UID, "delete shop/web") is None


async def test_two_machines_with_one_identity_are_left_to_a_person(pve: Proxmox, guests: Guests) -> None:
    """Whichever of them was meant."""
    vm(pve, 100, description=stamped(100))
    vm(pve, 101, "pve2", description=stamped(101))
    with pytest.raises(OperationInProgressError, match="100 on pve1, 101 on pve2"):
        await guests.find(UID, "delete shop/web")


async def test_a_machine_on_a_node_that_is_down_is_not_missing(pve: Proxmox, cluster: Pve, guests: Guests) -> None:
    """It would be made a second time."""
    vm(pve, 100, "pve2", description=stamped(100))
    await guests.get(UID, "look")
    pve.world.nodes["pve2"].online = False
    with pytest.raises(HypervisorUnavailableError):
        await guests.find(UID, "observe shop/web")


async def test_a_machine_that_cannot_be_read_yet_may_be_the_one(pve: Proxmox, cluster: Pve, guests: Guests) -> None:
    """The provider began while its node was down; our tag says that it may be ours."""
    vm(pve, 100, "pve2", description=stamped(100), tags="virtrigaud")
    cluster.index.put(Guest(100, "pve2", config={"tags": "web;virtrigaud"}))
    pve.world.nodes["pve2"].online = False
    with pytest.raises(HypervisorUnavailableError, match="100 on pve2"):
        await guests.find("6f1d7c6e-0000-4000-8000-000000000002", "create shop/other")
    cluster.index.put(Guest(100, "pve2", config={"tags": "web"}))
    assert await guests.find("6f1d7c6e-0000-4000-8000-000000000002", "create shop/other") is None


async def test_a_machine_whose_row_makes_no_sense_is_not_missing(pve: Proxmox, guests: Guests) -> None:
    """It would be made a second time, or be left behind by a delete."""
    vm(pve, 100, "pve2", description=stamped(100))

    def nameless(call: Call, answer: Any) -> Any:
        if call.route.template != "/cluster/resources":
            return answer
        return [{key: value for key, value in row.items() if key != "vmid"} for row in answer]

    pve.answers.append(nameless)
    with pytest.raises(HypervisorUnavailableError, match="without a sound `vmid`"):
        await guests.find(UID, "delete shop/web")
    pve.answers.clear()
    assert (await guests.get(UID, "delete shop/web")).vmid == 100


async def test_what_is_gone_is_gone_where_only_a_pool_is_ours(pve: Proxmox, cluster: Pve, guests: Guests) -> None:
    """A guest leaves its pool when it goes, and with it what we may see: Proxmox VE calls that forbidden."""
    access = pve.world.access
    access.grants = {Grant("/pool/web", "Administrator", "user", USER)}
    access.pool_of |= {100: "web", 101: "web"}
    for vmid in (100, 101):
        vm(pve, vmid, description=stamped(vmid))
        assert await cluster.refresh(vmid, "look") is not None
    access.pool_of.clear()
    del pve.world.guests[100]
    assert await cluster.refresh(100, "look") is None
    assert 100 not in cluster.index.guests
    with pytest.raises(PermissionMissingError):
        await cluster.refresh(101, "look")
    assert 101 in cluster.index.guests


async def test_a_change_shows_at_once(pve: Proxmox, cluster: Pve, guests: Guests) -> None:
    """The next look must not plan it again."""
    vm(pve, 100, description=stamped(100))
    guest = await guests.get(UID, "change shop/web")
    changed = await guests.change(guest, "change shop/web", memory=1024, onboot=True, cpu=None)
    assert changed.config["memory"] == "1024"
    assert str(changed.config["onboot"]) == "1"
    assert cluster.index.guests[100] == changed
    grown = await guests.change_by_task(changed, "add a disk", scsi1="local-lvm:1")
    assert grown.config["scsi1"].startswith("local-lvm:vm-100-disk-0")


async def test_a_change_of_what_somebody_else_changed_is_refused(pve: Proxmox, guests: Guests) -> None:
    """It was planned for another state."""
    vm(pve, 100, description=stamped(100))
    guest = await guests.get(UID, "change shop/web")
    async with client(pve) as person:
        await person.put("/nodes/pve1/qemu/100/config", memory=2048)
    with pytest.raises(StalePreconditionError):
        await guests.change(guest, "change shop/web", memory=1024)
    assert (await guests.get(UID, "look")).config["memory"] == "2048"
