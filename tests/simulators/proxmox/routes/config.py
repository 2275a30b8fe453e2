"""The config of a guest: read, changed, and what waits for a start."""

from __future__ import annotations

import asyncio
from typing import Any

from simulators.proxmox import changes, disks, guests
from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.changes import Changes
from simulators.proxmox.disks import Work
from simulators.proxmox.errors import bad, forbidden, refused
from simulators.proxmox.keys import kept, known, privilege, told, typed
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import NET, drives, is_cloudinit
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import Guest

from .creates import check_resources
from .qemu import AUDIT

EDIT = at(
    "/vms/{vmid}",
    *(f"VM.Config.{noun}" for noun in ["Disk", "CDROM", "CPU", "Memory", "Network", "HWType", "Options", "Cloudinit"]),
)
NOT_CONFIG = frozenset(
    {"delete", "revert", "digest", "skiplock", "force", "background_delay", "import-working-storage", "node", "vmid"}
)
STALE = "checksum mismatch (file change by other user?)"


@route("GET", "/nodes/{node}/qemu/{vmid}/config", allowed=AUDIT)
async def read(call: Call) -> object:
    """What the guest will be after its next start; what it is now with `current`; what it was with `snapshot`."""
    guest = call.guest
    if call.has("snapshot"):
        name = call.text("snapshot")
        if name not in guest.snapshots:
            raise refused(f"snapshot '{name}' does not exist")
        return told(snapshot_config(guest, name)) | {"digest": guest.digest}
    config = dict(guest.bookkept)
    if not call.flag("current"):
        config = {key: value for key, value in config.items() if key not in guest.dropped} | guest.pending
    return told(config) | {"digest": guest.digest}


def snapshot_config(guest: Guest, name: str) -> dict[str, str]:
    """The section of a snapshot in the config file."""
    snapshot = guest.snapshots[name]
    own = {"description": snapshot.description, "parent": snapshot.parent, "vmstate": snapshot.vmstate}
    return snapshot.config | {key: value for key, value in own.items() if value} | {"snaptime": str(snapshot.time)}


@route("GET", "/nodes/{node}/qemu/{vmid}/pending", allowed=AUDIT)
async def pending(call: Call) -> object:
    """Each key with its value and what waits to replace it."""
    guest = call.guest
    rows: list[dict[str, Any]] = []
    for key, value in guest.bookkept.items():
        row: dict[str, Any] = {"key": key, "value": typed(key, value)}
        if key in guest.pending:
            row["pending"] = typed(key, guest.pending[key])
        if key in guest.dropped:
            row["delete"] = 1
        rows.append(row)
    rows += [
        {"key": key, "pending": typed(key, value)} for key, value in guest.pending.items() if key not in guest.config
    ]
    return [*rows, {"key": "digest", "value": guest.digest}]


def asked(call: Call) -> Changes:
    """What the call wants to change.

    Raises:
        PveError: 400, it contradicts itself.
    """
    unknown = [key for key in call.params if key not in NOT_CONFIG and not known(key)]
    if unknown:
        text = "property is not defined in schema and the schema does not allow additional properties"
        raise bad(**{key.replace("-", "__"): text for key in unknown})
    found = Changes(
        set={key: kept(key, call.text(key)) for key in call.params if key not in NOT_CONFIG},
        delete=call.many("delete"),
        revert=call.many("revert"),
        force=call.flag("force"),
    )
    found.check()
    return found


def check_rights(call: Call, wanted: Changes) -> None:
    """Each key needs its own right; refused with the first that is missing."""
    guest = call.world.guests.get(call.vmid)
    config = guest.config if guest else {}
    for key in [*wanted.set, *wanted.delete, *wanted.revert]:
        if key in ("args", "hookscript", "lock"):
            if not call.who.root:
                raise refused(f"only root can set '{key}' config")
            continue
        right = privilege(key, wanted.set.get(key, config.get(key, "")))
        if not call.may(f"/vms/{call.vmid}", right):
            raise forbidden(f"/vms/{call.vmid}", right)
    check_resources(call, wanted.set, call.vmid)


def check_current(call: Call, guest: Guest) -> None:
    """Refuse a change that was thought out for another state, or that a lock forbids."""
    if call.has("digest") and call.text("digest") != guest.digest:
        raise refused(STALE)
    if not call.flag("skiplock"):
        check_lock(guest)


def prepared(call: Call) -> Changes:
    """The changes, with everything checked that needs no lock."""
    call.root_only("skiplock")
    wanted = asked(call)
    check_rights(call, wanted)
    disks.check_drives(call.world, call.node, wanted.set)
    check_current(call, call.guest)  # before the file is waited for, so that a clone's target refuses at once
    return wanted


def work_of(call: Call, guest: Guest, task: Task | None = None) -> Work:
    """Where volumes come from; without a task nobody reads the log."""
    lines: list[str] = []
    log = task.log if task else lines.append
    return Work(call.world, guest.node, guest.vmid, log, task.spend if task else call.world.pace.spend)


@route("PUT", "/nodes/{node}/qemu/{vmid}/config", allowed=EDIT)
async def change(call: Call) -> object:
    """Change at once; answers when it is done."""
    wanted = prepared(call)
    async with call.world.locks.hold(call.vmid):
        guest = call.guest
        check_current(call, guest)
        call.world.note(call.who.name, guest.node, f"update VM {guest.vmid}: {wanted.told()}")
        await changes.apply(work_of(call, guest), guest, wanted)
    return None


@route("POST", "/nodes/{node}/qemu/{vmid}/config", allowed=EDIT)
async def change_later(call: Call) -> object:
    """Change in a task; null instead of its UPID when it ends within `background_delay`."""
    wanted = prepared(call)
    world = call.world
    release = await world.locks.acquire(call.vmid)
    try:
        guest = call.guest
        check_current(call, guest)
    except BaseException:
        release()
        raise

    async def worker(task: Task) -> None:
        task.log(f"update VM {guest.vmid}: {wanted.told()}")
        world.note(call.who.name, guest.node, f"update VM {guest.vmid}: {wanted.told()}")
        await changes.apply(work_of(call, guest, task), guest, wanted)

    upid = world.tasks.start(call.who, call.node, "qmconfig", call.vmid, worker, release)
    if not call.has("background_delay"):
        return upid
    task = world.tasks.all[upid]
    try:
        async with asyncio.timeout(world.pace.here(call.number("background_delay"))):
            await task.ended.wait()
    except TimeoutError:
        return upid
    if task.exitstatus == "OK" or task.exitstatus.startswith("WARNINGS"):
        return None
    raise refused(f"failed to update VM {call.vmid}: {task.exitstatus}")


@route("PUT", "/nodes/{node}/qemu/{vmid}/unlink", allowed=at("/vms/{vmid}", "VM.Config.Disk"))
async def unlink(call: Call) -> object:
    """Detach drives; with `force` their volumes go as well."""
    call.required("idlist")
    wanted = Changes(delete=call.many("idlist"), force=call.flag("force"))
    wanted.check()
    async with call.world.locks.hold(call.vmid):
        guest = call.guest
        check_lock(guest)
        await changes.apply(work_of(call, guest), guest, wanted)
    return None


@route("GET", "/nodes/{node}/qemu/{vmid}/cloudinit", allowed=AUDIT)
async def cloudinit(call: Call) -> object:
    """What the cloud-init drive was made from, and what a new one would be made from."""
    guest = call.guest
    keys = ("cipassword", "nameserver", "searchdomain", "sshkeys", "cicustom", "ciuser", "citype")
    rows: list[dict[str, Any]] = []
    for key in [*keys, *(f"ipconfig{key[3:]}" for key in sorted(guest.config) if NET.fullmatch(key))]:
        value, made = guest.config.get(key), guest.generated.get(key)
        if value is None and made is None:
            continue
        row: dict[str, Any] = {"key": key}
        if made is not None:
            row["value"] = typed(key, made)
        elif value is not None and not guest.run:
            row["value"] = typed(key, value)
        if guest.run and value != made:
            row |= {"delete": 1} if value is None else {"pending": typed(key, value)}
        rows.append(row)
    return rows


@route("PUT", "/nodes/{node}/qemu/{vmid}/cloudinit", allowed=at("/vms/{vmid}", "VM.Config.Cloudinit"))
async def regenerate(call: Call) -> object:
    """Make the cloud-init drive anew."""
    async with call.world.locks.hold(call.vmid):
        guest = call.guest
        check_lock(guest)
        if not any(is_cloudinit(drive) for drive in drives(guest.config).values()):
            raise refused("VM has no cloudinit drive")
        guests.generate_cloudinit(guest)
    return None


@route("GET", "/nodes/{node}/qemu/{vmid}/cloudinit/dump", allowed=AUDIT)
async def dump(call: Call) -> object:
    """What the guest would read from the drive."""
    call.required("type")
    return guests.cloudinit_file(call.guest, call.text("type"))
