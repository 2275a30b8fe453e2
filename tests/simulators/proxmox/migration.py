"""Moving guests from node to node, running or not, with the disks that the nodes do not share."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .disks import NO_VOLUME, free_name, storage_of, users_of_base, written
from .errors import PveError, refused
from .keys import bridge
from .locks import check_lock
from .strings import NET, drives, is_cdrom, is_cloudinit, parse
from .tasks import Task
from .world import Guest, Storage, Volume, World

LOCAL_DEVICE = re.compile(r"(?:hostpci|usb|parallel|serial)\d+")
ABORTED = "migration aborted"


@dataclass(frozen=True)
class Local:
    """A volume that only its node has.

    Attributes:
        key: of the config that names it; empty for one that is only in a snapshot.
        media: whether it is an image in a CD drive, which does not travel.
    """

    key: str
    volume: Volume
    storage: Storage
    media: bool = False


@dataclass
class Plan:
    """A guest, where it goes, and how.

    Attributes:
        storages: of the target, by those of the source; "" for all that are not named.
    """

    world: World
    guest: Guest
    target: str
    online: bool = False
    with_disks: bool = False
    force: bool = False
    storages: dict[str, str] = field(default_factory=dict)

    def storage_there(self, name: str) -> str:
        """The storage on the target that takes the volumes of one here."""
        return self.storages.get(name) or self.storages.get("") or name

    def check(self) -> None:
        """What is refused before a task begins.

        Raises:
            PveError: the guest is locked or runs, or the target lacks a storage.
        """
        check_lock(self.guest)
        if self.guest.run is not None and not self.online:
            raise refused("can't migrate running VM without --online")
        for name in sorted(storages_of(self.guest)):
            wanted = self.storage_there(name)
            if not self.world.storage(wanted).there(self.target):
                raise refused(f"storage '{wanted}' is not available on node '{self.target}'")

    async def run(self, task: Task) -> None:
        """Move it; the caller needs no lock.

        Raises:
            PveError: it stays where it is.
        """
        task.interrupted = ABORTED
        world, guest = self.world, self.guest
        async with world.locks.hold(guest.vmid, log=task.log):
            began = time.monotonic()
            source = guest.node
            if world.guests.get(guest.vmid) is not guest:
                raise refused(f"Configuration file 'nodes/{source}/qemu-server/{guest.vmid}.conf' does not exist")
            check_lock(guest)
            task.log(f"starting migration of VM {guest.vmid} to node '{self.target}' ({self.address})")
            try:
                found = list(locals_of(world, guest))
                self._check_travels(task, found)
                guest.lock = "migrate"
                await self._copy(task, found)
                self._check_target(task)
            except PveError as error:
                task.log(f"ERROR: {ABORTED}: {error.reason}")
                raise refused(ABORTED) from error
            finally:
                guest.lock = ""
            self._arrive(found)
            task.log(f"migration finished successfully (duration {duration(time.monotonic() - began)})")

    @property
    def address(self) -> str:
        return self.world.nodes[self.target].address

    def _check_travels(self, task: Task, found: list[Local]) -> None:
        """Refuse what cannot go along."""
        running = self.guest.run is not None
        bound = [key for key in devices(self.guest) if not self.force]
        if bound:
            raise refused(f"can't migrate VM which uses local devices: {', '.join(bound)}")
        stuck = False
        for local in found:
            if why := self._stays(local, running=running):
                task.log(f"can't migrate local disk '{local.volume.volid}': {why}")
                stuck = True
        if stuck:
            raise refused("Problem found while scanning volumes - can't migrate VM - check log")

    def _stays(self, local: Local, *, running: bool) -> str:
        """Why a volume cannot go along, or nothing. Source: PVE::QemuMigrate::scan_local_volumes"""
        if local.media:
            return "local cdrom image"
        if running and not self.with_disks:
            return "can't live migrate attached local disks without with-local-disks option"
        if self.guest.snapshots and running:
            return "online storage migration not possible if snapshot exists"
        if self.guest.snapshots and local.storage.kind != "zfspool" and local.volume.format != "qcow2":
            return "non-migratable snapshot exists"
        if users_of_base(self.world, local.volume.volid):
            return "referenced by linked clone(s)"
        return ""

    async def _copy(self, task: Task, found: list[Local]) -> None:
        """The disks one by one, then the memory."""
        for local in found:
            task.log(f"found local disk '{local.volume.volid}' (attached)")
            await task.spend(task.world.pace.move_disk)
        await task.spend(task.world.pace.migrate)

    def _check_target(self, task: Task) -> None:
        """A running guest starts over there before it ends here."""
        node = self.world.nodes[self.target]
        if not node.online:
            raise refused(f"command '/usr/bin/ssh root@{node.address}' failed: exit code 255")
        if self.guest.run is None:
            return
        for key, value in self.guest.config.items():
            if NET.fullmatch(key) and bridge(value) and bridge(value) not in self.world.networks(self.target):
                task.log(f"[{self.target}] bridge '{bridge(value)}' does not exist")
                raise refused("online migrate failure - remote command failed with exit code 255")

    def _arrive(self, found: list[Local]) -> None:
        """The config changes its node in one step, and with it everything else."""
        guest, world = self.guest, self.world
        for local in found:
            target = world.storage(self.storage_there(local.storage.name))
            move(guest, local, target, self.target)
        guest.node = self.target
        if guest.run is not None:
            guest.run.pid = world.tasks.pid()
            world.consoles.end(guest.vmid)


def move(guest: Guest, local: Local, target: Storage, node: str) -> None:
    """Take a volume along; it gets another name where its own is taken or the storage writes names otherwise."""
    volume = local.storage.on(guest.node).pop(local.volume.volid)
    old = volume.volid
    volume.volid = f"{target.name}:{old.partition(':')[2]}"
    if volume.volid in target.on(node) or target.files != local.storage.files:
        format = volume.format if target.files else "raw"
        volume.volid = f"{target.name}:{free_name(target, node, guest.vmid, 'disk', format)}"
        volume.format = format
    target.on(node)[volume.volid] = volume
    if local.key:
        drive = parse(guest.config[local.key], "file")
        guest.config[local.key] = written({**drive, "file": volume.volid})
    for snapshot in guest.snapshots.values():
        for key, drive in drives(snapshot.config).items():
            if drive.get("file") == old:
                snapshot.config[key] = written({**drive, "file": volume.volid})


def storages_of(guest: Guest) -> set[str]:
    """The storages that a guest's config needs; its media included."""
    files = [drive.get("file", "") for drive in drives(guest.config).values()]
    return {storage_of(file) for file in files if file not in NO_VOLUME and storage_of(file)}


def locals_of(world: World, guest: Guest) -> Iterator[Local]:
    """The volumes of a guest that only its node has."""
    named = {key: value for key, value in guest.config.items() if key.startswith("unused")}
    known: set[str] = set()
    for key, drive in [*drives(guest.config).items(), *((key, parse(value, "file")) for key, value in named.items())]:
        file = drive.get("file", "")
        storage, volume = world.storages.get(storage_of(file)), world.volume(file, guest.node)
        if storage is not None and volume is not None and not storage.shared and file not in known:
            known.add(file)
            yield Local(key, volume, storage, media=is_cdrom(drive) and not is_cloudinit(drive))


def devices(guest: Guest) -> list[str]:
    """The keys of devices of the host that stay behind; serial ports to a socket and mapped devices do not."""
    found = []
    for key, value in guest.config.items():
        parts = parse(value, "host")
        if LOCAL_DEVICE.fullmatch(key) and parts.get("host") not in ("socket", "spice") and "mapping" not in parts:
            found.append(key)
    return sorted(found)


def preconditions(world: World, guest: Guest) -> dict[str, Any]:
    """What somebody should know before they ask for a move."""
    mapped = [key for key, value in guest.config.items() if LOCAL_DEVICE.fullmatch(key) and "mapping" in parse(value)]
    told: dict[str, Any] = {
        "running": int(guest.run is not None),
        "local_disks": [
            {
                "volid": local.volume.volid,
                "size": local.volume.size,
                "cdrom": int(local.media),
                "is_unused": int(local.key.startswith("unused")),
            }
            for local in locals_of(world, guest)
        ],
        "local_resources": devices(guest),
        "mapped-resources": sorted(mapped),
        "mapped-resource-info": {key: {"name": parse(guest.config[key])["mapping"]} for key in mapped},
        "has-dbus-vmstate": 1,
    }
    if guest.run is not None:
        return told
    lacking = {
        name: sorted(storage for storage in storages_of(guest) if not world.storage(storage).there(name))
        for name, node in world.nodes.items()
        if name != guest.node and node.online
    }
    return told | {
        "allowed_nodes": [name for name, missing in lacking.items() if not missing],
        "not_allowed_nodes": {name: {"unavailable_storages": missing} for name, missing in lacking.items() if missing},
    }


def parse_storages(text: str) -> dict[str, str]:
    """The mapping of a `targetstorage`: "1" maps each to itself, a name all to one, "a:b,c:d" as it says."""
    pairs = [item for item in re.split(r"[,;\s]+", text) if item]
    if pairs == ["1"]:
        return {}
    cut = (pair.partition(":") for pair in pairs)
    return {source if colon else "": target if colon else source for source, colon, target in cut}


def duration(seconds: float) -> str:
    """As logs write it."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
