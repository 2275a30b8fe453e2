"""Changes of a machine that exists, each as one ConfigSpec with the stamp that goes with it: vSphere makes both true in
one task, or neither. None means that there is nothing to do. Pure, like `making`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from providerkit.planner import DESCRIPTION_SETTING, boot_data_digest
from pyVmomi import vim

from provider_vsphere.config import bootdata, devices, hardware, making, nics
from provider_vsphere.config.devices import Board
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import Stamp

KEPT: Final = "kept["
"""Settings of the stamp that begin so hold the file of a disk that was unplugged and is still ours: "kept[data]"."""

UUID_BEFORE: Final = "instance-uuid-before"
"""Setting of the stamp: the `instanceUuid` that a machine had before it was adopted."""


def kept_files(record: Stamp) -> dict[str, str]:
    """Files of unplugged disks that are still ours, by the disk's name; vSphere does not remove them with the VM."""
    return {key[len(KEPT) : -1]: file for key, file in record.settings.items() if key.startswith(KEPT)}


def kept_key(name: str) -> str:
    """Key of the setting that holds the file of this unplugged disk."""
    return f"{KEPT}{name}]"


def _edit(record: Stamp, changes: Sequence[Any] = (), extra: Mapping[str, str] | None = None) -> Any:
    """A ConfigSpec that writes this stamp."""
    values = {**(extra or {}), stamp.KEY: record.text()}
    return vim.vm.ConfigSpec(deviceChange=list(changes), extraConfig=making.options(values))


def _with_settings(record: Stamp, asked: Mapping[str, str], *, without: str | tuple[str, ...] = ()) -> Stamp:
    """With these settings, and without those of the same beginning that are no longer asked for."""
    old = {key: value for key, value in record.settings.items() if not (without and key.startswith(without))}
    return replace(record, settings=old | dict(asked))


# -- processor, memory, firmware, tuning -------------------------------------------------------------------------------


def set_cpu(record: Stamp, cpu: v1.CpuSpec, *, live: bool, cores_per_socket: int = 0) -> Any:
    """Args: cores_per_socket: what it has now; given up where the new count does not divide by it."""
    if live:  # a running machine keeps its own
        cpu = replace(cpu, nested_virtualization=hardware.NESTED in record.settings)
    config = _edit(_with_settings(record, hardware.asked(v1.MachineSpec(cpu=cpu)), without="cpu."))
    hardware.set_cpu(config, cpu, live=live, before=record.settings)
    if not live and not cpu.cores_per_socket and cores_per_socket and cpu.count % cores_per_socket:
        config.numCoresPerSocket = 1
    return config


def set_memory(record: Stamp, memory: v1.MemorySpec, *, live: bool) -> Any:
    """Size, shares of the host, room to grow."""
    config = _edit(_with_settings(record, hardware.asked(v1.MachineSpec(memory=memory)), without="memory."))
    hardware.set_memory(config, memory, live=live, before=record.settings)
    return config


def set_firmware(present: Sequence[Any], firmware: v1.FirmwareSpec) -> Any:
    """Secure boot and TPM of a machine that is off; its firmware stays, since the guest starts under one only.

    Raises:
        InvalidSpecError: something that needs EFI is asked for together with BIOS.
    """
    config, board, spec = vim.vm.ConfigSpec(), Board(present), v1.MachineSpec(firmware=firmware)
    hardware.set_firmware(config, spec)
    config.firmware = None
    making.add_tpm(board, spec)
    config.deviceChange = board.changes
    return config


def set_tuning(record: Stamp, spec: v1.MachineSpec, *, firmware: str = "efi", options: Sequence[str] = ()) -> Any:
    """Flags, latency sensitivity and extra configuration of a machine that is off.

    Args:
        firmware: `config.firmware` of it.
        options: keys of the extra configuration that a spec may ask for: what it asked for once is taken off again.
    Raises:
        NotSupportedError: something needs another firmware than it has.
    """
    if spec.tuning is not None and spec.tuning.virtualization_based_security and firmware != "efi":
        raise NotSupportedError(
            "virtualization-based security needs UEFI; the machine was made with BIOS, and stays so"
        )
    wish = v1.MachineSpec(tuning=spec.tuning, extra_config=spec.extra_config)
    asked = _with_settings(record, hardware.asked(wish), without=("tuning.", *hardware.OUR_KEYS, *options))
    gone = {key: "" for key in options if key in record.settings}  # an empty value removes its key
    config = _edit(asked, extra=gone | making.extra_config(spec))
    hardware.set_tuning(config, spec, before=record.settings)
    hardware.set_guest_id(config, spec)
    hardware.set_change_tracking(config, spec, before=record.settings)
    hardware.set_upgrade_policy(config, spec, before=record.settings)
    if config.flags is not None and config.flags.vbsEnabled:
        config.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=True)
    return config


def hardware_upgrade(present: str, spec: v1.MachineSpec) -> str:
    """The version that the virtual hardware is to be brought to; empty when it has it, or none is asked for.

    Args:
        present: `config.version`: "vmx-19".
    Raises:
        NotSupportedError: it has a newer one.
    """
    wish = hardware.hardware_version(spec)
    if not wish or not present or hardware.version_number(wish) == hardware.version_number(present):
        return ""
    if hardware.version_number(wish) < hardware.version_number(present):
        raise NotSupportedError(f"virtual hardware {wish} is asked for; the machine has {present}, and none goes back")
    return wish


# -- disks -------------------------------------------------------------------------------------------------------------


def add_disk(
    present: Sequence[Any],
    record: Stamp,
    disk: v1.DiskSpec,
    datastore_name: str,
    policies: Mapping[str, str] | None = None,
) -> Any | None:
    """Plug a disk in; one that was unplugged by us comes back with its content.

    Args:
        datastore_name: for a disk that names none.
        policies: id of each storage policy by the name that the spec has for it.
    Raises:
        InvalidSpecError: there is no place for it.
    """
    if _disk(present, record, disk.name) is not None:
        return None
    if disk.image is not None:
        raise InvalidSpecError(f"disk {disk.name}: a disk that is added later cannot be made from an image")
    board, kept = Board(present), kept_files(record).get(disk.name, "")
    profile = making.policy([disk], policies or {})
    fresh = making.plug(board, disk, datastore_name, kept=kept if disk.existing is None else "", profile=profile)
    settings = hardware.asked_of_disk(disk)
    gone = kept_key(disk.name) if disk.existing is None else ""
    return _edit(_with_settings(record.with_disk(fresh), settings, without=gone), board.changes)


def grow_disk(present: Sequence[Any], record: Stamp, name: str, size: int) -> Any | None:
    """Grow a disk; a size already reached is nothing to do.

    Args:
        size: new capacity in bytes.
    Raises:
        ResourceNotFoundError: the machine has no such disk.
    """
    disk = _known_disk(present, record, name, "grow")
    if devices.capacity(disk) >= size:
        return None
    board = Board(present)
    board.edit(devices.edited(disk, size=size))
    return vim.vm.ConfigSpec(deviceChange=board.changes)


def update_disk(
    present: Sequence[Any], record: Stamp, wish: v1.DiskSpec, policies: Mapping[str, str] | None = None
) -> Any:
    """Limit of operations, storage policy, and sharing of the bus that it is on.

    Args:
        policies: as in `add_disk`.
    Raises:
        ResourceNotFoundError: the machine has no such disk.
        InvalidSpecError: its bus cannot be shared like that, or has other disks, which would be shared with it.
    """
    disk, board = _known_disk(present, record, wish.name, "update"), Board(present)
    before = f"disks[{wish.name}]."
    profile = making.policy([wish], policies or {})
    if not profile and f"{before}storage_policy" in record.settings:
        profile = [vim.vm.EmptyProfileSpec()]  # the datastore's default
    limit = wish.iops_limit or (hardware.UNLIMITED if f"{before}iops_limit" in record.settings else 0)
    if limit or profile:
        board.edit(devices.edited(disk, iops_limit=limit), profile=profile)
    controller = devices.controller_of(present, disk)
    sharing = wish.sharing or ("noSharing" if f"{before}sharing" in record.settings else "")
    if sharing and controller is not None and devices.sharing_of(controller) != sharing:
        _alone(present, disk, wish.name)
        shared = copy.copy(controller)
        devices.set_sharing(shared, wish)
        board.edit(shared)
    return _edit(_with_settings(record, hardware.asked_of_disk(wish), without=before), board.changes)


def _alone(present: Sequence[Any], disk: Any, name: str) -> None:
    neighbours = [each for each in devices.disks_of(present) if each.controllerKey == disk.controllerKey]
    if len(neighbours) > 1:
        raise InvalidSpecError(f"disk {name}: the controller whose bus would be shared has other disks as well")


def detach_disk(present: Sequence[Any], record: Stamp, name: str) -> Any | None:
    """Unplug a disk; its file stays, and stays ours if it was."""
    known, disk = record.disk(name), _disk(present, record, name)
    if known is None:
        return None
    board = Board(present)
    kept = {}
    if disk is not None:
        board.remove(disk)
        if known.owned:
            kept = {kept_key(name): devices.file_of(disk)}
    return _edit(_with_settings(record.without_disk(name), kept, without=f"disks[{name}]."), board.changes)


def _disk(present: Sequence[Any], record: Stamp, name: str) -> Any | None:
    known = record.disk(name)
    return devices.disk_at(present, known.slot) if known is not None else None


def _known_disk(present: Sequence[Any], record: Stamp, name: str, verb: str) -> Any:
    disk = _disk(present, record, name)
    if disk is None:
        raise ResourceNotFoundError(f"{verb} disk {name}: the machine has no such disk")
    return disk


# -- drives ------------------------------------------------------------------------------------------------------------


def set_cdrom(present: Sequence[Any], record: Stamp, cdrom: v1.CdromSpec) -> Any | None:
    """Put a medium into the drive of this name, which is added where there is none."""
    drive, board = devices.cdrom_at(present, record.cdroms.get(cdrom.name, "")), Board(present)
    if drive is not None and devices.medium_of(drive) == cdrom.medium:
        return None
    if drive is not None:
        edited = vim.vm.device.VirtualCdrom(
            key=drive.key, controllerKey=drive.controllerKey, unitNumber=drive.unitNumber
        )
        devices.load(edited, cdrom.medium)
        board.edit(edited)
        return _edit(record, board.changes)
    slot = devices.slot_of(board.devices, board.plug_cdrom(cdrom))
    return _edit(replace(record, cdroms=record.cdroms | {cdrom.name: slot}), board.changes)


def remove_cdrom(present: Sequence[Any], record: Stamp, name: str) -> Any | None:
    """Remove a drive; what is in it stays."""
    if name not in record.cdroms:
        return None
    drive, board = devices.cdrom_at(present, record.cdroms[name]), Board(present)
    if drive is not None:
        board.remove(drive)
    kept = {each: slot for each, slot in record.cdroms.items() if each != name}
    return _edit(replace(record, cdroms=kept), board.changes)


# -- network adapters --------------------------------------------------------------------------------------------------


def add_nic(
    present: Sequence[Any], record: Stamp, nic: v1.NicSpec, mac: str, network: Entity, switches: Mapping[str, str]
) -> Any | None:
    """Plug a NIC in.

    Args:
        switches: UUID of the distributed switch of each distributed port group, by the group's moid.
    """
    if _card(present, record, nic.name) is not None:
        return None
    board = Board(present)
    board.add(nics.card(nic, mac, network, switches))
    settings = hardware.asked(v1.MachineSpec(nics=[nic]))
    return _edit(_with_settings(record.with_nic(nics.record(nic, mac)), settings), board.changes)


def update_nic(
    present: Sequence[Any], record: Stamp, nic: v1.NicSpec, network: Entity, switches: Mapping[str, str]
) -> Any:
    """Put a NIC on another network or give it another MAC, in place; another model is another card in its stead.

    Raises:
        ResourceNotFoundError: the machine has no such NIC.
    """
    old, known = _card(present, record, nic.name), record.nic(nic.name)
    if old is None or known is None:
        raise ResourceNotFoundError(f"update NIC {nic.name}: the machine has no such NIC")
    mac, model, board = nic.mac.lower() or known.mac, nics.model_of(old), Board(present)
    if nic.model in ("", model):
        board.edit(nics.moved(old, nics.backing(nic.name, network, switches), mac))
    else:
        board.remove(old)
        board.add(nics.card(nic, mac, network, switches))
    settings = hardware.asked(v1.MachineSpec(nics=[nic]))
    fresh = _with_settings(record.with_nic(nics.record(nic, mac)), settings, without=f"nics[{nic.name}].")
    return _edit(fresh, board.changes)


def remove_nic(present: Sequence[Any], record: Stamp, name: str) -> Any | None:
    """Unplug a NIC."""
    card, board = _card(present, record, name), Board(present)
    if record.nic(name) is None:
        return None
    if card is not None:
        board.remove(card)
    return _edit(_with_settings(record.without_nic(name), {}, without=f"nics[{name}]."), board.changes)


def _card(present: Sequence[Any], record: Stamp, name: str) -> Any | None:
    known = record.nic(name)
    return nics.card_with(present, known.mac) if known is not None else None


# -- the stamp itself --------------------------------------------------------------------------------------------------


def stamped(record: Stamp | None) -> Any | None:
    """Write this stamp and change nothing else; None has nothing to write."""
    return _edit(record) if record is not None else None


def adopt(record: Stamp, uuid: str) -> Any:
    """Give a machine of others its first stamp, and the UID by which it is looked up.

    Args:
        uuid: its `instanceUuid` until now, which it gets back when it is released.
    """
    return identified(_with_settings(record, {UUID_BEFORE: uuid} if uuid else {}))


def identified(record: Stamp) -> Any:
    """Write this stamp together with the UID by which the machine is looked up."""
    config = _edit(record)
    config.instanceUuid = record.uid
    return config


def release(record: Stamp) -> Any:
    """Take the stamp off; a machine that was adopted gets its own UUID back, and everything else stays."""
    config = vim.vm.ConfigSpec(extraConfig=making.options({stamp.KEY: ""}))
    if uuid := record.settings.get(UUID_BEFORE):
        config.instanceUuid = uuid
    return config


# -- texts and first-boot data -----------------------------------------------------------------------------------------


def set_tags(record: Stamp, tags: Sequence[str]) -> Any:
    """Replace the tags."""
    return _edit(replace(record, tags=tuple(sorted(hardware.printable(tag) for tag in set(tags)))))


def set_description(record: Stamp, description: str) -> Any:
    """Replace the text for people."""
    asked = hardware.asked(v1.MachineSpec(description=description))
    config = _edit(_with_settings(record, asked, without=DESCRIPTION_SETTING))
    config.annotation = hardware.printable(description)
    return config


def note(record: Stamp, key: str, value: str) -> Any:
    """Keep a note in the stamp, or take it away."""
    return _edit(_with_settings(record, {key: value} if value else {}, without=key))


def set_boot_data(record: Stamp, spec: v1.MachineSpec, macs: Mapping[str, str]) -> Any:
    """Replace the first-boot data.

    Args:
        macs: MAC of each NIC of the spec by its name; those of the stamp count before it.
    """
    known = dict(macs) | {nic.name: nic.mac for nic in record.nics}
    fresh = replace(record, boot_digest=boot_data_digest(spec))
    return _edit(fresh, extra=bootdata.replacing(spec, known))
