"""What every provider owes its callers about snapshots."""

from __future__ import annotations

import asyncio
import copy
import uuid

import pytest
from common import status, v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    ProviderError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    WrongPowerStateError,
)

from .subject import MIB, OFF, ON, Subject


async def made(subject: Subject, *, power: v1.PowerState = OFF) -> v1.MachineSpec:
    """A machine, where the provider has snapshots at all."""
    if not (await subject.can()).snapshots:
        pytest.skip("not declared; the capability contract asks for the refusal")
    spec = subject.spec(power=power)
    await subject.settle(spec)
    return spec


async def take(
    subject: Subject, machine_uid: str, name: str = "before", *, uid: str = "", **fields: object
) -> v1.Snapshot:
    """Take a snapshot to the end, as a controller does."""
    request = v1.CreateSnapshotRequest(
        machine_uid=machine_uid, uid=uid or str(uuid.uuid4()), name=name, description="for a test", **fields
    )  # type: ignore[arg-type]  # fields of the message
    async with asyncio.timeout(subject.pace.settle + subject.pace.call):
        while True:
            answer = await subject.snapshots.create_snapshot(request, timeout=subject.pace.call)
            if answer.snapshot is not None:
                snapshot: v1.Snapshot = answer.snapshot
                return snapshot
            await _followed(subject, answer.operation)


async def remove(subject: Subject, machine_uid: str, uid: str, *, children: bool = False) -> None:
    """Remove a snapshot to the end."""
    request = v1.DeleteSnapshotRequest(machine_uid=machine_uid, uid=uid, children=children)
    async with asyncio.timeout(subject.pace.settle + subject.pace.call):
        while True:
            answer = await subject.snapshots.delete_snapshot(request, timeout=subject.pace.call)
            if answer.gone:
                return
            await _followed(subject, answer.operation)


async def revert(subject: Subject, machine_uid: str, uid: str) -> v1.Machine:
    """Put the machine back, and look at it."""
    request = v1.RevertSnapshotRequest(machine_uid=machine_uid, uid=uid)
    answer = await subject.snapshots.revert_snapshot(request, timeout=subject.pace.call)
    if answer.operation is not None:
        await _followed(subject, answer.operation)
    return await subject.get(machine_uid)


async def tree(subject: Subject, machine_uid: str) -> list[v1.Snapshot]:
    """All snapshots of a machine."""
    request = v1.ListSnapshotsRequest(machine_uid=machine_uid)
    answer = await subject.snapshots.list_snapshots(request, timeout=subject.pace.call)
    return list(answer.snapshots)


async def _followed(subject: Subject, operation: v1.Operation) -> None:
    ended = await subject.ended(operation)
    if ended.error is not None:
        raise status.from_wire(ended.error)


async def _refused(subject: Subject, kind: type[ProviderError], machine_uid: str, **fields: object) -> None:
    """It is refused, and nothing of it is there."""
    before = await tree(subject, machine_uid)
    with pytest.raises(kind):
        await take(subject, machine_uid, "refused", **fields)
    assert await tree(subject, machine_uid) == before


class SnapshotContract:
    """Taken once, told as they are, brought back whole, removed alone."""

    # -- exactly one snapshot --------------------------------------------------------------------------------------

    async def test_create_twice_is_one(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        first = await take(subject, uid, "before upgrade")
        assert (first.name, first.description, first.parent_id, first.current) == (
            "before upgrade", "for a test", "", True,
        )  # fmt: skip
        assert first.create_time is not None
        assert (first.memory, first.quiesced) == (False, False)
        assert await take(subject, uid, "before upgrade", uid=first.uid) == first
        assert await tree(subject, uid) == [first]

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_W48_a_lost_reply_may_be_retried(self, subject: Subject, when: str) -> None:
        """The call fails where the caller learns nothing of what was done; the repetition makes it one."""
        uid, mark = (await made(subject)).identity.uid, str(uuid.uuid4())
        subject.faults.raises(f"machines.create-snapshot.{when}")
        with pytest.raises(HypervisorUnavailableError):
            await take(subject, uid, uid=mark)
        snapshot = await take(subject, uid, uid=mark)
        assert await tree(subject, uid) == [snapshot]

    async def test_W48_a_restarted_server_finds_its_snapshots(self, subject: Subject) -> None:
        """Nothing is remembered but what the hypervisor holds."""
        uid = (await made(subject)).identity.uid
        before = await take(subject, uid)
        await subject.restart()
        assert await take(subject, uid, uid=before.uid) == before
        assert await tree(subject, uid) == [before]

    async def test_snapshots_asked_for_together_are_all_taken(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        async with asyncio.TaskGroup() as group:
            for index in range(3):
                group.create_task(take(subject, uid, f"s{index}"))
        assert sorted(each.name for each in await tree(subject, uid)) == ["s0", "s1", "s2"]

    async def test_W43_only_what_is_there_is_told(self, subject: Subject) -> None:
        """One that failed, that is gone, or that never was, is in no list and can be reverted to by nobody."""
        uid, mark = (await made(subject)).identity.uid, str(uuid.uuid4())
        subject.faults.raises("machines.create-snapshot.before")
        with pytest.raises(HypervisorUnavailableError):
            await take(subject, uid, uid=mark)
        assert await tree(subject, uid) == []
        with pytest.raises(SnapshotNotFoundError):
            await revert(subject, uid, mark)
        with pytest.raises(MachineNotFoundError):
            await tree(subject, str(uuid.uuid4()))
        with pytest.raises(MachineNotFoundError):
            await take(subject, str(uuid.uuid4()))

    async def test_an_identity_and_a_name_are_required(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        await _refused(subject, InvalidSpecError, uid, uid="no uuid")
        with pytest.raises(InvalidSpecError, match="name"):
            await take(subject, uid, "a\nb")
        assert await tree(subject, uid) == []

    async def test_a_foreign_machine_is_not_snapshotted(self, subject: Subject) -> None:
        await made(subject)
        uid = str(uuid.uuid4())
        foreign = await subject.world.make_foreign("somebodys", uid)
        before = await subject.world.fingerprint(foreign)
        with pytest.raises(ForeignMachineError):
            await take(subject, uid)
        assert await subject.world.fingerprint(foreign) == before

    # -- the tree --------------------------------------------------------------------------------------------------

    async def test_the_tree_is_told_with_parents_first(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        if not (await subject.can()).snapshot_revert:
            pytest.skip("without a revert there are no branches")
        one = await take(subject, uid, "one")
        two = await take(subject, uid, "two")
        await revert(subject, uid, one.uid)
        three = await take(subject, uid, "three")
        found = await tree(subject, uid)
        assert {each.name: each.parent_id for each in found} == {"one": "", "two": one.id, "three": one.id}
        ids = [each.id for each in found]
        assert all(not each.parent_id or ids.index(each.parent_id) < ids.index(each.id) for each in found)
        assert [each.uid for each in found if each.current] == [three.uid]
        assert two.id != three.id

    async def test_delete_without_children_moves_them_up(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        one, two, three = [await take(subject, uid, name) for name in ("one", "two", "three")]
        await remove(subject, uid, two.uid)
        assert {each.uid: each.parent_id for each in await tree(subject, uid)} == {one.uid: "", three.uid: one.id}
        await remove(subject, uid, one.uid)
        assert {each.uid: each.parent_id for each in await tree(subject, uid)} == {three.uid: ""}
        assert [each.current for each in await tree(subject, uid)] == [True]

    async def test_delete_with_children_takes_them_all(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        one, two, _ = [await take(subject, uid, name) for name in ("one", "two", "three")]
        await remove(subject, uid, two.uid, children=True)
        left = await tree(subject, uid)
        assert [(each.uid, each.current) for each in left] == [(one.uid, True)]

    async def test_delete_of_nothing_succeeds(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        await remove(subject, uid, str(uuid.uuid4()))
        await remove(subject, str(uuid.uuid4()), str(uuid.uuid4()))

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_W46_a_deletion_that_fails_says_so(self, subject: Subject, when: str) -> None:
        """And the repetition finishes it."""
        uid = (await made(subject)).identity.uid
        snapshot = await take(subject, uid)
        subject.faults.raises(f"machines.delete-snapshot.{when}")
        with pytest.raises(HypervisorUnavailableError):
            await remove(subject, uid, snapshot.uid)
        assert await tree(subject, uid) == ([snapshot] if when == "before" else [])
        await remove(subject, uid, snapshot.uid)
        assert await tree(subject, uid) == []

    async def test_foreign_snapshots_are_told_and_left_alone(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        ours = await take(subject, uid, "ours")
        await subject.world.take_foreign_snapshot(uid, "by-hand")
        foreign = next(each for each in await tree(subject, uid) if each.name == "by-hand")
        assert (foreign.uid, foreign.parent_id, foreign.current) == ("", ours.id, True)
        with pytest.raises(SnapshotInUseError, match="by-hand"):
            await remove(subject, uid, ours.uid, children=True)
        assert len(await tree(subject, uid)) == 2
        await remove(subject, uid, ours.uid)
        assert [(each.name, each.parent_id) for each in await tree(subject, uid)] == [("by-hand", "")]

    # -- memory and file systems -----------------------------------------------------------------------------------

    async def test_memory_comes_back_with_its_power(self, subject: Subject) -> None:
        spec = await made(subject, power=ON)
        uid = spec.identity.uid
        if not (await subject.can()).memory_snapshots:
            await _refused(subject, NotSupportedError, uid, memory=True)
            return
        snapshot = await take(subject, uid, memory=True)
        assert snapshot.memory
        spec.power.state = OFF
        await subject.settle(spec)
        if (await subject.can()).snapshot_revert:
            assert (await revert(subject, uid, snapshot.uid)).power is ON

    async def test_memory_of_a_machine_that_is_off_is_refused(self, subject: Subject) -> None:
        uid = (await made(subject)).identity.uid
        wanted = WrongPowerStateError if (await subject.can()).memory_snapshots else NotSupportedError
        await _refused(subject, wanted, uid, memory=True)

    async def test_quiesce_is_never_downgraded(self, subject: Subject) -> None:
        """Frozen, or refused; a machine that is off has nothing to freeze, and its snapshot says so."""
        spec = await made(subject, power=ON)
        uid = spec.identity.uid
        if not (await subject.can()).quiesced_snapshots:
            await _refused(subject, NotSupportedError, uid, quiesce=True)
            return
        await subject.world.agent(uid, running=False)
        await _refused(subject, WrongPowerStateError, uid, quiesce=True)
        await subject.world.agent(uid, running=True)
        assert (await take(subject, uid, quiesce=True)).quiesced
        spec.power.state = OFF
        await subject.settle(spec)
        assert not (await take(subject, uid, quiesce=True)).quiesced

    # -- back to it ------------------------------------------------------------------------------------------------

    async def test_W47_P14_a_revert_brings_the_hardware_back(self, subject: Subject) -> None:
        """A snapshot that was just taken in the usual way can be gone back to, and the machine tells what is true."""
        spec = await _revertible(subject, power=ON)
        uid = spec.identity.uid
        snapshot = await take(subject, uid)
        later = await _changed(subject, spec)
        back = await revert(subject, uid, snapshot.uid)
        assert back.power is OFF
        assert back.cpu.count == 1
        assert [disk.name for disk in back.disks] == ["root"]
        assert [nic.name for nic in back.nics] == ["net0"]
        assert [each.current for each in await tree(subject, uid)] == [True]
        assert back == next(each for each in await subject.every() if each.identity.uid == uid)
        assert {change.field.partition("[")[0] for change in (await subject.plan(later)).changes} >= {
            "cpu.count", "disks", "nics", "power.state",
        }  # fmt: skip

    async def test_a_revert_keeps_who_the_machine_is(self, subject: Subject) -> None:
        """Identity, creation and tags are no hardware. An old record of them must not come back with the old disks."""
        spec = await _revertible(subject)
        before = await subject.get(spec.identity.uid)
        snapshot = await take(subject, spec.identity.uid)
        later = await _changed(subject, spec)
        now = await subject.get(spec.identity.uid)
        back = await revert(subject, spec.identity.uid, snapshot.uid)
        assert (back.identity, back.owned, back.id) == (before.identity, True, before.id)
        assert (back.create_time, back.hypervisor_name) == (before.create_time, before.hypervisor_name)
        assert back.tags == now.tags
        assert later.tags == back.tags or not (await subject.can()).tags

    async def test_an_apply_after_a_revert_makes_it_right_again(self, subject: Subject) -> None:
        """What it got since is plugged in anew, once; and all of it goes with the machine."""
        spec = await _revertible(subject)
        uid = spec.identity.uid
        snapshot = await take(subject, uid)
        later = await _changed(subject, spec)
        wanted = await subject.get(uid)
        await revert(subject, uid, snapshot.uid)
        again = (await subject.settle(later)).machine
        assert [disk.name for disk in again.disks] == [disk.name for disk in wanted.disks]
        assert all(disk.owned for disk in again.disks)
        assert [(nic.name, nic.mac) for nic in again.nics] == [(nic.name, nic.mac) for nic in wanted.nics]
        assert (again.cpu, again.tags) == (wanted.cpu, wanted.tags)
        settled = await subject.settle(later)
        assert (settled.applied, settled.pending) == ([], [])
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(uid) == []

    async def test_a_disk_that_was_unplugged_since_is_back(self, subject: Subject) -> None:
        spec = await _revertible(subject)
        uid, more = spec.identity.uid, copy.deepcopy(spec)
        more.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
        await subject.settle(more)
        snapshot = await take(subject, uid)
        assert len((await subject.settle(spec)).machine.disks) == 1
        back = await revert(subject, uid, snapshot.uid)
        assert [(disk.name, disk.owned) for disk in back.disks] == [("root", True), ("data", True)]
        assert (await subject.settle(more)).applied == []
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(uid) == []

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_a_revert_whose_reply_is_lost_may_be_retried(self, subject: Subject, when: str) -> None:
        spec = await _revertible(subject)
        uid = spec.identity.uid
        snapshot = await take(subject, uid)
        later = await _changed(subject, spec)
        subject.faults.raises(f"machines.revert-snapshot.{when}")
        with pytest.raises(HypervisorUnavailableError):
            await revert(subject, uid, snapshot.uid)
        for _ in range(2):
            assert [disk.name for disk in (await revert(subject, uid, snapshot.uid)).disks] == ["root"]
        settled = await subject.settle(later)
        assert [disk.name for disk in settled.machine.disks] == ["root", "data"]
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(uid) == []

    # -- what goes with it -----------------------------------------------------------------------------------------

    async def test_a_machine_with_snapshots_can_be_deleted(self, subject: Subject) -> None:
        spec = await made(subject, power=ON)
        uid = spec.identity.uid
        for name in ("one", "two"):
            await take(subject, uid, name)
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(uid) == []
        with pytest.raises(MachineNotFoundError):
            await tree(subject, uid)

    async def test_a_disk_with_snapshots_is_not_grown(self, subject: Subject) -> None:
        """Where it cannot be, the plan says why; the rest is done, and the growth once the snapshot is gone."""
        spec = await made(subject)
        uid = spec.identity.uid
        snapshot = await take(subject, uid, "blocking")
        spec.disks[0].size_bytes += 4 * MIB
        spec.cpu.count = 2
        if not (await subject.get(uid)).disks[0].fixed_size_reason:
            pytest.skip("this provider grows disks that have snapshots")
        answer = await subject.settle(spec)
        assert answer.machine.cpu.count == 2
        assert [(change.field, change.effect) for change in answer.pending] == [
            ("disks[root].size_bytes", v1.Effect.UNSUPPORTED)
        ]
        assert "blocking" in answer.pending[0].reasons[0].message
        await remove(subject, uid, snapshot.uid)
        grown = await subject.settle(spec)
        assert (grown.machine.disks[0].size_bytes, grown.pending) == (spec.disks[0].size_bytes, [])


async def _revertible(subject: Subject, *, power: v1.PowerState = OFF) -> v1.MachineSpec:
    spec = await made(subject, power=power)
    if not (await subject.can()).snapshot_revert:
        pytest.skip("not declared")
    return spec


async def _changed(subject: Subject, spec: v1.MachineSpec) -> v1.MachineSpec:
    """The machine gets more of everything; answers with the spec that says so."""
    later, can = copy.deepcopy(spec), await subject.can()
    later.cpu.count = 2
    later.disks.append(v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes))
    later.nics.append(v1.NicSpec(name="net1", network=copy.deepcopy(subject.traits.network)))
    if can.tags:
        later.tags = ["blue"]
    settled = await subject.settle(later, restart_policy=v1.RestartPolicy.ALLOWED)
    assert settled.pending == []
    return later
