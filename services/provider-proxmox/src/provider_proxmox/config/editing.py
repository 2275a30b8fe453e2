"""Changes of devices and texts, each a plain function from a shape to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from common import v1
from common.errors import InvalidSpecError, ResourceNotFoundError
from providerkit.planner import DESCRIPTION_SETTING, boot_data_digest

from provider_proxmox.config import disks, hardware, making, nics, properties
from provider_proxmox.config.shape import Shape

# -- disks -------------------------------------------------------------------------------------------------------------


def attach_disk(shape: Shape, disk: v1.DiskSpec, *, storage: str, format: str = "") -> Shape:
    """Plug a disk in; one that was unplugged, by whomever, comes back with its content.

    Args:
        storage: where a new volume is made.
        format: of its file, on storages of files.
    Raises:
        InvalidSpecError: there is no place for it, or nothing that it could be made from.
    """
    known = shape.stamp.disk(disk.name)
    if known is not None and known.slot in shape.config:
        return shape
    if known is not None and (slot := _slot_of(shape.config, known.volume)):  # somebody put it there
        return replace(shape, stamp=shape.stamp.with_disk(replace(known, slot=slot)))
    held = disk.existing.id if disk.existing is not None else known.volume if known is not None else ""
    # What a slot keeps until a restart stays in that slot: in a second one the guest would have it twice.
    slot = _slot_of(shape.leaving, held) or disks.free_slot(disk, shape.used)
    record = making.disk_stamp(disk, slot)
    if disk.existing is not None:
        volume = making.existing(disk)
    elif known is not None and known.volume and (not known.slot or _is_kept(shape, known.volume)):
        volume, record = properties.of(known.volume), replace(known, slot=slot)
    elif disk.image is not None:
        raise InvalidSpecError(f"disk {disk.name}: a disk that is added later cannot be made from an image")
    elif not disk.size_bytes:
        raise InvalidSpecError(f"disk {disk.name}: size_bytes is missing")
    else:
        volume = disks.new(storage, disk.size_bytes, format=format)
    value = disks.attached(volume, disk, slot, hardware.disk_options(shape.extra))
    back = {key: None for key, name in disks.unused(shape.config).items() if name == record.volume and name}
    asked = hardware.asked(v1.MachineSpec(disks=[disk]))
    return shape.having({slot: str(value), **back}, shape.stamp.with_disk(record)).noting(asked)


def _slot_of(config: Mapping[str, Any], volume: str) -> str:
    """The slot that has this volume; empty if none has."""
    return next((drive.slot for drive in disks.drives(config) if volume and drive.volume == volume), "")


def _is_kept(shape: Shape, volume: str) -> bool:
    """Whether it is there without a slot, or loses that with the next restart."""
    return volume in disks.unused(shape.config).values() or bool(_slot_of(shape.leaving, volume))


def update_disk(shape: Shape, disk: v1.DiskSpec) -> Shape:
    """Limit of operations.

    Raises:
        ResourceNotFoundError: the machine has no such disk.
    """
    drive = drive_of(shape, disk.name, "update")
    asked = hardware.asked(v1.MachineSpec(disks=[disk]))
    value = disks.limited(drive.options, disk.iops_limit)
    return shape.having({drive.slot: str(value)}).noting(asked, without=f"disks[{disk.name}].")


def detach_disk(shape: Shape, name: str) -> Shape:
    """Unplug a disk; its volume stays, and stays ours if it was."""
    known = shape.stamp.disk(name)
    if known is None or not known.slot:
        return shape
    drive = disks.drive_in(shape.config, known.slot)
    record = shape.stamp.without_disk(name)
    volume = drive.volume if drive is not None else known.volume
    if known.owned and volume:
        record = shape.stamp.with_disk(replace(known, slot="", volume=volume))
    return shape.having({known.slot: None}, record).noting({}, without=f"disks[{name}].")


def moved_disk(shape: Shape, name: str) -> Shape:
    """The stamp's record of a disk whose volume has another name by now."""
    known = shape.stamp.disk(name)
    drive = disks.drive_in(shape.config, known.slot) if known is not None else None
    if known is None or drive is None:
        return shape
    return replace(shape, stamp=shape.stamp.with_disk(replace(known, volume=drive.volume)))


def drive_of(shape: Shape, name: str, verb: str) -> disks.Drive:
    """The drive of a disk that is plugged in.

    Raises:
        ResourceNotFoundError: the machine has no such disk.
    """
    known = shape.stamp.disk(name)
    drive = disks.drive_in(shape.config, known.slot) if known is not None else None
    if drive is None:
        raise ResourceNotFoundError(f"{verb} disk {name}: the machine has no such disk")
    return drive


# -- drives and network adapters ---------------------------------------------------------------------------------------


def set_cdrom(shape: Shape, cdrom: v1.CdromSpec) -> Shape:
    """Put a medium into the drive of this name, which is added where there is none."""
    slot, value = shape.stamp.cdroms.get(cdrom.name, ""), disks.cdrom(cdrom.medium)
    drive = disks.drive_in(shape.config, slot)
    if drive is not None:
        return shape if drive.medium == cdrom.medium else shape.having({slot: str(value)})
    slot = disks.free_drive_slot(cdrom.name, shape.used)
    record = replace(shape.stamp, cdroms=shape.stamp.cdroms | {cdrom.name: slot})
    return shape.having({slot: str(value)}, record)


def detach_cdrom(shape: Shape, name: str) -> Shape:
    """Remove a drive; what is in it stays."""
    if name not in shape.stamp.cdroms:
        return shape
    left = {each: slot for each, slot in shape.stamp.cdroms.items() if each != name}
    return shape.having({shape.stamp.cdroms[name]: None}, replace(shape.stamp, cdroms=left))


def attach_nic(shape: Shape, nic: v1.NicSpec, mac: str, *, default_bridge: str) -> Shape:
    """Plug a NIC in."""
    known = shape.stamp.nic(nic.name)
    if known is not None and known.slot in shape.config:
        return shape
    slot = nics.free_slot(nic.name, shape.used)
    value = nics.value(nic, mac, default_bridge=default_bridge)
    return shape.having({slot: str(value)}, shape.stamp.with_nic(nics.record(nic, slot)))


def update_nic(shape: Shape, nic: v1.NicSpec, *, default_bridge: str) -> Shape:
    """Another network, model, MAC or limits; what the spec leaves open stays.

    Raises:
        ResourceNotFoundError: the machine has no such NIC.
    """
    known = shape.stamp.nic(nic.name)
    if known is None or known.slot not in shape.config:
        raise ResourceNotFoundError(f"update NIC {nic.name}: the machine has no such NIC")
    old = properties.parse(shape.config[known.slot])
    mac = nic.mac or nics.Nic(known.slot, old).mac
    value = nics.value(nic, mac, default_bridge=default_bridge, old=old)
    return shape.having({known.slot: str(value)}, shape.stamp.with_nic(nics.record(nic, known.slot)))


def detach_nic(shape: Shape, name: str) -> Shape:
    """Unplug a NIC."""
    known = shape.stamp.nic(name)
    if known is None:
        return shape
    return shape.having({known.slot: None}, shape.stamp.without_nic(name))


# -- texts, first-boot data, the stamp itself --------------------------------------------------------------------------


def set_tags(shape: Shape, tags: Sequence[str]) -> Shape:
    """Replace the tags that we gave; those of other people stay."""
    record = replace(shape.stamp, tags=tuple(sorted(set(tags))))
    return shape.having({"tags": tag_list(shape.config, shape.stamp.tags, record.tags)}, record)


def tag_list(config: Mapping[str, Any], ours: Sequence[str], wanted: Sequence[str]) -> str:
    """Value of `tags`.

    Args:
        ours: tags that we gave earlier.
    """
    given = set(making.tag_list(list(ours)).split(";"))
    others = [tag for tag in str(config.get("tags", "")).replace(",", ";").split(";") if tag and tag not in given]
    return making.tag_list([*others, *wanted])


def set_description(shape: Shape, text: str) -> Shape:
    """Replace the text for people."""
    return replace(shape, text=text).noting({DESCRIPTION_SETTING: "true"} if text else {}, without=DESCRIPTION_SETTING)


def note(shape: Shape, key: str, value: str) -> Shape:
    """Keep a note in the stamp, or take it away."""
    return shape.noting({key: value} if value else {}, without=key)


def set_boot_data(
    shape: Shape, spec: v1.MachineSpec, options: Mapping[str, object | None], volumes: Sequence[str]
) -> Shape:
    """Name the first-boot data that were written.

    Args:
        options: what the configuration says of them.
        volumes: what was made for them.
    """
    record = replace(shape.stamp, boot_digest=boot_data_digest(spec), volumes=tuple(volumes))
    return shape.having(options, record)
