"""What every provider owes its callers about machines that others made."""

from __future__ import annotations

import copy

import pytest
from common import v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
)
from providerkit.planner import ADOPTED_SETTING

from .subject import OFF, Subject


async def foreign(subject: Subject, name: str = "somebodys") -> v1.Machine:
    """A machine that is not ours, as the list tells it, where the provider adopts any."""
    if not (await subject.can()).adoption:
        pytest.skip("not declared; the capability contract asks for the refusal")
    await subject.world.make_foreign(name)
    return next(each for each in await subject.every(include_foreign=True) if each.hypervisor_name == name)


async def adopt(subject: Subject, machine_id: str, identity: v1.MachineIdentity) -> v1.Machine:
    """One call."""
    request = v1.AdoptMachineRequest(identity=identity, id=machine_id)
    answer = await subject.machines.adopt_machine(request, timeout=subject.pace.call)
    machine: v1.Machine = answer.machine
    return machine


async def told(subject: Subject, machine_id: str) -> v1.Machine:
    """A machine by its own id, whoever's it is."""
    return next(each for each in await subject.every(include_foreign=True) if each.id == machine_id)


def bare(machine: v1.Machine) -> v1.Machine:
    """Without what the stamp adds."""
    plain = copy.deepcopy(machine)
    plain.identity, plain.owned, plain.token, plain.create_time = None, False, "", None
    plain.settings.pop(ADOPTED_SETTING, None)
    for device in (*plain.disks, *plain.nics):
        device.name = ""
    return plain


class AdoptionContract:
    """The stamp comes, the stamp goes; what the machine is was somebody else's and stays."""

    async def test_a_foreign_machine_is_told_only_where_it_is_asked_for(self, subject: Subject) -> None:
        machine = await foreign(subject)
        assert (machine.owned, machine.identity) == (False, None)
        assert machine.id not in {each.id for each in await subject.every()}

    async def test_a_foreign_machine_is_adopted_as_it_is(self, subject: Subject) -> None:
        before, identity = await foreign(subject), subject.identity("taken-over")
        machine = await adopt(subject, before.id, identity)
        assert (machine.identity, machine.owned, machine.id) == (identity, True, before.id)
        assert bare(machine) == bare(before)
        assert len({disk.name for disk in machine.disks} - {""}) == len(machine.disks)
        assert len({nic.name for nic in machine.nics} - {""}) == len(machine.nics)
        assert not any(disk.owned for disk in machine.disks)
        assert await subject.get(identity.uid) == machine
        assert [each.id for each in await subject.every()] == [before.id]

    async def test_adopt_twice_is_once(self, subject: Subject) -> None:
        before, identity = await foreign(subject), subject.identity()
        first = await adopt(subject, before.id, identity)
        assert await adopt(subject, before.id, identity) == first
        await subject.restart()
        assert await adopt(subject, before.id, identity) == first
        assert await subject.world.count(identity.uid) == 1

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_a_lost_reply_may_be_retried(self, subject: Subject, when: str) -> None:
        before, identity = await foreign(subject), subject.identity()
        subject.faults.raises(f"machines.adopt.{when}")
        with pytest.raises(HypervisorUnavailableError):
            await adopt(subject, before.id, identity)
        assert (await adopt(subject, before.id, identity)).owned

    async def test_a_machine_of_another_installation_is_refused(self, subject: Subject) -> None:
        await foreign(subject)
        theirs = await subject.world.make_of_others("theirs")
        before = await subject.world.fingerprint(theirs)
        identity = subject.identity()
        with pytest.raises(ForeignMachineError):
            await adopt(subject, theirs, identity)
        assert await subject.world.fingerprint(theirs) == before
        with pytest.raises(MachineNotFoundError):
            await subject.get(identity.uid)

    async def test_one_machine_has_one_identity(self, subject: Subject) -> None:
        """Neither two identities for one machine, nor two machines for one identity."""
        one, other = await foreign(subject, "one"), await foreign(subject, "other")
        identity = subject.identity()
        machine = await adopt(subject, one.id, identity)
        with pytest.raises(ForeignMachineError):
            await adopt(subject, one.id, subject.identity())
        with pytest.raises(NameConflictError):
            await adopt(subject, other.id, identity)
        assert await subject.get(identity.uid) == machine
        assert bare(await told(subject, other.id)) == bare(other)

    async def test_what_is_not_there_is_not_adopted(self, subject: Subject) -> None:
        await foreign(subject)
        identity = subject.identity()
        with pytest.raises(MachineNotFoundError):
            await adopt(subject, "no-such-machine", identity)
        with pytest.raises(MachineNotFoundError):
            await subject.get(identity.uid)

    async def test_an_adopted_machine_is_managed_like_any_other(self, subject: Subject) -> None:
        before, identity = await foreign(subject), subject.identity()
        machine = await adopt(subject, before.id, identity)
        spec = v1.MachineSpec(
            identity=identity,
            cpu=v1.CpuSpec(count=machine.cpu.count + 1),
            disks=[*_as_they_are(machine), v1.DiskSpec(name="extra", size_bytes=subject.traits.disk_bytes)],
            power=v1.PowerSpec(state=OFF),
        )
        settled = await subject.settle(spec, must_exist=True)
        assert settled.pending == []
        assert (settled.machine.power, settled.machine.cpu.count) == (OFF, machine.cpu.count + 1)
        assert [disk.owned for disk in settled.machine.disks] == [*(False for _ in machine.disks), True]
        assert settled.machine.id == before.id
        assert (settled.machine.nics, settled.machine.description) == (machine.nics, machine.description)

    async def test_retained_it_is_as_it_was(self, subject: Subject) -> None:
        before, identity = await foreign(subject), subject.identity()
        await adopt(subject, before.id, identity)
        for _ in range(2):
            await subject.delete(identity, retain=True)
        assert bare(await told(subject, before.id)) == bare(before)
        assert not (await told(subject, before.id)).owned
        assert await subject.every() == []
        again = subject.identity()
        assert (await adopt(subject, before.id, again)).identity == again

    async def test_deleted_it_leaves_the_disks_that_others_made(self, subject: Subject) -> None:
        before, identity = await foreign(subject), subject.identity()
        machine = await adopt(subject, before.id, identity)
        spec = v1.MachineSpec(
            identity=identity,
            disks=[*_as_they_are(machine), v1.DiskSpec(name="extra", size_bytes=subject.traits.disk_bytes)],
        )
        extra = (await subject.settle(spec)).machine.disks[-1]
        await subject.delete(identity)
        with pytest.raises(MachineNotFoundError):
            await subject.get(identity.uid)
        assert await subject.world.leftovers(identity.uid) == []
        assert before.disks
        assert all([await subject.world.has_disk(disk.id) for disk in before.disks])
        assert not await subject.world.has_disk(extra.id)

    async def test_a_template_is_no_machine(self, subject: Subject) -> None:
        """Machines are made of it; it would not even start."""
        await foreign(subject)
        identity = subject.identity("template")
        template = await subject.world.make_template("golden")
        before = await subject.world.fingerprint(template)
        with pytest.raises(NotSupportedError):
            await adopt(subject, template, identity)
        assert await subject.world.fingerprint(template) == before
        with pytest.raises(MachineNotFoundError):
            await subject.get(identity.uid)


def _as_they_are(machine: v1.Machine) -> list[v1.DiskSpec]:
    return [v1.DiskSpec(name=disk.name, size_bytes=disk.size_bytes) for disk in machine.disks]
