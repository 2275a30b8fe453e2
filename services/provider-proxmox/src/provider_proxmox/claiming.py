"""One guest for a UID, ever: which VMID a machine gets, whoever makes it at the same time and whatever dies meanwhile.

A VMID belongs to one guest only, so it is the lock; the stamp, which is in the very call that takes the VMID, says who
holds it. The whole argument is in docs/adr/0014-one-guest-for-a-uid.md. In short:

1. Before anything is made the cluster is asked for guests of this UID. Then the machine tries VMIDs in an order that
   depends on the UID alone, and each of them is judged before the next one: free, ours, or another's. One that is being
   made shows its stamp only at the end, so it is waited for. A VMID that cannot be judged stops the search.
2. Whoever is refused because the VMID is taken, or never hears the answer, judges that VMID again. So two makers of one
   machine, or one and its own lost call, meet at the same guest, as long as they have found the same VMIDs taken.
3. They may not have: a foreign guest came or went between them. Then there are two guests of one UID, none of which has
   ever run, and `contest` leaves one: it looks for others after its own guest is there, and before it is marked as
   made. Of two, the one that is made counts, else the earlier in the order. The other is marked as lost by a change
   that fails if anybody else has changed it since, so it can be made or lost and not both; and of two that look after
   they were both there, at least one sees the other.

Only a guest that is marked as made is ever started, so what a dead maker has left can be removed without a loss.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from common import faults, logging
from common.clock import Clock
from common.errors import (
    HostFullError,
    MachineNotFoundError,
    NameConflictError,
    OperationInProgressError,
    OutcomeUnknownError,
    PermissionMissingError,
    StalePreconditionError,
)

from provider_proxmox import stamp, vmids
from provider_proxmox.guests import Guests
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import FileLockedError, VmidTakenError
from provider_proxmox.session.tasks import parse_upid

log = logging.get(__name__)

JUDGED = faults.declare("proxmox.vmid.judged", "a VMID was found free, and nothing has been asked for yet")
CLAIMED = faults.declare("proxmox.vmid.claimed", "the guest is there with its stamp, and nobody knows yet")
LOSING = faults.declare("proxmox.vmid.losing", "two guests of a UID were seen, and none is marked as lost yet")

MAKING: Final = frozenset({"create", "clone"})
"""Locks of guests whose configuration, hence stamp, appears only at the end."""
IDLE_LOOKS: Final = 4
"""Looks in which a task must be seen that could be making a guest; else its lock counts as left behind."""
PAUSE, LONGEST_PAUSE = 0.5, 5.0
TURNS: Final = 30
"""So often one VMID is judged: more than its making is ever begun anew for good reasons."""
_UNSEEN: Final = 4
"""So often a VMID may be taken by what cannot be seen: a container, or a guest of others."""

Make = Callable[[int], Awaitable[None]]
"""Asks for the guest with this VMID, stamp included, and waits for the end of the task."""


class Claims:
    """VMIDs of one owner's machines."""

    def __init__(self, pve: Pve, guests: Guests, clock: Clock, *, ids: range) -> None:
        self._pve = pve
        self._guests = guests
        self._clock = clock
        self._ids = ids
        self._listing = asyncio.Lock()
        self._begun = self._ended = 0
        self._rows: list[tuple[dict[str, Any], str]] = []

    async def look(self, uid: str, doing: str) -> Guest | None:
        """Our guest with this UID, read now, made or not; None when none is known that could become the machine. One
        that was made a moment ago shows when its VMID is tried, or in the contest.

        Raises:
            ForeignMachineError: only somebody else's has this UID.
            HypervisorUnavailableError: there may be one that cannot be read now.
        """
        found = await self._guests.find_all(uid, doing, rescan=False)
        return min((guest for guest in found if guest.stamp and not guest.stamp.lost), key=self._rank, default=None)

    # -- taking a VMID ---------------------------------------------------------------------------------------------

    async def claim(self, uid: str, doing: str, make: Make, *, vmid: int = 0, node: str = "") -> Guest:
        """The guest of this UID, made by `make` unless there is one. There was none a moment ago.

        Args:
            vmid: try this one alone.
            node: where `make` makes it: the cluster as a whole knows a new guest only after a moment.
        Raises:
            NameConflictError: `vmid` belongs to another guest.
            HostFullError: every VMID of the range does.
        """
        for candidate in [vmid] if vmid else vmids.sequence(uid, self._ids):
            guest = await self._claim(candidate, uid, doing, make, node)
            if guest is not None:
                log.info("proxmox.vmid.claimed", uid=uid, vmid=candidate)
                return guest
            log.info("proxmox.vmid.taken", uid=uid, vmid=candidate)
        if vmid:
            raise NameConflictError(f"{doing}: VMID {vmid} belongs to another guest, which was not touched")
        first, last = self._ids[0], self._ids[-1]
        raise HostFullError(f"{doing}: every VMID from {first} to {last} is taken; widen vmid_first and vmid_last")

    async def _claim(self, vmid: int, uid: str, doing: str, make: Make, node: str) -> Guest | None:
        """The guest, if it is ours; None if the VMID is another's."""
        unseen, where = 0, ""
        known = vmid in self._pve.index.guests
        for _ in range(TURNS):
            if known:  # else the call itself asks, and is refused if the VMID was taken a moment ago
                try:
                    guest = await self.settled(vmid, doing, node=where)
                except PermissionMissingError:
                    return None  # a guest that is hidden from us is none that we made
                if guest is not None:
                    return guest if self._is(guest, uid) else None
            known = True
            if unseen >= _UNSEEN:
                return None
            await faults.point(JUDGED)
            try:
                await make(vmid)
            except VmidTakenError:
                unseen += 1
            except (OutcomeUnknownError, FileLockedError) as error:
                log.info("proxmox.vmid.unclear", uid=uid, vmid=vmid, error=str(error))
            else:
                await faults.point(CLAIMED)
                where = node
                continue
            await self._clock.sleep(PAUSE)
        raise OperationInProgressError(f"{doing}: VMID {vmid} does not settle", retry_after=10.0)

    def _is(self, guest: Guest, uid: str) -> bool:
        return self._guests.is_ours(guest) and guest.stamp is not None and guest.stamp.uid == uid

    async def settled(self, vmid: int, doing: str, *, node: str = "") -> Guest | None:
        """The guest with this VMID, read now, once it shows whose it is; None when the VMID is free.

        A lock that no task holds any more never goes by itself: what it was left on is nobody's.
        """
        makers: set[str] = set()
        for look in itertools.count(1):
            guest = await self._pve.refresh(vmid, doing, node=node)
            if guest is None or guest.stamp is not None or guest.lock not in MAKING:
                return guest
            running = await self._makers(guest, doing)
            if look <= IDLE_LOOKS:  # a task is in the list a moment after the lock is there; a later one did not set it
                makers |= running
            elif not makers & running:
                log.warning("proxmox.vmid.left", vmid=vmid, node=guest.node, lock=guest.lock)
                return guest
            await self._clock.sleep(min(PAUSE * 1.1**look, LONGEST_PAUSE))
        raise AssertionError("it is counted for ever")

    async def _makers(self, guest: Guest, doing: str) -> set[str]:
        """Tasks of the node that may be making it. The task of a clone names its source and not what it makes."""
        rows = await self._pve.get(doing, f"nodes/{guest.node}/tasks", source="active")
        running = [parse_upid(row.get("upid")) for row in rows if not row.get("endtime")]
        return {
            task.text
            for task in running
            if task is not None
            and (task.kind == "qmclone" or (task.kind in ("qmcreate", "qmrestore") and task.vmid == guest.vmid))
        }

    async def wait_unstamped(self, doing: str) -> None:
        """Wait for every guest that is being made, or was when we last looked, or has another name than then, since its
        VMID may be used again: any of them may turn out to be ours."""
        for row, node in await self._listed(doing):
            vmid = int(row["vmid"])
            known = self._pve.index.guests.get(vmid)
            is_new = known is None or known.lock in MAKING or known.name != str(row.get("name") or known.name)
            if row.get("lock") in MAKING or is_new:
                try:
                    await self.settled(vmid, doing, node=node)
                except PermissionMissingError:
                    continue  # hidden from us, hence not ours

    async def _listed(self, doing: str) -> list[tuple[dict[str, Any], str]]:
        """Every guest as its node tells it, with the node: `cluster/resources` knows it only after a moment.

        What is told began to be asked for after this was called: those who come while one list is being read share
        the next.
        """
        wanted = self._begun + 1
        async with self._listing:
            if self._ended < wanted:
                self._begun += 1
                nodes = [node.name for node in self._pve.index.nodes.values() if node.online]
                self._rows = [(row, node) for node in nodes for row in await self._pve.get(doing, f"nodes/{node}/qemu")]
                self._ended = self._begun
            return self._rows

    # -- several of one UID ----------------------------------------------------------------------------------------

    async def contest(self, guest: Guest, doing: str) -> list[Guest]:
        """Guests of the same UID that have lost and must be removed; this one may be among them.

        If it is not, and its configuration does not change any more until it is marked as made, it is the only one.
        """
        for _ in range(TURNS):
            rivals = await self._rivals(guest, doing)
            if not rivals:
                return []
            await faults.point(LOSING)
            first = min([guest, *rivals], key=self._rank)
            try:
                return [await self.lose(each, doing) for each in [guest, *rivals] if each.vmid != first.vmid]
            except StalePreconditionError:  # somebody changed one of them meanwhile: it may be made by now
                now = await self._pve.refresh(guest.vmid, doing)
                if now is None or guest.stamp is None or not self._is(now, guest.stamp.uid):
                    raise MachineNotFoundError(f"{doing}: guest {guest.vmid} went away meanwhile") from None
                guest = now
        raise OperationInProgressError(f"{doing}: guests of its UID do not settle", retry_after=10.0)

    def _rank(self, guest: Guest) -> tuple[bool, bool, int, int]:
        """The least one wins."""
        mark = guest.stamp
        assert mark is not None  # only guests with our stamp are compared
        return mark.lost, not mark.made, vmids.place(mark.uid, self._ids, guest.vmid), guest.vmid

    async def _rivals(self, guest: Guest, doing: str) -> list[Guest]:
        """Other guests of its UID. They have its name, if nobody has looked at them yet, as every maker gives it."""
        index, mark = self._pve.index, guest.stamp
        assert mark is not None  # it is ours
        suspects = {each.vmid: "" for each in index.with_uid(mark.uid)}
        for row, node in await self._listed(doing):
            if row.get("name") == guest.config.get("name"):
                suspects[int(row["vmid"])] = node
        suspects.pop(guest.vmid, None)
        found = [await self._pve.refresh(vmid, doing, node=node) for vmid, node in sorted(suspects.items())]
        return [each for each in found if each is not None and self._is(each, mark.uid)]

    async def lose(self, guest: Guest, doing: str) -> Guest:
        """Mark a guest as lost, unless it changed since it was read.

        Raises:
            StalePreconditionError: it did.
            OperationInProgressError: it is made: there are two, which only a person can tell apart.
        """
        mark = guest.stamp
        assert mark is not None  # only guests with our stamp are compared
        if mark.lost:
            return guest
        if mark.made:
            raise OperationInProgressError(
                f"{doing}: guest {guest.vmid} is a machine of the same UID; remove one by hand"
            )
        log.warning("proxmox.vmid.lost", uid=mark.uid, vmid=guest.vmid)
        text = stamp.written(guest.description, replace(mark, lost=True))
        return await self._guests.change(guest, doing, description=text)
