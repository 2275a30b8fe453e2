"""Changes of a machine in the simulated cluster: one call each, and true afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import (
    HostFullError,
    InvalidSpecError,
    NotSupportedError,
    OperationInProgressError,
    ResourceNotFoundError,
    WrongPowerStateError,
)
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.guests import Guests
from provider_proxmox.placing import Places
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import Stamp
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call
from simulators.proxmox.errors import PveError
from simulators.proxmox.world import Running

from .conftest import OWNER
from .ours import GIB, IDENTITY, UID, machine, volume

DATA = v1.DiskSpec(name="data", size_bytes=GIB)
DMZ = v1.NicSpec(name="dmz", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1"))
NOWHERE = replace(DMZ, name="nowhere")
"""A NIC on a bridge that goes before it comes."""


@pytest.fixture
def change(cluster: Pve) -> Reconfiguring:
    guests = Guests(cluster, owner=OWNER)
    return Reconfiguring(
        cluster,
        guests,
        Places(cluster.index, SystemClock()),
        BootData(cluster),
        Snapshots(cluster, guests, owner=OWNER),
        default_bridge="vmbr0",
    )


def _on(server: Proxmox, *, without: str = "vmbr1") -> None:
    """It runs; and its node has lost this bridge, which nobody has noticed yet."""
    server.world.nodes["pve1"].bridges.discard(without)
    server.world.guests[1042].run = Running(pid=1, machine="q35")


async def _seen(cluster: Pve) -> tuple[Guest, Stamp]:
    guest = await cluster.refresh(1042, "look")
    assert guest is not None
    assert guest.stamp is not None
    return guest, guest.stamp


def _puts(server: Proxmox) -> int:
    return sum(
        count for call, count in server.counted().items() if call.startswith(("PUT", "POST")) and "config" in call
    )


# -- one call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
async def test_all_changes_of_an_apply_are_one_call(
    pve: Proxmox, cluster: Pve, change: Reconfiguring, running: bool
) -> None:
    machine(pve)
    if running:
        _on(pve, without="")
    before = _puts(pve)
    async with change.together(UID):
        await change.attach_disk(UID, DATA, live=running)
        await change.attach_nic(UID, DMZ, live=running)
        await change.set_tags(UID, ["Blue"])
        await change.set_description(UID, "for people")
        assert _puts(pve) == before
    assert _puts(pve) == before + 1
    guest, record = await _seen(cluster)
    assert (guest.config["tags"], guest.description) == ("blue;virtrigaud", "for people")
    assert [(disk.name, disk.slot) for disk in record.disks] == [("root", "scsi0"), ("data", "scsi1")]
    assert [(nic.name, nic.slot) for nic in record.nics] == [("lan", "net0"), ("dmz", "net1")]
    assert guest.config["scsi1"].startswith("local-lvm:vm-1042-disk-1,")
    assert (guest.pending, record.tags) == ({}, ("Blue",))
    assert cluster.index.guests[1042] == guest


async def test_changes_that_are_collected_are_judged_at_once_by_one_look(pve: Proxmox, change: Reconfiguring) -> None:
    machine(pve)
    await change.set_tags(UID, [])
    before = len(pve.requests)
    async with change.together(UID):
        for name in ("a", "b", "c", "d"):
            await change.attach_nic(UID, v1.NicSpec(name=name, network=DMZ.network), live=False)
        judged = len(pve.requests) - before
        with pytest.raises(InvalidSpecError):
            await change.attach_disk(UID, v1.DiskSpec(name="x", image=v1.ImageRef(id="i")), live=False)
    assert judged <= 4
    assert [key for key in pve.world.guests[1042].config if key.startswith("net")] == [
        "net0",
        "net1",
        "net2",
        "net3",
        "net4",
    ]


async def test_what_is_there_costs_no_call(pve: Proxmox, change: Reconfiguring) -> None:
    machine(pve)
    await change.attach_nic(UID, DMZ, live=False)
    before = _puts(pve)
    await change.attach_nic(UID, DMZ, live=False)
    await change.set_memory(UID, v1.MemorySpec(size_bytes=GIB // 2), live=False)
    await change.grow_disk(UID, "root", GIB, live=False)
    assert _puts(pve) == before


async def test_a_change_of_others_in_between_is_built_upon(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    """The digest tells; what somebody put into a slot meanwhile is not overwritten."""
    machine(pve)
    theirs = volume(pve, "pve1", "local-lvm:vm-1042-disk-9", GIB, 1042)
    asked = cluster.put

    async def meanwhile(doing: str, path: str, /, **params: object) -> object:
        if "net1" in params and "net1" not in pve.world.guests[1042].config:
            pve.world.guests[1042].config |= {
                "net1": "virtio=BC:24:11:00:00:77,bridge=vmbr0",
                "scsi1": f"{theirs},size=1G",
            }
        return await asked(doing, path, **params)

    cluster.put = meanwhile  # type: ignore[method-assign]  # somebody who is always faster, once
    await change.attach_nic(UID, DMZ, live=False)
    guest, record = await _seen(cluster)
    assert guest.config["net1"].startswith("virtio=BC:24:11:00:00:77")
    assert record.nic("dmz") is not None
    assert guest.config["net2"].endswith("bridge=vmbr1")


# -- what a running guest cannot take ----------------------------------------------------------------------------------


async def test_what_a_running_guest_cannot_take_waits_for_its_start(
    pve: Proxmox, cluster: Pve, change: Reconfiguring
) -> None:
    machine(pve)
    _on(pve)
    await change.set_memory(UID, v1.MemorySpec(size_bytes=GIB), live=True)
    guest, _ = await _seen(cluster)
    assert (guest.config["memory"], guest.pending["memory"]) == ("512", "1024")
    await change.set_memory(UID, v1.MemorySpec(size_bytes=GIB // 2), live=True)
    assert "memory" not in (await _seen(cluster))[0].pending


async def test_a_nic_that_cannot_be_plugged_in_is_taken_out_again(
    pve: Proxmox, cluster: Pve, change: Reconfiguring
) -> None:
    """Proxmox VE keeps it for the next start, and the stamp would name what is not there."""
    machine(pve)
    _on(pve)
    before = await _seen(cluster)
    with pytest.raises(WrongPowerStateError, match="hotplug problem"):
        await change.attach_nic(UID, NOWHERE, live=True)
    guest, record = await _seen(cluster)
    assert (guest.config | {"digest": ""}, guest.pending) == (before[0].config | {"digest": ""}, {})
    assert record.nics == before[1].nics


async def test_an_unknown_network_is_refused_at_once(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    machine(pve)
    before = pve.world.guests[1042].text()
    for nic in (replace(DMZ, name="x"), replace(DMZ, name="lan")):
        assert nic.network is not None
        nic = replace(nic, network=replace(nic.network, name="vmbr77"))
        verb = change.attach_nic if nic.name == "x" else change.update_nic
        with pytest.raises(ResourceNotFoundError, match="vmbr0, vmbr1"):
            await verb(UID, nic, live=False)
    assert pve.world.guests[1042].text() == before


async def test_of_several_changes_what_could_be_made_stays(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    machine(pve)
    _on(pve)

    async def apply() -> None:
        async with change.together(UID):
            await change.attach_disk(UID, DATA, live=True)
            await change.attach_nic(UID, NOWHERE, live=True)
            await change.detach_nic(UID, "lan", live=True)

    with pytest.raises(WrongPowerStateError):
        await apply()
    guest, record = await _seen(cluster)
    assert [(disk.name, disk.slot) for disk in record.disks] == [("root", "scsi0"), ("data", "scsi1")]
    assert "scsi1" in guest.config
    assert record.nics == ()
    assert [key for key in guest.config if key.startswith("net")] == []
    assert guest.pending == {"boot": "order=scsi0"}


async def test_a_volume_that_was_made_for_nothing_goes(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    """One that was made in the same call for a device that cannot be plugged in now; what was unused before stays."""
    old = volume(pve, "pve1", "local-lvm:vm-1042-disk-5", GIB, 1042)
    machine(pve, unused0=old)
    _on(pve)

    async def apply() -> None:
        async with change.together(UID):
            await change.attach_disk(UID, replace(DATA, bus=v1.DiskBus.SATA), live=True)
            await change.attach_nic(UID, NOWHERE, live=True)

    with pytest.raises(WrongPowerStateError):
        await apply()
    guest, record = await _seen(cluster)
    assert [key for key in guest.config if key.startswith(("unused", "sata"))] == ["unused0"]
    assert [disk.name for disk in record.disks] == ["root"]
    assert set(pve.world.storages["local-lvm"].on("pve1")) == {"local-lvm:vm-1042-disk-0", old}


async def test_a_stamp_that_was_left_waiting_is_forgotten(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    """Proxmox VE writes key after key, in no order: the stamp that names a volume may come before that fails."""
    guest = machine(pve)

    def full(call: Call) -> None:
        if call.method == "POST" and "scsi1" in call.params:
            guest.pending["description"] = call.text("description")
            raise PveError(500, "not enough free space")

    pve.checks.append(full)
    with pytest.raises(HostFullError):
        await change.attach_disk(UID, DATA, live=False)
    assert guest.pending == {}
    await change.set_cpu(UID, v1.CpuSpec(count=2), live=False)
    assert [disk.name for disk in (await _seen(cluster))[1].disks] == ["root"]


async def test_a_disk_that_cannot_be_unplugged_stays_ours(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    machine(pve)
    _on(pve)
    with pytest.raises(WrongPowerStateError, match="bootdisk"):
        await change.detach_disk(UID, "root", live=True)
    guest, record = await _seen(cluster)
    assert record.disk("root") is not None
    assert record.disks[0].slot == "scsi0"
    assert guest.pending == {}


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
async def test_a_disk_comes_goes_and_comes_back(
    pve: Proxmox, cluster: Pve, change: Reconfiguring, running: bool
) -> None:
    machine(pve)
    if running:
        _on(pve)
    await change.attach_disk(UID, DATA, live=running)
    for _ in range(2):
        await change.detach_disk(UID, "data", live=running)
    guest, record = await _seen(cluster)
    assert guest.config["unused0"] == "local-lvm:vm-1042-disk-1"
    assert record.disk("data") is not None
    await change.set_description(UID, "something else")
    for _ in range(2):
        await change.attach_disk(UID, DATA, live=running)
    guest, record = await _seen(cluster)
    assert guest.config["scsi1"].startswith("local-lvm:vm-1042-disk-1,")
    assert "unused0" not in guest.config
    assert set(pve.world.storages["local-lvm"].on("pve1")) == {"local-lvm:vm-1042-disk-0", "local-lvm:vm-1042-disk-1"}


async def test_P24_a_disk_grows_together_with_everything_else(
    pve: Proxmox, cluster: Pve, change: Reconfiguring
) -> None:
    machine(pve)
    async with change.together(UID):
        await change.set_cpu(UID, v1.CpuSpec(count=2), live=False)
        await change.grow_disk(UID, "root", 3 * GIB, live=False)
        await change.set_memory(UID, v1.MemorySpec(size_bytes=GIB), live=False)
        with pytest.raises(ResourceNotFoundError):
            await change.grow_disk(UID, "none", GIB, live=False)
    guest, _ = await _seen(cluster)
    assert (guest.config["cores"], guest.config["memory"]) == (2, "1024")
    assert guest.config["scsi0"].endswith("size=3G")


async def test_a_disk_moves_and_keeps_its_name(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    machine(pve)
    for _ in range(2):
        await change.move_disk(UID, "root", "shared", live=False)
    guest, record = await _seen(cluster)
    assert guest.config["scsi0"].startswith("shared:1042/vm-1042-disk-0.qcow2,")
    assert [(disk.name, disk.volume) for disk in record.disks] == [("root", "shared:1042/vm-1042-disk-0.qcow2")]
    assert list(pve.world.storages["local-lvm"].on("pve1")) == []
    with pytest.raises(ResourceNotFoundError, match="nowhere"):
        await change.move_disk(UID, "root", "nowhere", live=False)


async def test_a_disk_of_another_machine_is_not_plugged_in(pve: Proxmox, change: Reconfiguring) -> None:
    """Proxmox VE would: two guests would write to it."""
    machine(pve)
    taken = volume(pve, "pve1", "local-lvm:vm-177-disk-0", GIB, 177)
    pve.world.add_guest(177, "pve1", {"name": "theirs", "scsi0": f"{taken},size=1G"})
    with pytest.raises(InvalidSpecError, match="177"):
        await change.attach_disk(UID, v1.DiskSpec(name="x", existing=v1.ExistingDisk(id=taken)), live=False)


# -- the rest ----------------------------------------------------------------------------------------------------------


async def test_first_boot_data_are_replaced(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    """What was made for the old ones is gone when the new ones are in place."""
    machine(pve)
    files = []
    for text in ("one", "two"):
        spec = v1.MachineSpec(identity=IDENTITY, boot_data=v1.BootData(user_data=f"#cloud-config\nhostname: {text}\n"))
        await change.set_boot_data(UID, spec)
        guest, record = await _seen(cluster)
        (made,) = record.volumes
        assert guest.config["ide2"].startswith(f"{made},media=cdrom")
        assert record.boot_digest
        files.append(made)
    isos = [name for name in pve.world.storages["shared"].on("") if ":iso/" in name]
    isos += [name for name in pve.world.storages["local"].on("pve1") if ":iso/" in name]
    assert (isos, files[0] != files[1]) == ([files[1]], True)


async def test_options_are_set_and_taken_off(pve: Proxmox, cluster: Pve, change: Reconfiguring) -> None:
    machine(pve)
    await change.set_tuning(UID, v1.MachineSpec(extra_config={"proxmox.onBoot": "true", "proxmox.osType": "l26"}))
    guest, record = await _seen(cluster)
    assert (guest.config["onboot"], guest.config["ostype"]) == (1, "l26")
    await change.set_tuning(UID, v1.MachineSpec())
    guest, record = await _seen(cluster)
    assert "onboot" not in guest.config
    assert record.settings == {}
    with pytest.raises(NotSupportedError):
        await change.set_firmware(UID, v1.FirmwareSpec(secure_boot=True))
    await change.set_firmware(UID, v1.FirmwareSpec(tpm=True))
    assert "tpmstate0" in (await _seen(cluster))[0].config


async def test_a_locked_machine_is_left_alone(pve: Proxmox, change: Reconfiguring) -> None:
    machine(pve).lock = "backup"
    with pytest.raises(OperationInProgressError, match="qm unlock 1042"):
        await change.set_tags(UID, ["blue"])
    pve.world.guests[1042].lock = "suspended"
    with pytest.raises(WrongPowerStateError, match="resume"):
        await change.note(UID, "a", "b")
    assert pve.world.guests[1042].config["tags"] == "virtrigaud"
