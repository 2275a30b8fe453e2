"""Changing a config: what is asked, what happens at once, and what waits for the next start."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import disks
from .disks import Work
from .errors import bad, refused
from .keys import CLOUDINIT, LIVE, bridge, known, net, plugs
from .strings import NET, UNUSED, drives, is_cdrom, is_cloudinit, is_disk, parse
from .world import Guest

# Options of a drive that QEMU takes while it runs. Source: vmconfig_update_disk in PVE::QemuServer.
LIVE_DRIVE = frozenset(
    f"{kind}{way}{most}" for kind in ("mbps", "iops") for way in ("", "_rd", "_wr") for most in ("", "_max")
) | {"backup", "replicate", "ro", "size"}


@dataclass
class Changes:
    """What one call asks for.

    Attributes:
        force: free the volumes of removed drives instead of keeping them as unused.
    """

    set: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)
    force: bool = False

    def check(self) -> None:
        """Refuse what contradicts itself, or names what nobody knows.

        Raises:
            PveError: 400 under `delete` or `revert`, or 500 when nothing is asked.
        """
        if not (self.set or self.delete or self.revert):
            raise refused("no options specified")
        for name, keys in (("delete", self.delete), ("revert", self.revert)):
            for key in keys:
                if not known(key):
                    raise bad(**{name: f"unknown option '{key}'"})
                if key in self.set:
                    raise bad(**{name: f"you can't use '-{key}' and -{name} {key}' at the same time"})

    def told(self) -> str:
        """The first line of the task's log."""
        parts = [f"-{key} {value}" for key, value in self.set.items()]
        parts += [
            f"-{name} {','.join(keys)}" for name, keys in (("delete", self.delete), ("revert", self.revert)) if keys
        ]
        return " ".join(parts)


async def apply(work: Work, guest: Guest, changes: Changes) -> None:
    """Write the changes down as pending, then make real what can be made real now.

    Raises:
        PveError: 500 when something cannot be; 400 for what a running guest refused, which then stays pending.
    """
    check_boot(guest, changes)
    check_cloudinit(guest, changes)
    boot = boot_after(guest, changes)
    await note(work, guest, changes)
    if boot is not None:
        guest.pending["boot"] = boot
        guest.dropped.discard("boot")
    errors: dict[str, str] = {}
    touched = {*changes.set, *changes.delete, *(["boot"] if boot is not None else [])}
    for key in sorted(guest.dropped):
        if not guest.run or (key in touched and removable(guest, key, errors)):
            remove(work, guest, key, force=changes.force)
    for key in list(guest.pending):
        if not guest.run or (key in touched and settable(work, guest, key, errors)):
            settle(work, guest, key)
    if errors:
        raise bad(**errors)


async def note(work: Work, guest: Guest, changes: Changes) -> None:
    """Write everything down; when a value cannot be, all values are as they were, and no new volume stays."""
    made: list[str] = []
    for key in changes.delete:  # what frees a volume cannot be taken back
        note_delete(work, guest, key, changes)
    before = (dict(guest.config), dict(guest.pending), set(guest.dropped), guest.lock, guest.vmstate)
    try:
        for key in changes.revert:
            revert(work, guest, key)
        for key, value in changes.set.items():
            await note_set(work, guest, key, value, made)
    except BaseException:
        guest.config, guest.pending, guest.dropped, guest.lock, guest.vmstate = before
        for volid in made:
            disks.free(work.world, guest.node, volid)
        raise


def check_boot(guest: Guest, changes: Changes) -> None:
    """A boot order may name only what is there."""
    order = parse(changes.set.get("boot", "")).get("order", "")
    there = {**guest.config, **guest.pending, **changes.set}
    for key in filter(None, order.split(";")):
        if key not in there or key in changes.delete:
            raise refused(f"invalid bootorder: device '{key}' does not exist'")


def check_cloudinit(guest: Guest, changes: Changes) -> None:
    """One cloud-init drive is all a guest can have."""
    have = [key for key, drive in drives(guest.config).items() if is_cloudinit(drive) and key not in changes.delete]
    for key, drive in drives(changes.set).items():
        if is_cloudinit(drive) and have and key != have[0]:
            raise refused(f"{key} - cloud-init drive is already attached at '{have[0]}'")
    keys = changes.set.get("sshkeys", "")
    if keys and not keys.startswith(("ssh-", "ecdsa-", "sk-", "no-", "%", "command", "from", "restrict")):
        raise refused("SSH public key validation error")


def boot_after(guest: Guest, changes: Changes) -> str | None:
    """The boot order that follows from drives that come and go; None when it stays."""
    now = guest.pending.get("boot", guest.config.get("boot", ""))
    if "boot" in changes.set or "order" not in parse(now):
        return None
    order = list(filter(None, parse(now)["order"].split(";")))
    left = [key for key in order if key not in changes.delete]
    for key, drive in drives(changes.set).items():
        if is_cdrom(drive) and not is_cloudinit(drive) and key not in left:
            left.append(key)
    if left == order:
        return None
    return f"order={';'.join(left)}" if left else ""


def revert(work: Work, guest: Guest, key: str) -> None:
    """Forget what waits for a key."""
    forget_pending(work, guest, key)
    guest.dropped.discard(key)


def forget_pending(work: Work, guest: Guest, key: str) -> None:
    """A value does not become real any more; a disk that was made for it is kept as unused.

    Source: update_vm_api in PVE::API2::Qemu, vmconfig_register_unused_drive for a pending value.
    """
    value = guest.pending.pop(key, "")
    if value and is_disk(key) and parse(value, "file")["file"] not in disks.volids(guest.config):
        release(work, guest, parse(value, "file"), force=False)


def note_delete(work: Work, guest: Guest, key: str, changes: Changes) -> None:
    """Write down that a key goes."""
    if key == "lock":
        guest.lock = ""
        return
    if key == "vmstate":
        guest.vmstate = ""
        return
    value = guest.config.get(key)
    if guest.protected and value is not None:
        if is_disk(key) and not is_cdrom(parse(value, "file")):
            raise refused(f"can't remove drive '{key}' - protection mode enabled")
        if UNUSED.fullmatch(key):
            raise refused(f"can't remove unused disk '{key}' - protection mode enabled")
    forget_pending(work, guest, key)
    if UNUSED.fullmatch(key):
        if value is not None:
            drop_unused(work, guest, key, value)
    elif value is not None:
        guest.dropped.add(key)


def drop_unused(work: Work, guest: Guest, key: str, value: str) -> None:
    """Free a volume that no drive uses, unless a snapshot still needs it."""
    volid = parse(value, "file")["file"]
    for snapshot in guest.snapshots.values():
        if volid in disks.volids(snapshot.config):
            raise refused(f"unable to delete '{volid}' - volume is still in use (snapshot?)")
    if disks.owner(volid) == guest.vmid:
        disks.free(work.world, guest.node, volid)
    del guest.config[key]


async def note_set(work: Work, guest: Guest, key: str, value: str, made: list[str]) -> None:
    """Write down a value, with what Proxmox VE adds to it, and make the volume that it asks for."""
    guest.dropped.discard(key)
    if key == "lock":
        guest.lock = value
        return
    if NET.fullmatch(key):
        value = net(value, work.world.mac())
    elif is_disk(key):
        drive = parse(value, "file")
        present = parse(guest.config.get(key, ""), "file").get("file")
        if present != drive.get("file"):
            drive = await disks.make(work, key, drive, made)
        value = disks.written(drive)
        forget_unused(guest, drive["file"])
    elif key == "vmgenid" and value == "1":
        value = work.world.uuid()
    if guest.config.get(key) == value:
        guest.pending.pop(key, None)
    else:
        guest.pending[key] = value


def forget_unused(guest: Guest, volid: str) -> None:
    """A volume that is attached is not unused any more."""
    for key in [key for key, value in guest.config.items() if UNUSED.fullmatch(key) and value == volid]:
        del guest.config[key]


def removable(guest: Guest, key: str, errors: dict[str, str]) -> bool:
    """Whether a key can go from a running guest; a refusal is added to `errors`."""
    if live_key(key):
        return True
    can = plugs(guest.config)
    if NET.fullmatch(key):
        return "network" in can
    if is_disk(key) and key.startswith(("scsi", "virtio")) and "disk" in can:
        order = parse(guest.config.get("boot", "")).get("order", "").split(";")
        if key in order and not is_cdrom(parse(guest.config[key], "file")):
            errors[key] = f"hotplug problem - can't unplug bootdisk '{key}'\n"
            return False
        return True
    return key.startswith("usb") and "usb" in can


def live_key(key: str) -> bool:
    """Whether a key takes effect without QEMU, or QEMU takes it while it runs."""
    return key in LIVE or key in CLOUDINIT or key.startswith("ipconfig")


def settable(work: Work, guest: Guest, key: str, errors: dict[str, str]) -> bool:
    """Whether a pending value can become real in a running guest; a refusal is added to `errors`."""
    can = plugs(guest.config)
    value, present = guest.pending[key], guest.config.get(key)
    if live_key(key):
        return True
    if NET.fullmatch(key):
        return "network" in can and plug_nic(work, guest, key, value, errors)
    if is_disk(key):
        return plug_disk(guest, key, value, present, can, errors)
    if key == "memory":
        return "memory" in can and guest.config.get("numa") == "1"
    if key == "vcpus":
        return "cpu" in can
    return key == "tablet" and "usb" in can


def plug_nic(work: Work, guest: Guest, key: str, value: str, errors: dict[str, str]) -> bool:
    """Whether a NIC can be plugged in, or changed in place."""
    there = work.world.networks(guest.node)
    if bridge(value) and bridge(value) not in there:
        script = "network script /usr/libexec/qemu-server/pve-bridge-hotplug failed with status 256"
        errors[key] = f"hotplug problem - VM {guest.vmid} qmp command 'netdev_add' failed - {script}\n"
        return False
    return True  # changed in place, or plugged out and in again


def plug_disk(guest: Guest, key: str, value: str, present: str | None, can: set[str], errors: dict[str, str]) -> bool:
    """Whether a drive can be plugged in, a medium changed, or an option set while QEMU has the drive."""
    drive = parse(value, "file")
    hot = "disk" in can and key.startswith(("scsi", "virtio"))
    if present is None:
        return hot and not is_cloudinit(drive)
    before = parse(present, "file")
    if is_cdrom(drive) and is_cdrom(before):
        return True
    if drive["file"] != before["file"]:
        return hot and removable(guest, key, errors)
    return differing(drive, before) <= LIVE_DRIVE


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """The keys in which two property strings differ."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def remove(work: Work, guest: Guest, key: str, *, force: bool) -> None:
    """A key goes now."""
    guest.dropped.discard(key)
    value = guest.config.pop(key, None)
    if value is not None and is_disk(key):
        release(work, guest, parse(value, "file"), force=force)


def settle(work: Work, guest: Guest, key: str) -> None:
    """A pending value becomes real now; a volume that it replaces is unused."""
    value = guest.pending.pop(key)
    before = guest.config.get(key)
    guest.config[key] = value
    if before is not None and is_disk(key):
        old = parse(before, "file")
        if old["file"] != parse(value, "file")["file"]:
            release(work, guest, old, force=False)


def release(work: Work, guest: Guest, drive: dict[str, str], *, force: bool) -> None:
    """What becomes of the volume of a drive that is gone: unused, or freed."""
    volid = drive["file"]
    if is_cloudinit(drive):
        disks.free(work.world, guest.node, volid)
    elif not is_cdrom(drive) and disks.owner(volid) == guest.vmid and volid not in disks.volids(guest.config):
        if force:
            disks.free(work.world, guest.node, volid)
        else:
            add_unused(guest, volid)


def add_unused(guest: Guest, volid: str) -> str:
    """Keep a volume under the first free `unused` key."""
    key = next(f"unused{n}" for n in range(256) if f"unused{n}" not in guest.config)
    guest.config[key] = volid
    return key
