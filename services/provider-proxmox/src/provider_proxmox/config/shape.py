"""A machine as it shall be: configuration and stamp together, because one call makes both true.

Several changes are made by doing one upon the other. Whatever they were, the difference between the first and the last
shape is the one call that they take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provider_proxmox import stamp
from provider_proxmox.config import disks, hardware, nics
from provider_proxmox.session.index import Guest
from provider_proxmox.stamp import Stamp


@dataclass(frozen=True)
class Shape:
    """A machine as it shall be."""

    config: Mapping[str, Any]
    """What is written now, whether it holds already or only after a restart."""
    stamp: Stamp
    text: str
    """Description for people."""
    leaving: Mapping[str, Any] = field(default_factory=dict)
    """What is in use until a restart, though the configuration has given it up."""
    vmid: int = 0
    node: str = ""

    def having(self, changes: Mapping[str, object | None], record: Stamp | None = None) -> Shape:
        """With these options; None takes one away."""
        config = {key: value for key, value in self.config.items() if key not in changes}
        config |= {key: value for key, value in changes.items() if value is not None}
        return replace(self, config=config, stamp=record if record is not None else self.stamp)

    def noting(self, settings: Mapping[str, str], *, without: str | tuple[str, ...] = ()) -> Shape:
        """With these settings in the stamp, and without those of the same beginning that are asked for no longer."""
        old = {key: value for key, value in self.stamp.settings.items() if not (without and key.startswith(without))}
        return replace(self, stamp=replace(self.stamp, settings=old | dict(settings)))

    @property
    def used(self) -> set[str]:
        """Slots that nothing else can be put into."""
        return {*self.config, *self.leaving}

    @property
    def extra(self) -> dict[str, str]:
        """What extra_config asked for when it was last written."""
        return {key: value for key, value in self.stamp.settings.items() if key in hardware.OUR_KEYS}


def shape_of(guest: Guest, record: Stamp) -> Shape:
    """What a guest is now."""
    config = {key: value for key, value in guest.config.items() if key not in guest.pending and key != "digest"}
    config |= {key: value for key, value in guest.pending.items() if value is not None}
    leaving = {key: guest.config[key] for key, value in guest.pending.items() if value is None and key in guest.config}
    return Shape(config, with_volumes(record, config), guest.description, leaving, guest.vmid, guest.node)


def with_volumes(record: Stamp, config: Mapping[str, Any]) -> Stamp:
    """The stamp that names the volume of every disk: one that was made in a slot got its name from Proxmox VE."""
    for disk in record.disks:
        drive = disks.drive_in(config, disk.slot)
        if drive is not None and not disk.volume and disks.storage_of(drive.volume):
            record = record.with_disk(replace(disk, volume=drive.volume))
    return record


def parameters(before: Shape, after: Shape, written: str) -> dict[str, object]:
    """What the call has to say; empty when there is nothing to do.

    An entry for an unplugged volume is never taken away here: that would delete the volume.

    Args:
        written: description that is there now, stamp included.
    """
    found: dict[str, object] = {
        key: value
        for key, value in after.config.items()
        if str(before.config.get(key, "")) != str(value) and key != "description"
    }
    gone = [key for key in before.config if key not in after.config and not key.startswith("unused")]
    if gone:
        found["delete"] = ",".join(sorted(gone))
    description = stamp.written(after.text, after.stamp)
    if description != written:
        found["description"] = description
    return found


# -- when a device could not be plugged in -----------------------------------------------------------------------------


def failing(before: Guest, now: Guest) -> set[str]:
    """Slots whose change was asked for since `before` and waits: after a failure, those that could not be changed."""
    return {
        key
        for key, value in now.pending.items()
        if (disks.is_slot(key) or nics.is_slot(key)) and (key not in before.pending or before.pending[key] != value)
    }


def boot_back(before: Guest, now: Guest) -> dict[str, object | None]:
    """`boot` as it has to be when only some devices went that were asked to go; None has what waits forgotten."""
    if "boot" not in now.pending or now.pending["boot"] == before.pending.get("boot"):
        return {}
    left = [device for device in disks.boot_order(before.config) if device in now.config]
    order = f"order={';'.join(left)}"
    if order == now.pending["boot"]:
        return {}
    return {"boot": None if order == now.config.get("boot") else order}


def moved(before: Shape, after: Shape, failed: set[str]) -> Shape:
    """The shape with what was changed, and with what could not be changed as it was."""
    config = {key: value for key, value in after.config.items() if key not in failed}
    config |= {key: value for key, value in before.config.items() if key in failed}
    record = after.stamp
    for disk in after.stamp.disks:
        if disk.slot in failed:
            record = record.without_disk(disk.name)
    for nic in after.stamp.nics:
        if nic.slot in failed:
            record = record.without_nic(nic.name)
    for disk in before.stamp.disks:
        if disk.slot in failed or (not disk.slot and record.disk(disk.name) is None):
            record = record.with_disk(disk)
    for nic in before.stamp.nics:
        if nic.slot in failed:
            record = record.with_nic(nic)
    drives = {name: slot for name, slot in after.stamp.cdroms.items() if slot not in failed}
    drives |= {name: slot for name, slot in before.stamp.cdroms.items() if slot in failed}
    return replace(after, config=config, stamp=replace(record, cdroms=drives))


def taking_back(guest: Guest, now: Guest, before: Shape, after: Shape, failed: set[str]) -> dict[str, object]:
    """What the call has to say that takes failed changes out of the configuration again."""
    told = moved(before, after, failed)
    said = parameters(told, told, str(now.config.get("description", "")))
    boot = boot_back(guest, now)
    said |= {key: order for key, order in boot.items() if order is not None}
    gone = sorted(key for key in failed if key not in before.config)
    back = sorted([key for key in failed if key in before.config] + [key for key in boot if boot[key] is None])
    return said | ({"delete": ",".join(gone)} if gone else {}) | ({"revert": ",".join(back)} if back else {})
