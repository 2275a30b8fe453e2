"""Locks of a guest's configuration, told to people: what holds one, or that nothing does any more."""

from __future__ import annotations

from collections.abc import Container

from common import logging
from common.errors import OperationInProgressError, ProviderError, WrongPowerStateError

from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import LockedError
from provider_proxmox.session.tasks import Upid

log = logging.get(__name__)

HIBERNATED = "suspended"
"""Lock of a guest whose memory is on disk."""


async def running_tasks(pve: Pve, guest: Guest, doing: str, kinds: Container[str] = ()) -> list[Upid]:
    """Tasks that run on a guest now.

    Args:
        kinds: of these alone: "qmshutdown", "qmsnapshot".
    """
    return [task for task in await pve.running(doing, guest.vmid) if not kinds or task.kind in kinds]


async def require_free(pve: Pve, guest: Guest, doing: str, *, but: Container[str] = ()) -> None:
    """Go on only if nothing has locked the configuration. A lock is never taken off here: a person has to look first
    what it was left behind for.

    Args:
        but: locks that do not matter.
    Raises:
        WrongPowerStateError: its memory is on disk.
        LockedError: a task holds it, or a task that is gone has left it behind.
    """
    if not guest.lock or guest.lock in but:
        return
    if guest.lock == HIBERNATED:
        raise WrongPowerStateError(f"{doing}: its memory is saved on disk; resume it first, nothing else changes it")
    tasks = await running_tasks(pve, guest, doing)
    if tasks:
        kinds = ", ".join(sorted({task.kind for task in tasks}))
        raise LockedError(f"{doing}: its configuration is locked ({guest.lock}) by a task: {kinds}", lock=guest.lock)
    now = await pve.refresh(guest.vmid, doing)
    if now is None or now.lock != guest.lock:  # its task ended between the two looks; nobody knows what it changed
        raise OperationInProgressError(f"{doing}: a task that held it has just ended", retry_after=1.0)
    raise LockedError(
        f"{doing}: its configuration is locked ({guest.lock}), and no task runs that holds it; look what was left "
        f"undone, then run `qm unlock {guest.vmid}` on node {guest.node}",
        lock=guest.lock,
        retry_after=60.0,
    )


async def wait_tasks(pve: Pve, guest: Guest, doing: str, kinds: Container[str]) -> bool:
    """Wait for the end of such tasks of a guest, whoever began them; whether there were any."""
    tasks = await running_tasks(pve, guest, doing, kinds)
    for task in tasks:
        try:
            await pve.task(doing, task.text)
        except ProviderError as error:
            log.info("proxmox.task.failed", vmid=guest.vmid, kind=task.kind, error=str(error))
    return bool(tasks)
