"""Processor, memory, firmware, tuning, and keys of the hypervisor's own."""

from __future__ import annotations

from common import v1

from providerkit.violations import size

from .situation import OFF, Situation, because, mib, never

_Kind = v1.ChangeKind
_Effect = v1.Effect


def cpu(at: Situation) -> list[v1.Change]:
    """Count, topology, room to grow, share of the host."""
    want, seen = at.want.cpu or v1.CpuSpec(), at.seen.cpu
    if seen is None:
        return []
    changes = []
    if count := _cpu_count(at, want, seen):
        changes.append(count)
    if want.cores_per_socket and seen.cores_per_socket and want.cores_per_socket != seen.cores_per_socket:
        message = f"change cores per socket from {seen.cores_per_socket} to {want.cores_per_socket}"
        changes.append(at.needs_off(_Kind.SET_CPU, "cpu.cores_per_socket", message, "CpuTopologyFixedWhileOn"))
    if want.nested_virtualization and not seen.nested_virtualization:
        message = "switch nested virtualization on"
        changes.append(at.needs_off(_Kind.SET_CPU, "cpu.nested_virtualization", message, "CpuModelFixedWhileOn"))
    elif at.seen.settings.get("cpu.nested_virtualization") == "true" and not want.nested_virtualization:
        message = "switch nested virtualization off"
        changes.append(at.needs_off(_Kind.SET_CPU, "cpu.nested_virtualization", message, "CpuModelFixedWhileOn"))
    full = at.limits.max_cpus and want.count >= at.limits.max_cpus
    used_up = seen.max_count and seen.max_count <= want.count and not full
    if want.hot_add and used_up and not at.had_room("cpu.hot_add"):
        message = f"leave room for more than {seen.max_count} CPUs"
        changes.append(at.needs_off(_Kind.SET_CPU, "cpu.hot_add", message, "CpuCeilingFixedWhileOn"))
    for name in ("reservation_mhz", "limit_mhz", "shares"):
        changes += at.setting(_Kind.SET_CPU, f"cpu.{name}", _number(getattr(want, name)), live=True)
    return changes


def _cpu_count(at: Situation, want: v1.CpuSpec, seen: v1.CpuState) -> v1.Change | None:
    configured = seen.configured_count or seen.count
    now = configured if at.seen.power is OFF else seen.count
    if not want.count or (want.count == now and want.count == configured):
        return None
    reasons = []
    if want.count == configured:
        reasons.append(because("AwaitsRestart", f"it is written and holds after a restart; {now} now"))
    elif want.count < now:
        reasons.append(because("CpuHotRemoveUnsupported", "CPUs are not taken from a running machine"))
    elif want.count > now:
        if not at.can.cpu_hot_add:
            reasons.append(because("CpuHotAddUnsupported", "this provider adds no CPUs to a running machine"))
        if seen.max_count and want.count > seen.max_count:
            reasons.append(
                because("CpuCeilingReached", f"the running machine takes no more than {seen.max_count} of them")
            )
    message = f"change CPUs from {now} to {want.count}"
    return at.shape(_Kind.SET_CPU, "cpu.count", message, reasons)


def memory(at: Situation) -> list[v1.Change]:
    """Size, room to grow, share of the host."""
    want, seen = at.want.memory or v1.MemorySpec(), at.seen.memory
    if seen is None:
        return []
    changes = []
    if change := _memory_size(at, want, seen):
        changes.append(change)
    full = at.limits.max_memory_bytes and want.size_bytes >= at.limits.max_memory_bytes
    used_up = seen.max_bytes and mib(seen.max_bytes) <= mib(want.size_bytes) and not full
    if want.hot_add and used_up and not at.had_room("memory.hot_add"):
        message = f"leave room for more than {size(seen.max_bytes)} of memory"
        changes.append(at.needs_off(_Kind.SET_MEMORY, "memory.hot_add", message, "MemoryCeilingFixedWhileOn"))
    for name in ("reservation_bytes", "limit_bytes"):
        changes += at.setting(_Kind.SET_MEMORY, f"memory.{name}", _number(getattr(want, name)), live=True)
    return changes


def _memory_size(at: Situation, want: v1.MemorySpec, seen: v1.MemoryState) -> v1.Change | None:
    configured = seen.configured_bytes or seen.size_bytes
    now = configured if at.seen.power is OFF else seen.size_bytes
    wish = mib(want.size_bytes)
    if not wish or (wish == mib(now) and wish == mib(configured)):
        return None
    reasons = []
    if wish == mib(configured):
        reasons.append(because("AwaitsRestart", f"it is written and holds after a restart; {size(now)} now"))
    elif wish < mib(now):
        reasons.append(because("MemoryShrinkUnsupported", "memory is not taken from a running machine"))
    elif wish > mib(now):
        if not at.can.memory_hot_add:
            reasons.append(because("MemoryHotAddUnsupported", "this provider adds no memory to a running machine"))
        if seen.max_bytes and wish > mib(seen.max_bytes):
            reasons.append(because("MemoryCeilingReached", f"the running machine takes at most {size(seen.max_bytes)}"))
    message = f"change memory from {size(now)} to {size(want.size_bytes)}"
    return at.shape(_Kind.SET_MEMORY, "memory.size_bytes", message, reasons)


def firmware(at: Situation) -> list[v1.Change]:
    """What is installed depends on it: it is only ever added to."""
    want, seen = at.want.firmware, at.seen.firmware
    if want is None or seen is None:
        return []
    known = v1.FirmwareType.UNSPECIFIED
    if want.type is not known and seen.type is not known and want.type is not seen.type:
        message = f"change firmware from {seen.type.name} to {want.type.name}"
        why = "what is installed on the boot disk starts under one firmware only"
        return [never(_Kind.SET_FIRMWARE, "firmware.type", message, _Effect.RECREATE, "FirmwareFixed", why)]
    changes = []
    if want.secure_boot and not seen.secure_boot:
        message = "switch secure boot on"
        changes.append(at.needs_off(_Kind.SET_FIRMWARE, "firmware.secure_boot", message, "FirmwareFixedWhileOn"))
    if want.tpm and not seen.tpm:
        changes.append(at.needs_off(_Kind.SET_FIRMWARE, "firmware.tpm", "add a TPM", "FirmwareFixedWhileOn"))
    elif want.tpm and want.tpm_version and seen.tpm_version and want.tpm_version != seen.tpm_version:
        message = f"change TPM from {seen.tpm_version} to {want.tpm_version}"
        why = "the keys in the TPM would be lost"
        changes.append(never(_Kind.SET_FIRMWARE, "firmware.tpm_version", message, _Effect.RECREATE, "TpmFixed", why))
    return changes


def tuning(at: Situation) -> list[v1.Change]:
    """Flags and policies."""
    tuning = at.want.tuning or v1.Tuning()
    wishes = {
        "iommu": "true" if tuning.iommu else "",
        "virtualization_based_security": "true" if tuning.virtualization_based_security else "",
        "latency_sensitivity": tuning.latency_sensitivity.replace("normal", ""),
        "hyper_threading_policy": tuning.hyper_threading_policy.replace("auto", ""),
        "encryption": "true" if tuning.encryption else "",
        "encryption_key_provider": tuning.encryption_key_provider,
    }
    fields = [(f"tuning.{name}", wish) for name, wish in wishes.items()]
    if at.want.guest_tools_policy not in ("", "skip"):
        fields.append(("guest_tools_policy", at.want.guest_tools_policy))
    return [change for field, wish in fields for change in at.setting(_Kind.SET_TUNING, field, wish, live=False)]


def extra_config(at: Situation) -> list[v1.Change]:
    """Values are not shown: nobody knows what they hold."""
    changes, wishes = [], at.want.extra_config
    for key in sorted(wishes.keys() | (set(at.can.extra_config_keys) & at.seen.settings.keys())):
        if at.seen.settings.get(key) != wishes.get(key):
            message = f"set extra configuration {key}" if key in wishes else f"take extra configuration {key} off"
            field = f"extra_config[{key}]"
            reason = because("ReadAtStart", "the hypervisor reads it when the machine starts")
            changes.append(at.shape(_Kind.SET_EXTRA_CONFIG, field, message, [reason], subject=key))
    return changes


def gpus(at: Situation) -> list[v1.Change]:
    """Given when a machine is made, and never later."""
    wish = ",".join(f"{gpu.count}x{gpu.model}" for gpu in at.want.gpus)
    have = at.seen.settings.get("gpus", "")
    if wish == have or (not wish and "gpus" in at.refused):
        return []
    message = f"change GPUs to {wish}" if wish else f"take GPUs {have} off"
    why = "GPUs are given when a machine is made"
    return [never(_Kind.SET_TUNING, "gpus", message, _Effect.RECREATE, "GpusFixed", why)]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
