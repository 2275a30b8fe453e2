"""Snapshots of our machines: taken once, gone back to with a stamp that is true again, removed under nobody's feet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from common import faults, logging, v1
from common.errors import (
    HypervisorUnavailableError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    ProviderError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    WrongPowerStateError,
)
from providerkit.driver import Progress
from providerkit.waiting import to_its_end

from provider_proxmox import locks, power, snapshot_tree, stamp
from provider_proxmox.config import disks, editing, making, shape
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import AgentSilentError
from provider_proxmox.snapshot_tree import REVERTING, Mark, Node
from provider_proxmox.stamp import Stamp

log = logging.get(__name__)

TAKEN = faults.declare("proxmox.snapshot.taken", "a snapshot is there, and nobody knows yet")
REMOVED = faults.declare("proxmox.snapshot.removed", "a snapshot is gone, and nobody knows yet")
REVERTING_NOTED = faults.declare("proxmox.snapshot.reverting", "it is noted that a rollback is about to be asked for")
REVERTED = faults.declare("proxmox.snapshot.reverted", "a machine is back at a snapshot, with the stamp of now")

_TASKS: Final = ("qmsnapshot", "qmdelsnapshot", "qmrollback")
_NOT_FROZEN: Final = ("freeze problems", "skipping guest filesystem freeze")
"""Lines of a task's log that tell of a snapshot without frozen file systems. Source: PVE::QemuConfig."""
_LOG_LINES: Final = 500


class Snapshots:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, *, owner: str) -> None:
        self._pve = pve
        self._guests = guests
        self._owner = owner

    # -- looking ---------------------------------------------------------------------------------------------------

    async def of(self, uid: str) -> list[v1.Snapshot]:
        """The tree of a machine, parents before children."""
        doing = f"list snapshots of machine {uid}"
        guest = await self._guests.get(uid, doing)
        every = await self._nodes(guest, doing)
        return [snapshot_tree.told(node, self._owner) for node in every if not node.unfinished]

    async def find(self, guest: Guest, text: str, doing: str) -> Node:
        """The snapshot with this id or UID.

        Raises:
            SnapshotNotFoundError: there is none.
        """
        for node in await self._nodes(guest, doing):
            if text and text in (node.name, node.uid(self._owner)) and not node.unfinished:
                return node
        raise SnapshotNotFoundError(f"{doing}: there is no snapshot {text}")

    async def config(self, guest: Guest, node: Node, doing: str) -> dict[str, Any]:
        """The configuration that a snapshot holds."""
        found: dict[str, Any] = await self._pve.get(doing, f"{guest.path}/snapshot/{node.name}/config")
        return found

    async def _nodes(self, guest: Guest, doing: str) -> list[Node]:
        return snapshot_tree.nodes(await self._pve.get(doing, f"{guest.path}/snapshot"), guest.vmid)

    async def _known(self, guest: Guest, uid: str, doing: str) -> Node | None:
        return next((node for node in await self._nodes(guest, doing) if node.uid(self._owner) == uid), None)

    async def _settled(self, uid: str, doing: str) -> Guest:
        """The machine, when nothing that an earlier call began on its snapshots is running any more."""
        guest = await self._guests.get(uid, doing)
        if guest.lock in ("snapshot", "snapshot-delete", "rollback"):
            await locks.wait_tasks(self._pve, guest, doing, _TASKS)
            guest = await self._guests.get(uid, doing)
        return guest

    # -- taking ----------------------------------------------------------------------------------------------------

    async def create(self, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        """Take one, unless it is there or being taken.

        Raises:
            WrongPowerStateError: memory of a machine that is off; file systems of a guest whose agent does not run.
            NotSupportedError: a disk lies where Proxmox VE takes no snapshots.
        """
        doing = f"snapshot {request.name} of machine {request.machine_uid}"
        guest = await self._settled(request.machine_uid, doing)
        node = await self._known(guest, request.uid, doing)
        if node is None or node.unfinished:
            await locks.require_free(self._pve, guest, doing)
            freeze = await self._checked(guest, request, doing)
            await self._require_feature(guest, doing)
            node = await self._take(guest, request, doing, progress, freeze=freeze)
        return snapshot_tree.told(node, self._owner)

    async def _checked(self, guest: Guest, request: v1.CreateSnapshotRequest, doing: str) -> bool:
        """Whether to freeze the guest's file systems. What Proxmox VE cannot do it leaves out, and only logs it."""
        if request.memory and request.quiesce:
            raise InvalidSpecError(f"{doing}: with memory nothing is frozen; ask for one of the two")
        if request.memory and power.is_off(guest):
            raise WrongPowerStateError(f"{doing}: the machine is off, there is no memory to keep")
        if not request.quiesce or power.is_off(guest):
            return False
        try:
            await self._pve.ask_agent(doing, guest, "info")
        except AgentSilentError as error:
            raise WrongPowerStateError(
                f"{doing}: no guest agent runs in the guest that could freeze its file systems"
            ) from error
        return True

    async def _require_feature(self, guest: Guest, doing: str) -> None:
        answer = await self._pve.get(doing, f"{guest.path}/feature", feature="snapshot")
        if int(answer.get("hasFeature") or 0):
            return
        raw = [
            f"{drive.slot} ({drive.volume})"
            for drive in disks.disks(guest.config)
            if disks.format_on(self._kind_of(guest, drive.storage)) and not drive.volume.endswith(".qcow2")
        ]
        why = f"; these are raw files: {', '.join(raw)}" if raw else ""
        raise NotSupportedError(f"{doing}: a disk of it lies where Proxmox VE takes no snapshots{why}")

    def _kind_of(self, guest: Guest, storage: str) -> str:
        known = self._pve.index.storages.get((guest.node, storage))
        return known.kind if known is not None else ""

    async def _take(
        self, guest: Guest, request: v1.CreateSnapshotRequest, doing: str, progress: Progress, *, freeze: bool
    ) -> Node:
        record = self._record(guest, doing)
        mark = Mark(
            uid=request.uid,
            owner=self._owner,
            name=request.name,
            vmid=guest.vmid,
            quiesced=freeze,
            stamp=shape.with_volumes(record, guest.config),
        )
        name = snapshot_tree.snapshot_name(request.name, request.uid)
        upid = await self._pve.post(
            doing,
            f"{guest.path}/snapshot",
            snapname=name,
            description=snapshot_tree.description(request.description, mark),
            vmstate=request.memory or None,
        )
        failure: ProviderError | None = None
        try:
            await self._pve.task(doing, str(upid), progress)
        except HypervisorUnavailableError:
            raise  # it may be there
        except ProviderError as error:
            failure = error
        await self._pve.refresh(guest.vmid, doing)
        node = await self._known(guest, request.uid, doing)
        if failure is not None and (node is None or node.unfinished):
            raise failure
        if node is None:
            raise HypervisorUnavailableError(f"{doing}: Proxmox VE does not show it yet", retry_after=1.0)
        if freeze and failure is None and await self._was_not_frozen(str(upid), doing):
            await self._remove(guest, node, doing)
            raise WrongPowerStateError(f"{doing}: Proxmox VE took it without freezing the guest's file systems")
        log.info("proxmox.snapshot.taken", uid=request.machine_uid, snapshot=request.uid, name=name)
        await faults.point(TAKEN)
        return node

    async def _was_not_frozen(self, upid: str, doing: str) -> bool:
        node = upid.split(":")[1]
        lines = await self._pve.get(doing, f"nodes/{node}/tasks/{upid}/log", limit=_LOG_LINES)
        return any(word in str(line.get("t")) for line in lines for word in _NOT_FROZEN)

    # -- removing --------------------------------------------------------------------------------------------------

    async def delete(self, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        """Remove one, with its children or without: then they move up; one that is gone is success.

        Raises:
            SnapshotInUseError: snapshots of others would go with it.
        """
        doing = f"delete snapshot {request.uid} of machine {request.machine_uid}"
        guest = await self._settled(request.machine_uid, doing)
        every = await self._nodes(guest, doing)
        node = next((each for each in every if each.uid(self._owner) == request.uid), None)
        if node is None:
            return
        going = [node, *snapshot_tree.below(every, node)] if request.children else [node]
        foreign = [each.name for each in going if not each.uid(self._owner)]
        if foreign:
            raise SnapshotInUseError(f"{doing}: snapshots that are not ours stand on it: {', '.join(foreign)}")
        await locks.require_free(self._pve, guest, doing)
        for done, each in enumerate(reversed(going)):
            await self._remove(guest, each, doing, progress, at=(done / len(going), (done + 1) / len(going)))

    async def _remove(
        self, guest: Guest, node: Node, doing: str, progress: Progress | None = None,
        *, at: tuple[float, float] = (0.0, 1.0),
    ) -> None:  # fmt: skip
        try:
            upid = await self._pve.delete(doing, f"{guest.path}/snapshot/{node.name}")
            await self._pve.task(doing, str(upid), progress, at=at)
        except SnapshotNotFoundError:
            log.info("proxmox.snapshot.gone", vmid=guest.vmid, snapshot=node.name)  # somebody was faster
        await self._pve.refresh(guest.vmid, doing)
        await faults.point(REMOVED)

    # -- going back ------------------------------------------------------------------------------------------------

    async def revert(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        """Put hardware, disks and (with memory) the running guest back.

        Proxmox VE keeps the description, and with it the stamp of now, and unplugs disks that the snapshot does not
        have. What of the stamp is about hardware is taken from the snapshot. If we died in between, a setting tells
        that a rollback was begun, and the next change of the machine makes its stamp true first.
        """
        await to_its_end(self._revert(request, progress))

    async def _revert(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        doing = f"revert machine {request.machine_uid} to snapshot {request.uid}"
        guest = await self._settled(request.machine_uid, doing)
        node = await self._known(guest, request.uid, doing)
        if node is None or node.unfinished:
            raise SnapshotNotFoundError(f"{doing}: there is no such snapshot")
        if node.mark is None or node.mark.stamp is None:
            raise InvalidSpecError(f"{doing}: it was taken before the machine became ours")
        guest = await self.finish(guest, doing)
        await locks.require_free(self._pve, guest, doing)
        record = shape.with_volumes(self._record(guest, doing), guest.config)
        noted = replace(record, settings=record.settings | {REVERTING: node.name})
        guest = await self._guests.change(guest, doing, description=stamp.written(guest.description, noted))
        await faults.point(REVERTING_NOTED)
        upid = await self._pve.post(doing, f"{guest.path}/snapshot/{node.name}/rollback")
        await self._pve.task(doing, str(upid), progress)
        await faults.point(REVERTED)
        again = await self._guests.get(request.machine_uid, doing)
        await self.finish(again, doing)
        log.info("proxmox.snapshot.reverted", uid=request.machine_uid, snapshot=request.uid)

    async def finish(self, guest: Guest, doing: str) -> Guest:
        """Make the stamp true after a rollback; one that was begun and did not happen is forgotten.

        Whether it happened tells the hardware: where it is the snapshot's, the snapshot's stamp says what it is.
        """
        record = guest.stamp
        if record is None or REVERTING not in record.settings:
            return guest
        # One that still waits for its turn has not locked the machine yet, and goes back all the same.
        if await locks.wait_tasks(self._pve, guest, doing, _TASKS):
            guest = await self._pve.refresh(guest.vmid, doing) or guest
            record = self._record(guest, doing)
            if REVERTING not in record.settings:
                return guest
        await locks.require_free(self._pve, guest, doing)
        name = record.settings[REVERTING]
        after = replace(record, settings={key: each for key, each in record.settings.items() if key != REVERTING})
        node = next((each for each in await self._nodes(guest, doing) if each.name == name), None)
        then = node.mark.stamp if node is not None and node.mark is not None else None
        if node is not None and then is not None:
            held = await self.config(guest, node, doing)
            if snapshot_tree.same_hardware(guest.config, held):
                after = snapshot_tree.reverted(record, then, guest.config)
        return await self._guests.change(
            guest,
            doing,
            description=stamp.written(guest.description, after),
            tags=editing.tag_list(guest.config, then.tags if then is not None else (), after.tags),
            name=making.machine_name(after.identity()),
        )

    def _record(self, guest: Guest, doing: str) -> Stamp:
        record = guest.stamp
        if record is None or record.owner != self._owner:
            raise MachineNotFoundError(f"{doing}: it lost our stamp meanwhile")
        return record
