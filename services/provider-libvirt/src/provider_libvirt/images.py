"""Base images: fetched, verified, and kept as read-only volumes that machines only ever stand on.

Two volumes make an image: `virtrigaud-image-<id>.<format>`, and the marker `virtrigaud-image-<id>.json`, written when
the content is complete and its checksum right. Without its marker a volume is a remnant of an interrupted attempt:
nobody sees it, and the next attempt removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import libvirt
from common import faults, v1
from common.errors import (
    BrokenImageError,
    HostFullError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
)
from providerkit import fetch, formats
from providerkit.driver import Progress
from providerkit.records import decoded

from provider_libvirt import volumes
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.volumes import Volume

UPLOADED = faults.declare("libvirt.image.uploaded", "an image's content is complete in its pool, its marker is missing")
PREFIX = "virtrigaud-image-"
_MARKER = re.compile(re.escape(PREFIX) + r"([0-9a-f-]{36}\.[0-9a-f]{16})\.json")
_MOST_MARKER = 64 * 1024
_LATEST = 1 << 37
"""Seconds since 1970; what is later is no time that we wrote."""
_ID = re.compile(r"[0-9a-f-]{36}\.[0-9a-f]{16}")


@dataclass(frozen=True)
class Marker:
    """What is known of a complete image."""

    id: str
    uid: str
    namespace: str
    name: str
    format: str
    size_bytes: int
    virtual_size_bytes: int
    source_digest: str
    created: int

    def volume(self) -> str:
        """Name of the volume with the content."""
        return f"{PREFIX}{self.id}.{self.format}"

    def image(self, pool: str) -> v1.Image:
        """For the wire."""
        return v1.Image(
            id=self.id,
            location=f"{pool}/{self.volume()}",
            format=self.format,
            size_bytes=self.size_bytes,
            virtual_size_bytes=self.virtual_size_bytes,
            source_digest=self.source_digest,
            uid=self.uid,
            namespace=self.namespace,
            name=self.name,
            create_time=datetime.datetime.fromtimestamp(self.created, datetime.UTC),
        )


def image_id(request: v1.PrepareImageRequest) -> str:
    """Id of an image: a function of the declaring object and the source.

    Raises:
        InvalidSpecError: a kind of source that can never work here.
    """
    key = fetch.key(request.source or v1.ImageSource())
    if key is None:
        raise NotSupportedError("source: libvirt takes images from url and file")
    return fetch.image_id(request.uid, key)


class Images:
    """Images in the storage pools of one hypervisor."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        pool: str,
        directories: Sequence[Path],
        policy: fetch.Policy,
        limit: int,
        spool: Path,
        privileged: bool,
        timeout: float = 3600.0,
    ) -> None:
        """Nothing is touched yet.

        Args:
            directories: file sources are confined to these.
            limit: most bytes of one image.
            spool: downloads wait here until their checksum is known to be right.
            privileged: libvirtd may write to a file that is read-only to all.
            timeout: seconds for one transfer into the pool.
        """
        self._hypervisor = hypervisor
        self._pool = pool
        self._directories = directories
        self._policy = policy
        self._limit = limit
        self._spool = spool
        self._privileged = privileged
        self._timeout = timeout

    def check(self, request: v1.PrepareImageRequest) -> str:
        """The image's id.

        Raises:
            InvalidSpecError: the source can never work.
        """
        found = image_id(request)
        source = request.source or v1.ImageSource()
        if source.format not in ("", "qcow2", "raw"):
            raise InvalidSpecError(f"source.format: {source.format} given; this provider takes qcow2 and raw")
        if source.url is not None:
            self._policy.check_url(source.url.url)
        return found

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get(self, wanted: str) -> v1.Image | None:
        """A complete image, or None."""
        if not _ID.fullmatch(wanted):
            return None
        found = await self._hypervisor.call(f"look up image {wanted}", lambda c: find(c, wanted))
        return found[0].image(found[1].pool) if found else None

    async def all(self) -> list[v1.Image]:
        """Every complete image, by id."""

        def look(connection: libvirt.virConnect) -> list[v1.Image]:
            images = []
            for pool in volumes.active_pools(connection):
                for name in pool.listVolumes():
                    if (match := _MARKER.fullmatch(name)) and (found := _in_pool(connection, pool, match[1])):
                        images.append(found[0].image(found[1].pool))
            return sorted(images, key=lambda image: image.id)

        return await self._hypervisor.call("list images", look, timeout=60.0)

    # -- making ----------------------------------------------------------------------------------------------------

    async def prepare(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """Fetch, verify and keep; one that is complete is the answer at once."""
        wanted = self.check(request)
        if (ready := await self.get(wanted)) is not None:
            return ready
        pool = request.storage or self._pool
        await self._hypervisor.call(f"clear remnants of image {wanted}", lambda c: _clear_remnants(c, pool, wanted))
        descriptor = await self._obtain(request.source or v1.ImageSource(), progress)
        try:
            marker = await self._fill(request, wanted, pool, descriptor, progress)
            await faults.point(UPLOADED)
            await self._hypervisor.call(f"mark image {wanted}", lambda c: _write_marker(c, pool, marker))
        except BaseException:
            await self._tidy(pool, wanted)
            raise
        finally:
            os.close(descriptor)
        return marker.image(pool)

    async def _tidy(self, pool: str, wanted: str) -> None:
        with contextlib.suppress(ProviderError):  # the first error counts; the next attempt clears what is left
            await self._hypervisor.call(f"clear image {wanted}", lambda c: _clear(c, pool, wanted))

    async def _obtain(self, source: v1.ImageSource, progress: Progress) -> int:
        """The content as an open file: the file itself, or the download in a nameless temporary file, verified."""
        if source.file is not None:
            real = await asyncio.to_thread(fetch.locate, source.file.path, self._directories)
            descriptor = await asyncio.to_thread(fetch.open_file, real)
            if (length := os.fstat(descriptor).st_size) > self._limit:
                os.close(descriptor)
                raise InvalidSpecError(f"source.file.path: {real} has {length} bytes, at most {self._limit} are taken")
            return descriptor
        download = fetch.Download(source.url or v1.UrlSource(), self._policy, limit=self._limit)
        return await _spool(download, source.checksum, self._spool, progress)

    async def _fill(
        self, request: v1.PrepareImageRequest, wanted: str, pool: str, descriptor: int, progress: Progress
    ) -> Marker:
        """Copy the content into its volume, judged by its head before and by its checksum after."""
        source = request.source or v1.ImageSource()
        length = os.fstat(descriptor).st_size
        kind = formats.examine(os.pread(descriptor, formats.HEADER_BYTES, 0), length, source.format)
        digests = fetch.Digests(source.checksum)
        loop = asyncio.get_running_loop()

        def report(sent: int) -> None:
            loop.call_soon_threadsafe(progress, 0.5 + 0.5 * min(sent / length, 1.0), "uploading")

        def read() -> Iterator[bytes]:
            os.lseek(descriptor, 0, os.SEEK_SET)
            while piece := os.read(descriptor, volumes.CHUNK):
                digests.update(piece)
                yield piece

        def send(connection: libvirt.virConnect) -> None:
            target = volumes.lookup_pool(connection, pool, f"image {wanted}")
            name = f"{PREFIX}{wanted}.{kind.name}"
            volumes.create(target, name, length, "raw", mode="0444" if self._privileged else "0644")
            volumes.upload(connection, target, name, read(), report)

        await self._hypervisor.slow_call(f"upload image {wanted}", send, timeout=self._timeout)
        return Marker(
            id=wanted,
            uid=request.uid,
            namespace=request.namespace,
            name=request.name,
            format=kind.name,
            size_bytes=length,
            virtual_size_bytes=kind.capacity,
            source_digest=digests.verify(f"image {request.namespace}/{request.name}"),
            created=int(datetime.datetime.now(datetime.UTC).timestamp()),
        )

    async def delete(self, wanted: str) -> None:
        """Remove an image that nothing stands on; absent is success."""
        if not _ID.fullmatch(wanted):
            return
        await self._hypervisor.call(f"delete image {wanted}", lambda c: _delete(c, wanted), timeout=60.0)


async def _spool(download: fetch.Download, checksum: v1.Checksum | None, directory: Path, progress: Progress) -> int:
    digests = fetch.Digests(checksum)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            taken = 0
            async with contextlib.aclosing(download.chunks()) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
                    await asyncio.to_thread(digests.update, chunk)
                    taken += len(chunk)
                    if download.length:
                        progress(0.5 * min(taken / download.length, 1.0), "downloading")
            file.flush()
            digests.verify(download.name)
            return os.dup(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostFullError(f"{download.name}: no space left in {directory} for the download") from error
        raise


def find(connection: libvirt.virConnect, wanted: str) -> tuple[Marker, Volume] | None:
    """A complete image and its volume, whichever pool it is in; blocking."""
    for pool in volumes.active_pools(connection):
        if found := _in_pool(connection, pool, wanted):
            return found
    return None


def require(connection: libvirt.virConnect, wanted: str) -> Volume:
    """The volume to stand on, with the format and capacity of the disk in it; blocking.

    Raises:
        ImageNotFoundError: there is no complete image of this id.
    """
    found = find(connection, wanted) if _ID.fullmatch(wanted) else None
    if found is None:
        raise ImageNotFoundError(f"image {wanted!r} is not prepared on this provider")
    marker, volume = found
    return replace(volume, format=marker.format, capacity=marker.virtual_size_bytes)


def _in_pool(connection: libvirt.virConnect, pool: libvirt.virStoragePool, wanted: str) -> tuple[Marker, Volume] | None:
    try:
        data = volumes.download(connection, pool.storageVolLookupByName(f"{PREFIX}{wanted}.json"), _MOST_MARKER)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_SUPPORT):
            return None
        raise
    marker = read_marker(data)
    volume = volumes.find(pool, marker.volume()) if marker is not None and marker.id == wanted else None
    return (marker, volume) if marker is not None and volume is not None else None


def read_marker(data: bytes) -> Marker | None:
    """The marker in a file; None for half of one, which an interrupted attempt left."""
    marker = decoded(data, Marker)
    if marker is None:
        return None
    numbers = (marker.size_bytes, marker.virtual_size_bytes)
    sound = all(0 <= number < 1 << 63 for number in numbers) and 0 <= marker.created < _LATEST
    return marker if sound and marker.format in ("qcow2", "raw") else None


def _clear(connection: libvirt.virConnect, pool: str, wanted: str) -> None:
    """Remove what an interrupted attempt left; the marker goes first, so that no half of an image is ever visible."""
    found = volumes.lookup_pool(connection, pool, f"image {wanted}")
    volumes.refresh(found)
    for suffix in ("json", "qcow2", "raw"):
        volumes.remove(found, f"{PREFIX}{wanted}.{suffix}")


def _write_marker(connection: libvirt.virConnect, pool: str, marker: Marker) -> None:
    found = volumes.lookup_pool(connection, pool, f"image {marker.id}")
    data = json.dumps(asdict(marker)).encode()
    name = f"{PREFIX}{marker.id}.json"
    volumes.create(found, name, len(data), "raw", mode="0644")
    volumes.upload(connection, found, name, [data])


def _delete(connection: libvirt.virConnect, wanted: str) -> None:
    found = find(connection, wanted)
    if found is None:
        return
    if users := _users(connection, {found[1].path}):
        raise ImageInUseError(f"image {wanted}: in use by {', '.join(users)}")
    _clear(connection, found[1].pool, wanted)


def _clear_remnants(connection: libvirt.virConnect, pool_name: str, wanted: str) -> None:
    """Make room for an image that has no readable marker.

    Raises:
        BrokenImageError: disks stand on its volume, so it was complete once, and only its marker was lost.
    """
    pool = volumes.lookup_pool(connection, pool_name, f"image {wanted}")
    names = [f"{PREFIX}{wanted}.{suffix}" for suffix in ("qcow2", "raw")]
    paths = {volume.path for name in names if (volume := volumes.find(pool, name)) is not None}
    if paths and (users := _users(connection, paths)):
        raise BrokenImageError(
            f"image {wanted}: its marker {PREFIX}{wanted}.json in pool {pool_name} is lost or unreadable, and "
            f"{', '.join(users)} stand on its volume; nothing was removed. "
            "Restore the marker, or declare the image anew"
        )
    _clear(connection, pool_name, wanted)


def _users(connection: libvirt.virConnect, paths: set[str]) -> list[str]:
    """Who stands on any of these volumes, for people."""
    users = set()
    for pool in volumes.active_pools(connection):
        for name, backing in volumes.backings(pool).items():
            if backing in paths:
                users.add(_user(connection, name))
    return sorted(users)


def _user(connection: libvirt.virConnect, volume: str) -> str:
    """Who stands on the image, for people."""
    with contextlib.suppress(libvirt.libvirtError):  # the machine of the volume may be gone
        return f"machine {connection.lookupByUUIDString(volume[:36]).name()} ({volume[:36]})"
    return f"volume {volume}"
