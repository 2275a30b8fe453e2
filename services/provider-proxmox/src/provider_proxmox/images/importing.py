"""Templates made from image files: the file goes into an import storage, its content into a new guest's disk, and the
guest becomes a template.

Whatever is half done is found: the file by its name, the guest by its stamp, both of which follow from the image's id.
A guest comes into being only from a file that is whole and verified, in one call; so one that has its disk is gone on
with, and everything else of an attempt that ended is cleared away by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    ProviderError,
    ResourceNotFoundError,
)
from providerkit.driver import Progress

from provider_proxmox import stamp
from provider_proxmox.config import disks
from provider_proxmox.content.files import Files
from provider_proxmox.images import templates
from provider_proxmox.images.building import Builder
from provider_proxmox.images.fetching import Fetched, Fetcher, Target
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.session.index import Guest, Storage
from provider_proxmox.session.pve import Pve

log = logging.get(__name__)

FETCHED = faults.declare("proxmox.image.fetched", "an image's file is in an import storage, nothing is made of it")
IMPORTED = faults.declare("proxmox.image.imported", "an image's guest has its disk, and is no template yet")
CONVERTED = faults.declare("proxmox.image.converted", "an image's template is ready, its file is still there")

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
        builder: Builder,
        clock: Clock,
        *,
        owner: str,
        nodes: Sequence[str] = (),
        storage: str = "",
        import_storage: str = "",
    ) -> None:
        """Args:
        nodes: where they may be; empty means everywhere.
        storage: of their disks; empty means the one with most free space.
        """
        self._pve = pve
        self._fetcher = fetcher
        self._builder = builder
        self._clock = clock
        self._owner = owner
        self._nodes = nodes
        self._storage = storage
        self._files = Files(pve, "import", "import_storage", import_storage)

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
            await self._builder.convert(guest, doing)
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
        """The guest with the file's content as its disk."""
        disk = disks.new(
            place.storage.name, 0, format=disks.format_on(place.storage.kind), source=fetched.volume
        ).having({"discard": "on"})
        config = {
            "tags": stamp.TAG,
            "ostype": "l26",
            "memory": MEMORY_MIB,
            "scsihw": "virtio-scsi-single",
            "scsi0": str(disk),
            "boot": "order=scsi0",
        }
        return await self._builder.make(mark, place.node, f"nodes/{place.node}/qemu", "vmid", config, doing, progress)

    # -- what is left of earlier attempts --------------------------------------------------------------------------

    async def _finish(self, image_id: str, doing: str) -> bool:
        """Go on with a guest that has its disk; whether there is a template now."""
        for guest in await self._builder.find(image_id, doing):
            if templates.is_imported(guest):
                log.info("proxmox.image.resumed", image=image_id, vmid=guest.vmid)
                await self._builder.convert(guest, doing)
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
        for guest in await self._builder.find(image_id, doing):
            if ready or not templates.is_ready(guest):
                await self._builder.destroy(guest, doing)
        await self._clear_files(image_id, doing)

    async def _clear_files(self, image_id: str, doing: str) -> None:
        wanted = re.compile(re.escape(_stem(image_id)) + r"\.\w+")
        for storage in self._files.everywhere():
            for volume in await self._files.listed(storage, doing):
                if wanted.fullmatch(volume.rpartition("/")[2]):
                    await self._files.remove(storage, volume, doing)


def _stem(image_id: str) -> str:
    """Of the names of its files."""
    return _STEM + image_id


def _part(progress: Progress, first: float, last: float) -> Progress:
    """A part of the whole."""
    return lambda done, phase: progress(first + (last - first) * done, phase)
