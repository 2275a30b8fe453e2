"""Processor, memory, firmware and options of a guest as parameters of the API, and the keys of `extra_config` that are
fields of Proxmox VE's own. What the spec leaves unset stays unset, so that a template's own value holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from common import v1
from common.errors import InvalidSpecError
from providerkit.planner import DESCRIPTION_SETTING

from provider_proxmox.config import properties, sizes
from provider_proxmox.config.disks import CONTROLLERS, Options

Params = dict[str, object]
"""Parameters of a call by their names in the API."""

DEFAULT_CPU: Final = "x86-64-v2-AES"
"""Runs on every node that is younger than 2010, so that a machine can move between them."""
DEFAULT_MACHINE: Final = "q35"
HOT_ADD_FACTOR, HOT_ADD_MOST = 4, 16
"""CPUs to leave room for: so many times the count, at most so many."""
HOT_ADD_MEMORY: Final = 1 << 30
"""A smaller machine cannot have memory added. Source: PVE::QemuServer::Memory, static memory of 1024 MiB."""
NESTED, IOMMU = "cpu.nested_virtualization", "tuning.iommu"
"""Settings of the stamp."""
VMID, HA, BOOT_DATA, BALLOON = "proxmox.vmid", "proxmox.ha", "proxmox.bootData", "proxmox.balloon"
CPU_TYPE, NUMA, MACHINE, SCSI, HOTPLUG = (
    "proxmox.cpuType", "proxmox.numa", "proxmox.machine", "proxmox.scsiHardware", "proxmox.hotplug",
)  # fmt: skip
SUSPEND_TO = "proxmox.suspendTo"
HA_STATES: Final = ("started", "stopped", "ignored", "disabled")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_OS_TYPES: Final = (
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26", "solaris",
)  # fmt: skip
_MAPPING: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]+")
"""Source: format pve-configid of the API schema."""
_FEATURES: Final = {"network", "disk", "cpu", "memory", "usb", "cloudinit"}


# -- keys of extra_config ----------------------------------------------------------------------------------------------


def _one_of(*words: str) -> Callable[[str], str]:
    return lambda value: "" if value in words else f"is none of {', '.join(words)}"


def _like(pattern: str, example: str) -> Callable[[str], str]:
    return lambda value: "" if re.fullmatch(pattern, value) else f"must be like {example}"


def _switch(value: str) -> str:
    return "" if value.lower() in (*_TRUE, *_FALSE) else "must be true or false"


def _features(value: str) -> str:
    good = value in ("0", "1") or not set(value.split(",")) - _FEATURES
    return "" if good else f"is neither 0 nor a list of {', '.join(sorted(_FEATURES))}"


def _limit(value: str) -> str:
    good = re.fullmatch(r"\d{1,3}(\.\d+)?", value) is not None and float(value) <= 128
    return "" if good else "must be a number of CPUs, at most 128"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of extra_config."""

    check: Callable[[str], str]
    """What is wrong with a value; empty when nothing is."""
    field: str = ""
    """Option of the configuration that takes the value as it is; empty for those that are worked into others."""
    switch: bool = False

    def parameter(self, value: str) -> str:
        """The value as the API takes it."""
        return str(int(value.lower() in _TRUE)) if self.switch else value


OUR_KEYS: Final[Mapping[str, Key]] = {
    VMID: Key(_like(r"[1-9]\d{2,8}", "1042, from 100 to 999999999")),
    CPU_TYPE: Key(_like(r"[\w.+-]+(,[\w-]+=[\w+;.-]+)*", "host or x86-64-v3,flags=+aes")),
    NUMA: Key(_switch),
    "proxmox.cpuLimit": Key(_limit, "cpulimit"),
    MACHINE: Key(_like(r"(pc|q35|pc-(i440fx|q35)-[\w.+-]+|virt[\w.+-]*)(,[\w-]+=[\w-]+)*", "q35 or pc-q35-9.2")),
    SCSI: Key(_one_of(*CONTROLLERS), "scsihw"),
    HOTPLUG: Key(_features),
    "proxmox.onBoot": Key(_switch, "onboot", switch=True),
    "proxmox.startup": Key(_like(r"(order=)?\d*(,?(up|down)=\d+)*", "order=2,up=30"), "startup"),
    "proxmox.protection": Key(_switch, "protection", switch=True),
    "proxmox.osType": Key(_one_of(*_OS_TYPES), "ostype"),
    HA: Key(_one_of(*HA_STATES)),
    "proxmox.diskCache": Key(_one_of("none", "writethrough", "writeback", "unsafe", "directsync")),
    "proxmox.diskDiscard": Key(_switch, switch=True),
    "proxmox.diskIothread": Key(_switch, switch=True),
    "proxmox.diskSsd": Key(_switch, switch=True),
    "proxmox.diskBackup": Key(_switch, switch=True),
    "proxmox.diskAio": Key(_one_of("native", "threads", "io_uring")),
    BOOT_DATA: Key(_one_of("iso", "snippets", "native")),
    SUSPEND_TO: Key(_one_of("ram", "disk")),
    BALLOON: Key(_like(r"0|[1-9]\d{1,7}", "512 (MiB), or 0 for no balloon device")),
}
"""Keys of extra_config that mean something here; each says what is wrong with a value."""


def check(spec: v1.MachineSpec) -> None:
    """Raises: InvalidSpecError: names every key that Proxmox VE cannot take so."""
    wrong = []
    for name, value in spec.extra_config.items():
        key = OUR_KEYS.get(name)
        why = "means nothing on Proxmox VE" if key is None else key.check(value.strip())
        if why:
            wrong.append(f"extra_config[{name}]: {why}")
    reserved = spec.memory.reservation_bytes if spec.memory is not None else None
    if reserved is not None and BALLOON in spec.extra_config:
        wrong.append(f"extra_config[{BALLOON}]: memory.reservation_bytes is given as well; they are the same here")
    if wrong:
        raise InvalidSpecError("; ".join(wrong))


def plain_options(extra: Mapping[str, str]) -> Params:
    """Options that take their key's value as it is."""
    found: Params = {}
    for name, key in OUR_KEYS.items():
        if key.field and (wish := _wish(extra, name)):
            found[key.field] = key.parameter(wish)
    return found


def disk_options(extra: Mapping[str, str], *, only_asked: bool = False) -> Options:
    """How disks of the machine are attached.

    Args:
        only_asked: nothing but what the keys say; a template's disk keeps the rest of its own.
    """
    trim, threads = ("", "") if only_asked else ("1", "1")

    def flag(name: str, default: str) -> str:
        wish = _wish(extra, name)
        return OUR_KEYS[name].parameter(wish) if wish else default

    return Options(
        cache=_wish(extra, "proxmox.diskCache"),
        discard={"1": "on", "0": "ignore"}.get(flag("proxmox.diskDiscard", trim), ""),
        iothread=flag("proxmox.diskIothread", threads),
        ssd=flag("proxmox.diskSsd", ""),
        backup=flag("proxmox.diskBackup", ""),
        aio=_wish(extra, "proxmox.diskAio"),
    )


def explicit_vmid(spec: v1.MachineSpec) -> int:
    """The VMID that the spec asks for; 0 for none."""
    return int(_wish(spec.extra_config, VMID) or "0")


def _wish(extra: Mapping[str, str], name: str) -> str:
    return extra.get(name, "").strip()


# -- processor and memory ----------------------------------------------------------------------------------------------


def ceiling(cpu: v1.CpuSpec, node_cpus: int) -> int:
    """CPUs that the machine could have without a restart; whole sockets.

    Args:
        node_cpus: CPUs of the node, which starts no machine that could have more; 0 where that is not known.
    """
    count = cpu.count or 1
    if not cpu.hot_add:
        return count
    most = max(count, min(count * HOT_ADD_FACTOR, HOT_ADD_MOST))
    if node_cpus:
        most = max(count, min(most, node_cpus))
    per_socket = cpu.cores_per_socket or 1
    return max(most - most % per_socket, count)


def cpu(spec: v1.MachineSpec, node_cpus: int, *, old_type: str = "") -> Params:
    """Count, topology, type and weight of the CPUs.

    Args:
        old_type: value of `cpu` that is there now, or what a new machine has if nothing is asked for.
    """
    wish, extra = spec.cpu or v1.CpuSpec(), spec.extra_config
    most = ceiling(wish, node_cpus)
    cores = wish.cores_per_socket or most
    found: Params = {"sockets": most // cores, "cores": cores}
    if most != (wish.count or 1):
        found["vcpus"] = wish.count or 1
    kind = cpu_type(wish, extra, old_type)
    if kind:
        found["cpu"] = kind
    if wish.shares:
        found["cpuunits"] = wish.shares
    return found


def cpu_type(cpu: v1.CpuSpec, extra: Mapping[str, str], old: str = "") -> str:
    """Value of `cpu`: a guest that starts guests of its own sees the CPU of the node, unless another is asked for."""
    wish = _wish(extra, CPU_TYPE)
    if not cpu.nested_virtualization:
        return wish or old
    if not wish:
        return "host"
    kind = properties.parse(wish)
    if kind.head in ("host", "max"):
        return wish
    flags = [flag for flag in kind.get("flags").split(";") if flag and flag.lstrip("+-") != "nested-virt"]
    return str(kind.having({"flags": ";".join([*flags, "+nested-virt"])}))


def is_nested(cpu_value: object) -> bool:
    """Whether a guest with this `cpu` can start guests of its own."""
    kind = properties.parse(cpu_value)
    return kind.head in ("host", "max") or "+nested-virt" in kind.get("flags").split(";")


def memory(spec: v1.MachineSpec) -> Params:
    """Size, and what the balloon may take of it."""
    found: Params = {}
    wish = spec.memory
    if wish is not None:
        found["memory"] = sizes.mib(wish.size_bytes)
        if wish.reservation_bytes is not None:
            found["balloon"] = sizes.mib(wish.reservation_bytes)
    if balloon := _wish(spec.extra_config, BALLOON):
        found["balloon"] = int(balloon)
    return found


def hotplug(spec: v1.MachineSpec) -> Params:
    """What may come and go while the machine runs; memory can only with NUMA."""
    wish, extra = spec.memory or v1.MemorySpec(), spec.extra_config
    grows = wish.hot_add and wish.size_bytes >= HOT_ADD_MEMORY
    features = ["network", "disk", "usb"]
    features += ["cpu"] if spec.cpu is not None and spec.cpu.hot_add else []
    features += ["memory"] if grows else []
    asked = _wish(extra, HOTPLUG)
    numa = grows or _wish(extra, NUMA).lower() in _TRUE
    return {"hotplug": asked or ",".join(features)} | ({"numa": 1} if numa else {})


def asks_hotplug(spec: v1.MachineSpec) -> bool:
    """Whether the spec says anything of what may come and go."""
    grows = any(each is not None and each.hot_add for each in (spec.cpu, spec.memory))
    return grows or bool(_wish(spec.extra_config, HOTPLUG))


# -- firmware and the rest ---------------------------------------------------------------------------------------------


def is_uefi(spec: v1.MachineSpec) -> bool:
    """Whether the machine needs UEFI.

    Raises:
        InvalidSpecError: BIOS is asked for together with what needs UEFI.
    """
    firmware = spec.firmware or v1.FirmwareSpec()
    if firmware.secure_boot and firmware.type is v1.FirmwareType.BIOS:
        raise InvalidSpecError("firmware.secure_boot: needs firmware.type UEFI, BIOS is given")
    return firmware.secure_boot or firmware.type is v1.FirmwareType.UEFI


def firmware(spec: v1.MachineSpec, storage: str, format: str = "") -> Params:
    """Firmware, with volumes for its variables and for the state of a TPM.

    Args:
        storage: where these volumes are made.
        format: of the file with the variables; the state of a TPM is always raw.
    """
    wish = spec.firmware or v1.FirmwareSpec()
    found: Params = {}
    if is_uefi(spec):
        keys = "1" if wish.secure_boot else "0"
        found["bios"] = "ovmf"
        found["efidisk0"] = str(properties.of(f"{storage}:1", efitype="4m", pre_enrolled_keys=keys, format=format))
    elif wish.type is v1.FirmwareType.BIOS:
        found["bios"] = "seabios"
    if wish.tpm:
        found["tpmstate0"] = tpm(wish, storage)
    return found


def tpm(wish: v1.FirmwareSpec, storage: str) -> str:
    """Value of `tpmstate0` for a new TPM."""
    return str(properties.of(f"{storage}:1", version=f"v{wish.tpm_version or '2.0'}"))


def machine(spec: v1.MachineSpec, old: str = "") -> Params:
    """Chipset, and an IOMMU for the guest where it asks for one.

    Args:
        old: value of `machine` that is there now, or what a new machine has if nothing is asked for.
    """
    text = _wish(spec.extra_config, MACHINE) or old
    if spec.tuning is None or not spec.tuning.iommu:
        return {"machine": text} if text else {}
    kind = properties.parse(text)
    chipset = kind.head or kind.get("type")
    if not chipset:
        kind, chipset = properties.of(DEFAULT_MACHINE), DEFAULT_MACHINE
    if "q35" not in chipset:
        raise InvalidSpecError(f"tuning.iommu: needs machine q35, it is {chipset}; set extra_config[{MACHINE}]")
    return {"machine": str(kind.having({"viommu": "intel"}))}


def gpus(spec: v1.MachineSpec) -> Params:
    """Devices of the nodes by the name of their PCI mapping, which says what each node has of them.

    Raises:
        InvalidSpecError: what is no name of a mapping, or too many.
    """
    found: Params = {}
    for gpu in spec.gpus:
        if not _MAPPING.fullmatch(gpu.model):
            raise InvalidSpecError(f"gpus: model {gpu.model!r} is no name of a PCI mapping of the cluster")
        for _ in range(gpu.count):
            found[f"hostpci{len(found)}"] = str(properties.of("", mapping=gpu.model, pcie="1"))
    if len(found) > 16:
        raise InvalidSpecError(f"gpus: {len(found)} given, a machine takes at most 16")
    return found


def asked(spec: v1.MachineSpec) -> dict[str, str]:
    """What the spec asks for that is no field of `v1.Machine`, by dotted field: for the stamp's settings, where it is
    found again exactly as it was asked, whatever Proxmox VE rounded it to."""
    cpu, memory = spec.cpu or v1.CpuSpec(), spec.memory or v1.MemorySpec()
    numbers = {"cpu.shares": cpu.shares, "memory.reservation_bytes": memory.reservation_bytes}
    found = {field: str(value) for field, value in numbers.items() if value is not None}
    flags = {
        NESTED: cpu.nested_virtualization,
        IOMMU: bool(spec.tuning and spec.tuning.iommu),
        "cpu.hot_add": cpu.hot_add,
        "memory.hot_add": memory.hot_add,
        DESCRIPTION_SETTING: bool(spec.description),
    }
    found |= {field: "true" for field, wish in flags.items() if wish}
    found |= {f"disks[{disk.name}].iops_limit": str(disk.iops_limit) for disk in spec.disks if disk.iops_limit}
    if spec.gpus:
        found["gpus"] = ",".join(f"{gpu.count}x{gpu.model}" for gpu in spec.gpus)
    return found | dict(spec.extra_config)
