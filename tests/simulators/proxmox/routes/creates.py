"""Making guests: of nothing, of images, of backups."""

from __future__ import annotations

import time

from simulators.proxmox import disks, guests
from simulators.proxmox.calls import Call, route
from simulators.proxmox.contents import kind_of
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import PveError, forbidden, refused
from simulators.proxmox.keys import bridge, kept, known, net
from simulators.proxmox.locks import check_lock
from simulators.proxmox.reading import check_readable
from simulators.proxmox.strings import BUSES, NET, drives, is_cdrom, is_cloudinit, is_disk, parse
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest, World

from .backups import restore
from .qemu import forget


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
        wanted = wanted_config(call)
        check_resources(call, wanted, call.number("vmid"))
        return await restore(call, wanted)
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
            if disks.NEW.fullmatch(file):
                call.require(f"/storage/{disks.storage_of(file)}", "Datastore.AllocateSpace")
            elif not disks.CLOUDINIT.fullmatch(file):
                check_readable(call, file, vmid=vmid)
            if source := drive.get("import-from"):
                check_source(call, source, vmid)


def check_source(call: Call, source: str, vmid: int) -> None:
    """The right to copy what a disk is made of: another guest is cloned, everything else is read."""
    owner = None if source.startswith("/") or kind_of(source) != "images" else disks.owner(source)
    if owner is None:
        check_readable(call, source, vmid=vmid)
    else:
        call.require(f"/vms/{owner}", "VM.Clone")


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
