"""Disks and drives of a guest: the slots that they are in, and their property strings."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError

from provider_proxmox.config import properties, sizes
from provider_proxmox.config.properties import Property

SLOTS: Final = {"scsi": 31, "virtio": 16, "sata": 6, "ide": 4}
"""Slots of each bus. Source: the API schema of Proxmox VE 9.2."""
BUSES: Final = {
    v1.DiskBus.SCSI: "scsi",
    v1.DiskBus.VIRTIO: "virtio",
    v1.DiskBus.SATA: "sata",
    v1.DiskBus.IDE: "ide",
}
DEFAULT_BUS: Final = "scsi"
BOOT_DATA_SLOT: Final = "ide2"
"""Where first-boot data are: drives of a spec leave it free."""
STATE_SLOTS: Final = ("efidisk0", "tpmstate0")
"""Slots of volumes that are no disks: variables of the firmware, state of the TPM."""
CONTROLLERS: Final = ("virtio-scsi-single", "virtio-scsi-pci", "lsi", "lsi53c810", "megasas", "pvscsi")
"""What DiskSpec.controller_type may say: the one controller that all SCSI disks of a machine hang on."""

_SLOT: Final = re.compile(r"(scsi|virtio|sata|ide)(0|[1-9]\d?)")
_UNUSED: Final = re.compile(r"unused\d+")
_DRIVE_SLOTS: Final = ("ide0", "ide1", "ide3", *(f"sata{n}" for n in range(SLOTS["sata"])))
_QCOW2_KINDS: Final = frozenset({"dir", "nfs", "cifs"})
_OWNER: Final = re.compile(r"(?:vm|base|subvol)-([0-9]{1,9})-")
_IN_DIRECTORY: Final = re.compile(r"([0-9]{1,9})/[^/]+")


@dataclass(frozen=True, slots=True)
class Drive:
    """What is in a slot."""

    slot: str
    options: Property

    @property
    def volume(self) -> str:
        """ "local-lvm:vm-101-disk-0"; "none" for an empty drive, "cdrom" for the host's own."""
        return self.options.head or self.options.get("file") or self.options.get("volume")

    @property
    def storage(self) -> str:
        """Storage of the volume; empty for a path and for an empty drive."""
        return storage_of(self.volume)

    @property
    def is_cdrom(self) -> bool:
        """A drive for optical disks, Proxmox VE's own cloud-init drive among them."""
        return self.options.get("media") == "cdrom" or self.volume in ("none", "cdrom")

    @property
    def medium(self) -> str:
        """What is in a drive; empty for an empty one."""
        return "" if self.volume in ("none", "cdrom") else self.volume

    @property
    def size_bytes(self) -> int:
        """Size as the configuration tells it; 0 where it does not."""
        return sizes.parse(self.options.get("size", "0"))


@dataclass(frozen=True, slots=True)
class Options:
    """How disks of a machine are attached; empty leaves it to Proxmox VE."""

    cache: str = ""
    discard: str = "on"
    iothread: str = "1"
    ssd: str = ""
    backup: str = ""
    aio: str = ""


# -- what is there -----------------------------------------------------------------------------------------------------


def is_slot(key: str) -> bool:
    """Whether this key of a configuration is the slot of a disk or drive."""
    found = _SLOT.fullmatch(key)
    return found is not None and int(found[2]) < SLOTS[found[1]]


def bus_of(slot: str) -> v1.DiskBus:
    """Bus of a slot; UNSPECIFIED for a key that is none."""
    found = _SLOT.fullmatch(slot)
    return next((bus for bus, name in BUSES.items() if found and name == found[1]), v1.DiskBus.UNSPECIFIED)


def drives(config: Mapping[str, Any]) -> list[Drive]:
    """Everything in a slot, by bus and number."""
    found = [Drive(key, properties.parse(value)) for key, value in config.items() if is_slot(key)]
    return sorted(found, key=lambda drive: _order(drive.slot))


def disks(config: Mapping[str, Any]) -> list[Drive]:
    """Disks alone: those that the guest boots from come first, in that order."""
    booting = boot_order(config)
    rank = {slot: place for place, slot in enumerate(booting)}
    found = [drive for drive in drives(config) if not drive.is_cdrom]
    return sorted(found, key=lambda drive: rank.get(drive.slot, len(rank)))


def cdroms(config: Mapping[str, Any]) -> list[Drive]:
    """Drives for optical disks."""
    return [drive for drive in drives(config) if drive.is_cdrom]


def drive_in(config: Mapping[str, Any], slot: str) -> Drive | None:
    """What is in this slot, or among the states of firmware and TPM."""
    return Drive(slot, properties.parse(config[slot])) if slot and slot in config else None


def unused(config: Mapping[str, Any]) -> dict[str, str]:
    """Volume of each entry for unplugged disks: "unused0" -> "local-lvm:vm-101-disk-1"."""
    return {key: Drive(key, properties.parse(value)).volume for key, value in config.items() if _UNUSED.fullmatch(key)}


def volumes(config: Mapping[str, Any]) -> dict[str, str]:
    """Every volume that a configuration names, by key: disks, states, unplugged ones; media of drives are not."""
    found = {disk.slot: disk.volume for disk in disks(config)}
    for slot in STATE_SLOTS:
        if (state := drive_in(config, slot)) is not None:
            found[slot] = state.volume
    return found | unused(config)


def boot_order(config: Mapping[str, Any]) -> list[str]:
    """Devices in the order of booting; empty where the configuration leaves it open."""
    order = properties.parse(config.get("boot", "")).get("order")
    return [device for device in order.split(";") if device]


def storage_of(volume: str) -> str:
    """Storage of a volume "storage:name"; empty for a path and for no volume at all."""
    storage, colon, _ = volume.partition(":")
    return storage if colon and "/" not in storage else ""


def owner_of(volume: str) -> int:
    """VMID in a volume's name, which is what Proxmox VE takes for its owner; 0 for a volume of nobody.

    A linked clone is named with its base, "base-9000-disk-0/vm-101-disk-0": the last part tells.
    Source: parse_volname of PVE::Storage's plugins.
    """
    name = volume.partition(":")[2]
    found = _OWNER.match(name.rpartition("/")[2])
    if found is not None:
        return int(found[1])
    directory = _IN_DIRECTORY.fullmatch(name)
    return int(directory[1]) if directory is not None else 0


def uses(config: Mapping[str, Any], volume: str) -> bool:
    """Whether a guest with this configuration uses the volume: two that write to one destroy what is on it."""
    return any(drive.volume == volume for drive in disks(config))


# -- what it becomes ---------------------------------------------------------------------------------------------------


def bus_name(disk: v1.DiskSpec) -> str:
    """Bus that a disk is to be on.

    Raises:
        InvalidSpecError: Proxmox VE has none such, or the controller that is asked for belongs to another bus.
    """
    name = BUSES.get(disk.bus, "" if disk.bus is not v1.DiskBus.UNSPECIFIED else DEFAULT_BUS)
    if not name:
        raise InvalidSpecError(f"disk {disk.name}: Proxmox VE has no {disk.bus.name} bus")
    if disk.controller_type and name != "scsi":
        raise InvalidSpecError(f"disk {disk.name}: controller_type {disk.controller_type} is for SCSI disks")
    return name


def controller(disks: Iterable[v1.DiskSpec]) -> str:
    """The SCSI controller that the disks ask for; empty when none of them does.

    Raises:
        InvalidSpecError: there is none such, or they ask for several, of which a machine has only one.
    """
    wishes = {disk.controller_type: disk.name for disk in disks if disk.controller_type}
    for wish, name in wishes.items():
        if wish not in CONTROLLERS:
            raise InvalidSpecError(f"disk {name}: controller_type {wish!r} is none of {', '.join(CONTROLLERS)}")
    if len(wishes) > 1:
        raise InvalidSpecError(f"disks: {' and '.join(sorted(wishes))} asked for, a machine has one SCSI controller")
    return next(iter(wishes), "")


def free_slot(disk: v1.DiskSpec, taken: Container[str]) -> str:
    """The first free slot of the disk's bus; `controller_index` asks for a certain one.

    Raises:
        InvalidSpecError: there is none left, or the one asked for is taken.
    """
    bus = bus_name(disk)
    if disk.controller_index is not None:
        slot = f"{bus}{disk.controller_index}"
        if not is_slot(slot) or slot in taken:
            raise InvalidSpecError(f"disk {disk.name}: slot {slot} is taken or does not exist")
        return slot
    slots = (f"{bus}{n}" for n in range(SLOTS[bus]))
    slot = next((slot for slot in slots if slot not in taken and slot != BOOT_DATA_SLOT), "")
    if not slot:
        raise InvalidSpecError(f"disk {disk.name}: all {SLOTS[bus]} slots of bus {bus} are taken")
    return slot


def free_drive_slot(name: str, taken: Container[str]) -> str:
    """The first free slot for a drive.

    Raises:
        InvalidSpecError: there is none left.
    """
    slot = next((slot for slot in _DRIVE_SLOTS if slot not in taken), "")
    if not slot:
        raise InvalidSpecError(f"cdrom {name}: every slot for drives is taken")
    return slot


def new(storage: str, size: int, *, format: str = "", source: str = "") -> Property:
    """A volume that is to be made.

    Args:
        size: in bytes; a copy has the size of its source, whatever is given.
        format: of the file; empty is the storage's own.
        source: volume whose content it gets ("import-from").
    """
    volume = f"{storage}:{'0' if source else sizes.gib(size)}"
    return properties.of(volume, import_from=source, format=format)


def format_on(kind: str) -> str:
    """Format of new disks on a storage of this kind: snapshots need qcow2 where disks are files."""
    return "qcow2" if kind in _QCOW2_KINDS else ""


def attached(volume: Property, disk: v1.DiskSpec, slot: str, options: Options) -> Property:
    """How the volume is attached: the machine's options and the disk's own limits, as far as the bus knows them."""
    bus = bus_name(disk) if not is_slot(slot) else slot.rstrip("0123456789")
    wishes: dict[str, str | None] = {
        "cache": options.cache or None,
        "discard": options.discard or None,
        "iothread": (options.iothread or None) if bus in ("scsi", "virtio") else None,
        "ssd": (options.ssd or None) if bus != "virtio" else None,
        "backup": options.backup or None,
        "aio": options.aio or None,
        "iops": str(disk.iops_limit) if disk.iops_limit else None,
    }
    return volume.having({key: value for key, value in wishes.items() if value is not None})


def limited(drive: Property, iops_limit: int) -> Property:
    """The drive with this limit of operations a second; 0 takes it off."""
    return drive.having({"iops": str(iops_limit) if iops_limit else None})


def cdrom(medium: str) -> Property:
    """A drive with this in it.

    Raises:
        InvalidSpecError: no volume of a storage.
    """
    if medium and not storage_of(medium):
        raise InvalidSpecError(f"cdrom medium {medium!r}: give a volume of a storage, as in 'local:iso/debian.iso'")
    return properties.of(medium or "none", media="cdrom")


def _order(slot: str) -> tuple[int, int]:
    found = _SLOT.fullmatch(slot)
    return (list(SLOTS).index(found[1]), int(found[2])) if found is not None else (len(SLOTS), 0)
