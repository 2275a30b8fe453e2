"""Proxmox VE's property strings: `local-lvm:vm-101-disk-0,size=8G,ssd=1`."""

from __future__ import annotations

import re

from .errors import PveError

BUSES = ("ide", "sata", "scsi", "virtio")
DISK = re.compile(r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0")
UNUSED = re.compile(r"unused\d+")
NET = re.compile(r"net\d+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse(text: str, default: str = "") -> dict[str, str]:
    """The parts of a property string in their order; a bare value stands under `default`."""
    parts: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals:
            parts[key] = value
        elif part:
            parts[default] = part
    return parts


def render(parts: dict[str, str], default: str = "") -> str:
    """The inverse of `parse`."""
    return ",".join(value if key == default else f"{key}={value}" for key, value in parts.items())


def number(text: str) -> int:
    """The leading number of a value such as memory's `2048` or `current=2048`."""
    found = re.search(r"\d+", text)
    return int(found.group()) if found else 0


def bytes_of(text: str) -> int:
    """`8G` as bytes.

    Raises:
        PveError: it is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise PveError(500, f"unable to parse size '{text}'")
    return int(float(found.group(1)) * (1 << _UNITS[found.group(2)]))


def size_of(amount: int) -> str:
    """Bytes in the largest unit that leaves no remainder."""
    for unit in ("T", "G", "M", "K"):
        if amount % (1 << _UNITS[unit]) == 0:
            return f"{amount >> _UNITS[unit]}{unit}"
    return str(amount)


def is_disk(key: str) -> bool:
    """Whether a config key names a drive; unused ones do not count."""
    return DISK.fullmatch(key) is not None


def drives(config: dict[str, str]) -> dict[str, dict[str, str]]:
    """The drives of a config by key, CD drives included; the volume is under `file`."""
    return {key: parse(value, "file") for key, value in config.items() if is_disk(key)}


def is_cdrom(drive: dict[str, str]) -> bool:
    """Whether a drive is one for media, a cloud-init drive included."""
    return drive.get("media") == "cdrom" or is_cloudinit(drive)


def is_cloudinit(drive: dict[str, str]) -> bool:
    """Whether a drive is the one with cloud-init's data."""
    file = drive.get("file", "")
    return file.endswith((":cloudinit", "-cloudinit")) or "-cloudinit." in file


def disk_size(config: dict[str, str]) -> int:
    """The size of the boot disk, or of the first disk: what lists show."""
    found = {key: drive for key, drive in drives(config).items() if not is_cdrom(drive) and "size" in drive}
    order = parse(config.get("boot", "")).get("order", "").split(";")
    for key in [*order, *sorted(found)]:
        if key in found and key not in ("efidisk0", "tpmstate0"):
            return bytes_of(found[key]["size"])
    return 0
