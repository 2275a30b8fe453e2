"""Disks of a guest: grown, moved to another storage, made the base of linked clones."""

from __future__ import annotations

from simulators.proxmox import changes, disks
from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import refused
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import drives, is_cdrom, parse, size_of
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest

from .config import STALE, work_of
from .qemu import ALLOCATE, AUDIT


@route("PUT", "/nodes/{node}/qemu/{vmid}/resize", allowed=at("/vms/{vmid}", "VM.Config.Disk"))
async def resize(call: Call) -> object:
    """Queue the growing of a disk; the task tells what is wrong with it."""
    call.required("disk", "size")
    call.root_only("skiplock")

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            guest = call.guest
            if call.has("digest") and call.text("digest") != guest.digest:
                raise refused(STALE)
            if not call.flag("skiplock"):
                check_lock(guest)
            await grow(call, task, guest)

    return call.world.tasks.start(call.who, call.node, "resize", call.vmid, worker)


async def grow(call: Call, task: Task, guest: Guest) -> None:
    """Make a disk and its entry in the config larger; a size already reached is fine."""
    key = call.text("disk")
    drive = drives(guest.config).get(key)
    if drive is None:
        raise refused(f"disk '{key}' does not exist")
    if is_cdrom(drive):
        raise refused("you can't resize a cdrom")
    volume = call.world.volume(drive["file"], guest.node)
    if volume is None:
        raise refused(f"volume '{drive['file']}' does not exist")
    size = disks.wanted_size(volume, call.text("size"))
    if size == volume.size:
        return
    disks.check_growth(volume, size)
    await task.spend(call.world.pace.resize)
    await disks.grow(volume, size)
    if not guest.run:
        task.log("Image resized.")
    guest.config[key] = disks.written({**drive, "size": size_of(size)})


@route("POST", "/nodes/{node}/qemu/{vmid}/move_disk", allowed=at("/vms/{vmid}", "VM.Config.Disk"))
async def move(call: Call) -> object:
    """Queue the copying of a disk to another storage; the source stays as unused unless `delete` is given."""
    call.required("disk")
    world, key = call.world, call.text("disk")
    if call.has("target-vmid"):
        return await reassign(call)
    call.required("storage")
    target = call.text("storage")
    call.require(f"/storage/{target}", "Datastore.AllocateSpace")
    disks.check_storage(world, target, call.node)
    release = await world.locks.acquire(call.vmid)
    try:
        guest = call.guest
        check_lock(guest)
        if call.has("digest") and call.text("digest") != guest.digest:
            raise refused(STALE)
        drive = drives(guest.config).get(key)
        if drive is None:
            raise refused(f"disk '{key}' does not exist")
        if is_cdrom(drive):
            raise refused("you can't move a cdrom")
        origin = world.volume(drive["file"], guest.node)
        if origin is None:
            raise refused(f"volume '{drive['file']}' does not exist")
        if disks.storage_of(drive["file"]) == target and call.text("format", origin.format) == origin.format:
            raise refused("you can't move to the same storage with same format")
        held = any(drive["file"] in disks.volids(snapshot.config) for snapshot in guest.snapshots.values())
        if held and call.flag("delete"):
            raise refused("you can't move a disk with snapshots and delete the source")
    except BaseException:
        release()
        raise

    async def worker(task: Task) -> None:
        source = disks.storage_of(origin.volid)
        task.log(f"copying volume '{origin.volid}' from current storage '{source}' to target storage '{target}'")
        task.log(f"create full clone of drive {key} ({origin.volid})")
        made: list[str] = []
        try:
            storage = world.storage(target)
            work = work_of(call, guest, task)
            volume = await disks.copy(work, origin, storage, call.text("format"), world.pace.move_disk, made)
        except BaseException:
            for volid in made:
                disks.free(world, guest.node, volid)
            task.interrupted = "storage migration failed: interrupted by signal"
            raise
        guest.config[key] = disks.written({**drive, "file": volume.volid, "size": size_of(volume.size)})
        if call.flag("delete"):
            task.log(f"removing source volume '{origin.volid}' after successful copy")
            disks.free(world, guest.node, origin.volid)
        elif disks.owner(origin.volid) == guest.vmid:
            changes.add_unused(guest, origin.volid)

    return world.tasks.start(call.who, call.node, "qmmove", call.vmid, worker, release)


async def reassign(call: Call) -> object:
    """Queue the handing of a disk to another guest of the node, as whose volume it goes on.

    Source: move_vm_disk of PVE::API2::Qemu.
    """
    world, key, newid = call.world, call.text("disk"), call.number("target-vmid")
    slot = call.text("target-disk", key)
    call.require(f"/vms/{newid}", "VM.Config.Disk")
    if newid == call.vmid:
        raise refused("must be different than the VMID of the source disk")
    source, target = call.guest, world.guests.get(newid)
    if target is None or target.node != call.node:
        raise refused(f"Both VMs need to be on the same node {call.node} but target VM is elsewhere or does not exist")

    async def worker(task: Task) -> None:
        async with world.locks.hold(call.vmid, log=task.log), world.locks.hold(newid, log=task.log):
            check_lock(source)
            check_lock(target)
            if call.has("digest") and call.text("digest") != source.digest:
                raise refused(STALE)
            if key not in source.config:
                raise refused(f"Disk '{key}' for VM {call.vmid} does not exist")
            if slot in target.config:
                raise refused(f"Target disk key '{slot}' is already in use for VM '{newid}'")
            if source.run is not None and not key.startswith("unused"):
                raise refused(f"Can't move disk '{key}' of a running VM to another VM, detach it first")
            drive = parse(source.config[key], "file")
            if any(drive["file"] in disks.volids(snapshot.config) for snapshot in source.snapshots.values()):
                raise refused("Can't move disk used by a snapshot to another owner")
            if disks.is_base(drive["file"]):
                raise refused("Can't move disk used as base for linked clones")
            task.log(f"moving disk '{key}' from VM '{call.vmid}' to '{newid}'")
            renamed = disks.given_to(world, call.node, drive["file"], newid)
            del source.config[key]
            target.config[slot] = renamed if slot.startswith("unused") else disks.written({**drive, "file": renamed})
            task.log(f"removing disk '{key}' from VM '{call.vmid}' config")

    return world.tasks.start(call.who, call.node, "qmmove", call.vmid, worker)


@route("POST", "/nodes/{node}/qemu/{vmid}/template", allowed=ALLOCATE)
async def template(call: Call) -> object:
    """Queue the turning of a guest into a template, which can be cloned without copying."""
    world = call.world
    release = await world.locks.acquire(call.vmid)
    try:
        guest = call.guest
        check_lock(guest)
        if guest.snapshots:
            raise refused("unable to create template, because VM contains snapshots")
        if guest.template and not call.has("disk"):
            raise refused("you can't convert a template to a template")
        if guest.run:
            raise refused("you can't convert a VM to template if VM is running")
    except BaseException:
        release()
        raise

    async def worker(task: Task) -> None:
        guest.config["template"] = "1"
        await task.spend(world.pace.template)
        for key, drive in drives(guest.config).items():
            volid = drive["file"]
            if is_cdrom(drive) or disks.is_base(volid) or call.text("disk", key) != key:
                continue
            if world.volume(volid, guest.node) is None:
                raise refused(f"volume '{volid}' does not exist")
            guest.config[key] = disks.written({**drive, "file": disks.as_base(world, guest.node, volid)})

    return world.tasks.start(call.who, call.node, "qmtemplate", call.vmid, worker, release)


@route("GET", "/nodes/{node}/qemu/{vmid}/feature", allowed=AUDIT)
async def feature(call: Call) -> object:
    """Whether all disks of a guest can be snapshot, cloned or copied, and where."""
    call.required("feature")
    guest, world = call.guest, call.world
    wanted = call.text("feature")
    if call.has("snapname") and call.text("snapname") not in guest.snapshots:
        raise refused(f"snapshot '{call.text('snapname')}' does not exist")
    found = True
    nodes = set(world.nodes)
    for volid in (drive["file"] for drive in drives(guest.config).values() if not is_cdrom(drive)):
        storage, volume = world.storage(disks.storage_of(volid)), world.volume(volid, guest.node)
        if volume is None:
            raise refused(f"volume '{volid}' does not exist")
        if wanted == "snapshot":
            found = found and disks.can_snapshot(storage, volume)
        elif wanted == "clone":
            found = found and disks.can_link(storage, volid, snapshot=call.has("snapname"))
        if not storage.shared:
            nodes &= {guest.node}
    return {"hasFeature": int(found), "nodes": sorted(nodes)}
