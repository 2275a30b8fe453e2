"""Volumes of guests: made, copied, attached and freed, as the drives of a config ask."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .contents import path_of
from .errors import bad, refused
from .images import convert, enlarge, make_blank, virtual_size
from .ova import disk_in_archive
from .strings import bytes_of, drives, is_cdrom, is_cloudinit, parse, render, size_of
from .world import Storage, Volume, World

NEW = re.compile(r"(?P<storage>[A-Za-z][\w.-]*):(?P<size>\d+(?:\.\d+)?)")
CLOUDINIT = re.compile(r"(?P<storage>[A-Za-z][\w.-]*):cloudinit")
VARS = {"2m": 128 << 10, "4m": 528 << 10}  # EFI variables by efitype
TPM = 4 << 20
CLOUDINIT_SIZE = 4 << 20
# What qemu-img tells of a new image.
QEMU_IMG = {
    "raw": "size={} preallocation=off",
    "vmdk": "size={} compat6=off hwversion=undefined",
    "qcow2": "cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib size={}"
    " lazy_refcounts=off refcount_bits=16",
}
NO_VOLUME = ("none", "cdrom")


@dataclass
class Work:
    """Where drives are made, and what is told about it."""

    world: World
    node: str
    vmid: int
    log: Callable[[str], None]
    spend: Callable[[float], Awaitable[None]]


def storage_of(volid: str) -> str:
    """The storage in a volume's name; empty for what is none."""
    return volid.partition(":")[0] if ":" in volid else ""


def written(drive: Mapping[str, str]) -> str:
    """A drive as a config keeps it: the volume, then the options in order; what only its making needed is gone."""
    kept = {key: value for key, value in sorted(drive.items()) if key not in ("file", "format", "import-from")}
    return render({"file": drive["file"], **kept}, "file")


def check_storage(world: World, name: str, node: str) -> Storage:
    """A storage that can hold disks, on that node.

    Raises:
        PveError: 500 when there is none; 400 when it holds other things.
    """
    storage = world.storage(name)
    if not storage.enabled:
        raise refused(f"storage '{name}' is disabled")
    if not storage.there(node):
        raise refused(f"storage '{name}' is not available on node '{node}'")
    if "images" not in storage.content:
        raise bad(storage=f"storage '{name}' does not support vm images")
    return storage


def check_drives(world: World, node: str, wanted: Mapping[str, str]) -> None:
    """What is refused about drives before any work begins."""
    for key, drive in drives(dict(wanted)).items():
        file = drive.get("file", "")
        new = NEW.fullmatch(file) or CLOUDINIT.fullmatch(file)
        source = drive.get("import-from")
        if source and (NEW.fullmatch(file) is None or float(file.partition(":")[2]) != 0):
            raise bad(**{key: "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"})
        if new:
            check_storage(world, new["storage"], node)
        elif file not in NO_VOLUME and not file.startswith("/"):
            world.storage(storage_of(file))
        if source and not source.startswith("/"):
            world.storage(storage_of(source))
            content = source.partition(":")[2].partition("/")[0]
            if content in ("iso", "vztmpl", "backup", "snippets"):
                raise bad(**{key: f"{source} has wrong type '{content}' - needs to be 'images' or 'import'"})


async def make(work: Work, key: str, drive: dict[str, str], made: list[str]) -> dict[str, str]:
    """The drive with a volume of its own where it asked for one; what came into being is added to `made`.

    Raises:
        PveError: there is no such volume, or no room.
    """
    file = drive["file"]
    if file in NO_VOLUME:
        return {name: value for name, value in drive.items() if name != "size"}
    if found := CLOUDINIT.fullmatch(file):
        volume = await allocate(work, work.world.storage(found["storage"]), CLOUDINIT_SIZE, "", name="cloudinit")
        made.append(volume.volid)
        work.log(f"{key}: successfully created disk '{volume.volid},media=cdrom'")
        return {**drive, "file": volume.volid, "media": "cdrom"}
    if found := NEW.fullmatch(file):
        storage = work.world.storage(found["storage"])
        if source := drive.get("import-from"):
            volume = await import_from(work, storage, source, drive.get("format", ""), made)
        else:
            size = special_size(key, drive) or math.ceil(float(found["size"]) * (1 << 20)) << 10
            await work.spend(work.world.pace.allocate)
            volume = await allocate(work, storage, size, "raw" if key == "tpmstate0" else drive.get("format", ""))
            made.append(volume.volid)
        done = {**drive, "file": volume.volid, "size": size_of(volume.size)}
        work.log(f"{key}: successfully created disk '{written(done)}'")
        return done
    if file.startswith("/"):
        return dict(drive)
    volume_there = work.world.volume(file, work.node)
    if volume_there is None:
        raise refused(f"volume '{file}' does not exist")
    return {**drive, "size": size_of(volume_there.size)}


def special_size(key: str, drive: Mapping[str, str]) -> int:
    """The size that firmware state always has, whatever was asked for; 0 for other drives."""
    if key == "efidisk0":
        return VARS.get(drive.get("efitype", "2m"), VARS["2m"])
    return TPM if key == "tpmstate0" else 0


async def allocate(
    work: Work, storage: Storage, size: int, format: str, *, name: str = "disk", parent: str = ""
) -> Volume:
    """A new volume of the guest, under the next free name.

    Raises:
        PveError: the storage is full.
    """
    if storage.used(work.node) + min(size, 1 << 20) > storage.total:
        raise refused(f"unable to allocate {size_of(size)} on storage '{storage.name}': no space left on device")
    chosen = (format or default_format(storage, name)) if storage.files else "raw"
    base = f"{parent.partition(':')[2]}/" if parent else ""
    volid = f"{storage.name}:{base}{free_name(storage, work.node, work.vmid, name, chosen)}"
    volume = Volume(volid, "images", chosen, size, used=min(size, 331776), vmid=work.vmid, parent=parent or None)
    storage.on(work.node)[volid] = volume
    if storage.root is not None:
        bytes_of_volume(work.world, work.node, volid)
    if storage.files:
        work.log(f"Formatting '{path_of(storage, volid)}', fmt={chosen} {QEMU_IMG.get(chosen, '').format(size)}")
    else:
        work.log(f'  Logical volume "{volid.partition(":")[2].rpartition("/")[2]}" created.')
    return volume


def default_format(storage: Storage, name: str) -> str:
    """What files are when nobody says: cloud-init drives are qcow2."""
    return "qcow2" if name == "cloudinit" else "raw"


def free_name(storage: Storage, node: str, vmid: int, name: str, format: str) -> str:
    """The next name of a guest's volume, the way the storage writes it."""
    ending = f".{format}" if storage.files else ""
    folder = f"{vmid}/" if storage.files else ""
    if name != "disk":
        return f"{folder}vm-{vmid}-{name}{ending}"
    pattern = re.compile(rf"(?:.*/)?(?:vm|base)-{vmid}-disk-(\d+)(?:\.\w+)?")
    taken = {int(found.group(1)) for volid in storage.on(node) if (found := pattern.fullmatch(volid.partition(":")[2]))}
    return f"{folder}vm-{vmid}-disk-{next(n for n in range(len(taken) + 1) if n not in taken)}{ending}"


async def import_from(work: Work, storage: Storage, source: str, format: str, made: list[str]) -> Volume:
    """A new volume with the content of an image or of another guest's disk.

    Raises:
        PveError: the source is not there.
    """
    origin = work.world.volume(source, work.node)
    if origin is None and source.startswith("/"):
        origin = by_path(work.world, work.node, source)
    if origin is None:
        origin = disk_in_archive(work.world, source, work.node)
    if origin is None:
        where = work.world.storages.get(storage_of(source), storage)
        raise refused(f"failed to stat '{where.options.get('path', '')}/{source.partition(':')[2]}'")
    work.log(f"create full clone of drive ({source})")
    return await copy(work, origin, storage, format, work.world.pace.import_disk, made)


def by_path(world: World, node: str, path: str) -> Volume | None:
    """A volume by where it lies."""
    for storage in world.storages.values():
        for volid, volume in storage.on(node).items():
            name = volid.partition(":")[2]
            if path in (f"{storage.options.get('path')}/{name}", path_of(storage, volid)):
                return volume
    return None


async def copy(work: Work, origin: Volume, storage: Storage, format: str, seconds: float, made: list[str]) -> Volume:
    """A full copy of a volume; half of it is there while it runs, and `made` names it already."""
    volume = await allocate(work, storage, disk_in(origin), format or (origin.format if storage.files else ""))
    made.append(volume.volid)
    work.log(f"allocated target volume '{volume.volid}'")
    total = human(volume.size)
    for percent in (0, 25, 50, 75, 100):
        work.log(f"transferred {human(volume.size * percent // 100)} of {total} ({percent}.00%)")
        if percent < 100:
            await work.spend(seconds / 4)
    volume.used = max(origin.used, volume.used)
    await copy_bytes(work, origin, volume)
    return volume


async def copy_bytes(work: Work, origin: Volume, volume: Volume) -> None:
    """Give a volume the bytes of another, where that has some; a linked clone gets them as well."""
    if origin.file is not None:
        storage = work.world.storage(storage_of(volume.volid))
        volume.file = place(work.world, storage, work.node, volume.volid)
        await convert(origin.file, volume.file, volume.format)
        grow_file(volume)


def place(world: World, storage: Storage, node: str, volid: str) -> Path:
    """Where the bytes of a guest's volume are: in the storage's directory where it has one."""
    if storage.root is not None:
        return storage.folder(node) / "images" / "/".join(volid.partition(":")[2].split("/")[-2:])
    assert world.home is not None, "volumes have bytes only while the cluster answers"
    return world.home / "volumes" / re.sub(r"[^\w.-]", "_", volid if storage.shared else f"{node}-{volid}")


def bytes_of_volume(world: World, node: str, volid: str) -> Path:
    """The file with a volume's bytes; one that nobody wrote to gets an empty one.

    Raises:
        PveError: there is no such volume.
    """
    volume = world.volume(volid, node)
    if volume is None:
        raise refused(f"volume '{volid}' does not exist")
    if volume.file is None:
        volume.file = place(world, world.storage(storage_of(volid)), node, volid)
        make_blank(volume.file, volume.format, volume.size)
    return volume.file


def disk_in(volume: Volume) -> int:
    """Bytes of the disk in an image; of others the size they were listed with."""
    return virtual_size(volume.file) if volume.content == "import" and volume.file else volume.size


def human(size: int) -> str:
    """Bytes the way qemu-img's progress is told."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def owner(volid: str) -> int | None:
    """The guest that a volume belongs to by its name."""
    parts = volid.partition(":")[2].split("/")
    if len(parts) > 1 and parts[-2].isdecimal():
        return int(parts[-2])
    found = re.match(r"(?:vm|base)-(\d+)-", parts[-1])
    return int(found.group(1)) if found else None


def is_base(volid: str) -> bool:
    """Whether a volume is one that linked clones can lie on."""
    return volid.partition(":")[2].rpartition("/")[2].startswith("base-")


def can_snapshot(storage: Storage, volume: Volume) -> bool:
    """Whether a volume can be snapshot where it lies."""
    return volume.format == "qcow2" if storage.files else storage.kind in ("lvmthin", "zfspool", "rbd")


def can_link(storage: Storage, volid: str, *, snapshot: bool) -> bool:
    """Whether a linked clone can be made of a volume, or of a snapshot of it."""
    if snapshot:
        return storage.kind in ("lvmthin", "rbd")
    return is_base(volid) and (storage.files or storage.kind in ("lvmthin", "zfspool", "rbd"))


def tracked(storage: Storage) -> bool:
    """Whether a linked clone names its base; thin volumes of LVM stand alone."""
    return storage.kind != "lvmthin"


def as_base(world: World, node: str, volid: str) -> str:
    """Turn a volume into one that linked clones can lie on; its new name."""
    storage = world.storage(storage_of(volid))
    folder, slash, last = volid.rpartition("/")
    name = last if slash else volid.partition(":")[2]
    head = f"{folder}/" if slash else f"{storage.name}:"
    renamed = head + re.sub("^vm-", "base-", name)
    volume = storage.on(node).pop(volid)
    volume.volid = renamed
    if volume.file is not None and storage.root is not None:
        volume.file = volume.file.rename(place(world, storage, node, renamed))
    storage.on(node)[renamed] = volume
    return renamed


def given_to(world: World, node: str, volid: str, vmid: int) -> str:
    """Rename a volume so that it is this guest's; its new name.

    Raises:
        PveError: there is no such volume.
    """
    storage = world.storage(storage_of(volid))
    volume = storage.on(node).pop(volid, None)
    if volume is None:
        raise refused(f"volume '{volid}' does not exist")
    base = f"{volume.parent.partition(':')[2]}/" if volume.parent and tracked(storage) else ""
    volume.volid = f"{storage.name}:{base}{free_name(storage, node, vmid, 'disk', volume.format)}"
    volume.vmid = vmid
    if volume.file is not None and storage.root is not None:
        folder = place(world, storage, node, volume.volid)
        folder.parent.mkdir(parents=True, exist_ok=True)
        volume.file = volume.file.rename(folder)
    storage.on(node)[volume.volid] = volume
    return volume.volid


def users_of_base(world: World, volid: str) -> list[str]:
    """The linked clones that lie on a volume."""
    return [
        other.volid
        for storage in world.storages.values()
        for volumes in storage.volumes.values()
        for other in volumes.values()
        if other.parent == volid
    ]


def check_base_unused(world: World, volids: Iterable[str], text: str) -> None:
    """Refuse to free volumes that linked clones lie on."""
    for volid in volids:
        if users_of_base(world, volid):
            raise refused(text.format(volid))


def free(world: World, node: str, volid: str) -> bool:
    """Remove a volume and its bytes; whether it was there.

    Raises:
        PveError: linked clones lie on it.
    """
    storage = world.storages.get(storage_of(volid))
    if storage is None:
        return False
    name = volid.partition(":")[2]
    check_base_unused(world, [volid], f"base volume '{name}' is still in use by linked clones")
    gone = storage.on(node).pop(volid, None)
    if gone is not None and gone.file is not None:
        gone.file.unlink(missing_ok=True)
    return gone is not None


def volids(config: Mapping[str, str]) -> list[str]:
    """The volumes that a config names, media of CD drives left out, cloud-init's drive included."""
    found = [
        drive["file"]
        for drive in drives(dict(config)).values()
        if drive.get("file") and drive["file"] not in NO_VOLUME and (not is_cdrom(drive) or is_cloudinit(drive))
    ]
    return found + [parse(value, "file")["file"] for key, value in config.items() if key.startswith("unused")]


def check_growth(volume: Volume, size: int) -> None:
    """Refuse to make a volume smaller."""
    if size < volume.size:
        raise refused("shrinking disks is not supported")


async def grow(volume: Volume, size: int) -> None:
    """Make a volume larger, and its bytes where it has some."""
    check_growth(volume, size)
    volume.size = -(-size // 1024) * 1024
    if volume.file is not None and volume.format != "raw":
        await enlarge(volume.file, volume.format, volume.size)
    grow_file(volume)


def grow_file(volume: Volume) -> None:
    """Make raw bytes as long as the volume is."""
    if volume.file is not None and volume.format == "raw" and volume.file.stat().st_size < volume.size:
        os.truncate(volume.file, volume.size)


def wanted_size(volume: Volume, text: str) -> int:
    """`+1G` or `3G` as the size to reach."""
    return volume.size + bytes_of(text[1:]) if text.startswith("+") else bytes_of(text)
