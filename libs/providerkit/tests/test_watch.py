"""The hub: what subscribers see when the world is fast, slow, away or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HypervisorUnavailableError
from providerkit import watch
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.watch import Hub, HubSettings, token_of

from .conftest import OWNER, MakeRoom, Room

ON, OFF = v1.PowerState.ON, v1.PowerState.OFF


def _machine(uid: str, power: v1.PowerState = OFF) -> v1.Machine:
    identity = v1.MachineIdentity(uid=uid, namespace="n", name=uid, owner=OWNER)
    return v1.Machine(identity=identity, id=uid, hypervisor_name=f"n.{uid}", power=power)


def _hub(world: FakeHypervisor, **settings: float) -> Hub:
    return Hub(FakeDriver(world, owner=OWNER), world.clock, settings=HubSettings(**settings))  # type: ignore[arg-type]


async def _snapshot(stream: AsyncIterator[v1.WatchMachinesResponse]) -> list[v1.WatchMachinesResponse]:
    messages = [await anext(stream)]
    while not messages[-1].snapshot_complete:
        messages.append(await anext(stream))
    return messages


def test_equal_states_have_equal_tokens() -> None:
    one, two = _machine("a"), _machine("a")
    one.settings, two.settings = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    two.token, two.operation_id = "x", "y"
    assert token_of(one) == token_of(two)
    two.power = ON
    assert token_of(one) != token_of(two)


async def test_a_slow_subscriber_gets_the_latest_state_once() -> None:
    """It skips states in between, and nobody waits for it."""
    world = FakeHypervisor(clock=ManualClock())
    world.machines = {uid: _machine(uid) for uid in ("a", "b")}
    hub = _hub(world)
    await hub.look_all()
    stream = hub.subscribe()
    await _snapshot(stream)
    for _ in range(50):
        world.machines["a"].power = ON if world.machines["a"].power is OFF else OFF
        await hub.look("a")
    del world.machines["b"]
    await hub.look("b")
    world.machines["a"].description = "last"
    await hub.look("a")
    message = await anext(stream)
    assert [event.removed or event.changed.description for event in message.events] == ["b", "last"]
    assert message.revision == hub.revision
    await stream.aclose()


async def test_a_look_that_began_earlier_undoes_nothing() -> None:
    """A slow answer about the past never overwrites a later look."""
    clock = ManualClock()
    world = FakeHypervisor(clock=clock)
    world.machines["a"] = _machine("a", ON)
    driver = FakeDriver(world, owner=OWNER)
    stale, release = driver.observe, asyncio.Event()

    class Slow(FakeDriver):
        async def observe(self, uid: str) -> v1.Machine | None:
            seen = await stale(uid)
            if not release.is_set():
                await release.wait()
            return seen

    hub = Hub(Slow(world, owner=OWNER), clock)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(hub.look("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.machines["a"].power = OFF
        release.set()
        await hub.look_all()
        await slow
    known = hub.known("a")
    assert known is not None
    assert known.power is OFF


async def test_a_snapshot_comes_in_batches() -> None:
    world = FakeHypervisor(clock=ManualClock())
    world.machines = {f"m{index}": _machine(f"m{index}") for index in range(2 * watch.BATCH + 1)}
    hub = _hub(world)
    await hub.look_all()
    messages = await _snapshot(hub.subscribe())
    assert [len(message.events) for message in messages] == [watch.BATCH, watch.BATCH, 1]
    assert [message.snapshot_start for message in messages] == [True, False, False]
    assert [message.revision for message in messages] == ["", "", hub.revision], "half a snapshot cannot be resumed"


async def test_a_batch_in_the_middle_of_changes_moves_no_position() -> None:
    """Whoever breaks off between two batches gets the second again."""
    world = FakeHypervisor(clock=ManualClock())
    hub = _hub(world)
    await hub.look_all()
    start = hub.revision
    world.machines = {f"m{index}": _machine(f"m{index}") for index in range(watch.BATCH + 1)}
    await hub.look_all()
    stream = hub.subscribe(start)
    assert (await anext(stream)).revision == start
    assert (await anext(stream)).revision == start
    assert (await anext(stream)).revision == hub.revision


async def test_too_many_removals_force_a_fresh_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals are remembered within bounds; whoever lags further than that starts anew."""
    monkeypatch.setattr(watch, "MAX_TOMBSTONES", 3)
    world = FakeHypervisor(clock=ManualClock())
    world.machines = {f"m{index}": _machine(f"m{index}") for index in range(6)}
    hub = _hub(world)
    await hub.look_all()
    old = hub.revision
    lagging = hub.subscribe()
    await _snapshot(lagging)
    for index in range(5):
        del world.machines[f"m{index}"]
        await hub.look_all()
    for stream in (lagging, hub.subscribe(old)):
        messages = await _snapshot(stream)
        assert messages[0].snapshot_start
        assert [event.changed.id for message in messages for event in message.events] == ["m5"]


async def test_many_hints_of_one_machine_are_one_look(room: Room) -> None:
    await room.apply(spec := room.spec())
    await room.hub.look_all()
    before = room.world.calls["observe"]
    stream = room.hub.subscribe()
    await _snapshot(stream)
    room.world.machines[spec.identity.uid].description = "new"
    for _ in range(1000):
        room.hub.suspect(spec.identity.uid)
    message = await anext(stream)
    assert message.events[0].changed.description == "new"
    assert room.world.calls["observe"] - before <= 3


async def test_a_lost_event_is_found_by_the_resync(make_room: MakeRoom) -> None:
    async with make_room(hub_settings=HubSettings(resync=0.05)) as room:
        await room.apply(spec := room.spec())
        stream = room.hub.subscribe()
        await _snapshot(stream)
        room.world.misbehave.unheard = True
        room.world.power_behind_our_back(spec.identity.uid, ON)
        async with asyncio.timeout(5):
            while True:
                message = await anext(stream)
                if any(event.changed is not None and event.changed.power is ON for event in message.events):
                    return


async def test_what_hangs_is_away(make_room: MakeRoom) -> None:
    """A hypervisor that gives no answer ends the streams, like one that refuses."""
    async with make_room(hub_settings=HubSettings(observe_timeout=0.05, retry=0.01)) as room:
        stream = room.hub.subscribe()
        await _snapshot(stream)
        room.world.hang("observe", "observe_all")
        room.hub.suspect(None)
        with pytest.raises(HypervisorUnavailableError, match="no answer"):
            await anext(stream)
        assert not room.hub.available
        room.world.unhang()
        async with asyncio.timeout(5):
            while room.hub.fault is not None:
                room.hub.turned.clear()
                await room.hub.turned.wait()
        await _snapshot(room.hub.subscribe())


async def test_a_word_of_the_driver_ends_the_wait_for_the_hypervisor(make_room: MakeRoom) -> None:
    """It tells when there is a session again; the waits between failed looks have grown long by then."""
    clock = ManualClock()
    async with make_room(clock=clock, hub_settings=HubSettings(retry=1.0, retry_most=1000.0, resync=1e9)) as room:
        room.world.misbehave.failures["observe_all"] = [v1_error()] * 1000
        await clock.wait_sleeping()
        for _ in range(9):
            await clock.advance(300.0)
        assert room.hub.fault is not None
        room.world.misbehave.failures.clear()
        room.hub.suspect(None)
        for _ in range(13):
            await clock.advance(0.1)  # the pause ends, then the debounce
        assert room.hub.available


async def test_one_machine_that_cannot_be_seen_disturbs_no_other(make_room: MakeRoom) -> None:
    async with make_room(hub_settings=HubSettings(retry=0.01)) as room:
        await room.apply(spec := room.spec())
        await room.hub.look_all()
        stream = room.hub.subscribe()
        await _snapshot(stream)
        room.world.fail("observe", v1_error())
        room.world.power_behind_our_back(spec.identity.uid, ON)
        async with asyncio.timeout(5):
            message = await anext(stream)
        assert message.events[0].changed.power is ON


def v1_error() -> HypervisorUnavailableError:
    return HypervisorUnavailableError("one call failed")


async def test_a_subscriber_that_leaves_is_forgotten(room: Room) -> None:
    stream = room.hub.subscribe()
    await _snapshot(stream)
    await stream.aclose()
    assert not room.hub._subscribers


async def _told(room: Room, uid: str, seen: list[v1.PowerState | None], news: asyncio.Event) -> None:
    """Note each state of a machine that a subscriber is told of; None for its removal."""
    async for message in room.hub.subscribe():
        for event in message.events:
            if event.removed == uid:
                seen.append(None)
            elif event.changed is not None and event.changed.id == uid:
                seen.append(event.changed.power)
        news.set()


async def test_a_short_change_is_told_of_once(room: Room) -> None:
    """Each state in between would have a controller look at the machine, and apply it again."""
    spec, seen, news = room.spec(ON), [], asyncio.Event()
    uid = spec.identity.uid
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        reader = group.create_task(_told(room, uid, seen, news))
        await news.wait()
        await room.apply(spec)
        while not seen:
            news.clear()
            await news.wait()
        await room.machines.delete(spec.identity)
        while seen[-1] is not None:
            news.clear()
            await news.wait()
        reader.cancel()
    assert seen == [ON, None]


async def test_a_change_whose_caller_gave_up_is_told_of_as_far_as_it_is(room: Room) -> None:
    spec, seen, news = room.spec(ON), [], asyncio.Event()
    room.world.hang("power_on")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        reader = group.create_task(_told(room, spec.identity.uid, seen, news))
        await news.wait()
        caller = group.create_task(room.apply(spec))
        while not room.world.calls["power_on"]:  # noqa: ASYNC110  # a counter of the fake
            await asyncio.sleep(0)
        assert seen == []
        caller.cancel()
        while not seen:
            news.clear()
            await news.wait()
        room.world.unhang()
        while seen[-1] is not ON:
            news.clear()
            await news.wait()
        reader.cancel()
    assert seen == [OFF, ON]
