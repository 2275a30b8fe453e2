"""What others do to the cluster behind our back, at once and without a task: people at the files, power failures."""

from __future__ import annotations

from collections.abc import Mapping

from . import disks
from .errors import refused
from .world import Guest, World


def guest_of(world: World, vmid: int) -> Guest:
    """A guest, wherever it is.

    Raises:
        PveError: there is none.
    """
    if vmid not in world.guests:
        raise refused(f"there is no guest {vmid}")
    return world.guests[vmid]


def edit(world: World, vmid: int, config: Mapping[str, str], drop: tuple[str, ...] = ()) -> None:
    """Change the config file; a new name or other tags are the usual case."""
    guest = guest_of(world, vmid)
    guest.config |= {key: str(value) for key, value in config.items()}
    for key in drop:
        guest.config.pop(key, None)


def remove(world: World, vmid: int) -> None:
    """The guest and its volumes are gone, and its VMID is free."""
    guest = guest_of(world, vmid)
    end(world, guest)
    for volid in disks.volids(guest.config):
        if disks.owner(volid) == vmid:
            disks.free(world, guest.node, volid)
    del world.guests[vmid]
    world.access.pool_of.pop(vmid, None)


def recreate(world: World, vmid: int, config: Mapping[str, str], node: str = "") -> Guest:
    """Another guest stands under the same VMID; cluster/resources shows the old one's name until its next round."""
    where = node or guest_of(world, vmid).node
    remove(world, vmid)
    return world.add_guest(vmid, where, {key: str(value) for key, value in config.items()})


def move(world: World, vmid: int, node: str) -> None:
    """The guest and its local volumes are on another node."""
    guest = guest_of(world, vmid)
    if node not in world.nodes:
        raise refused(f"no such cluster node '{node}'")
    for volid in disks.volids(guest.config):
        storage = world.storages[disks.storage_of(volid)]
        if not storage.shared and (volume := storage.on(guest.node).pop(volid, None)) is not None:
            storage.on(node)[volid] = volume
    guest.node = node


def end(world: World, guest: Guest) -> None:
    """The QEMU process is gone, and nobody cleans up after it."""
    if guest.run is not None:
        guest.run = None
        world.consoles.end(guest.vmid)
        if world.hypervisor is not None:
            world.hypervisor.ended(guest)


async def lose(world: World, node: str, *, power: bool = True) -> None:
    """A node is gone.

    Args:
        power: whether what ran on it ends with it; otherwise only the network is gone, and its guests run on unseen.
    """
    if node not in world.nodes:
        raise refused(f"no such cluster node '{node}'")
    world.nodes[node].online = False
    for task in [task for task in world.tasks.active() if task.node == node]:
        await world.tasks.cancel(task.upid)
    if power:
        for guest in world.on(node):
            end(world, guest)


def bring_back(world: World, node: str) -> None:
    """A lost node is there again."""
    if node not in world.nodes:
        raise refused(f"no such cluster node '{node}'")
    world.nodes[node].online = True
