"""Images: what machines are made from, and which VM in the inventory each of them is.

Two kinds. A *reference* names a template that exists, or a snapshot: it is looked up each time, never copied, never
removed, and nothing is written down about it anywhere. An *import* is a template that we made; it is found by its stamp
(`imagestamp`), and ready once it is complete and a template, which is when nobody can change it any more.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from common import faults, logging, v1
from common.errors import (
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
)
from providerkit import fetch
from providerkit.driver import Progress
from providerkit.violations import has_control, shown
from pyVmomi import vim, vmodl

from provider_vsphere import files, machines, unread
from provider_vsphere.config import devices
from provider_vsphere.images import packages, references
from provider_vsphere.images.importing import Importer, is_ready
from provider_vsphere.images.references import Reference
from provider_vsphere.places import Places
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import imagestamp
from provider_vsphere.stamps.imagestamp import ImageStamp

log = logging.get(__name__)

DELETED = faults.declare("vsphere.image.deleted", "an image's template is gone, and nobody knows yet")

SOURCES = (
    v1.ImageSourceKind.URL,
    v1.ImageSourceKind.FILE,
    v1.ImageSourceKind.TEMPLATE,
    v1.ImageSourceKind.LIBRARY,
)
"""Where images may come from, on a vCenter."""
_ID = re.compile(r"[0-9a-f-]{36}\.[0-9a-f]{16}")
FORMAT = "vmdk"
"""What every image is, once it is on vSphere."""


@dataclass(frozen=True)
class Source:
    """What a machine is cloned from."""

    entity: Entity
    """The template; with `snapshot`, the VM that has it."""
    devices: Sequence[Any] = ()
    """Of the template; with `snapshot`, as they were when it was taken."""
    snapshot: str = ""
    """moid. The clone's disks then stand on those of the snapshot, which nobody writes to, and are not copied."""
    properties: Sequence[Any] = field(default=())
    """vim.vApp.PropertyInfo of its OVF environment."""


class Images:
    """Images of one installation."""

    def __init__(self, vsphere: Vsphere, places: Places, importer: Importer | None = None, *, owner: str) -> None:
        """Args: importer: None where images are nothing but references."""
        self._vsphere = vsphere
        self._places = places
        self._importer = importer
        self._owner = owner

    def check(self, request: v1.PrepareImageRequest) -> str:
        """The image's id: a function of the object that declares it and of its source.

        Raises:
            InvalidSpecError: the source can never work.
        """
        source = request.source or v1.ImageSource()
        if source.template is not None:
            if source.checksum is not None and source.checksum.digest:
                raise InvalidSpecError("source.checksum: nothing is fetched for a template, so nothing can be verified")
            if source.template.linked:
                raise NotSupportedError("source.template.linked: on vSphere name a snapshot to share disks with")
            return references.of(request, source.template).id()
        key = _library_key(source) if source.library is not None else fetch.key(source)
        if key is None:
            raise NotSupportedError("source: vSphere takes images from template, library, url and file")
        if source.format not in ("", *packages.FORMATS):
            raise InvalidSpecError(
                f"source.format: {source.format} given; this provider takes {', '.join(packages.FORMATS)}"
            )
        if self._importer is not None:
            self._importer.check(source)
        return fetch.image_id(request.uid, key)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get(self, image_id: str) -> v1.Image | None:
        """A ready image, or None.

        Raises:
            InvalidSpecError: a reference means several templates.
        """
        doing = "look up an image"
        self._vsphere.login(doing)
        if (reference := references.parse(image_id)) is not None:
            try:
                named = self._referred(reference)
                snapshot = await self._snapshot(named, reference.snapshot) if reference.snapshot else None
            except ImageNotFoundError:
                return None
            return _referring(reference, self._vsphere.tree, named, snapshot)
        entity = self.find(image_id)
        return _image(entity) if entity is not None and is_ready(entity) else None

    def find(self, image_id: str) -> Entity | None:
        """The VM that is, or is to become, this import; None when there is none.

        Raises:
            HypervisorUnavailableError: it is there and cannot be read now.
        """
        if not _ID.fullmatch(image_id):
            return None
        uid = imagestamp.instance_uuid(image_id)
        for entity in self._vsphere.tree.with_uuid(uid):
            mark = machines.image_stamp_of(entity)
            if mark is not None and mark.owner == self._owner:
                return entity
        unread.refuse(self._vsphere.tree, uid, f"look up image {image_id}")
        return None

    async def all(self) -> list[v1.Image]:
        """Every import that is ready, by id. References are not listed: nothing was made for them."""
        self._vsphere.login("list images")
        found = [_image(entity) for entity in self._vsphere.tree.of_kind("VirtualMachine") if self._is_ready(entity)]
        return sorted(found, key=lambda image: image.id)

    def _is_ready(self, entity: Entity) -> bool:
        mark = machines.image_stamp_of(entity)
        return mark is not None and mark.owner == self._owner and is_ready(entity)

    async def source(self, image_id: str) -> Source:
        """What to clone for a machine that is made from this image.

        Raises:
            ImageNotFoundError: it is not prepared, or gone.
            InvalidSpecError: a reference means several templates.
        """
        doing = f"look up image {image_id}"
        self._vsphere.login(doing)
        reference = references.parse(image_id)
        entity = self._referred(reference) if reference is not None else self.find(image_id)
        if entity is None or (reference is None and not is_ready(entity)):
            raise ImageNotFoundError(f"image {image_id!r} is not prepared on this vSphere")
        if reference is not None and reference.snapshot:
            return await self._linked(entity, reference.snapshot)
        present = entity.facts.get("config.hardware.device") or ()
        return Source(entity, present, properties=entity.facts.get("config.vAppConfig.property") or ())

    def _referred(self, reference: Reference) -> Entity:
        return self._places.template(reference.template, or_machine=bool(reference.snapshot))

    async def _linked(self, entity: Entity, wanted: str) -> Source:
        snapshot = await self._snapshot(entity, wanted)
        read = await self._read(
            f"read snapshot {wanted} of {entity.name}",
            lambda login: vim.vm.Snapshot(snapshot.snapshot._moId, login.instance._stub),
            "config.hardware.device",
            "config.vAppConfig.property",
        )
        return Source(
            entity,
            read.get("config.hardware.device") or (),
            snapshot=str(snapshot.snapshot._moId),
            properties=read.get("config.vAppConfig.property") or (),
        )

    async def _snapshot(self, entity: Entity, wanted: str) -> Any:
        """The snapshot of a VM with this name or id, as its node in the tree of snapshots.

        Raises:
            ImageNotFoundError: it has none of these.
            InvalidSpecError: it has several of this name.
        """
        doing = f"look up snapshot {wanted} of {entity.name}"
        read = await self._read(doing, self._object(entity), "snapshot")
        every = list(_nodes(read["snapshot"].rootSnapshotList)) if read.get("snapshot") else []
        found = [each for each in every if each.name == wanted] or [
            each for each in every if wanted in (str(each.id), each.snapshot._moId)
        ]
        if not found:
            raise ImageNotFoundError(f"{self._vsphere.tree.path(entity)} has no snapshot {wanted}")
        if len(found) > 1:
            ids = ", ".join(str(each.id) for each in found)
            raise InvalidSpecError(
                f"source.template.snapshot: {entity.name} has several of the name {wanted}; give the id of one: {ids}"
            )
        return found[0]

    def _object(self, entity: Entity) -> Any:
        return lambda login: self._vsphere.machine(entity, login)

    async def _read(self, doing: str, which: Any, *paths: str) -> dict[str, Any]:
        """Properties of one object; unset ones are absent."""

        def ask(login: Login) -> dict[str, Any]:
            subject = which(login)
            wanted = vmodl.query.PropertyCollector
            answer = login.content.propertyCollector.RetrieveContents(
                [
                    wanted.FilterSpec(
                        objectSet=[wanted.ObjectSpec(obj=subject, skip=False)],
                        propSet=[wanted.PropertySpec(type=type(subject), all=False, pathSet=list(paths))],
                    )
                ]
            )
            return {change.name: change.val for each in answer for change in each.propSet}

        return await self._vsphere.call(doing, ask)

    # -- making and removing ---------------------------------------------------------------------------------------

    async def prepare(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """Make it ready; one that is ready is the answer at once.

        Raises:
            ImageNotFoundError: the template is not there.
        """
        image_id = self.check(request)
        if (ready := await self.get(image_id)) is not None:
            return ready
        reference = references.parse(image_id)
        if reference is None:
            return await self._import(request, image_id, progress)
        entity = self._referred(reference)  # says why it cannot be found
        if reference.snapshot:
            await self._snapshot(entity, reference.snapshot)
        raise ImageNotFoundError(f"template {reference.template}: it has gone meanwhile")

    async def _import(self, request: v1.PrepareImageRequest, image_id: str, progress: Progress) -> v1.Image:
        if self._importer is None:
            raise NotSupportedError("source: this provider only refers to templates")
        await self._importer.make(request, image_id, progress)
        image = await self.get(image_id)
        if image is None:
            raise ImageNotFoundError(f"image {image_id}: somebody removed its template while it was made")
        return image

    async def delete(self, image_id: str) -> None:
        """Remove an import, finished or not; absent is success, and so is a reference: its template is not ours.

        Raises:
            ImageInUseError: machines stand on its disks. Full copies do not.
        """
        doing = f"delete image {image_id}"
        self._vsphere.login(doing)
        entity = self.find(image_id)
        if entity is None:
            if _ID.fullmatch(image_id):
                known = v1.MachineIdentity(uid=imagestamp.instance_uuid(image_id))
                await unread.rule_out(self._vsphere, known, doing)
            return
        unread.refuse_away(self._vsphere.tree, entity, doing)
        await self._vsphere.refresh(entity)
        if users := files.linked_clones(self._vsphere.tree, entity):
            names = ", ".join(sorted(_user(self._vsphere.tree, each) for each in users))
            raise ImageInUseError(f"image {image_id}: in use by {names}")
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).Destroy_Task())
        self._vsphere.forget(entity)
        log.info("vsphere.image.removed", image=image_id, template=entity.name)
        await faults.point(DELETED)


def _library_key(source: v1.ImageSource) -> list[str]:
    """What tells one library item from another.

    Raises:
        InvalidSpecError: there can be no such item.
    """
    named = source.library or v1.LibrarySource()
    for name, text in (("library", named.library), ("item", named.item)):
        if not text or has_control(text):
            raise InvalidSpecError(f"source.library.{name}: {shown(text)} is no name in a content library")
    if source.checksum is not None and source.checksum.digest:
        raise InvalidSpecError(
            "source.checksum: an item of a library is several files; nobody could tell which it is of"
        )
    return ["library", named.library, named.item, named.version]


def _image(entity: Entity) -> v1.Image:
    """For the wire; of an import that is ready."""
    mark = machines.image_stamp_of(entity) or ImageStamp("", "", "", "", "")
    return v1.Image(
        id=mark.id,
        location=entity.name,
        format=FORMAT,
        size_bytes=mark.size_bytes,
        virtual_size_bytes=_capacity(entity.facts.get("config.hardware.device") or ()),
        source_digest=mark.source_digest,
        uid=mark.uid,
        namespace=mark.namespace,
        name=mark.name,
        create_time=datetime.datetime.fromtimestamp(mark.created, datetime.UTC),
    )


def _referring(reference: Reference, tree: Tree, entity: Entity, snapshot: Any) -> v1.Image:
    created = snapshot.createTime if snapshot is not None else entity.facts.get("config.createDate")
    return v1.Image(
        id=reference.id(),
        location=tree.path(entity) + (f"@{snapshot.name}" if snapshot is not None else ""),
        format=FORMAT,
        virtual_size_bytes=_capacity(entity.facts.get("config.hardware.device") or ()),
        uid=reference.uid,
        namespace=reference.namespace,
        name=reference.name,
        create_time=created if isinstance(created, datetime.datetime) else None,
    )


def _capacity(present: Sequence[Any]) -> int:
    """Bytes of the first disk: the one that becomes a machine's own first disk."""
    disks = devices.disks_of(present)
    return devices.capacity(disks[0]) if disks else 0


def _nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    for each in nodes or ():
        yield each
        yield from _nodes(each.childSnapshotList)


def _user(tree: Tree, entity: Entity) -> str:
    mark = machines.stamp_of(entity)
    return f"machine {mark.namespace}/{mark.name} ({mark.uid})" if mark is not None else f"VM {tree.path(entity)}"
