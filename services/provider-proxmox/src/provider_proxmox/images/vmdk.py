"""VMDK files judged by their beginning: the kinds that stand alone, which `import-from` reads.

Source: VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import re
import struct

from common.errors import BrokenImageError
from providerkit.formats import Format

MAGIC = b"KDMV"
HEAD_BYTES = 64 << 10
"""Bytes from the start of a file that `examine` wants to see: the descriptor lies among them."""

_SECTOR = 512
_KINDS = ("monolithicSparse", "streamOptimized")
_NO_PARENT = "ffffffff"


def examine(head: bytes, wanted: str) -> Format:
    """The disk in a VMDK file.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.
        wanted: format that the declaration promises; empty means whichever it is.
    Raises:
        BrokenImageError: another format was promised, or it is one that would read files beside itself.
    """
    if wanted not in ("", "vmdk"):
        raise BrokenImageError(f"the image is declared as {wanted}, and is vmdk")
    if len(head) < _SECTOR:
        raise BrokenImageError("the vmdk header is cut off")
    (capacity,) = struct.unpack_from("<Q", head, 12)
    place, length = struct.unpack_from("<QQ", head, 28)
    descriptor = head[place * _SECTOR : (place + length) * _SECTOR].rstrip(b"\0").decode(errors="replace")
    if not place or not descriptor:
        raise BrokenImageError("the vmdk file has no descriptor; convert it: qemu-img convert -O qcow2")
    said = dict(re.findall(r'^[ \t]*+(\w+)[ \t]*+=[ \t]*+"?([^"\n]*)"?[ \t\r]*$', descriptor, re.MULTILINE))
    if said.get("createType") not in _KINDS:
        raise BrokenImageError(f"the vmdk file is no {' or '.join(_KINDS)}; convert it: qemu-img convert -O qcow2")
    if said.get("parentCID", _NO_PARENT).lower() != _NO_PARENT:
        raise BrokenImageError("the vmdk file stands on another one; flatten it: qemu-img convert -O qcow2")
    extents = re.findall(r"^[ \t]*+(RW|RDONLY|NOACCESS)[ \t]++\d++[ \t]++(\w+)", descriptor, re.MULTILINE)
    if extents != [("RW", "SPARSE")]:
        raise BrokenImageError("the vmdk file keeps its data in other files; convert it: qemu-img convert -O qcow2")
    if not 0 < capacity < 1 << 51:
        raise BrokenImageError(f"the vmdk file has an impossible capacity of {capacity} sectors")
    return Format("vmdk", capacity * _SECTOR)
