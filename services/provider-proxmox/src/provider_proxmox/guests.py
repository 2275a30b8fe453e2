"""Our machines in the cluster: found by identity, looked at afresh before anything is done to them."""

from __future__ import annotations

from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    NameConflictError,
    OperationInProgressError,
)
from providerkit.driver import Progress

from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import TAG


class Guests:
    """Guests that carry this installation's stamp."""

    def __init__(self, pve: Pve, *, owner: str) -> None:
        self._pve = pve
        self._owner = owner

    def is_ours(self, guest: Guest) -> bool:
        """It carries our installation's stamp, written for this very guest."""
        return guest.stamp is not None and guest.stamp.owner == self._owner

    def refuse_name(self, name: str, doing: str) -> None:
        """Raises: NameConflictError: a guest that is not ours has this name.

        Proxmox VE takes a name many times over; people do not."""
        for guest in self._pve.index.guests.values():
            if guest.name == name and not self.is_ours(guest):
                where = f"guest {guest.vmid} on {guest.node}"
                raise NameConflictError(f"{doing}: {where} has the name {name} and is not ours; it was not touched")

    async def find(self, uid: str, doing: str) -> Guest | None:
        """Our machine with this UID, read now; None when there is definitely none.

        While one is being made there may be more than one for a moment (see `claiming`): the one that is made counts.

        Raises:
            ForeignMachineError: only somebody else's has this UID.
            OperationInProgressError: there are several, which a person has to sort out: none of them is touched.
            HypervisorUnavailableError: it may be on a node that does not answer.
        """
        ours = [guest for guest in await self.find_all(uid, doing) if guest.stamp is not None and not guest.stamp.lost]
        made = [guest for guest in ours if guest.stamp is not None and guest.stamp.made]
        if len(made or ours) > 1:
            names = ", ".join(f"{guest.vmid} on {guest.node}" for guest in made or ours)
            raise OperationInProgressError(
                f"{doing}: several guests carry its stamp: {names}; remove all but one by hand"
            )
        return next(iter(made or ours), None)

    async def find_all(self, uid: str, doing: str, *, rescan: bool = True) -> list[Guest]:
        """Every guest that carries our stamp with this UID, read now, by VMID: what a making left behind, too.

        Args:
            rescan: where none is known, look for guests that were made a moment ago.
        Raises:
            ForeignMachineError: only somebody else's has this UID.
            HypervisorUnavailableError: there may be one on a node that does not answer.
        """
        index = self._pve.known(doing)
        if rescan and not index.with_uid(uid):
            await self._pve.rescan(doing)
        read = [await self._pve.refresh(guest.vmid, doing) for guest in index.with_uid(uid)]
        found = [guest for guest in read if guest is not None and guest.stamp is not None and guest.stamp.uid == uid]
        ours = [guest for guest in found if self.is_ours(guest)]
        if found and not ours:
            raise ForeignMachineError(
                f"{doing}: guest {found[0].vmid} carries this UID with another installation's stamp; it was not touched"
            )
        if not ours:
            self._check_unread(doing)
        return sorted(ours, key=lambda guest: guest.vmid)

    def _check_unread(self, doing: str) -> None:
        """A guest whose configuration nobody could read yet, and that has our tag, may be the one."""
        unread = [guest for guest in self._pve.index.guests.values() if not guest.digest]
        ours = [guest for guest in unread if not guest.config or TAG in str(guest.config.get("tags", "")).split(";")]
        if ours:
            where = ", ".join(f"{guest.vmid} on {guest.node}" for guest in ours[:5])
            raise HypervisorUnavailableError(
                f"{doing}: it may be one of the guests that cannot be read now: {where}", retry_after=5.0
            )

    async def get(self, uid: str, doing: str) -> Guest:
        """The same, which must exist.

        Raises:
            MachineNotFoundError: it does not.
        """
        guest = await self.find(uid, doing)
        if guest is None:
            raise MachineNotFoundError(f"{doing}: no guest of the cluster carries our stamp with UID {uid}")
        return guest

    async def change(self, guest: Guest, doing: str, **config: object) -> Guest:
        """Change a configuration that is still the one that was read; the guest afterwards.

        Args:
            config: keys of the configuration; `delete` names those to remove, comma separated.
        Raises:
            StalePreconditionError: somebody changed it since; nothing was done.
        """
        await self._pve.put(doing, f"{guest.path}/config", **config, digest=guest.digest or None)
        return await self._again(guest, doing)

    async def change_by_task(
        self, guest: Guest, doing: str, progress: Progress | None = None, **config: object
    ) -> Guest:
        """The same for what takes its time, a disk to be made or imported: a task does it."""
        await self._pve.run(doing, "POST", f"{guest.path}/config", {**config, "digest": guest.digest or None}, progress)
        return await self._again(guest, doing)

    async def _again(self, guest: Guest, doing: str) -> Guest:
        after = await self._pve.refresh(guest.vmid, doing)
        if after is None:
            raise MachineNotFoundError(f"{doing}: guest {guest.vmid} went away meanwhile")
        return after
