"""Guests of a node: listed, created, looked at, deleted."""

from __future__ import annotations

from simulators.proxmox import disks, guests
from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.errors import PveError, refused
from simulators.proxmox.ha import managed
from simulators.proxmox.locks import check_lock
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest, World

AUDIT = at("/vms/{vmid}", "VM.Audit")
ALLOCATE = at("/vms/{vmid}", "VM.Allocate")


@route("GET", "/nodes/{node}/qemu")
async def listing(call: Call) -> object:
    """Live, without lag; `full` asks each QEMU, and is the only list that tells paused ones apart."""
    full = call.flag("full")
    return [
        guests.row(guest, full=full) for guest in call.world.on(call.node) if call.may(f"/vms/{guest.vmid}", "VM.Audit")
    ]


@route("GET", "/nodes/{node}/qemu/{vmid}")
async def index(call: Call) -> object:
    return indexed("config", "pending", "status", "snapshot", "clone", "resize", "move_disk", "migrate", "agent")


@route("GET", "/nodes/{node}/qemu/{vmid}/status")
async def status_index(call: Call) -> object:
    return indexed("current", "start", "stop", "reset", "shutdown", "suspend", "resume", "reboot")


@route("GET", "/nodes/{node}/qemu/{vmid}/status/current", allowed=AUDIT)
async def current(call: Call) -> object:
    """The truth about one guest."""
    guest = call.guest
    told = guests.row(guest, full=True) | {"ha": managed(call)}
    return told | ({"agent": 1} if guests.agent_enabled(guest) else {})


def forget(world: World, guest: Guest) -> None:
    """The config is gone, and the VMID free."""
    if world.guests.get(guest.vmid) is guest:
        del world.guests[guest.vmid]
        world.access.pool_of.pop(guest.vmid, None)


@route("DELETE", "/nodes/{node}/qemu/{vmid}", allowed=ALLOCATE)
async def destroy(call: Call) -> object:
    """Queue the end of a guest and of the volumes its config names."""
    call.root_only("skiplock")
    guest = call.guest
    world, vmid = call.world, call.vmid
    if f"vm:{vmid}" in world.ha and not call.flag("purge"):
        raise refused(f"unable to remove VM {vmid} - used in HA resources and purge parameter not set.")
    check_destroy(guest)

    async def worker(task: Task) -> None:
        async with world.locks.hold(vmid, log=task.log):
            found = call.guest
            check_destroy(found)
            if not call.flag("skiplock"):
                check_lock(found)
            await tear_down(call, task, found)

    return world.tasks.start(call.who, call.node, "qmdestroy", vmid, worker)


def check_destroy(guest: Guest) -> None:
    if guest.protected:
        raise refused(f"can't remove VM {guest.vmid} - protection mode enabled")
    if guest.run is not None:
        raise refused(f"VM {guest.vmid} is running - destroy failed")


async def tear_down(call: Call, task: Task, guest: Guest) -> None:
    """Free the volumes, then forget the guest."""
    world, vmid = call.world, guest.vmid
    owned = [volid for volid in every_volume(guest) if disks.owner(volid) == vmid]
    if guest.template:
        disks.check_base_unused(world, owned, "base volume '{}' is still in use by linked cloned")
    await task.spend(world.pace.destroy)
    for volid in owned:
        try:
            if not disks.free(world, guest.node, volid):
                task.log(f"disk image '{volid.partition(':')[2]}' does not exist")
        except PveError as error:
            task.warn(f"Could not remove disk '{volid}', check manually: {error.reason}")
    if call.flag("destroy-unreferenced-disks"):
        for storage in world.storages.values():
            for volume in [v for v in storage.on(guest.node).values() if v.vmid == vmid and v.content == "images"]:
                disks.free(world, guest.node, volume.volid)
    if call.flag("purge"):
        task.log(f"purging VM {vmid} from related configurations..")
        world.ha.pop(f"vm:{vmid}", None)
    access = world.access
    access.grants = {grant for grant in access.grants if grant.path != f"/vms/{vmid}"}
    forget(world, guest)


def every_volume(guest: Guest) -> list[str]:
    """The volumes of a guest's config, of what is pending, of its snapshots, and with its memory."""
    found = disks.volids(guest.config) + disks.volids(guest.pending)
    for snapshot in guest.snapshots.values():
        found += disks.volids(snapshot.config) + [snapshot.vmstate] * bool(snapshot.vmstate)
    found += [guest.vmstate] * bool(guest.vmstate)
    return list(dict.fromkeys(found))
