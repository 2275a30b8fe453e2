"""Snapshots: a tree of states, and the way back to one."""

from __future__ import annotations

from typing import Any

from simulators.proxmox import disks, guests
from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import refused
from simulators.proxmox.images import keep_snapshot
from simulators.proxmox.keys import told
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import drives, is_cdrom, number
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest, Snapshot, World

from .config import snapshot_config
from .qemu import AUDIT

SNAPSHOT = at("/vms/{vmid}", "VM.Snapshot")
ROLLBACK = at("/vms/{vmid}", "VM.Snapshot", "VM.Snapshot.Rollback")
READ = at("/vms/{vmid}", "VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit")
HERE = "current"
SAVED = 2_622_464  # bytes of memory that a guest without a system has
BASE = "/nodes/{node}/qemu/{vmid}/snapshot"


@route("GET", BASE, allowed=AUDIT)
async def listing(call: Call) -> object:
    """The tree, and where the guest is in it."""
    guest = call.guest
    rows: list[dict[str, Any]] = []
    for snapshot in guest.snapshots.values():
        row: dict[str, Any] = {
            "name": snapshot.name,
            "description": snapshot.description,
            "snaptime": snapshot.time,
            "vmstate": int(bool(snapshot.vmstate)),
        }
        row |= {"parent": snapshot.parent} if snapshot.parent else {}
        row |= {"snapstate": snapshot.state} if snapshot.state else {}
        rows.append(row)
    here: dict[str, Any] = {"name": HERE, "description": "You are here!", "running": int(guest.run is not None)}
    here |= {"digest": guest.digest} | ({"parent": guest.parent} if guest.parent else {})
    return [*rows, here]


@route("POST", BASE, allowed=SNAPSHOT)
async def create(call: Call) -> object:
    """Queue a snapshot; a used name the task tells."""
    call.required("snapname")
    name = call.text("snapname")
    if name == HERE:
        raise refused("unable to use snapshot name 'current' (reserved name)")

    async def worker(task: Task) -> None:
        await take(call, task, name)

    return call.world.tasks.start(call.who, call.node, "qmsnapshot", call.vmid, worker)


async def take(call: Call, task: Task, name: str) -> None:
    """Note the snapshot, save memory and disks without the file lock, then make it the parent."""
    world = call.world
    async with world.locks.hold(call.vmid, log=task.log):
        guest = call.guest
        check_lock(guest)
        if guest.template:
            raise refused("you can't take a snapshot if it's a template")
        if name in guest.snapshots:
            raise refused(f"snapshot name '{name}' already used")
        check_feature(world, guest)
        config = {k: value for k, value in guest.config.items() if not k.startswith("unused") and k != "description"}
        snapshot = Snapshot(name, config, guest.parent, state="prepare")
        snapshot.description = call.text("description").rstrip("\n")
        guest.snapshots[name] = snapshot
        guest.lock = "snapshot"
    try:
        await save(task, guest, snapshot, memory=call.flag("vmstate") and guest.run is not None)
        async with world.locks.hold(call.vmid, log=task.log):
            snapshot.state = ""
            guest.parent, guest.lock = name, ""
    except BaseException:
        task.log("snapshot create failed: starting cleanup")
        async with world.locks.hold(call.vmid, log=task.log):  # which fails as well when somebody keeps the lock
            drop(world, guest, snapshot)
            guest.lock = ""
        raise


def check_feature(world: World, guest: Guest) -> None:
    """Every disk has to be able to."""
    for drive in drives(guest.config).values():
        if is_cdrom(drive):
            continue
        volume = world.volume(drive["file"], guest.node)
        if volume is None or not disks.can_snapshot(world.storage(disks.storage_of(drive["file"])), volume):
            raise refused("snapshot feature is not available")


async def save(task: Task, guest: Guest, snapshot: Snapshot, *, memory: bool) -> None:
    """Memory first, then the disks."""
    world = task.world
    if memory:
        name = guest.config.get("vmstatestorage") or guests.state_storage(world, guest)
        work = Work(world, guest.node, guest.vmid, task.log, task.spend)
        size = (number(guest.config.get("memory", "512")) * 2 + 512) << 20
        volume = await disks.allocate(work, world.storage(name), size, "raw", name=f"state-{snapshot.name}")
        snapshot.vmstate = volume.volid
        snapshot.config |= guests.running_keys(guest)
        task.log(f"saving VM state and RAM using storage '{name}'")
        await task.spend(world.pace.vmstate)
        volume.used = SAVED
        if world.storage(name).files:
            volume.size = SAVED
        task.log("completed saving the VM state in 1s, saved 2.50 MiB")
    elif guest.run and guests.agent_enabled(guest) and not guest.agent:
        task.log("skipping guest filesystem freeze - agent configured but not running?")
    for key, drive in drives(snapshot.config).items():
        if is_cdrom(drive):
            continue
        task.log(f"snapshotting 'drive-{key}' ({drive['file']})")
        await task.spend(world.pace.snapshot)
        volume_now = world.volume(drive["file"], guest.node)
        if volume_now is None:
            raise refused(f"volume '{drive['file']}' does not exist")
        volume_now.snapshots[snapshot.name] = volume_now.size
        mounted = world.storage(disks.storage_of(drive["file"])).root is not None
        if mounted and volume_now.file is not None and volume_now.format == "qcow2":
            await keep_snapshot(volume_now.file, snapshot.name)  # for who reads the file itself


def drop(world: World, guest: Guest, snapshot: Snapshot) -> None:
    """Forget a snapshot: its children get its parent."""
    for volid in disks.volids(snapshot.config):
        volume = world.volume(volid, guest.node)
        if volume is not None:
            volume.snapshots.pop(snapshot.name, None)
    if snapshot.vmstate:
        disks.free(world, guest.node, snapshot.vmstate)
    guest.snapshots.pop(snapshot.name, None)
    for other in guest.snapshots.values():
        if other.parent == snapshot.name:
            other.parent = snapshot.parent
    if guest.parent == snapshot.name:
        guest.parent = snapshot.parent


def known(guest: Guest, name: str) -> Snapshot:
    """A snapshot by name."""
    if name not in guest.snapshots:
        raise refused(f"snapshot '{name}' does not exist")
    return guest.snapshots[name]


@route("GET", BASE + "/{snapname}")
async def index(call: Call) -> object:
    return indexed("config", "rollback")


@route("GET", BASE + "/{snapname}/config", allowed=READ)
async def read(call: Call) -> object:
    """The guest as it was; without a digest."""
    known(call.guest, call.path["snapname"])
    return told(snapshot_config(call.guest, call.path["snapname"]))


@route("PUT", BASE + "/{snapname}/config", allowed=SNAPSHOT)
async def describe(call: Call) -> object:
    """Change the description; nothing else of a snapshot can be."""
    async with call.world.locks.hold(call.vmid):
        check_lock(call.guest)
        snapshot = known(call.guest, call.path["snapname"])
        if call.has("description"):
            snapshot.description = call.text("description").rstrip("\n")
    return None


@route("DELETE", BASE + "/{snapname}", allowed=SNAPSHOT)
async def delete(call: Call) -> object:
    """Queue the end of a snapshot; its children are kept."""
    name = call.path["snapname"]

    async def worker(task: Task) -> None:
        world = call.world
        async with world.locks.hold(call.vmid, log=task.log):
            guest = call.guest
            check_lock(guest)
            snapshot = known(guest, name)
            snapshot.state, guest.lock = "delete", "snapshot-delete"
        # Whoever interrupts it here leaves the lock behind, as on a real one.
        await task.spend(world.pace.drop_snapshot)
        async with world.locks.hold(call.vmid, log=task.log):
            drop(world, guest, snapshot)
            guest.lock = ""

    return call.world.tasks.start(call.who, call.node, "qmdelsnapshot", call.vmid, worker)


@route("POST", BASE + "/{snapname}/rollback", allowed=ROLLBACK)
async def rollback(call: Call) -> object:
    """Queue the way back; a guest without saved memory ends stopped, unless `start` is given."""
    name = call.path["snapname"]

    async def worker(task: Task) -> None:
        world = call.world
        async with world.locks.hold(call.vmid, log=task.log):
            guest = call.guest
            snapshot = known(guest, name)
            if snapshot.state:
                raise refused(f"unable to rollback to incomplete snapshot (snapstate = {snapshot.state})")
            check_lock(guest)
            if guest.template:
                raise refused("you can't rollback if vm is a template")
            if guest.run:
                await guests.stop(task, guest)
            guest.lock = "rollback"
        await task.spend(world.pace.rollback)
        async with world.locks.hold(call.vmid, log=task.log):
            go_back(world, guest, snapshot)
            guest.lock = ""
        if snapshot.vmstate or call.flag("start"):
            async with world.locks.hold(call.vmid, log=task.log):
                await guests.start(task, guest)

    return call.world.tasks.start(call.who, call.node, "qmrollback", call.vmid, worker)


def go_back(world: World, guest: Guest, snapshot: Snapshot) -> None:
    """Config and disks as they were; the description stays, and the generation is new.

    Raises:
        PveError: a disk has lost the snapshot.
    """
    volumes = [world.volume(volid, guest.node) for volid in disks.volids(snapshot.config)]
    for volume in volumes:
        if volume is None:
            raise refused(f"can't rollback snapshot '{snapshot.name}': a volume is missing")
        volume.size = volume.snapshots.get(snapshot.name, volume.size)
    unused = {key: value for key, value in guest.config.items() if key.startswith("unused")}
    description = guest.config.get("description")
    lost = [volid for volid in disks.volids(guest.config) if volid not in disks.volids(snapshot.config)]
    guest.config = {key: value for key, value in snapshot.config.items() if key not in guests.RUNNING_KEYS}
    if description is not None:
        guest.config["description"] = description
    for volid in lost:
        if volid not in unused.values() and disks.owner(volid) == guest.vmid:
            unused[next(f"unused{n}" for n in range(256) if f"unused{n}" not in unused)] = volid
    guest.config |= {key: volid for key, volid in unused.items() if volid not in disks.volids(snapshot.config)}
    guest.config["vmgenid"] = world.uuid()
    guest.pending.clear()
    guest.dropped.clear()
    guest.parent = snapshot.name
