"""What specs make of the fake's machines: CPUs, memory, disks, NICs and guests as plain values."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping

from common import v1

from providerkit.planner import affinity_words, nic_settings

from .shelves import Volume

ON, OFF = v1.PowerState.ON, v1.PowerState.OFF
EXTRA_CONFIG_KEYS = ("fake.colour",)
MAX_CPUS = 64
MAX_MEMORY = 1 << 40


def set_cpu(machine: v1.Machine, cpu: v1.CpuSpec) -> None:
    """All of CpuSpec that the machine takes in its present power state."""
    assert machine.cpu is not None
    state = machine.cpu
    if machine.power is OFF:
        state.max_count = min(MAX_CPUS, cpu.count * 2) if cpu.hot_add else cpu.count
        machine.settings["cpu.hot_add"] = str(cpu.hot_add).lower()
    state.count = state.configured_count = cpu.count
    state.cores_per_socket = cpu.cores_per_socket or state.cores_per_socket or 1
    if machine.power is OFF:
        state.nested_virtualization = cpu.nested_virtualization
        record(machine, "cpu.nested_virtualization", "true" if cpu.nested_virtualization else "")
    for name in ("reservation_mhz", "limit_mhz", "shares"):
        value = getattr(cpu, name)
        record(machine, f"cpu.{name}", "" if value is None else str(value))


def set_memory(machine: v1.Machine, memory: v1.MemorySpec) -> None:
    """All of MemorySpec that the machine takes in its present power state."""
    assert machine.memory is not None
    state = machine.memory
    if machine.power is OFF:
        state.max_bytes = min(MAX_MEMORY, memory.size_bytes * 2) if memory.hot_add else memory.size_bytes
        machine.settings["memory.hot_add"] = str(memory.hot_add).lower()
    state.size_bytes = state.configured_bytes = memory.size_bytes
    for name in ("reservation_bytes", "limit_bytes"):
        value = getattr(memory, name)
        record(machine, f"memory.{name}", "" if value is None else str(value))


def set_tuning(machine: v1.Machine, spec: v1.MachineSpec) -> None:
    """Everything that Tuning and extra_config ask for, and nothing that they asked for once."""
    tuning = spec.tuning or v1.Tuning()
    for name in ("iommu", "virtualization_based_security", "encryption"):
        record(machine, f"tuning.{name}", "true" if getattr(tuning, name) else "")
    record(machine, "tuning.latency_sensitivity", tuning.latency_sensitivity.replace("normal", ""))
    record(machine, "tuning.hyper_threading_policy", tuning.hyper_threading_policy.replace("auto", ""))
    record(machine, "tuning.encryption_key_provider", tuning.encryption_key_provider)
    for key in EXTRA_CONFIG_KEYS:
        record(machine, key, spec.extra_config.get(key, ""))


def plug_disk(machine: v1.Machine, disk: v1.DiskSpec, volume: Volume) -> None:
    """One more disk, with this content."""
    bus = disk.bus if disk.bus is not v1.DiskBus.UNSPECIFIED else v1.DiskBus.VIRTIO
    thin = disk.provisioning is v1.DiskProvisioning.UNSPECIFIED
    machine.disks.append(
        v1.Disk(
            name=disk.name, id=volume.id, size_bytes=volume.size_bytes, bus=bus, storage=disk.storage or "fake",
            provisioning=v1.DiskProvisioning.THIN if thin else disk.provisioning, format="raw",
            owned=disk.existing is None, image_id=volume.image_id, device=f"disk{len(machine.disks)}", active=True,
        )
    )  # fmt: skip
    update_disk(machine, disk)
    record(machine, f"disks[{disk.name}].controller_type", disk.controller_type)


def update_disk(machine: v1.Machine, disk: v1.DiskSpec) -> None:
    """What can be changed of a disk later."""
    where = f"disks[{disk.name}]"
    record(machine, f"{where}.iops_limit", str(disk.iops_limit or ""))
    record(machine, f"{where}.sharing", disk.sharing.replace("noSharing", ""))
    record(machine, f"{where}.storage_policy", disk.storage_policy)


def plug_nic(machine: v1.Machine, nic: v1.NicSpec) -> None:
    """One more NIC, whose MAC is always the same unless it is given."""
    digest = hashlib.sha256(f"{machine.id}/{nic.name}".encode()).digest()
    mac = nic.mac or ":".join(f"{byte:02x}" for byte in bytes([digest[0] & 0xFC | 2, *digest[1:6]]))
    machine.nics.append(
        v1.Nic(
            name=nic.name, mac=mac, model=nic.model or "virtio", network=copy.deepcopy(nic.network), id=nic.name,
            active=True, connected=True,
        )
    )  # fmt: skip
    record_nic(machine, nic)


def record_nic(machine: v1.Machine, nic: v1.NicSpec) -> None:
    """What a spec asks of a NIC besides its network."""
    for field, value in nic_settings(nic).items():
        record(machine, f"nics[{nic.name}].{field}", value)


def set_cdrom(machine: v1.Machine, cdrom: v1.CdromSpec) -> None:
    """A drive of this name with this in it."""
    drives = {drive.name: drive for drive in machine.cdroms}
    drives.setdefault(cdrom.name, v1.Cdrom(name=cdrom.name, device=f"cdrom-{cdrom.name}")).medium = cdrom.medium
    machine.cdroms = list(drives.values())


def set_attributes(machine: v1.Machine, attributes: Mapping[str, str]) -> None:
    """These and no others."""
    replace_record(machine, "attributes[", {f"attributes[{name}]": value for name, value in attributes.items()})


def set_affinity(machine: v1.Machine, rules: Iterable[v1.AffinityRule]) -> None:
    """A member of these rules and of no others."""
    field = "placement.affinity["
    replace_record(machine, field, {f"{field}{rule.name}]": affinity_words(rule) for rule in rules})


def record(machine: v1.Machine, field: str, value: str) -> None:
    """Note that a spec asked for this; empty notes that none does."""
    machine.settings.pop(field, None)
    if value:
        machine.settings[field] = value


def replace_record(machine: v1.Machine, beginning: str, fresh: Mapping[str, str]) -> None:
    """The same of all fields that begin so."""
    kept = {field: value for field, value in machine.settings.items() if not field.startswith(beginning)}
    machine.settings = kept | dict(fresh)


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
