"""The fake's adoption: a foreign machine gets our stamp, and may lose it again, and nothing else of it changes."""

from __future__ import annotations

import copy

from common import faults, v1
from common.errors import ForeignMachineError, MachineNotFoundError

from providerkit.planner import ADOPTED_SETTING

from . import hardware
from .world import FakeHypervisor

ADOPTED = faults.declare("fake.adopted", "a foreign machine carries our stamp, and nobody knows yet")


async def adopt(world: FakeHypervisor, machine_id: str, identity: v1.MachineIdentity) -> None:
    """Stamp it, and name its disks and NICs in the order of its devices. Its volumes stay nobody's."""
    key = next((key for key, machine in world.machines.items() if machine.id == machine_id), None)
    if key is None:
        raise MachineNotFoundError(f"adopt machine {machine_id}: there is none with this id")
    machine = world.machines[key]
    if machine.identity is not None:
        if machine.identity == identity:
            return
        raise ForeignMachineError(f"adopt machine {machine_id}: it carries the stamp of {machine.identity.owner}")
    if identity.uid in world.machines and key != identity.uid:
        raise ForeignMachineError(f"adopt machine {machine_id}: another machine has the UID {identity.uid}")
    machine.identity = copy.deepcopy(identity)
    for index, disk in enumerate(machine.disks):
        disk.name, disk.owned = f"disk{index}", False
    for index, nic in enumerate(machine.nics):
        nic.name = f"nic{index}"
    hardware.record(machine, ADOPTED_SETTING, "true")
    world.rekey(key, identity.uid)
    world.changed(identity.uid)
    await faults.point(ADOPTED)


def release(world: FakeHypervisor, key: str) -> None:
    """Take the stamp off, with the names, which were part of it."""
    machine = world.machines[key]
    machine.identity = None
    for disk in machine.disks:
        disk.name, disk.owned = "", False
    for nic in machine.nics:
        nic.name = ""
    machine.settings = {}
    for volume in world.volumes.values():
        if volume.uid == key:
            volume.uid = ""
    world.rekey(key, machine.id)
    world.changed(machine.id)
