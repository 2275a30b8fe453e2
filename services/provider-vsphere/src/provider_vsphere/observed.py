"""What is true of a VM, from the facts in the tree: pure functions, tolerant of whatever others made."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from common import v1
from providerkit.planner import BOOT_DATA_SETTING
from pyVmomi import vim

from provider_vsphere import machines, unread
from provider_vsphere.around import affinity, fields, policywatch, tagging
from provider_vsphere.config import devices, editing, hardware, nics
from provider_vsphere.session import happenings, snapshot_tree
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp

E = TypeVar("E")
Device = Any  # pyvmomi makes its types at run time

ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED
_POWER = {"poweredOn": ON, "poweredOff": OFF, "suspended": SUSPENDED}
_FIRMWARE = {"bios": v1.FirmwareType.BIOS, "efi": v1.FirmwareType.UEFI}
_BUSES = {
    devices.SCSI: v1.DiskBus.SCSI,
    devices.SATA: v1.DiskBus.SATA,
    devices.NVME: v1.DiskBus.NVME,
    devices.IDE: v1.DiskBus.IDE,
}
_ASKED_SIZE = "memory.size_bytes"
_TPM_VERSION = "2.0"
"""The only one that vSphere makes."""

_LATEST = 1 << 37
"""Seconds since 1970; what is later is no time that we wrote."""

_MOST_ADDRESSES = 64
_MOST_TEXT = 256
"""Limits for what a guest says of itself."""


def machine(entity: Entity, tree: Tree, owner: str) -> v1.Machine:
    """The machine that a VM is.

    Args:
        owner: our installation; a VM without a stamp of this owner and of this very VM is foreign.
    """
    facts = entity.facts
    mark = machines.stamp_of(entity)
    mark = mark if mark is not None and mark.owner == owner else None
    host = tree.get(facts.get("runtime.host"))
    board: Sequence[Device] = facts.get("config.hardware.device") or ()
    power = _POWER.get(facts.get("runtime.powerState") or "", v1.PowerState.UNKNOWN)
    seen = v1.Machine(
        identity=mark.identity() if mark is not None else None,
        id=entity.moid,
        hypervisor_name=entity.name,
        owned=mark is not None,
        power=power,
        consoles=[v1.ConsoleKind.TICKET],
        power_reason=_power_reason(entity, host, tree),
        cpu=_cpu(facts),
        memory=_memory(facts, mark),
        firmware=_firmware(facts, board),
        disks=_disks(board, mark, tree, snapshot_tree.why_no_growth(facts.get(snapshot_tree.FACT) or ())),
        cdroms=_cdroms(board, mark),
        nics=_nics(board, mark, tree, power),
        host=host.name if host is not None else "",
        description=facts.get("config.annotation") or "",
        create_time=_created(facts, mark),
        tags=tagging.observed(entity, mark) if mark is not None else [],
        settings=_settings(entity, tree, mark),
    )
    if power is ON and facts.get("guest.toolsRunningStatus") == "guestToolsRunning":
        seen.guest = v1.Guest(
            hostname=_said(facts.get("guest.hostName")), agent_running=True, os=_said(facts.get("guest.guestFullName"))
        )
        seen.addresses = _addresses(facts, seen.nics)
    else:
        seen.guest = v1.Guest()  # what vSphere still tells of it is of the past
    return seen


def _power_reason(entity: Entity, host: Entity | None, tree: Tree) -> str:
    """Why it is not what it should be: its host or its files are away, or vSphere waits for a person's answer
    (often for a full disk, or a file that is missing), its guest could not be customized, something happened to it, or
    an alarm is raised."""
    facts = entity.facts
    question = facts.get("runtime.question")
    if question is not None:
        return f"vSphere asks, and waits for an answer: {_said(' '.join(str(question.text or '').split()))}"
    state = host.facts.get("runtime.connectionState") if host is not None else None
    if host is None or state in (None, "connected"):
        if (own := unread.state(entity)) not in ("", unread.CONNECTED):
            return f"vSphere cannot read it ({own}); this is the last state known"
        found = [_customization_failure(facts), happenings.reason(facts), _alarms(facts, tree)]
        return "; ".join(filter(None, found))
    why = "does not answer" if state == "notResponding" else "is disconnected"
    return f"host {host.name} {why}; this is the last state known"


def _alarms(facts: dict[str, Any], tree: Tree) -> str:
    """Those whose names are known by now."""
    alarms = [tree.get(moid) for moid in facts.get(happenings.ALARMS) or ()]
    names = sorted(_said(alarm.name) for alarm in alarms if alarm is not None)
    return f"raised: {', '.join(names)}" if names else ""


def _customization_failure(facts: dict[str, Any]) -> str:
    """The tools of a guest say so at its first start; until another start it is in a state that nobody asked for."""
    told = facts.get("guest.customizationInfo")
    if told is None or told.customizationStatus != "TOOLSDEPLOYPKG_FAILED":
        return ""
    return f"customization of the guest failed: {_said(told.errorMsg) or 'its tools do not say why'}"


def _cpu(facts: dict[str, Any]) -> v1.CpuState:
    count = facts.get("config.hardware.numCPU") or 0
    return v1.CpuState(
        count=count,
        max_count=0 if facts.get("config.cpuHotAddEnabled") else count,  # the ceiling is the host's, and not told
        configured_count=count,
        cores_per_socket=facts.get("config.hardware.numCoresPerSocket") or 0,
        nested_virtualization=bool(facts.get("config.nestedHVEnabled")),
    )


def _memory(facts: dict[str, Any], mark: Stamp | None) -> v1.MemoryState:
    """Bytes, as they were asked for where vSphere has just rounded them up to its own granule."""
    told = facts.get("config.hardware.memoryMB") or 0
    text = mark.settings.get(_ASKED_SIZE, "") if mark is not None else ""
    asked = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    size = asked if asked and hardware.memory_mb(asked) == told else told << 20
    most = 0 if facts.get("config.memoryHotAddEnabled") else size
    return v1.MemoryState(size_bytes=size, max_bytes=most, configured_bytes=size)


def _firmware(facts: dict[str, Any], board: Sequence[Device]) -> v1.FirmwareSpec:
    kind = _FIRMWARE.get(facts.get("config.firmware") or "", v1.FirmwareType.UNSPECIFIED)
    tpm = any(isinstance(device, vim.vm.device.VirtualTPM) for device in board)
    return v1.FirmwareSpec(
        type=kind,
        secure_boot=kind is v1.FirmwareType.UEFI and bool(facts.get("config.bootOptions.efiSecureBootEnabled")),
        tpm=tpm,
        tpm_version=_TPM_VERSION if tpm else "",
    )


def _created(facts: dict[str, Any], mark: Stamp | None) -> datetime.datetime | None:
    if mark is not None and 0 < mark.created < _LATEST:
        return datetime.datetime.fromtimestamp(mark.created, datetime.UTC)
    made: datetime.datetime | None = facts.get("config.createDate")
    # vCenter says 1970 of a VM that is older than the property
    return made.astimezone(datetime.UTC) if made is not None and made.year > 1970 else None


# -- disks ---------------------------------------------------------------------------------------------------------


def _disks(board: Sequence[Device], mark: Stamp | None, tree: Tree, fixed_size: str) -> list[v1.Disk]:
    """Ours in the order of the stamp, which begins with the one to boot from; then the others as they are plugged."""
    records = {disk.slot: (place, disk) for place, disk in enumerate(mark.disks if mark is not None else ())}
    ours, others = [], []
    for device in sorted(devices.disks_of(board), key=lambda disk: (disk.controllerKey or 0, disk.unitNumber or 0)):
        slot = devices.slot_of(board, device)
        place, record = records.pop(slot, (0, None)) if slot else (0, None)
        disk = _disk(device, record, tree)
        disk.device = slot
        disk.fixed_size_reason = fixed_size or ("it stands on the disk of another" if _is_linked(device) else "")
        disk.bus = _bus(devices.controller_of(board, device))
        if record is None:
            others.append(disk)
        else:
            ours.append((place, disk))
    return [disk for _, disk in sorted(ours, key=lambda pair: pair[0])] + others


def _is_linked(device: Device) -> bool:
    """vSphere grows no delta, whoever has the disk under it."""
    return len(devices.chain_of(device)) > 1


def _bus(controller: Device) -> v1.DiskBus:
    family = devices.family_of(controller)
    return _BUSES[family] if family is not None else v1.DiskBus.UNSPECIFIED


def _disk(device: Device, record: DiskStamp | None, tree: Tree) -> v1.Disk:
    path = devices.file_of(device)
    return v1.Disk(
        name=record.name if record is not None else "",
        id=path,
        size_bytes=devices.capacity(device),
        provisioning=_provisioning(device, record),
        storage=_storage(device.backing, path, tree),
        format="vmdk",
        owned=record is not None and record.owned,
        image_id=record.image_id if record is not None else "",
        active=True,
    )


def _storage(backing: Device, path: str, tree: Tree) -> str:
    """Name of the datastore, which a path begins with: "[name] folder/file.vmdk"."""
    store = getattr(backing, "datastore", None)
    entity = tree.get(store._moId) if store is not None else None
    if entity is not None and entity.name:
        return entity.name
    return path[1:].partition("] ")[0] if path.startswith("[") and "] " in path else ""


def _provisioning(device: Device, record: DiskStamp | None) -> v1.DiskProvisioning:
    """How the disk was made. The delta of a snapshot is always thin, so the end of its chain is asked."""
    backing = device.backing
    while getattr(backing, "parent", None) is not None:
        backing = backing.parent
    base = device if backing is device.backing else vim.vm.device.VirtualDisk(backing=backing)
    told = devices.provisioning_of(base)
    unknown, eager = v1.DiskProvisioning.UNSPECIFIED, v1.DiskProvisioning.EAGER_ZEROED_THICK
    asked = _member(v1.DiskProvisioning, record.provisioning, unknown) if record is not None else unknown
    # Not every kind of storage tells, and of those that do some do not say whether a thick disk was zeroed.
    zeroing_untold = told is v1.DiskProvisioning.THICK and getattr(backing, "eagerlyScrub", None) is None
    return asked if told is unknown or (zeroing_untold and asked is eager) else told


def _member(kinds: type[E], name: str, default: E) -> E:
    return getattr(kinds, name, default) if name.isupper() else default


def _cdroms(board: Sequence[Device], mark: Stamp | None) -> list[v1.Cdrom]:
    """Those that we know by name, in the order in which they were asked for."""
    found = []
    for name, slot in mark.cdroms.items() if mark is not None else ():
        if (drive := devices.cdrom_at(board, slot)) is not None:
            found.append(v1.Cdrom(name=name, medium=devices.medium_of(drive), device=slot))
    return found


# -- NICs ----------------------------------------------------------------------------------------------------------


def _nics(board: Sequence[Device], mark: Stamp | None, tree: Tree, power: v1.PowerState) -> list[v1.Nic]:
    """In the order of their keys, which is the guest's."""
    records = {nic.mac: nic for nic in (mark.nics if mark is not None else ())}
    found = []
    for card in sorted(nics.cards(board), key=lambda card: card.key or 0):
        mac = (card.macAddress or "").lower()
        record = records.pop(mac, None)
        found.append(
            v1.Nic(
                name=record.name if record is not None else "",
                mac=mac,
                model=nics.model_of(card),
                network=_network(card.backing, record, tree),
                id=str(card.key),
                active=True,
                connected=_connected(card.connectable, power),
            )
        )
    return found


def _connected(state: Device, power: v1.PowerState) -> bool:
    """Link is up; of a machine that is off, where nothing is connected: will be when it starts."""
    if state is None:
        return True
    return bool(state.startConnected if power is OFF else state.connected)


def _network(backing: Device, record: NicStamp | None, tree: Tree) -> v1.NetworkRef:
    """The network as it was asked for, or, where somebody else moved the NIC, as it is."""
    entity, name, switch = _behind(backing, tree)
    distributed = isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo)
    kind = v1.NetworkKind.DISTRIBUTED if distributed else v1.NetworkKind.NAMED
    if record is None:
        return v1.NetworkRef(kind=kind, name=name, switch=switch)
    asked = _member(v1.NetworkKind, record.kind, v1.NetworkKind.NAMED)
    possible = distributed or asked is not v1.NetworkKind.DISTRIBUTED
    if asked is v1.NetworkKind.NAT or (record.network and possible and _is(record.network, entity, name, tree)):
        return v1.NetworkRef(kind=asked, name=record.network)
    return v1.NetworkRef(kind=kind, name=name)


def _behind(backing: Device, tree: Tree) -> tuple[Entity | None, str, str]:
    """The network that a NIC is plugged into, its name or what stands for it, and its switch."""
    card = vim.vm.device.VirtualEthernetCard
    if isinstance(backing, card.DistributedVirtualPortBackingInfo):
        key = (backing.port.portgroupKey if backing.port is not None else None) or ""
        group = _portgroup(key, tree)
        switch = tree.get(group.facts.get("config.distributedVirtualSwitch")) if group is not None else None
        return group, group.name if group is not None else key, switch.name if switch is not None else ""
    if isinstance(backing, card.OpaqueNetworkBackingInfo):
        found = (each for each in tree.of_kind("OpaqueNetwork") if _opaque_id(each) == backing.opaqueNetworkId)
        opaque = next(found, None)
        return opaque, opaque.name if opaque is not None else backing.opaqueNetworkId or "", ""
    network = getattr(backing, "network", None)
    entity = tree.get(network._moId) if network is not None else None
    return entity, (entity.name if entity is not None else "") or getattr(backing, "deviceName", None) or "", ""


def _portgroup(key: str, tree: Tree) -> Entity | None:
    """By its key, which usually is its id."""
    entity = tree.get(key)
    if entity is not None and entity.kind == "DistributedVirtualPortgroup":
        return entity
    groups = tree.of_kind("DistributedVirtualPortgroup")
    return next((group for group in groups if key and group.facts.get("key") == key), None)


def _opaque_id(network: Entity) -> str:
    return (network.facts.get("summary") or {}).get("id") or ""


def _is(asked: str, entity: Entity | None, name: str, tree: Tree) -> bool:
    """What was asked for by name or inventory path is this."""
    return asked == name or (entity is not None and asked.strip("/") == tree.path(entity).strip("/"))


# -- guest ---------------------------------------------------------------------------------------------------------


def _said(text: str | None) -> str:
    """A word that a guest said: printable and not endless."""
    return "".join(ch for ch in str(text or "")[:_MOST_TEXT] if ch.isprintable())


def _addresses(facts: dict[str, Any], cards: Sequence[v1.Nic]) -> list[v1.GuestAddress]:
    """In the order of the NICs, IPv4 before IPv6, then by value; without those of the guest's own bridges."""
    ours = {nic.mac: (place, nic.name) for place, nic in enumerate(cards) if nic.mac}
    found = {
        (ours[mac][0], ip.version, int(ip)): v1.GuestAddress(
            address=str(ip), mac=mac, sources=["tools"], nic=ours[mac][1]
        )
        for mac, ip in _told(facts)
        if mac in ours
    }
    primary = _meaningful(facts.get("guest.ipAddress"))
    if not found and primary is not None:  # tools that are old, or still at work, tell the one alone
        return [v1.GuestAddress(address=str(primary), sources=["tools"])]
    return [found[key] for key in sorted(found)][:_MOST_ADDRESSES]


def _told(facts: dict[str, Any]) -> Iterator[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    for nic in facts.get("guest.net") or ():
        detailed = [each.ipAddress for each in nic.ipConfig.ipAddress] if nic.ipConfig is not None else []
        for text in detailed or nic.ipAddress or ():
            ip = _meaningful(text)
            if ip is not None:
                yield (nic.macAddress or "").lower(), ip


def _meaningful(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address by which somebody else may reach the guest."""
    try:
        ip = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return None if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified else ip


# -- settings ------------------------------------------------------------------------------------------------------


def _settings(entity: Entity, tree: Tree, mark: Stamp | None) -> dict[str, str]:
    """What v1.Machine has no field for; of where the machine is, only what is true now."""
    asked = mark.settings if mark is not None else {}
    places = {f"placement.{field}" for field in _places(entity, tree)}
    told = {_ASKED_SIZE, *places}  # by the machine itself
    if mark is not None:
        told |= {f"disks[{disk}].storage_policy" for disk in policywatch.asked(mark)}
    settings = {key: value for key, value in asked.items() if key not in {*told, editing.UUID_BEFORE}}
    settings |= _placement(entity, tree, asked)
    settings |= {
        f"{part}.hot_add": "true" for part in ("cpu", "memory") if entity.facts.get(f"config.{part}HotAddEnabled")
    }
    settings |= _hardware(entity.facts, asked)
    if mark is not None:
        settings |= policywatch.observed(entity, mark)
        settings |= affinity.observed(entity, tree, mark)
        settings |= {f"attributes[{name}]": text for name, text in fields.observed(entity, mark).items()}
    if mark is not None and mark.boot_digest:
        settings[BOOT_DATA_SETTING] = mark.boot_digest
    return settings


def _hardware(facts: dict[str, Any], asked: dict[str, str]) -> dict[str, str]:
    """Hardware version and guest as they are; in the words that were asked with, where those mean the same."""
    found = {}
    if (wish := asked.get(hardware.HARDWARE_VERSION_KEY)) is not None:
        version = facts.get("config.version") or ""
        same = hardware.version_number(wish) == hardware.version_number(version)
        found[hardware.HARDWARE_VERSION_KEY] = wish if same else version
    if (wish := asked.get(hardware.GUEST_ID_KEY)) is not None:
        guest = facts.get("config.guestId") or ""
        found[hardware.GUEST_ID_KEY] = wish if wish.strip() == guest else guest
    return found


def _placement(entity: Entity, tree: Tree, asked: dict[str, str]) -> dict[str, str]:
    """Where it is, in the words that were asked with where they still hold; nothing where vSphere's answer is open."""
    found = {}
    for field, candidates in _places(entity, tree).items():
        key = f"placement.{field}"
        wish = asked.get(key, "")
        if wish and any(_is(wish, each, each.name, tree) for each in candidates):
            found[key] = wish
        elif len(candidates) == 1 and candidates[0].name and field != "host":  # the host has a field of its own
            found[key] = candidates[0].name
    return found


def _places(entity: Entity, tree: Tree) -> dict[str, list[Entity]]:
    """By field of v1.Placement. A machine may lie on several datastores, and vSphere does not tell which is its own."""
    host = tree.get(entity.facts.get("runtime.host"))
    compute = tree.get(host.parent) if host is not None else None
    datastores = [tree.get(moid) for moid in entity.facts.get("datastore") or ()]
    pods = {each.parent: tree.get(each.parent) for each in datastores if each is not None}
    places = {
        "cluster": [compute if compute is not None and compute.kind == "ClusterComputeResource" else None],
        "host": [host],
        "resource_pool": [tree.get(entity.facts.get("resourcePool"))],
        "folder": [tree.get(entity.parent)],
        "datastore": datastores,
        "storage_pod": [pod if pod is not None and pod.kind == "StoragePod" else None for pod in pods.values()],
    }
    return {field: [each for each in candidates if each is not None] for field, candidates in places.items()}
