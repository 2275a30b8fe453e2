"""Guests of a node: listed, created, looked at, deleted."""

from __future__ import annotations

import time

from simulators.proxmox import disks, guests
from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import PveError, forbidden, refused
from simulators.proxmox.ha import managed
from simulators.proxmox.keys import bridge, kept, known, net
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import BUSES, NET, drives, is_cdrom, is_cloudinit, is_disk, parse
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


def allocate(call: Call) -> None:
    """Creating needs the right on the new id or on the pool; the refusal does not say where."""
    vmid, pool = call.text("vmid"), call.text("pool")
    if pool and pool not in call.world.pools:
        raise PveError(403, f"Permission check failed (pool '{pool}' does not exist)")
    if not call.may(f"/vms/{vmid}", "VM.Allocate") and not (pool and call.may(f"/pool/{pool}", "VM.Allocate")):
        raise forbidden("")


@route("POST", "/nodes/{node}/qemu")
async def create(call: Call) -> object:
    """Queue the making of a guest; its VMID is taken when this returns."""
    call.required("vmid")
    allocate(call)
    if call.has("archive"):
        raise refused("unable to restore: no such backup archive")
    if call.flag("force"):
        raise PveError(400, "Parameter verification failed.", {"archive": "missing property required by 'force'"})
    wanted = wanted_config(call)
    world, node, vmid = call.world, call.node, call.number("vmid")
    disks.check_drives(world, node, wanted)
    check_resources(call, wanted, vmid)
    text = f"unable to create VM {vmid} - "
    try:
        async with world.locks.hold(vmid, world.pace.lock_create):
            if vmid in world.guests:
                raise refused(f"VM {vmid} already exists on node '{world.guests[vmid].node}'")
            guest = Guest(vmid, node, lock="create", obeys=world.obeys)
            world.guests[vmid] = guest
            if pool := call.text("pool"):
                world.access.pool_of[vmid] = pool
    except PveError as error:
        raise refused(text + error.reason) from error

    async def worker(task: Task) -> None:
        async with world.locks.hold(vmid, log=task.log):
            await build(task, guest, wanted)
        if call.flag("start"):
            task.log("Execute autostart")
            await world.tasks.wait(guests.begin_start(world, guest))

    return world.tasks.start(call.who, node, "qmcreate", vmid, worker)


def wanted_config(call: Call) -> dict[str, str]:
    """The parameters that belong into a config."""
    not_config = {"vmid", "node", "start", "pool", "storage", "force", "archive", "unique", "bwlimit", "live-restore"}
    not_config |= {"ha-managed", "import-working-storage", "skiplock"}
    config = {}
    for key in call.params:
        if key in not_config:
            continue
        if not known(key):
            text = "property is not defined in schema and the schema does not allow additional properties"
            raise PveError(400, "Parameter verification failed.", {key: text})
        config[key] = kept(key, call.text(key))
    return config


def check_resources(call: Call, wanted: dict[str, str], vmid: int) -> None:
    """The rights on what a config uses: storages and bridges, and what only root may set.

    Raises:
        PveError: 403 or, for root's own options, 500.
    """
    for key, value in wanted.items():
        if key in ("args", "hookscript", "lock") and not call.who.root:
            raise refused(f"only root can set '{key}' config")
        if key.startswith(("usb", "hostpci", "parallel", "serial")) and not call.who.root:
            check_device(key, value)
        if NET.fullmatch(key) and (name := bridge(value)):
            call.require(call.world.network_path(name), "SDN.Use")
        if is_disk(key):
            drive = parse(value, "file")
            file = drive.get("file", "")
            if file in disks.NO_VOLUME:
                continue
            if file.startswith("/") and not call.who.root:
                raise PveError(403, "Only root can pass arbitrary filesystem paths.")
            storage = disks.storage_of(file)
            fresh = disks.NEW.fullmatch(file) or disks.CLOUDINIT.fullmatch(file)
            if fresh:
                call.require(f"/storage/{storage}", "Datastore.AllocateSpace")
            elif (owner := disks.owner(file)) is not None and owner != vmid:
                call.require(f"/vms/{owner}", "VM.Config.Disk")
            elif owner is None:
                call.require(f"/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace")


def check_device(key: str, value: str) -> None:
    """Devices of the host are root's, unless they are mapped for everybody."""
    parts = parse(value, "host")
    if "mapping" in parts or parts.get("host") in ("spice", "socket"):
        return
    raise refused(f"only root can set '{key}' config for real devices")


async def build(task: Task, guest: Guest, wanted: dict[str, str]) -> None:
    """Make the disks, then the whole config at once; nothing is left when a step fails.

    Raises:
        PveError: saying which step.
    """
    world = task.world
    made: list[str] = []
    try:
        check_lock(guest, "create")
        await task.spend(world.pace.create)
        config = finished(world, guest.vmid, wanted)
        work = Work(world, guest.node, guest.vmid, task.log, task.spend)
        for key, drive in drives(config).items():
            config[key] = disks.written(await disks.make(work, key, drive, made))
        guest.config, guest.lock = config, ""
        if any(is_cloudinit(drive) for drive in drives(config).values()):
            task.log("generating cloud-init ISO")
            guests.generate_cloudinit(guest)
    except BaseException as error:
        for volid in made:
            disks.free(world, guest.node, volid)
        forget(world, guest)
        why = error.line if isinstance(error, PveError) else "received interrupt"
        raise refused(f"unable to create VM {guest.vmid} - {why}") from error


def forget(world: World, guest: Guest) -> None:
    """The config is gone, and the VMID free."""
    if world.guests.get(guest.vmid) is guest:
        del world.guests[guest.vmid]
        world.access.pool_of.pop(guest.vmid, None)


def finished(world: World, vmid: int, wanted: dict[str, str]) -> dict[str, str]:
    """A config with what Proxmox VE adds by itself: identities, MAC addresses, the boot order."""
    config = dict(wanted)
    smbios = parse(config.get("smbios1", ""))
    if "uuid" not in smbios:
        config["smbios1"] = ",".join(filter(None, (f"uuid={world.uuid()}", config.get("smbios1", ""))))
    if config.get("vmgenid", "1") == "1":
        config["vmgenid"] = world.uuid()
    config["meta"] = f"creation-qemu={guests.QEMU},ctime={int(time.time())}"
    for key in [key for key in config if NET.fullmatch(key)]:
        config[key] = net(config[key], world.mac())
    if "boot" not in config:
        order = default_boot(config)
        config["boot"] = f"order={';'.join(order)}" if order else ""
    return config


def default_boot(config: dict[str, str]) -> list[str]:
    """The first disk, the first CD drive, the first NIC."""
    found = drives(config)
    keys = sorted((key for key in found if key.rstrip("0123456789") in BUSES), key=boot_rank)
    hard = [key for key in keys if not is_cdrom(found[key])][:1]
    media = [key for key in keys if is_cdrom(found[key]) and not is_cloudinit(found[key])][:1]
    nics = sorted((key for key in config if NET.fullmatch(key)), key=lambda key: int(key[3:]))[:1]
    return hard + media + nics


def boot_rank(key: str) -> tuple[int, int]:
    """The order in which drives are looked at."""
    bus = key.rstrip("0123456789")
    return ("ide", "scsi", "virtio", "sata").index(bus), int(key.removeprefix(bus))


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
    forget(world, guest)


def every_volume(guest: Guest) -> list[str]:
    """The volumes of a guest's config, of what is pending, of its snapshots, and with its memory."""
    found = disks.volids(guest.config) + disks.volids(guest.pending)
    for snapshot in guest.snapshots.values():
        found += disks.volids(snapshot.config) + [snapshot.vmstate] * bool(snapshot.vmstate)
    found += [guest.vmstate] * bool(guest.vmstate)
    return list(dict.fromkeys(found))
