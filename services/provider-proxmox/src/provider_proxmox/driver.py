"""The Proxmox VE driver: each verb in a few lines, over the modules that know how."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from common import v1
from common.errors import ProviderError
from providerkit.changes import Changes
from providerkit.driver import Console, Driver, Progress
from providerkit.extents import Incoming

from provider_proxmox import capable, inventory, observed
from provider_proxmox.adoption import Adoption
from provider_proxmox.cloning import Cloner
from provider_proxmox.config import hardware
from provider_proxmox.console import Consoles
from provider_proxmox.content.disks import Disks
from provider_proxmox.content.uploads import NOTE, Uploads
from provider_proxmox.creating import Creator
from provider_proxmox.guests import Guests
from provider_proxmox.ha import Ha
from provider_proxmox.images import templates
from provider_proxmox.images.images import Images
from provider_proxmox.migrating import Moving
from provider_proxmox.power import Power
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.removing import Remover
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots


class ProxmoxDriver(Driver):
    """Machines on one Proxmox VE cluster."""

    type = "proxmox"
    unique_names = False
    joins_changes = True

    def __init__(
        self,
        pve: Pve,
        guests: Guests,
        images: Images,
        creator: Creator,
        remover: Remover,
        power: Power,
        change: Reconfiguring,
        snapshots: Snapshots,
        consoles: Consoles,
        adoption: Adoption,
        ha: Ha,
        moving: Moving,
        cloner: Cloner,
        disks: Disks,
        uploads: Uploads,
        *,
        owner: str,
        concurrency: int = 8,
    ) -> None:
        self.pve = pve
        self._guests = guests
        self._images = images
        self._creator = creator
        self._remover = remover
        self._power = power
        self._change = change
        self._snapshots = snapshots
        self._consoles = consoles
        self._adoption = adoption
        self._ha = ha
        self._moving = moving
        self._cloner = cloner
        self._disks = disks
        self._uploads = uploads
        self._owner = owner
        self._concurrency = concurrency
        self._product = ""
        self._changes = Changes()
        pve.on_change(self._changes.tell)

    # -- session ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """See Driver."""
        async with self.pve.session():
            yield

    async def describe(self) -> v1.GetProviderResponse:
        """See Driver."""
        self.pve.known("describe the provider")
        return v1.GetProviderResponse(
            hypervisor=self._product or await self.check(),
            endpoint=self.pve.url,
            capabilities=capable.capabilities(
                self.pve.index, reads_disks=self._disks.can_read(), writes_disks=self._uploads.can_write()
            ),
            limits=capable.limits(self._concurrency),
        )

    async def check(self) -> str:
        """See Driver."""
        told = await self.pve.get("check the connection", "version")
        self._product = f"Proxmox VE {told['version']}"
        return self._product

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        """See Driver."""
        index = self.pve.known(f"observe machine {uid}")
        everyone = index.with_uid(uid) or index.with_smbios(uid)
        ours = [guest for guest in everyone if self._guests.is_ours(guest)]
        if not ours:
            return observed.machine(everyone[0], index, self._owner) if everyone else None
        made = [guest for guest in ours if guest.stamp is not None and guest.stamp.made]
        return observed.machine(made[0], index, self._owner) if made else None

    async def rule_out(self, identity: v1.MachineIdentity) -> None:
        """See Driver."""
        await self._guests.find(identity.uid, f"look for machine {identity.uid}")

    async def observe_all(self) -> list[v1.Machine]:
        """See Driver."""
        index = self.pve.known("observe all machines")
        return [
            observed.machine(guest, index, self._owner)
            for guest in index.guests.values()
            if is_machine(guest, self._owner)
        ]

    def changes(self) -> AsyncIterator[str | None]:
        """See Driver."""
        return self._changes.listen()

    async def inventory(self) -> v1.GetInventoryResponse:
        """See Driver."""
        return inventory.inventory(self.pve.known("take the inventory"))

    # -- images ----------------------------------------------------------------------------------------------------

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """See Driver."""
        return await self._images.prepare(request, progress)

    async def image_id(self, request: v1.PrepareImageRequest) -> str:
        """See Driver."""
        return self._images.check(request)

    async def get_image(self, image_id: str) -> v1.Image | None:
        """See Driver."""
        return await self._images.get(image_id)

    async def list_images(self) -> list[v1.Image]:
        """See Driver."""
        return await self._images.all()

    async def delete_image(self, image_id: str) -> None:
        """See Driver."""
        await self._images.delete(image_id)

    # -- life ------------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        """See Driver."""
        await self._creator.create(spec, progress)
        if spec.identity is not None and spec.placement is not None and spec.placement.affinity:
            await self._ha.set_affinity(spec.identity.uid, list(spec.placement.affinity))

    async def destroy(self, uid: str, progress: Progress) -> None:
        """See Driver."""
        doing = f"destroy machine {uid}"
        everyone = await self._guests.find_all(uid, doing)
        for guest in everyone:
            await self._ha.leave(await self._uploads.settle(guest, doing), doing)
        try:
            await self._remover.destroy(uid, progress)
        except ProviderError:
            if len(everyone) == 1:  # it stays, in its rules
                with contextlib.suppress(ProviderError):
                    await self._ha.settle(uid, doing)
            raise
        await self._uploads.clear(uid, doing)

    async def release(self, uid: str) -> None:
        """See Driver."""
        doing = f"release machine {uid}"
        guest = await self._guests.find(uid, doing)
        if guest is not None:
            await self._ha.leave(await self._uploads.settle(guest, doing), doing)
            await self._uploads.clear(uid, doing)
            await self._adoption.release(await self._guests.get(uid, doing), doing)

    async def adopt(self, machine_id: str, identity: v1.MachineIdentity) -> None:
        """See Driver."""
        await self._adoption.adopt(machine_id, identity)

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """See Driver."""
        await self._cloner.clone(request, progress)

    # -- content of disks ------------------------------------------------------------------------------------------

    async def disk_info(self, disk: v1.DiskRef) -> v1.GetDiskResponse:
        """See Driver."""
        return await self._disks.info(disk)

    def read_disk(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        """See Driver."""
        return self._disks.read(request)

    async def write_disk(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        """See Driver."""
        return await self._uploads.write(target, incoming)

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def create_snapshot(self, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        """See Driver."""
        return await self._snapshots.create(request, progress)

    async def delete_snapshot(self, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        """See Driver."""
        await self._snapshots.delete(request, progress)

    async def revert_snapshot(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        """See Driver."""
        await self._snapshots.revert(request, progress)

    async def list_snapshots(self, uid: str) -> list[v1.Snapshot]:
        """See Driver."""
        return await self._snapshots.of(uid)

    # -- power -----------------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        """See Driver. An unfinished exchange of a disk is settled first: nothing more goes to the old one."""
        doing = f"start machine {uid}"
        for known in self.pve.index.with_uid(uid):
            if known.stamp is not None and any(key.startswith(NOTE) for key in known.stamp.settings):
                await self._uploads.settle(await self._guests.get(uid, doing), doing)
        await self._power.power_on(uid)

    async def power_off(self, uid: str) -> None:
        """See Driver."""
        await self._power.power_off(uid)

    async def ask_shutdown(self, uid: str) -> None:
        """See Driver."""
        await self._power.ask_shutdown(uid)

    async def ask_reboot(self, uid: str) -> None:
        """See Driver."""
        await self._power.ask_reboot(uid)

    async def reset(self, uid: str) -> None:
        """See Driver."""
        await self._power.reset(uid)

    async def suspend(self, uid: str) -> None:
        """See Driver."""
        await self._power.suspend(uid)

    async def resume(self, uid: str) -> None:
        """See Driver."""
        await self._power.resume(uid)

    def console(self, uid: str, kind: v1.ConsoleKind, *, force: bool) -> AbstractAsyncContextManager[Console]:
        """See Driver. Proxmox VE lets several look at once: there is nobody to take it from."""
        return self._consoles.open(uid, kind)

    # -- place -----------------------------------------------------------------------------------------------------

    async def set_placement(self, uid: str, placement: v1.Placement) -> None:
        """See Driver."""
        await self._moving.set_placement(uid, placement)

    async def set_affinity(self, uid: str, rules: list[v1.AffinityRule]) -> None:
        """See Driver."""
        await self._ha.set_affinity(uid, rules)

    # -- shape -----------------------------------------------------------------------------------------------------

    def together(self, uid: str) -> AbstractAsyncContextManager[None]:
        """See Driver."""
        return self._change.together(uid)

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.set_cpu(uid, cpu, live=live)

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.set_memory(uid, memory, live=live)

    async def set_firmware(self, uid: str, firmware: v1.FirmwareSpec) -> None:
        """See Driver."""
        await self._change.set_firmware(uid, firmware)

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""
        before = (await self._guests.get(uid, f"set tuning of machine {uid}")).stamp
        managed = before.settings.get(hardware.HA, "") if before is not None else ""
        await self._change.set_tuning(uid, spec)
        await self._change.afterwards(uid, lambda: self._ha.set_member(uid, managed))

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.attach_disk(uid, disk, live=live)

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        """See Driver."""
        await self._change.grow_disk(uid, name, size_bytes, live=live)

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.update_disk(uid, disk, live=live)

    async def move_disk(self, uid: str, name: str, storage: str, *, live: bool) -> None:
        """See Driver."""
        await self._change.move_disk(uid, name, storage, live=live)

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._change.detach_disk(uid, name, live=live)

    async def set_cdrom(self, uid: str, cdrom: v1.CdromSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.set_cdrom(uid, cdrom, live=live)

    async def detach_cdrom(self, uid: str, name: str) -> None:
        """See Driver."""
        await self._change.detach_cdrom(uid, name)

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.attach_nic(uid, nic, live=live)

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.update_nic(uid, nic, live=live)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._change.detach_nic(uid, name, live=live)

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""
        await self._change.set_boot_data(uid, spec)

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        """See Driver."""
        await self._change.set_tags(uid, tags)

    async def set_description(self, uid: str, description: str) -> None:
        """See Driver."""
        await self._change.set_description(uid, description)

    async def note(self, uid: str, key: str, value: str) -> None:
        """See Driver."""
        await self._change.note(uid, key, value)


def is_machine(guest: Guest, owner: str) -> bool:
    """It is a machine: what another one is made from is none, unless it was taken over as one; nor is an image or a
    machine of ours while it is being made."""
    mark = guest.stamp
    if mark is not None:
        return mark.made or mark.owner != owner
    return not guest.template and templates.stamp_of(guest) is None
