"""Templates made from image files: the file goes into an import storage, its content into a new guest's disk, and the
guest becomes a template.

Whatever is half done is found: the file by its name, the guest by its stamp, both of which follow from the image's id.
A guest comes into being only from a file that is whole and verified, in one call; so one that has its disk is gone on
with, and everything else of an attempt that ended is cleared away by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    HostFullError,
    ImageInUseError,
    ImageNotFoundError,
    OperationInProgressError,
    ProviderError,
    ResourceNotFoundError,
)
from providerkit.driver import Progress

from provider_proxmox import stamp, vmids
from provider_proxmox.config import disks
from provider_proxmox.content.files import Files
from provider_proxmox.images import imagestamp, templates
from provider_proxmox.images.fetching import Fetched, Fetcher, Target
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.session.index import Guest, Storage
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import VmidTakenError

log = logging.get(__name__)

FETCHED = faults.declare("proxmox.image.fetched", "an image's file is in an import storage, nothing is made of it")
IMPORTED = faults.declare("proxmox.image.imported", "an image's guest has its disk, and is no template yet")
CONVERTED = faults.declare("proxmox.image.converted", "an image's template is ready, its file is still there")

_LONGEST_NAME = 63
_STEM = "virtrigaud-image-"
MEMORY_MIB = 512
"""Of the template; machines get their own."""


@dataclass(frozen=True)
class Place:
    """Where a template is made."""

    node: str
    storage: Storage
    """Of its disk."""


class Importer:
    """Makes templates of image files."""

    def __init__(
        self,
        pve: Pve,
        fetcher: Fetcher,
        clock: Clock,
        *,
        owner: str,
        ids: range,
        nodes: Sequence[str] = (),
        storage: str = "",
        import_storage: str = "",
        pool: str = "",
    ) -> None:
        """Args:
        ids: VMIDs that templates may get.
        nodes: where they may be; empty means everywhere.
        storage: of their disks; empty means the one with most free space.
        """
        self._pve = pve
        self._fetcher = fetcher
        self._clock = clock
        self._owner = owner
        self._ids = ids
        self._nodes = nodes
        self._storage = storage
        self._files = Files(pve, "import", "import_storage", import_storage)
        self._pool = pool

    def check(self, source: v1.ImageSource) -> None:
        """Judge a source by itself.

        Raises:
            InvalidSpecError, NotSupportedError: it can never be fetched.
        """
        self._fetcher.check(source)

    async def make(self, request: v1.PrepareImageRequest, image_id: str, progress: Progress) -> None:
        """Make the template of a file or a URL; whatever goes wrong, nothing is left behind.

        Raises:
            BrokenImageError, ChecksumMismatchError, DownloadFailedError, ImageNotFoundError: the source is to blame.
            ResourceNotFoundError, HostFullError: there is no place for it.
        """
        doing = f"import image {request.namespace}/{request.name}"
        if await self._finish(image_id, doing):
            return
        place = self._place(request.storage, doing)
        imports = self._files.storage_of(place.node, doing)
        async with self._whole_or_nothing(image_id, doing):
            target = Target(place.node, imports.name, _stem(image_id))
            fetched = await self._fetcher.fetch(
                request.source or v1.ImageSource(), target, doing, _part(progress, 0.0, 0.7)
            )
            await faults.point(FETCHED)
            mark = self._mark(request, image_id, fetched)
            guest = await self._import(mark, fetched, place, doing, _part(progress, 0.7, 0.95))
            await faults.point(IMPORTED)
            await self._convert(guest, doing)
            await faults.point(CONVERTED)
        await self._clear_files(image_id, doing)
        log.info("proxmox.image.imported", image=image_id, bytes=fetched.size_bytes, node=place.node)

    def _mark(self, request: v1.PrepareImageRequest, image_id: str, fetched: Fetched) -> ImageStamp:
        return ImageStamp(
            id=image_id,
            uid=request.uid,
            namespace=request.namespace,
            name=request.name,
            owner=self._owner,
            vmid=0,
            created=int(self._clock.now().timestamp()),
            source_digest=fetched.digest,
            size_bytes=fetched.size_bytes,
            format=fetched.format,
        )

    # -- places ----------------------------------------------------------------------------------------------------

    def _place(self, wished: str, doing: str) -> Place:
        """Where the template goes: where most room is, on a shared storage if there is one.

        Raises:
            ResourceNotFoundError: no node has such a storage, or none of these takes imports.
        """
        wished = wished or self._storage
        index = self._pve.known(doing)
        found = [
            storage
            for storage in index.storages.values()
            if storage.active and "images" in storage.content and storage.name == (wished or storage.name)
            and (node := index.nodes.get(storage.node)) is not None and node.online
            and (not self._nodes or storage.node in self._nodes)
        ]  # fmt: skip
        if not found:
            raise ResourceNotFoundError(
                f"{doing}: {f'storage {wished}' if wished else 'no storage'} takes disks on a node that is online"
            )
        taking = [storage for storage in found if self._files.is_taken(storage.node)]
        if not taking:
            self._files.storage_of(found[0].node, doing)  # says why
        best = max(taking, key=lambda each: (each.shared, each.free_bytes, each.name, each.node))
        return Place(best.node, best)

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _import(self, mark: ImageStamp, fetched: Fetched, place: Place, doing: str, progress: Progress) -> Guest:
        """The guest with the file's content as its disk.

        Raises:
            HostFullError: no VMID is left.
        """
        disk = disks.new(
            place.storage.name, 0, format=disks.format_on(place.storage.kind), source=fetched.volume
        ).having({"discard": "on"})
        for vmid in vmids.sequence(mark.id, self._ids):
            if vmid in self._pve.index.guests:
                continue
            config = {
                "vmid": vmid,
                "name": _name(mark),
                "description": imagestamp.written(replace(mark, vmid=vmid)),
                "tags": stamp.TAG,
                "ostype": "l26",
                "memory": MEMORY_MIB,
                "scsihw": "virtio-scsi-single",
                "scsi0": str(disk),
                "boot": "order=scsi0",
                "pool": self._pool or None,
            }
            try:
                await self._pve.run(doing, "POST", f"nodes/{place.node}/qemu", config, progress, cancel=True)
            except VmidTakenError:
                continue  # somebody was faster
            guest = await self._pve.refresh(vmid, doing, node=place.node)
            if guest is None or not self._is_of(guest, mark.id):
                raise ImageNotFoundError(f"{doing}: somebody removed its guest while it was made")
            return guest
        raise HostFullError(f"{doing}: every VMID from {self._ids[0]} to {self._ids[-1]} is taken")

    async def _convert(self, guest: Guest, doing: str) -> None:
        await self._pve.run(doing, "POST", f"{guest.path}/template", {})
        await self._pve.refresh(guest.vmid, doing)

    # -- what is left of earlier attempts --------------------------------------------------------------------------

    async def _finish(self, image_id: str, doing: str) -> bool:
        """Go on with a guest that has its disk; whether there is a template now."""
        for known in templates.of_image(self._pve.index, self._owner, image_id):
            guest = await self._pve.refresh(known.vmid, doing)
            if guest is not None and self._is_of(guest, image_id) and templates.is_imported(guest):
                log.info("proxmox.image.resumed", image=image_id, vmid=guest.vmid)
                await self._convert(guest, doing)
                await self._clear_files(image_id, doing)
                return True
        return False

    @asynccontextmanager
    async def _whole_or_nothing(self, image_id: str, doing: str) -> AsyncIterator[None]:
        await self.clear(image_id, doing)
        try:
            yield
        except BaseException:
            await asyncio.shield(self._tidy(image_id, doing))
            raise

    async def _tidy(self, image_id: str, doing: str) -> None:
        with contextlib.suppress(ProviderError):  # the first error counts; the next attempt clears what is left
            await self.clear(image_id, doing)

    async def clear(self, image_id: str, doing: str, *, ready: bool = False) -> None:
        """Remove what an interrupted import left: guests and files.

        Args:
            ready: remove ready templates, too.
        Raises:
            ImageInUseError: machines stand on it.
            OperationInProgressError: Proxmox VE still works on it.
        """
        for known in templates.of_image(self._pve.index, self._owner, image_id):
            guest = await self._pve.refresh(known.vmid, doing)
            if guest is None or not self._is_of(guest, image_id):
                continue
            if ready or not templates.is_ready(guest):
                await self._destroy(guest, doing)
        await self._clear_files(image_id, doing)

    async def _destroy(self, guest: Guest, doing: str) -> None:
        if users := templates.standing_on(self._pve.index, guest):
            raise ImageInUseError(f"{doing}: in use by {', '.join(sorted(map(user, users)))}")
        if guest.status == "running":
            raise OperationInProgressError(f"{doing}: VM {guest.vmid} was made a machine, and runs; remove it by hand")
        options = {"purge": True, "destroy-unreferenced-disks": True}
        await self._pve.run(doing, "DELETE", guest.path, options)
        await self._pve.refresh(guest.vmid, doing)

    async def _clear_files(self, image_id: str, doing: str) -> None:
        wanted = re.compile(re.escape(_stem(image_id)) + r"\.\w+")
        for storage in self._files.everywhere():
            for volume in await self._files.listed(storage, doing):
                if wanted.fullmatch(volume.rpartition("/")[2]):
                    await self._files.remove(storage, volume, doing)

    def _is_of(self, guest: Guest, image_id: str) -> bool:
        mark = templates.stamp_of(guest)
        return mark is not None and (mark.id, mark.owner) == (image_id, self._owner)


def user(guest: Guest) -> str:
    """A guest that stands on an image, for people."""
    mark = guest.stamp
    return (
        f"machine {mark.namespace}/{mark.name} ({mark.uid})" if mark is not None else f"VM {guest.vmid} ({guest.name})"
    )


def _stem(image_id: str) -> str:
    """Of the names of its files."""
    return _STEM + image_id


def _name(mark: ImageStamp) -> str:
    """For people; a DNS name, as Proxmox VE demands."""
    digest = hashlib.sha256(mark.id.encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9-]+", "-", f"image-{mark.namespace}-{mark.name}".lower())
    return f"{readable[: _LONGEST_NAME - 9].rstrip('-')}-{digest}"


def _part(progress: Progress, first: float, last: float) -> Progress:
    """A part of the whole."""
    return lambda done, phase: progress(first + (last - first) * done, phase)
