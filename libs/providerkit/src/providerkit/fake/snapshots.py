"""The fake's snapshots: one tree per machine, with everything in it that a revert brings back."""

from __future__ import annotations

import copy
import uuid

from common import faults, v1
from common.errors import SnapshotInUseError, SnapshotNotFoundError, WrongPowerStateError

from .hardware import OFF, ON
from .world import FakeHypervisor, Taken

TAKEN = faults.declare("fake.snapshot.taken", "a snapshot is there, and nobody knows yet")
REMOVED = faults.declare("fake.snapshot.removed", "a snapshot is gone, and nobody knows yet")
REVERTED = faults.declare("fake.snapshot.reverted", "a machine is back at a snapshot, and nobody knows yet")


class Snapshots:
    """Of all machines of a world; whose a machine is, the driver has looked at."""

    def __init__(self, world: FakeHypervisor) -> None:
        self._world = world

    def of(self, key: str) -> list[v1.Snapshot]:
        """The tree of a machine."""
        return [copy.deepcopy(taken.told) for taken in self._tree(key)]

    async def create(self, key: str, request: v1.CreateSnapshotRequest) -> v1.Snapshot:
        """Take one, unless it is there."""
        known = self._find(key, request.uid)
        if known is None:
            self._check(key, request)
            known = self.take(
                key, request.uid, request.name, request.description, memory=request.memory, quiesced=request.quiesce
            )
            await faults.point(TAKEN)
        return copy.deepcopy(known.told)

    def _check(self, key: str, request: v1.CreateSnapshotRequest) -> None:
        machine, doing = self._world.machines[key], f"snapshot {request.name} of machine {key}"
        if request.memory and machine.power is OFF:
            raise WrongPowerStateError(f"{doing}: it is off, there is no memory to keep")
        agent = machine.power is ON and machine.guest is not None and machine.guest.agent_running
        if request.quiesce and machine.power is not OFF and not agent:
            raise WrongPowerStateError(f"{doing}: no agent runs in the guest that could freeze its file systems")

    def take(
        self, key: str, uid: str, name: str, description: str = "", *, memory: bool = False, quiesced: bool = False
    ) -> Taken:
        """Take one of the state of now."""
        parent = next((each.told.id for each in self._tree(key) if each.told.current), "")
        told = v1.Snapshot(
            id=f"snapshot-{uuid.uuid4()}", uid=uid, name=name, description=description, parent_id=parent,
            memory=memory, quiesced=quiesced and self._world.machines[key].power is ON,
            create_time=self._world.clock.now(),
        )  # fmt: skip
        return self._world.put_snapshot(key, told)

    async def delete(self, key: str, uid: str, *, children: bool) -> None:
        """Remove one, with its children or without: then they move up."""
        taken = self._find(key, uid)
        if taken is None:
            return
        going = [taken, *self._below(key, taken)] if children else [taken]
        self._refuse_used(f"delete snapshot {taken.told.name} of machine {key}", going)
        foreign = [each.told.name for each in going if not each.told.uid]
        if foreign:
            raise SnapshotInUseError(
                f"delete snapshot {taken.told.name} of machine {key}: snapshots that are not ours stand on it: "
                + ", ".join(foreign)
            )
        self.remove(key, going)
        await faults.point(REMOVED)

    def remove(self, key: str, going: list[Taken]) -> None:
        """Take these out of the tree; what stands on them moves up to what they stood on."""
        parents = {each.told.id: each.told.parent_id for each in going}

        def above(snapshot_id: str) -> str:
            while snapshot_id in parents:
                snapshot_id = parents[snapshot_id]
            return snapshot_id

        current = next((each.told.id for each in self._tree(key) if each.told.current), "")
        self._world.snapshots[key] = [each for each in self._tree(key) if each.told.id not in parents]
        for each in self._tree(key):
            each.told.parent_id = above(each.told.parent_id)
        self._world.set_current(key, above(current))
        self._world.changed(key)

    async def revert(self, key: str, uid: str) -> None:
        """Hardware and disks as they were; who the machine is and what it is tagged with stay as they are now."""
        taken = self.get(key, uid)
        now, back = self._world.machines[key], copy.deepcopy(taken.machine)
        back.identity, back.tags, back.create_time = now.identity, now.tags, now.create_time
        if not taken.told.memory:
            back.power, back.power_reason, back.addresses, back.guest = OFF, "", [], None
        self._world.machines[key] = back
        for volume in taken.volumes:
            self._world.volumes[volume.id] = copy.copy(volume)
        self._world.set_current(key, taken.told.id)
        self._world.changed(key)
        await faults.point(REVERTED)

    def get(self, key: str, snapshot: str) -> Taken:
        """By its id or the UID of what declares it.

        Raises:
            SnapshotNotFoundError: there is none.
        """
        for taken in self._tree(key):
            if snapshot and snapshot in (taken.told.id, taken.told.uid):
                return taken
        raise SnapshotNotFoundError(f"machine {key} has no snapshot {snapshot}")

    def why_no_growth(self, key: str) -> str:
        """A disk with snapshots keeps its size: the content of old must fit."""
        names = ", ".join(each.told.name for each in self._tree(key))
        return f"the machine has snapshots: {names}" if names else ""

    def refuse_used_machine(self, doing: str, key: str) -> None:
        """Raises: SnapshotInUseError: linked clones stand on the machine."""
        self._refuse_used(doing, self._tree(key))

    def forget(self, key: str) -> None:
        """The machine is gone."""
        self._world.snapshots.pop(key, None)

    def _refuse_used(self, doing: str, going: list[Taken]) -> None:
        ids = {each.told.id for each in going}
        users = sorted({volume.uid for volume in self._world.volumes.values() if volume.base in ids})
        if users:
            machines = (self._world.machines.get(uid) for uid in users)
            names = [
                machine.hypervisor_name if machine is not None else uid
                for machine, uid in zip(machines, users, strict=True)
            ]
            raise SnapshotInUseError(f"{doing}: linked clones stand on it: {', '.join(names)}")

    def _below(self, key: str, top: Taken) -> list[Taken]:
        ids, found = {top.told.id}, []
        for each in self._tree(key):  # parents come first
            if each.told.parent_id in ids:
                ids.add(each.told.id)
                found.append(each)
        return found

    def _tree(self, key: str) -> list[Taken]:
        return self._world.snapshots.get(key, [])

    def _find(self, key: str, uid: str) -> Taken | None:
        return next((each for each in self._tree(key) if uid and each.told.uid == uid), None)
