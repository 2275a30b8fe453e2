"""The fake's clones: a copy of a machine as it is, as it was at a snapshot, or standing on one."""

from __future__ import annotations

import copy

from common import faults, v1
from common.errors import NameConflictError, WrongPowerStateError

from providerkit.driver import Progress
from providerkit.planner import (
    ADOPTED_SETTING,
    BOOT_DATA_SETTING,
    DESCRIPTION_SETTING,
    boot_data_digest,
    hypervisor_name,
)

from . import hardware
from .hardware import OFF, ON
from .shelves import Volume
from .snapshots import Snapshots
from .world import FakeHypervisor, Taken

CLONE_VOLUMES = faults.declare("fake.clone.volumes", "the volumes of a clone are there, the machine is not")


class Clones:
    """Copies within one world; whose the source is, the driver has looked at."""

    def __init__(self, world: FakeHypervisor, snapshots: Snapshots) -> None:
        self._world = world
        self._snapshots = snapshots

    async def clone(self, key: str, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """Copy the machine under `key` under the target's identity; interrupted and repeated, it goes on."""
        target = request.target or v1.MachineSpec()
        assert target.identity is not None
        uid, name = target.identity.uid, hypervisor_name(target.identity)
        doing = f"clone machine {key} to {name}"
        self._refuse_taken(doing, name)
        running = request.kind is v1.CloneKind.INSTANT
        if running and self._world.machines[key].power is not ON:
            raise WrongPowerStateError(f"{doing}: an instant clone is made of a machine that runs")
        base = self._base(key, uid, name, request)
        source = base.machine if base is not None else self._world.machines[key]
        contents = base.volumes if base is not None else [self._world.volumes[disk.id] for disk in source.disks]
        linked = base.told.id if base is not None and request.kind is v1.CloneKind.LINKED else ""
        names = _disk_names(source, target)
        for index, (disk, content) in enumerate(zip(source.disks, contents, strict=True)):
            progress(index / max(1, len(contents)), f"copying disk {disk.name}")
            made = f"{uid}/{names[index]}"
            if made not in self._world.volumes:
                self._world.volumes[made] = Volume(
                    made, uid, names[index], content.size_bytes, content.image_id, base=linked, content=content.content
                )
                self._world.save()
            await self._world.enter("copy_disk")
        await faults.point(CLONE_VOLUMES)
        self._refuse_taken(doing, name)
        self._world.machines[uid] = self._copy(source, target, names, running=running)
        self._world.changed(uid)

    def _base(self, key: str, uid: str, name: str, request: v1.CloneMachineRequest) -> Taken | None:
        """What is copied, if not the machine as it is now. A linked clone needs a snapshot: nothing may write under it.

        One that nobody named is taken, carries the clone's UID and goes with the clone.
        """
        if request.source_snapshot_id:
            return self._snapshots.get(key, request.source_snapshot_id)
        if request.kind is not v1.CloneKind.LINKED:
            return None
        for taken in self._world.snapshots.get(key, []):
            if taken.told.uid == uid:
                return taken
        return self._snapshots.take(key, uid, f"base of {name}", f"the linked clone {name} stands on it")

    def drop_base(self, uid: str) -> None:
        """The clone is gone: so goes the snapshot that was taken for it alone."""
        for key, tree in list(self._world.snapshots.items()):
            going = [taken for taken in tree if taken.told.uid == uid]
            if going:
                self._snapshots.remove(key, going)

    def _refuse_taken(self, doing: str, name: str) -> None:
        for machine in self._world.machines.values():
            if machine.hypervisor_name == name:
                raise NameConflictError(f"{doing}: the name belongs to {machine.id}, which is not the clone")

    def _copy(self, source: v1.Machine, target: v1.MachineSpec, names: list[str], *, running: bool) -> v1.Machine:
        assert target.identity is not None
        uid, machine = target.identity.uid, copy.deepcopy(source)
        machine.identity, machine.id = copy.deepcopy(target.identity), uid
        machine.hypervisor_name = hypervisor_name(target.identity)
        machine.power, machine.power_reason, machine.addresses, machine.guest = OFF, "", [], None
        machine.tags, machine.create_time = sorted(set(target.tags)), self._world.clock.now()
        machine.description = target.description or machine.description
        machine.settings.pop(ADOPTED_SETTING, None)
        if target.description:
            machine.settings[DESCRIPTION_SETTING] = "true"
        machine.pending_restart = []
        for disk, name in zip(machine.disks, names, strict=True):
            disk.name, disk.id, disk.owned = name, f"{uid}/{name}", True
        if target.cpu is not None:
            hardware.set_cpu(machine, target.cpu)
        if target.memory is not None:
            hardware.set_memory(machine, target.memory)
        hardware.set_tuning(machine, target)
        digest = boot_data_digest(target)
        machine.settings.pop(BOOT_DATA_SETTING, None)
        if digest:
            machine.settings[BOOT_DATA_SETTING] = digest
        nics = target.nics or [
            v1.NicSpec(name=nic.name, model=nic.model, network=copy.deepcopy(nic.network)) for nic in source.nics
        ]
        machine.nics = []
        for nic in nics:
            hardware.plug_nic(machine, nic)
        if running:
            hardware.boot(machine)
        return machine


def _disk_names(source: v1.Machine, target: v1.MachineSpec) -> list[str]:
    """Names of the copies: the source's; its first disk takes the name of the target's first, as an image's does."""
    names = [disk.name or disk.id.rpartition("/")[2] for disk in source.disks]
    if names and target.disks and target.disks[0].name not in names:
        names[0] = target.disks[0].name
    return names
