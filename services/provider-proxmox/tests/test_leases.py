"""Addresses that the cluster itself gave out are known without an agent."""

from __future__ import annotations

from pathlib import Path

from provider_proxmox.observed import machine
from simulators.proxmox import Proxmox
from simulators.proxmox.guests import run_now
from simulators.proxmox.world import Vnet

from .conftest import OWNER, ours, uid_of, watched

MAC = "BC:24:11:00:00:01"
LEASES = "GET /cluster/sdn/ipams/{ipam}/status"


async def test_an_address_of_the_clusters_own_ipam_is_told(pve: Proxmox, tmp_path: Path) -> None:
    """And that it came from there; a machine that is off has none."""
    pve.world.vnets["web"] = Vnet("zone1")
    ours(pve, 100, net0=f"virtio={MAC},bridge=web")
    run_now(pve.world, pve.world.guests[100])
    async with watched(pve, tmp_path) as seen:
        seen.told.clear()
        pve.world.leases[MAC] = ("web", "192.0.2.7")
        await seen.go(130, lambda: seen.told)
        assert seen.told == [uid_of(100)]
        address = machine(seen.guest(100), seen.pve.index, OWNER).addresses[0]
        assert (address.address, address.mac, address.sources) == ("192.0.2.7", MAC.lower(), ["lease"])
        pve.world.guests[100].run = None
        await seen.go(5, lambda: seen.guest(100).status == "stopped")
        assert machine(seen.guest(100), seen.pve.index, OWNER).addresses == []


async def test_without_networks_of_its_own_the_cluster_is_not_asked(pve: Proxmox, tmp_path: Path) -> None:
    """Most clusters have none."""
    ours(pve, 100, net0=f"virtio={MAC},bridge=vmbr0")
    async with watched(pve, tmp_path) as seen:
        await seen.go(130, step=0.5)
    assert pve.counted()[LEASES] == 0
