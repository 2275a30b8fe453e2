"""First-boot data: what the spec says, and nothing that a template brought along.

Three ways lead into a guest. An *ISO* of our own (NoCloud) is uploaded to an ISO storage: it carries everything, and
needs no more than the API. *Snippets* carry as much on Proxmox VE's own drive, and need a directory that is mounted
here. *Native* fields carry a part, for templates that expect them. Files are found by their names, which hold the UID:
what a crash left between an upload and the guest that it was for goes with the next `put` or `drop`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from common import faults, logging, v1
from common.errors import InvalidSpecError, NotSupportedError, PermissionMissingError, ResourceNotFoundError
from providerkit import nocloud

from provider_proxmox.config import disks, properties
from provider_proxmox.content import iso, native
from provider_proxmox.content.files import Files
from provider_proxmox.content.snippets import Snippets
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve

log = logging.get(__name__)

UPLOADED = faults.declare("proxmox.bootdata.uploaded", "the first-boot ISO is there, its guest does not know it yet")

SLOT = disks.BOOT_DATA_SLOT
WAY = "proxmox.bootData"
"""Key of extra_config that chooses the way for one machine."""
Way = Literal["iso", "snippets", "native"]
WAYS = ("iso", "snippets", "native")

MOST_SNIPPETS = 3 << 20
"""Bytes of all files on the drive that Proxmox VE makes. Source: PVE::QemuServer::Cloudinit."""

_CLOUD_INIT = "cloudinit"


@dataclass(frozen=True)
class Handed:
    """How first-boot data come to one guest: to be written into its configuration as one change."""

    config: Mapping[str, object] = field(default_factory=dict)
    """Keys to set."""
    delete: tuple[str, ...] = ()
    """Keys to take away: what a template brought along, or an earlier way left."""
    volumes: tuple[str, ...] = ()
    """What was made for it, besides what Proxmox VE makes itself: for the stamp."""


class BootData:
    """First-boot data of our machines."""

    def __init__(self, pve: Pve, *, way: Way = "iso", iso_storage: str = "", snippets: Snippets | None = None) -> None:
        """Args:
        way: for machines whose spec chooses none.
        iso_storage: empty takes a shared one if there is, else one of the node.
        snippets: where they can be written; None where they cannot.
        """
        self._pve = pve
        self._way = way
        self._files = Files(pve, "iso", "iso_storage", iso_storage)
        self._snippets = snippets

    async def put(
        self,
        vmid: int,
        node: str,
        spec: v1.MachineSpec,
        doing: str,
        *,
        macs: Mapping[str, str],
        slots: Mapping[str, str],
        config: Mapping[str, Any],
        storage: str = "",
    ) -> Handed:
        """Make the files, and tell what has to be written into the guest's configuration.

        Args:
            macs, slots: MAC and key ("net0") of each NIC by its name.
            config: of the guest as it is, or of the template that it is cloned from.
            storage: where Proxmox VE shall make its own drive, of those ways that need it.
        Raises:
            InvalidSpecError, NotSupportedError: the spec's data cannot go this way.
            ResourceNotFoundError: no storage takes ISOs.
        """
        way = self.way(spec)
        uid = spec.identity.uid if spec.identity is not None else ""
        if way == "native":
            return self._handed(native.fields(spec, slots), config, drive=storage)
        if not nocloud.needed(spec):
            return self._handed({}, config)
        content = nocloud.files(spec, macs)
        if way == "iso":
            volume = await self._upload(vmid, uid, node, content, config, doing)
            return self._handed({SLOT: f"{volume},media=cdrom"}, config, volumes=[volume])
        assert self._snippets is not None  # way() has seen to it
        # Without it Proxmox VE would write one that leaves every NIC alone.
        content.setdefault("network-config", nocloud.network_config(spec, macs))
        if sum(len(text.encode()) for text in content.values()) > MOST_SNIPPETS:
            raise NotSupportedError(f"boot_data: Proxmox VE's own drive holds {MOST_SNIPPETS >> 20} MiB; use an ISO")
        cicustom, volumes = await self._snippets.put(vmid, uid, content, doing)
        # The kind of drive that they are written for, whatever the guest's operating system is.
        fields = {"cicustom": cicustom, "citype": "nocloud"}
        return self._handed(fields, config, drive=storage, volumes=volumes)

    def way(self, spec: v1.MachineSpec) -> Way:
        """How this machine's data reach it.

        Raises:
            InvalidSpecError: extra_config names no way.
            NotSupportedError: snippets cannot be written here.
        """
        way = spec.extra_config.get(WAY) or self._way
        if way not in WAYS:
            raise InvalidSpecError(f"extra_config[{WAY}]: {way!r} is none of {', '.join(WAYS)}")
        if way == "snippets" and self._snippets is None:
            raise NotSupportedError(
                f"extra_config[{WAY}]: snippets need a storage that is mounted here; set snippets_storage and "
                "snippets_directory of the provider"
            )
        return cast(Way, way)

    async def drop(self, uid: str, doing: str, *, keep: Collection[str] = (), known: Collection[str] = ()) -> None:
        """Remove every file of this machine but the volumes to keep; nothing is success.

        It looks wherever one can be, not where one should be: a machine may have moved since.

        Args:
            known: volumes of the stamp: they may lie where the settings point no longer.
        """
        for storage in self._files.everywhere({volume.partition(":")[0] for volume in known}):
            for volume in iso.of(uid, await self._files.listed(storage, doing)):
                if volume not in keep:
                    await self._files.remove(storage, volume, doing)
        if self._snippets is not None:
            await self._snippets.drop(uid, doing, frozenset(keep))

    async def held(self, guest: Guest, doing: str) -> set[str]:
        """Files that snapshots of a machine name: it may go back to them, and could not start without."""
        found: set[str] = set()
        for each in guest.snapshots:
            config = await self._pve.get(doing, f"{guest.path}/snapshot/{each['name']}/config")
            found |= {drive.volume for drive in disks.drives(config)}
            found |= {volume for _, volume in properties.parse(config.get("cicustom", "")).items}
        return found

    # -- the configuration -----------------------------------------------------------------------------------------

    def _handed(
        self,
        fields: Mapping[str, object],
        config: Mapping[str, Any],
        *,
        drive: str | None = None,
        volumes: Collection[str] = (),
    ) -> Handed:
        """Args: drive: storage of a drive that Proxmox VE makes; None for a way without one."""
        wanted = dict(fields)
        there = _drives(config)
        if drive is not None:
            made = next((slot for slot, volume in there.items() if _is_made_by_pve(volume)), None)
            if made is not None:
                there.pop(made)  # one is enough, and Proxmox VE refuses a second
            elif not drive:
                raise ResourceNotFoundError(f"{SLOT}: no storage is known for the cloud-init drive")
            else:
                wanted[SLOT] = f"{drive}:{_CLOUD_INIT}"
        gone = [*there, *(key for key in config if key in native.KEYS or key.startswith("ipconfig"))]
        return Handed(wanted, tuple(sorted(set(gone) - set(wanted))), tuple(volumes))

    # -- the ISO ---------------------------------------------------------------------------------------------------

    async def _upload(
        self, vmid: int, uid: str, node: str, content: Mapping[str, str], config: Mapping[str, Any], doing: str
    ) -> str:
        storage = self._files.storage_of(node, doing)
        name, image = iso.name(vmid, uid, content), iso.made(content)
        volume = f"{storage.name}:iso/{name}"
        sizes = await self._files.listed(storage, doing)
        guest = self._pve.index.guests.get(vmid)
        used = {volume, *(disk.volume for disk in disks.drives(config))}
        left = [each for each in iso.of(uid, sizes) if each not in used]
        used |= await self.held(guest, doing) if left and guest is not None else set()
        for each in left:
            if each not in used and not await self._is_rivals(each, vmid, uid, doing):
                await self._files.remove(storage, each, doing)
        if sizes.get(volume) != len(image):  # a node that died while it copied leaves a part
            upid = await self._pve.upload(doing, node, storage.name, "iso", name, io.BytesIO(image), len(image))
            await self._pve.task(doing, upid)
        await faults.point(UPLOADED)
        return volume

    async def _is_rivals(self, volume: str, vmid: int, uid: str, doing: str) -> bool:
        """Whether another guest of this machine may need it: of two that are being made only one will be left."""
        other = iso.vmid_of(volume)
        if other == vmid:
            return False
        try:
            guest = await self._pve.refresh(other, doing)
        except PermissionMissingError:
            return False  # hidden from us, hence not ours
        return guest is not None and guest.stamp is not None and guest.stamp.uid == uid


def _drives(config: Mapping[str, Any]) -> dict[str, str]:
    """Drives that hand over first-boot data, ours or Proxmox VE's, by slot: two of them would contradict each other."""
    volumes = {drive.slot: drive.volume for drive in disks.drives(config)}
    return {slot: volume for slot, volume in volumes.items() if _is_made_by_pve(volume) or iso.is_one(volume)}


def _is_made_by_pve(volume: str) -> bool:
    """Source: PVE::QemuServer::Drive::drive_is_cloudinit."""
    name = volume.rpartition("/")[2].rpartition(":")[2]
    return name == _CLOUD_INIT or name.partition(".")[0].endswith(f"-{_CLOUD_INIT}")
