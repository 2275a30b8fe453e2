"""Capabilities and limits of one endpoint, from what was measured there."""

from __future__ import annotations

from common import v1

from provider_libvirt.host import Host

MAX_DISKS, MAX_NICS = 24, 16


def capabilities(host: Host) -> v1.Capabilities:
    """What this provider can do here; declared only where the contract suite has shown it."""
    guests = not host.is_test
    buses = {"virtio": v1.DiskBus.VIRTIO, "scsi": v1.DiskBus.SCSI, "sata": v1.DiskBus.SATA}
    kinds = [v1.NetworkKind.NAT]
    if not host.session:
        kinds += [v1.NetworkKind.NAMED, v1.NetworkKind.BRIDGE]
    return v1.Capabilities(
        firmware=[v1.FirmwareType.BIOS, *([v1.FirmwareType.UEFI] if host.efi else [])],
        cpu_hot_add=guests,
        disk_hot_add=guests,
        disk_hot_remove=guests,
        disk_online_grow=guests,
        nic_hot_add=guests,
        nic_hot_remove=guests,
        nic_online_update=guests,
        disk_offline_grow=guests,
        disk_offline_change=True,
        nic_offline_change=True,
        disk_buses=[bus for word, bus in buses.items() if word in host.disk_buses],
        disk_provisionings=[v1.DiskProvisioning.THIN],
        existing_disk=True,
        nic_models=list(host.nic_models),
        network_kinds=sorted(kinds, key=int),
        fixed_mac=True,
        cloud_init=host.streams,
        static_addresses=host.streams,
        graceful_shutdown=True,
        suspend=True,
        reset=guests,
        cpu_topology=True,
        tags=True,
        placements=[v1.PlacementKind.DATASTORE],
        consoles=[v1.ConsoleKind.SERIAL] if guests else [],
        image_import=host.streams,
        image_formats=["qcow2", "raw"] if host.streams else [],
        image_sources=[v1.ImageSourceKind.URL, v1.ImageSourceKind.FILE] if host.streams else [],
        inventory=True,
        guest_addresses=guests,
    )


def limits(host: Host) -> v1.Limits:
    """Limits of one machine here."""
    return v1.Limits(max_cpus=host.max_cpus, max_disks=MAX_DISKS, max_nics=MAX_NICS, max_concurrent_changes=4)
