"""Clones of our machines: full ones that stand alone, linked ones on a snapshot, instant ones of a running guest.

Each is one task that makes the copy under the target's identity, as `making` does from a template: the source's
stamp, UUIDs and first-boot data are overwritten in that very call. A linked clone without a named snapshot gets one of
its own, which carries the clone's UID and goes with the clone. An instant clone cannot be given an `instanceUuid` by
its call: its stamp says that it is unfinished until it has it, and whoever comes next finishes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    HypervisorUnavailableError,
    NameConflictError,
    NotSupportedError,
    ProviderError,
    WrongPowerStateError,
)
from providerkit.driver import Progress
from providerkit.planner import boot_data_digest
from pyVmomi import vim

from provider_vsphere import machines, power, unread
from provider_vsphere.around import storagedrs
from provider_vsphere.config import bootdata, customization, devices, editing, hardware, making, nics
from provider_vsphere.config.devices import Board
from provider_vsphere.creating import Creator, asked_places
from provider_vsphere.places import Place, Places
from provider_vsphere.session import snapshot_tree
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.session.watched import STAMP
from provider_vsphere.snapshots import Snapshots
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import DiskStamp, Stamp

log = logging.get(__name__)

CLONED = faults.declare("vsphere.clone.made", "a clone is there with its stamp, and nobody knows yet")
FORKED = faults.declare("vsphere.clone.forked", "an instant clone is there and cannot be looked up by its UID yet")

UNFINISHED: Final = "instant-clone"
"""Setting of the stamp of an instant clone that lacks its `instanceUuid`."""
_INHERITED = ("cpu.", "memory.", "tuning.")


@dataclass(frozen=True)
class Original:
    """What is copied: a machine as it is, or as it was at a snapshot."""

    entity: Entity
    devices: Sequence[Any]
    record: Stamp
    snapshot: str = ""
    """moid."""


class Cloner:
    """Copies machines of one owner."""

    def __init__(
        self, vsphere: Vsphere, places: Places, creator: Creator, snapshots: Snapshots, clock: Clock, *, owner: str
    ) -> None:
        self._vsphere = vsphere
        self._places = places
        self._creator = creator
        self._snapshots = snapshots
        self._clock = clock
        self._owner = owner

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """Make the copy, unless it is there or being made.

        Raises:
            NameConflictError: a machine that is not the copy has its name.
            WrongPowerStateError: an instant clone of a machine that does not run.
            NotSupportedError: the guest of an instant clone is to be customized, which vSphere does at a start only.
        """
        target = request.target or v1.MachineSpec()
        identity = target.identity or v1.MachineIdentity()
        doing = f"clone machine {request.source_uid} to {identity.namespace}/{identity.name}"
        if await self._creator.find(identity.uid, doing) is not None:
            return
        await unread.rule_out(self._vsphere, identity, doing)
        source = machines.get(self._vsphere.tree, request.source_uid, self._owner)
        place = self._place(target, source)
        name = making.machine_name(identity)
        if await self.finish(identity.uid, place.folder, name):
            return
        self._creator.refuse_taken(name, place.folder, doing)
        if request.kind is v1.CloneKind.INSTANT:
            await self._fork(source, target, name, place, doing, progress)
        else:
            await self._copy(request, source, target, name, place, doing, progress)
        log.info("vsphere.machine.cloned", uid=identity.uid, source=request.source_uid, kind=request.kind.name)

    def _place(self, target: v1.MachineSpec, source: Entity) -> Place:
        """Where the target asks for, else beside its source."""
        if target.placement is not None and asked_places(target.placement):
            return self._places.resolve(target.placement)
        return self._places.of_machine(source)

    # -- full and linked -------------------------------------------------------------------------------------------

    async def _copy(
        self, request: v1.CloneMachineRequest, source: Entity, target: v1.MachineSpec, name: str, place: Place,
        doing: str, progress: Progress,
    ) -> None:  # fmt: skip
        identity = target.identity or v1.MachineIdentity()
        linked = request.kind is v1.CloneKind.LINKED
        original = await self._original(request, source, name, doing, progress)
        wish = replace(target, nics=target.nics or nics_of(original))
        macs = nics.macs(wish, self._creator.macs_of_others(identity.uid))
        config = self._config(wish, macs, original, place, linked=linked)
        where = vim.vm.RelocateSpec(pool=vim.ResourcePool(place.pool.moid))
        where.diskMoveType = "createNewChildDiskBacking" if linked else "moveAllDiskBackingsAndDisallowSharing"
        asked = target.placement or v1.Placement()
        if place.datastore is not None and (asked.datastore or asked.storage_pod):
            where.datastore = vim.Datastore(place.datastore.moid)
        if place.host is not None:
            where.host = vim.HostSystem(place.host.moid)
        order = vim.vm.CloneSpec(
            location=where,
            powerOn=False,
            template=False,
            config=config,
            customization=await customization.of(self._vsphere, wish, macs, doing, has_source=True),
        )
        if original.snapshot:
            order.snapshot = vim.vm.Snapshot(original.snapshot)
        if place.storage_pod is not None and storagedrs.is_on(place.storage_pod):
            found = await storagedrs.for_clone(self._vsphere, place, source, name, order, doing)
            where.datastore = vim.Datastore(found.home) if found is not None else where.datastore

        def begin(login: Login) -> Any:
            folder = vim.Folder(place.folder.moid, login.instance._stub)
            return self._vsphere.machine(source, login).CloneVM_Task(folder, name, order)

        try:
            made = await self._vsphere.task(doing, begin, progress, cancel=True)
        except NameConflictError:
            # Somebody was faster. If that was ourselves, an answer was lost on the way.
            if await self._creator.look(identity.uid, doing) is None:
                await self._snapshots.drop_base(identity.uid)
                raise
        except HypervisorUnavailableError:
            raise  # it may be there
        except ProviderError:
            await self._snapshots.drop_base(identity.uid)
            raise
        else:
            await self._vsphere.refresh(Entity("VirtualMachine", str(made)))
        await faults.point(CLONED)

    async def _original(
        self, request: v1.CloneMachineRequest, source: Entity, name: str, doing: str, progress: Progress
    ) -> Original:
        """The source, at a snapshot if one is named or needed: nothing may write under a linked clone."""
        now = machines.record_of(source)
        if request.source_snapshot_id:
            node = self._snapshots.find(source, request.source_snapshot_id)
        elif request.kind is v1.CloneKind.LINKED:
            uid = (request.target or v1.MachineSpec()).identity or v1.MachineIdentity()
            text = f"the linked clone {name} stands on it"
            await self._vsphere.settle_machine(source)
            node = self._snapshots.known(source, uid.uid) or await self._snapshots.take(
                source,
                uid.uid,
                f"base of {name}",
                snapshot_tree.description(text, uid.uid, self._owner, base=True),
                doing,
                progress,
            )
        else:
            return Original(source, source.facts.get("config.hardware.device") or (), now)
        held = (await self._snapshots.held([node], doing))[node.moid]
        return Original(source, held.devices, held.record or now, snapshot=node.moid)

    def _config(
        self, wish: v1.MachineSpec, macs: Mapping[str, str], original: Original, place: Place, *, linked: bool
    ) -> Any:
        networks = {nic.name: self._places.network(nic.network or v1.NetworkRef(), place) for nic in wish.nics}
        record = stamp.of(wish.identity or v1.MachineIdentity(), int(self._clock.now().timestamp()))
        return copied(
            wish,
            replace(record, settings=asked_places(wish.placement)),
            original,
            macs=macs,
            networks=networks,
            switches=self._creator.switches(networks),
            linked=linked,
        )

    # -- instant ---------------------------------------------------------------------------------------------------

    async def _fork(
        self, source: Entity, target: v1.MachineSpec, name: str, place: Place, doing: str, progress: Progress
    ) -> None:
        if power.state(source) != power.ON:
            raise WrongPowerStateError(f"{doing}: an instant clone is made of a machine that runs")
        if target.customization is not None:
            raise NotSupportedError(f"{doing}: the guest of an instant clone runs and cannot be customized")
        uid = (target.identity or v1.MachineIdentity()).uid
        original = Original(source, source.facts.get("config.hardware.device") or (), machines.record_of(source))
        wish = replace(target, nics=nics_of(original, target.nics))
        networks = {nic.name: self._places.network(nic.network or v1.NetworkRef(), place) for nic in wish.nics}
        order = forked(
            wish,
            stamp.of(target.identity or v1.MachineIdentity(), int(self._clock.now().timestamp())),
            original,
            name=name,
            place=place,
            macs=nics.macs(wish, self._creator.macs_of_others(uid)),
            networks=networks,
            switches=self._creator.switches(networks),
        )

        def begin(login: Login) -> Any:
            return self._vsphere.machine(source, login).InstantClone_Task(order)

        try:
            made = await self._vsphere.task(doing, begin, progress, cancel=True)
        except NameConflictError:
            if not await self.finish(uid, place.folder, name, look=True):
                raise
            return
        await self._vsphere.refresh(Entity("VirtualMachine", str(made)), source)
        await faults.point(FORKED)
        await self.finish(uid)
        await faults.point(CLONED)

    async def finish(self, uid: str, folder: Entity | None = None, name: str = "", *, look: bool = False) -> bool:
        """Give an instant clone its UID that an interrupted call has left without; whether there was one.

        Args:
            folder, name: where it would be, for a look at vSphere itself while the tree may lag.
        """
        doing = f"finish instant clone {uid}"
        if folder is not None and (look or self._vsphere.tree_may_lag):
            await self._look(folder, name, doing)
        for entity in self._vsphere.tree.of_kind("VirtualMachine"):
            record = stamp.read(entity.facts.get(STAMP))
            ours = record is not None and (record.uid, record.owner) == (uid, self._owner) and entity.uuid != uid
            if record is None or not ours or UNFINISHED not in record.settings:
                continue
            settings = {key: value for key, value in record.settings.items() if key != UNFINISHED}
            await self._name(entity, replace(record, settings=settings), doing)
            return True
        return False

    async def _name(self, entity: Entity, record: Stamp, doing: str) -> None:
        edit = editing.identified(record)
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
        await self._vsphere.refresh(entity)

    async def _look(self, folder: Entity, name: str, doing: str) -> None:
        def ask(login: Login) -> str:
            found = login.content.searchIndex.FindChild(vim.Folder(folder.moid, login.instance._stub), name)
            return str(found._moId) if found is not None else ""

        if moid := await self._vsphere.call(doing, ask):
            await self._vsphere.refresh(Entity("VirtualMachine", moid))


# -- what the copy is: pure --------------------------------------------------------------------------------------------


def nics_of(original: Original, wishes: Sequence[v1.NicSpec] = ()) -> list[v1.NicSpec]:
    """The source's NICs for a copy, which gets MACs of its own; with the networks of `wishes` of the same name."""
    asked = {nic.name: nic for nic in wishes}
    found = []
    for record in original.record.nics:
        card = nics.card_with(original.devices, record.mac)
        if card is None:
            continue
        kind = getattr(v1.NetworkKind, record.kind, v1.NetworkKind.NAMED)
        nic = v1.NicSpec(
            name=record.name, model=nics.model_of(card), network=v1.NetworkRef(kind=kind, name=record.network)
        )
        if (wish := asked.get(record.name)) is not None:
            nic = replace(nic, network=wish.network or nic.network, mac=wish.mac)
        found.append(nic)
    return found


def copied(
    spec: v1.MachineSpec,
    record: Stamp,
    original: Original,
    *,
    macs: Mapping[str, str],
    networks: Mapping[str, Entity],
    switches: Mapping[str, str],
    linked: bool,
) -> Any:
    """What CloneVM_Task lays over the source: everything that shall differ, stamp included.

    Args:
        record: who it is and where it was asked to be; disks, NICs and the rest are filled in here.
        linked: its disks are deltas, which do not grow.
    """
    uid = (spec.identity or v1.MachineIdentity()).uid
    config = vim.vm.ConfigSpec(uuid=uid, instanceUuid=uid)
    making.shape(config, spec)
    board = Board(original.devices)
    record = _disks(board, spec, record, original, grow=not linked)
    record = making.plug_nics(board, spec, record, macs, networks, switches)
    making.add_tpm(board, spec)
    config.deviceChange = board.changes
    record = _filled(spec, record, original)
    extra = making.extra_config(spec) | bootdata.replacing(spec, macs) | {stamp.KEY: record.text()}
    config.extraConfig = making.options(extra)
    return config


def forked(
    spec: v1.MachineSpec,
    record: Stamp,
    original: Original,
    *,
    name: str,
    place: Place,
    macs: Mapping[str, str],
    networks: Mapping[str, Entity],
    switches: Mapping[str, str],
) -> Any:
    """What InstantClone_Task is asked for. Hardware stays the source's, but for MACs and networks: it runs."""
    uid = (spec.identity or v1.MachineIdentity()).uid
    board = Board(original.devices)
    record = _disks(board, spec, record, original, grow=False)
    for nic in spec.nics:
        known = original.record.nic(nic.name)
        card = nics.card_with(original.devices, known.mac) if known is not None else None
        if card is not None:
            board.edit(nics.moved(card, nics.backing(nic.name, networks[nic.name], switches), macs[nic.name]))
            record = record.with_nic(nics.record(nic, macs[nic.name]))
    record = _filled(spec, record, original)
    record = replace(record, settings=record.settings | {UNFINISHED: "unfinished"})
    where = vim.vm.RelocateSpec(
        pool=vim.ResourcePool(place.pool.moid), folder=vim.Folder(place.folder.moid), deviceChange=board.changes
    )
    extra = making.extra_config(spec) | bootdata.replacing(spec, macs) | {stamp.KEY: record.text()}
    return vim.vm.InstantCloneSpec(name=name, location=where, biosUuid=uid, config=making.options(extra))


def _disks(board: Board, spec: v1.MachineSpec, record: Stamp, original: Original, *, grow: bool) -> Stamp:
    """Every disk of the source, copied, is ours. Its first takes the name of the spec's first, as a template's does."""
    slots = [slot for disk in devices.disks_of(board.devices) if (slot := devices.slot_of(board.devices, disk))]
    known = {disk.slot: disk for disk in original.record.disks}
    ordered = [disk.slot for disk in original.record.disks if disk.slot in slots]
    ordered += [slot for slot in slots if slot not in known]
    names = [known[slot].name if slot in known else f"disk{index}" for index, slot in enumerate(ordered)]
    if names and spec.disks and spec.disks[0].name not in names:
        names[0] = spec.disks[0].name
    wishes = {disk.name: disk for disk in spec.disks}
    for name, slot in zip(names, ordered, strict=True):
        old, disk, wish = known.get(slot, DiskStamp(name, slot)), devices.disk_at(board.devices, slot), wishes.get(name)
        if grow and wish is not None and wish.size_bytes > devices.capacity(disk):
            board.edit(devices.edited(disk, size=wish.size_bytes))
        record = record.with_disk(replace(old, name=name, owned=True))
    return record


def _filled(spec: v1.MachineSpec, record: Stamp, original: Original) -> Stamp:
    """With what the target asks for, and of the source what it leaves open. Limits and policies of disks, which a copy
    does not get at once, are left for the changes that follow."""
    asked = {"cpu.": spec.cpu, "memory.": spec.memory, "tuning.": spec.tuning}
    inherited = {
        key: value
        for key, value in original.record.settings.items()
        if any(key.startswith(kind) and asked[kind] is None for kind in _INHERITED)
    }
    return replace(
        record,
        cdroms=original.record.cdroms,
        boot_digest=boot_data_digest(spec),
        settings=record.settings | inherited | hardware.asked(replace(spec, disks=[])),
    )
