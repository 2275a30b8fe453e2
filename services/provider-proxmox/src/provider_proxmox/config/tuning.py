"""Changes of processor, memory, firmware and options, each a plain function from a shape to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from common import v1
from common.errors import NotSupportedError

from provider_proxmox.config import disks, hardware, properties
from provider_proxmox.config.properties import Property
from provider_proxmox.config.shape import Shape

_FEATURES: Final = ("network", "disk", "usb")
"""What `hotplug` means where it is not set. Source: the API schema of Proxmox VE 9.2."""


def set_cpu(shape: Shape, cpu: v1.CpuSpec, *, live: bool, node_cpus: int = 0) -> Shape:
    """Count, topology, weight and room to grow. A running machine keeps its topology and its type.

    Args:
        node_cpus: CPUs of its node, which is the most that it starts; 0 where that is not known.
    """
    before = shape.stamp.settings
    if live:
        cpu = replace(cpu, nested_virtualization=hardware.NESTED in before, hot_add="cpu.hot_add" in before)
    asked = hardware.asked(v1.MachineSpec(cpu=cpu))
    changes: dict[str, object | None] = {}
    if live:
        if cpu.count != count_of(shape.config):
            changes["vcpus"] = cpu.count
    else:
        old = str(shape.config.get("cpu", ""))
        if hardware.NESTED in before and not cpu.nested_virtualization:
            old = hardware.DEFAULT_CPU
        changes |= {"vcpus": None} | hardware.cpu(
            v1.MachineSpec(cpu=cpu, extra_config=shape.extra), node_cpus, old_type=old
        )
        changes |= features(shape, cpu=cpu.hot_add)
    changes["cpuunits"] = cpu.shares or (None if "cpu.shares" in before else shape.config.get("cpuunits"))
    return shape.having(changes).noting(asked, without="cpu.")


def set_memory(shape: Shape, memory: v1.MemorySpec, *, live: bool) -> Shape:
    """Size, what of it is reserved, and room to grow."""
    before = shape.stamp.settings
    changes: dict[str, object | None] = dict(hardware.memory(v1.MachineSpec(memory=memory, extra_config=shape.extra)))
    if "balloon" not in changes and "memory.reservation_bytes" in before:
        changes["balloon"] = None
    if live:
        memory = replace(memory, hot_add="memory.hot_add" in before)
    else:
        grows = memory.hot_add and memory.size_bytes >= hardware.HOT_ADD_MEMORY
        changes |= features(shape, memory=grows)
        if grows:
            changes["numa"] = 1
    asked = hardware.asked(v1.MachineSpec(memory=memory))
    return shape.having(changes).noting(asked, without="memory.")


def count_of(config: Mapping[str, Any]) -> int:
    """CPUs that a guest has."""
    most = int(config.get("sockets", 1)) * int(config.get("cores", 1))
    return int(config.get("vcpus") or most)


def features(shape: Shape, **wishes: bool) -> dict[str, object | None]:
    """`hotplug` with these features on or off; an own wish of the spec for it stands."""
    if hardware.HOTPLUG in shape.stamp.settings:
        return {}
    old = str(shape.config.get("hotplug", ""))
    words = list(_FEATURES) if old in ("", "1") else [] if old == "0" else old.split(",")
    for word, wish in wishes.items():
        if wish and word not in words:
            words.append(word)
        elif not wish and word in words:
            words.remove(word)
    return {"hotplug": ",".join(words) or "0"} if words != (old.split(",") if old else list(_FEATURES)) else {}


def set_firmware(shape: Shape, firmware: v1.FirmwareSpec, storage: str) -> Shape:
    """A TPM for a machine that is off; what its firmware is stays.

    Args:
        storage: where the state of a TPM is made.
    Raises:
        NotSupportedError: secure boot for a machine that was made without its keys.
    """
    if firmware.secure_boot and not has_secure_boot(shape.config):
        raise NotSupportedError(
            "firmware.secure_boot: the machine was made without the keys for it; enroll them in its firmware by hand, "
            "or make the machine anew"
        )
    if firmware.tpm and "tpmstate0" not in shape.config:
        return shape.having({"tpmstate0": hardware.tpm(firmware, storage)})
    return shape


def has_secure_boot(config: Mapping[str, Any]) -> bool:
    """Its firmware holds the keys that secure boot checks with."""
    return config.get("bios") == "ovmf" and properties.parse(config.get("efidisk0", "")).flag("pre-enrolled-keys")


def set_tuning(shape: Shape, spec: v1.MachineSpec, *, vmid: int) -> Shape:
    """Options of a machine that is off; what was asked for earlier and is no longer is taken off again.

    Raises:
        InvalidSpecError: names every key with a value that Proxmox VE cannot take.
        NotSupportedError: another VMID than the machine has.
    """
    hardware.check(spec)
    wish, before = hardware.explicit_vmid(spec), shape.stamp.settings
    if wish and wish != vmid:
        raise NotSupportedError(f"extra_config[{hardware.VMID}]: a machine keeps its VMID, which is {vmid}")
    gone = {
        key.field: None
        for name, key in hardware.OUR_KEYS.items()
        if key.field and name in before and name not in spec.extra_config
    }
    changes: dict[str, object | None] = {**gone, **hardware.plain_options(spec.extra_config)}
    changes |= _balloon(shape, spec)
    changes |= _machine(shape, spec)
    changes |= _cpu_type(shape, spec)
    changes |= _hotplug(shape, spec)
    changes |= _attached(shape, spec)
    asked = hardware.asked(v1.MachineSpec(tuning=spec.tuning, extra_config=spec.extra_config))
    return shape.having(changes).noting(asked, without=("tuning.", *hardware.OUR_KEYS))


def _balloon(shape: Shape, spec: v1.MachineSpec) -> dict[str, object | None]:
    if wish := spec.extra_config.get(hardware.BALLOON):
        return {"balloon": int(wish)}
    return {"balloon": None} if hardware.BALLOON in shape.stamp.settings else {}


def _machine(shape: Shape, spec: v1.MachineSpec) -> dict[str, object | None]:
    before, old = shape.stamp.settings, properties.parse(shape.config.get("machine", ""))
    if hardware.IOMMU in before:
        old = old.having({"viommu": None})
    if hardware.MACHINE in before and hardware.MACHINE not in spec.extra_config:
        old = Property()
    return {"machine": hardware.machine(spec, str(old)).get("machine")}


def _cpu_type(shape: Shape, spec: v1.MachineSpec) -> dict[str, object | None]:
    before = shape.stamp.settings
    wish, had = spec.extra_config.get(hardware.CPU_TYPE, ""), before.get(hardware.CPU_TYPE, "")
    if wish == had:
        return {}
    nested = v1.CpuSpec(nested_virtualization=hardware.NESTED in before)
    return {"cpu": hardware.cpu_type(nested, spec.extra_config, hardware.DEFAULT_CPU)}


def _hotplug(shape: Shape, spec: v1.MachineSpec) -> dict[str, object | None]:
    """Features and NUMA; without a wish of its own a machine has what its room to grow needs."""
    before, extra = shape.stamp.settings, spec.extra_config
    changes: dict[str, object | None] = {}
    if extra.get(hardware.HOTPLUG) != before.get(hardware.HOTPLUG):
        grown = {word for word in ("cpu", "memory") if f"{word}.hot_add" in before}
        changes["hotplug"] = extra.get(hardware.HOTPLUG) or ",".join([*_FEATURES, *sorted(grown)])
    if extra.get(hardware.NUMA) != before.get(hardware.NUMA):
        wish = hardware.OUR_KEYS[hardware.NUMA].parameter(extra.get(hardware.NUMA, "0"))
        changes["numa"] = 1 if wish in ("1", "true") or "memory.hot_add" in before else None
    return changes


def _attached(shape: Shape, spec: v1.MachineSpec) -> dict[str, object | None]:
    """Every disk of ours, attached as the keys for disks say, if they say something else than before."""
    options, before = hardware.disk_options(spec.extra_config), hardware.disk_options(shape.extra)
    if options == before:
        return {}
    changes: dict[str, object | None] = {}
    for record in shape.stamp.disks:
        drive = disks.drive_in(shape.config, record.slot)
        if drive is not None:
            bare = drive.options.having(dict.fromkeys(("cache", "discard", "iothread", "ssd", "backup", "aio")))
            changes[record.slot] = str(disks.attached(bare, v1.DiskSpec(name=record.name), record.slot, options))
    return changes
