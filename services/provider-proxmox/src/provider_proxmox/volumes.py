"""Volumes that a machine is to use and that were there before it: which nodes have them, and who uses them already."""

from __future__ import annotations

from common import v1
from common.errors import InvalidSpecError, ResourceNotFoundError

from provider_proxmox.config import disks
from provider_proxmox.session.pve import Pve


async def reaching(pve: Pve, spec: v1.MachineSpec, doing: str) -> frozenset[str]:
    """Nodes that have every existing disk and medium of the spec; empty when all nodes of their storages do.

    Raises:
        ResourceNotFoundError: there is no such volume on any node, or no node that has all.
    """
    wanted = {disk.existing.id: f"disk {disk.name}" for disk in spec.disks if disk.existing is not None}
    wanted |= {cdrom.medium: f"cdrom {cdrom.name}" for cdrom in spec.cdroms if cdrom.medium}
    found: frozenset[str] | None = None
    for volume, who in wanted.items():
        nodes = await _having(pve, volume, doing)
        if nodes is None:
            continue
        if not nodes:
            raise ResourceNotFoundError(f"{doing}: {who}: no node has volume {volume}")
        found = nodes if found is None else found & nodes
        if not found:
            raise ResourceNotFoundError(f"{doing}: no node has all of {', '.join(wanted)}")
    return found or frozenset()


async def _having(pve: Pve, volume: str, doing: str) -> frozenset[str] | None:
    """Nodes that have this volume; None when its storage is one for all of them, or is not known."""
    name = disks.storage_of(volume)
    storages = [each for each in pve.index.storages.values() if each.name == name]
    if not storages or any(each.shared for each in storages):
        return None
    found = set()
    for storage in storages:
        node = pve.index.nodes.get(storage.node)
        if storage.active and node is not None and node.online:
            rows = await pve.get(doing, f"nodes/{storage.node}/storage/{name}/content")
            found |= {storage.node} if any(row.get("volid") == volume for row in rows) else set()
    return frozenset(found)


def refuse_used(pve: Pve, spec: v1.MachineSpec, doing: str, *, but: int = 0) -> None:
    """Raises: InvalidSpecError: another guest than `but` has an existing disk that the spec asks for.

    Proxmox VE does not mind; two guests that write to one disk destroy it."""
    for disk in spec.disks:
        for guest in pve.index.guests.values():
            if disk.existing is not None and guest.vmid != but and disks.uses(guest.config, disk.existing.id):
                raise InvalidSpecError(
                    f"{doing}: disk {disk.name}: volume {disk.existing.id} is attached to guest {guest.vmid} "
                    f"({guest.name}); detach it there first"
                )


def in_common(nodes: frozenset[str], having: frozenset[str], doing: str) -> frozenset[str]:
    """Nodes that are among both; empty means all.

    Raises:
        ResourceNotFoundError: there is none.
    """
    both = nodes & having if nodes and having else nodes or having
    if nodes and having and not both:
        one, other = ", ".join(sorted(nodes)), ", ".join(sorted(having))
        raise ResourceNotFoundError(
            f"{doing}: no node has all of its image, volumes and GPUs: some are on {one}, some on {other}"
        )
    return both
