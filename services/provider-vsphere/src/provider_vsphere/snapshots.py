"""Snapshots of our machines: taken once, gone back to with a stamp that is true again, removed under nobody's feet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging, v1
from common.errors import (
    HypervisorUnavailableError,
    InvalidSpecError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    WrongPowerStateError,
)
from providerkit.driver import Progress
from providerkit.waiting import to_its_end
from pyVmomi import vim

from provider_vsphere import machines, power, unread
from provider_vsphere.config import devices, editing, making
from provider_vsphere.files import Files
from provider_vsphere.session import snapshot_tree, watched
from provider_vsphere.session.login import Login
from provider_vsphere.session.snapshot_tree import FACT, Node
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)

_BATCH = 200
"""Snapshots of others that are read at once."""

TAKEN = faults.declare("vsphere.snapshot.taken", "a snapshot is there, and nobody knows yet")
REMOVED = faults.declare("vsphere.snapshot.removed", "a snapshot is gone, and nobody knows yet")
REVERTING = faults.declare("vsphere.snapshot.reverting", "what a revert would lose is written down")
REVERTED = faults.declare("vsphere.snapshot.reverted", "a machine is back at a snapshot, with the stamp of old")


@dataclass(frozen=True)
class Held:
    """What a snapshot holds of its machine."""

    devices: Sequence[Any]
    record: Stamp | None

    @property
    def files(self) -> set[str]:
        """Of all its disks, with the files that those stand on."""
        return {file for disk in devices.disks_of(self.devices) for file in devices.chain_of(disk)}

    @property
    def tops(self) -> set[str]:
        """Of all its disks, without those."""
        return {devices.file_of(disk) for disk in devices.disks_of(self.devices)} - {""}


class Snapshots:
    """Of the machines of one owner."""

    def __init__(self, vsphere: Vsphere, *, owner: str) -> None:
        self._vsphere = vsphere
        self._owner = owner

    # -- looking ---------------------------------------------------------------------------------------------------

    def of(self, entity: Entity) -> list[v1.Snapshot]:
        """The tree of a machine, without a round trip."""
        return [snapshot_tree.told(node, self._owner) for node in _nodes(entity)]

    def find(self, entity: Entity, text: str) -> Node:
        """The snapshot with this id or UID.

        Raises:
            SnapshotNotFoundError: there is none.
        """
        for node in _nodes(entity):
            if text and text in (node.moid, node.uid(self._owner)):
                return node
        raise SnapshotNotFoundError(f"machine {entity.name} has no snapshot {text}")

    def known(self, entity: Entity, uid: str) -> Node | None:
        """The snapshot with this UID, if it is there."""
        return next((node for node in _nodes(entity) if node.uid(self._owner) == uid), None)

    async def held(self, nodes: Iterable[Node], doing: str) -> dict[str, Held]:
        """What these snapshots hold, by moid."""
        moids = [node.moid for node in nodes]

        def read(login: Login) -> dict[str, Held]:
            snapshots = [vim.vm.Snapshot(moid, login.instance._stub) for moid in moids]
            found = {}
            for each in login.content.propertyCollector.RetrieveContents([watched.snapshots_filter(snapshots)]):
                told = {change.name: watched.plain(change.val) for change in each.propSet}
                board = told.get("config.hardware.device") or []
                found[str(each.obj._moId)] = Held(board, stamp.read(told.get(watched.STAMP)))
            return found

        return await self._vsphere.call(doing, read) if moids else {}

    # -- taking ----------------------------------------------------------------------------------------------------

    async def create(self, entity: Entity, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        """Take one, unless it is there or being taken.

        Raises:
            WrongPowerStateError: memory of a machine that is off; file systems of a guest whose tools do not run.
        """
        doing = f"snapshot {request.name} of machine {request.machine_uid}"
        await self._vsphere.settle_machine(entity)
        node = self.known(entity, request.uid)
        if node is None:
            freeze = _check(entity, request, doing)
            text = snapshot_tree.description(request.description, request.uid, self._owner)
            node = await self.take(
                entity, request.uid, request.name, text, doing, progress, memory=request.memory, quiesce=freeze
            )
            if freeze and not node.quiesced:
                await self._remove(entity, node, doing, children=False)
                raise WrongPowerStateError(f"{doing}: vSphere took it without freezing the guest's file systems")
        return snapshot_tree.told(node, self._owner)

    async def take(
        self, entity: Entity, uid: str, name: str, description: str, doing: str, progress: Progress,
        *, memory: bool = False, quiesce: bool = False,
    ) -> Node:  # fmt: skip
        """Take one that is not there."""
        short = making.fitting(name)

        def begin(login: Login) -> Any:
            return self._vsphere.machine(entity, login).CreateSnapshot_Task(short, description, memory, quiesce)

        await self._vsphere.task(doing, begin, progress, cancel=True)
        await self._vsphere.refresh(entity)
        node = self.known(entity, uid)
        if node is None:
            raise HypervisorUnavailableError(f"{doing}: vSphere does not show it yet", retry_after=1.0)
        log.info("vsphere.snapshot.taken", uid=entity.uuid, snapshot=uid, name=short)
        await faults.point(TAKEN)
        return node

    # -- removing --------------------------------------------------------------------------------------------------

    async def delete(self, entity: Entity, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        """Remove one, with its children or without: then they move up; one that is gone is success.

        Raises:
            SnapshotInUseError: linked clones stand on it, or snapshots of others would go with it.
        """
        doing = f"delete snapshot {request.uid} of machine {request.machine_uid}"
        await self._vsphere.settle_machine(entity)
        node = self.known(entity, request.uid)
        if node is not None:
            going = [node, *snapshot_tree.below(_nodes(entity), node)] if request.children else [node]
            foreign = [each.name for each in going if not each.uid(self._owner)]
            if foreign:
                raise SnapshotInUseError(f"{doing}: snapshots that are not ours stand on it: {', '.join(foreign)}")
            await self._refuse_used(entity, going, doing)
            await self._fold(entity, going, doing)
            await self._remove(entity, node, doing, children=request.children, progress=progress)
        await self._consolidate(entity, doing)

    async def drop_base(self, uid: str) -> None:
        """The linked clone with this UID is gone: so goes the snapshot that was taken for it alone, unless others stand
        on it by now."""
        for entity in self._vsphere.tree.of_kind("VirtualMachine"):
            node = self.known(entity, uid)
            if node is None:
                continue
            doing = f"delete snapshot {node.name} of machine {entity.name}"
            await self._vsphere.settle_machine(entity)
            try:
                await self._refuse_used(entity, [node], doing)
            except SnapshotInUseError as error:
                log.warning("vsphere.snapshot.kept", uid=entity.uuid, snapshot=uid, error=str(error))
                return
            if self.known(entity, uid) is not None:
                await self._remove(entity, node, doing, children=False)
            await self._consolidate(entity, doing)
            return

    async def _remove(
        self, entity: Entity, node: Node, doing: str, *, children: bool, progress: Progress | None = None
    ) -> None:
        def begin(login: Login) -> Any:
            return vim.vm.Snapshot(node.moid, login.instance._stub).RemoveSnapshot_Task(children, True)

        try:
            await self._vsphere.task(doing, begin, progress)
        except SnapshotNotFoundError:
            log.info("vsphere.snapshot.gone", uid=entity.uuid, snapshot=node.moid)  # somebody was faster
        await self._vsphere.refresh(entity)
        await faults.point(REMOVED)

    async def _consolidate(self, entity: Entity, doing: str) -> None:
        """A removal may leave its disks behind, where they grow until the datastore is full."""
        if entity.facts.get("runtime.consolidationNeeded"):
            await self._vsphere.task(
                doing, lambda login: self._vsphere.machine(entity, login).ConsolidateVMDisks_Task()
            )
            await self._vsphere.refresh(entity)

    async def let_go_of_foreign(self, entity: Entity, doing: str) -> None:
        """Before a machine is destroyed: with disks of others in its snapshots, remove these. What they hold is merged
        into the disks themselves, which can be unplugged then."""
        if not _nodes(entity):
            return
        held = [Held(_board(entity), machines.stamp_of(entity)), *(await self.held(_nodes(entity), doing)).values()]
        if any(making.detach_unowned(each.devices, each.record) is not None for each in held):
            log.info("vsphere.snapshot.all.removed", uid=entity.uuid)
            await self._vsphere.task(
                doing, lambda login: self._vsphere.machine(entity, login).RemoveAllSnapshots_Task(True)
            )
            await self._vsphere.refresh(entity)
            await self._consolidate(entity, doing)

    async def refuse_used_machine(self, entity: Entity, doing: str) -> None:
        """Raises: SnapshotInUseError: linked clones stand on disks of the machine, which would go with it."""
        home = devices.directory_of(str(entity.facts.get("config.files.vmPathName") or ""))
        own = {file for file in _parents(entity) if devices.directory_of(file) == home}
        own |= {devices.file_of(disk) for disk in devices.disks_of(_board(entity))} - {""}
        self._refuse_stood_on(entity, own, doing)
        if nodes := _nodes(entity):
            await self._refuse_used(entity, nodes, doing)

    async def _refuse_used(self, entity: Entity, going: Sequence[Node], doing: str) -> None:
        held = await self.held(going, doing)
        self._refuse_stood_on(entity, {each for held_by in held.values() for each in held_by.tops}, doing)

    def _refuse_stood_on(self, entity: Entity, paths: set[str], doing: str) -> None:
        users = sorted(other.name for other in Files(self._vsphere.tree).standing_on(entity, paths))
        if users:
            raise SnapshotInUseError(f"{doing}: linked clones stand on it: {', '.join(users)}")

    async def taken_by_others(self, entity: Entity, paths: Iterable[str], doing: str) -> set[str]:
        """Those of some files of a machine that other VMs have, now or in a snapshot.

        Raises:
            HypervisorUnavailableError: a VM on the same datastore cannot be read, and may have one.
        """
        tree, files = self._vsphere.tree, Files(self._vsphere.tree)
        asked = files.at(entity, paths)
        if not asked:
            return set()
        stores = {store for store, _ in asked}
        others = [each for each in tree.of_kind("VirtualMachine") if each.moid != entity.moid]
        others = [each for each in others if files.may_be_on(each, stores)]
        for each in others:
            if not each.uuid:
                unread.refuse_away(tree, each, f"{doing}: look for its unplugged disks in other VMs")
        found = files.of_others(entity)
        nodes = [(node, each) for each in others for node in _nodes(each)]
        for start in range(0, len(nodes), _BATCH):
            batch = nodes[start : start + _BATCH]
            holder = {node.moid: each for node, each in batch}
            for moid, held in (await self.held([node for node, _ in batch], doing)).items():
                found |= files.at(holder[moid], held.files).keys()
        return {path for location, path in asked.items() if location in found}

    # -- going back ------------------------------------------------------------------------------------------------

    async def revert(self, entity: Entity, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        """Put hardware, disks and (with memory) the running guest back.

        vSphere puts our stamp back as well, as it was. What of it is about hardware is true with the hardware of old;
        who the machine is, its tags and attributes and where it lies are not reverted and stay as they are now. A disk
        that is ours and that no snapshot holds is unplugged before, which keeps its file whatever vSphere does to
        disks that it takes away. Its name would be forgotten if we died between the revert and the new stamp, so it
        stands in the snapshot's description meanwhile.
        """
        await to_its_end(self._revert(entity, request, progress))

    async def _revert(self, entity: Entity, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        doing = f"revert machine {request.machine_uid} to snapshot {request.uid}"
        await self._vsphere.settle_machine(entity)
        node = self.known(entity, request.uid)
        if node is None:
            raise SnapshotNotFoundError(f"{doing}: there is no such snapshot")
        now = machines.record_of(entity)
        every = await self.held(_nodes(entity), doing)
        then = every[node.moid]
        if then.record is None or then.record.uid != now.uid:
            raise InvalidSpecError(f"{doing}: it was taken before the machine became ours")
        snapshotted = {file for each in every.values() for file in each.files}
        for name in loose(now, _board(entity), snapshotted):
            await self._unplug(entity, name, doing)
        await self._unplug_foreign(entity, snapshotted, doing)
        now = machines.record_of(entity)
        kept = merged(node.kept or {}, unplugged(now, then.record, snapshotted))
        after = reverted(now, then.record, kept)
        if after != then.record and node.kept != kept:
            await self._describe(node, node.keeping(kept), doing)
        await faults.point(REVERTING)

        def begin(login: Login) -> Any:
            return vim.vm.Snapshot(node.moid, login.instance._stub).RevertToSnapshot_Task(None, False)

        await self._vsphere.task(doing, begin, progress)
        await faults.point(REVERTED)
        await self._vsphere.refresh(entity)
        if after != then.record:
            edit = editing.stamped(after)
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
            await self._describe(node, node.keeping(None), doing)
            await self._vsphere.refresh(entity)
        log.info("vsphere.snapshot.reverted", uid=entity.uuid, snapshot=request.uid, kept=len(kept))

    async def _fold(self, entity: Entity, going: Sequence[Node], doing: str) -> None:
        """Take over what an interrupted revert wrote down in snapshots that are to go."""
        lost = {name: file for node in going for name, file in pending_files(entity, [node]).items()}
        if not lost:
            return
        record = machines.record_of(entity)
        kept = merged(editing.kept_files(record), lost)
        settings = record.settings | {editing.kept_key(name): file for name, file in kept.items()}
        edit = editing.stamped(replace(record, settings=settings))
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
        await self._vsphere.refresh(entity)

    async def _unplug(self, entity: Entity, name: str, doing: str) -> None:
        edit = editing.detach_disk(_board(entity), machines.record_of(entity), name)
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
        await self._vsphere.refresh(entity)

    async def _unplug_foreign(self, entity: Entity, snapshotted: set[str], doing: str) -> None:
        """A revert takes away every disk that no snapshot holds: somebody else's stays as a file."""
        board = devices.Board(_board(entity))
        for disk in devices.disks_of(_board(entity)):
            if not snapshotted & set(devices.chain_of(disk)):
                board.remove(disk)
        if board.changes:
            edit = vim.vm.ConfigSpec(deviceChange=board.changes)
            edit.changeVersion = entity.facts.get("config.changeVersion")
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))
            await self._vsphere.refresh(entity)

    async def _describe(self, node: Node, text: str, doing: str) -> None:
        def rename(login: Login) -> None:
            vim.vm.Snapshot(node.moid, login.instance._stub).RenameSnapshot(None, text)

        await self._vsphere.call(doing, rename)


# -- what is true after a revert ---------------------------------------------------------------------------------------


def loose(now: Stamp, board: Sequence[Any], snapshotted: set[str]) -> list[str]:
    """Names of disks of ours that no snapshot holds, and that a revert would take away for good.

    Args:
        board: devices of now.
        snapshotted: files that any snapshot holds.
    """
    plugged = {disk.name: devices.disk_at(board, disk.slot) for disk in now.disks if disk.owned}
    return [
        name
        for name, device in plugged.items()
        if device is not None and not snapshotted & set(devices.chain_of(device))
    ]


def unplugged(now: Stamp, then: Stamp, snapshotted: set[str]) -> dict[str, str]:
    """Files of disks of ours that are unplugged and still will be after a revert, by the disk's name."""
    there = {disk.name for disk in then.disks}
    # A disk of this name comes back: what was unplugged under it is no longer taken up, but still ours to remove.
    return {
        _free_name(name, file, there): file for name, file in editing.kept_files(now).items() if file not in snapshotted
    }


def merged(before: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What an interrupted revert has unplugged, and what this one unplugs; the older has the content."""
    found = dict(before)
    for name, file in more.items():
        if file not in found.values():
            found[f"{name}@{file}" if name in found else name] = file
    return found


def _free_name(name: str, file: str, there: set[str]) -> str:
    """A name that no disk of the machine has; one with an @ is none of a disk at all."""
    return f"{name.partition('@')[0]}@{file}" if name in there else name


def reverted(now: Stamp, then: Stamp, kept: Mapping[str, str]) -> Stamp:
    """The stamp that is true after a revert: hardware of then, everything else of now."""
    lasting = {key: value for key, value in now.settings.items() if key.startswith("placement.")}
    hardware = {
        key: value
        for key, value in then.settings.items()
        if not key.startswith("placement.") and not key.startswith(editing.KEPT)
    }
    return replace(
        then,
        uid=now.uid,
        namespace=now.namespace,
        name=now.name,
        owner=now.owner,
        created=now.created,
        tags=now.tags,
        tag_ids=now.tag_ids,
        attributes=now.attributes,
        settings=hardware | lasting | {editing.kept_key(name): file for name, file in kept.items()},
    )


# -- small words -------------------------------------------------------------------------------------------------------


def _nodes(entity: Entity) -> tuple[Node, ...]:
    nodes: tuple[Node, ...] = entity.facts.get(FACT) or ()
    return nodes


def pending_files(entity: Entity, nodes: Iterable[Node] | None = None) -> dict[str, str]:
    """Files of ours that an interrupted revert has unplugged and that only its snapshot knows of."""
    plugged = {devices.file_of(disk) for disk in devices.disks_of(_board(entity))}
    every = _nodes(entity) if nodes is None else nodes
    return {name: file for node in every for name, file in (node.kept or {}).items() if file not in plugged}


def _board(entity: Entity) -> Sequence[Any]:
    board: Sequence[Any] = entity.facts.get("config.hardware.device") or ()
    return board


def _parents(entity: Entity) -> set[str]:
    """Files that its disks stand on."""
    return {file for disk in devices.disks_of(_board(entity)) for file in devices.chain_of(disk)[1:]}


def _check(entity: Entity, request: v1.CreateSnapshotRequest, doing: str) -> bool:
    """Whether the guest's file systems are to be frozen. vSphere leaves out what it cannot do, without a word."""
    state = power.state(entity)
    if request.memory and request.quiesce:
        raise InvalidSpecError(f"{doing}: with memory nothing is frozen; ask for one of the two")
    if request.memory and state == power.OFF:
        raise WrongPowerStateError(f"{doing}: the machine is off, there is no memory to keep")
    if not request.quiesce or state == power.OFF:
        return False
    if state != power.ON or entity.facts.get("guest.toolsRunningStatus") != "guestToolsRunning":
        raise WrongPowerStateError(f"{doing}: no VMware Tools run in the guest that could freeze its file systems")
    return True
