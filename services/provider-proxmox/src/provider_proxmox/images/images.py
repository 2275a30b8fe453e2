"""Images: what machines are made from, and what each of them is on Proxmox VE.

Two kinds. A *reference* names what exists: a template of somebody, a volume, a backup. It is looked up each time, never
changed, and nothing is written down about it anywhere. An *import* is a template that we made of a file, found by its
stamp; where its disks are local to a node, it is copied to another one when a machine is to be made there.
"""

from __future__ import annotations

import datetime
from typing import Any

from common import faults, logging, v1
from common.errors import (
    HypervisorUnavailableError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ResourceNotFoundError,
)
from providerkit import fetch
from providerkit.driver import Progress

from provider_proxmox.images import references, templates
from provider_proxmox.images.building import Builder
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.images.importing import Importer
from provider_proxmox.images.references import Reference
from provider_proxmox.images.source import Source
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve

log = logging.get(__name__)

DELETED = faults.declare("proxmox.image.deleted", "an image's templates are gone, and nobody knows yet")

SOURCES = (v1.ImageSourceKind.URL, v1.ImageSourceKind.FILE, v1.ImageSourceKind.TEMPLATE)
"""Where images may come from."""


class Images:
    """Images of one installation."""

    def __init__(self, pve: Pve, builder: Builder, importer: Importer, *, owner: str) -> None:
        self._pve = pve
        self._builder = builder
        self._importer = importer
        self._owner = owner

    def check(self, request: v1.PrepareImageRequest) -> str:
        """The image's id: a function of the object that declares it and of its source.

        Raises:
            InvalidSpecError, NotSupportedError: the source can never work.
        """
        if (reference := references.of(request)) is not None:
            return reference.id()
        source = request.source or v1.ImageSource()
        key = fetch.key(source)
        if key is None:
            raise NotSupportedError("source: Proxmox VE takes images from template, url and file")
        self._importer.check(source)
        return fetch.image_id(request.uid, key)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get(self, image_id: str) -> v1.Image | None:
        """A ready image, or None.

        Raises:
            InvalidSpecError: a reference means several templates.
        """
        doing = "look up an image"
        self._pve.known(doing)
        if (reference := references.parse(image_id)) is not None:
            try:
                return await self._referred(reference, doing)
            except ImageNotFoundError:
                return None
        for guest in self._ready(image_id):
            return _image(guest)
        return None

    async def all(self) -> list[v1.Image]:
        """Every import that is ready, by id. References are not listed: nothing was made for them."""
        found: dict[str, v1.Image] = {}
        for guest, mark in templates.of_owner(self._pve.known("list images"), self._owner):
            if templates.is_ready(guest):
                found.setdefault(mark.id, _image(guest))
        return [found[image_id] for image_id in sorted(found)]

    def _ready(self, image_id: str) -> list[Guest]:
        return [
            guest for guest in templates.of_image(self._pve.index, self._owner, image_id) if templates.is_ready(guest)
        ]

    async def resolve(self, image_id: str, doing: str, *, node: str = "", storage: str = "") -> Source:
        """See Sources."""
        self._pve.known(doing)
        if (reference := references.parse(image_id)) is not None:
            if reference.kind == "template":
                guest = await self._template(reference, doing)
                return self._of_template(image_id, guest, node, storage, doing, linked=reference.linked)
            return await self._of_volume(image_id, reference, node, doing)
        ready = await self._all_fresh(image_id, doing)
        there = [each for each in ready if not node or node in templates.reaching(self._pve.index, each)]
        guest = min(there or ready, key=lambda each: (_storage_of(each) != storage, each.vmid))
        if node and not there:
            guest = await self._builder.copy(guest, node, storage, doing)
        return self._of_template(image_id, guest, node, storage, doing, linked=True)

    async def _all_fresh(self, image_id: str, doing: str) -> list[Guest]:
        """Its templates as they are now; one at least. Those of nodes that do not answer do not count.

        Raises:
            ImageNotFoundError: there is none.
            HypervisorUnavailableError: all there are, are out of reach.
        """
        found, away = [], None
        for each in self._ready(image_id):
            try:
                guest = await self._fresh(each, doing)
            except HypervisorUnavailableError as error:
                away = error
                continue
            if guest is not None:
                found.append(guest)
        if not found:
            raise away or ImageNotFoundError(f"{doing}: image {image_id!r} is not prepared on this cluster")
        return found

    async def _fresh(self, guest: Guest, doing: str) -> Guest | None:
        """As it is now, if it is still this template."""
        now = await self._pve.refresh(guest.vmid, doing)
        mark = templates.stamp_of(guest)
        return now if now is not None and templates.stamp_of(now) == mark and templates.is_ready(now) else None

    def _of_template(self, image_id: str, guest: Guest, node: str, storage: str, doing: str, *, linked: bool) -> Source:
        index = self._pve.index
        home, nodes = _storage_of(guest), templates.reaching(index, guest)
        if node and node not in nodes:
            raise NotSupportedError(
                f"{doing}: the disks of template {guest.vmid} are local to node {guest.node}, which alone can copy "
                f"them; put the machine there, or the template on a storage that {node} reaches, too"
            )
        return Source(
            image_id=image_id,
            kind="template",
            node=guest.node,
            nodes=nodes,
            vmid=guest.vmid,
            linked=linked and storage in ("", home) and templates.can_be_linked(index, guest),
            storage=home,
            disks=templates.sizes(guest.config),
            config=guest.config,
        )

    # -- references ------------------------------------------------------------------------------------------------

    async def _referred(self, reference: Reference, doing: str) -> v1.Image:
        if reference.kind == "template":
            guest = await self._template(reference, doing)
            location, size = f"{guest.name} (VMID {guest.vmid})", next(iter(templates.sizes(guest.config).values()), 0)
            return _existing(reference, location, format="", virtual_size=size)
        nodes = await self._nodes_with(reference, doing)
        told = await self._volume(reference, nodes[0], doing)
        size = 0 if reference.kind == "archive" else int(told.get("size") or 0)
        return _existing(
            reference, reference.what, format=str(told.get("format", "")), virtual_size=size,
            size=int(told.get("used") or told.get("size") or 0),
        )  # fmt: skip

    async def _template(self, reference: Reference, doing: str) -> Guest:
        """The template that a reference means, as it is now.

        Raises:
            ImageNotFoundError: there is none.
            InvalidSpecError: there are several; all of them are named.
        """
        index = self._pve.index
        found = [
            guest
            for guest in index.guests.values()
            if guest.template and reference.node in ("", guest.node)
            and reference.what in (str(guest.vmid), guest.name)
        ]  # fmt: skip
        by_id = [guest for guest in found if reference.what == str(guest.vmid)]
        where = f" on node {reference.node}" if reference.node else ""
        if len(by_id or found) > 1:
            each = ", ".join(f"{guest.vmid} on {guest.node}" for guest in sorted(found, key=lambda guest: guest.vmid))
            raise InvalidSpecError(
                f"source.template.name: several templates{where} are named {reference.what}: {each}; "
                "give the VMID of one"
            )
        guest = await self._pve.refresh((by_id or found)[0].vmid, doing) if found else None
        if guest is None or not guest.template:
            raise ImageNotFoundError(f"{doing}: there is no template {reference.what}{where}")
        return guest

    async def _of_volume(self, image_id: str, reference: Reference, node: str, doing: str) -> Source:
        nodes = await self._nodes_with(reference, doing)
        asked = node if node in nodes else nodes[0]
        told = await self._volume(reference, asked, doing)
        size = 0 if reference.kind == "archive" else int(told.get("size") or 0)
        return Source(
            image_id=image_id,
            kind=reference.kind,
            node=asked,
            nodes=frozenset(nodes),
            volume=reference.what,
            disks={} if reference.kind == "archive" else {"scsi0": size},
        )

    async def _nodes_with(self, reference: Reference, doing: str) -> list[str]:
        """Nodes that reach a volume; one at least.

        Raises:
            ImageNotFoundError: none has it.
        """
        storages = [
            storage
            for storage in self._pve.index.storages.values()
            if storage.name == reference.storage and storage.active
        ]
        if not storages:
            raise ImageNotFoundError(f"{doing}: the cluster has no storage {reference.storage} that is active")
        shared = sorted(storage.node for storage in storages if storage.shared)
        if shared:
            await self._volume(reference, shared[0], doing)
            return shared
        nodes = []
        for storage in storages:
            try:
                await self._volume(reference, storage.node, doing)
            except ImageNotFoundError:
                continue
            nodes.append(storage.node)
        if not nodes:
            raise ImageNotFoundError(f"{doing}: there is no volume {reference.what} on any node")
        return sorted(nodes)

    async def _volume(self, reference: Reference, node: str, doing: str) -> dict[str, Any]:  # as Proxmox VE tells it
        path = f"nodes/{node}/storage/{reference.storage}/content/{reference.what}"
        try:
            told = await self._pve.get(doing, path)
        except ResourceNotFoundError as error:
            raise ImageNotFoundError(str(error)) from error
        return dict(told)

    # -- making and removing ---------------------------------------------------------------------------------------

    async def prepare(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """Make it ready; one that is ready is the answer at once.

        Raises:
            ImageNotFoundError: what the source refers to is not there.
        """
        image_id = self.check(request)
        doing = f"prepare image {request.namespace}/{request.name}"
        if (reference := references.parse(image_id)) is not None:
            return await self._referred(reference, doing)
        if (ready := await self.get(image_id)) is not None:
            return ready
        await self._importer.make(request, image_id, progress)
        image = await self.get(image_id)
        if image is None:
            raise ImageNotFoundError(f"{doing}: somebody removed its template while it was made")
        return image

    async def delete(self, image_id: str) -> None:
        """Remove an import, finished or not; absent is success, and so is a reference: what it names is not ours.

        Raises:
            ImageInUseError: machines stand on its disks. Full copies do not.
        """
        if references.parse(image_id) is not None:
            return
        doing = f"delete image {image_id}"
        self._pve.known(doing)
        await self._importer.clear(image_id, doing, ready=True)
        log.info("proxmox.image.removed", image=image_id)
        await faults.point(DELETED)


def _storage_of(guest: Guest) -> str:
    first = templates.first_disk(guest)
    return first.storage if first is not None else ""


def _image(guest: Guest) -> v1.Image:
    """For the wire; of an import that is ready."""
    mark = templates.stamp_of(guest) or ImageStamp("", "", "", "", "", 0)
    return v1.Image(
        id=mark.id,
        location=guest.name,  # of every copy of it, on whichever node
        format=mark.format,
        size_bytes=mark.size_bytes,
        virtual_size_bytes=next(iter(templates.sizes(guest.config).values()), 0),
        source_digest=mark.source_digest,
        uid=mark.uid,
        namespace=mark.namespace,
        name=mark.name,
        create_time=datetime.datetime.fromtimestamp(mark.created, datetime.UTC),
    )


def _existing(reference: Reference, location: str, *, format: str, virtual_size: int, size: int = 0) -> v1.Image:
    return v1.Image(
        id=reference.id(),
        location=location,
        format=format,
        size_bytes=size,
        virtual_size_bytes=virtual_size,
        uid=reference.uid,
        namespace=reference.namespace,
        name=reference.name,
    )
