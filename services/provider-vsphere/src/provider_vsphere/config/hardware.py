"""Processor, memory, firmware and tuning as fields of a ConfigSpec. What the spec leaves unset stays unset, so that a
template's own value holds; only what an earlier spec asked for (`before`: the settings of the stamp) is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError
from providerkit.planner import DESCRIPTION_SETTING
from pyVmomi import vim

MIB = 1 << 20
MEMORY_STEP_MIB = 4
"""Source: VirtualMachineConfigSpec.memoryMB: a multiple of 4 MB."""
UNLIMITED = -1
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
HARDWARE_VERSION_KEY = "vsphere.hardwareVersion"
GUEST_ID_KEY = "vsphere.guestId"
CHANGE_TRACKING_KEY = "vsphere.changeTracking"
UPGRADE_POLICY_KEY = "vsphere.hardwareUpgradePolicy"
NESTED, _IOMMU, _VBS = "cpu.nested_virtualization", "tuning.iommu", "tuning.virtualization_based_security"
_LATENCY = "tuning.latency_sensitivity"
"""Settings of the stamp."""
OUR_KEYS = (HARDWARE_VERSION_KEY, GUEST_ID_KEY, CHANGE_TRACKING_KEY, UPGRADE_POLICY_KEY)
"""Keys of extra_config that are fields of vSphere's own and no extra configuration there."""


def memory_mb(size: int) -> int:
    """MiB that a machine of this many bytes gets: never less, and what vSphere accepts."""
    return _ceil(size, MEMORY_STEP_MIB * MIB) * MEMORY_STEP_MIB


def set_cpu(config: Any, cpu: v1.CpuSpec, *, live: bool = False, before: Mapping[str, str] = _NOTHING) -> None:
    """Args: live: only what a running machine takes."""
    config.numCPUs = cpu.count or 1
    reservation = _or_none(cpu.reservation_mhz, "cpu.reservation_mhz", before)
    limit = _or_none(cpu.limit_mhz, "cpu.limit_mhz", before)
    config.cpuAllocation = _allocation(reservation, limit, _or_none(cpu.shares, "cpu.shares", before))
    if live:
        return
    if cpu.cores_per_socket:
        config.numCoresPerSocket = cpu.cores_per_socket
    if cpu.hot_add:
        config.cpuHotAddEnabled = True
    if cpu.nested_virtualization:
        config.nestedHVEnabled = True
    elif NESTED in before and _VBS not in before:
        config.nestedHVEnabled = False


def set_memory(config: Any, memory: v1.MemorySpec, *, live: bool = False, before: Mapping[str, str] = _NOTHING) -> None:
    """Args: live: only what a running machine takes."""
    config.memoryMB = memory_mb(memory.size_bytes)
    reservation = _or_none(memory.reservation_bytes, "memory.reservation_bytes", before)
    limit = _or_none(memory.limit_bytes, "memory.limit_bytes", before)
    reservation, limit = (None if value is None else _ceil(value, MIB) for value in (reservation, limit))
    config.memoryAllocation = _allocation(reservation, limit, None)
    if memory.hot_add and not live:
        config.memoryHotAddEnabled = True


def _or_none(value: int | None, field: str, before: Mapping[str, str]) -> int | None:
    """The value; 0, which stands for none, where an earlier spec had one; None leaves what is there."""
    return 0 if value is None and field in before else value


def _allocation(reservation: int | None, limit: int | None, shares: int | None) -> Any:
    """In MHz or MiB; None leaves everything. A limit of 0 means none, in our API as in most; so do shares of 0."""
    if reservation is None and limit is None and shares is None:
        return None
    allocation: Any = vim.ResourceAllocationInfo()  # pyvmomi's stubs take its numbers for None
    if reservation is not None:
        allocation.reservation = reservation
    if limit is not None:
        allocation.limit = limit or UNLIMITED
    if shares is not None:
        level = vim.SharesInfo.Level.custom if shares else vim.SharesInfo.Level.normal
        allocation.shares = vim.SharesInfo(level=level, shares=shares)
    return allocation


def set_firmware(config: Any, spec: v1.MachineSpec) -> None:
    """Firmware, with EFI for all that needs it. The TPM itself is a device: see `wants_tpm`.

    Raises:
        InvalidSpecError: BIOS is asked for together with something that needs EFI; or a TPM other than 2.0.
    """
    firmware = spec.firmware or v1.FirmwareSpec()
    vbs = bool(spec.tuning and spec.tuning.virtualization_based_security)
    wishes = {
        "firmware.secure_boot": firmware.secure_boot,
        "firmware.tpm": firmware.tpm,
        "tuning.virtualization_based_security": vbs,
    }
    needing = [field for field, wish in wishes.items() if wish]
    if needing and firmware.type is v1.FirmwareType.BIOS:
        raise InvalidSpecError(f"{', '.join(needing)}: needs firmware.type UEFI, BIOS is given")
    if firmware.tpm and firmware.tpm_version not in ("", "2.0"):
        raise InvalidSpecError(f"firmware.tpm_version: vSphere's TPM is 2.0, {firmware.tpm_version} is given")
    if needing or firmware.type is v1.FirmwareType.UEFI:
        config.firmware = "efi"
    elif firmware.type is v1.FirmwareType.BIOS:
        config.firmware = "bios"
    if firmware.secure_boot or vbs:
        config.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=True)


def wants_tpm(spec: v1.MachineSpec) -> bool:
    """Whether a VirtualTPM belongs into the machine."""
    return bool(spec.firmware and spec.firmware.tpm)


def set_tuning(config: Any, spec: v1.MachineSpec, *, before: Mapping[str, str] = _NOTHING) -> None:
    """Flags and latency sensitivity.

    Virtualization-based security stands on the IOMMU, on nested virtualization and on secure boot (`set_firmware`): one
    without the others is refused by vSphere. High latency sensitivity needs all memory reserved to start at all.
    """
    tuning = spec.tuning or v1.Tuning()
    vbs = tuning.virtualization_based_security
    if tuning.iommu or vbs or _IOMMU in before or _VBS in before:
        config.flags = vim.vm.FlagInfo(vvtdEnabled=tuning.iommu or vbs)
    if vbs:
        config.flags.vbsEnabled = True
        config.nestedHVEnabled = True
    elif _VBS in before:
        config.flags.vbsEnabled = False
        if not (spec.cpu and spec.cpu.nested_virtualization):
            config.nestedHVEnabled = False
    level, was = tuning.latency_sensitivity, before.get(_LATENCY, "")
    if level or was:
        config.latencySensitivity = vim.LatencySensitivity(level=level or "normal")
    reserved = spec.memory.reservation_bytes if spec.memory is not None else None
    if level == "high" and reserved is None:
        config.memoryReservationLockedToMax = True
    elif was == "high":
        config.memoryReservationLockedToMax = False
        config.memoryAllocation = _allocation(_ceil(reserved or 0, MIB), None, None)


def hardware_version(spec: v1.MachineSpec) -> str:
    """The virtual hardware that the spec asks for: "vmx-19"; empty for none. Only a new machine takes it as a field; a
    clone has its template's, and is upgraded by UpgradeVM_Task.

    Raises:
        InvalidSpecError: no hardware version.
    """
    wish = spec.extra_config.get(HARDWARE_VERSION_KEY, "").strip().lower()
    number = wish.removeprefix("vmx-")
    if wish and not (number.isascii() and number.isdigit()):
        raise InvalidSpecError(f"extra_config[{HARDWARE_VERSION_KEY}]: must be a number as in vmx-19")
    return f"vmx-{int(number):02d}" if wish else ""


def version_number(version: str) -> int:
    """19 of "vmx-19"; 0 for what is no version."""
    number = version.strip().lower().removeprefix("vmx-")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0


def set_upgrade_policy(config: Any, spec: v1.MachineSpec, *, before: Mapping[str, str] = _NOTHING) -> None:
    """Whether vSphere itself brings the virtual hardware to its newest version: never, onSoftPowerOff or always.

    Raises:
        InvalidSpecError: none of these.
    """
    wish, policy = spec.extra_config.get(UPGRADE_POLICY_KEY, "").strip(), vim.vm.ScheduledHardwareUpgradeInfo
    known = ("never", "onSoftPowerOff", "always")
    if wish and wish not in known:
        raise InvalidSpecError(f"extra_config[{UPGRADE_POLICY_KEY}]: is none of {', '.join(known)}")
    if wish or UPGRADE_POLICY_KEY in before:
        config.scheduledHardwareUpgradeInfo = policy(upgradePolicy=wish or "never")


def set_guest_id(config: Any, spec: v1.MachineSpec) -> None:
    """The operating system that vSphere takes the guest for: "debian12_64Guest"."""
    if wish := spec.extra_config.get(GUEST_ID_KEY, "").strip():
        config.guestId = printable(wish)


def set_change_tracking(config: Any, spec: v1.MachineSpec, *, before: Mapping[str, str] = _NOTHING) -> None:
    """Have vSphere note which blocks of its disks a machine writes, from its next start or snapshot on.

    Raises:
        InvalidSpecError: it says neither yes nor no.
    """
    wish = spec.extra_config.get(CHANGE_TRACKING_KEY, "").strip().lower()
    if wish not in ("", "1", "true", "0", "false"):
        raise InvalidSpecError(f"extra_config[{CHANGE_TRACKING_KEY}]: must be true or false")
    if wish or CHANGE_TRACKING_KEY in before:
        config.changeTrackingEnabled = wish in ("1", "true")


def asked(spec: v1.MachineSpec) -> dict[str, str]:
    """What the spec asks for that is no field of `v1.Machine`, by dotted field: for the stamp's settings, where
    `observed` finds it again exactly as it was asked, whatever vSphere rounded it to."""
    cpu, memory = spec.cpu or v1.CpuSpec(), spec.memory or v1.MemorySpec()
    tuning = spec.tuning or v1.Tuning()
    numbers = {
        "cpu.reservation_mhz": cpu.reservation_mhz,
        "cpu.limit_mhz": cpu.limit_mhz,
        "cpu.shares": cpu.shares,
        "memory.reservation_bytes": memory.reservation_bytes,
        "memory.limit_bytes": memory.limit_bytes,
    }
    found = {field: str(value) for field, value in numbers.items() if value is not None}
    if memory_mb(memory.size_bytes) * MIB != memory.size_bytes:
        found["memory.size_bytes"] = str(memory.size_bytes)
    flags = {NESTED: cpu.nested_virtualization, _IOMMU: tuning.iommu, _VBS: tuning.virtualization_based_security}
    found |= {field: "true" for field, wish in flags.items() if wish}
    if tuning.latency_sensitivity not in ("", "normal"):
        found[_LATENCY] = tuning.latency_sensitivity
    if spec.description:
        found[DESCRIPTION_SETTING] = "true"
    for disk in spec.disks:
        found |= asked_of_disk(disk)
    found |= {f"nics[{nic.name}].mtu": str(nic.mtu) for nic in spec.nics if nic.mtu}
    return found | dict(spec.extra_config)


def asked_of_disk(disk: v1.DiskSpec) -> dict[str, str]:
    """The same of one disk."""
    found = {f"disks[{disk.name}].iops_limit": str(disk.iops_limit)} if disk.iops_limit else {}
    if disk.sharing not in ("", "noSharing"):
        found[f"disks[{disk.name}].sharing"] = disk.sharing
    if disk.storage_policy:
        found[f"disks[{disk.name}].storage_policy"] = disk.storage_policy
    return found


def printable(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold, and SOAP with it."""
    return "".join(
        ch for ch in text if ch in "\t\n\r" or " " <= ch <= "\ud7ff" or "\ue000" <= ch <= "\ufffd" or ch > "\uffff"
    )


def _ceil(count: int, step: int) -> int:
    return -(-count // step)
