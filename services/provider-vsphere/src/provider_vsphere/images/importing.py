"""Templates made from packages: what comes from a file or a URL goes straight into an NFC lease; no copy is kept.

The VM is stamped in the very specification that makes it, and has the `instanceUuid` that follows from the image's id.
Wherever the import ends early, its VM is found by these two and removed; a later attempt begins anew. Only what was
transferred to the last byte, with the right digests, gets the complete stamp, and becomes a template after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    BrokenImageError,
    ImageInUseError,
    ImageNotFoundError,
    NotSupportedError,
    OperationInProgressError,
    ProviderError,
)
from providerkit.driver import Progress
from providerkit.fetch import Download, LocalFile, Policy
from providerkit.violations import shown
from pyVmomi import vim

from provider_vsphere import files, machines
from provider_vsphere.config import making, nics
from provider_vsphere.content.nfc import Nfc
from provider_vsphere.images import ovf, packages
from provider_vsphere.images.library import TEMPLATE, Library
from provider_vsphere.images.packages import Origin, Package
from provider_vsphere.inventory import NETWORKS
from provider_vsphere.places import Place, Places
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vim_errors import translate, words
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import imagestamp, stamp
from provider_vsphere.stamps.imagestamp import ImageStamp

log = logging.get(__name__)

IMPORTED = faults.declare("vsphere.image.imported", "an image's VM is there with a stamp that is not complete")
UPLOADED = faults.declare("vsphere.image.uploaded", "an image's disks are complete, its stamp is not")
SEALED = faults.declare("vsphere.image.sealed", "an image's stamp is complete, it is no template yet")

_PROVISIONING = "thin"
_OURS = ("virtrigaud.", "guestinfo.")
"""Beginnings of extra configuration keys that a package has no say in."""


class Importer:
    """Imports packages as templates."""

    def __init__(
        self,
        vsphere: Vsphere,
        places: Places,
        nfc: Nfc,
        clock: Clock,
        *,
        owner: str,
        directories: Sequence[Path] = (),
        policy: Policy | None = None,
        limit: int = 256 << 30,
        library: Library | None = None,
    ) -> None:
        """Args:
        directories: file sources are confined to these.
        policy: which hosts images may come from.
        limit: most bytes of one file.
        library: content libraries, where there are any.
        """
        self._vsphere = vsphere
        self._places = places
        self._nfc = nfc
        self._clock = clock
        self._owner = owner
        self._directories = directories
        self._policy = policy or Policy()
        self._limit = limit
        self._library = library

    def check(self, source: v1.ImageSource) -> None:
        """Judge a source by itself.

        Raises:
            InvalidSpecError: its URL is not one that images may come from.
        """
        if source.url is not None:
            self._policy.check_url(source.url.url)

    async def make(self, request: v1.PrepareImageRequest, image_id: str, progress: Progress) -> None:
        """Make the template of a file, a URL or a library's item; whatever goes wrong, nothing is left behind.

        Raises:
            BrokenImageError, ChecksumMismatchError, DownloadFailedError: the source is to blame.
            ResourceNotFoundError, HostFullError: there is no place for it.
        """
        source = request.source or v1.ImageSource()
        if source.library is not None:
            await self._from_library(source.library, request.storage, self.mark(request, image_id), progress)
            return
        origin = self._origin(source, "")
        async with packages.opened(origin, lambda href: self._origin(source, href), source) as package:
            await self.take(package, request.storage, self.mark(request, image_id), progress)

    def mark(self, request: v1.PrepareImageRequest, image_id: str) -> ImageStamp:
        """The stamp of an image that is being made."""
        return ImageStamp(
            id=image_id,
            uid=request.uid,
            namespace=request.namespace,
            name=request.name,
            owner=self._owner,
            created=int(self._clock.now().timestamp()),
        )

    async def _from_library(self, source: v1.LibrarySource, storage: str, mark: ImageStamp, progress: Progress) -> None:
        if self._library is None:
            raise NotSupportedError("source.library: this provider reads no content libraries")
        doing = _doing(mark)
        item = await self._library.item(source, doing)
        if item.kind == TEMPLATE:
            await self._copy(await self._library.template(item, doing), storage, mark, progress)
            return
        async with self._library.opened(item, doing) as package:
            await self.take(package, storage, mark, progress)

    async def _copy(self, moid: str, storage: str, mark: ImageStamp, progress: Progress) -> None:
        """Make the template from another one, which stays as it is."""
        doing = _doing(mark)
        place = self._places.resolve(v1.Placement(datastore=storage))
        await self._vsphere.refresh(Entity("VirtualMachine", moid))
        original = self._vsphere.tree.get(moid)
        if original is None:
            raise ImageNotFoundError(f"{doing}: vSphere does not show its template; is System.View granted on it?")
        present = original.facts.get("config.hardware.device") or ()
        config = vim.vm.ConfigSpec(
            instanceUuid=imagestamp.instance_uuid(mark.id),
            extraConfig=making.options({imagestamp.KEY: mark.text(), stamp.KEY: ""}),
            deviceChange=[
                vim.vm.device.VirtualDeviceSpec(operation="remove", device=card) for card in nics.cards(present)
            ],
        )
        where = vim.vm.RelocateSpec(pool=vim.ResourcePool(place.pool.moid))
        if place.datastore is not None:
            where.datastore = vim.Datastore(place.datastore.moid)
        if place.host is not None:
            where.host = vim.HostSystem(place.host.moid)
        order = vim.vm.CloneSpec(location=where, powerOn=False, template=False, config=config)

        def clone(login: Login) -> Any:
            folder = vim.Folder(place.folder.moid, login.instance._stub)
            return self._vsphere.machine(original, login).CloneVM_Task(folder, template_name(mark), order)

        async with self._whole_or_nothing(mark.id):
            made = Entity("VirtualMachine", str(await self._vsphere.task(doing, clone, progress, cancel=True)))
            await self._vsphere.refresh(made)
            await faults.point(UPLOADED)
            await self._seal(made, replace(mark, complete=True), doing)

    def _origin(self, source: v1.ImageSource, href: str) -> Origin:
        """The source, or the file of this name beside it."""
        if source.file is not None:
            path = source.file.path
            beside = path.rpartition("/")[0] + ("/" if "/" in path else "") + href if href else path
            return LocalFile(v1.FileSource(path=beside), self._directories, limit=self._limit)
        url = source.url or v1.UrlSource()
        return Download(replace(url, url=urljoin(url.url, href)), self._policy, limit=self._limit)

    async def take(self, package: Package, storage: str, mark: ImageStamp, progress: Progress) -> None:
        """Make the template from an opened package.

        Args:
            storage: datastore; empty means the default.
        """
        doing = _doing(mark)
        place = self._places.resolve(v1.Placement(datastore=storage))
        async with self._whole_or_nothing(mark.id):
            await self._import(package, place, mark, progress, doing)

    @contextlib.asynccontextmanager
    async def _whole_or_nothing(self, image_id: str) -> AsyncIterator[None]:
        await self.clear(image_id)
        try:
            yield
        except BaseException:
            await asyncio.shield(self._tidy(image_id))
            raise

    async def _tidy(self, image_id: str) -> None:
        with contextlib.suppress(ProviderError):  # the first error counts; the next attempt clears what is left
            await self.clear(image_id)

    async def _import(self, package: Package, place: Place, mark: ImageStamp, progress: Progress, doing: str) -> None:
        spec, items = await self._spec(package.descriptor, place, mark, doing)
        progress(0.01, "preparing the import")
        begin = _begin(spec, place)
        sent = 0
        async with self._nfc.lease(doing, begin) as lease:
            await self._vsphere.refresh(Entity("VirtualMachine", lease.entity))
            await faults.point(IMPORTED)
            async for part in package.parts():
                item = items.pop(part.href, None)
                content = part.content
                if item is None:  # belongs to another configuration of the package
                    async for _ in content:
                        pass
                    continue
                device = lease.device(str(item.deviceId))
                if device.is_disk:
                    content = packages.checked(content, f"disk {shown(part.href)}")

                async def counted(pieces: Any = content) -> Any:
                    nonlocal sent
                    async for piece in pieces:
                        sent += len(piece)
                        lease.percent = int(100 * package.done())
                        progress(0.01 + 0.97 * package.done(), "uploading")
                        yield piece

                await lease.upload(device, counted(), part.size)
            if items:
                raise BrokenImageError(f"{doing}: file {shown(min(items))} is not in the package")
            digest = await package.verify()
        await faults.point(UPLOADED)
        complete = replace(mark, complete=True, source_digest=digest, size_bytes=sent)
        await self._seal(Entity("VirtualMachine", lease.entity), complete, doing)
        log.info("vsphere.image.imported", image=mark.id, bytes=sent)

    async def _seal(self, entity: Entity, complete: ImageStamp, doing: str) -> None:
        config = vim.vm.ConfigSpec(extraConfig=making.options({imagestamp.KEY: complete.text()}))
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(config))
        await faults.point(SEALED)
        await self._vsphere.call(doing, lambda login: self._vsphere.machine(entity, login).MarkAsTemplate())
        await self._vsphere.refresh(entity)

    # -- what vCenter makes of a descriptor ------------------------------------------------------------------------

    async def _spec(
        self, descriptor: ovf.Descriptor, place: Place, mark: ImageStamp, doing: str
    ) -> tuple[Any, dict[str, Any]]:
        """The import specification with our stamp in it, and what is to be uploaded by the file's name.

        Raises:
            ProviderError: everything that vCenter holds against the package.
        """
        networks = {name: self._any_network(place) for name in descriptor.networks}

        def ask(login: Login) -> Any:
            stub = login.instance._stub
            types = vim.OvfManager
            params = types.CreateImportSpecParams(
                locale="",
                deploymentOption="",
                entityName=template_name(mark),
                diskProvisioning=_PROVISIONING,
                hostSystem=vim.HostSystem(place.host.moid, stub) if place.host is not None else None,
                networkMapping=[
                    types.NetworkMapping(name=name, network=self._vsphere.object(network, login))
                    for name, network in networks.items()
                    if network is not None
                ],
            )
            pool, datastore = vim.ResourcePool(place.pool.moid, stub), place.datastore
            where = vim.Datastore(datastore.moid, stub) if datastore is not None else None
            return login.content.ovfManager.CreateImportSpec(descriptor.text, pool, where, params)

        answer = await self._vsphere.call(doing, ask)
        if answer.error:
            raise ovf.refusal([translate(each, doing) for each in answer.error])
        for each in answer.warning or ():
            log.warning("vsphere.image.warning", image=mark.id, said=words(getattr(each, "fault", None) or each))
        if not isinstance(answer.importSpec, vim.vm.VmImportSpec):
            raise BrokenImageError(f"{doing}: vCenter makes no single machine of the package")
        _stamp(answer.importSpec.configSpec, mark)
        return answer.importSpec, {str(item.path): item for item in answer.fileItem or ()}

    def _any_network(self, place: Place) -> Entity | None:
        """What the package's networks are mapped to. It does not matter which: the template gets no NIC."""
        hosts = [each for each in self._vsphere.tree.of_kind("HostSystem") if each.parent == place.compute.moid]
        reachable = {moid for host in hosts for moid in host.facts.get("network") or ()}
        found = [each for each in self._vsphere.tree.of_kind(*NETWORKS) if each.moid in reachable]
        return min(found, key=lambda each: (bool(each.facts.get("config.uplink")), each.kind, each.name), default=None)

    # -- what is left of earlier attempts --------------------------------------------------------------------------

    async def clear(self, image_id: str) -> None:
        """Remove every VM that an interrupted import left; a ready image stays.

        Raises:
            ImageInUseError: machines stand on its disks, so it was complete once: somebody made it a machine again.
            OperationInProgressError: somebody runs it, or its lease has not ended yet.
        """
        for entity in await self.look(image_id):
            if is_ready(entity):
                continue
            path = self._vsphere.tree.path(entity)
            if entity.facts.get("runtime.powerState") not in (None, "poweredOff"):
                raise OperationInProgressError(
                    f"image {image_id}: {path} was made a machine, and runs; remove it by hand"
                )
            if users := files.linked_clones(self._vsphere.tree, entity):
                names = ", ".join(map(self._vsphere.tree.path, users))
                raise ImageInUseError(
                    f"image {image_id}: {path} is no template any more, and {names} stand on its disks; nothing was "
                    "removed. Mark it as a template again"
                )
            doing = f"remove what is left of image {image_id}"
            await self._vsphere.task(doing, partial(self._destroy, entity))
            self._vsphere.forget(entity)

    def _destroy(self, entity: Entity, login: Login) -> Any:
        return self._vsphere.machine(entity, login).Destroy_Task()

    async def look(self, image_id: str) -> list[Entity]:
        """VMs with the stamp of this image, asked of vSphere itself."""
        wanted = imagestamp.instance_uuid(image_id)

        def ask(login: Login) -> list[str]:
            found = login.content.searchIndex.FindAllByUuid(None, wanted, True, True)
            return [str(each._moId) for each in found or ()]

        moids = await self._vsphere.call(f"look for image {image_id}", ask)
        await self._vsphere.refresh(*(Entity("VirtualMachine", moid) for moid in moids))
        found = [self._vsphere.tree.get(moid) for moid in moids]
        return [each for each in found if each is not None and self._is_of(each, image_id)]

    def _is_of(self, entity: Entity, image_id: str) -> bool:
        mark = machines.image_stamp_of(entity)
        return mark is not None and mark.id == image_id and mark.owner == self._owner


def _doing(mark: ImageStamp) -> str:
    return f"import image {mark.namespace}/{mark.name}"


def is_ready(entity: Entity) -> bool:
    """Machines can be made from it: all of it is there, and as a template it does not change any more."""
    mark = machines.image_stamp_of(entity)
    return mark is not None and mark.complete and bool(entity.facts.get("config.template"))


def template_name(mark: ImageStamp) -> str:
    """The name on vSphere: for people, and so that a second import of the same is refused wherever the first one is."""
    digest = hashlib.sha256(mark.id.encode()).hexdigest()[:12]
    return f"image-{mark.namespace}-{mark.name}"[: making.LONGEST_NAME - 13] + "-" + digest


def _stamp(config: Any, mark: ImageStamp) -> None:
    """Make the configuration that vCenter drew up ours; without NICs, which machines get from their own specs."""
    config.instanceUuid = imagestamp.instance_uuid(mark.id)
    kept = [each for each in config.extraConfig or () if not str(each.key).lower().startswith(_OURS)]
    config.extraConfig = kept + making.options({imagestamp.KEY: mark.text()})
    config.deviceChange = [
        each for each in config.deviceChange or () if not isinstance(each.device, vim.vm.device.VirtualEthernetCard)
    ]


def _begin(spec: Any, place: Place) -> Callable[[Login], Any]:
    """What opens the lease."""

    def begin(login: Login) -> Any:
        stub = login.instance._stub
        host = vim.HostSystem(place.host.moid, stub) if place.host is not None else None
        return vim.ResourcePool(place.pool.moid, stub).ImportVApp(spec, vim.Folder(place.folder.moid, stub), host)

    return begin
