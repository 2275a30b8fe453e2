"""The configuration of a new guest, stamp included: from nothing, or laid over what a template or a backup brought.
Pure: no session, no clock, no lookups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError
from providerkit.planner import boot_data_digest, hypervisor_name

from provider_proxmox import stamp
from provider_proxmox.config import disks, hardware, nics, properties
from provider_proxmox.config.disks import Drive
from provider_proxmox.config.hardware import Params
from provider_proxmox.config.properties import Property
from provider_proxmox.images.source import Source
from provider_proxmox.stamp import DiskStamp, Stamp

UNNAMED_DISKS: Final = "disks-of-template"
"""Setting of the stamp: slots of disks that came with the template and that the spec does not name, blank-separated."""
DEFAULT_OS_TYPE: Final = "l26"
_NOT_IN_TAG: Final = re.compile(r"[^a-z0-9_+.-]")
_NO_LABEL: Final = re.compile(r"\.-+|-+\.")


@dataclass(frozen=True, slots=True)
class Where:
    """Where a volume is made."""

    storage: str
    format: str = ""
    """Of the file; empty is the storage's own."""


@dataclass(frozen=True)
class Choices:
    """What was looked up and chosen for a new machine."""

    home: Where
    """For what is no disk: variables of the firmware, state of the TPM."""
    disks: Mapping[str, Where]
    """For each disk that is new, by its name."""
    macs: Mapping[str, str]
    """By name of the NIC, as `nics.macs` gives them."""
    default_bridge: str = ""
    node_cpus: int = 0
    """CPUs of the node; 0 where that is not known."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """What a disk is copied from, by its name."""


@dataclass(frozen=True)
class Made:
    """A guest's configuration as calls make it."""

    params: Params
    """Options to set; the description is written by `described` when the stamp is complete."""
    stamp: Stamp
    delete: tuple[str, ...] = ()
    """Options of the template to take away."""
    growth: Mapping[str, int] = field(default_factory=dict)
    """Bytes that disks shall have that are copies, by slot."""

    def described(self, text: str) -> Params:
        """The parameters with the description: text for people and stamp."""
        return self.params | {"description": stamp.written(text, self.stamp)}


def machine_name(identity: v1.MachineIdentity) -> str:
    """The name on Proxmox VE, whose labels neither begin nor end with a dash."""
    return _NO_LABEL.sub(".", hypervisor_name(identity))


def tag_list(tags: list[str]) -> str:
    """Tags as Proxmox VE takes them, ours among them: lower case, of letters, digits and "_+.-"."""
    known = {stamp.TAG}
    known |= {word for tag in tags if (word := tag_word(tag))}
    return ";".join(sorted(known))


def tag_word(tag: str) -> str:
    """A tag as Proxmox VE keeps it; empty for one of which nothing is left."""
    return _NOT_IN_TAG.sub("-", tag.lower()).lstrip("-+.")


# -- from nothing ------------------------------------------------------------------------------------------------------


def new_machine(spec: v1.MachineSpec, record: Stamp, choices: Choices) -> Made:
    """Parameters of the call that makes the guest, with all of its disks.

    Args:
        record: who it is; disks, NICs, tags and settings are filled in here.
    Raises:
        InvalidSpecError: the spec can never be met; everything is checked before anything is asked of Proxmox VE.
    """
    hardware.check(spec)
    options = hardware.disk_options(spec.extra_config)
    params: Params = {
        "ostype": DEFAULT_OS_TYPE,
        "agent": 1,
        "scsihw": disks.CONTROLLERS[0],
        "serial0": "socket",
        "vga": "std",
    }
    params |= _shape(spec, choices, old_cpu=hardware.DEFAULT_CPU, old_machine=hardware.DEFAULT_MACHINE)
    params |= hardware.firmware(spec, choices.home.storage, choices.home.format)
    growth: dict[str, int] = {}
    for disk in spec.disks:
        slot, where = disks.free_slot(disk, params), choices.disks.get(disk.name)
        source = choices.sources.get(disk.name)
        params[slot] = str(disks.attached(_volume(disk, where, source), disk, slot, options))
        record = record.with_disk(disk_stamp(disk, slot))
        if source is not None and disk.size_bytes > next(iter(source.disks.values()), 0):
            growth[slot] = disk.size_bytes
    record = _cdroms(spec, record, params)
    record = _nics(spec, record, params, choices)
    params["boot"] = _boot(spec, record)
    return Made(params, _told(spec, record), growth=growth)


def _volume(disk: v1.DiskSpec, where: Where | None, source: Source | None) -> Property:
    if disk.existing is not None:
        return existing(disk)
    if where is None:
        raise InvalidSpecError(f"disk {disk.name}: no storage is known for it")
    if source is not None:
        return disks.new(where.storage, 0, format=where.format, source=source.volume)
    return disks.new(where.storage, disk.size_bytes, format=where.format)


def existing(disk: v1.DiskSpec) -> Property:
    """A volume that is there already.

    Raises:
        InvalidSpecError: its id is no volume of a storage.
    """
    volume = disk.existing.id if disk.existing is not None else ""
    if not disks.storage_of(volume) or "," in volume:
        raise InvalidSpecError(f"disk {disk.name}: {volume!r} is no volume; give STORAGE:NAME as its storage lists it")
    return properties.of(volume)


# -- over a template ---------------------------------------------------------------------------------------------------


def over(spec: v1.MachineSpec, record: Stamp, config: Mapping[str, Any], choices: Choices) -> Made:
    """What a clone or a restored guest still needs to be the machine.

    Its NICs go, its first disk becomes the spec's first disk, everything else of it stays. Repeated on what it led to,
    it changes nothing: disks that the stamp has in their slots already are left alone.

    Args:
        record: who it is. A disk that it names is there, or is taken for the slot that it names.
        config: what is there; the template's own before it was cloned.
    Raises:
        InvalidSpecError: the spec can never be met.
    """
    hardware.check(spec)
    have, options = disks.disks(config), hardware.disk_options(spec.extra_config)
    params: Params = {"agent": 1, "serial0": "socket"} if "serial0" not in config else {"agent": 1}
    params |= _shape(spec, choices, old_machine=str(config.get("machine", "")), old_smbios=config.get("smbios1", ""))
    if not hardware.asks_hotplug(spec) and "hotplug" in config:
        del params["hotplug"]
    states = hardware.firmware(spec, choices.home.storage, choices.home.format)
    params |= {key: value for key, value in states.items() if key not in config or key not in disks.STATE_SLOTS}
    growth: dict[str, int] = {}
    taken = set(config) | set(params)
    for index, disk in enumerate(spec.disks):
        if index == 0:
            drive = _root(disk, have, config)
            limited = _overlaid(drive, disk, spec)
            params |= {drive.slot: str(limited)} if limited != drive.options else {}
            growth |= {drive.slot: disk.size_bytes} if disk.size_bytes > drive.size_bytes else {}
            record = record.with_disk(disk_stamp(disk, drive.slot))
            continue
        known = record.disk(disk.name)
        if known is not None and known.slot in config:
            continue
        slot = disks.free_slot(disk, taken)
        volume = _volume(disk, choices.disks.get(disk.name), choices.sources.get(disk.name))
        params[slot] = str(disks.attached(volume, disk, slot, options))
        source = choices.sources.get(disk.name)
        if source is not None and disk.size_bytes > next(iter(source.disks.values()), 0):
            growth[slot] = disk.size_bytes
        record = record.with_disk(disk_stamp(disk, slot))
        taken.add(slot)
    record = _with_unnamed(record, have)
    record = _cdroms(spec, record, params, taken, config)
    record = _nics(spec, record, params, choices)
    leaving = [nic.slot for nic in nics.nics(config) if nic.slot not in params]
    leaving += [key for key in _contradicting(params, config) if key in config and key not in params]
    params["boot"] = _boot(spec, record)
    return Made(params, _told(spec, record), delete=tuple(leaving), growth=growth)


def _contradicting(params: Params, config: Mapping[str, Any]) -> list[str]:
    """Options of a template that would hold the spec's own up, or the machine's end."""
    memory, balloon = str(params.get("memory", "")), str(config.get("balloon", ""))
    found = ["protection"]
    found += ["vcpus"] if "cores" in params else []
    found += ["balloon"] if memory.isdigit() and balloon.isdigit() and int(balloon) > int(memory) else []
    return found


def _root(disk: v1.DiskSpec, have: list[Drive], config: Mapping[str, Any]) -> Drive:
    """The template's first disk, which becomes the machine's own: its guest may not start from another bus.

    Raises:
        InvalidSpecError: the spec wants another one, elsewhere or smaller.
    """
    if disk.existing is not None or not have:
        why = "an existing disk cannot take its place" if have else "the template has no disk to make it of"
        raise InvalidSpecError(f"disk {disk.name}: {why}")
    drive = have[0]
    if disk.bus is not v1.DiskBus.UNSPECIFIED and disk.bus is not disks.bus_of(drive.slot):
        raise InvalidSpecError(f"disk {disk.name}: its image has it at {drive.slot}, bus {disk.bus.name} is asked for")
    if disk.controller_type and disk.controller_type != config.get("scsihw", "lsi"):
        had = config.get("scsihw", "lsi")
        raise InvalidSpecError(f"disk {disk.name}: its image has controller {had}, {disk.controller_type} is asked for")
    if disk.size_bytes and disk.size_bytes < drive.size_bytes:
        raise InvalidSpecError(
            f"disk {disk.name}: {disk.size_bytes} bytes asked for, the image needs {drive.size_bytes}; "
            "a disk never shrinks"
        )
    return drive


def _overlaid(drive: Drive, disk: v1.DiskSpec, spec: v1.MachineSpec) -> Property:
    """A template's disk with what the spec says of it; its other options stay."""
    options = hardware.disk_options(spec.extra_config, only_asked=True)
    return disks.attached(drive.options, disk, drive.slot, options)


def _with_unnamed(record: Stamp, have: list[Drive]) -> Stamp:
    """Further disks of a template stay, without a name; the stamp knows that our clone made them."""
    named = {disk.slot for disk in record.disks}
    known = record.settings.get(UNNAMED_DISKS)
    if known is not None:
        return record  # the first look counts: what is there later may be somebody else's
    unnamed = " ".join(drive.slot for drive in have if drive.slot not in named)
    return replace(record, settings=record.settings | {UNNAMED_DISKS: unnamed})


# -- what both have ----------------------------------------------------------------------------------------------------


def _shape(
    spec: v1.MachineSpec, choices: Choices, *, old_cpu: str = "", old_machine: str = "", old_smbios: str = ""
) -> Params:
    identity = spec.identity or v1.MachineIdentity()
    params: Params = {
        "name": machine_name(identity),
        "tags": tag_list(spec.tags),
        "smbios1": str(properties.parse(old_smbios).having({"uuid": identity.uid})),
        **hardware.hotplug(spec),
        **hardware.memory(spec),
        **hardware.machine(spec, old_machine),
        **hardware.gpus(spec),
    }
    if spec.cpu is not None or old_cpu:
        params |= hardware.cpu(spec, choices.node_cpus, old_type=old_cpu)
    params |= hardware.plain_options(spec.extra_config)
    if controller := disks.controller(spec.disks):
        params["scsihw"] = controller
    return params


def disk_stamp(disk: v1.DiskSpec, slot: str) -> DiskStamp:
    """What the stamp says of a disk that is made for the spec."""
    kind = disk.provisioning if disk.provisioning is not v1.DiskProvisioning.UNSPECIFIED else v1.DiskProvisioning.THIN
    return DiskStamp(
        name=disk.name,
        slot=slot,
        volume=disk.existing.id if disk.existing is not None else "",
        owned=disk.existing is None,
        image_id=disk.image.id if disk.image is not None else "",
        provisioning=kind.name or "THIN",
    )


def _cdroms(
    spec: v1.MachineSpec,
    record: Stamp,
    params: Params,
    taken: set[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Stamp:
    """Drives of the spec; those of a template stay as they are."""
    used = (taken or set()) | set(params)
    slots = {name: slot for name, slot in record.cdroms.items() if config is not None and slot in config}
    for cdrom in spec.cdroms:
        slot = slots.get(cdrom.name) or disks.free_drive_slot(cdrom.name, used)
        used.add(slot)
        slots[cdrom.name] = slot
        params[slot] = str(disks.cdrom(cdrom.medium))
    return replace(record, cdroms=slots)


def _nics(spec: v1.MachineSpec, record: Stamp, params: Params, choices: Choices) -> Stamp:
    """NICs in the spec's order, from net0: a template's would sit on networks that nobody asked for."""
    record = replace(record, nics=())
    for nic in spec.nics:
        slot = nics.free_slot(nic.name, params)
        params[slot] = str(nics.value(nic, choices.macs[nic.name], default_bridge=choices.default_bridge))
        record = record.with_nic(nics.record(nic, slot))
    return record


def _boot(spec: v1.MachineSpec, record: Stamp) -> str:
    """The first disk, then the drives, which serve while it is empty; a machine with nothing else asks the network."""
    first = [record.disks[0].slot] if record.disks else []
    order = [*first, *record.cdroms.values()]
    holds_something = any(disk.image or disk.existing for disk in spec.disks[:1]) or bool(spec.cdroms)
    if not holds_something:
        order += [nic.slot for nic in record.nics]
    return f"order={';'.join(order)}"


def _told(spec: v1.MachineSpec, record: Stamp) -> Stamp:
    asked = hardware.asked(spec)
    return replace(
        record,
        boot_digest=boot_data_digest(spec),
        tags=tuple(spec.tags),
        settings=record.settings | asked,
    )


def with_volumes(record: Stamp, config: Mapping[str, Any]) -> Stamp:
    """The record with the volume of each disk, as Proxmox VE named it."""
    for disk in record.disks:
        drive = disks.drive_in(config, disk.slot)
        if drive is not None:
            record = record.with_disk(replace(disk, volume=drive.volume))
    return record
