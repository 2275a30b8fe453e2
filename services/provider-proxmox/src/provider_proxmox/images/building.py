"""Guests that become templates of ours: made under their stamp, converted, copied to another node, removed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from common import faults, logging
from common.errors import (
    HostFullError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
    OperationInProgressError,
    ResourceNotFoundError,
)
from providerkit.driver import Progress

from provider_proxmox import vmids
from provider_proxmox.images import imagestamp, templates
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import VmidTakenError

log = logging.get(__name__)

CLONED = faults.declare("proxmox.image.cloned", "a copy of a template is complete, and still on the node of the first")
MOVED = faults.declare("proxmox.image.moved", "a copy of a template is where it is wanted, and is no template yet")

_LONGEST_NAME = 63


class Builder:
    """Makes them."""

    def __init__(self, pve: Pve, *, owner: str, ids: range, pool: str = "") -> None:
        """Args: ids: VMIDs that templates may get."""
        self._pve = pve
        self._owner = owner
        self._ids = ids
        self._pool = pool
        self._copying: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, image_id: str, doing: str) -> list[Guest]:
        """Guests that are this image, or are to become it, as they are now."""
        read = [
            await self._pve.refresh(guest.vmid, doing)
            for guest in templates.of_image(self._pve.index, self._owner, image_id)
        ]
        return [guest for guest in read if guest is not None and self._is_of(guest, image_id)]

    def _is_of(self, guest: Guest, image_id: str) -> bool:
        mark = templates.stamp_of(guest)
        return mark is not None and (mark.id, mark.owner) == (image_id, self._owner)

    async def make(
        self,
        mark: ImageStamp,
        node: str,
        path: str,
        id_key: str,
        config: Mapping[str, object],
        doing: str,
        progress: Progress | None = None,
    ) -> Guest:
        """Make a guest under this stamp, with the first VMID of the image's own sequence that is free.

        Args:
            node: where it is then.
            path, id_key: the call that makes it, and what this calls the VMID.
        Raises:
            HostFullError: no VMID is left.
        """
        for vmid in vmids.sequence(f"{mark.id} {node}", self._ids):
            if vmid in self._pve.index.guests:
                continue
            given = {
                id_key: vmid,
                "name": _name(mark),
                "description": imagestamp.written(replace(mark, vmid=vmid)),
                "pool": self._pool or None,
            }
            try:
                await self._pve.run(doing, "POST", path, {**config, **given}, progress, cancel=True)
            except VmidTakenError:
                continue  # somebody was faster
            guest = await self._pve.refresh(vmid, doing, node=node)
            if guest is None or not self._is_of(guest, mark.id):
                raise ImageNotFoundError(f"{doing}: somebody removed its guest while it was made")
            return guest
        raise HostFullError(f"{doing}: every VMID from {self._ids[0]} to {self._ids[-1]} is taken")

    async def convert(self, guest: Guest, doing: str) -> None:
        """Make a template of it; one that somebody else made of it meanwhile is success."""
        try:
            await self._pve.run(doing, "POST", f"{guest.path}/template", {})
        except InvalidSpecError:
            now = await self._pve.refresh(guest.vmid, doing)
            if now is None or not templates.is_ready(now) or templates.stamp_of(now) != templates.stamp_of(guest):
                raise
        else:
            await self._pve.refresh(guest.vmid, doing)

    async def destroy(self, guest: Guest, doing: str) -> None:
        """Remove it with its disks.

        Raises:
            ImageInUseError: machines stand on them.
            OperationInProgressError: somebody runs it.
        """
        if users := templates.standing_on(self._pve.index, guest):
            raise ImageInUseError(f"{doing}: in use by {', '.join(sorted(map(_user, users)))}")
        if guest.status == "running":
            raise OperationInProgressError(f"{doing}: VM {guest.vmid} was made a machine, and runs; remove it by hand")
        await self._pve.run(doing, "DELETE", guest.path, {"purge": True})
        await self._pve.refresh(guest.vmid, doing)

    # -- copies for other nodes ------------------------------------------------------------------------------------

    async def copy(self, original: Guest, node: str, storage: str, doing: str) -> Guest:
        """The same template on another node, whose storages do not reach the first one's disks.

        Proxmox VE clones onto the same node and moves what is there: so a full clone moves, and becomes a template. One
        that an earlier attempt left is gone on with. Whoever asks at the same time waits for the same copy.

        Args:
            storage: for its disks, where the node has none of the original's name; empty takes the one with most room.
        Raises:
            ResourceNotFoundError: the node has no storage for it.
        """
        mark = templates.stamp_of(original)
        assert mark is not None  # it is a template of ours
        target = self._storage_on(original, node, storage, doing)
        async with self._copying[mark.id, node]:
            left = None
            for guest in await self.find(mark.id, doing):
                if templates.is_ready(guest) and node in templates.reaching(self._pve.index, guest):
                    return guest
                if templates.is_imported(guest) and guest.node in (node, original.node):
                    left = guest
            made = left or await self.make(
                mark, original.node, f"{original.path}/clone", "newid", {"full": True}, doing
            )
            await faults.point(CLONED)
            if made.node != node:
                await self._pve.run(doing, "POST", f"{made.path}/migrate", {"target": node, "targetstorage": target})
                made = await self._pve.refresh(made.vmid, doing, node=node) or made
            await faults.point(MOVED)
            await self.convert(made, doing)
            copied = await self._pve.refresh(made.vmid, doing, node=node)
            if copied is None or not templates.is_ready(copied):
                raise ImageNotFoundError(f"{doing}: somebody removed the copy of its template while it was made")
            log.info("proxmox.image.copied", image=mark.id, vmid=copied.vmid, node=node)
            return copied

    def _storage_on(self, original: Guest, node: str, storage: str, doing: str) -> str:
        there = {
            each.name: each
            for each in self._pve.index.storages.values()
            if each.node == node and each.active and "images" in each.content
        }
        first = templates.first_disk(original)
        for name in (first.storage if first is not None else "", storage):
            if name in there:
                return name
        if not there:
            raise ResourceNotFoundError(f"{doing}: no storage of node {node} takes the disk of its image")
        return max(there.values(), key=lambda each: (each.free_bytes, each.name)).name


def _user(guest: Guest) -> str:
    """A guest that stands on an image, for people."""
    mark = guest.stamp
    return (
        f"machine {mark.namespace}/{mark.name} ({mark.uid})" if mark is not None else f"VM {guest.vmid} ({guest.name})"
    )


def _name(mark: ImageStamp) -> str:
    """For people; a DNS name, as Proxmox VE demands."""
    digest = hashlib.sha256(mark.id.encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9-]+", "-", f"image-{mark.namespace}-{mark.name}".lower())
    return f"{readable[: _LONGEST_NAME - 9].rstrip('-')}-{digest}"
