"""Volumes in storage pools: made, filled, grown and removed through libvirt alone, so that remote hosts work too.

Every function blocks and is handed a live connection. Names say whose a volume is: `<machine uid>-<disk>.qcow2`,
`<machine uid>-boot-data.iso`, `<machine uid>-serial.log`; images are in `images.py`.
"""

from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import libvirt
from common import v1
from common.errors import BrokenImageError, InternalError, InvalidSpecError, NotSupportedError, ResourceNotFoundError

from provider_libvirt.numbers import size_of

_FILE_POOLS = ("dir", "fs", "netfs", "gluster")
_SUFFIXES = r"-[a-z0-9]([-a-z0-9]*[a-z0-9])?\.(qcow2|raw|iso|log)(\.[0-9]+)?"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Volume:
    """What a volume is, as plain values."""

    name: str
    pool: str
    path: str
    format: str
    capacity: int
    allocation: int
    backing: str = ""
    """Path of the volume that it stands on; empty for none."""


def ensure_pool(connection: libvirt.virConnect, name: str, path: str) -> None:
    """Have an active pool of this name; one that exists is started if need be, and never changed.

    Raises:
        NotSupportedError: it keeps no files (LVM, RBD, ...).
    """
    try:
        pool = connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL or not path:
            raise
        root = ET.Element("pool", {"type": "dir"})
        ET.SubElement(root, "name").text = name
        ET.SubElement(ET.SubElement(root, "target"), "path").text = path
        pool = connection.storagePoolDefineXML(ET.tostring(root, encoding="unicode"), 0)
        pool.build(libvirt.VIR_STORAGE_POOL_BUILD_NEW)
        pool.setAutostart(1)
    if not pool.isActive():
        pool.create(0)
    kind = _parse(pool.XMLDesc(0)).get("type", "")
    if kind not in _FILE_POOLS:
        raise NotSupportedError(
            f"storage pool {name} is of type {kind}; this provider needs one that keeps files: dir, fs or netfs"
        )


def lookup_pool(connection: libvirt.virConnect, name: str, why: str) -> libvirt.virStoragePool:
    """An active pool that keeps files.

    Raises:
        ResourceNotFoundError: no such pool, or it is not active.
    """
    try:
        pool = connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise ResourceNotFoundError(f"{why}: there is no storage pool {name}") from error
        raise
    if not pool.isActive():
        raise ResourceNotFoundError(f"{why}: storage pool {name} is not active; start it: virsh pool-start {name}")
    kind = _parse(pool.XMLDesc(0)).get("type", "")
    if kind not in _FILE_POOLS:
        raise NotSupportedError(f"{why}: storage pool {name} is of type {kind}; a pool that keeps files is needed")
    return pool


def _parse(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314  # from libvirt, whose parser expands no entities


def describe(volume: libvirt.virStorageVol, pool: str) -> Volume:
    """The volume as plain values."""
    root = _parse(volume.XMLDesc(0))
    found = root.find("target/format")
    return Volume(
        name=volume.name(),
        pool=pool,
        path=volume.path(),
        format=found.get("type", "raw") if found is not None else "raw",
        capacity=size_of(root.find("capacity"), "bytes"),
        allocation=size_of(root.find("allocation"), "bytes"),
        backing=root.findtext("backingStore/path") or "",
    )


def find(pool: libvirt.virStoragePool, name: str) -> Volume | None:
    """The volume of this name as it is on disk now, or None."""
    try:
        volume = pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise
    return describe(volume, pool.name())


def backings(pool: libvirt.virStoragePool) -> dict[str, str]:
    """Path of what each volume of the pool stands on, as it is on disk now; by name, without those that stand alone."""
    refresh(pool)
    found = {}
    for volume in pool.listAllVolumes(0):
        try:
            backing = describe(volume, pool.name()).backing
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:  # removed since the list was made
                raise
            continue
        if backing:
            found[volume.name()] = backing
    return found


def refresh(pool: libvirt.virStoragePool) -> None:
    """Make libvirt look at the directory again: files come and go behind its back (a restart, a log, another host)."""
    with contextlib.suppress(libvirt.libvirtError):  # a job on one of its volumes forbids it; what is listed must do
        pool.refresh(0)


def create(
    pool: libvirt.virStoragePool,
    name: str,
    capacity: int,
    format: str,
    *,
    backing: Volume | None = None,
    mode: str = "0600",
) -> Volume:
    """Make a volume, sparse.

    Args:
        capacity: bytes.
        backing: what it is an overlay of; it is only ever read.
        mode: permissions of the file, octal.
    """
    root = ET.Element("volume", {"type": "file"})
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", {"unit": "bytes"}).text = str(capacity)
    ET.SubElement(root, "allocation", {"unit": "bytes"}).text = "0"
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", {"type": format})
    ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = mode
    if format == "qcow2":
        ET.SubElement(target, "compat").text = "1.1"
    if backing is not None:
        store = ET.SubElement(root, "backingStore")
        ET.SubElement(store, "path").text = backing.path
        ET.SubElement(store, "format", {"type": backing.format})
    return describe(pool.createXML(ET.tostring(root, encoding="unicode"), 0), pool.name())


def remove(pool: libvirt.virStoragePool, name: str) -> None:
    """Remove a volume; absent is success."""
    try:
        pool.storageVolLookupByName(name).delete(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise


def upload(
    connection: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    name: str,
    chunks: Iterable[bytes],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill a volume from its start; `progress` hears the bytes sent so far. A failure leaves it half filled."""
    stream = connection.newStream(0)
    sent = 0
    try:
        pool.storageVolLookupByName(name).upload(stream, 0, 0, 0)
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                count = stream.send(bytes(view[:262_000]))
                if count < 0:
                    raise InternalError(f"upload volume {name}: libvirt took no data")
                view = view[count:]
                sent += count
            if progress is not None:
                progress(sent)
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):  # the stream may have ended by itself; the first error counts
            stream.abort()
        raise


def download(connection: libvirt.virConnect, volume: libvirt.virStorageVol, limit: int) -> bytes:
    """The content of a small volume, at most `limit` bytes."""
    stream = connection.newStream(0)
    data = bytearray()
    try:
        volume.download(stream, 0, limit, 0)
        while len(data) < limit and (piece := stream.recv(262_000)):
            if not isinstance(piece, bytes):
                raise InternalError(f"download volume {volume.name()}: libvirt gave no data")
            data += piece
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):  # the stream may have ended by itself; the first error counts
            stream.abort()
        raise
    return bytes(data)


def active_pools(connection: libvirt.virConnect) -> Iterator[libvirt.virStoragePool]:
    """Every active pool that keeps files, by name."""
    pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    for pool in sorted(pools, key=lambda p: str(p.name())):
        if _parse(pool.XMLDesc(0)).get("type", "") in _FILE_POOLS:
            yield pool


def of_machine(pool: libvirt.virStoragePool, uid: str) -> list[str]:
    """Names of the volumes that we made for a machine, whether it still exists or not, sorted."""
    ours = re.compile(re.escape(uid) + _SUFFIXES)
    return sorted(name for name in pool.listVolumes() if ours.fullmatch(name))


def disk_name(uid: str, disk: str) -> str:
    """Name of the volume of a disk."""
    return f"{uid}-{disk}.qcow2"


def boot_data_name(uid: str) -> str:
    """Name of the NoCloud ISO of a machine; a disk's volume can never have it."""
    return f"{uid}-boot-data.iso"


def serial_log_name(uid: str) -> str:
    """Name of the file that keeps what the serial console says."""
    return f"{uid}-serial.log"


def names_by_directory(connection: libvirt.virConnect) -> dict[str, str]:
    """Name of each active pool by its directory; none where libvirt runs without its storage driver."""
    try:
        pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT):
            raise
        return {}
    names = {}
    for pool in sorted(pools, key=lambda pool: str(pool.name())):
        with contextlib.suppress(libvirt.libvirtError):  # it went since the list was made
            names[str(target_path(pool))] = str(pool.name())
    return names


def target_path(pool: libvirt.virStoragePool) -> PurePosixPath:
    """Directory of the pool, on the hypervisor's side."""
    return PurePosixPath(_parse(pool.XMLDesc(0)).findtext("target/path") or "/")


def make_disk(pool: libvirt.virStoragePool, uid: str, disk: v1.DiskSpec, image: Volume | None) -> tuple[Volume, bool]:
    """The volume of a disk: made, or, after an interrupted attempt, the one that is there already.

    A volume of ours that is there may hold a guest's data (its domain was undefined by hand): it is used, grown where
    the spec asks for more, and never replaced unless nothing was ever written to it.

    Returns:
        The volume, and whether this call made it.
    Raises:
        InvalidSpecError: smaller than the image.
        BrokenImageError: a volume that holds data stands on something else than the image.
    """
    capacity = disk.size_bytes or (image.capacity if image else 0)
    if image is not None and capacity < image.capacity:
        raise InvalidSpecError(
            f"disk {disk.name}: {capacity} bytes asked for, the image needs {image.capacity}; a disk never shrinks"
        )
    name = disk_name(uid, disk.name)
    have = find(pool, name)
    if have is not None and have.backing != (image.path if image else ""):
        if have.allocation > 4 << 20:
            raise BrokenImageError(
                f"disk {disk.name}: volume {name} in pool {pool.name()} is left from before, holds data and stands on "
                f"{have.backing or 'nothing'}; move it away, or remove it, by hand"
            )
        remove(pool, name)
        have = None
    if have is None:
        return create(pool, name, capacity, "qcow2", backing=image), True
    if have.capacity < capacity:
        pool.storageVolLookupByName(name).resize(capacity, 0)
        have = find(pool, name) or have
    return have, False
