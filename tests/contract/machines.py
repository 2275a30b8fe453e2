"""What every provider owes its callers about machines. Subclass it and supply a `subject` fixture."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import uuid
from datetime import timedelta

import pytest
from common import v1
from common.errors import (
    ForeignMachineError,
    HostFullError,
    HypervisorUnavailableError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    OutcomeUnknownError,
    ProviderError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit.planner import hypervisor_name

from .subject import OFF, ON, SUSPENDED, Subject

HOSTILE = (
    "../../etc",
    "a b",
    "a;reboot",
    "$(reboot)",
    "<disk/>",
    "a\nb",
    "a\x00b",
    "ä",
    "",
    "-a",
    "A",
    "a" * 254,
    "'\"",
)


class MachineContract:
    """Creation, identity, change, power and the end of machines."""

    # -- exactly one machine ---------------------------------------------------------------------------------------

    async def test_create_twice_makes_one(self, subject: Subject) -> None:
        """Applying is level-triggered: twice is once."""
        spec = subject.spec()
        first = await subject.settle(spec)
        second = await subject.settle(spec)
        assert next(change.kind for change in first.applied) is v1.ChangeKind.CREATE
        assert (second.applied, second.pending) == ([], [])
        assert second.machine == first.machine
        assert await subject.world.count(spec.identity.uid) == 1

    async def test_a_created_machine_is_what_was_asked_for(self, subject: Subject) -> None:
        spec = subject.spec(power=OFF)
        machine = (await subject.settle(spec)).machine
        assert machine is not None
        assert machine.identity == spec.identity
        assert machine.owned
        assert machine.hypervisor_name == hypervisor_name(spec.identity)
        assert machine.power is OFF
        assert machine.cpu.count == 1
        assert machine.memory.size_bytes == subject.traits.memory_bytes
        assert [disk.name for disk in machine.disks] == ["root"]
        assert machine.disks[0].size_bytes >= subject.traits.disk_bytes
        assert machine.disks[0].owned
        assert [nic.name for nic in machine.nics] == ["net0"]
        assert machine.nics[0].mac
        assert machine.token

    @pytest.mark.parametrize("point", ["machines.create.before", "machines.create.after", "machines.apply.reply"])
    async def test_a_lost_reply_may_be_retried(self, subject: Subject, point: str) -> None:
        """The call fails where the caller learns nothing of what was done; the repetition finds it and goes on."""
        spec = subject.spec()
        subject.faults.raises(point)
        with pytest.raises(HypervisorUnavailableError):
            await subject.settle(spec)
        await subject.settle(spec)
        assert await subject.world.count(spec.identity.uid) == 1

    async def test_a_caller_that_leaves_may_come_back(self, subject: Subject) -> None:
        """A cancelled call frees the caller; the work goes on, and the next call finds it or its outcome."""
        spec = subject.spec()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(subject.apply(spec))
            await asyncio.sleep(0)
            call.cancel()
        await subject.settle(spec)
        assert await subject.world.count(spec.identity.uid) == 1

    async def test_W34_a_restarted_server_finds_its_machines(self, subject: Subject) -> None:
        """Nothing is remembered but what the hypervisor holds."""
        spec = subject.spec()
        before = (await subject.settle(spec)).machine
        await subject.restart()
        after = await subject.settle(spec)
        assert (after.applied, after.machine) == ([], before)

    async def test_a_server_that_dies_in_a_create_leaves_nothing_double(self, subject: Subject) -> None:
        """The next server goes on from what the first one left."""
        spec = subject.spec()
        async with subject.world.slow_create():
            answer = await subject.apply(spec)
            assert answer.operation is not None
            await subject.restart()
        await subject.settle(spec)
        assert await subject.world.count(spec.identity.uid) == 1
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_concurrent_applies_make_one(self, subject: Subject) -> None:
        spec = subject.spec()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(subject.settle(spec)) for _ in range(20)]
        assert await subject.world.count(spec.identity.uid) == 1
        assert sum(c.kind is v1.ChangeKind.CREATE for call in calls for c in call.result().applied) >= 1
        assert {call.result().machine.token for call in calls} == {(await subject.get(spec.identity.uid)).token}

    async def test_machines_are_made_in_parallel(self, subject: Subject) -> None:
        specs = [subject.spec() for _ in range(subject.pace.parallel)]
        async with asyncio.TaskGroup() as group:
            for spec in specs:
                group.create_task(subject.settle(spec))
        names = {machine.hypervisor_name for machine in await subject.every()}
        assert names >= {hypervisor_name(spec.identity) for spec in specs}

    async def test_equal_names_in_two_namespaces_are_two_machines(self, subject: Subject) -> None:
        specs = [subject.spec(identity=subject.identity("web", namespace=space)) for space in ("shop", "lab")]
        for spec in specs:
            await subject.settle(spec)
        assert len({(await subject.get(spec.identity.uid)).hypervisor_name for spec in specs}) == 2

    @pytest.mark.parametrize("length", [1, 63, 253])
    async def test_every_legal_name_works(self, subject: Subject, length: int) -> None:
        name = ".".join(["a" * 61] * 5)[:length].rstrip(".")
        spec = subject.spec(identity=subject.identity(name))
        machine = (await subject.settle(spec)).machine
        assert machine is not None
        assert machine.identity.name == name
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(spec.identity.uid) == []

    # -- what is not ours ------------------------------------------------------------------------------------------

    async def test_a_foreign_machine_of_the_same_name_is_not_touched(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        foreign = await subject.world.make_foreign(hypervisor_name(spec.identity))
        before = await subject.world.fingerprint(foreign)
        with pytest.raises(NameConflictError):
            await subject.settle(spec)
        await subject.delete(spec.identity)
        assert await subject.world.fingerprint(foreign) == before
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_a_foreign_machine_of_the_same_uid_is_not_touched(self, subject: Subject) -> None:
        """It has our UID and not our stamp: no call may change it."""
        spec = subject.spec(power=OFF)
        uid = spec.identity.uid
        foreign = await subject.world.make_foreign("somebody-elses", uid)
        before = await subject.world.fingerprint(foreign)
        with pytest.raises(ForeignMachineError):
            await subject.settle(spec)
        with pytest.raises(ForeignMachineError):
            await subject.delete(spec.identity)
        for action in (v1.PowerAction.START, v1.PowerAction.STOP, v1.PowerAction.SHUTDOWN):
            with pytest.raises(ForeignMachineError):
                await subject.act(uid, action)
        with pytest.raises(ForeignMachineError):
            await subject.plan(spec)
        assert await subject.world.fingerprint(foreign) == before
        assert not (await subject.get(uid)).owned

    async def test_foreign_machines_are_listed_only_on_demand(self, subject: Subject) -> None:
        spec = subject.spec()
        await subject.settle(spec)
        name = f"foreign-{uuid.uuid4().hex[:8]}"
        await subject.world.make_foreign(name)
        ours = {machine.hypervisor_name: machine for machine in await subject.every()}
        everything = {machine.hypervisor_name: machine for machine in await subject.every(include_foreign=True)}
        assert name not in ours
        assert not everything[name].owned
        assert everything[name].identity is None
        assert everything[hypervisor_name(spec.identity)].owned

    async def test_a_released_machine_stays_and_is_foreign(self, subject: Subject) -> None:
        spec = subject.spec()
        uid = spec.identity.uid
        await subject.settle(spec)
        await subject.delete(spec.identity, retain=True)
        await subject.delete(spec.identity, retain=True)
        assert await subject.world.count(uid) == 1
        with pytest.raises(ForeignMachineError):
            await subject.delete(spec.identity)
        assert await subject.world.count(uid) == 1
        await subject.world.remove(uid)

    async def test_another_owner_is_refused(self, subject: Subject) -> None:
        spec = subject.spec()
        spec.identity.owner = "somebody-else"
        with pytest.raises(InvalidSpecError, match=r"identity\.owner"):
            await subject.apply(spec)
        assert await subject.world.leftovers(spec.identity.uid) == []

    # -- plan and preconditions ------------------------------------------------------------------------------------

    async def test_plan_of_nothing_makes_nothing(self, subject: Subject) -> None:
        spec = subject.spec()
        plan = await subject.plan(spec)
        assert [change.kind for change in plan.changes] == [v1.ChangeKind.CREATE]
        assert (plan.machine, plan.precondition) == (None, "absent")
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_plan_changes_nothing_and_tells_what_apply_does(self, subject: Subject) -> None:
        spec = subject.spec()
        await subject.settle(spec)
        before = await subject.world.fingerprint(spec.identity.uid)
        spec.cpu.count = 2
        plan = await subject.plan(spec)
        assert await subject.world.fingerprint(spec.identity.uid) == before
        assert [change.field for change in plan.changes] == ["cpu.count"]
        assert plan.changes[0].message
        done = await subject.settle(spec, precondition=plan.precondition)
        assert [change.field for change in done.applied] == ["cpu.count"]
        assert done.machine.cpu.count == 2
        assert (await subject.plan(spec)).changes == []

    async def test_a_stale_token_is_refused(self, subject: Subject) -> None:
        spec = subject.spec()
        token = (await subject.settle(spec)).machine.token
        spec.cpu.count = 2
        changed = (await subject.settle(spec)).machine
        spec.cpu.count = 3
        with pytest.raises(StalePreconditionError):
            await subject.settle(spec, precondition=token)
        assert await subject.get(spec.identity.uid) == changed
        await subject.settle(spec, precondition=changed.token)
        assert (await subject.get(spec.identity.uid)).cpu.count == 3

    async def test_absent_is_a_precondition(self, subject: Subject) -> None:
        spec = subject.spec()
        await subject.settle(spec, precondition="absent")
        with pytest.raises(StalePreconditionError):
            await subject.settle(spec, precondition="absent")
        missing = subject.spec()
        with pytest.raises(StalePreconditionError):
            await subject.settle(missing, precondition="0" * 32)
        assert await subject.world.leftovers(missing.identity.uid) == []

    async def test_what_must_exist_is_not_created_anew(self, subject: Subject) -> None:
        spec = subject.spec()
        with pytest.raises(MachineNotFoundError):
            await subject.settle(spec, must_exist=True)
        assert await subject.world.leftovers(spec.identity.uid) == []
        await subject.settle(spec)
        await subject.settle(spec, must_exist=True)

    # -- power -----------------------------------------------------------------------------------------------------

    async def test_power_follows_the_spec(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        assert (await subject.settle(spec)).machine.power is ON
        spec.power.state = OFF
        assert (await subject.settle(spec)).machine.power is OFF
        again = await subject.settle(spec)
        assert (again.applied, again.pending) == ([], [])

    async def test_graceful_off_is_settled_by_off(self, subject: Subject) -> None:
        """A machine that is off is not asked to shut down again and again."""
        if not subject.traits.guest_obeys:
            pytest.skip("this provider's small machines have no guest that obeys")
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        spec.power.state, spec.power.graceful = OFF, True
        assert (await subject.settle(spec)).machine.power is OFF
        again = await subject.settle(spec)
        assert (again.applied, again.pending, again.operation) == ([], [], None)

    async def test_a_deaf_guest_is_cut_off_when_its_time_is_over(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        subject.world.deaf(spec.identity.uid)
        spec.power = v1.PowerSpec(
            state=OFF, graceful=True, graceful_timeout=timedelta(seconds=subject.pace.short_wait + 0.5)
        )
        answer = await subject.apply(spec)
        assert answer.operation is not None
        assert answer.operation.kind == "shutdown"
        assert (await subject.ended(answer.operation)).state is v1.OperationState.SUCCEEDED
        assert (await subject.get(spec.identity.uid)).power is OFF

    async def test_power_actions_are_repeatable(self, subject: Subject) -> None:
        spec = subject.spec()
        uid = spec.identity.uid
        await subject.settle(spec)
        for action, power in ((v1.PowerAction.START, ON), (v1.PowerAction.STOP, OFF)):
            for _ in range(2):
                machine = await subject.act(uid, action)
                assert machine is not None
                assert machine.power is power

    async def test_power_actions_in_the_wrong_state_are_refused(self, subject: Subject) -> None:
        spec = subject.spec()
        uid = spec.identity.uid
        await subject.settle(spec)
        can = await subject.can()
        actions = [v1.PowerAction.RESUME]
        actions += [v1.PowerAction.RESET] if can.reset else []
        actions += [v1.PowerAction.SUSPEND] if can.suspend else []
        for action in actions:
            with pytest.raises(WrongPowerStateError):
                await subject.act(uid, action)
        with pytest.raises(MachineNotFoundError):
            await subject.act(str(uuid.uuid4()), v1.PowerAction.START)
        with pytest.raises(InvalidSpecError):
            await subject.act(uid, v1.PowerAction.UNSPECIFIED)

    async def test_power_behind_our_back_is_seen_and_healed(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        uid = spec.identity.uid
        await subject.settle(spec)
        await subject.world.power_off(uid)
        await subject.wait_power(uid, OFF)
        assert (await subject.settle(spec)).machine.power is ON

    async def test_a_restart_happens_only_where_it_is_allowed(self, subject: Subject) -> None:
        """What needs a restart is reported with its reasons, and done once when the policy allows it."""
        spec = subject.spec(power=ON)
        spec.cpu.count = 2
        await subject.settle(spec)
        spec.cpu.count = 1
        held = await subject.settle(spec)
        assert held.applied == []
        assert [(change.field, change.effect) for change in held.pending] == [("cpu.count", v1.Effect.RESTART)]
        assert held.pending[0].reasons
        done = await subject.settle(spec, restart_policy=v1.RestartPolicy.ALLOWED)
        assert (done.machine.cpu.count, done.machine.power, done.pending) == (1, ON, [])
        again = await subject.settle(spec, restart_policy=v1.RestartPolicy.ALLOWED)
        assert again.applied == []

    async def test_a_restart_that_did_not_help_is_not_made_again(self, subject: Subject) -> None:
        """Not even by a server that did not make the first one."""
        allowed = v1.RestartPolicy.ALLOWED
        spec = subject.spec(power=ON)
        spec.cpu.count = 2
        await subject.settle(spec)
        subject.swallowed.add("set_cpu")
        await subject.restart()
        spec.cpu.count = 1
        await subject.settle(spec, restart_policy=allowed)
        for _ in range(2):
            answer = await subject.apply(spec, restart_policy=allowed)
            assert (answer.operation, answer.applied, answer.machine.power) == (None, [], ON)
            codes = {reason.code for change in answer.pending for reason in change.reasons}
            assert "RestartDidNotHelp" in codes
            await subject.restart()
        subject.swallowed.clear()
        await subject.restart()
        spec.power.state = OFF
        assert (await subject.settle(spec)).machine.cpu.count == 1
        for count in (2, 1):  # the same change again: its time has come again, too
            spec.power.state, spec.cpu.count = ON, count
            answer = await subject.settle(spec, restart_policy=allowed)
            assert (answer.pending, answer.machine.cpu.count, answer.machine.power) == ([], count, ON)

    async def test_what_waits_for_a_restart_is_done_while_it_is_off(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        spec.cpu.count = 2
        await subject.settle(spec)
        spec.cpu.count = 1
        spec.power.state = OFF
        off = await subject.settle(spec)
        assert (off.machine.cpu.count, off.machine.power, off.pending) == (1, OFF, [])

    async def test_suspended_keeps_the_memory(self, subject: Subject) -> None:
        if not (await subject.can()).suspend:
            pytest.skip("not declared; the capability contract asks for the refusal")
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        spec.power.state = SUSPENDED
        assert (await subject.settle(spec)).machine.power is SUSPENDED
        spec.power.state = ON
        assert (await subject.settle(spec)).machine.power is ON

    # -- what cannot be --------------------------------------------------------------------------------------------

    async def test_many_changes_at_once_all_hold(self, subject: Subject) -> None:
        """Whether a hypervisor takes them one by one or in one piece."""
        spec = subject.spec()
        await subject.settle(spec)
        spec.cpu.count = 2
        spec.memory.size_bytes *= 2
        if (await subject.can()).disk_offline_grow:
            spec.disks[0].size_bytes *= 2
        spec.disks += [v1.DiskSpec(name=name, size_bytes=subject.traits.disk_bytes) for name in ("log", "data")]
        spec.nics.append(v1.NicSpec(name="net1", network=copy.deepcopy(subject.traits.network)))
        answer = await subject.settle(spec)
        assert answer.pending == []
        machine = answer.machine
        assert (machine.cpu.count, machine.memory.size_bytes) == (2, spec.memory.size_bytes)
        assert {disk.name for disk in machine.disks} == {"root", "log", "data"}
        assert machine.disks[0].size_bytes >= spec.disks[0].size_bytes
        assert {nic.name for nic in machine.nics} == {"net0", "net1"}
        assert (await subject.plan(spec)).changes == []

    async def test_an_impossible_change_is_reported_and_the_rest_is_done(self, subject: Subject) -> None:
        spec = subject.spec()
        spec.disks[0].size_bytes *= 2
        await subject.settle(spec)
        spec.disks[0].size_bytes //= 2
        spec.cpu.count = 2
        answer = await subject.settle(spec)
        assert answer.machine.cpu.count == 2
        assert answer.machine.disks[0].size_bytes >= 2 * subject.traits.disk_bytes
        assert [(c.field, c.effect) for c in answer.pending] == [("disks[root].size_bytes", v1.Effect.UNSUPPORTED)]

    async def test_what_leaves_the_spec_leaves_the_machine(self, subject: Subject) -> None:
        """The last of its kind too; `CapabilityContract` asks the same of everything that a capability stands for."""
        spec = subject.spec()
        spec.description, spec.tags = "for people", ["blue"]
        spec.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
        made = (await subject.settle(spec)).machine
        assert (made.description, made.tags, len(made.nics)) == ("for people", ["blue"], 1)
        spec.description, spec.tags, spec.nics = "", [], []
        spec.disks.pop()
        assert {change.field for change in (await subject.plan(spec)).changes} == {
            "description",
            "tags",
            "nics[net0]",
            "disks[data]",
        }
        answer = await subject.settle(spec)
        assert answer.pending == []
        seen = answer.machine
        assert (seen.description, seen.tags, seen.nics, [disk.name for disk in seen.disks]) == ("", [], [], ["root"])
        assert (await subject.plan(spec)).changes == []

    @pytest.mark.parametrize("text", HOSTILE)
    async def test_hostile_names_are_refused(self, subject: Subject, text: str) -> None:
        for field in ("namespace", "name", "uid"):
            if field == "namespace" and len(text) > 253:
                continue
            spec = subject.spec()
            made_for = spec.identity.uid
            setattr(spec.identity, field, text)
            with pytest.raises(InvalidSpecError, match=f"identity.{field}"):
                await subject.apply(spec)
            with pytest.raises(InvalidSpecError):
                await subject.delete(spec.identity)
            assert await subject.world.leftovers(made_for) == []

    async def test_every_violation_is_named(self, subject: Subject) -> None:
        spec = subject.spec()
        spec.cpu.count = 0
        spec.memory.size_bytes = 1
        spec.nics[0].mac = "01:00:00:00:00:00"
        with pytest.raises(InvalidSpecError) as refusal:
            await subject.apply(spec)
        assert all(text in str(refusal.value) for text in ("cpu.count", "memory.size_bytes", "nics[net0].mac"))

    async def test_a_missing_network_is_named_and_nothing_is_left(self, subject: Subject) -> None:
        spec = subject.spec()
        spec.nics[0].network = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="no-such-network")
        with pytest.raises(ProviderError, match="no-such-network") as refusal:
            await subject.settle(spec)
        assert refusal.value.reason == "ResourceNotFound"
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_a_missing_image_is_named_and_nothing_is_left(self, subject: Subject) -> None:
        spec = subject.spec()
        spec.disks[0].image = v1.ImageRef(id="no-such-image")
        with pytest.raises(ProviderError, match="no-such-image") as refusal:
            await subject.settle(spec)
        assert refusal.value.reason == "ImageNotFound"
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_a_full_storage_leaves_nothing(self, subject: Subject) -> None:
        spec = subject.spec()
        async with subject.world.storage_full():
            with pytest.raises(HostFullError):
                await subject.settle(spec)
            assert await subject.world.leftovers(spec.identity.uid) == []
        await subject.settle(spec)

    async def test_a_failure_is_told_once_and_sticks_to_nothing(self, subject: Subject) -> None:
        """After a failure the next call tries anew, with the same spec or another."""
        spec = subject.spec()
        subject.faults.raises("machines.create.before", HostFullError("no room for it"))
        with pytest.raises(HostFullError, match="no room for it"):
            await subject.settle(spec)
        assert (await subject.settle(spec)).machine is not None

    # -- cancel, deadlines, the end --------------------------------------------------------------------------------

    async def test_a_cancelled_create_leaves_nothing(self, subject: Subject) -> None:
        spec = subject.spec()
        uid = spec.identity.uid
        async with subject.world.slow_create():
            answer = await subject.apply(spec)
            assert answer.operation is not None
            assert answer.operation.kind == "create"
            again = await subject.apply(spec)
            assert again.operation is not None
            assert again.operation.id == answer.operation.id
            await subject.operations.cancel_operation(
                v1.CancelOperationRequest(id=answer.operation.id), timeout=subject.pace.call
            )
            assert (await subject.ended(answer.operation)).state is v1.OperationState.CANCELLED
            assert await subject.world.leftovers(uid) == []
        await subject.settle(spec)
        assert await subject.world.count(uid) == 1

    async def test_delete_stops_a_create(self, subject: Subject) -> None:
        spec = subject.spec()
        async with subject.world.slow_create():
            answer = await subject.apply(spec)
            assert answer.operation is not None
            await subject.delete(spec.identity)
            assert (await subject.ended(answer.operation)).state is v1.OperationState.CANCELLED
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_a_deadline_ends_the_call_and_not_the_work(self, subject: Subject) -> None:
        """The server answers within the caller's deadline; whatever it answers, the repetition makes one machine."""
        spec = subject.spec()
        request = v1.ApplyMachineRequest(spec=spec)
        async with subject.world.slow_create():
            answer = await subject.machines.apply_machine(request, timeout=0.5)
            assert answer.operation is not None
            with contextlib.suppress(OutcomeUnknownError):  # either: the server answers at four fifths of the deadline
                late = await subject.machines.apply_machine(request, timeout=0.001)
                assert late.operation is not None
                assert late.operation.id == answer.operation.id
        await subject.settle(spec)
        assert await subject.world.count(spec.identity.uid) == 1

    async def test_delete_of_nothing_succeeds(self, subject: Subject) -> None:
        await subject.delete(subject.identity())

    async def test_delete_removes_all_that_is_ours(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        uid = spec.identity.uid
        await subject.settle(spec)
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(uid) == []
        with pytest.raises(MachineNotFoundError):
            await subject.get(uid)
        await subject.delete(spec.identity)

    async def test_a_machine_that_went_away_is_not_found(self, subject: Subject) -> None:
        spec = subject.spec()
        await subject.settle(spec)
        await subject.world.remove(spec.identity.uid)
        with pytest.raises(MachineNotFoundError):
            await subject.get(spec.identity.uid)
        with pytest.raises(MachineNotFoundError):
            await subject.settle(spec, must_exist=True)

    async def test_an_outage_is_no_missing_machine(self, subject: Subject) -> None:
        """Only a definite answer says that a machine is gone."""
        spec = subject.spec()
        await subject.settle(spec)
        async with subject.world.outage():
            with pytest.raises(HypervisorUnavailableError):
                await subject.get(spec.identity.uid)
            with pytest.raises(HypervisorUnavailableError):
                await subject.settle(spec)
            with pytest.raises(HypervisorUnavailableError):
                await subject.delete(spec.identity)
        assert (await subject.settle(spec)).applied == []

    # -- secrets ---------------------------------------------------------------------------------------------------

    async def test_boot_data_is_never_shown(self, subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
        """Neither in what a machine tells, nor in errors, operations or the log, on the good path and on bad ones."""
        canary = f"canary-{uuid.uuid4().hex}"
        spec = subject.spec()
        spec.boot_data = v1.BootData(user_data=f"#cloud-config\npassword: {canary}\n")
        shown = [repr(await subject.plan(spec)), repr(await subject.settle(spec))]
        spec.boot_data.user_data += "\n"
        shown += [repr(await subject.plan(spec)), repr(await subject.settle(spec))]
        bad = subject.spec()
        bad.boot_data = spec.boot_data
        bad.nics[0].network = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="no-such-network")
        for broken in (
            bad,
            v1.MachineSpec(identity=bad.identity, boot_data=v1.BootData(user_data=canary, ignition=canary)),
        ):
            with pytest.raises(ProviderError) as refusal:
                await subject.settle(broken)
            shown.append(str(refusal.value))
        operations = await subject.operations.list_operations(v1.ListOperationsRequest(), timeout=subject.pace.call)
        shown += [repr(operations), *map(repr, await subject.every())]
        output = capsys.readouterr()
        assert canary not in "".join([*shown, output.out, output.err])
