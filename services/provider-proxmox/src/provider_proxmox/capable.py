"""Capabilities and limits of one cluster; declared only where the contract suite has shown it."""

from __future__ import annotations

from common import v1

from provider_proxmox.config import disks, hardware, nics
from provider_proxmox.session.index import Index

MAX_CPUS, MAX_DISKS = 512, 53
"""CPUs: 4 sockets of 128 cores are what the API takes. Disks: all slots of all buses but those of drives."""


def capabilities(index: Index, *, reads_disks: bool, writes_disks: bool) -> v1.Capabilities:
    """What this provider can do here.

    Args:
        reads_disks: over SSH, or from a storage that is mounted here.
        writes_disks: some node has a storage that takes imports.
    """
    several = len(index.nodes) > 1
    moves = [v1.PlacementKind.RESOURCE_POOL, v1.PlacementKind.DATASTORE]
    moves = [v1.PlacementKind.HOST, *moves] if several else moves
    return v1.Capabilities(
        firmware=[v1.FirmwareType.BIOS, v1.FirmwareType.UEFI],
        secure_boot=True,
        tpm_versions=["1.2", "2.0"],
        cpu_hot_add=True,
        memory_hot_add=True,
        disk_hot_add=True,
        disk_hot_remove=True,
        disk_online_grow=True,
        nic_hot_add=True,
        nic_hot_remove=True,
        nic_online_update=True,
        disk_offline_grow=True,
        disk_offline_change=True,
        nic_offline_change=True,
        disk_buses=list(disks.BUSES),
        disk_provisionings=[v1.DiskProvisioning.THIN],
        disk_controllers=list(disks.CONTROLLERS),
        disk_iops_limit=True,
        gpu=True,
        disk_move=True,
        existing_disk=True,
        nic_models=list(nics.MODELS),
        network_kinds=sorted(nics.BRIDGED, key=int),
        vlan=True,
        nic_mtu=True,
        nic_firewall=True,
        nic_rate_limit=True,
        nic_trunks=True,
        fixed_mac=True,
        cloud_init=True,
        static_addresses=True,
        ignition=True,
        graceful_shutdown=True,
        suspend=True,
        reset=True,
        nested_virtualization=True,
        iommu=True,
        cpu_topology=True,
        cpu_shares=True,
        memory_reservation=True,
        tags=True,
        cdroms=True,
        extra_config_keys=list(hardware.OUR_KEYS),
        placements=[v1.PlacementKind.HOST, v1.PlacementKind.RESOURCE_POOL, v1.PlacementKind.DATASTORE],
        placement_moves=moves,
        image_import=True,
        image_formats=["qcow2", "raw", "vmdk"],
        image_sources=[v1.ImageSourceKind.URL, v1.ImageSourceKind.FILE, v1.ImageSourceKind.TEMPLATE],
        consoles=[v1.ConsoleKind.SERIAL, v1.ConsoleKind.VNC],
        snapshots=True,
        memory_snapshots=True,
        quiesced_snapshots=True,
        snapshot_revert=True,
        inventory=True,
        guest_addresses=True,
        adoption=True,
        affinity=several,
        full_clone=True,
        disk_read=reads_disks,
        disk_write=writes_disks,
    )


def limits(concurrency: int) -> v1.Limits:
    """Limits of one machine here."""
    return v1.Limits(max_cpus=MAX_CPUS, max_disks=MAX_DISKS, max_nics=nics.SLOTS, max_concurrent_changes=concurrency)
