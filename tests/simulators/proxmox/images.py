"""Disk images: what a file is, how large the disk is in it, and the smallest file that is one."""

from __future__ import annotations

import struct
from pathlib import Path

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
    """The head of a qcow2 image with a virtual size of so many bytes; enough to be taken for one."""
    # magic, version, no backing file, 64 KiB clusters, virtual size, no encryption; the rest of the head is zero
    return struct.pack(">4sIQIIQI", _QCOW2, 3, 0, 0, 16, size, 0).ljust(104, b"\0")


def vmdk(size: int) -> bytes:
    """The head of a sparse VMDK with a capacity of so many bytes; enough to be taken for one."""
    return struct.pack("<4sIIQ", _VMDK, 1, 3, size // SECTOR).ljust(65536, b"\0")
