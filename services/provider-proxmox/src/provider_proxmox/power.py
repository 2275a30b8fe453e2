"""Power, each verb on one machine of ours. A state that is already there is success.

Three things are peculiar to Proxmox VE. A shutdown that waits for its guest holds the machine's file lock meanwhile,
and everything else fails on it; so the guest is asked in short tasks, and whoever cuts the power ends them first. A
machine that HA manages is not started or stopped by the task that says so: the task only asks HA, so the outcome is
waited for. And memory that is saved on disk is a lock of a machine that is off, which a stop leaves in place.
"""

from __future__ import annotations

from collections.abc import Callable

from common import logging
from common.clock import Clock
from common.errors import OperationInProgressError, PermissionMissingError, WrongPowerStateError

from provider_proxmox import locks
from provider_proxmox.config import hardware
from provider_proxmox.guests import Guests
from provider_proxmox.locks import HIBERNATED
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import FileLockedError, LockedError

log = logging.get(__name__)

ASK_SECONDS = 15
"""A shutdown task waits, and holds the file lock, for so long; the kit asks again after 20 s."""
REBOOT_SECONDS = 180
"""A reboot is forgotten if the guest is not off by then, so this is as long as a guest may take."""
HA_SECONDS = 3600
"""HA cuts the power when this is over. That is the kit's to decide, which is earlier."""
_WAITING = ("qmshutdown", "qmreboot")
"""Tasks that hold the file lock while they wait for the guest."""
_RESTING = ("", "ignored", "stopped", "disabled", "error")
"""States of HA in which it starts nothing."""
_ATTEMPTS = 3
_HA_PATIENCE, _LOOK_EVERY = 120.0, 1.0
"""Seconds: HA looks at what it manages every 10 s, and may have to move it first."""


class Power:
    """Of the machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, clock: Clock) -> None:
        self._pve = pve
        self._guests = guests
        self._clock = clock

    # -- on and off ------------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        """From off or from a saved state.

        Raises:
            OperationInProgressError: HA was asked, and has not started it yet.
        """
        doing = f"start machine {uid}"
        guest = await self._guests.get(uid, doing)
        if is_suspended(guest):
            await self._resume(guest, doing)
            return
        if guest.status == "running":
            return
        await locks.require_free(self._pve, guest, doing)
        await self._unless_already(guest, doing, "start", is_on)
        if is_managed(guest):
            await self._until(guest, doing, is_on)

    async def power_off(self, uid: str) -> None:
        """Cut it, and end whatever waits for the guest.

        Raises:
            OperationInProgressError: something else holds the machine; or HA was asked, and has not stopped it yet.
        """
        doing = f"power off machine {uid}"
        await self.cut(await self._guests.get(uid, doing), doing)

    async def cut(self, guest: Guest, doing: str) -> None:
        """The same for one guest, whatever its stamp says."""
        if guest.lock == HIBERNATED:
            # A stop would leave the saved memory and its lock, which only root may take off: it is read back first.
            await self._task(guest, doing, "resume")
            guest = await self._again(guest, doing)
        if guest.status == "stopped" and guest.ha in _RESTING:
            return
        for attempt in range(_ATTEMPTS):
            if attempt or is_managed(guest):
                await self._end_waiting(guest, doing)
            try:
                await self._unless_already(guest, doing, "stop", is_off, **_overruling(guest))
                break
            except FileLockedError:
                if attempt + 1 == _ATTEMPTS:
                    raise
            except LockedError:
                await locks.require_free(self._pve, await self._again(guest, doing), doing)  # says what holds it
                raise
        if is_managed(guest):
            await self._until(guest, doing, is_off)

    async def _end_waiting(self, guest: Guest, doing: str) -> None:
        """End tasks that hold the file lock while they wait for the guest: the machine goes down without them."""
        for task in await locks.running_tasks(self._pve, guest, doing, _WAITING):
            log.info("proxmox.shutdown.overruled", vmid=guest.vmid, kind=task.kind)
            try:
                await self._pve.delete(doing, f"nodes/{guest.node}/tasks/{task.text}")
            except PermissionMissingError as error:  # HA's own: it ends when the guest is off, or gives up
                log.info("proxmox.shutdown.waits", vmid=guest.vmid, kind=task.kind, error=str(error))

    # -- asking ----------------------------------------------------------------------------------------------------

    async def ask_shutdown(self, uid: str) -> None:
        """Ask the guest, by its agent or its power button, and return at once."""
        doing = f"shut down machine {uid}"
        guest = await self._guests.get(uid, doing)
        if is_off(guest):
            return
        await locks.require_free(self._pve, guest, doing)
        if await locks.running_tasks(self._pve, guest, doing, ("qmshutdown",)):
            return  # it is being asked; one more would only wait for the lock
        seconds = HA_SECONDS if is_managed(guest) else ASK_SECONDS
        await self._pve.post(doing, f"{guest.path}/status/shutdown", timeout=seconds)

    async def ask_reboot(self, uid: str) -> None:
        """Ask the guest to restart and return at once; Proxmox VE starts it again when it is off.

        Raises:
            WrongPowerStateError: it does not run.
        """
        doing = f"reboot machine {uid}"
        guest = await self._guests.get(uid, doing)
        _require_on(guest, doing)
        await locks.require_free(self._pve, guest, doing)
        await self._pve.post(doing, f"{guest.path}/status/reboot", timeout=REBOOT_SECONDS)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def reset(self, uid: str) -> None:
        """Press the reset button.

        Raises:
            WrongPowerStateError: it does not run.
        """
        doing = f"reset machine {uid}"
        guest = await self._guests.get(uid, doing)
        _require_on(guest, doing)
        await self._task(guest, doing, "reset")
        await self._again(guest, doing)

    async def suspend(self, uid: str) -> None:
        """Stop the guest and keep its memory: in RAM, or on disk if its spec says so.

        One that HA manages stays in RAM: HA would start it again at once.

        Raises:
            WrongPowerStateError: it is off.
        """
        doing = f"suspend machine {uid}"
        guest = await self._guests.get(uid, doing)
        if is_suspended(guest):
            return
        _require_on(guest, doing)
        await locks.require_free(self._pve, guest, doing)
        to_disk = (
            guest.stamp is not None
            and guest.stamp.settings.get(hardware.SUSPEND_TO) == "disk"
            and not is_managed(guest)
        )
        await self._unless_already(guest, doing, "suspend", is_suspended, todisk=to_disk or None)

    async def resume(self, uid: str) -> None:
        """Go on, from paused or from a memory on disk.

        Raises:
            WrongPowerStateError: it is off.
        """
        doing = f"resume machine {uid}"
        guest = await self._guests.get(uid, doing)
        if guest.status == "running" and not is_halted(guest):
            return
        if is_off(guest):
            raise WrongPowerStateError(f"{doing}: it is off")
        await self._resume(guest, doing)

    async def _resume(self, guest: Guest, doing: str) -> None:
        await self._unless_already(guest, doing, "resume", is_on)

    # -- calling ---------------------------------------------------------------------------------------------------

    async def _task(self, guest: Guest, doing: str, verb: str, **params: object) -> None:
        upid = await self._pve.post(doing, f"{guest.path}/status/{verb}", **params)
        await self._pve.task(doing, str(upid))

    async def _unless_already(
        self, guest: Guest, doing: str, verb: str, reached: Callable[[Guest], bool], **params: object
    ) -> None:
        """A task that a wrong power state may refuse: when the state is the wanted one by now, that is success."""
        try:
            await self._task(guest, doing, verb, **params)
        except WrongPowerStateError:
            if not reached(await self._again(guest, doing)):
                raise
        else:
            await self._again(guest, doing)

    async def _again(self, guest: Guest, doing: str) -> Guest:
        return await self._pve.refresh(guest.vmid, doing) or guest

    async def _until(self, guest: Guest, doing: str, reached: Callable[[Guest], bool]) -> None:
        """Wait until HA has done it."""
        end = self._clock.monotonic() + _HA_PATIENCE
        while not reached(guest):
            if self._clock.monotonic() >= end:
                raise OperationInProgressError(f"{doing}: HA was asked, and has not done it yet", retry_after=10.0)
            await self._clock.sleep(_LOOK_EVERY)
            guest = await self._again(guest, doing)


# -- states: pure ------------------------------------------------------------------------------------------------------


def is_managed(guest: Guest) -> bool:
    """HA starts and stops it."""
    return guest.ha not in ("", "ignored")


def is_halted(guest: Guest) -> bool:
    """QEMU runs and its CPUs do not."""
    return guest.qmpstatus not in ("", "running")


def is_suspended(guest: Guest) -> bool:
    """Its memory is kept: in RAM or on disk."""
    return guest.lock == HIBERNATED or (guest.status == "running" and guest.qmpstatus in ("paused", "suspended"))


def is_on(guest: Guest) -> bool:
    """It runs."""
    return guest.status == "running" and not is_suspended(guest)


def is_off(guest: Guest) -> bool:
    """It is off, and no memory of it is kept."""
    return guest.status == "stopped" and guest.lock != HIBERNATED


def _require_on(guest: Guest, doing: str) -> None:
    if guest.status != "running":
        raise WrongPowerStateError(f"{doing}: it is off")


def _overruling(guest: Guest) -> dict[str, object]:
    """HA knows no overruling."""
    return {} if is_managed(guest) else {"overrule-shutdown": True}
