"""Power on a simulated cluster: what tasks say, what holds locks, what HA does later."""

from __future__ import annotations

import pytest
from common.clock import SystemClock
from common.errors import ForeignMachineError, MachineNotFoundError, OperationInProgressError, WrongPowerStateError
from provider_proxmox import power
from provider_proxmox.config import hardware
from provider_proxmox.guests import Guests
from provider_proxmox.power import Power
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Running

from .conftest import OWNER
from .ours import UID, machine


@pytest.fixture
def verbs(cluster: Pve) -> Power:
    return Power(cluster, Guests(cluster, owner=OWNER), SystemClock())


async def _seen(cluster: Pve, vmid: int = 1042) -> Guest:
    guest = await cluster.refresh(vmid, "look")
    assert guest is not None
    return guest


async def test_on_and_off_twice(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """A state that is there already is success, and is what the index knows at once."""
    machine(pve)
    for _ in range(2):
        await verbs.power_on(UID)
        assert cluster.index.guests[1042].status == "running"
    for _ in range(2):
        await verbs.power_off(UID)
        assert cluster.index.guests[1042].status == "stopped"


async def test_a_shutdown_is_asked_for_and_not_waited_for(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """A guest that does not obey is asked by one task at a time, and its power is cut through it."""
    machine(pve).obeys = False
    await verbs.power_on(UID)
    for _ in range(2):
        await verbs.ask_shutdown(UID)
    assert [task.kind for task in pve.world.tasks.of_guest(1042, "qmshutdown")] == ["qmshutdown"]
    assert (await _seen(cluster)).status == "running"
    await verbs.power_off(UID)
    assert (await _seen(cluster)).status == "stopped"
    assert await cluster.running("look", 1042) == []


async def test_an_obedient_guest_goes_off(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    machine(pve)
    await verbs.power_on(UID)
    await verbs.ask_shutdown(UID)
    (asked,) = await cluster.running("look", 1042)
    await cluster.task("wait", asked.text)
    assert (await _seen(cluster)).status == "stopped"
    await verbs.ask_shutdown(UID)  # of one that is off: nothing to do


async def test_the_power_is_cut_through_a_reboot_that_waits(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """Proxmox VE overrules shutdowns alone: a reboot would hold the file lock for minutes."""
    machine(pve).obeys = False
    await verbs.power_on(UID)
    await verbs.ask_reboot(UID)
    await verbs.power_off(UID)
    assert (await _seen(cluster)).status == "stopped"
    assert await cluster.running("look", 1042) == []


async def test_in_ram_or_on_disk_the_memory_is_kept(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    machine(pve)
    await verbs.power_on(UID)
    for _ in range(2):
        await verbs.suspend(UID)
        assert (await _seen(cluster)).qmpstatus == "paused"
    for _ in range(2):
        await verbs.resume(UID)
        assert power.is_on(await _seen(cluster))
    await verbs.suspend(UID)
    await verbs.power_on(UID)
    assert power.is_on(await _seen(cluster))


async def test_a_hibernated_machine_goes_on_and_goes_off(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """A stop of it would leave the lock and the memory in place."""
    machine(pve, settings={hardware.SUSPEND_TO: "disk"})
    await verbs.power_on(UID)
    for _ in range(2):
        await verbs.suspend(UID)
        assert (await _seen(cluster)).lock == "suspended"
    await verbs.power_on(UID)
    assert power.is_on(await _seen(cluster))
    await verbs.suspend(UID)
    await verbs.power_off(UID)
    after = await _seen(cluster)
    assert (after.status, after.lock) == ("stopped", "")


async def test_what_needs_a_running_machine(pve: Proxmox, verbs: Power) -> None:
    machine(pve)
    for verb in (verbs.reset, verbs.suspend, verbs.resume, verbs.ask_reboot):
        with pytest.raises(WrongPowerStateError):
            await verb(UID)
    await verbs.power_on(UID)
    await verbs.reset(UID)
    await verbs.resume(UID)


async def test_what_ha_manages_is_waited_for(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """The tasks only ask HA, which acts in its next round."""
    machine(pve)
    pve.world.ha["vm:1042"] = {"state": "stopped"}
    await verbs.power_on(UID)
    assert (await _seen(cluster)).status == "running"
    pve.world.guests[1042].obeys = False
    await verbs.ask_shutdown(UID)
    await verbs.power_off(UID)
    assert (await _seen(cluster)).status == "stopped"
    await verbs.power_off(UID)


async def test_what_ha_manages_stays_in_ram(pve: Proxmox, cluster: Pve, verbs: Power) -> None:
    """HA would start again at once what is off without its asking."""
    machine(pve, settings={hardware.SUSPEND_TO: "disk"})
    pve.world.ha["vm:1042"] = {"state": "started"}
    await verbs.power_on(UID)
    await verbs.suspend(UID)
    assert (await _seen(cluster)).qmpstatus == "paused"


async def test_a_lock_that_nobody_holds_is_told_and_not_taken_off(pve: Proxmox, verbs: Power) -> None:
    machine(pve).lock = "snapshot"
    with pytest.raises(OperationInProgressError, match=r"qm unlock 1042` on node pve1"):
        await verbs.power_on(UID)
    pve.world.guests[1042].run = Running(pid=1, machine="q35")
    for verb in (verbs.power_off, verbs.ask_shutdown, verbs.suspend):
        with pytest.raises(OperationInProgressError, match="qm unlock 1042"):
            await verb(UID)
    assert pve.world.guests[1042].lock == "snapshot"


async def test_only_our_own_machines(pve: Proxmox, verbs: Power) -> None:
    machine(pve, description="somebody's")
    with pytest.raises(MachineNotFoundError):
        await verbs.power_on(UID)
    foreign = machine(pve, 1043)
    foreign.config["description"] = foreign.config["description"].replace(f'"owner":"{OWNER}"', '"owner":"others"')
    with pytest.raises(ForeignMachineError):
        await verbs.power_on(UID)
    assert [guest.status for guest in pve.world.guests.values()] == ["stopped", "stopped"]
