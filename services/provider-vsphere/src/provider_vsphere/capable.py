"""Capabilities and limits of one endpoint, from what it is; declared only where the contract suite has shown it."""

from __future__ import annotations

from collections.abc import Sequence

from common import v1

from provider_vsphere.config import devices, hardware, nics
from provider_vsphere.images import images, packages
from provider_vsphere.session.login import About

MAX_CPUS, MAX_DISKS, MAX_NICS = 768, 256, 10
"""Of the newest virtual hardware; vSphere refuses what an older one lacks. Source: Configuration Maximums 8.0."""


def capabilities(
    about: About, *, has_default_network: bool, keeps_rules: bool, has_keys: bool, options: Sequence[str] = ()
) -> v1.Capabilities:
    """What this provider can do here.

    Args:
        has_default_network: NICs that ask for no certain network can be plugged in, too.
        keeps_rules: there is a cluster whose DRS keeps machines together or apart.
        has_keys: there is a key provider, without which no machine gets a TPM.
        options: keys of the extra configuration that the operator lets a spec set.
    """
    placements = [
        v1.PlacementKind.HOST,
        v1.PlacementKind.RESOURCE_POOL,
        v1.PlacementKind.FOLDER,
        v1.PlacementKind.DATASTORE,
        *([v1.PlacementKind.CLUSTER, v1.PlacementKind.STORAGE_POD] if about.is_vcenter else []),
    ]
    kinds = [
        v1.NetworkKind.NAMED,
        *([v1.NetworkKind.NAT] if has_default_network else []),
        *([v1.NetworkKind.DISTRIBUTED] if about.is_vcenter else []),
    ]
    return v1.Capabilities(
        firmware=[v1.FirmwareType.BIOS, v1.FirmwareType.UEFI],
        secure_boot=True,
        tpm_versions=["2.0"] if has_keys else [],
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
        disk_buses=[v1.DiskBus.SCSI, v1.DiskBus.SATA, v1.DiskBus.IDE, v1.DiskBus.NVME],
        disk_provisionings=[
            v1.DiskProvisioning.THIN,
            v1.DiskProvisioning.THICK,
            v1.DiskProvisioning.EAGER_ZEROED_THICK,
        ],
        disk_iops_limit=True,
        existing_disk=True,
        nic_models=list(nics.MODELS),
        network_kinds=sorted(kinds, key=int),
        fixed_mac=True,
        cloud_init=True,
        static_addresses=True,
        ignition=True,
        graceful_shutdown=True,
        suspend=True,
        reset=True,
        nested_virtualization=True,
        iommu=True,
        virtualization_based_security=True,
        latency_sensitivity=True,
        cpu_topology=True,
        cpu_reservation=True,
        cpu_limit=True,
        cpu_shares=True,
        memory_reservation=True,
        memory_limit=True,
        disk_sharing=True,
        disk_controllers=list(devices.CONTROLLER_TYPES),
        tags=True,
        attributes=about.is_vcenter,
        consoles=[v1.ConsoleKind.TICKET],
        screenshot=True,
        storage_policies=about.is_vcenter,
        affinity=keeps_rules,
        customization=about.is_vcenter,
        sysprep=about.is_vcenter,
        extra_config_keys=[*hardware.OUR_KEYS, *options],
        placements=sorted(placements, key=int),
        image_import=about.is_vcenter,  # an ESXi host has neither templates nor clones
        image_formats=list(packages.FORMATS) if about.is_vcenter else [],
        image_sources=list(images.SOURCES) if about.is_vcenter else [],
        disk_read=True,
        disk_write=True,
        changed_blocks=True,
        cdroms=True,
        snapshots=True,
        memory_snapshots=True,
        quiesced_snapshots=True,
        snapshot_revert=True,
        full_clone=about.is_vcenter,
        linked_clone=about.is_vcenter,
        instant_clone=about.is_vcenter,
        adoption=True,
        inventory=True,
        guest_addresses=True,
    )


def limits(concurrency: int) -> v1.Limits:
    """Limits of one machine here."""
    return v1.Limits(max_cpus=MAX_CPUS, max_disks=MAX_DISKS, max_nics=MAX_NICS, max_concurrent_changes=concurrency)
