"""Promises of `Machines` that need a hand on the clock, the driver or the faults."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import pytest
from common import v1, wire
from common.clock import ManualClock
from common.errors import (
    ForeignMachineError,
    HostFullError,
    HypervisorUnavailableError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationInProgressError,
    WrongPowerStateError,
)
from common.faults import FaultPlan
from providerkit.apply import Outcome
from providerkit.consoles import Consoles
from providerkit.driver import ConsoleTicket, Driver
from providerkit.fake import FAKE_CAPABILITIES
from providerkit.machines import MachineSettings, _digest
from providerkit.servicers.context import Context
from providerkit.servicers.machines import MachineServicer

from .conftest import GIB, OWNER, MakeRoom, Room

ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED
ALLOWED = v1.RestartPolicy.ALLOWED


async def apply(room: Room, spec: v1.MachineSpec, **fields: object) -> Outcome:
    return cast("Outcome", await room.apply(spec, **fields))


async def end_of(room: Room, operation: v1.Operation) -> v1.Operation:
    """The operation as it ended."""
    states = [state async for state in room.operations.watch(operation.id)]
    return states[-1]


async def test_P38_a_caller_waits_a_moment_and_gets_the_operation(make_room: MakeRoom) -> None:
    """The wait is the kit's, or most of the caller's own deadline if that is shorter."""
    for remaining, moment in ((None, 1.0), (0.5, 0.4)):
        clock = ManualClock()
        async with make_room(clock=clock, watching=False) as room:
            room.world.hang("copy_disk")
            request = v1.ApplyMachineRequest(spec=room.spec())
            async with asyncio.TaskGroup() as group:
                call = group.create_task(room.machines.apply(request, remaining=remaining))
                await clock.wait_sleeping()
                await clock.advance(moment - 0.01)
                assert not call.done()
                await clock.advance(0.02)
                outcome = await call
            assert outcome.operation is not None
            assert outcome.operation.kind == "create"
            assert [change.kind for change in outcome.pending] == [v1.ChangeKind.CREATE]


async def test_nothing_is_kept_of_settled_machines(room: Room) -> None:
    """No lock, no job, no record outlives its work."""
    specs = [room.spec(ON) for _ in range(10)]
    for spec in specs:
        await room.apply(spec)
        await room.machines.delete(spec.identity)
    jobs = room.machines.jobs
    assert (jobs._jobs, room.machines._applies, dict(jobs._failures)) == ({}, {}, {})
    assert room.operations.known() == []
    assert (room.world.machines, room.world.volumes) == ({}, {})


async def test_a_failure_that_nobody_heard_is_told_once(make_room: MakeRoom) -> None:
    async with make_room(machine_settings=MachineSettings(short_wait=0.01)) as room:
        spec = room.spec()
        room.world.misbehave.latency["create"] = 0.05
        room.world.fail("create", HostFullError("no room"))
        operation = (await apply(room, spec)).operation
        assert operation is not None
        assert (await end_of(room, operation)).state is v1.OperationState.FAILED
        with pytest.raises(HostFullError, match="no room"):
            await room.apply(spec)
        room.world.misbehave.latency.clear()
        assert (await apply(room, spec)).machine is not None


async def test_all_changes_of_shape_are_made_in_one_piece_where_a_driver_can(room: Room) -> None:
    room.driver.joins_changes = True
    spec = room.spec(ON)
    await room.apply(spec)
    spec.cpu, spec.memory = v1.CpuSpec(count=2, shares=7), v1.MemorySpec(size_bytes=2 * GIB)
    spec.disks.append(v1.DiskSpec(name="data", size_bytes=GIB))
    spec.power = v1.PowerSpec(state=OFF)
    outcome = await apply(room, spec)
    assert outcome.machine is not None
    assert outcome.machine.cpu is not None
    assert (outcome.machine.cpu.count, outcome.machine.power, outcome.pending) == (2, OFF, [])
    assert {disk.name for disk in outcome.machine.disks} >= {"data"}
    assert room.world.calls["together"] == 1
    assert outcome.applied[0].kind is v1.ChangeKind.SET_POWER


async def test_what_fails_in_one_piece_is_made_one_by_one(room: Room) -> None:
    """One disk for which there is no room holds up neither the CPUs nor the next attempt."""
    room.driver.joins_changes = True
    spec = room.spec(OFF)
    await room.apply(spec)
    spec.cpu = v1.CpuSpec(count=5)
    spec.disks.append(v1.DiskSpec(name="data", size_bytes=GIB))
    for _ in range(2):
        room.world.fail("attach_disk", HostFullError("no room"))
    with pytest.raises(HostFullError, match="no room"):
        await room.apply(spec)
    machine = room.world.machines[spec.identity.uid]
    assert machine.cpu is not None
    assert (machine.cpu.count, [disk.name for disk in machine.disks]) == (5, ["root"])
    outcome = await apply(room, spec)
    assert outcome.machine is not None
    assert {disk.name for disk in outcome.machine.disks} == {"root", "data"}


async def test_a_failure_of_another_spec_is_not_told(make_room: MakeRoom) -> None:
    """A new spec is a new try: what failed before says nothing about it."""
    async with make_room(machine_settings=MachineSettings(short_wait=0.01)) as room:
        spec = room.spec()
        room.world.misbehave.latency["create"] = 0.05
        room.world.fail("create", HostFullError("no room"))
        operation = (await apply(room, spec)).operation
        assert operation is not None
        await end_of(room, operation)
        room.world.misbehave.latency.clear()
        spec.cpu = v1.CpuSpec(count=1)
        operation = (await apply(room, spec)).operation
        if operation is not None:  # on a busy computer even this takes longer than the wait
            assert (await end_of(room, operation)).state is v1.OperationState.SUCCEEDED
        assert (await apply(room, spec)).machine is not None


async def test_a_verb_that_hangs_ends_as_unavailable(make_room: MakeRoom) -> None:
    async with make_room(machine_settings=MachineSettings(verb_timeout=0.05)) as room:
        spec = room.spec()
        await room.apply(spec)
        room.world.hang("power_on")
        spec.power = v1.PowerSpec(state=ON)
        with pytest.raises(HypervisorUnavailableError, match="power on machine"):
            await room.apply(spec)
        room.world.unhang()
        outcome = await apply(room, spec)
        assert outcome.machine is not None
        assert outcome.machine.power is ON


async def test_a_graceful_shutdown_needs_no_event(make_room: MakeRoom) -> None:
    """When the event is lost, the next look in a few seconds sees it."""
    clock = ManualClock()
    async with make_room(clock=clock, watching=False, guest_shutdown_seconds=2.0) as room:
        spec = room.spec(ON)
        await room.apply(spec)
        room.world.misbehave.unheard = True
        spec.power = v1.PowerSpec(state=OFF, graceful=True)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(apply(room, spec))
            await clock.wait_sleeping()
            await clock.advance(1.5)
            operation = (await call).operation
            assert operation is not None
            end = group.create_task(end_of(room, operation))
            while not end.done():
                await clock.advance(1.0)
        assert end.result().state is v1.OperationState.SUCCEEDED
        assert room.world.machines[spec.identity.uid].power is OFF
        assert room.world.calls["power_off"] == 0, "the guest obeyed: nobody had to cut the power"


async def test_a_guest_that_can_never_hear_is_not_waited_for(make_room: MakeRoom) -> None:
    """The clock stands still: whoever waited for the time to be over would wait for ever."""
    async with make_room(clock=ManualClock(), watching=False) as room:
        spec = room.spec(ON)
        await apply(room, spec)
        deaf = [NotSupportedError("nobody is there")] * 2
        room.world.misbehave.failures["ask_shutdown"] = deaf
        assert spec.identity is not None
        request = v1.RunPowerActionRequest(uid=spec.identity.uid, action=v1.PowerAction.SHUTDOWN)
        with pytest.raises(WrongPowerStateError, match="cannot be asked"):
            await room.machines.act(request)
        spec.power = v1.PowerSpec(state=OFF, graceful=True, graceful_timeout=timedelta(seconds=60))
        outcome = await apply(room, spec)
        assert outcome.machine is not None
        assert outcome.machine.power is OFF


async def test_a_deaf_guest_is_asked_again_and_then_cut(make_room: MakeRoom) -> None:
    clock = ManualClock()
    async with make_room(clock=clock, watching=False) as room:
        spec = room.spec(ON)
        await room.apply(spec)
        room.world.misbehave.deaf.add(spec.identity.uid)
        spec.power = v1.PowerSpec(state=OFF, graceful=True, graceful_timeout=timedelta(seconds=60))
        async with asyncio.TaskGroup() as group:
            group.create_task(apply(room, spec))
            for _ in range(59):
                await clock.wait_sleeping()
                await clock.advance(1.0)
            assert room.world.machines[spec.identity.uid].power is ON
            assert 2 <= room.world.calls["ask_shutdown"] <= 4
            await clock.advance(2.0)
            while room.world.machines[spec.identity.uid].power is ON:
                await clock.advance(0.1)
        assert 60 <= clock.monotonic() < 63


async def test_a_shutdown_without_force_says_that_it_is_still_on(make_room: MakeRoom) -> None:
    async with make_room() as room:
        spec = room.spec(ON)
        uid = spec.identity.uid
        await room.apply(spec)
        room.world.misbehave.deaf.add(uid)
        request = v1.RunPowerActionRequest(uid=uid, action=v1.PowerAction.SHUTDOWN, timeout=timedelta(seconds=0.05))
        with pytest.raises(WrongPowerStateError, match="did not power off"):
            await room.machines.act(request)
        assert room.world.machines[uid].power is ON
        request.force_after_timeout = True
        outcome = await room.machines.act(request)
        assert outcome.machine is not None
        assert outcome.machine.power is OFF


async def test_a_forced_reboot_is_a_cold_one(room: Room) -> None:
    spec = room.spec(ON)
    await room.apply(spec)
    room.world.misbehave.deaf.add(spec.identity.uid)
    outcome = await room.machines.act(
        v1.RunPowerActionRequest(
            uid=spec.identity.uid,
            action=v1.PowerAction.REBOOT,
            timeout=timedelta(seconds=0.02),
            force_after_timeout=True,
        )
    )
    assert outcome.machine is not None
    assert outcome.machine.power is ON
    assert (room.world.calls["power_off"], room.world.calls["power_on"]) == (1, 2)


@pytest.mark.parametrize("notes", [True, False])
async def test_a_restart_that_does_not_help_is_not_repeated(room: Room, notes: bool) -> None:
    """A setting that the hypervisor never takes must not restart a production machine for ever.

    A driver that keeps no notes is guarded as long as the server lives.
    """
    if not notes:
        room.driver.note = partial(Driver.note, room.driver)  # type: ignore[method-assign]
    spec = room.spec(ON)
    uid = spec.identity.uid
    await room.apply(spec)
    set_memory = room.driver.set_memory

    async def ignores(uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        await set_memory(uid, v1.MemorySpec(size_bytes=GIB), live=live)

    room.driver.set_memory = ignores  # type: ignore[method-assign]  # a hypervisor that does not do what it is told
    spec.memory = v1.MemorySpec(size_bytes=GIB // 2)
    for _ in range(3):
        outcome = await apply(room, spec, restart_policy=ALLOWED)
        assert outcome.machine is not None
        assert outcome.machine.power is ON
    assert room.world.calls["ask_shutdown"] == 1
    codes = {reason.code for change in outcome.pending for reason in change.reasons}
    assert "RestartDidNotHelp" in codes
    assert room.world.machines[uid].power is ON


async def test_first_boot_data_alone_restarts_nothing(room: Room) -> None:
    spec = room.spec(ON)
    spec.boot_data = v1.BootData(user_data="one")
    await room.apply(spec)
    spec.boot_data = v1.BootData(user_data="two")
    outcome = await apply(room, spec, restart_policy=ALLOWED)
    assert outcome.applied == []
    assert [change.field for change in outcome.pending] == ["boot_data"]
    assert room.world.calls["ask_shutdown"] == 0


async def test_settings_that_wait_are_brought_by_one_restart(room: Room) -> None:
    spec = room.spec(ON)
    await room.apply(spec)
    room.world.machines[spec.identity.uid].pending_restart = ["cpu: another model after restart"]
    held = await apply(room, spec)
    assert [change.kind for change in held.pending] == [v1.ChangeKind.RESTART]
    done = await apply(room, spec, restart_policy=ALLOWED)
    assert done.pending == []
    assert done.machine is not None
    assert done.machine.power is ON


async def test_a_verb_that_the_driver_lacks_holds_up_nothing_else(room: Room) -> None:
    spec = room.spec()
    await room.apply(spec)
    room.world.fail("set_tags", NotSupportedError("no tags on Tuesdays"))
    spec.tags, spec.description = ["a"], "hello"
    outcome = await apply(room, spec)
    assert [change.field for change in outcome.applied] == ["description"]
    assert [(c.field, c.effect) for c in outcome.pending] == [("tags", v1.Effect.UNSUPPORTED)]
    assert "no tags on Tuesdays" in outcome.pending[0].reasons[-1].message


async def test_no_more_changes_at_once_than_allowed(make_room: MakeRoom) -> None:
    async with make_room(machine_settings=MachineSettings(max_concurrent_changes=3)) as room:
        now = most = 0
        create = room.driver.create

        async def counted(spec: v1.MachineSpec, progress: object) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            await create(spec, progress)  # type: ignore[arg-type]
            now -= 1

        room.driver.create = counted  # type: ignore[method-assign]  # only counts
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(apply(room, room.spec()))
        assert most == 3
        assert len(room.world.machines) == 20


async def test_other_work_on_the_machine_is_named(make_room: MakeRoom) -> None:
    async with make_room(machine_settings=MachineSettings(short_wait=0.02)) as room:
        spec = room.spec()
        await room.apply(spec)
        room.world.hang("power_on")
        action = v1.RunPowerActionRequest(uid=spec.identity.uid, action=v1.PowerAction.START)
        outcome = await room.machines.act(action)
        assert outcome.operation is not None
        with pytest.raises(OperationInProgressError, match="start is running"):
            await room.machines.act(v1.RunPowerActionRequest(uid=spec.identity.uid, action=v1.PowerAction.STOP))
        held = await apply(room, spec)
        assert held.operation is not None
        assert held.operation.id == outcome.operation.id
        assert held.machine is not None


async def test_an_apply_waits_for_no_delete(make_room: MakeRoom) -> None:
    """Whoever applies while the machine is being deleted must not bring it back to life by waiting."""
    async with make_room(machine_settings=MachineSettings(short_wait=0.02)) as room:
        spec = room.spec()
        await room.apply(spec)
        room.world.hang("destroy")
        assert (await room.machines.delete(spec.identity)).operation is not None
        with pytest.raises(OperationInProgressError, match="delete is running"):
            await room.apply(spec)
        room.world.unhang()
        async with asyncio.timeout(5):
            while not (await room.machines.delete(spec.identity)).gone:
                pass
        assert room.world.machines == {}


async def test_the_end_of_the_server_clears_nothing_away(make_room: MakeRoom) -> None:
    """Only a client's cancel removes what a create half made; the next server goes on from it."""
    world = None
    with FaultPlan().hangs("fake.create.volumes").installed():
        async with make_room(machine_settings=MachineSettings(short_wait=0.02)) as room:
            world, spec = room.world, room.spec()
            assert (await apply(room, spec)).operation is not None
    assert world.machines == {}
    assert len(world.volumes) == 1
    async with make_room(world=world) as room:
        await room.apply(spec)
        assert len(world.machines) == 1
        assert len(world.volumes) == 1


async def test_a_precondition_is_checked_again_when_its_turn_has_come(make_room: MakeRoom) -> None:
    """Waiting for a slot may age a plan."""
    async with make_room(machine_settings=MachineSettings(max_concurrent_changes=1, short_wait=0.05)) as room:
        spec, other = room.spec(), room.spec()
        token = (await apply(room, spec)).machine.token  # type: ignore[union-attr]
        room.world.hang("copy_disk")
        await room.apply(other)  # holds the only slot
        spec.tags = ["a"]
        outcome = await apply(room, spec, precondition=token)
        assert outcome.operation is not None
        room.world.power_behind_our_back(spec.identity.uid, ON)
        room.world.unhang()
        last = await end_of(room, outcome.operation)
        assert last.error is not None
        assert last.error.reason == "StalePrecondition"
        assert room.world.machines[spec.identity.uid].tags == []


async def test_a_shutdown_by_spec_and_one_by_action_are_two_things(make_room: MakeRoom) -> None:
    """An action never joins an apply that happens to shut the machine down; the same action joins itself."""
    async with make_room(machine_settings=MachineSettings(short_wait=0.02)) as room:
        spec = room.spec(ON)
        uid = spec.identity.uid
        await room.apply(spec)
        room.world.misbehave.deaf.add(uid)
        spec.power = v1.PowerSpec(state=OFF, graceful=True)
        by_spec = (await apply(room, spec)).operation
        assert by_spec is not None
        assert by_spec.kind == "shutdown"
        action = v1.RunPowerActionRequest(uid=uid, action=v1.PowerAction.SHUTDOWN)
        with pytest.raises(OperationInProgressError, match="shutdown is running"):
            await room.machines.act(action)
        room.operations.cancel(by_spec.id)
        await end_of(room, by_spec)
        first, second = await room.machines.act(action), await room.machines.act(action)
        assert first.operation is not None
        assert second.operation is not None
        assert first.operation.id == second.operation.id


async def test_a_delete_with_grace_lets_the_guest_shut_down(room: Room) -> None:
    spec = room.spec(ON)
    await room.apply(spec)
    assert (await room.machines.delete(spec.identity, grace=5)).gone
    assert (room.world.calls["ask_shutdown"], room.world.calls["power_off"]) == (1, 0)


async def test_a_release_is_no_delete(make_room: MakeRoom) -> None:
    """A delete that comes while the stamp is being taken off must not be told that the machine is gone."""
    async with make_room(machine_settings=MachineSettings(short_wait=0.02)) as room:
        spec = room.spec()
        await room.apply(spec)
        room.world.hang("release")
        assert not (await room.machines.delete(spec.identity, retain=True)).gone
        assert (await room.machines.delete(spec.identity)).gone
        assert (room.world.machines, room.world.volumes) == ({}, {})


async def test_a_delete_that_is_cancelled_leaves_the_machine_to_whom_it_waited_for(make_room: MakeRoom) -> None:
    """Create, delete it, cancel the delete, create anew: the first create's clearing away must not meet the second."""
    async with make_room(machine_settings=MachineSettings(short_wait=0.01)) as room:
        spec, at_work = room.spec(), []
        create, destroy = room.driver.create, room.driver.destroy
        cleared = asyncio.Event()

        async def slow_create(wanted: v1.MachineSpec, progress: object) -> None:
            at_work.append("create")
            try:
                if at_work.count("create") == 1:
                    await asyncio.Event().wait()
                await create(wanted, progress)  # type: ignore[arg-type]  # as it was given
            finally:
                at_work.append("created")

        async def slow_destroy(uid: str, progress: object) -> None:
            at_work.append("destroy")
            await cleared.wait()
            await destroy(uid, progress)  # type: ignore[arg-type]  # as it was given
            at_work.append("destroyed")

        room.driver.create, room.driver.destroy = slow_create, slow_destroy  # type: ignore[method-assign]
        assert (await apply(room, spec)).operation is not None
        deleting = await room.machines.delete(spec.identity)
        assert deleting.operation is not None
        room.operations.cancel(deleting.operation.id)
        for _ in range(50):  # the cancellation has arrived everywhere
            await asyncio.sleep(0)
        with pytest.raises(OperationInProgressError):
            await room.apply(spec)
        cleared.set()
        assert (await end_of(room, deleting.operation)).state is v1.OperationState.CANCELLED
        answer = await apply(room, spec)
        if answer.operation is not None:
            await end_of(room, answer.operation)
        assert at_work == ["create", "created", "destroy", "destroyed", "create", "created"]
        assert spec.identity is not None
        assert (await room.machines.get(spec.identity.uid)).owned


async def test_work_on_a_foreign_machine_is_refused_before_the_driver_hears_of_it(room: Room) -> None:
    spec = room.spec()
    await room.apply(spec)
    assert spec.identity is not None
    await room.driver.release(spec.identity.uid)

    async def body(_job: object) -> None:
        raise AssertionError("the driver was asked")

    with pytest.raises(ForeignMachineError):
        await room.machines.exclusive("create-snapshot", spec.identity.uid, "s", body)


async def test_a_plan_to_create_is_bound_to_there_being_none(room: Room) -> None:
    servicer = MachineServicer(room.machines, room.hub, Consoles(room.driver, room.hub))
    spec = room.spec()
    planned = await servicer.plan_machine(v1.PlanMachineRequest(spec=spec), cast("Context", None))
    assert planned.precondition == "absent"
    await room.apply(spec, precondition=planned.precondition)
    again = await servicer.plan_machine(v1.PlanMachineRequest(spec=spec), cast("Context", None))
    assert again.precondition not in ("", "absent")


async def test_a_console_whose_client_leaves_amid_output_is_let_go(room: Room) -> None:
    """A backlog that nobody reads holds up neither the console nor the server's end."""
    left = asyncio.Event()

    class Chatty:
        async def read(self) -> bytes:
            await asyncio.sleep(0)
            return b"boot message\n"

        async def write(self, data: bytes) -> None:
            raise AssertionError("nothing was typed")

    @asynccontextmanager
    async def console(_uid: str, _kind: v1.ConsoleKind, *, force: bool) -> AsyncIterator[Chatty]:
        assert not force
        try:
            yield Chatty()
        finally:
            left.set()

    spec = room.spec(ON)
    await room.apply(spec)
    assert spec.identity is not None
    room.driver.console = console  # type: ignore[method-assign, assignment]  # a console that never stops

    async def requests() -> AsyncIterator[v1.OpenConsoleRequest]:
        assert spec.identity is not None
        wish = v1.ConsoleOpen(uid=spec.identity.uid, kind=v1.ConsoleKind.SERIAL)
        yield v1.OpenConsoleRequest(open=wish)
        await asyncio.Event().wait()

    session = Consoles(room.driver, room.hub).session(requests())
    await anext(session)
    await anext(session)
    for _ in range(500):  # the client has stalled: the backlog fills
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await session.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert left.is_set()


async def test_a_ticket_is_all_of_its_console_session(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Its URL reaches the caller and no log."""
    ticket = ConsoleTicket("https://console.example/?ticket=canary", datetime(2030, 1, 1, tzinfo=UTC))

    async def console_ticket(_uid: str) -> ConsoleTicket:
        return ticket

    spec = room.spec(ON)
    await room.apply(spec)
    assert spec.identity is not None
    wish = v1.ConsoleOpen(uid=spec.identity.uid, kind=v1.ConsoleKind.TICKET)
    can(room).consoles.append(v1.ConsoleKind.TICKET)
    room.driver.console_ticket = console_ticket  # type: ignore[method-assign]

    async def requests() -> AsyncIterator[v1.OpenConsoleRequest]:
        yield v1.OpenConsoleRequest(open=wish)

    opened = v1.ConsoleOpened(url=ticket.url, expire_time=ticket.expires)
    session = Consoles(room.driver, room.hub).session(requests())
    assert [answer async for answer in session] == [v1.OpenConsoleResponse(opened=opened)]
    assert "canary" not in repr(ticket) + "".join(capsys.readouterr())


def can(room: Room) -> v1.Capabilities:
    """What the room's driver declares, to be changed by the test."""
    declared = copy.deepcopy(FAKE_CAPABILITIES)
    room.driver._capabilities = declared
    return declared


async def test_a_machine_is_adopted_once_and_the_hub_knows(room: Room) -> None:
    """A lost reply may be asked again; neither the identity nor the machine can be given away twice."""
    can(room).adoption = True
    uid, asked = str(uuid.uuid4()), []
    identity = v1.MachineIdentity(uid=uid, namespace="kit", name="old")
    machine_id = room.world.make_foreign("legacy", uid)
    other = room.world.make_foreign("other")

    async def adopt(machine_id: str, identity: v1.MachineIdentity) -> None:
        asked.append(machine_id)
        room.world.machines[machine_id].identity = identity

    room.driver.adopt = adopt  # type: ignore[method-assign]
    adopted = await room.machines.adopt(identity, machine_id)
    assert (adopted.owned, adopted.id, adopted.identity) == (True, machine_id, replace(identity, owner=OWNER))
    assert room.hub.known(uid) is not None
    assert await room.machines.adopt(identity, machine_id) == adopted
    with pytest.raises(NameConflictError):
        await room.machines.adopt(identity, other)
    assert asked == [machine_id]


async def test_two_identities_do_not_get_one_machine(room: Room) -> None:
    can(room).adoption = True
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def adopt(_machine_id: str, _identity: v1.MachineIdentity) -> None:
        begun.set()
        await go_on.wait()

    room.driver.adopt = adopt  # type: ignore[method-assign]
    one, two = (v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="kit", name=name) for name in ("one", "two"))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(_refused(room.machines.adopt(one, "vm-7")))
        await begun.wait()
        assert "being adopted" in await _refused(room.machines.adopt(two, "vm-7"))
        go_on.set()
    assert "does not show our stamp yet" in first.result()


async def _refused(call: Awaitable[object]) -> str:
    with pytest.raises(OperationInProgressError) as refusal:
        await call
    return str(refusal.value)


@pytest.mark.parametrize("machine_id", ["", "a\n", "x" * 300])
async def test_an_id_that_is_none_is_refused(room: Room, machine_id: str) -> None:
    can(room).adoption = True
    with pytest.raises(InvalidSpecError):
        await room.machines.adopt(room.spec().identity, machine_id)


async def test_a_screenshot_is_taken_of_machines_that_are_on(room: Room) -> None:
    can(room).screenshot = True

    async def screenshot(_uid: str) -> bytes:
        return b"PNG"

    room.driver.screenshot = screenshot  # type: ignore[method-assign]
    spec = room.spec(ON)
    await room.apply(spec)
    assert spec.identity is not None
    assert await room.machines.screenshot(spec.identity.uid) == b"PNG"
    await room.driver.power_off(spec.identity.uid)
    with pytest.raises(WrongPowerStateError):
        await room.machines.screenshot(spec.identity.uid)
    with pytest.raises(MachineNotFoundError):
        await room.machines.screenshot(str(uuid.uuid4()))


async def test_a_clone_that_could_not_be_is_refused_before_the_driver_hears_of_it(room: Room) -> None:
    declared = can(room)
    declared.full_clone, declared.linked_clone, declared.instant_clone = True, False, False
    declared.sysprep = False
    source, target = room.spec(), room.spec()
    await room.apply(source)
    assert source.identity is not None
    target.customization = v1.Customization(sysprep=v1.Sysprep())
    for kind in (v1.CloneKind.FULL, v1.CloneKind.LINKED, v1.CloneKind.INSTANT):
        request = v1.CloneMachineRequest(source_uid=source.identity.uid, kind=kind, target=target)
        with pytest.raises(NotSupportedError) as refusal:
            await room.machines.clone(request)
        assert ("Windows guests" if kind is v1.CloneKind.FULL else "clones") in str(refusal.value)
    with pytest.raises(InvalidSpecError):
        await room.machines.clone(replace(request, kind=v1.CloneKind(9)))


def test_the_order_of_a_map_makes_no_other_spec() -> None:
    """A map has no order on the wire; a new map field of the contract must be known here."""
    maps = {
        field.name for field in wire.descriptor(v1.MachineSpec).fields
        if field.message_type is not None and field.message_type.GetOptions().map_entry
    }  # fmt: skip
    assert maps == {"extra_config", "attributes"}
    digests = set()
    for names in (("a", "b"), ("b", "a")):
        each = dict.fromkeys(names, "1")
        digests.add(_digest(v1.MachineSpec(extra_config=each, attributes=each)))
    assert len(digests) == 1
    assert _digest(v1.MachineSpec(attributes={"a": "1"})) != _digest(v1.MachineSpec(extra_config={"a": "1"}))


async def test_creates_that_hang_hold_nobody_up_for_long(make_room: MakeRoom) -> None:
    """A slot is held for a while; then the work goes on without it, and ends like any other."""
    settings = MachineSettings(short_wait=0.02, max_concurrent_changes=2, longest_hold=0.2)
    async with make_room(machine_settings=settings) as room:
        room.world.hang("copy_disk")
        hanging = [await apply(room, room.spec()) for _ in range(3)]
        assert all(outcome.operation is not None for outcome in hanging)
        bare = room.spec(ON)
        bare.disks = []  # nothing to copy
        outcome = await apply(room, bare)
        assert outcome.operation is not None, "both slots are held"
        assert (await end_of(room, outcome.operation)).state is v1.OperationState.SUCCEEDED
        room.world.unhang()
        for outcome in hanging:
            assert outcome.operation is not None
            assert (await end_of(room, outcome.operation)).state is v1.OperationState.SUCCEEDED


async def test_at_most_so_many_creates_run_at_once(make_room: MakeRoom) -> None:
    async with make_room(machine_settings=MachineSettings(short_wait=0.02, max_concurrent_changes=2)) as room:
        room.world.hang("copy_disk")
        waiting = [await apply(room, room.spec()) for _ in range(3)]
        for _ in range(50):
            await asyncio.sleep(0)
        assert room.world.calls["create"] == 2
        room.world.unhang()
        for outcome in waiting:
            assert outcome.operation is not None
            await end_of(room, outcome.operation)
        assert room.world.calls["create"] == 3


async def test_a_machine_that_cannot_be_read_is_neither_gone_nor_made_again(make_room: MakeRoom) -> None:
    """None of the answers that say that there is no machine, while something is there that may be it."""
    async with make_room() as room:
        spec = room.spec()
        await apply(room, spec)
        assert spec.identity is not None
        uid, calls = spec.identity.uid, dict(room.world.calls)
        room.world.misbehave.unread.add(uid)
        for answer in (
            partial(room.machines.get, uid),
            partial(room.machines.plan, spec),
            partial(apply, room, spec),
            partial(apply, room, spec, must_exist=True),
            partial(room.machines.delete, spec.identity),
            partial(room.machines.delete, spec.identity, retain=True),
        ):
            with pytest.raises(HypervisorUnavailableError, match="cannot be read"):
                await answer()
        assert {"create", "destroy", "release"} & {verb for verb in room.world.calls if verb not in calls} == set()
        room.world.misbehave.unread.clear()
        assert (await room.machines.get(uid)).owned
        assert (await room.machines.delete(spec.identity)).gone
