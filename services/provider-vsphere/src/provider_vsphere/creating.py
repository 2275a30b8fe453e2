"""Machines come and go: one task makes a machine with its stamp in it, one destroys it; what lies before and between is
looked up in the tree or may be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging, v1
from common.clock import Clock
from common.errors import InvalidSpecError, NameConflictError, StalePreconditionError
from providerkit.driver import Progress
from pyVmomi import vim

from provider_vsphere import files, machines, power, unread
from provider_vsphere.around import policies, storagedrs
from provider_vsphere.around.keyproviders import KeyProviders
from provider_vsphere.config import customization, devices, editing, hardware, making, nics
from provider_vsphere.images.images import Images, Source
from provider_vsphere.places import Place, Places
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.snapshots import Snapshots, pending_files
from provider_vsphere.stamps import stamp

log = logging.get(__name__)

CREATING = faults.declare("vsphere.create.begun", "a machine was asked for, and no task has begun")
CREATED = faults.declare("vsphere.create.made", "the VM is there with its stamp, and nobody knows yet")
DETACHED = faults.declare("vsphere.destroy.detached", "disks of others are unplugged, the VM is still there")
DESTROYED = faults.declare("vsphere.destroy.done", "the VM is gone, and nobody knows yet")

_ATTEMPTS = 3
"""So often a machine is looked at anew that somebody else changed while it was being destroyed."""
_PLACES = ("cluster", "host", "resource_pool", "folder", "datastore", "storage_pod")


@dataclass(frozen=True)
class _Wish:
    """A machine that is to be made, with everything that was looked up for it."""

    spec: v1.MachineSpec
    name: str
    place: Place
    networks: Mapping[str, Entity]
    macs: Mapping[str, str]
    policies: Mapping[str, str]
    source: Source | None
    """What it is copied from."""


class Creator:
    """Makes and destroys machines of one owner."""

    def __init__(self, vsphere: Vsphere, places: Places, images: Images, clock: Clock, *, owner: str) -> None:
        self._vsphere = vsphere
        self._places = places
        self._images = images
        self._clock = clock
        self._owner = owner
        self._snapshots = Snapshots(vsphere, owner=owner)
        self.keys = KeyProviders(vsphere, clock)

    # -- making ----------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        """Make the machine, powered off; one that is there is success, whoever of us made it."""
        identity = spec.identity or v1.MachineIdentity()
        doing = f"create machine {identity.namespace}/{identity.name}"
        if await self.find(identity.uid, doing) is not None:
            return
        await unread.rule_out(self._vsphere, identity, doing)
        place = self._places.resolve(spec.placement)
        networks = {nic.name: self._places.network(nic.network or v1.NetworkRef(), place) for nic in spec.nics}
        place = self._places.with_host(place, networks.values())
        name = making.machine_name(identity)
        self.refuse_taken(name, place.folder, doing)
        begin = await self._begin(spec, name, place, networks)
        await faults.point(CREATING)
        try:
            made = await self._vsphere.task(doing, begin, progress, cancel=True)
        except NameConflictError:
            # Somebody was faster. If that was ourselves, an answer was lost on the way.
            if await self.look(identity.uid, doing) is None:
                raise
        else:
            await self._vsphere.refresh(Entity("VirtualMachine", str(made)))
        log.info("vsphere.machine.made", uid=identity.uid, name=name)
        await faults.point(CREATED)

    async def find(self, uid: str, doing: str) -> Entity | None:
        """Our machine with this UID, with certainty: tasks that may be making it are waited for.

        Raises:
            ForeignMachineError: only somebody else's has this UID.
            HypervisorUnavailableError: one has it that cannot be read.
        """
        await self._vsphere.settle_doubts()
        if self._vsphere.tree_may_lag:
            return await self.look(uid, doing)
        return self._known(uid, doing)

    def _known(self, uid: str, doing: str) -> Entity | None:
        found = machines.find(self._vsphere.tree, uid, self._owner)
        if found is None:
            unread.refuse(self._vsphere.tree, uid, doing)
        return found

    async def look(self, uid: str, doing: str) -> Entity | None:
        """The same, asked of vSphere itself."""

        def ask(login: Login) -> list[str]:
            found = login.content.searchIndex.FindAllByUuid(None, uid, True, True)
            return [str(each._moId) for each in found or ()]

        known = {entity.moid: entity for entity in self._vsphere.tree.with_uuid(uid)}  # one of them may be gone
        found = {moid: Entity("VirtualMachine", moid) for moid in await self._vsphere.call(doing, ask)}
        await self._vsphere.refresh(*(found | known).values())
        return self._known(uid, doing)

    def refuse_taken(self, name: str, folder: Entity, doing: str) -> None:
        """Raises: NameConflictError: a machine in this folder has this name.

        A name is unique in its folder; DuplicateName says so too, after a task."""
        for each in self._vsphere.tree.of_kind("VirtualMachine"):
            if each.name == name and each.parent == folder.moid:
                path = self._vsphere.tree.path(each)
                raise NameConflictError(f"{doing}: {path} is there, which is not this machine; it was not touched")

    async def _begin(
        self, spec: v1.MachineSpec, name: str, place: Place, networks: Mapping[str, Entity]
    ) -> Callable[[Login], Any]:
        """What begins the task, with everything in it."""
        doing = f"create {name}"
        if hardware.wants_tpm(spec):
            await self.keys.require(place.compute, doing)
        image = next((disk.image for disk in spec.disks if disk.image is not None), None)
        source = await self._images.source(image.id) if image is not None else None
        macs = nics.macs(spec, self.macs_of_others((spec.identity or v1.MachineIdentity()).uid))
        known = await policies.ids(self._vsphere, [disk.storage_policy for disk in spec.disks], doing)
        wish = _Wish(spec, name, place, networks, macs, known, source)
        customized = await customization.of(self._vsphere, spec, macs, doing, has_source=source is not None)
        wish = await self._with_storage(wish, doing)
        config = self._config(wish)
        if source is not None:
            return self._cloning(wish, source, self._order(wish, source, config, customized))
        place = wish.place

        def create(login: Login) -> Any:
            stub = login.instance._stub
            pool = vim.ResourcePool(place.pool.moid, stub)
            host = vim.HostSystem(place.host.moid, stub) if place.host is not None else None
            return vim.Folder(place.folder.moid, stub).CreateVM_Task(config, pool, host)

        return create

    def _cloning(self, wish: _Wish, source: Source, order: Any) -> Callable[[Login], Any]:
        def clone(login: Login) -> Any:
            folder = vim.Folder(wish.place.folder.moid, login.instance._stub)
            return self._vsphere.machine(source.entity, login).CloneVM_Task(folder, wish.name, order)

        return clone

    def _order(self, wish: _Wish, source: Source, config: Any, customized: Any) -> Any:
        """The CloneSpec of a machine from a template, or standing on a snapshot, whose disks nobody writes to."""
        spec, place = wish.spec, wish.place
        _refuse_growth_on_snapshot(spec, source)
        where = vim.vm.RelocateSpec(
            pool=vim.ResourcePool(place.pool.moid), profile=making.policy(spec.disks, wish.policies)
        )
        if place.datastore is not None:
            where.datastore = vim.Datastore(place.datastore.moid)
            where.disk = making.disk_locators(spec, source.devices, place.datastore.moid, wish.policies)
        if place.host is not None:
            where.host = vim.HostSystem(place.host.moid)
        order = vim.vm.CloneSpec(location=where, powerOn=False, template=False, config=config, customization=customized)
        if source.snapshot:
            order.snapshot = vim.vm.Snapshot(source.snapshot)
            where.diskMoveType = "createNewChildDiskBacking"
        return order

    async def _with_storage(self, wish: _Wish, doing: str) -> _Wish:
        """In a datastore cluster, the datastores that Storage DRS recommends; else the roomiest member, as it is."""
        place, pod = wish.place, wish.place.storage_pod
        if pod is None:
            return wish
        if not storagedrs.is_on(pod):
            roomiest = place.datastore.name if place.datastore is not None else ""
            log.info("vsphere.storagedrs.off", pod=pod.name, datastore=roomiest)
            return wish
        config, source = self._config(wish), wish.source
        if source is None:
            found = await storagedrs.for_new(self._vsphere, place, config, doing)
        else:
            order = self._order(wish, source, config, None)
            found = await storagedrs.for_clone(self._vsphere, place, source.entity, wish.name, order, doing)
        home = self._vsphere.tree.get(found.home) if found is not None else None
        if found is None or home is None:
            return wish
        keys = [each.device.key for each in config.deviceChange if isinstance(each.device, vim.vm.device.VirtualDisk)]
        spec = wish.spec if source is not None else self._disks_at(wish.spec, [found.disks.get(key) for key in keys])
        return replace(wish, spec=spec, place=replace(place, datastore=home))

    def _disks_at(self, spec: v1.MachineSpec, moids: Sequence[str | None]) -> v1.MachineSpec:
        """Args: moids: datastore of each disk, in the order of the spec; None is the machine's own."""
        tree, disks = self._vsphere.tree, []
        for disk, moid in zip(spec.disks, moids, strict=True):
            where = tree.get(moid)
            asked = replace(disk, storage=tree.path(where)) if where is not None and not disk.storage else disk
            disks.append(asked)
        return replace(spec, disks=disks)

    def _config(self, wish: _Wish) -> Any:
        identity, place = wish.spec.identity or v1.MachineIdentity(), wish.place
        record = stamp.of(identity, int(self._clock.now().timestamp()))
        return making.new_machine(
            _with_datastores(wish.spec, self._places, place),
            replace(record, settings=asked_places(wish.spec.placement)),
            macs=wish.macs,
            networks=wish.networks,
            switches=self.switches(wish.networks),
            datastore_name=place.datastore.name if place.datastore is not None else "",
            source=wish.source.devices if wish.source is not None else (),
            policies=wish.policies,
            properties=wish.source.properties if wish.source is not None else (),
        )

    def macs_of_others(self, uid: str) -> set[str]:
        """MACs that a new NIC of this machine must not get."""
        others = (each for each in self._vsphere.tree.of_kind("VirtualMachine") if each.uuid != uid)
        return {
            (card.macAddress or "").lower()
            for each in others
            for card in nics.cards(each.facts.get("config.hardware.device") or ())
        }

    def switches(self, networks: Mapping[str, Entity]) -> dict[str, str]:
        """UUID of the distributed switch of each distributed port group, by the group's moid."""
        found = {}
        for network in networks.values():
            switch = self._vsphere.tree.get(network.facts.get("config.distributedVirtualSwitch"))
            if switch is not None:
                found[network.moid] = str(switch.facts.get("uuid") or "")
        return found

    # -- ending ----------------------------------------------------------------------------------------------------

    async def destroy(self, uid: str, progress: Progress) -> None:
        """Remove the machine and every file that we made for it; disks of others stay where they are."""
        doing = f"destroy machine {uid}"
        for attempt in range(_ATTEMPTS):
            entity = await self.find(uid, doing)
            if entity is None:
                return
            try:
                await self._destroy(entity, doing, progress)
            except StalePreconditionError:  # it changed, it is gone, or it is registered under another id
                if attempt + 1 == _ATTEMPTS:
                    raise
                await self._vsphere.refresh(entity)
                await self.look(uid, doing)
            else:
                return

    async def _destroy(self, entity: Entity, doing: str, progress: Progress) -> None:
        unread.refuse_away(self._vsphere.tree, entity, doing)
        await self._kept(entity, doing)  # whatever refuses comes before anything is done
        progress(0.1, "powering off")
        await power.power_off(self._vsphere, entity, doing)
        progress(0.3, "unplugging disks that are not ours")
        await self._unplug_foreign(entity, doing)
        await faults.point(DETACHED)
        progress(0.5, "removing its files")
        for file in await self._kept(entity, doing):
            await files.remove(self._vsphere, entity, file, doing)
        progress(0.7, "destroying the VM")
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).Destroy_Task())
        self._vsphere.forget(entity)
        await faults.point(DESTROYED)

    async def _unplug_foreign(self, entity: Entity, doing: str) -> None:
        """Destroy_Task takes the files of every disk that is plugged in, or that a snapshot holds. Judged by what is
        true now, not lately."""
        await self._vsphere.refresh(entity)
        await self._snapshots.let_go_of_foreign(entity, doing)
        present = entity.facts.get("config.hardware.device") or ()
        edit = making.detach_unowned(present, machines.stamp_of(entity))
        if edit is not None:
            edit.changeVersion = entity.facts.get("config.changeVersion")
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))

    async def _kept(self, entity: Entity, doing: str) -> set[str]:
        """Disks of ours that are unplugged, but for those that somebody has given to another VM."""
        mark = machines.stamp_of(entity)
        kept = {*editing.kept_files(mark).values(), *pending_files(entity).values()} if mark is not None else set()
        taken = await self._snapshots.taken_by_others(entity, kept, doing)
        for file in taken:
            log.warning("vsphere.disk.taken", uid=entity.uuid, file=file)
        return kept - taken


def asked_places(placement: v1.Placement | None) -> dict[str, str]:
    """Wishes for a place, as they were made: `observed` compares them with where the machine is."""
    wish = placement or v1.Placement()
    return {f"placement.{name}": getattr(wish, name) for name in _PLACES if getattr(wish, name)}


def _refuse_growth_on_snapshot(spec: v1.MachineSpec, source: Source) -> None:
    """vSphere grows no disk that stands on another; told before anything is made."""
    present = devices.disks_of(source.devices)
    if source.snapshot and present and spec.disks and spec.disks[0].size_bytes > devices.capacity(present[0]):
        raise InvalidSpecError(
            f"disk {spec.disks[0].name}: it would stand on the snapshot's disk of {devices.capacity(present[0])} bytes "
            "and cannot be larger; leave its size out, or take the template itself for the image"
        )


def _with_datastores(spec: v1.MachineSpec, places: Places, place: Place) -> v1.MachineSpec:
    """Every wish for a datastore looked up: a wrong one is told before anything is made."""
    disks = []
    for disk in spec.disks:
        asked = replace(disk, storage=places.datastore(disk.storage, place).name) if disk.storage else disk
        disks.append(asked)
    return replace(spec, disks=disks)
