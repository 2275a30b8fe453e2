"""The vSphere driver: each verb in a few lines, over the modules that know how."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from common import faults, logging, v1
from common.clock import Clock
from common.errors import ForeignMachineError, HypervisorUnavailableError, StalePreconditionError
from providerkit.changes import Changes
from providerkit.driver import ConsoleTicket, Driver, Progress
from providerkit.extents import Incoming
from pyVmomi import vim

from provider_vsphere import adoption, capable, inventory, machines, observed, power, unread
from provider_vsphere.around import affinity, fields, policies, tagging
from provider_vsphere.around.affinity import Affinity
from provider_vsphere.around.display import Display
from provider_vsphere.around.policywatch import PolicyWatch
from provider_vsphere.around.tagging import Tags
from provider_vsphere.cloning import Cloner
from provider_vsphere.config import editing, nics
from provider_vsphere.content.disks import Disks
from provider_vsphere.content.uploads import Uploads
from provider_vsphere.creating import Creator
from provider_vsphere.images.images import Images
from provider_vsphere.places import Place, Places
from provider_vsphere.reconfiguring import Reconfiguring
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.snapshots import Snapshots
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)


class VsphereDriver(Driver):
    """Machines on one vCenter or ESXi host."""

    type = "vsphere"
    unique_names = False
    joins_changes = True

    def __init__(
        self,
        vsphere: Vsphere,
        places: Places,
        images: Images,
        creator: Creator,
        tags: Tags,
        disks: Disks,
        uploads: Uploads,
        snapshots: Snapshots,
        cloner: Cloner,
        clock: Clock,
        *,
        owner: str,
        options: Sequence[str] = (),
        concurrency: int = 8,
    ) -> None:
        self.vsphere = vsphere
        self._tags = tags
        self._places = places
        self._images = images
        self._creator = creator
        self._change = Reconfiguring(vsphere, owner=owner)
        self._affinity = Affinity(vsphere)
        self._display = Display(vsphere, Transfers(vsphere.endpoint), clock)
        self._disks = disks
        self._uploads = uploads
        self._snapshots = snapshots
        self._cloner = cloner
        self._clock = clock
        self._owner = owner
        self._options = options
        self._concurrency = concurrency
        self._changes = Changes()
        vsphere.on_change(self._changes.tell)
        self._policies = PolicyWatch(vsphere, owner=owner)

    # -- session ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """See Driver."""
        async with self.vsphere.session(), self._tags.session(), self._policies.session():
            yield

    async def describe(self) -> v1.GetProviderResponse:
        """See Driver."""
        about = self.vsphere.about
        if about is None:
            self.vsphere.login("describe the provider")  # says why there is none
            raise HypervisorUnavailableError("describe the provider: there was no session yet")
        return v1.GetProviderResponse(
            hypervisor=about.product,
            endpoint=self.vsphere.endpoint.url,
            capabilities=capable.capabilities(
                about,
                has_default_network=self._places.has_default_network,
                keeps_rules=affinity.is_kept(self.vsphere.tree),
                options=self._options,
                has_keys=await self._creator.keys.are_there(),
            ),
            limits=capable.limits(self._concurrency),
        )

    async def check(self) -> str:
        """See Driver."""
        await self.vsphere.call("check the connection", lambda login: login.instance.CurrentTime())
        return self.vsphere.login("check the connection").about.product

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        """See Driver."""
        doing = f"observe machine {uid}"
        self.vsphere.login(doing)
        everyone = self.vsphere.tree.with_uuid(uid)
        if not any(machines.is_ours(entity, self._owner) for entity in everyone):
            unread.refuse(self.vsphere.tree, uid, doing)
            return self._machine(everyone[0]) if everyone else None
        return self._machine(machines.get(self.vsphere.tree, uid, self._owner))

    async def rule_out(self, identity: v1.MachineIdentity) -> None:
        """See Driver."""
        doing = f"look for machine {identity.uid}"
        self.vsphere.login(doing)
        await unread.rule_out(self.vsphere, identity, doing)

    async def observe_all(self) -> list[v1.Machine]:
        """See Driver."""
        self.vsphere.login("observe all machines")
        every = self.vsphere.tree.of_kind("VirtualMachine")
        return [self._machine(entity) for entity in every if machines.is_machine(entity)]

    def _machine(self, entity: Entity) -> v1.Machine:
        return observed.machine(entity, self.vsphere.tree, self._owner)

    def changes(self) -> AsyncIterator[str | None]:
        """See Driver."""
        return self._changes.listen()

    async def inventory(self) -> v1.GetInventoryResponse:
        """See Driver."""
        self.vsphere.login("take the inventory")
        return inventory.inventory(self.vsphere.tree)

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

    async def destroy(self, uid: str, progress: Progress) -> None:
        """See Driver."""
        doing = f"destroy machine {uid}"
        self.vsphere.login(doing)
        try:
            await self._cloner.finish(uid)
            # Whatever refuses comes first: a refusal leaves everything as it was.
            if (entity := await self._creator.find(uid, doing)) is not None:
                unread.refuse_away(self.vsphere.tree, entity, doing)
                await self._snapshots.refuse_used_machine(entity, doing)
            await self._leave_rules(uid, "destroy")
            await self._uploads.clear(uid, doing)
        except StalePreconditionError:
            if await self._creator.look(uid, doing) is not None:
                raise
            log.info("vsphere.machine.gone", uid=uid)  # by the task of a process that died
        await self._creator.destroy(uid, progress)
        await self._snapshots.drop_base(uid)

    async def _leave_rules(self, uid: str, what: str) -> None:
        """It goes: rules that would be left with it alone must not outlive it."""
        self.vsphere.login(f"{what} machine {uid}")
        for entity in self.vsphere.tree.with_uuid(uid):
            if machines.is_ours(entity, self._owner):
                await self._affinity.settle(entity, (), f"{what} machine {uid}", leaving=True)

    async def release(self, uid: str) -> None:
        """See Driver."""
        doing = f"release machine {uid}"
        self.vsphere.login(doing)
        try:
            entity = await self._creator.find(uid, doing)  # one that is being made is waited for
        except ForeignMachineError:
            return
        if entity is None:
            return
        unread.refuse_away(self.vsphere.tree, entity, doing)
        await self._leave_rules(uid, "release")
        await self._uploads.clear(uid, doing)
        await self._change.edit_now(uid, "release", lambda _entity, record: editing.release(record))

    async def adopt(self, machine_id: str, identity: v1.MachineIdentity) -> None:
        """See Driver."""
        await adoption.adopt(self.vsphere, self._clock, machine_id, identity)

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """See Driver."""
        target = request.target or v1.MachineSpec()
        await self._cloner.clone(request, progress)
        uid = (target.identity or v1.MachineIdentity()).uid
        if target.tags:
            await self.set_tags(uid, target.tags)
        if target.attributes:
            await self.set_attributes(uid, target.attributes)

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def create_snapshot(self, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        """See Driver."""
        entity, _ = self._get(request.machine_uid, "snapshot")
        return await self._snapshots.create(entity, request, progress)

    async def delete_snapshot(self, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        """See Driver."""
        entity, _ = self._get(request.machine_uid, "delete a snapshot of")
        await self._snapshots.delete(entity, request, progress)

    async def revert_snapshot(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        """See Driver."""
        entity, _ = self._get(request.machine_uid, "revert")
        await self._snapshots.revert(entity, request, progress)

    async def list_snapshots(self, uid: str) -> list[v1.Snapshot]:
        """See Driver."""
        entity, _ = self._get(uid, "list snapshots of")
        return self._snapshots.of(entity)

    # -- power -----------------------------------------------------------------------------------------------------

    def _get(self, uid: str, what: str) -> tuple[Entity, str]:
        """Our machine, and what is being done to it."""
        doing = f"{what} machine {uid}"
        self.vsphere.login(doing)
        return machines.get(self.vsphere.tree, uid, self._owner), doing

    async def power_on(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "start")
        await power.power_on(self.vsphere, entity, doing)
        await self.vsphere.refresh(entity)

    async def power_off(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "power off")
        await power.power_off(self.vsphere, entity, doing)
        await self.vsphere.refresh(entity)

    async def ask_shutdown(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "shut down")
        await power.ask_shutdown(self.vsphere, entity, doing, self._clock.now())

    async def ask_reboot(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "reboot")
        await power.ask_reboot(self.vsphere, entity, doing)

    async def reset(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "reset")
        await power.reset(self.vsphere, entity, doing)
        await self.vsphere.refresh(entity)

    async def suspend(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "suspend")
        await power.suspend(self.vsphere, entity, doing)
        await self.vsphere.refresh(entity)

    async def resume(self, uid: str) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "resume")
        await power.power_on(self.vsphere, entity, doing)
        await self.vsphere.refresh(entity)

    # -- shape -----------------------------------------------------------------------------------------------------

    def together(self, uid: str) -> AbstractAsyncContextManager[None]:
        """See Driver."""
        return self._change.together(uid)

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        """See Driver."""

        def build(entity: Entity, record: Stamp) -> Any:
            cores = entity.facts.get("config.hardware.numCoresPerSocket") or 0
            return editing.set_cpu(record, cpu, live=live, cores_per_socket=cores)

        await self._change.edit(uid, "set CPUs", build)

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.edit(uid, "set memory", lambda _, record: editing.set_memory(record, memory, live=live))

    async def set_firmware(self, uid: str, firmware: v1.FirmwareSpec) -> None:
        """See Driver."""
        if firmware.tpm:
            entity, doing = self._get(uid, "set firmware of")
            await self._creator.keys.require(self._place(entity).compute, doing)
        await self._change.edit(uid, "set firmware", lambda entity, _: editing.set_firmware(_devices(entity), firmware))

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""
        await self._upgrade(uid, spec)

        def build(entity: Entity, record: Stamp) -> Any:
            firmware = str(entity.facts.get("config.firmware") or "")
            return editing.set_tuning(record, spec, firmware=firmware, options=self._options)

        await self._change.edit(uid, "set tuning", build)

    async def _upgrade(self, uid: str, spec: v1.MachineSpec) -> None:
        """Bring the virtual hardware to the version that the spec asks for.

        Raises:
            NotSupportedError: it is older than the one that the machine has.
        """
        entity, doing = self._get(uid, "upgrade the hardware of")
        if version := editing.hardware_upgrade(str(entity.facts.get("config.version") or ""), spec):
            await self.vsphere.task(doing, lambda login: self.vsphere.machine(entity, login).UpgradeVM_Task(version))
            await self.vsphere.refresh(entity)

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""

        known = await policies.ids(self.vsphere, [disk.storage_policy], f"attach disk {disk.name} of machine {uid}")

        def build(entity: Entity, record: Stamp) -> Any:
            datastore = self._places.datastore(disk.storage, self._place(entity)).name
            return editing.add_disk(_devices(entity), record, disk, datastore, known)

        await self._change.edit(uid, f"attach disk {disk.name}", build)

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        """See Driver."""
        await self._change.edit(
            uid, f"grow disk {name}", lambda entity, r: editing.grow_disk(_devices(entity), r, name, size_bytes)
        )

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""
        doing = f"update disk {disk.name}"
        known = await policies.ids(self.vsphere, [disk.storage_policy], f"{doing} of machine {uid}")
        await self._change.edit(uid, doing, lambda entity, r: editing.update_disk(_devices(entity), r, disk, known))

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._change.edit(
            uid, f"detach disk {name}", lambda entity, r: editing.detach_disk(_devices(entity), r, name)
        )

    async def set_cdrom(self, uid: str, cdrom: v1.CdromSpec, *, live: bool) -> None:
        """See Driver."""
        await self._change.edit(
            uid, f"set drive {cdrom.name}", lambda entity, r: editing.set_cdrom(_devices(entity), r, cdrom)
        )

    async def detach_cdrom(self, uid: str, name: str) -> None:
        """See Driver."""
        await self._change.edit(
            uid, f"remove drive {name}", lambda entity, r: editing.remove_cdrom(_devices(entity), r, name)
        )

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""

        def build(entity: Entity, record: Stamp) -> Any:
            network, switches = self._network(entity, nic)
            spec = v1.MachineSpec(identity=record.identity(), nics=[nic])
            mac = nics.macs(spec, self._creator.macs_of_others(uid))[nic.name]
            return editing.add_nic(_devices(entity), record, nic, mac, network, switches)

        await self._change.edit(uid, f"attach NIC {nic.name}", build)

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""

        def build(entity: Entity, record: Stamp) -> Any:
            network, switches = self._network(entity, nic)
            return editing.update_nic(_devices(entity), record, nic, network, switches)

        await self._change.edit(uid, f"update NIC {nic.name}", build)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._change.edit(
            uid, f"detach NIC {name}", lambda entity, r: editing.remove_nic(_devices(entity), r, name)
        )

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""

        def build(_: Entity, record: Stamp) -> Any:
            macs = nics.macs(spec, self._creator.macs_of_others(uid))
            return editing.set_boot_data(record, spec, macs)

        await self._change.edit(uid, "replace first-boot data", build)

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        """See Driver."""
        if not self._tags.are_there:
            await self._change.edit_now(uid, "set tags", lambda _, record: editing.set_tags(record, tags))
            return
        entity, doing = self._get(uid, "set tags of")
        ids = await self._tags.ids(tags, doing)
        await self._tags.look(entity, doing)
        await self._change.edit_now(uid, "set tags", lambda _, record: editing.stamped(tagging.claimed(record, ids)))
        await faults.point(tagging.CLAIMED)
        ours = machines.record_of(entity).tag_ids
        await self._tags.attach(entity, ids.values(), ours.values(), doing)
        await self._change.edit_now(uid, "set tags", lambda _, record: editing.stamped(tagging.released(record, ids)))

    async def set_affinity(self, uid: str, rules: list[v1.AffinityRule]) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "set affinity of")
        if rules:
            self._affinity.cluster(entity, doing)
        before = affinity.asked(machines.record_of(entity))
        await self._change.edit_now(
            uid, "set affinity", lambda _, record: editing.stamped(affinity.asking(record, rules))
        )
        await self._affinity.settle(entity, before, doing)

    async def set_attributes(self, uid: str, attributes: dict[str, str]) -> None:
        """See Driver."""
        entity, doing = self._get(uid, "set attributes of")
        keys = await fields.keys(self.vsphere, attributes, doing)
        await self._change.edit_now(
            uid, "set attributes", lambda _, record: editing.stamped(fields.claimed(record, keys))
        )
        await faults.point(fields.CLAIMED)
        ours = machines.record_of(entity).attributes
        await fields.write(self.vsphere, entity, {key: attributes.get(name, "") for name, key in ours.items()}, doing)
        await self._change.edit_now(uid, "set attributes", lambda _, r: editing.stamped(fields.released(r, attributes)))
        await self.vsphere.refresh(entity)

    async def note(self, uid: str, key: str, value: str) -> None:
        """See Driver."""
        await self._change.edit_now(uid, "keep a note", lambda _, record: editing.note(record, key, value))

    async def set_description(self, uid: str, description: str) -> None:
        """See Driver."""
        await self._change.edit(uid, "set description", lambda _, record: editing.set_description(record, description))

    # -- display ---------------------------------------------------------------------------------------------------

    async def console_ticket(self, uid: str) -> ConsoleTicket:
        """See Driver."""
        entity, doing = self._get(uid, "open the console of")
        return await self._display.ticket(entity, doing)

    async def screenshot(self, uid: str) -> bytes:
        """See Driver."""
        entity, doing = self._get(uid, "take a screenshot of")
        return await self._display.picture(entity, doing)

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

    # -- places ----------------------------------------------------------------------------------------------------

    def _place(self, entity: Entity) -> Place:
        """Where the machine is: what it gets later must be reachable from there."""
        return self._places.of_machine(entity)

    def _network(self, entity: Entity, nic: v1.NicSpec) -> tuple[Entity, dict[str, str]]:
        network = self._places.network(nic.network or v1.NetworkRef(), self._place(entity))
        return network, self._creator.switches({nic.name: network})


def _devices(entity: Entity) -> list[vim.vm.device.VirtualDevice]:
    return list(entity.facts.get("config.hardware.device") or ())
