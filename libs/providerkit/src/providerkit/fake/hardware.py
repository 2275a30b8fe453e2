"""What specs make of the fake's machines: CPUs, memory, disks, NICs and guests as plain values."""

from __future__ import annotations

import copy
import hashlib

from common import v1

from .world import Volume

ON, OFF = v1.PowerState.ON, v1.PowerState.OFF
MAX_CPUS = 64
MAX_MEMORY = 1 << 40


def set_cpu(machine: v1.Machine, cpu: v1.CpuSpec) -> None:
    assert machine.cpu is not None
    state = machine.cpu
    if machine.power is OFF:
        state.max_count = min(MAX_CPUS, cpu.count * 2) if cpu.hot_add else cpu.count
        machine.settings["cpu.hot_add"] = str(cpu.hot_add).lower()
    state.count = state.configured_count = cpu.count
    state.cores_per_socket = cpu.cores_per_socket or state.cores_per_socket or 1
    state.nested_virtualization = state.nested_virtualization or cpu.nested_virtualization
    if cpu.shares is not None:
        machine.settings["cpu.shares"] = str(cpu.shares)


def set_memory(machine: v1.Machine, memory: v1.MemorySpec) -> None:
    assert machine.memory is not None
    state = machine.memory
    if machine.power is OFF:
        state.max_bytes = min(MAX_MEMORY, memory.size_bytes * 2) if memory.hot_add else memory.size_bytes
        machine.settings["memory.hot_add"] = str(memory.hot_add).lower()
    state.size_bytes = state.configured_bytes = memory.size_bytes


def set_tuning(machine: v1.Machine, spec: v1.MachineSpec) -> None:
    if spec.tuning is not None and spec.tuning.iommu:
        machine.settings["tuning.iommu"] = "true"
    machine.settings.update(spec.extra_config)


def plug_disk(machine: v1.Machine, disk: v1.DiskSpec, volume: Volume) -> None:
    bus = disk.bus if disk.bus is not v1.DiskBus.UNSPECIFIED else v1.DiskBus.VIRTIO
    thin = disk.provisioning is v1.DiskProvisioning.UNSPECIFIED
    machine.disks.append(
        v1.Disk(
            name=disk.name, id=volume.id, size_bytes=volume.size_bytes, bus=bus, storage=disk.storage or "fake",
            provisioning=v1.DiskProvisioning.THIN if thin else disk.provisioning, format="raw",
            owned=disk.existing is None, image_id=volume.image_id, device=f"disk{len(machine.disks)}", active=True,
        )
    )  # fmt: skip
    if disk.iops_limit:
        machine.settings[f"disks[{disk.name}].iops_limit"] = str(disk.iops_limit)


def plug_nic(machine: v1.Machine, nic: v1.NicSpec) -> None:
    digest = hashlib.sha256(f"{machine.id}/{nic.name}".encode()).digest()
    mac = nic.mac or ":".join(f"{byte:02x}" for byte in bytes([digest[0] & 0xFC | 2, *digest[1:6]]))
    machine.nics.append(
        v1.Nic(
            name=nic.name, mac=mac, model=nic.model or "virtio", network=copy.deepcopy(nic.network), id=nic.name,
            active=True, connected=True,
        )
    )  # fmt: skip
    if nic.mtu:
        machine.settings[f"nics[{nic.name}].mtu"] = str(nic.mtu)


def boot(machine: v1.Machine) -> None:
    """On, with a guest that has booted: the fake's guests take no time."""
    machine.power, machine.power_reason, machine.pending_restart = ON, "", []
    name = machine.identity.name if machine.identity is not None else machine.hypervisor_name
    machine.guest = v1.Guest(hostname=name, agent_running=True, os="Fake OS 1")
    address(machine)


def address(machine: v1.Machine) -> None:
    """Give each NIC of a machine that is on its address out of TEST-NET-1, always the same."""
    machine.addresses = []
    if machine.power is not ON:
        return
    for nic in machine.nics:
        last = int(hashlib.sha256(nic.mac.encode()).hexdigest()[:4], 16) % 253 + 1
        machine.addresses.append(
            v1.GuestAddress(address=f"192.0.2.{last}", interface=nic.name, mac=nic.mac, sources=["agent"], nic=nic.name)
        )
