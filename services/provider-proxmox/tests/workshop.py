"""Everything that makes and removes machines, put together as the provider does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from common import v1
from common.clock import Clock, SystemClock
from common.errors import ImageNotFoundError, NotSupportedError
from provider_proxmox import vmids
from provider_proxmox.claiming import Claims
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.creating import Creator, Defaults
from provider_proxmox.guests import Guests
from provider_proxmox.images.source import Source
from provider_proxmox.keeping import Keeper
from provider_proxmox.placing import Places
from provider_proxmox.power import Power
from provider_proxmox.removing import Remover
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox

from .conftest import OWNER
from .ours import IDENTITY, volume

GIB = 1 << 30
MIB = 1 << 20
IDS = range(2000, 2100)
TEMPLATE = "template"
NAT = v1.NetworkRef(kind=v1.NetworkKind.NAT)


class Shelf:
    """Images by their id: what is on it can be had."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.copies: dict[tuple[str, str], Source] = {}
        """What an image is copied to when another node needs it, by image and node."""

    async def resolve(self, image_id: str, doing: str, *, node: str = "", storage: str = "") -> Source:
        if image_id not in self.sources:
            raise ImageNotFoundError(f"{doing}: image {image_id!r} is not prepared")
        source = self.sources[image_id]
        if node and source.nodes and node not in source.nodes:
            if (image_id, node) not in self.copies:
                raise NotSupportedError(f"{doing}: image {image_id!r} is somebody's")
            return self.copies[image_id, node]
        return source


@dataclass
class Workshop:
    """One provider's makers."""

    creator: Creator
    remover: Remover
    claims: Claims
    guests: Guests
    shelf: Shelf = field(default_factory=Shelf)


def workshop(cluster: Pve, *, ids: range = IDS, owner: str = OWNER, shelf: Shelf | None = None) -> Workshop:
    """Makers of machines on this cluster."""
    clock: Clock = SystemClock()
    shelf = shelf or Shelf()
    guests = Guests(cluster, owner=owner)
    claims = Claims(cluster, guests, clock, ids=ids)
    boot = BootData(cluster)
    remover = Remover(cluster, guests, claims, Power(cluster, guests, clock), boot, Keeper(cluster, ids=ids))
    creator = Creator(
        cluster,
        guests,
        claims,
        Places(cluster.index, clock),
        shelf,
        boot,
        remover,
        clock,
        owner=owner,
        defaults=Defaults(bridge="vmbr0"),
    )
    return Workshop(creator, remover, claims, guests, shelf)


def wanted(identity: v1.MachineIdentity = IDENTITY, **more: object) -> v1.MachineSpec:
    """A small machine with an empty disk and a NIC."""
    given: dict[str, object] = {
        "identity": identity,
        "cpu": v1.CpuSpec(count=1),
        "memory": v1.MemorySpec(size_bytes=256 * MIB),
        "disks": [v1.DiskSpec(name="root", size_bytes=GIB)],
        "nics": [v1.NicSpec(name="lan", network=NAT)],
    }
    return v1.MachineSpec(**(given | more))  # type: ignore[arg-type]  # fields by name


def template(server: Proxmox, shelf: Shelf, vmid: int = 900, *, linked: bool = False, node: str = "pve1") -> str:
    """A template of somebody's on shared storage, on the shelf; answers with the image's id."""
    base = volume(server, node, f"shared:{vmid}/base-{vmid}-disk-0.qcow2", GIB, vmid)
    extra = volume(server, node, f"shared:{vmid}/base-{vmid}-disk-1.qcow2", GIB, vmid)
    config = {
        "name": "debian",
        "memory": "512",
        "cores": "1",
        "scsihw": "virtio-scsi-pci",
        "scsi0": f"{base},size=1G",
        "scsi1": f"{extra},size=1G",
        "net0": "virtio=BC:24:11:AA:AA:AA,bridge=vmbr1",
        "boot": "order=scsi0",
        "template": "1",
    }
    server.world.add_guest(vmid, node, config)
    kind = f"{TEMPLATE}-{vmid}{'-linked' if linked else ''}"
    shelf.sources[kind] = Source(
        kind,
        "template",
        node,
        vmid=vmid,
        linked=linked,
        storage="shared",
        disks={"scsi0": GIB, "scsi1": GIB},
        config=config,
    )
    return kind


def first(uid: str, ids: range = IDS, place: int = 0) -> int:
    """The VMID that a machine tries first, or later."""
    return list(vmids.sequence(uid, ids))[place]


def quiet(part: float, step: str) -> None:
    """A Progress that nobody looks at."""
