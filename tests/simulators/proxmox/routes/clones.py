"""Clones: full copies, and linked ones that lie on a template's disks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulators.proxmox import disks
from simulators.proxmox.calls import Call, route
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import PveError, forbidden, refused
from simulators.proxmox.keys import bridge, renewed
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import NET, drives, is_cdrom, is_cloudinit, size_of
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest, Storage

from .qemu import forget

TEMPORARY = " qmclone temporary file"
LOCK_SECONDS = 1.0  # how long a clone waits for both of its locks
COMMAND = "/usr/bin/qemu-img convert -p -n"


@dataclass
class Plan:
    """What is cloned, as it was when the call came.

    Attributes:
        config: of the source, or of its snapshot.
    """

    source: Guest
    newid: int
    config: dict[str, str]
    full: bool
    storage: str
    format: str
    bwlimit: int = 0  # KiB/s; 0: as fast as it goes


def may_clone(call: Call) -> None:
    """The right on the source, and on the new id or the pool."""
    call.require(f"/vms/{call.vmid}", "VM.Clone")
    pool, newid = call.text("pool"), call.text("newid")
    if pool and pool not in call.world.pools:
        raise PveError(403, f"Permission check failed (pool '{pool}' does not exist)")
    if (
        newid
        and not call.may(f"/vms/{newid}", "VM.Allocate")
        and not (pool and call.may(f"/pool/{pool}", "VM.Allocate"))
    ):
        raise forbidden(f"/vms/{newid}", "VM.Allocate")


@route("POST", "/nodes/{node}/qemu/{vmid}/clone", allowed=may_clone)
async def clone(call: Call) -> object:
    """Queue a clone; its VMID is taken when this returns, and everything else shows when the task ends."""
    call.required("newid")
    world, newid = call.world, call.number("newid")
    target = call.text("target", call.node)
    if target not in world.nodes:
        raise refused(f"no such cluster node '{target}'")
    found = world.guests.get(call.vmid)
    if found is None or found.node != call.node:
        raise refused(f"unable to find configuration file for VM {call.vmid} on node '{call.node}'")
    releases: list[Callable[[], None]] = []
    try:
        # Clones of a guest that is off share its lock: nothing changes under them.
        releases.append(await world.locks.acquire(call.vmid, LOCK_SECONDS, shared=found.run is None))
        if newid in world.guests:
            raise refused(f"unable to create VM {newid}: config file already exists")
        plan = planned(call, call.guest, newid, target)
        releases.append(await world.locks.acquire(newid, LOCK_SECONDS))
        if newid in world.guests:
            raise refused(f"unable to create VM {newid}: config file already exists")
        made = Guest(newid, call.node, {"description": TEMPORARY}, lock="clone", obeys=call.guest.obeys)
        world.guests[newid] = made
    except BaseException:
        give(releases)
        raise

    async def worker(task: Task) -> None:
        task.log(f"creating a clone of VM {plan.source.vmid} with ID {newid}")
        await carry_out(call, task, plan, made)
        made.node = target
        if pool := call.text("pool"):
            world.access.pool_of[newid] = pool

    return world.tasks.start(call.who, call.node, "qmclone", call.vmid, worker, lambda: give(releases))


def give(releases: list[Callable[[], None]]) -> None:
    for release in reversed(releases):
        release()


def planned(call: Call, source: Guest, newid: int, target: str) -> Plan:
    """What will be cloned.

    Raises:
        PveError: the source is locked, the snapshot missing, or the storages cannot do it.
    """
    world = call.world
    check_lock(source)
    snapname = call.text("snapname")
    if snapname and snapname not in source.snapshots:
        raise refused(f"snapshot '{snapname}' does not exist")
    config = source.snapshots[snapname].config if snapname else source.config
    full = call.flag("full", not source.template)
    storage = call.text("storage")
    if storage:
        call.require(f"/storage/{storage}", "Datastore.AllocateSpace")
        disks.check_storage(world, storage, call.node)
    for name in ("storage", "format"):
        if call.has(name) and not full:
            raise refused(f"parameter '{name}' not allowed for linked clones")
    for key, value in config.items():
        if NET.fullmatch(key) and bridge(value):
            call.require(call.world.network_path(bridge(value)), "SDN.Use")
    for key, drive in drives(config).items():
        if is_cdrom(drive) and not is_cloudinit(drive):
            continue
        volid = drive["file"]
        there = world.storage(disks.storage_of(volid))
        if not storage:
            call.require(f"/storage/{there.name}", "Datastore.AllocateSpace")
        if not full and not is_cloudinit(drive) and not disks.can_link(there, volid, snapshot=bool(snapname)):
            what = f"a snapshot of '{volid}'" if snapname else f"'{volid}'"
            raise refused(f"Linked clone feature is not supported for {what} ({key})")
        if target != call.node and not world.storages[storage or there.name].shared:
            raise refused(f"can't clone VM to node '{target}' (VM uses local storage)")
    return Plan(source, newid, dict(config), full, storage, call.text("format"), call.number("bwlimit"))


async def carry_out(call: Call, task: Task, plan: Plan, made: Guest) -> None:
    """Clone disk after disk, then write the whole config; nothing is left when a step fails.

    Raises:
        PveError: naming the step, also when the task was cancelled.
    """
    volumes: list[str] = []
    try:
        config = await cloned(task, plan, volumes)
    except BaseException as error:
        for volid in volumes:
            disks.free(task.world, made.node, volid)
        forget(task.world, made)
        if isinstance(error, PveError):
            raise refused(f"clone failed: {error.line}") from error
        origin = next(iter(disks.volids(plan.config)), "")
        text = f"command '{COMMAND} {origin}' failed: interrupted by signal"
        raise refused(f"clone failed: copy failed: {text}") from error
    name = plan.source.config.get("name", "")
    config["name"] = call.text("name") or (f"Copy-of-VM-{name}" if name else f"Copy-of-VM-{plan.source.vmid}")
    if call.has("description"):
        config["description"] = call.text("description").rstrip("\n")
    made.config, made.lock = config, ""


async def cloned(task: Task, plan: Plan, volumes: list[str]) -> dict[str, str]:
    """The config of the clone: inherited, but for identities and volumes."""
    world = task.world
    config = {key: value for key, value in plan.config.items() if not key.startswith("unused") and key != "template"}
    work = Work(world, plan.source.node, plan.newid, task.log, task.spend)
    for key, drive in drives(config).items():
        if is_cloudinit(drive):
            storage = world.storage(plan.storage or disks.storage_of(drive["file"]))
            volume = await disks.allocate(work, storage, disks.CLOUDINIT_SIZE, "", name="cloudinit")
            volumes.append(volume.volid)
            config[key] = disks.written({**drive, "file": volume.volid})
        elif not is_cdrom(drive):
            config[key] = await one_disk(work, plan, key, drive, volumes)
    renewed(config, world.mac, world.uuid())
    config["vmgenid"] = world.uuid()
    return config


async def one_disk(work: Work, plan: Plan, key: str, drive: dict[str, str], volumes: list[str]) -> str:
    """Clone one disk; its entry in the config."""
    world, volid = work.world, drive["file"]
    origin = world.volume(volid, work.node)
    if origin is None:
        raise refused(f"volume '{volid}' does not exist")
    if plan.full:
        work.log(f"create full clone of drive {key} ({volid})")
        storage = world.storage(plan.storage or disks.storage_of(volid))
        seconds = origin.size / 1024 / plan.bwlimit if plan.bwlimit else world.pace.clone_full
        volume = await disks.copy(work, origin, storage, plan.format, seconds, volumes)
    else:
        work.log(f"create linked clone of drive {key} ({volid})")
        storage = world.storage(disks.storage_of(volid))
        await work.spend(world.pace.clone_linked)
        volume = await disks.allocate(
            work, storage, origin.size, linked_format(storage), parent=volid if disks.tracked(storage) else ""
        )
        volumes.append(volume.volid)
        await disks.copy_bytes(work, origin, volume)
    return disks.written({**drive, "file": volume.volid, "size": size_of(volume.size)})


def linked_format(storage: Storage) -> str:
    """Files need qcow2 to lie on another."""
    return "qcow2" if storage.files else "raw"
