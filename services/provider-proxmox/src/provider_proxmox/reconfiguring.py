"""Reconfiguration of a machine that exists: each verb of the driver as a change of its shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError, StalePreconditionError

from provider_proxmox import locks
from provider_proxmox.config import disks, editing, nics, sizes, tuning
from provider_proxmox.config.shape import Shape, shape_of
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.editor import ATTEMPTS, Editor
from provider_proxmox.guests import Guests
from provider_proxmox.placing import Places
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots

_DATASTORE: Final = "placement.datastore"


class Reconfiguring:
    """Changes of the machines of one owner."""

    def __init__(
        self,
        pve: Pve,
        guests: Guests,
        places: Places,
        boot_data: BootData,
        snapshots: Snapshots,
        *,
        default_bridge: str = "",
        default_storage: str = "",
    ) -> None:
        """Args: default_bridge, default_storage: see the settings."""
        self._pve = pve
        self._places = places
        self._boot_data = boot_data
        self._editor = Editor(pve, guests, snapshots)
        self._default_bridge = default_bridge
        self._default_storage = default_storage

    # -- together --------------------------------------------------------------------------------------------------

    def together(self, uid: str) -> AbstractAsyncContextManager[None]:
        """See Driver."""
        return self._editor.together(uid)

    async def afterwards(self, uid: str, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call of its own when the changes that are being collected are made; at once where none are."""
        await self._editor.afterwards(uid, call)

    async def record(self, uid: str, what: str, settings: dict[str, str], *, without: str | tuple[str, ...]) -> None:
        """Write settings of the stamp, and take those of the same beginning off that are asked for no longer."""
        await self._editor.edit_now(uid, what, lambda shape: shape.noting(settings, without=without))

    # -- processor, memory, firmware, options ----------------------------------------------------------------------

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        """See Driver."""

        def build(shape: Shape) -> Shape:
            node = self._pve.index.nodes.get(shape.node)
            return tuning.set_cpu(shape, cpu, live=live, node_cpus=node.cpus if node is not None else 0)

        await self._editor.edit(uid, "set CPUs", build)

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        """See Driver."""
        await self._editor.edit(uid, "set memory", lambda shape: tuning.set_memory(shape, memory, live=live))

    async def set_firmware(self, uid: str, firmware: v1.FirmwareSpec) -> None:
        """See Driver."""
        await self._editor.edit(
            uid, "set firmware", lambda shape: tuning.set_firmware(shape, firmware, self._storage(shape, ""))
        )

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""
        await self._editor.edit(uid, "set tuning", lambda shape: tuning.set_tuning(shape, spec, vmid=shape.vmid))

    # -- disks -----------------------------------------------------------------------------------------------------

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver.

        Raises:
            InvalidSpecError: the existing disk belongs to another machine, which would write to it as well.
        """
        what = f"attach disk {disk.name}"

        def build(shape: Shape) -> Shape:
            doing = f"{what} of machine {uid}"
            if disk.existing is not None:
                self._refuse_used(shape, disk.existing.id, doing)
            where = self._places.for_disk(shape.node, self._storage(shape, disk.storage), disk, doing)
            return editing.attach_disk(shape, disk, storage=where.storage, format=where.format)

        await self._editor.edit(uid, what, build)

    def _storage(self, shape: Shape, asked: str) -> str:
        """Storage of one more disk: as asked, else where the machine's disks are."""
        if storage := asked or shape.stamp.settings.get(_DATASTORE, ""):
            return storage
        beside = (drive.storage for drive in disks.disks(shape.config))
        return next((storage for storage in beside if storage), self._default_storage)

    def _refuse_used(self, shape: Shape, volume: str, doing: str) -> None:
        for other in self._pve.index.guests.values():
            if other.vmid != shape.vmid and disks.uses(other.config, volume):
                raise InvalidSpecError(f"{doing}: {volume} is a disk of guest {other.vmid} ({other.name})")

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        """See Driver."""
        what = f"grow disk {name}"
        editing.drive_of(await self._editor.shape(uid, what), name, "grow")

        async def grow() -> None:
            for attempt in range(ATTEMPTS):
                guest, record, doing = await self._editor.seen(uid, what)
                drive = editing.drive_of(shape_of(guest, record), name, "grow")
                if drive.size_bytes >= size_bytes:
                    return
                await locks.require_free(self._pve, guest, doing)
                wish = {"disk": drive.slot, "size": sizes.resized(size_bytes), "digest": guest.digest or None}
                try:
                    await self._pve.run(doing, "PUT", f"{guest.path}/resize", wish)
                except StalePreconditionError:  # often a task that we ourselves began in another life was faster
                    if attempt + 1 == ATTEMPTS:
                        raise
                else:
                    await self._pve.refresh(guest.vmid, doing)
                    return

        await self._editor.afterwards(uid, grow)

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""
        await self._editor.edit(uid, f"update disk {disk.name}", lambda shape: editing.update_disk(shape, disk))

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._editor.edit(uid, f"detach disk {name}", lambda shape: editing.detach_disk(shape, name))

    async def move_disk(self, uid: str, name: str, storage: str, *, live: bool) -> None:
        """See Driver; a move that an earlier call began is waited for.

        Raises:
            NotSupportedError: it has snapshots, which would be left behind.
        """
        what = f"move disk {name}"
        await self._relocate(uid, what, lambda shape: editing.drive_of(shape, name, "move"), storage)
        await self._editor.edit_now(uid, what, lambda shape: editing.moved_disk(shape, name))

    async def move_states(self, uid: str, old: str, storage: str) -> None:
        """Bring what firmware and TPM keep from one storage to another."""
        for slot in disks.STATE_SLOTS:

            def find(shape: Shape, slot: str = slot) -> disks.Drive | None:
                drive = disks.drive_in(shape.config, slot)
                return drive if drive is not None and drive.storage == old else None

            await self._relocate(uid, f"move {slot}", find, storage)

    async def _relocate(self, uid: str, what: str, find: Callable[[Shape], disks.Drive | None], storage: str) -> None:
        guest, record, doing = await self._editor.seen(uid, what)
        if await locks.wait_tasks(self._pve, guest, doing, ("qmmove",)):
            guest, record, doing = await self._editor.seen(uid, what)
        drive = find(shape_of(guest, record))
        if drive is None or drive.storage == storage:
            return
        if guest.snapshots or guest.config.get("parent"):
            raise NotSupportedError(f"{doing}: the machine has snapshots, which cannot move along; delete them first")
        await locks.require_free(self._pve, guest, doing)
        where = self._places.for_disk(guest.node, storage, v1.DiskSpec(name=drive.slot), doing)
        wish = {
            "disk": drive.slot,
            "storage": storage,
            "format": (where.format or None) if disks.is_slot(drive.slot) else None,  # a TPM's state is always raw
            "delete": True,
            "digest": guest.digest or None,
        }
        await self._pve.run(doing, "POST", f"{guest.path}/move_disk", wish)
        await self._pve.refresh(guest.vmid, doing)

    # -- drives and network adapters -------------------------------------------------------------------------------

    async def set_cdrom(self, uid: str, cdrom: v1.CdromSpec, *, live: bool) -> None:
        """See Driver."""
        await self._editor.edit(uid, f"set drive {cdrom.name}", lambda shape: editing.set_cdrom(shape, cdrom))

    async def detach_cdrom(self, uid: str, name: str) -> None:
        """See Driver."""
        await self._editor.edit(uid, f"remove drive {name}", lambda shape: editing.detach_cdrom(shape, name))

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver.

        Raises:
            ResourceNotFoundError: the machine's node has no such network.
        """
        mac = nic.mac or nics.mac_of(uid, nic.name, self._macs_of_others(uid))

        def build(shape: Shape) -> Shape:
            self._require_network(shape, nic)
            return editing.attach_nic(shape, nic, mac, default_bridge=self._default_bridge)

        await self._editor.edit(uid, f"attach NIC {nic.name}", build)

    def _require_network(self, shape: Shape, nic: v1.NicSpec) -> None:
        """Proxmox VE takes any name, and fails later."""
        wish = nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT)
        bridge, known = nics.bridge_of(nic.name, wish, self._default_bridge), self._pve.index.networks.get(shape.node)
        if known and bridge not in known:
            raise ResourceNotFoundError(
                f"NIC {nic.name}: node {shape.node} has no network {bridge}, only {', '.join(sorted(known))}"
            )

    def _macs_of_others(self, uid: str) -> set[str]:
        return {
            nic.mac
            for guest in self._pve.index.guests.values()
            if guest.stamp is None or guest.stamp.uid != uid
            for nic in nics.nics(guest.config)
        }

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""

        def build(shape: Shape) -> Shape:
            self._require_network(shape, nic)
            return editing.update_nic(shape, nic, default_bridge=self._default_bridge)

        await self._editor.edit(uid, f"update NIC {nic.name}", build)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._editor.edit(uid, f"detach NIC {name}", lambda shape: editing.detach_nic(shape, name))

    # -- first-boot data and texts ---------------------------------------------------------------------------------

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver; what was made for the data before goes when the new ones are in place."""
        what = "replace first-boot data"
        guest, record, doing = await self._editor.seen(uid, what)
        present = {nic.slot: nic.mac for nic in nics.nics(shape_of(guest, record).config)}
        handed = await self._boot_data.put(
            guest.vmid,
            guest.node,
            spec,
            doing,
            macs={nic.name: present[nic.slot] for nic in record.nics if nic.slot in present},
            slots={nic.name: nic.slot for nic in record.nics},
            config=guest.config,
            storage=self._storage(shape_of(guest, record), ""),
        )
        options = {**dict.fromkeys(handed.delete), **handed.config}

        async def drop() -> None:
            keep = {*handed.volumes, *await self._boot_data.held(guest, doing)}
            await self._boot_data.drop(uid, doing, keep=keep, known=record.volumes)

        await self._editor.edit(uid, what, lambda shape: editing.set_boot_data(shape, spec, options, handed.volumes))
        await self._editor.afterwards(uid, drop)

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        """See Driver."""
        await self._editor.edit(uid, "set tags", lambda shape: editing.set_tags(shape, tags))

    async def set_description(self, uid: str, description: str) -> None:
        """See Driver."""
        await self._editor.edit(uid, "set description", lambda shape: editing.set_description(shape, description))

    async def note(self, uid: str, key: str, value: str) -> None:
        """See Driver."""
        await self._editor.edit_now(uid, "keep a note", lambda shape: editing.note(shape, key, value))
