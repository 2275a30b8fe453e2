"""One guest for a UID: whoever makes it at the same time, and whatever is there already, comes or goes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from common import v1
from common.errors import HostFullError, HypervisorUnavailableError, OperationInProgressError, OutcomeUnknownError
from common.faults import FaultPlan
from provider_proxmox import claiming, creating, stamp, vmids
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call
from simulators.proxmox.errors import PveError
from simulators.proxmox.world import Guest

from .conftest import OWNER, connected, credentials_of, vm
from .ours import IDENTITY, UID, machine
from .workshop import IDS, Workshop, first, quiet, template, wanted, workshop


@pytest.fixture
def shop(cluster: Pve) -> Workshop:
    return workshop(cluster)


def _stamped(server: Proxmox) -> dict[str, list[int]]:
    """VMIDs of each UID."""
    found: dict[str, list[int]] = {}
    for vmid, guest in server.world.guests.items():
        _, mark = stamp.read(guest.config.get("description", ""))
        if mark is not None and mark.vmid == vmid:
            found.setdefault(mark.uid, []).append(vmid)
    return found


def _is_made(server: Proxmox, vmid: int) -> bool:
    mark = stamp.read(server.world.guests[vmid].config["description"])[1]
    return mark is not None and mark.made


def _asking(cluster: Pve, server: Proxmox, before: Callable[[int], None] = lambda vmid: None) -> claiming.Make:
    """What asks for a bare guest with our stamp."""

    async def make(vmid: int) -> None:
        before(vmid)
        text = stamp.written("", stamp.of(IDENTITY, vmid, 0))
        await cluster.run("make", "POST", "nodes/pve1/qemu", {"vmid": vmid, "name": "shop.web", "description": text})

    return make


# -- foreign guests ----------------------------------------------------------------------------------------------------


async def test_VMIDs_of_others_are_passed_over(pve: Proxmox, shop: Workshop) -> None:
    """Guests, templates, a copy that brought our stamp along: none of them is ours."""
    vm(pve, first(UID))
    copy = stamp.written("", replace(stamp.of(IDENTITY, 42, 0), made=True))
    vm(pve, first(UID, place=1), description=copy)
    other = stamp.written("", replace(stamp.of(replace(IDENTITY, owner="other"), first(UID, place=2), 0), uid="u2"))
    vm(pve, first(UID, place=2), description=other)
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [first(UID, place=3)]


@pytest.mark.parametrize("point", [claiming.JUDGED, claiming.CLAIMED, creating.GROWN, creating.FINISHING])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_foreign_guest_comes_at_any_moment(pve: Proxmox, shop: Workshop, point: str, place: int) -> None:
    """It gets the VMID that was just judged to be free, or the next one: it stays as it is, and we have one machine."""
    vmid = first(UID, place=place)

    def come(_: str) -> None:
        if vmid not in pve.world.guests:
            vm(pve, vmid, scsi0="none,media=cdrom")

    with FaultPlan().does(point, come).installed():
        await shop.creator.create(wanted(), quiet)
    (ours,) = _stamped(pve)[UID]
    assert _is_made(pve, ours)
    assert ours == vmid or pve.world.guests[vmid].config["name"] == f"vm{vmid}"


async def test_VMIDs_are_recycled_between_two_calls(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Our guest is deleted by hand, another gets its VMID: the making begins anew elsewhere, the other is untouched."""
    vmid = first(UID)

    def recycle(_: str) -> None:
        del pve.world.guests[vmid]
        vm(pve, vmid, name="somebodys")

    with FaultPlan().does(creating.GROWN, recycle).installed():
        await shop.creator.create(wanted(), quiet)
    assert pve.world.guests[vmid].config["name"] == "somebodys"
    assert _stamped(pve) == {UID: [first(UID, place=1)]}
    assert _is_made(pve, first(UID, place=1))


@pytest.mark.parametrize("point", [claiming.CLAIMED, creating.SHAPED, creating.GROWN, creating.FINISHING])
async def test_a_VMID_that_another_machine_of_ours_got_meanwhile(pve: Proxmox, shop: Workshop, point: str) -> None:
    """Our own stamp is not enough: it must be this machine's."""
    vmid, other = first(UID), UID.replace("1", "2")
    text = stamp.written("", replace(stamp.of(replace(IDENTITY, uid=other), vmid, 0), made=True))

    def recycle(_: str) -> None:
        del pve.world.guests[vmid]
        vm(pve, vmid, name="other", description=text)

    with FaultPlan().does(point, recycle).installed():
        await shop.creator.create(wanted(), quiet)
    assert pve.world.guests[vmid].config["description"] == text
    assert _stamped(pve) == {other: [vmid], UID: [first(UID, place=1)]}


async def test_a_full_range_says_so(pve: Proxmox, cluster: Pve) -> None:
    """And which setting would help."""
    ids = range(2000, 2003)
    for vmid in ids:
        vm(pve, vmid)
    with pytest.raises(HostFullError, match=r"2000 to 2002.*vmid_first"):
        await workshop(cluster, ids=ids).creator.create(wanted(), quiet)


async def test_a_container_has_the_VMID(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It is no guest that we could look at, and Proxmox VE refuses its VMID: another's."""
    from simulators.proxmox.errors import PveError

    vmid = first(UID)

    def taken(call: Call) -> None:
        if call.method == "POST" and call.route.template == "/nodes/{node}/qemu" and call.text("vmid") == str(vmid):
            raise PveError(500, f"unable to create VM {vmid} - CT {vmid} already exists on node 'pve1'")

    pve.checks.append(taken)
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [first(UID, place=1)]


# -- what is being made ------------------------------------------------------------------------------------------------


async def test_a_clone_of_ours_that_runs_is_waited_for(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It shows its stamp only at its end: who asks meanwhile must neither take its VMID nor pass it over."""
    template(pve, shop.shelf)
    vmid = first(UID)
    text = stamp.written("", stamp.of(IDENTITY, vmid, 0))
    upid = await cluster.post("clone", "nodes/pve1/qemu/900/clone", newid=vmid, name="shop.web", description=text)
    assert pve.world.guests[vmid].lock == "clone"
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [vmid]
    assert _is_made(pve, vmid)
    await cluster.task("clone", upid)


async def test_a_clone_of_others_that_runs_is_waited_for_and_passed_over(
    pve: Proxmox, cluster: Pve, shop: Workshop
) -> None:
    template(pve, shop.shelf)
    upid = await cluster.post("clone", "nodes/pve1/qemu/900/clone", newid=first(UID), name="somebodys")
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [first(UID, place=1)]
    await cluster.task("clone", upid)


async def test_a_lock_that_nobody_holds_is_not_waited_for(pve: Proxmox, shop: Workshop) -> None:
    """A node died in the middle of a clone: what is left is nobody's, and stays."""
    vmid = first(UID)
    pve.world.guests[vmid] = Guest(vmid, "pve1", {"description": " qmclone temporary file"}, lock="clone")
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [first(UID, place=1)]
    assert pve.world.guests[vmid].lock == "clone"


async def test_a_delete_waits_for_a_clone_that_may_be_its_machine(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Its maker is dead, its stamp not yet to be seen: it must not come to light after the machine is gone."""
    template(pve, shop.shelf)
    text = stamp.written("", stamp.of(IDENTITY, 2050, 0))
    await cluster.post("clone", "nodes/pve1/qemu/900/clone", newid=2050, name="shop.web", description=text)
    await shop.remover.destroy(UID, quiet)
    assert set(pve.world.guests) == {900}


async def test_a_delete_sees_its_machine_under_a_recycled_VMID(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Another provider made it a moment ago where we still know somebody else's guest."""
    vm(pve, 2050, name="theirs")
    await cluster.refresh(2050, "look")
    del pve.world.guests[2050]
    vm(pve, 2050, name="shop.web", description=_mark(2050, made=True))
    await shop.remover.destroy(UID, quiet)
    assert pve.world.guests == {}


async def test_what_cannot_be_read_is_not_passed_over(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """A node is away, and a guest of it has the VMID that the machine tries first: it may be the machine."""
    machine(pve, first(UID), node="pve2")
    await cluster.refresh(first(UID), "look")
    pve.world.nodes["pve2"].online = False
    with pytest.raises(HypervisorUnavailableError):
        await shop.creator.create(wanted(), quiet)
    assert _stamped(pve)[UID] == [first(UID)]


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_node_that_was_away_from_the_start(pve: Proxmox, tmp_path: Path, tagged: bool) -> None:
    """Nobody has read its guests: one with our tag may be the machine, strangers hold nothing up."""
    vm(pve, 555, node="pve2", tags="virtrigaud" if tagged else "")
    pve.world.nodes["pve2"].online = False
    async with connected(pve, credentials_of(pve, tmp_path / "secret")) as late:
        making = workshop(late).creator.create(wanted(), quiet)
        if tagged:
            with pytest.raises(HypervisorUnavailableError, match="555 on pve2"):
                await making
        else:
            await making
    assert (UID in _stamped(pve)) is not tagged


# -- lost replies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False])
async def test_after_a_lost_reply_the_same_VMID_is_judged(
    pve: Proxmox, cluster: Pve, shop: Workshop, done: bool
) -> None:
    """Whether the call had its effect or not: there is one guest, in the VMID that was asked for."""
    ask, losses = _asking(cluster, pve), [1]

    async def make(vmid: int) -> None:
        if losses:
            losses.pop()
            if done:
                await ask(vmid)
            raise OutcomeUnknownError("the answer was lost")
        await ask(vmid)

    guest = await shop.claims.claim(UID, "make", make)
    assert guest.vmid == first(UID)
    assert _stamped(pve) == {UID: [first(UID)]}


async def test_the_loser_of_a_race_judges_again(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Somebody of ours was faster by a moment: his guest is ours."""
    fast: list[Awaitable[None]] = []

    async def make(vmid: int) -> None:
        if not fast:
            fast.append(_asking(cluster, pve)(vmid))
            await fast[0]
        await _asking(cluster, pve)(vmid)

    assert (await shop.claims.claim(UID, "make", make)).vmid == first(UID)
    assert _stamped(pve) == {UID: [first(UID)]}


# -- two of one UID ----------------------------------------------------------------------------------------------------


def _mark(vmid: int, *, made: bool = False) -> str:
    return stamp.written("", replace(stamp.of(IDENTITY, vmid, 0), made=made))


def _rival(server: Proxmox, place: int, *, made: bool = False) -> int:
    """What another maker, who found other VMIDs taken, has made meanwhile."""
    vmid = first(UID, place=place)
    vm(server, vmid, name="shop.web", description=_mark(vmid, made=made))
    return vmid


@pytest.mark.parametrize(
    ("ours", "rival", "made", "winner"),
    [
        (0, 3, False, 0),
        (3, 0, False, 0),
        (0, 3, True, 3),
        (3, 0, True, 0),
    ],
)
async def test_of_two_guests_one_is_left(
    pve: Proxmox, shop: Workshop, ours: int, rival: int, made: bool, winner: int
) -> None:
    """The one that is made, else the earlier in the order; nobody has seen the rival before."""
    for place in range(ours):
        vm(pve, first(UID, place=place))

    def come(_: str) -> None:
        pve.world.guests.pop(first(UID, place=rival), None)
        _rival(pve, rival, made=made)

    with FaultPlan().does(creating.FINISHING, come).installed():
        await shop.creator.create(wanted(), quiet)
    assert _stamped(pve) == {UID: [first(UID, place=winner)]}
    assert _is_made(pve, first(UID, place=winner))


async def test_a_rival_that_is_made_meanwhile_is_not_removed(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It was seen unmade; marking it as lost fails, since it has changed, and ours yields."""
    rival = first(UID, place=3)

    def come(_: str) -> None:
        _rival(pve, 3)

    def finish(_: str) -> None:
        pve.world.guests[rival].config["description"] = _mark(rival, made=True)

    with FaultPlan().does(creating.FINISHING, come).does(claiming.LOSING, finish).installed():
        await shop.creator.create(wanted(), quiet)
    assert _stamped(pve) == {UID: [rival]}


async def test_ours_is_lost_while_it_is_being_finished(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Another maker has marked it: the last change fails, and the other's guest is the machine."""
    vmid, rival = first(UID, place=1), first(UID)
    vm(pve, rival)
    struck: list[Call] = []

    def lose(call: Call) -> None:
        if call.method == "PUT" and call.path.get("vmid") == str(vmid) and not struck:
            struck.append(call)
            lost = replace(stamp.of(IDENTITY, vmid, 0), lost=True)
            pve.world.guests[vmid].config["description"] = stamp.written("", lost)
            del pve.world.guests[rival]
            _rival(pve, 0, made=True)

    pve.checks.append(lose)
    await shop.creator.create(wanted(), quiet)
    assert struck
    assert [each for each in _stamped(pve)[UID] if _is_made(pve, each)] == [rival]
    await shop.remover.destroy(UID, quiet)
    assert pve.world.guests == {}


async def test_one_that_is_made_while_it_is_given_up_is_not_removed(pve: Proxmox, shop: Workshop) -> None:
    """What can never succeed for one provider was done by another one at the same moment."""
    image, vmid, failed, looks = template(pve, shop.shelf), first(UID), False, 0

    def finish(call: Call) -> None:
        nonlocal failed, looks
        if call.route.template.endswith("/resize"):
            failed = True
            raise PveError(500, "storage 'shared' is full: not enough free space")
        looks += failed and call.route.template.endswith("/status/current")
        if failed and (looks == 2 or (call.method == "PUT" and call.route.template.endswith("/config"))):
            pve.world.guests[vmid].config["description"] = _mark(vmid, made=True)

    pve.checks.append(finish)
    disk = v1.DiskSpec(name="root", size_bytes=4 << 30, image=v1.ImageRef(id=image))
    with pytest.raises(HostFullError):
        await shop.creator.create(wanted(disks=[disk]), quiet)
    assert _is_made(pve, vmid)


async def test_a_loser_that_was_left_is_cleared_away(pve: Proxmox, shop: Workshop) -> None:
    """Whoever marked it died before it was removed, and the winner is gone."""
    vmid = first(UID)
    lost = replace(stamp.of(IDENTITY, vmid, 0), lost=True)
    vm(pve, vmid, name="shop.web", description=stamp.written("", lost))
    await shop.creator.create(wanted(), quiet)
    assert _stamped(pve) == {UID: [vmid]}
    assert _is_made(pve, vmid)


async def test_two_machines_of_one_uid_are_left_to_people(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Nobody can tell which one has the data."""
    for place in (0, 1):
        await cluster.refresh(_rival(pve, place, made=True), "look")
    with pytest.raises(OperationInProgressError, match="several guests"):
        await shop.guests.find(UID, "look")
    assert len(_stamped(pve)[UID]) == 2


# -- many at once ------------------------------------------------------------------------------------------------------


def _identity(number: int) -> v1.MachineIdentity:
    return v1.MachineIdentity(
        uid=f"7a1e2f30-0000-4000-9000-{number:012d}", namespace="shop", name=f"web-{number}", owner=OWNER
    )


async def test_many_makers_share_a_small_range(pve: Proxmox, tmp_path: Path) -> None:
    """Three providers make the same twenty machines at the same time, in a range that just holds them."""
    ids, credentials = range(3000, 3020), credentials_of(pve, tmp_path / "secret")
    async with AsyncExitStack() as stack:
        clusters = [await stack.enter_async_context(connected(pve, credentials)) for _ in range(3)]
        shops = [workshop(cluster, ids=ids) for cluster in clusters]
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                for shop in shops[number % 3 :] if number % 2 else shops:
                    group.create_task(_insist(shop, wanted(_identity(number))))
    found = _stamped(pve)
    assert sorted(found) == [_identity(number).uid for number in range(20)]
    assert sorted(vmid for each in found.values() for vmid in each) == list(ids)
    assert all(_is_made(pve, vmid) for vmid in ids)


async def _insist(shop: Workshop, spec: v1.MachineSpec) -> None:
    """What a controller does: ask again for as long as somebody else is at work."""
    for _ in range(20):
        try:
            await shop.creator.create(spec, quiet)
        except OperationInProgressError:
            continue
        return
    raise AssertionError(f"{spec.identity}: is never made")


def test_the_order_is_that_of_the_uid() -> None:
    """What the tests above call the first VMID is what is tried first."""
    assert first(UID) == next(vmids.sequence(UID, IDS))
