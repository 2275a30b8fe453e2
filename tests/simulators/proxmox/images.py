"""Disk images: what a file is, how large the disk is in it, empty ones, and copies."""

from __future__ import annotations

import asyncio
import shutil
import struct
from pathlib import Path

from .errors import refused

SECTOR = 512
_QCOW2, _VMDK = b"QFI\xfb", b"KDMV"
_HEAD = 24 + 8


def format_of(file: Path) -> str:
    """The format that the file's first bytes tell; `raw` for everything unknown."""
    with file.open("rb") as content:
        magic = content.read(4)
    return {_QCOW2: "qcow2", _VMDK: "vmdk"}.get(magic, "raw")


def virtual_size(file: Path) -> int:
    """Bytes of the disk in an image."""
    with file.open("rb") as content:
        head = content.read(_HEAD)
    if head.startswith(_QCOW2):
        return int(struct.unpack_from(">Q", head, 24)[0])
    if head.startswith(_VMDK):
        return int(struct.unpack_from("<Q", head, 12)[0]) * SECTOR
    return file.stat().st_size


def qcow2(size: int) -> bytes:
    """An empty qcow2 image with a virtual size of so many bytes: header, references, and a table without entries."""
    cluster, reach = 1 << 16, 1 << 29  # bytes; one entry of the table reaches so far
    entries = max(1, -(-size // reach))
    # magic, version, no backing file, cluster bits, size, no encryption, table, references, no snapshots, no features
    header = struct.pack(">4sIQIIQIIQQIIQ", _QCOW2, 3, 0, 0, 16, size, 0, entries, 3 * cluster, cluster, 1, 0, 0)
    header += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    references = struct.pack(">Q", 2 * cluster)
    counts = struct.pack(">H", 1) * (3 + -(-entries * 8 // cluster))
    return b"".join(part.ljust(cluster, b"\0") for part in (header, references, counts)) + bytes(entries * 8)


def vmdk(size: int) -> bytes:
    """An empty sparse VMDK with a capacity of so many bytes."""
    sectors, grain, per_table, head = size // SECTOR, 128, 512, 21
    told = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'
    told += f'RW {sectors} SPARSE "disk.vmdk"\n'
    # magic, version, flags, sizes in sectors: capacity, grain, descriptor (place, size), table, both directories, data
    parts = (_VMDK, 1, 3, sectors, grain, 1, head - 1, per_table, head, head, 128, 0, b"\n \r\n", 0)
    header = struct.pack("<4sIIQQQQIQQQB4sH", *parts)
    return (header.ljust(SECTOR, b"\0") + told.encode()).ljust(65536, b"\0")


def make_blank(file: Path, format: str, size: int) -> None:
    """An image that nothing was written to."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as image:
        if format in ("qcow2", "vmdk"):
            image.write(qcow2(size) if format == "qcow2" else vmdk(size))
        else:
            image.truncate(size)


async def convert(source: Path, target: Path, format: str) -> None:
    """Copy an image, into another format where it has to be.

    Raises:
        PveError: it is no image, or qemu-img is not installed here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    found = format_of(source)
    if found == format:
        await asyncio.to_thread(shutil.copyfile, source, target)
        return
    await _qemu_img("convert", "-f", found, "-O", format, str(source), str(target))


async def enlarge(image: Path, format: str, size: int) -> None:
    """Make the disk in an image larger.

    Raises:
        PveError: it is no image, or qemu-img is not installed here.
    """
    await _qemu_img("resize", "-q", "-f", format, str(image), str(size))


async def keep_snapshot(image: Path, name: str) -> None:
    """Have a snapshot of this name inside of a qcow2 image: of now, unless there is one.

    Raises:
        PveError: it is no image, or qemu-img is not installed here.
    """
    if f" {name} " not in await _qemu_img("snapshot", "-l", str(image)):
        await _qemu_img("snapshot", "-c", name, str(image))


async def _qemu_img(*command: str) -> str:
    tool = shutil.which("qemu-img")
    if tool is None:
        raise refused("qemu-img is not installed here")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(tool, *command, stdout=pipe, stderr=pipe)
    told, said = await process.communicate()
    if process.returncode:
        raise refused(said.decode().strip())
    return told.decode()
