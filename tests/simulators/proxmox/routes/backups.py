"""Guests made of backups, and what a backup holds."""

from __future__ import annotations

from simulators.proxmox import disks, guests
from simulators.proxmox.backups import extracted, unpacked
from simulators.proxmox.calls import Call, route
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import PveError, bad, refused
from simulators.proxmox.keys import net
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import NET
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest

from .qemu import check_destroy, every_volume, forget


@route("GET", "/nodes/{node}/vzdump/extractconfig")
async def config(call: Call) -> object:
    """The config file in an archive."""
    call.required("volume")
    volid = call.text("volume")
    call.require(f"/storage/{disks.storage_of(volid)}", "Datastore.Audit", "Datastore.AllocateSpace")
    archive = extracted(call.world, call.node, volid)
    return "".join(f"{key}: {value}\n" for key, value in sorted(archive.config.items()))


async def restore(call: Call, wanted: dict[str, str]) -> object:
    """Queue the making of a guest out of an archive; `wanted` is laid over the config that it holds."""
    world, node, vmid, volid = call.world, call.node, call.number("vmid"), call.text("archive")
    if call.flag("live-restore") and call.flag("unique"):
        raise bad(**{"live-restore": "cannot be used together with 'unique'"})
    call.require(f"/storage/{disks.storage_of(volid)}", "Datastore.Audit", "Datastore.AllocateSpace")
    world.storage(disks.storage_of(volid))
    storage = call.text("storage")
    if storage:
        call.require(f"/storage/{storage}", "Datastore.AllocateSpace")
        disks.check_storage(world, storage, node)
    text = f"unable to restore VM {vmid} - "
    try:
        async with world.locks.hold(vmid, world.pace.lock_create):
            old = overwritten(call, vmid)
            guest = old or Guest(vmid, node, obeys=world.obeys)
            guest.lock = "create"
            world.guests[vmid] = guest
            if pool := call.text("pool"):
                world.access.pool_of[vmid] = pool
    except PveError as error:
        raise refused(text + error.reason) from error

    async def worker(task: Task) -> None:
        async with world.locks.hold(vmid, log=task.log):
            await rebuild(call, task, guest, wanted)
        if call.flag("start"):
            task.log("Execute autostart")
            await world.tasks.wait(guests.begin_start(world, guest))

    return world.tasks.start(call.who, node, "qmrestore", vmid, worker)


def overwritten(call: Call, vmid: int) -> Guest | None:
    """The guest that the restored one replaces; only with `force`, and only one that is off and on this node."""
    old = call.world.guests.get(vmid)
    if old is None:
        return None
    if not call.flag("force") or old.node != call.node:
        raise refused(f"VM {vmid} already exists on node '{old.node}'")
    check_destroy(old)
    check_lock(old)
    return old


async def rebuild(call: Call, task: Task, guest: Guest, wanted: dict[str, str]) -> None:
    """Unpack the archive, then replace what was there; a failure leaves a new guest not at all, an old one locked.

    Raises:
        PveError: saying what went wrong.
    """
    world, volid = call.world, call.text("archive")
    made: list[str] = []
    before = every_volume(guest)
    try:
        archive = extracted(world, guest.node, volid)
        task.log(f"restore vma archive: {volid}")
        work = Work(world, guest.node, guest.vmid, task.log, task.spend)
        config = await unpacked(work, archive, call.text("storage"), made, unique=call.flag("unique"))
        for key, value in wanted.items():
            config[key] = net(value, world.mac()) if NET.fullmatch(key) else value
    except BaseException as error:
        for one in made:
            disks.free(world, guest.node, one)
        if not before:
            forget(world, guest)
        why = error.line if isinstance(error, PveError) else "received interrupt"
        raise refused(f"unable to restore VM {guest.vmid} - {why}") from error
    for one in before:
        disks.free(world, guest.node, one)
    guest.config, guest.snapshots, guest.parent, guest.vmstate = config, {}, "", ""
    guest.pending.clear()
    guest.dropped.clear()
    guest.lock = ""
