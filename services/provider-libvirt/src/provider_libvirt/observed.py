"""What is true of a domain, from libvirt's XML and states: pure functions, tolerant of whatever others defined."""

from __future__ import annotations

import datetime
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

import libvirt
from common import v1
from providerkit.planner import BOOT_DATA_SETTING

from provider_libvirt import networks, stamp
from provider_libvirt.domains import AGENT_CHANNEL, BOOT_DATA_ALIAS, DISK_ALIAS
from provider_libvirt.numbers import count, size_of

_BUSES = {"virtio": v1.DiskBus.VIRTIO, "scsi": v1.DiskBus.SCSI, "sata": v1.DiskBus.SATA, "ide": v1.DiskBus.IDE,
          "nvme": v1.DiskBus.NVME}  # fmt: skip

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: ON,
    libvirt.VIR_DOMAIN_BLOCKED: ON,
    libvirt.VIR_DOMAIN_SHUTDOWN: ON,
    libvirt.VIR_DOMAIN_SHUTOFF: OFF,
    libvirt.VIR_DOMAIN_CRASHED: PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: SUSPENDED,
}
_PAUSED_WHY = {
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "paused for a migration",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "paused while its memory is saved",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "paused while its memory is dumped",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "its watchdog fired",
    libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "paused after a snapshot was restored",
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "paused while shutting down",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "paused for a snapshot",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "the guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "paused for a migration",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "a migration broke off",
}
_OFF_WHY = {
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "the guest or its QEMU process crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "it failed to start",
}


@dataclass(frozen=True)
class Facts:
    """What only the guest, its leases or the neighbour table tell; collected aside from observing."""

    addresses: tuple[v1.GuestAddress, ...] = ()
    hostname: str = ""
    os: str = ""


@dataclass(frozen=True)
class Raw:
    """One domain as read from libvirt, in plain values."""

    uid: str
    name: str
    state: int
    reason: int
    active: bool
    live: ET.Element
    config: ET.Element
    """The definition for the next start; the same as `live` of a machine that is off or transient."""
    saved: bool = False
    """A managed save image is there: its memory is kept on disk."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Capacity in bytes by target ("sda")."""
    disk_errors: Mapping[str, int] = field(default_factory=dict)
    """libvirt's disk error by target, where there is one."""


def machine(raw: Raw, *, owner: str, host: str, facts: Facts | None, pools: Mapping[str, str]) -> v1.Machine:
    """The machine that a domain is.

    Args:
        owner: our installation; a stamp with another owner is foreign.
        pools: name of the pool by its directory.
    """
    mark = stamp.read(raw.config) or stamp.read(raw.live)
    owned = mark is not None and mark.owner == owner and mark.uid == raw.uid
    power = power_state(raw)
    facts = facts if facts is not None and raw.active else Facts()
    seen = v1.Machine(
        identity=_identity(mark) if owned and mark else None,
        id=raw.uid,
        hypervisor_name=raw.name,
        owned=owned,
        power=power,
        power_reason=power_reason(raw),
        cpu=_cpu(raw),
        memory=_memory(raw),
        firmware=_firmware(raw.config),
        disks=_disks(raw, mark if owned else None, pools),
        nics=_nics(raw, mark if owned else None),
        host=host,
        description=(raw.config.findtext("description") or "").strip(),
        consoles=[v1.ConsoleKind.SERIAL] if raw.live.find("devices/serial[@type='pty']") is not None else [],
    )
    seen.addresses = [_named(address, seen.nics) for address in facts.addresses]
    agent = raw.live.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']")
    running = raw.active and agent is not None and agent.get("state") == "connected"
    seen.guest = v1.Guest(hostname=facts.hostname, agent_running=running, os=facts.os)
    if owned and mark is not None:
        seen.tags = sorted(mark.tags)
        seen.settings = dict(mark.settings)
        if mark.boot_digest:
            seen.settings[BOOT_DATA_SETTING] = mark.boot_digest
        if mark.created:
            seen.create_time = datetime.datetime.fromtimestamp(mark.created, datetime.UTC)
    seen.pending_restart = _pending(seen)
    return seen


def _identity(mark: stamp.Stamp) -> v1.MachineIdentity:
    return v1.MachineIdentity(uid=mark.uid, namespace=mark.namespace, name=mark.name, owner=mark.owner)


def power_state(raw: Raw) -> v1.PowerState:
    """The state in our words; paused by a person is suspended, paused by the hypervisor is not."""
    if raw.state == libvirt.VIR_DOMAIN_PAUSED:
        by_person = raw.reason in (libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN)
        return SUSPENDED if by_person else PAUSED
    if raw.state == libvirt.VIR_DOMAIN_SHUTOFF and raw.saved:
        return SUSPENDED
    return _STATES.get(raw.state, v1.PowerState.UNKNOWN)


def power_reason(raw: Raw) -> str:
    """Why, where that is worth saying."""
    if raw.state == libvirt.VIR_DOMAIN_CRASHED:
        return "the guest crashed"
    if raw.state == libvirt.VIR_DOMAIN_SHUTOFF:
        return "its memory is saved on disk" if raw.saved else _OFF_WHY.get(raw.reason, "")
    if raw.state != libvirt.VIR_DOMAIN_PAUSED:
        return ""
    why = _PAUSED_WHY.get(raw.reason, "")
    if raw.reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR and raw.disk_errors:
        named = []
        for target, code in sorted(raw.disk_errors.items()):
            full = code == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE
            named.append(f"disk {_disk_name(raw.live, target) or target}" + (": no space left" if full else ""))
        why = f"{why} on {', '.join(named)}"
    return why


def _disk_name(root: ET.Element, target: str) -> str:
    for element in root.iterfind("devices/disk"):
        found = element.find("target")
        if found is not None and found.get("dev") == target:
            return _alias(element, DISK_ALIAS)
    return ""


def _cpu_counts(root: ET.Element) -> tuple[int, int]:
    found = root.find("vcpu")
    most = count(found.text) if found is not None else 0
    now = count(found.get("current")) if found is not None else 0
    return (now or most), most


def _cpu(raw: Raw) -> v1.CpuState:
    now, most = _cpu_counts(raw.live)
    configured, ceiling = _cpu_counts(raw.config)
    topology = raw.config.find("cpu/topology")
    return v1.CpuState(
        count=now if raw.active else configured,
        max_count=most if raw.active else ceiling,
        configured_count=configured,
        cores_per_socket=count(topology.get("cores")) if topology is not None else 0,
    )


def _memory(raw: Raw) -> v1.MemoryState:
    now, configured = size_of(raw.live.find("memory")), size_of(raw.config.find("memory"))
    size = now if raw.active else configured
    return v1.MemoryState(size_bytes=size, max_bytes=size, configured_bytes=configured)


def _firmware(root: ET.Element) -> v1.FirmwareSpec:
    system = root.find("os")
    loader = root.find("os/loader")
    if system is None:
        return v1.FirmwareSpec()
    efi = system.get("firmware") == "efi" or (loader is not None and loader.get("type") == "pflash")
    tpm = root.find("devices/tpm/backend")
    return v1.FirmwareSpec(
        type=v1.FirmwareType.UEFI if efi else v1.FirmwareType.BIOS,
        secure_boot=efi and loader is not None and loader.get("secure") == "yes",
        tpm=root.find("devices/tpm") is not None,
        tpm_version=tpm.get("version", "") if tpm is not None else "",
    )


def _alias(element: ET.Element, prefix: str) -> str:
    alias = element.find("alias")
    name = alias.get("name", "") if alias is not None else ""
    return name.removeprefix(prefix) if name.startswith(prefix) else ""


def _attribute(element: ET.Element, path: str, name: str) -> str:
    found = element.find(path)
    return found.get(name, "") if found is not None else ""


def disk_source(element: ET.Element) -> str:
    """Path, device or name behind a disk; empty for an empty drive."""
    found = element.find("source")
    if found is None:
        return ""
    volume = f"{found.get('pool', '')}/{found.get('volume', '')}" if found.get("volume") else ""
    return found.get("file") or found.get("dev") or volume or found.get("name") or found.get("dir") or ""


def disk_directories(raw: Raw) -> set[str]:
    """Directories of all its disks."""
    elements = (*disk_elements(raw.live).values(), *disk_elements(raw.config).values())
    return {_directory(element) for element in elements} - {""}


def _directory(element: ET.Element) -> str:
    return "" if _attribute(element, "source", "pool") else disk_source(element).rpartition("/")[0]


def _storage(element: ET.Element, record: stamp.DiskStamp | None, pools: Mapping[str, str]) -> str:
    """Pool that a disk lies in: as our record says, as the disk itself says, or by its directory."""
    if record is not None:
        return record.pool
    return _attribute(element, "source", "pool") or pools.get(_directory(element), "")


def disk_elements(root: ET.Element) -> dict[str, ET.Element]:
    """Disks (no CD or floppy drives) by target."""
    found = (e for e in root.iterfind("devices/disk") if e.get("device", "disk") == "disk")
    return {_attribute(e, "target", "dev"): e for e in found}


def disk_by_name(root: ET.Element, name: str) -> ET.Element | None:
    """The disk with this name from the spec."""
    return next((e for e in disk_elements(root).values() if _alias(e, DISK_ALIAS) == name), None)


def nic_by_name(root: ET.Element, name: str) -> ET.Element | None:
    """The NIC with this name from the spec."""
    return next((e for e in root.iterfind("devices/interface") if _alias(e, networks.ALIAS) == name), None)


def boot_data_source(root: ET.Element) -> str:
    """Path of the NoCloud ISO, or empty."""
    for element in root.iterfind("devices/disk"):
        if _attribute(element, "alias", "name") == BOOT_DATA_ALIAS:
            return disk_source(element)
    return ""


def _disks(raw: Raw, mark: stamp.Stamp | None, pools: Mapping[str, str]) -> list[v1.Disk]:
    live, config = disk_elements(raw.live), disk_elements(raw.config)
    disks = []
    for target, element in {**live, **config}.items():
        name, path = _alias(element, DISK_ALIAS), disk_source(element)
        record = mark.disk(name) if mark is not None and name else None
        disks.append(
            v1.Disk(
                name=name if mark is not None else "",
                id=path,
                size_bytes=raw.sizes.get(target, 0),
                bus=_BUSES.get(_attribute(element, "target", "bus"), v1.DiskBus.UNSPECIFIED),
                provisioning=record.provisioning if record else v1.DiskProvisioning.UNSPECIFIED,
                storage=_storage(element, record, pools),
                format=_attribute(element, "driver", "type"),
                owned=record is not None and record.owned,
                image_id=record.image_id if record else "",
                device=target,
                active=target in live or not raw.active,
            )
        )
    first = next((d.device for d in disks if _attribute(config.get(d.device, raw.config), "boot", "order") == "1"), "")
    return sorted(disks, key=lambda d: (d.device != first, len(d.device), d.device))


def _nics(raw: Raw, mark: stamp.Stamp | None) -> list[v1.Nic]:
    live = {_attribute(e, "mac", "address").lower(): e for e in raw.live.iterfind("devices/interface")}
    config = {_attribute(e, "mac", "address").lower(): e for e in raw.config.iterfind("devices/interface")}
    nics = []
    for mac, element in {**live, **config}.items():
        name = _alias(element, networks.ALIAS) if mark is not None else ""
        record = mark.nic(name) if mark is not None and name else None
        state = _attribute(live.get(mac, element), "link", "state")
        nics.append(
            v1.Nic(
                name=name,
                mac=mac,
                model=_attribute(element, "model", "type"),
                network=networks.reference(networks.source_of(element), record),
                id=mac,
                active=mac in live or not raw.active,
                connected=state != "down",
            )
        )
    return nics


def _named(address: v1.GuestAddress, nics: list[v1.Nic]) -> v1.GuestAddress:
    name = next((nic.name for nic in nics if nic.mac == address.mac), "")
    return v1.GuestAddress(
        address=address.address, interface=address.interface, mac=address.mac, sources=list(address.sources), nic=name
    )


def _pending(seen: v1.Machine) -> list[str]:
    lines = []
    cpu, memory = seen.cpu or v1.CpuState(), seen.memory or v1.MemoryState()
    if cpu.configured_count != cpu.count:
        lines.append(f"cpu: {cpu.configured_count} after restart, {cpu.count} now")
    if memory.configured_bytes != memory.size_bytes:
        lines.append(f"memory: {memory.configured_bytes} bytes after restart, {memory.size_bytes} now")
    lines += [f"disk {disk.name or disk.device}: plugged in after restart" for disk in seen.disks if not disk.active]
    lines += [f"nic {nic.name or nic.mac}: plugged in after restart" for nic in seen.nics if not nic.active]
    return lines
