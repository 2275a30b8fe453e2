"""Power, each verb on one machine of ours. A state that is already there is success."""

from __future__ import annotations

from common.errors import WrongPowerStateError

from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere

ON, OFF, SUSPENDED = "poweredOn", "poweredOff", "suspended"


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


async def ask(vsphere: Vsphere, entity: Entity, doing: str, *, reboot: bool) -> None:
    """Ask the guest, by its tools.

    Raises:
        WrongPowerStateError: it is off, or its tools do not run: vSphere has no power button to press.
    """

    def call(login: Login) -> None:
        machine = vsphere.machine(entity, login)
        if reboot:
            machine.RebootGuest()
        else:
            machine.ShutdownGuest()

    await vsphere.call(doing, call)


async def reset(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Press the reset button."""
    await vsphere.task(doing, lambda login: vsphere.machine(entity, login).ResetVM_Task())


async def suspend(vsphere: Vsphere, entity: Entity, doing: str) -> None:
    """Save the memory and stop."""
    if state(entity) == SUSPENDED:
        return
    await _unless_already(vsphere, entity, doing, "SuspendVM_Task", SUSPENDED)
