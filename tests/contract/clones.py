"""What every provider owes its callers about clones."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from common import status, v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    WrongPowerStateError,
)
from providerkit.planner import hypervisor_name

from .snapshots import remove, take, tree
from .subject import MIB, OFF, ON, Subject

FULL, LINKED, INSTANT = v1.CloneKind.FULL, v1.CloneKind.LINKED, v1.CloneKind.INSTANT
_DECLARED = {FULL: "full_clone", LINKED: "linked_clone", INSTANT: "instant_clone"}


async def source_for(subject: Subject, kind: v1.CloneKind = FULL, *, power: v1.PowerState = OFF) -> v1.MachineSpec:
    """A machine to copy, where the provider makes such copies."""
    if not getattr(await subject.can(), _DECLARED[kind]):
        pytest.skip("not declared; the capability contract asks for the refusal")
    spec = subject.spec(power=power)
    await subject.settle(spec)
    return spec


async def begin(
    subject: Subject, source: v1.MachineSpec, target: v1.MachineSpec, kind: v1.CloneKind, snapshot: str = ""
) -> v1.CloneMachineResponse:
    """One call, as it answers."""
    request = v1.CloneMachineRequest(
        source_uid=source.identity.uid, source_snapshot_id=snapshot, kind=kind, target=target
    )
    answer: v1.CloneMachineResponse = await subject.machines.clone_machine(request, timeout=subject.pace.call)
    return answer


async def clone(
    subject: Subject,
    source: v1.MachineSpec,
    target: v1.MachineSpec,
    kind: v1.CloneKind = FULL,
    snapshot: str = "",
) -> v1.Machine:
    """Copy to the end, as a controller does."""
    async with asyncio.timeout(subject.pace.settle + subject.pace.call):
        while True:
            answer = await begin(subject, source, target, kind, snapshot)
            if answer.machine is not None:
                return answer.machine
            assert answer.operation is not None
            ended = await subject.ended(answer.operation)
            if ended.error is not None:
                raise status.from_wire(ended.error)


class CloneContract:
    """Made once, in its own name, and never at the price of the source."""

    # -- exactly one clone -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", [FULL, LINKED])
    async def test_clone_twice_is_one(self, subject: Subject, kind: v1.CloneKind) -> None:
        source, target = await source_for(subject, kind), subject.spec()
        first = await clone(subject, source, target, kind)
        assert await clone(subject, source, target, kind) == first
        for spec in (source, target):
            assert await subject.world.count(spec.identity.uid) == 1

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_W50_one_error_does_not_end_a_clone(self, subject: Subject, when: str) -> None:
        """A call that fails, before anything was done or after all of it, may be repeated."""
        source, target = await source_for(subject), subject.spec()
        subject.faults.raises(f"machines.clone.{when}")
        with pytest.raises(HypervisorUnavailableError):
            await clone(subject, source, target)
        async with subject.world.outage():
            with pytest.raises(HypervisorUnavailableError):
                await clone(subject, source, target)
        await clone(subject, source, target)
        assert await subject.world.count(target.identity.uid) == 1

    @pytest.mark.parametrize("kind", [FULL, LINKED])
    async def test_W49_a_server_that_dies_in_a_clone_leaves_nothing_double(
        self, subject: Subject, kind: v1.CloneKind
    ) -> None:
        """The identity is in what makes the clone: the next server finds it, or goes on from what is left."""
        source, target = await source_for(subject, kind), subject.spec()
        uid = target.identity.uid
        async with subject.world.slow_create():
            assert (await begin(subject, source, target, kind)).operation is not None
            await subject.restart()
        await clone(subject, source, target, kind)
        assert await subject.world.count(uid) == 1
        await subject.delete(target.identity)
        assert await subject.world.leftovers(uid) == []
        await subject.delete(source.identity)

    async def test_a_cancelled_clone_leaves_nothing(self, subject: Subject) -> None:
        source, target = await source_for(subject), subject.spec()
        async with subject.world.slow_create():
            answer = await begin(subject, source, target, FULL)
            assert answer.operation is not None
            assert answer.operation.kind == "clone"
            await subject.delete(target.identity)
            assert (await subject.ended(answer.operation)).state is v1.OperationState.CANCELLED
        assert await subject.world.leftovers(target.identity.uid) == []
        await clone(subject, source, target)

    async def test_a_foreign_machine_of_its_name_is_a_conflict(self, subject: Subject) -> None:
        source, target = await source_for(subject), subject.spec()
        foreign = await subject.world.make_foreign(hypervisor_name(target.identity))
        before = await subject.world.fingerprint(foreign)
        with pytest.raises(NameConflictError):
            await clone(subject, source, target)
        assert await subject.world.fingerprint(foreign) == before
        assert await subject.world.leftovers(target.identity.uid) == []

    async def test_what_is_not_there_or_not_ours_is_not_copied(self, subject: Subject) -> None:
        source, target = await source_for(subject), subject.spec()
        missing = subject.spec()
        with pytest.raises(MachineNotFoundError):
            await clone(subject, missing, target)
        await subject.world.make_foreign("somebodys", missing.identity.uid)
        with pytest.raises(ForeignMachineError):
            await clone(subject, missing, target)
        with pytest.raises(InvalidSpecError):
            await clone(subject, source, v1.MachineSpec(identity=subject.identity("../etc")))
        if (await subject.can()).snapshots:
            with pytest.raises(SnapshotNotFoundError):
                await clone(subject, source, target, snapshot=str(uuid.uuid4()))
        assert await subject.world.leftovers(target.identity.uid) == []

    # -- what it is ------------------------------------------------------------------------------------------------

    async def test_W51_the_target_is_what_its_spec_says(self, subject: Subject) -> None:
        """Size, name, NICs, tags, first-boot data and power are those of the clone's own spec."""
        source, target, can = await source_for(subject), subject.spec(power=ON), await subject.can()
        original = await subject.get(source.identity.uid)
        target.cpu.count, target.memory.size_bytes = 2, subject.traits.memory_bytes + 64 * MIB
        target.description = "the copy"
        if can.tags:
            target.tags = ["blue"]
        if can.cloud_init:
            target.boot_data = v1.BootData(user_data="#cloud-config\nhostname: copy\n")
        machine = await clone(subject, source, target)
        assert machine.hypervisor_name == hypervisor_name(target.identity)
        assert (machine.cpu.count, machine.memory.size_bytes) == (2, target.memory.size_bytes)
        assert (machine.tags, machine.description) == (target.tags, "the copy")
        assert [nic.name for nic in machine.nics] == ["net0"]
        assert machine.nics[0].mac != original.nics[0].mac
        assert [(disk.name, disk.owned) for disk in machine.disks] == [("root", True)]
        settled = await subject.settle(target)
        assert [change.kind for change in settled.applied] == [v1.ChangeKind.SET_POWER]
        assert (settled.machine.power, settled.pending) == (ON, [])

    async def test_what_the_target_leaves_open_is_as_in_the_source(self, subject: Subject) -> None:
        source = await source_for(subject)
        source.cpu.count = 2
        source.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
        source.tags = ["of-the-source"] if (await subject.can()).tags else []
        original = (await subject.settle(source)).machine
        machine = await clone(subject, source, v1.MachineSpec(identity=subject.identity("copy")))
        assert (machine.cpu.count, machine.memory.size_bytes) == (2, original.memory.size_bytes)
        assert [(disk.name, disk.size_bytes) for disk in machine.disks] == [
            (disk.name, disk.size_bytes) for disk in original.disks
        ]
        assert {disk.id for disk in machine.disks}.isdisjoint(disk.id for disk in original.disks)
        assert [(nic.name, nic.network) for nic in machine.nics] == [(nic.name, nic.network) for nic in original.nics]
        assert {nic.mac for nic in machine.nics}.isdisjoint(nic.mac for nic in original.nics)
        assert (machine.power, machine.tags) == (OFF, [])

    async def test_a_clone_never_carries_the_stamp_of_its_source(self, subject: Subject) -> None:
        source, target = await source_for(subject), subject.spec()
        before = await subject.get(source.identity.uid)
        untouched = await subject.world.fingerprint(before.id)
        machine = await clone(subject, source, target)
        assert (machine.identity, machine.owned) == (target.identity, True)
        assert await subject.get(source.identity.uid) == before
        assert await subject.world.fingerprint(before.id) == untouched
        found = sorted(each.identity.uid for each in await subject.every())
        assert found == sorted((source.identity.uid, target.identity.uid))

    # -- full ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("power", [OFF, ON])
    async def test_a_full_clone_outlives_its_source(self, subject: Subject, power: v1.PowerState) -> None:
        source, target = await source_for(subject, power=power), subject.spec(power=ON)
        await clone(subject, source, target)
        assert (await subject.get(source.identity.uid)).power is power
        await subject.delete(source.identity)
        assert await subject.world.leftovers(source.identity.uid) == []
        assert (await subject.settle(target)).machine.power is ON
        await subject.delete(target.identity)
        assert await subject.world.leftovers(target.identity.uid) == []

    async def test_P8_a_clone_of_a_snapshot_has_what_the_snapshot_has(self, subject: Subject) -> None:
        source = await source_for(subject, power=ON)
        if not (await subject.can()).snapshots:
            pytest.skip("not declared")
        snapshot = await take(subject, source.identity.uid)
        more = subject.spec(identity=source.identity, power=ON)
        more.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
        await subject.settle(more)
        for named in (snapshot.id, snapshot.uid):
            target = subject.spec()
            machine = await clone(subject, source, target, snapshot=named)
            assert [disk.name for disk in machine.disks] == ["root"]
        await remove(subject, source.identity.uid, snapshot.uid)
        await subject.delete(source.identity)
        assert (await subject.settle(target)).pending == []

    # -- linked ----------------------------------------------------------------------------------------------------

    async def test_P8_a_linked_clone_stands_on_a_snapshot(self, subject: Subject) -> None:
        """And neither the snapshot nor the machine that has it can be taken away under it."""
        source, target = await source_for(subject, LINKED, power=ON), subject.spec()
        uid, name = source.identity.uid, hypervisor_name(target.identity)
        snapshot = await take(subject, uid)
        await clone(subject, source, target, LINKED, snapshot.id)
        assert [each.uid for each in await tree(subject, uid)] == [snapshot.uid]
        with pytest.raises(SnapshotInUseError, match=name):
            await remove(subject, uid, snapshot.uid)
        with pytest.raises(SnapshotInUseError, match=name):
            await subject.delete(source.identity)
        assert [each.uid for each in await tree(subject, uid)] == [snapshot.uid]
        assert (await subject.settle(target)).pending == []
        await subject.delete(target.identity)
        await remove(subject, uid, snapshot.uid)
        await subject.delete(source.identity)
        for spec in (source, target):
            assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_P8_a_linked_clone_of_now_has_a_snapshot_of_its_own(self, subject: Subject) -> None:
        """Nothing writes under it; and the snapshot that nobody declared goes with the clone."""
        source, target = await source_for(subject, LINKED, power=ON), subject.spec()
        uid = source.identity.uid
        await clone(subject, source, target, LINKED)
        assert [each.uid for each in await tree(subject, uid)] == [target.identity.uid]
        with pytest.raises(SnapshotInUseError):
            await subject.delete(source.identity)
        await subject.delete(target.identity)
        assert await tree(subject, uid) == []
        assert await subject.world.leftovers(target.identity.uid) == []

    # -- instant ---------------------------------------------------------------------------------------------------

    async def test_an_instant_clone_runs_from_the_start(self, subject: Subject) -> None:
        source, target = await source_for(subject, INSTANT, power=ON), subject.spec(power=ON)
        original = await subject.get(source.identity.uid)
        machine = await clone(subject, source, target, INSTANT)
        assert (machine.power, machine.identity, machine.owned) == (ON, target.identity, True)
        assert machine.nics[0].mac != original.nics[0].mac
        assert await clone(subject, source, target, INSTANT) == machine
        assert await subject.world.count(target.identity.uid) == 1
        assert (await subject.settle(target)).pending == []
        await subject.delete(target.identity)
        assert await subject.world.leftovers(target.identity.uid) == []

    async def test_an_instant_clone_of_a_machine_that_is_off_is_refused(self, subject: Subject) -> None:
        source, target = await source_for(subject, INSTANT), subject.spec()
        with pytest.raises(WrongPowerStateError):
            await clone(subject, source, target, INSTANT)
        assert await subject.world.leftovers(target.identity.uid) == []
