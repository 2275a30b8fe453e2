"""What the fake declares: what its verbs do, and the contract suite has shown."""

from __future__ import annotations

from common import v1

from .hardware import MAX_CPUS, MAX_MEMORY

FAKE_CAPABILITIES = v1.Capabilities(
    firmware=[v1.FirmwareType.BIOS, v1.FirmwareType.UEFI],
    secure_boot=True,
    tpm_versions=["2.0"],
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
    disk_buses=[v1.DiskBus.VIRTIO, v1.DiskBus.SCSI, v1.DiskBus.SATA],
    disk_provisionings=[v1.DiskProvisioning.THIN, v1.DiskProvisioning.THICK],
    disk_iops_limit=True,
    existing_disk=True,
    nic_models=["virtio", "e1000e"],
    network_kinds=[v1.NetworkKind.NAMED, v1.NetworkKind.BRIDGE, v1.NetworkKind.NAT],
    vlan=True,
    nic_mtu=True,
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
    tags=True,
    extra_config_keys=["fake.colour"],
    consoles=[v1.ConsoleKind.SERIAL],
    image_import=True,
    image_formats=["qcow2", "raw"],
    image_sources=[v1.ImageSourceKind.URL, v1.ImageSourceKind.FILE],
    inventory=True,
    guest_addresses=True,
    snapshots=True,
    memory_snapshots=True,
    quiesced_snapshots=True,
    snapshot_revert=True,
    full_clone=True,
    linked_clone=True,
    instant_clone=True,
    adoption=True,
)

FAKE_LIMITS = v1.Limits(max_cpus=MAX_CPUS, max_memory_bytes=MAX_MEMORY, max_disks=32, max_nics=16)
