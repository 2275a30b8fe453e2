"""What a disk image file really is, judged by its first bytes: the part of `qemu-img info` that safety needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from common.errors import BrokenImageError

HEADER_BYTES = 512
"""Bytes from the start of a file that `examine` wants to see."""

_QCOW2 = b"QFI\xfb"
_OTHER = {
    b"KDMV": "vmdk",
    b"COWD": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"conectix": "vpc",
    b"vhdxfile": "vhdx",
    b"<<< ": "vdi",
    b"QED\0": "qed",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_INCOMPATIBLE_DATA_FILE, _INCOMPATIBLE_CORRUPT = 1 << 2, 1 << 1


@dataclass(frozen=True)
class Format:
    """Format of an image, and the capacity of the disk in it."""

    name: str
    capacity: int


def examine(head: bytes, length: int, wanted: str) -> Format:
    """Tell a qcow2 from a raw image, and refuse everything that must not become a base image.

    Args:
        head: the first HEADER_BYTES of the file, or all of it.
        length: bytes of the whole file.
        wanted: format that the declaration promises; empty means whichever it is.
    Raises:
        BrokenImageError: no image, another format, or one that would read files beside itself.
    """
    if wanted not in ("", "qcow2", "raw"):
        raise BrokenImageError(f"format {wanted} is not supported; convert it: qemu-img convert -O qcow2")
    if length == 0:
        raise BrokenImageError("the file is empty")
    if head.startswith(_QCOW2):
        if wanted == "raw":
            raise BrokenImageError("the image is declared as raw, and is qcow2")
        return _qcow2(head, length)
    if wanted == "qcow2":
        raise BrokenImageError(f"the image is declared as qcow2, and is {_guess(head)}")
    if (other := _guess(head)) != "of no known format":
        raise BrokenImageError(f"the file is {other}, not a disk image; unpack or convert it first")
    if length % 512:
        raise BrokenImageError(f"{length} bytes are no disk: a raw image is a multiple of 512 bytes")
    return Format("raw", length)


def _guess(head: bytes) -> str:
    for magic, name in _OTHER.items():
        if head.startswith(magic):
            return name
    text = head[:256].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or a document"
    return "of no known format"


def _qcow2(head: bytes, length: int) -> Format:
    """Source: QEMU, docs/interop/qcow2.txt."""
    if len(head) < 72:
        raise BrokenImageError("the qcow2 header is cut off")
    version, backing_offset, _backing_size, _bits, size = struct.unpack_from(">IQIIQ", head, 4)
    crypt, l1_size, l1_offset = struct.unpack_from(">IIQ", head, 32)
    if version not in (2, 3):
        raise BrokenImageError(f"qcow2 version {version} is not supported")
    if backing_offset:
        raise BrokenImageError("the qcow2 image stands on a backing file; flatten it: qemu-img convert -O qcow2")
    if crypt:
        raise BrokenImageError("the qcow2 image is encrypted, which is not supported")
    if version == 3:
        if len(head) < 104:
            raise BrokenImageError("the qcow2 header is cut off")
        (incompatible,) = struct.unpack_from(">Q", head, 72)
        if incompatible & _INCOMPATIBLE_DATA_FILE:
            raise BrokenImageError(
                "the qcow2 image keeps its data in another file; flatten it: qemu-img convert -O qcow2"
            )
        if incompatible & _INCOMPATIBLE_CORRUPT:
            raise BrokenImageError("the qcow2 image is marked as corrupt; repair it: qemu-img check -r all")
    if size == 0 or size % 512 or size > 1 << 60:
        raise BrokenImageError(f"the qcow2 image has an impossible capacity of {size} bytes")
    if l1_offset + 8 * l1_size > length:
        raise BrokenImageError("the qcow2 image is cut off: its tables lie beyond its end")
    return Format("qcow2", size)
