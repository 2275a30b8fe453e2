"""Machines that move in a simulated cluster, running or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import HypervisorUnavailableError, NotSupportedError, ResourceNotFoundError
from provider_proxmox import stamp
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.guests import Guests
from provider_proxmox.migrating import Moving
from provider_proxmox.placing import Places
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Pool, Running

from .conftest import OWNER
from .ours import UID, machine, volume


@pytest.fixture
def moving(cluster: Pve) -> Moving:
    guests = Guests(cluster, owner=OWNER)
    snapshots = Snapshots(cluster, guests, owner=OWNER)
    change = Reconfiguring(cluster, guests, Places(cluster.index, SystemClock()), BootData(cluster), snapshots)
    return Moving(cluster, guests, change, SystemClock())


@pytest.mark.parametrize("storage", ["local-lvm", "shared"])
@pytest.mark.parametrize("running", [False, True])
async def test_to_another_node_with_its_disks(
    pve: Proxmox, cluster: Pve, moving: Moving, storage: str, running: bool
) -> None:
    guest = machine(pve, storage=storage)
    guest.run = Running(pid=1, machine="q35") if running else None
    for _ in range(2):
        await moving.set_placement(UID, v1.Placement(host="pve2"))
    assert (guest.node, guest.status) == ("pve2", "running" if running else "stopped")
    seen = cluster.index.guests[1042]
    assert seen.node == "pve2"
    assert seen.stamp is not None
    assert seen.config["scsi0"].startswith(f"{seen.stamp.disks[0].volume},")
    assert len(await cluster.get("look", "nodes/pve2/tasks", vmid=1042)) == 0  # one move, begun where it was
    assert len(await cluster.get("look", "nodes/pve1/tasks", vmid=1042)) == 1


async def test_what_ha_manages_is_moved_by_it(pve: Proxmox, cluster: Pve, moving: Moving) -> None:
    machine(pve, storage="shared").run = Running(pid=1, machine="q35")
    pve.world.ha["vm:1042"] = {"state": "started", "failback": 0}
    await moving.set_placement(UID, v1.Placement(host="pve3"))
    assert cluster.index.guests[1042].node == "pve3"


async def test_a_move_that_was_begun_is_waited_for(pve: Proxmox, cluster: Pve, moving: Moving) -> None:
    guest = machine(pve, storage="shared")
    await cluster.post("move", "nodes/pve1/qemu/1042/migrate", target="pve2")
    await moving.set_placement(UID, v1.Placement(host="pve2"))
    assert guest.node == "pve2"


async def test_what_cannot_go_is_named(pve: Proxmox, moving: Moving) -> None:
    iso = volume(pve, "pve1", "local:iso/setup.iso", 1 << 20)
    guest = machine(pve, ide3=f"{iso},media=cdrom")
    with pytest.raises(NotSupportedError, match=r"local:iso/setup.iso"):
        await moving.set_placement(UID, v1.Placement(host="pve2"))
    del guest.config["ide3"]
    guest.config["usb0"] = "host=1234:5678"
    with pytest.raises(NotSupportedError, match="usb0"):
        await moving.set_placement(UID, v1.Placement(host="pve2"))
    with pytest.raises(ResourceNotFoundError, match="pve1, pve2, pve3"):
        await moving.set_placement(UID, v1.Placement(host="pve9"))
    assert guest.node == "pve1"


async def test_why_it_did_not_move_is_told(pve: Proxmox, moving: Moving) -> None:
    """The task ends with "migration aborted" whatever it was; its log says more."""
    guest = machine(pve, storage="shared")
    guest.run = Running(pid=1, machine="q35")
    pve.world.nodes["pve3"].online = False
    with pytest.raises(HypervisorUnavailableError, match="ssh"):
        await moving.set_placement(UID, v1.Placement(host="pve3"))
    assert (guest.node, guest.lock) == ("pve1", "")


async def test_into_a_pool_and_to_a_storage(pve: Proxmox, cluster: Pve, moving: Moving) -> None:
    """With what firmware and TPM keep; a disk that was put elsewhere stays there."""
    machine(pve, settings={"placement.datastore": "local-lvm"})
    state = volume(pve, "pve1", "local-lvm:vm-1042-disk-7", 4 << 20, 1042)
    pve.world.guests[1042].config["tpmstate0"] = f"{state},size=4M,version=v2.0"
    pve.world.pools["web"] = Pool("web")
    for _ in range(2):
        await moving.set_placement(UID, v1.Placement(resource_pool="web", datastore="shared"))
    assert pve.world.pool_of(1042) == "web"
    seen = cluster.index.guests[1042]
    assert seen.stamp is not None
    assert seen.stamp.disks[0].volume.startswith("shared:")
    assert seen.stamp.settings == {"placement.datastore": "shared"}
    assert seen.config["tpmstate0"].startswith("shared:")
    assert list(pve.world.storages["local-lvm"].on("pve1")) == []
    await moving.set_placement(UID, v1.Placement(datastore="local-lvm"))
    _, mark = stamp.read(pve.world.guests[1042].config["description"])
    assert mark is not None
    pve.world.guests[1042].config["description"] = stamp.written(
        "", replace(mark, settings={"placement.datastore": "elsewhere"})
    )
    await moving.set_placement(UID, v1.Placement(datastore="shared"))
    assert pve.world.guests[1042].config["scsi0"].startswith("local-lvm:")
    with pytest.raises(ResourceNotFoundError):
        await moving.set_placement(UID, v1.Placement(resource_pool="none"))
