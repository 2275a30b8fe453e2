"""Making and unmaking machines: the order of the steps, so that a crash after any of them leaves nothing unknown.

Create: volumes, named by the machine's UID, then the ISO, then the domain with its stamp in one call. Whatever a crash
leaves is found by its name: the next create takes it over, a destroy removes it.
Destroy: power, volumes, then the domain, whose stamp says until the end which of its disks we did not make.

Every function blocks and is handed a live connection.
"""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import libvirt
from common import tracing, v1
from common.errors import (
    ForeignMachineError,
    HostFullError,
    InvalidSpecError,
    NameConflictError,
    ResourceNotFoundError,
)
from providerkit import nocloud
from providerkit.planner import DESCRIPTION_SETTING, boot_data_digest, hypervisor_name

from provider_libvirt import domains, images, networks, observed, stamp, volumes
from provider_libvirt.host import Host
from provider_libvirt.reading import parse
from provider_libvirt.stamp import DiskStamp, Stamp
from provider_libvirt.volumes import Volume

MOST_NAME_BYTES = 200
"""libvirt puts a domain's name into file names of at most 255 bytes, with endings of its own."""


@dataclass(frozen=True)
class Config:
    """Choices of this provider."""

    owner: str
    pool: str
    pool_path: str
    serial_log: bool = True


def ensure_default_pool(connection: libvirt.virConnect, config: Config) -> None:
    """Have the pool that machines and images go to where nothing else is said."""
    volumes.ensure_pool(connection, config.pool, config.pool_path)


def identity_of(spec: v1.MachineSpec) -> v1.MachineIdentity:
    """Who the machine is."""
    if spec.identity is None:
        raise InvalidSpecError("identity: is missing")
    return spec.identity


def domain_name(identity: v1.MachineIdentity) -> str:
    """The hypervisor name; a long one is cut and made unique by the UID."""
    name = hypervisor_name(identity)
    return name if len(name.encode()) <= MOST_NAME_BYTES else f"{name[: MOST_NAME_BYTES - 37]}-{identity.uid}"


def ours(connection: libvirt.virConnect, uid: str, owner: str) -> tuple[libvirt.virDomain, Stamp] | None:
    """The domain with this UUID and its stamp; None when there is no such domain.

    Raises:
        ForeignMachineError: it does not carry our stamp.
    """
    try:
        domain = connection.lookupByUUIDString(uid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    mark = stamp.read(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
    if mark is None or mark.owner != owner or mark.uid != uid:
        raise ForeignMachineError(
            f"libvirt domain {domain.name()} ({uid}) does not carry the stamp of this installation"
        )
    return domain, mark


@dataclass(frozen=True)
class Parts:
    """What a machine is put together from: files that exist, devices that are decided."""

    name: str
    disks: tuple[domains.DiskDevice, ...]
    disk_stamps: tuple[DiskStamp, ...]
    interfaces: tuple[ET.Element, ...]
    nic_stamps: tuple[stamp.NicStamp, ...]
    boot_path: str
    serial_log: str
    made: tuple[tuple[str, str], ...]
    """Volumes that this call made, as (pool, name)."""


def make_parts(connection: libvirt.virConnect, spec: v1.MachineSpec, host: Host, config: Config) -> Parts | None:
    """Check everything, then make the files; None when the machine is there already. A failure leaves nothing."""
    identity = identity_of(spec)
    if ours(connection, identity.uid, config.owner) is not None:
        return None
    name = domain_name(identity)
    _check_name_free(connection, name)
    ensure_default_pool(connection, config)
    interfaces, nic_stamps, macs = _interfaces(connection, spec, host)
    iso = nocloud.iso(nocloud.files(spec, macs)) if nocloud.needed(spec) else b""
    made: list[tuple[str, str]] = []
    try:
        with tracing.span("libvirt.disks"):
            devices, disk_stamps = _disks(connection, spec, config, made)
        with tracing.span("libvirt.boot_data"):
            boot_path = write_boot_data(connection, identity.uid, iso, config, made) if iso else ""
    except BaseException:
        undo(connection, made)
        raise
    return Parts(
        name=name,
        disks=tuple(devices),
        disk_stamps=tuple(disk_stamps),
        interfaces=tuple(interfaces),
        nic_stamps=tuple(nic_stamps),
        boot_path=boot_path,
        serial_log=_serial_log(connection, identity.uid, host, config),
        made=tuple(made),
    )


def define(
    connection: libvirt.virConnect,
    spec: v1.MachineSpec,
    parts: Parts,
    host: Host,
    config: Config,
    valid: set[domains.Shape],
) -> None:
    """Define the domain, stamped, in one call; a failure leaves nothing.

    Args:
        valid: shapes that this libvirt has found valid; a new one is added. Where it knows the shape, libvirt is spared
            the reading of its schema, which takes as long as all else in a definition.
    """
    identity = identity_of(spec)
    mark = Stamp(
        uid=identity.uid,
        namespace=identity.namespace,
        name=identity.name,
        owner=config.owner,
        created=int(time.time()),
        boot_digest=boot_data_digest(spec),
        boot_path=parts.boot_path,
        hot_add_cpu=bool(spec.cpu and spec.cpu.hot_add),
        disks=parts.disk_stamps,
        nics=parts.nic_stamps,
        tags=tuple(sorted(domains.printable(tag) for tag in set(spec.tags))),
        settings={DESCRIPTION_SETTING: "true"} if spec.description else {},
    )
    xml = domains.domain(
        spec,
        parts.name,
        host,
        mark,
        disks=list(parts.disks),
        interfaces=list(parts.interfaces),
        boot_data=parts.boot_path,
        serial_log=parts.serial_log,
    )
    shape = domains.shape(xml)
    known = host.is_test or shape in valid
    try:
        with tracing.span("libvirt.define"):
            connection.defineXMLFlags(xml, 0 if known else libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        valid.add(shape)
    except BaseException:
        undo(connection, list(parts.made))
        raise


def _check_name_free(connection: libvirt.virConnect, name: str) -> None:
    try:
        other = connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return
        raise
    raise NameConflictError(
        f"libvirt has a domain {name} ({other.UUIDString()}) that is not this machine; it was not touched. "
        "Rename or remove that domain, or adopt it"
    )


def taken_macs(connection: libvirt.virConnect) -> set[str]:
    """MAC of every NIC of every domain."""
    macs = set()
    for domain in connection.listAllDomains(0):
        with contextlib.suppress(libvirt.libvirtError):  # undefined since the list was made
            macs |= macs_of(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
    return macs


def macs_of(domain: ET.Element) -> set[str]:
    """MACs of a domain's NICs, in lower case."""
    return {element.get("address", "").lower() for element in domain.iterfind("devices/interface/mac")}


def _interfaces(
    connection: libvirt.virConnect, spec: v1.MachineSpec, host: Host
) -> tuple[list[ET.Element], list[stamp.NicStamp], dict[str, str]]:
    uid = identity_of(spec).uid
    used = taken_macs(connection) if spec.nics else set()
    elements, stamps, macs = [], [], {}
    for nic in spec.nics:
        source = networks.resolve(
            connection, nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT), nic.name, session=host.session
        )
        macs[nic.name] = mac = nic.mac or networks.mac_address(uid, nic.name, used)
        used.add(mac)
        elements.append(networks.interface(nic, source, mac))
        stamps.append(networks.stamp(nic, source))
    return elements, stamps, macs


def _disks(
    connection: libvirt.virConnect, spec: v1.MachineSpec, config: Config, made: list[tuple[str, str]]
) -> tuple[list[domains.DiskDevice], list[DiskStamp]]:
    uid, default = identity_of(spec).uid, spec.placement.datastore if spec.placement else ""
    devices, stamps = [], []
    for disk in spec.disks:
        device, record = provide_disk(connection, uid, disk, disk.storage or default or config.pool, made)
        devices.append(device)
        stamps.append(record)
    return devices, stamps


def provide_disk(
    connection: libvirt.virConnect, uid: str, disk: v1.DiskSpec, pool_name: str, made: list[tuple[str, str]]
) -> tuple[domains.DiskDevice, DiskStamp]:
    """The disk, made or taken; what was made is noted in `made` as (pool, volume)."""
    bus = domains.BUSES.get(disk.bus)
    if bus is None:
        raise InvalidSpecError(f"disk {disk.name}: this provider has no {disk.bus.name} bus")
    if disk.existing is not None:
        volume = _existing(connection, disk)
        record = DiskStamp(name=disk.name, path=volume.path, pool=volume.pool, owned=False)
        format = disk.existing.format or volume.format
        return domains.DiskDevice(name=disk.name, path=volume.path, format=format, bus=bus), record
    image = images.require(connection, disk.image.id) if disk.image is not None else None
    pool = volumes.lookup_pool(connection, pool_name, f"disk {disk.name}")
    _check_room(pool, disk)
    volume, fresh = volumes.make_disk(pool, uid, disk, image)
    if fresh:
        made.append((pool_name, volume.name))
    record = DiskStamp(name=disk.name, path=volume.path, pool=pool_name, image_id=disk.image.id if disk.image else "")
    return domains.DiskDevice(name=disk.name, path=volume.path, format=volume.format, bus=bus), record


def _check_room(pool: libvirt.virStoragePool, disk: v1.DiskSpec) -> None:
    """A volume takes little at first; a pool that cannot hold even that is full now."""
    volumes.refresh(pool)
    free = pool.info()[3]
    if free < 1 << 20:
        raise HostFullError(f"disk {disk.name}: storage pool {pool.name()} has less than 1 MiB left")


def _existing(connection: libvirt.virConnect, disk: v1.DiskSpec) -> Volume:
    path = disk.existing.id if disk.existing else ""
    try:
        volume = connection.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise ResourceNotFoundError(f"disk {disk.name}: no storage pool has a volume at {path}") from error
        raise
    return volumes.describe(volume, volume.storagePoolLookupByVolume().name())


def write_boot_data(
    connection: libvirt.virConnect, uid: str, iso: bytes, config: Config, made: list[tuple[str, str]]
) -> str:
    """Write the NoCloud ISO as a volume, in place of an earlier one; its path."""
    pool = volumes.lookup_pool(connection, config.pool, "boot data")
    name = volumes.boot_data_name(uid)
    volumes.remove(pool, name)
    made.append((config.pool, name))
    volume = volumes.create(pool, name, len(iso), "raw")
    volumes.upload(connection, pool, name, [iso])
    return volume.path


def _serial_log(connection: libvirt.virConnect, uid: str, host: Host, config: Config) -> str:
    if not config.serial_log or host.is_test:
        return ""
    pool = volumes.lookup_pool(connection, config.pool, "serial log")
    return str(volumes.target_path(pool) / volumes.serial_log_name(uid))


def undo(connection: libvirt.virConnect, made: list[tuple[str, str]]) -> None:
    """Remove what a failed step made; what cannot be removed now is found by its name later."""
    for pool_name, name in reversed(made):
        with contextlib.suppress(libvirt.libvirtError):  # the first error counts
            volumes.remove(connection.storagePoolLookupByName(pool_name), name)


def destroy(connection: libvirt.virConnect, uid: str, host: Host, config: Config) -> None:
    """Remove the machine and all that we made for it; absent is success."""
    found = ours(connection, uid, config.owner)
    kept: set[str] = set()
    if found is not None:
        domain, mark = found
        power_off(domain)
        root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        owned = {disk.path for disk in mark.disks if disk.owned} | {mark.boot_path}
        kept = {observed.disk_source(disk) for disk in root.iterfind("devices/disk")} - owned
        kept |= {disk.path for disk in mark.disks if not disk.owned}
    _remove_files(connection, uid, kept)
    if found is not None:
        undefine(found[0], host)


def _remove_files(connection: libvirt.virConnect, uid: str, kept: set[str]) -> None:
    kept = kept | _used_by_others(connection, uid)
    for pool in volumes.active_pools(connection):
        volumes.refresh(pool)
        for name in volumes.of_machine(pool, uid):
            found = volumes.find(pool, name)
            if found is not None and found.path not in kept:
                volumes.remove(pool, name)


def _used_by_others(connection: libvirt.virConnect, uid: str) -> set[str]:
    """Disks of all other domains, and what other volumes stand on: a file that was ours may have been handed on since.

    An error ends the removal: what cannot be read may use anything.
    """
    used = set()
    for domain in connection.listAllDomains(0):
        if domain.UUIDString() == uid:
            continue
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            try:
                xml = domain.XMLDesc(flags)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # undefined since the list was made
                    raise
                continue
            used |= {_source_path(connection, source) for source in parse(xml).iter("source")}
    for pool in volumes.active_pools(connection):
        used |= {backing for name, backing in volumes.backings(pool).items() if not name.startswith(uid)}
    return used


def _source_path(connection: libvirt.virConnect, source: ET.Element) -> str:
    """The file or device that a disk stands on; libvirt leaves `type='volume'` unresolved even in live XML."""
    pool_name, name = source.get("pool", ""), source.get("volume", "")
    if not (pool_name and name):
        return source.get("file") or source.get("dev") or ""
    try:
        pool = connection.storagePoolLookupByName(pool_name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        return ""
    return str(volumes.target_path(pool) / name)


def undefine(domain: libvirt.virDomain, host: Host) -> None:
    """Remove the definition with all that libvirt keeps for it."""
    flags = 0
    if not host.is_test:
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )
    try:
        domain.undefineFlags(flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def power_off(domain: libvirt.virDomain) -> None:
    """Cut the power, and drop a saved memory; off already is success."""
    try:
        if domain.isActive():
            domain.destroy()
    except libvirt.libvirtError as error:
        gone = error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN)
        if not gone or domain.isActive():
            raise
    with contextlib.suppress(libvirt.libvirtError):  # a driver without managed save has none to drop
        if domain.hasManagedSaveImage(0):
            domain.managedSaveRemove(0)


def write_stamp(domain: libvirt.virDomain, mark: Stamp) -> None:
    """Replace the stamp, in the definition and on the running machine."""
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0)
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    domain.setMetadata(kind, mark.xml(), stamp.PREFIX, stamp.NAMESPACE, flags)


def release(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Take our stamp off; absent or foreign is success."""
    try:
        found = ours(connection, uid, owner)
    except ForeignMachineError:
        return
    if found is not None:
        domain = found[0]
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, None, stamp.NAMESPACE, flags)
