"""What is true of a guest, from what the index knows of it: pure functions, tolerant of whatever others made."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common import v1
from providerkit.planner import BOOT_DATA_SETTING, nic_settings

from provider_proxmox.config import disks, hardware, making, nics, properties, sizes
from provider_proxmox.config.disks import Drive
from provider_proxmox.session.index import Guest, Index
from provider_proxmox.stamp import TAG, DiskStamp, NicStamp, Stamp

ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED
PAUSED, UNKNOWN = v1.PowerState.PAUSED, v1.PowerState.UNKNOWN
_STOPPED_BY_QEMU = {
    "io-error": "a disk of it failed to read or write (I/O error), often because its storage is full",
    "guest-panicked": "its guest crashed",
    "internal-error": "QEMU met an error and stopped it",
    "watchdog": "its watchdog stopped it",
}
"""Source: RunState of QEMU's QMP, which `qmpstatus` passes on."""
_LOCKS = {
    "backup": "a backup runs",
    "clone": "a copy of it is being made",
    "create": "it is being made",
    "migrate": "it is being moved to another node",
    "rollback": "it is being put back to a snapshot",
    "snapshot": "a snapshot is being taken",
    "snapshot-delete": "a snapshot is being removed",
}
_LATEST = 1 << 37
"""Seconds since 1970; what is later is no time that we wrote."""
_NOT_TOLD = (making.UNNAMED_DISKS, "exchanging-disk.", "ha-joined")
"""Beginnings of settings of the stamp that are our own notes, and no wish of a spec."""
_MOST_ADDRESSES = 64
_MOST_CPUS = (1 << 32) - 1
"""Numbers that people write by hand may be any; more cannot be told."""
_MOST_TEXT = 256
"""Limits for what a guest says of itself."""


def machine(guest: Guest, index: Index, owner: str) -> v1.Machine:
    """The machine that a guest is.

    Args:
        owner: our installation; a guest without a stamp of this owner and of this very guest is foreign.
    """
    mark = guest.stamp
    mark = mark if mark is not None and mark.owner == owner else None
    power = _power(guest)
    seen = v1.Machine(
        identity=mark.identity() if mark is not None else None,
        id=str(guest.vmid),
        hypervisor_name=guest.name or str(guest.config.get("name", "")) or f"VM {guest.vmid}",
        owned=mark is not None,
        power=power,
        consoles=_consoles(guest.config),
        power_reason=_power_reason(guest, index, power),
        cpu=_cpu(guest),
        memory=_memory(guest),
        firmware=_firmware(guest.config),
        disks=_disks(guest, mark, index),
        cdroms=_cdroms(guest.config, mark),
        nics=_nics(guest, mark, power),
        host=guest.node,
        description=guest.description,
        create_time=_created(guest.config, mark),
        tags=_tags(guest, mark),
        settings=_settings(guest, mark),
        pending_restart=_pending(guest),
        guest=v1.Guest(),
    )
    if power is ON and guest.agent:
        info = guest.agent.get("osinfo") or {}
        seen.guest = v1.Guest(
            hostname=_said(guest.agent.get("hostname")), agent_running=True, os=_said(info.get("pretty-name"))
        )
    if power is ON:
        seen.addresses = _addresses(guest.agent.get("interfaces") or (), index.leases, seen.nics)
    return seen


# -- power ---------------------------------------------------------------------------------------------------------


def _power(guest: Guest) -> v1.PowerState:
    if guest.status == "stopped":
        return SUSPENDED if guest.lock in ("suspended", "suspending") else OFF
    if guest.status != "running":
        return UNKNOWN
    if guest.qmpstatus in _STOPPED_BY_QEMU:
        return PAUSED
    return SUSPENDED if guest.qmpstatus in ("paused", "suspended") else ON


def _power_reason(guest: Guest, index: Index, power: v1.PowerState) -> str:
    """Why it is not what it should be: its node is away, QEMU stopped it, or a lock holds it."""
    node = index.nodes.get(guest.node)
    if node is not None and not node.online:
        return f"node {guest.node} does not answer; this is the last state known"
    if power is PAUSED:
        return _STOPPED_BY_QEMU[guest.qmpstatus]
    if guest.lock in _LOCKS:
        return f"it is locked ({guest.lock}): {_LOCKS[guest.lock]}"
    return ""


# -- hardware ------------------------------------------------------------------------------------------------------


def _whole(value: object, default: int = 0) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else default


def _cpus(config: Mapping[str, Any]) -> tuple[int, int]:
    """CPUs that are plugged in, and those that there is room for."""
    most = min(_whole(config.get("sockets"), 1) * _whole(config.get("cores"), 1), _MOST_CPUS)
    return min(_whole(config.get("vcpus"), most), _MOST_CPUS) or most, most


def _after_restart(guest: Guest) -> dict[str, Any]:
    """The configuration as the next start reads it."""
    merged = dict(guest.config)
    for key, value in guest.pending.items():
        merged.pop(key, None)
        if value is not None:
            merged[key] = value
    return merged


def _cpu(guest: Guest) -> v1.CpuState:
    count, most = _cpus(guest.config)
    return v1.CpuState(
        count=count,
        max_count=most,
        configured_count=_cpus(_after_restart(guest))[0],
        cores_per_socket=_whole(guest.config.get("cores"), 1),
        nested_virtualization=hardware.is_nested(guest.config.get("cpu", "")),
    )


def _memory(guest: Guest) -> v1.MemoryState:
    size = _memory_bytes(guest.config)
    features = str(guest.config.get("hotplug", "")).split(",")
    return v1.MemoryState(
        size_bytes=size,
        max_bytes=0 if "memory" in features else size,  # the ceiling is QEMU's, and not told
        configured_bytes=_memory_bytes(_after_restart(guest)),
    )


def _memory_bytes(config: Mapping[str, Any]) -> int:
    """`memory` is "2048" or "current=2048"."""
    told = properties.parse(config.get("memory", 512))
    return _whole(told.head or told.get("current"), 512) << 20


def _firmware(config: Mapping[str, Any]) -> v1.FirmwareSpec:
    uefi = config.get("bios") == "ovmf"
    variables = properties.parse(config.get("efidisk0", ""))
    tpm = properties.parse(config.get("tpmstate0", ""))
    return v1.FirmwareSpec(
        type=v1.FirmwareType.UEFI if uefi else v1.FirmwareType.BIOS,
        secure_boot=uefi and variables.flag("pre-enrolled-keys"),
        tpm=bool(tpm.items),
        tpm_version=(tpm.get("version") or "v1.2").removeprefix("v") if tpm.items else "",
    )


def _consoles(config: Mapping[str, Any]) -> list[v1.ConsoleKind]:
    serial = [v1.ConsoleKind.SERIAL] if config.get("serial0") == "socket" else []
    return [*serial, v1.ConsoleKind.VNC]


def _created(config: Mapping[str, Any], mark: Stamp | None) -> datetime.datetime | None:
    """What the stamp says, else what Proxmox VE wrote into `meta`: "creation-qemu=10.0.2,ctime=1753000000"."""
    told = _whole(dict(part.partition("=")[::2] for part in str(config.get("meta", "")).split(",")).get("ctime", ""))
    seconds = mark.created if mark is not None and mark.created else told
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC) if 0 < seconds < _LATEST else None


def _tags(guest: Guest, mark: Stamp | None) -> list[str]:
    """Of a machine of ours those that a spec asked for and that are there; Proxmox VE keeps them in lower case."""
    there = {tag for tag in str(guest.config.get("tags", "")).split(";") if tag and tag != TAG}
    if mark is None:
        return sorted(there)
    return sorted(tag for tag in mark.tags if making.tag_word(tag) in there)


# -- disks ---------------------------------------------------------------------------------------------------------


def _disks(guest: Guest, mark: Stamp | None, index: Index) -> list[v1.Disk]:
    """Ours in the order of the stamp, which begins with the one to boot from; then the others as they are plugged."""
    records = {
        disk.slot: (place, disk) for place, disk in enumerate(mark.disks if mark is not None else ()) if disk.slot
    }
    after = _after_restart(guest)
    ours, others = [], []
    for drive in disks.disks(after):
        place, record = records.pop(drive.slot, (0, None))
        if record is not None and not _is_its_volume(record, drive):
            record = None  # somebody put another volume there
        disk = _disk(guest, drive, record, index)
        if record is None:
            others.append(disk)
        else:
            ours.append((place, disk))
    return [disk for _, disk in sorted(ours, key=lambda pair: pair[0])] + others


def _is_its_volume(record: DiskStamp, drive: Drive) -> bool:
    """A volume keeps its name for life, but for a move to another storage, which gives it a new one of this guest."""
    return not record.volume or record.volume == drive.volume or record.owned


def _disk(guest: Guest, drive: Drive, record: DiskStamp | None, index: Index) -> v1.Disk:
    storage = index.storages.get((guest.node, drive.storage))
    asked = getattr(v1.DiskProvisioning, record.provisioning, None) if record is not None else None
    return v1.Disk(
        name=record.name if record is not None else "",
        id=drive.volume,
        size_bytes=drive.size_bytes,
        bus=disks.bus_of(drive.slot),
        provisioning=asked or v1.DiskProvisioning.UNSPECIFIED,
        storage=drive.storage,
        format=_format(drive, storage.kind if storage is not None else ""),
        owned=record is not None and record.owned,
        image_id=record.image_id if record is not None else "",
        device=drive.slot,
        active=drive.slot in guest.config and guest.pending.get(drive.slot, guest.config[drive.slot]) is not None,
    )


def _format(drive: Drive, kind: str) -> str:
    """Of a volume that is a file, its suffix; block storages hold raw ones."""
    told = drive.options.get("format")
    suffix = drive.volume.rpartition(".")[2]
    return told or (suffix if suffix in ("qcow2", "raw", "vmdk") else "raw" if kind or drive.volume else "")


def _cdroms(config: Mapping[str, Any], mark: Stamp | None) -> list[v1.Cdrom]:
    """Those that we know by name, in the order in which they were asked for."""
    found = []
    for name, slot in mark.cdroms.items() if mark is not None else ():
        drive = disks.drive_in(config, slot)
        if drive is not None and drive.is_cdrom:
            found.append(v1.Cdrom(name=name, medium=drive.medium, device=slot))
    return found


# -- NICs ----------------------------------------------------------------------------------------------------------


def _nics(guest: Guest, mark: Stamp | None, power: v1.PowerState) -> list[v1.Nic]:
    """In the order of their slots, which is the guest's."""
    records = {nic.slot: nic for nic in (mark.nics if mark is not None else ())}
    now = guest.config
    return [
        v1.Nic(
            name=records[nic.slot].name if nic.slot in records else "",
            mac=nic.mac,
            model=nic.model,
            network=_network(nic, records.get(nic.slot)),
            id=nic.slot,
            active=power is OFF or nic.slot in now,
            connected=nic.connected,
        )
        for nic in nics.nics(_after_restart(guest))
    ]


def _network(nic: nics.Nic, record: NicStamp | None) -> v1.NetworkRef:
    """The bridge or vnet, in the words that were asked with."""
    kind = getattr(v1.NetworkKind, record.kind, v1.NetworkKind.BRIDGE) if record is not None else v1.NetworkKind.BRIDGE
    if kind is v1.NetworkKind.NAT:
        return v1.NetworkRef(kind=kind, vlan=nic.vlan)
    return v1.NetworkRef(kind=kind, name=nic.bridge, vlan=nic.vlan)


# -- guest ---------------------------------------------------------------------------------------------------------


def _said(text: object) -> str:
    """A word that a guest said: printable and not endless."""
    return "".join(ch for ch in str(text or "")[:_MOST_TEXT] if ch.isprintable())


def _addresses(
    interfaces: Sequence[Mapping[str, Any]], leases: Mapping[str, Sequence[str]], cards: Sequence[v1.Nic]
) -> list[v1.GuestAddress]:
    """In the order of the NICs, IPv4 before IPv6, then by value; without those of the guest's own bridges."""
    ours = {nic.mac: (place, nic.name) for place, nic in enumerate(cards) if nic.mac}
    found = {}
    for name, mac, ip in _told(interfaces):
        if mac in ours:
            place, nic = ours[mac]
            found[place, ip.version, int(ip)] = v1.GuestAddress(
                address=str(ip), interface=name, mac=mac, sources=["agent"], nic=nic
            )
    for mac, (place, nic) in ours.items():
        for address in leases.get(mac, ()):
            given = _meaningful(address)
            if given is not None:
                lease = v1.GuestAddress(address=str(given), mac=mac, nic=nic)
                found.setdefault((place, given.version, int(given)), lease).sources.append("lease")
    return [found[key] for key in sorted(found)][:_MOST_ADDRESSES]


def _told(
    interfaces: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    for interface in interfaces:
        mac = str(interface.get("hardware-address") or "").lower()
        for each in interface.get("ip-addresses") or ():
            ip = _meaningful(str(each.get("ip-address") or ""))
            if ip is not None:
                yield _said(interface.get("name")), mac, ip


def _meaningful(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address by which somebody else may reach the guest."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return None if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified else ip


# -- settings ------------------------------------------------------------------------------------------------------


def _pending(guest: Guest) -> list[str]:
    """What is written and waits for a restart, a line for each key; a secret's value is not told by Proxmox VE."""
    return [
        f"{key}: {'gone' if value is None else 'changed'} after restart"
        for key, value in sorted(guest.pending.items())
        if key != "description"
    ]


def _settings(guest: Guest, mark: Stamp | None) -> dict[str, str]:
    """What v1.Machine has no field for: of what was asked for, what holds now."""
    if mark is None:
        return {}
    found = {key: _holds(key, wish, guest) for key, wish in mark.settings.items() if _is_told(key)}
    found |= _of_disks(guest, mark) | _of_nics(guest, mark)
    found |= {"placement.resource_pool": guest.pool, BOOT_DATA_SETTING: mark.boot_digest}
    return {key: value for key, value in found.items() if value}


def _is_told(key: str) -> bool:
    return not key.startswith(_NOT_TOLD)


def _holds(key: str, wish: str, guest: Guest) -> str:
    """What holds of a wish: in its own words where it does, else what Proxmox VE has instead."""
    config = guest.config
    match key:
        case "cpu.shares":
            return str(config.get("cpuunits", ""))
        case "memory.reservation_bytes":
            balloon = _whole(config.get("balloon", ""), -1)
            return wish if balloon == sizes.mib(_whole(wish)) else str(balloon << 20) if balloon >= 0 else ""
        case hardware.IOMMU:
            return "true" if properties.parse(config.get("machine", "")).get("viommu") else ""
        case hardware.NESTED:
            return "true" if hardware.is_nested(config.get("cpu", "")) else ""
        case hardware.HA:
            return wish if guest.ha else ""  # what it tells of a member is its state, and not what was asked for
        case "gpus":
            return _gpus(config)
    option = hardware.OUR_KEYS.get(key)
    if option is None or not option.field:
        return wish
    have = str(config.get(option.field, ""))
    return wish if have == option.parameter(wish.strip()) else have


def _gpus(config: Mapping[str, Any]) -> str:
    """In the words of `v1.GpuSpec`: "2xa100", in the order of the slots."""
    slots = sorted((key for key in config if key.startswith("hostpci")), key=lambda key: _whole(key[7:]))
    names = [properties.parse(config[key]).get("mapping") for key in slots]
    counted: list[tuple[str, int]] = []
    for name in names:
        if counted and counted[-1][0] == name:
            counted[-1] = (name, counted[-1][1] + 1)
        else:
            counted.append((name, 1))
    return ",".join(f"{count}x{name}" for name, count in counted)


def _of_disks(guest: Guest, mark: Stamp) -> dict[str, str]:
    found = {}
    for disk in mark.disks:
        drive = disks.drive_in(guest.config, disk.slot)
        if drive is not None:
            found[f"disks[{disk.name}].iops_limit"] = drive.options.get("iops")
    return found


def _of_nics(guest: Guest, mark: Stamp) -> dict[str, str]:
    records = {nic.slot: nic for nic in mark.nics}
    found: dict[str, str] = {}
    for nic in nics.nics(guest.config):
        if nic.slot in records:
            told = v1.NicSpec(
                mtu=nic.mtu if nic.mtu > 1 else 0,
                firewall=nic.firewall,
                rate_limit_bytes=nic.rate_limit_bytes,
                trunks=[text for text in nic.trunks.split(";") if text],
            )
            name = records[nic.slot].name
            found |= {f"nics[{name}].{field}": value for field, value in nic_settings(told).items()}
    return found
