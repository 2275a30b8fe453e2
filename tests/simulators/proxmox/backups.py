"""Backups of guests: archives on a storage, and guests made of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from . import disks
from .disks import Work
from .errors import refused
from .keys import renewed
from .strings import drives, is_cdrom, is_cloudinit, size_of
from .world import Guest, Volume, World


@dataclass
class Archive:
    """What an archive holds.

    Attributes:
        bytes: of the disks that have some, by their key.
    """

    config: dict[str, str]
    bytes: dict[str, Volume] = field(default_factory=dict)


def back_up(world: World, guest: Guest, storage: str) -> str:
    """An archive of a guest, as somebody made it at night; its volume."""
    stamp = time.strftime("%Y_%m_%d-%H_%M_%S")
    volid = f"{storage}:backup/vzdump-qemu-{guest.vmid}-{stamp}.vma.zst"
    archive = Archive({key: value for key, value in guest.config.items() if not key.startswith("unused")})
    size = 0
    for key, drive in kept_drives(archive.config).items():
        volume = world.volume(drive["file"], guest.node)
        if volume is not None:
            size += volume.used
            archive.bytes[key] = Volume(f"{volid}:{key}", "images", volume.format, volume.size, file=snapped(volume))
    world.archives[volid] = archive
    made = Volume(volid, "backup", "vma.zst", size, used=size, vmid=guest.vmid)
    world.storage(storage).on(guest.node)[volid] = made
    return volid


def snapped(volume: Volume) -> Path | None:
    """A copy of a volume's bytes, which its guest does not change any more."""
    if volume.file is None:
        return None
    copy = volume.file.with_name(f"{volume.file.name}.{time.time_ns()}")
    copy.write_bytes(volume.file.read_bytes())
    return copy


def kept_drives(config: dict[str, str]) -> dict[str, dict[str, str]]:
    """The drives whose content is in an archive."""
    return {
        key: drive for key, drive in drives(config).items() if not is_cdrom(drive) and drive.get("backup", "1") != "0"
    }


def extracted(world: World, node: str, volid: str) -> Archive:
    """The archive of a volume.

    Raises:
        PveError: it is not there, or none.
    """
    archive = world.archives.get(volid)
    if archive is None or world.volume(volid, node) is None:
        raise refused(f"volume '{volid}' does not exist")
    return archive


async def unpacked(work: Work, archive: Archive, storage: str, made: list[str], *, unique: bool) -> dict[str, str]:
    """The config of an archive with disks of its own.

    Args:
        storage: for all of them; empty: where they were.
        unique: whether NICs and the machine get new identities.
    """
    world, config = work.world, dict(archive.config)
    for key, drive in drives(config).items():
        if is_cloudinit(drive):
            target = world.storage(storage or disks.storage_of(drive["file"]))
            volume = await disks.allocate(work, target, disks.CLOUDINIT_SIZE, "", name="cloudinit")
            made.append(volume.volid)
            config[key] = disks.written({**drive, "file": volume.volid})
        elif key in archive.bytes:
            target = disks.check_storage(world, storage or disks.storage_of(drive["file"]), work.node)
            origin = archive.bytes[key]
            volume = await disks.copy(work, origin, target, "", world.pace.import_disk, made)
            config[key] = disks.written({**drive, "file": volume.volid, "size": size_of(volume.size)})
        elif not is_cdrom(drive):
            del config[key]  # was left out of the backup
    if unique:
        renewed(config, world.mac, world.uuid())
    config["vmgenid"] = world.uuid()
    return config
