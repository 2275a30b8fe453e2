"""Templates that we made: which guests are they, which are ready, who stands on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provider_proxmox.config import disks
from provider_proxmox.config.disks import Drive
from provider_proxmox.images import imagestamp
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.session.index import Guest, Index, Storage

LINKING = frozenset(
    {"btrfs", "cephfs", "cifs", "dir", "glusterfs", "lvmthin", "nfs", "rbd", "zfs", "zfspool"}
)  # fmt: skip
"""Kinds of storage on which a clone can stand on a template's disk. Source: PVE::Storage's plugins, feature `clone`."""


def stamp_of(guest: Guest) -> ImageStamp | None:
    """The image that a guest is, or is to become, whoever's it is."""
    return imagestamp.read(str(guest.config.get("description", "")), guest.vmid)


def of_owner(index: Index, owner: str) -> Iterator[tuple[Guest, ImageStamp]]:
    """Every guest that is, or is to become, an image of this owner, by VMID."""
    for guest in sorted(index.guests.values(), key=lambda guest: guest.vmid):
        mark = stamp_of(guest)
        if mark is not None and mark.owner == owner:
            yield guest, mark


def of_image(index: Index, owner: str, image_id: str) -> list[Guest]:
    """Those of one image: there may be one for each node."""
    return [guest for guest, mark in of_owner(index, owner) if mark.id == image_id]


def is_ready(guest: Guest) -> bool:
    """Machines can be made from it. Its disk gets the name of a base only when all of it is done."""
    found = disks.disks(guest.config)
    return guest.template and not guest.lock and bool(found) and all(_is_base(disk.volume) for disk in found)


def is_imported(guest: Guest) -> bool:
    """Its disk is there, whole: the call that made it has ended well, and only the conversion is missing."""
    return not guest.template and not guest.lock and bool(disks.disks(guest.config))


def _is_base(volume: str) -> bool:
    return volume.rpartition("/")[2].rpartition(":")[2].startswith("base-")


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Capacity in bytes of each disk by its slot, in the order of booting."""
    return {disk.slot: disk.size_bytes for disk in disks.disks(config)}


def standing_on(index: Index, guest: Guest) -> list[Guest]:
    """Guests whose disks are deltas of this one's: their volumes are named after it."""
    base = f"base-{guest.vmid}-"
    return [
        other
        for other in index.guests.values()
        if other.vmid != guest.vmid and any(base in volume for volume in disks.volumes(other.config).values())
    ]


def storages(index: Index, guest: Guest) -> list[Storage | None]:
    """The storage of each of its disks, as its node sees it; None for one that nobody knows."""
    return [index.storages.get((guest.node, disk.storage)) for disk in disks.disks(guest.config)]


def can_be_linked(index: Index, guest: Guest) -> bool:
    """Clones can stand on all of its disks."""
    found = storages(index, guest)
    return bool(found) and all(storage is not None and storage.kind in LINKING for storage in found)


def reaching(index: Index, guest: Guest) -> frozenset[str]:
    """Nodes that reach all of its disks."""
    nodes = frozenset(index.nodes) or frozenset({guest.node})
    for disk, storage in zip(disks.disks(guest.config), storages(index, guest), strict=True):
        if storage is None or not storage.shared:
            return frozenset({guest.node})
        nodes &= {node for node, name in index.storages if name == disk.storage}
    return nodes


def first_disk(guest: Guest) -> Drive | None:
    """The one that becomes a machine's own first disk."""
    return next(iter(disks.disks(guest.config)), None)
