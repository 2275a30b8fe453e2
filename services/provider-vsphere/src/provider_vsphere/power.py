"""Power, each verb on one machine of ours. A state that is already there is success."""

from __future__ import annotations

import datetime

from common.errors import NotSupportedError, WrongPowerStateError

from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vim_errors import has_no_tools
from provider_vsphere.session.vsphere import Vsphere

ON, OFF, SUSPENDED = "poweredOn", "poweredOff", "suspended"
BOOTING = datetime.timedelta(minutes=10)
"""So long a guest may take to start its tools; the clocks of a host and ours may differ by some of it."""


def state(entity: Entity) -> str:
    """`runtime.powerState` as the tree has it."""
    return str(entity.facts.get("runtime.powerState") or "")


async def power_on(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """From off or from suspended."""
    if state(entity) == ON:
        return
    await _unless_already(vsphere, entity, doing, "PowerOnVM_Task", ON)


async def power_off(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Cut it."""
    if state(entity) == OFF:
        return
    await _unless_already(vsphere, entity, doing, "PowerOffVM_Task", OFF)


async def _unless_already(vsphere: Vsphere, entity: Entity, doing: str, method: str, wanted: str) -> None:
    """A task that a wrong power state may refuse: when the state is the wanted one by now, that is success."""
    try:
        await vsphere.task(doing, lambda login: getattr(vsphere.machine(entity, login), method)())
    except WrongPowerStateError:
        await vsphere.refresh(entity)
        if state(entity) != wanted:
            raise


async def ask_reboot(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Ask the guest, by its tools, to restart.

    Raises:
        WrongPowerStateError: it is off, or its tools do not run: vSphere has no power button to press.
    """
    await vsphere.call(doing, lambda login: vsphere.machine(entity, login).RebootGuest())


async def ask_shutdown(vsphere: Vsphere, entity: Entity, doing: str, now: datetime.datetime) -> None:
    """Ask the guest, by its tools, to power off.

    Raises:
        WrongPowerStateError: it is off, or its tools do not run yet.
        NotSupportedError: it runs for long and its tools do not: it has none, or they have died.
    """
    try:
        await vsphere.call(doing, lambda login: vsphere.machine(entity, login).ShutdownGuest())
    except WrongPowerStateError as error:
        started = entity.facts.get("runtime.bootTime")
        if not has_no_tools(error) or started is None or now - started < BOOTING:
            raise
        since = started.astimezone(datetime.UTC)
        raise NotSupportedError(f"{error}; it runs since {since:%Y-%m-%d %H:%M} UTC, and nobody answers") from error


async def reset(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Press the reset button."""
    await vsphere.task(doing, lambda login: vsphere.machine(entity, login).ResetVM_Task())


async def suspend(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Save the memory and stop."""
    if state(entity) == SUSPENDED:
        return
    await _unless_already(vsphere, entity, doing, "SuspendVM_Task", SUSPENDED)
