"""What arrives late: no machine comes from it after its removal was told."""

from __future__ import annotations

import uuid

import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HypervisorUnavailableError, OperationInProgressError, StalePreconditionError
from providerkit import late
from providerkit.late import Fence
from providerkit.machines import MachineSettings

from .conftest import OWNER, MakeRoom, Room


def made_at(room: Room, generation: int, instance: str | None = None) -> v1.Fence:
    return v1.Fence(generation=generation, instance=room.machines.fence.instance if instance is None else instance)


async def test_an_apply_that_arrives_after_the_removal_makes_nothing(room: Room) -> None:
    """It was sent by a caller that gave up, or is not in charge any more, before the object was deleted."""
    spec = room.spec()
    await room.apply(spec, fence=made_at(room, 1))
    assert (await room.machines.delete(spec.identity, fence=made_at(room, 2))).gone
    with pytest.raises(StalePreconditionError):
        await room.apply(spec, fence=made_at(room, 1))
    assert not room.world.machines


async def test_an_apply_of_the_removal_s_own_generation_is_late_too(room: Room) -> None:
    spec = room.spec()
    await room.machines.delete(spec.identity, retain=True, fence=made_at(room, 2))
    with pytest.raises(StalePreconditionError, match="removes it"):
        await room.apply(spec, fence=made_at(room, 2))


async def test_a_machine_that_was_withdrawn_may_come_back(room: Room) -> None:
    """Its object named another provider for a while, and names this one again."""
    spec = room.spec()
    await room.machines.delete(spec.identity, fence=made_at(room, 1))
    await room.apply(spec, fence=made_at(room, 2))
    with pytest.raises(StalePreconditionError):
        await room.machines.delete(spec.identity, fence=made_at(room, 1))
    assert len(room.world.machines) == 1


async def test_an_older_spec_does_not_undo_a_newer_one(room: Room) -> None:
    spec = room.spec()
    await room.apply(spec, fence=made_at(room, 3))
    with pytest.raises(StalePreconditionError, match="older"):
        await room.apply(spec, fence=made_at(room, 2))
    await room.apply(spec, fence=made_at(room, 3))


async def test_what_was_sent_to_an_earlier_life_is_not_for_this_one(room: Room) -> None:
    """This one does not know what its predecessor was told last."""
    spec = room.spec()
    with pytest.raises(StalePreconditionError, match="restarted"):
        await room.apply(spec, fence=made_at(room, 1, instance=Fence().instance))
    with pytest.raises(StalePreconditionError, match="restarted"):
        await room.machines.delete(spec.identity, fence=made_at(room, 1, instance=Fence().instance))
    assert not room.world.machines


async def test_without_a_fence_nothing_is_late(room: Room) -> None:
    """Who keeps no generations is served as it asks."""
    spec = room.spec()
    await room.machines.delete(spec.identity)
    await room.apply(spec)
    await room.machines.delete(spec.identity, fence=made_at(room, 0))
    await room.apply(spec, fence=made_at(room, 0))
    assert len(room.world.machines) == 1


def test_only_so_many_machines_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MAX_REMEMBERED", 2)
    fence, uids = Fence(), [str(uuid.uuid4()) for _ in range(3)]
    for uid in uids:
        fence.remove(uid, v1.Fence(generation=2))
    for uid in uids[1:]:
        with pytest.raises(StalePreconditionError):
            fence.apply(uid, v1.Fence(generation=1))
    fence.apply(uids[0], v1.Fence(generation=1))


async def test_a_removal_is_not_told_while_a_create_may_still_take_effect(make_room: MakeRoom) -> None:
    """The hypervisor gave no answer, and carries out the call later: then there is something to remove."""
    clock = ManualClock()
    async with make_room(clock=clock, watching=False, machine_settings=MachineSettings(settle=60.0)) as room:
        spec = room.spec()
        assert spec.identity is not None
        create = room.driver.create

        async def no_answer(wanted: v1.MachineSpec, progress: object) -> None:
            raise HypervisorUnavailableError("create: no answer in time")

        room.driver.create = no_answer  # type: ignore[method-assign]  # a hypervisor that is slow
        with pytest.raises(HypervisorUnavailableError):
            await room.apply(spec)
        for retain in (False, True):
            with pytest.raises(OperationInProgressError, match="may still take effect"):
                await room.machines.delete(spec.identity, retain=retain)
        owned = v1.MachineIdentity(uid=spec.identity.uid, name=spec.identity.name, namespace="kit", owner=OWNER)
        spec.identity = owned
        await create(spec, lambda part, phase: None)  # the call takes effect
        with pytest.raises(OperationInProgressError, match="may still take effect"):
            await room.machines.delete(spec.identity)
        assert not room.world.machines
        await clock.advance(60.1)
        assert (await room.machines.delete(spec.identity)).gone
