"""Power: each verb asks once and returns; a state that is there already is success. Every function blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import libvirt
from common.errors import MachineNotFoundError, WrongPowerStateError

from provider_libvirt import making, reading
from provider_libvirt.domains import AGENT_CHANNEL
from provider_libvirt.host import Host

AGENT_SECONDS = 3
"""How long the agent may take to take a shutdown in; a healthy one answers at once."""


def _owned(connection: libvirt.virConnect, uid: str, owner: str) -> libvirt.virDomain:
    found = making.ours(connection, uid, owner)
    if found is None:
        raise MachineNotFoundError(f"there is no machine {uid}")
    return found[0]


def on(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Start it, from off or from a saved state."""
    domain = _owned(connection, uid, owner)
    if domain.isActive():
        return
    with _already(lambda: bool(domain.isActive())):
        domain.create()


def off(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Cut the power now."""
    making.power_off(_owned(connection, uid, owner))


def suspend(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Stop the CPUs, keep the memory in RAM."""
    domain = _owned(connection, uid, owner)
    if _is(domain, libvirt.VIR_DOMAIN_PAUSED):
        return
    with _already(lambda: _is(domain, libvirt.VIR_DOMAIN_PAUSED)):
        domain.suspend()


def resume(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Go on, from suspended, paused, or a memory saved on disk."""
    domain = _owned(connection, uid, owner)
    state = domain.state()[0]
    if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
        return
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        domain.pMWakeup(0)
    elif state == libvirt.VIR_DOMAIN_SHUTOFF:
        if not domain.hasManagedSaveImage(0):
            raise WrongPowerStateError(f"resume {domain.name()}: the machine is off")
        domain.create()
    else:
        with _already(lambda: _is(domain, libvirt.VIR_DOMAIN_RUNNING)):
            domain.resume()


def reset(connection: libvirt.virConnect, uid: str, owner: str) -> None:
    """Press the reset button."""
    _owned(connection, uid, owner).reset(0)


def ask_agent(connection: libvirt.virConnect, uid: str, owner: str, *, reboot: bool) -> bool:
    """Ask through the agent; whether there was one to ask.

    Does not fail where the agent does: the power button comes next anyway.
    """
    domain = _owned(connection, uid, owner)
    root = reading.parse(domain.XMLDesc(0))
    channel = root.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']")
    if channel is None or channel.get("state") != "connected":
        return False
    with contextlib.suppress(libvirt.libvirtError):  # unresponsive, or too old for the command
        domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
        if reboot:
            domain.reboot(libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT)
        else:
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
        return True
    return False


def press_button(connection: libvirt.virConnect, uid: str, owner: str, host: Host, *, reboot: bool) -> None:
    """Ask through ACPI; a machine that is off has nothing to shut down."""
    domain = _owned(connection, uid, owner)
    if not domain.isActive():
        if reboot:
            raise WrongPowerStateError(f"reboot {domain.name()}: the machine is off")
        return
    acpi = 0 if host.is_test else libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
    with _already(lambda: not reboot and not domain.isActive()):
        if reboot:
            domain.reboot(0 if host.is_test else libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
        else:
            domain.shutdownFlags(acpi)


def _is(domain: libvirt.virDomain, state: int) -> bool:
    return bool(domain.state()[0] == state)


@contextlib.contextmanager
def _already(reached: Callable[[], bool]) -> Iterator[None]:
    """Let an error pass when what was wanted came true by itself meanwhile."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not reached():
            raise
