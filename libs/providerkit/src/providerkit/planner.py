"""Deciding what separates a machine from its spec: pure functions, the same for every provider.

What is compared with what
- Native fields of `v1.Machine` where it has them.
- `Machine.settings` for the rest, by the dotted field of the spec: "cpu.shares", "tuning.iommu",
  "disks[data].iops_limit", "placement.folder"; keys of extra_config stand for themselves; BOOT_DATA_SETTING holds
  `boot_data_digest`, and "placement.affinity[db]" the `affinity_words` of a rule.
- A fact that the hypervisor does not tell is never a difference.

What the spec no longer says
- What our record says was asked for earlier, and is asked for no longer, is a difference: it is taken off again. The
  record is what only we write: names of disks and NICs, `Machine.tags`, and the keys of `Machine.settings`. A driver
  never puts there what came with a template or a person; DESCRIPTION_SETTING says that the description is ours.
- What came from elsewhere is left alone: devices without a name, settings without a key, and the NICs and disks of an
  adopted machine (ADOPTED_SETTING) whose spec lists none: nobody may ever have described them.
- Some things are left to the provider once they are not asked for, because taking them away makes no sense: firmware,
  secure boot and TPM (what is installed would not start, or lose its keys), first-boot data and customization (the
  guest has read it), where the machine is, its topology, room to grow (a ceiling that nobody sees), the MAC and model
  of a NIC, the policy of guest tools (done is done), and the power state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from common import v1, wire
from common.errors import InvalidSpecError

from .refusals import Refusal, narrow
from .violations import MIB, check, plain, size

__all__ = [
    "ADOPTED_SETTING", "BOOT_DATA_SETTING", "DESCRIPTION_SETTING", "affinity_words", "boot_data_digest", "check",
    "hypervisor_name", "plan", "require_valid", "supported",
]  # fmt: skip

BOOT_DATA_SETTING = "boot-data"
"""Key of Machine.settings under which a driver reports `boot_data_digest` of the payload that it wrote."""

ADOPTED_SETTING = "adopted"
"""Key of Machine.settings, "true" on a machine that somebody else made and we adopted."""
DESCRIPTION_SETTING = "description"
"""Key of Machine.settings, "true" while the description is one that a spec asked for."""

LONGEST_NAME = 200
"""Characters; leaves room for the suffixes of files that hypervisors name after machines (255 is their end)."""

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
_Kind = v1.ChangeKind
_Effect = v1.Effect


def hypervisor_name(identity: v1.MachineIdentity) -> str:
    """Name on the hypervisor: unique in an installation, readable, free of anything a namespace or name cannot hold.

    One that is longer than LONGEST_NAME ends with a digest of the whole.
    """
    name = f"{identity.namespace}.{identity.name}"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST_NAME - 17]}-{digest}"


def boot_data_digest(spec: v1.MachineSpec) -> str:
    """sha256 over everything that the first-boot payload is made of; "" when the spec has none.

    Salted with the UID, so that equal payloads of two machines do not show as equal.
    """
    boot = spec.boot_data or v1.BootData()
    addressing = wire.codec(v1.GuestAddressing)
    nics = [
        [nic.name, nic.mac, addressing.dumps(nic.addressing).hex()]
        for nic in spec.nics
        if nic.addressing is not None and nic.addressing != v1.GuestAddressing()
    ]
    if boot == v1.BootData() and not nics:
        return ""
    uid = spec.identity.uid if spec.identity is not None else ""
    parts = [uid, boot.user_data, boot.meta_data, boot.ignition, boot.hostname, nics]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def affinity_words(rule: v1.AffinityRule) -> str:
    """What a rule asks for, as Machine.settings tells it: "apart", "together required"."""
    return ("apart" if rule.apart else "together") + (" required" if rule.required else "")


def require_valid(want: v1.MachineSpec | None, limits: v1.Limits | None = None) -> v1.MachineSpec:
    """The spec itself.

    Raises:
        InvalidSpecError: names every violation.
    """
    if want is None:
        raise InvalidSpecError("spec: is missing")
    if violations := check(want, limits):
        raise InvalidSpecError("; ".join(violations))
    return want


def supported(want: v1.MachineSpec, can: v1.Capabilities) -> v1.MachineSpec:
    """The part of the spec that this provider can have: what a driver is given to create."""
    return narrow(want, None, can)[0]


def plan(
    want: v1.MachineSpec, seen: v1.Machine | None, can: v1.Capabilities, limits: v1.Limits | None = None
) -> list[v1.Change]:
    """List what separates `seen` from `want`, in the order to do it; empty means settled.

    The order is safe: power off and resume come before the changes, power on after; what cannot be done is last.
    """
    narrowed, refused = narrow(want, seen, can)
    refusals = [refusal.change for refusal in refused]
    if seen is None:
        blocking = [reason for refusal in refused if refusal.blocking for reason in refusal.change.reasons]
        create = v1.Change(
            kind=_Kind.CREATE,
            effect=_Effect.UNSUPPORTED if blocking else _Effect.ONLINE,
            message=f"create machine {_label(want)}",
            reasons=blocking,
        )
        return [create, *refusals]
    return [*_Planner(narrowed, seen, can, limits or v1.Limits(), refused).changes(), *refusals]


class _Planner:
    """One plan in the making: what is wanted, seen and possible, and whether the machine is off when changes come."""

    def __init__(
        self, want: v1.MachineSpec, seen: v1.Machine, can: v1.Capabilities, limits: v1.Limits, refused: list[Refusal]
    ) -> None:
        self.want = want
        self.seen = seen
        self.can = can
        self.limits = limits
        self.blocked = {refusal.change.subject for refusal in refused if refusal.blocking}
        self.refused = {refusal.change.field for refusal in refused}
        self.adopted = seen.settings.get(ADOPTED_SETTING) == "true"
        self.wish = want.power.state if want.power is not None else v1.PowerState.UNSPECIFIED
        self.power = self._power()
        goes_off = self.wish is OFF and self.power is not None and self.power.effect is _Effect.ONLINE
        self.off = seen.power is OFF or goes_off
        self.running = not self.off and (seen.power is ON or (seen.power in (SUSPENDED, PAUSED) and self.wish is ON))

    def changes(self) -> list[v1.Change]:
        """Everything, in a safe order."""
        shape = [*self._cpu(), *self._memory(), *self._firmware(), *self._tuning(), *self._extra_config()]
        shape += [
            *self._disks(),
            *self._cdroms(),
            *self._nics(),
            *self._boot_data(),
            *self._placement(),
            *self._affinity(),
        ]
        shape += [*self._texts(), *self._attributes(), *self._gpus()]
        doable = [change for change in shape if change.effect is _Effect.ONLINE]
        waiting = [change for change in shape if change.effect is _Effect.RESTART]
        never = [change for change in shape if change.effect not in (_Effect.ONLINE, _Effect.RESTART)]
        power = [self.power] if self.power is not None else []
        power_first = bool(power) and self.seen.power is not OFF and self.wish in (ON, OFF)
        before, after = (power, []) if power_first else ([], power)
        return [*before, *doable, *waiting, *self._restart(), *after, *never]

    # -- effects ---------------------------------------------------------------------------------------------------

    def _shape(self, kind: v1.ChangeKind, field: str, message: str, live: Iterable[v1.Reason], *, subject: str = "",
               offline: bool = True, offline_code: str = "") -> v1.Change:  # fmt: skip
        """A change of shape. `live` lists what forbids it on a running machine; none left means ONLINE."""
        reasons = list(live)
        if self.off:
            reasons = [] if offline else [_reason(offline_code, "cannot be done while the machine is off")]
            effect = _Effect.ONLINE if offline else _Effect.UNSUPPORTED
        else:
            if not self.running:
                state = self.seen.power.name.lower() if self.seen.power.name else "in an unknown state"
                reasons.append(_reason("MachineNotRunning", f"the machine is {state}"))
            effect = _Effect.ONLINE
            if reasons:
                effect = _Effect.RESTART if offline else _Effect.UNSUPPORTED
            if reasons and not offline:
                reasons.append(_reason(offline_code, "cannot be done while the machine is off, either"))
        return v1.Change(kind=kind, field=field, subject=subject, effect=effect, message=message, reasons=reasons)

    def _needs_off(self, kind: v1.ChangeKind, field: str, message: str, code: str, *, subject: str = "") -> v1.Change:
        return self._shape(
            kind, field, message, [_reason(code, "cannot be changed while the machine runs")], subject=subject
        )

    def _setting(
        self, kind: v1.ChangeKind, field: str, value: str, *, live: bool, subject: str = ""
    ) -> list[v1.Change]:
        """A wish that Machine.settings tells: not there, it does not hold; an empty wish is that it shall not."""
        have = self.seen.settings.get(field, "")
        if have == value or (not value and field in self.refused):
            return []
        message = f"change {field} from {have} to {value}"
        if not (have and value):
            message = f"set {field} to {value}" if value else f"take {field} {have} off"
        reasons = [] if live else [_reason("ReadAtStart", "the hypervisor reads it when the machine starts")]
        return [self._shape(kind, field, message, reasons, subject=subject)]

    def _had_room(self, field: str) -> bool:
        """The machine was given room to grow, and its driver says so: room that is used up is as asked for."""
        return self.seen.settings.get(field) == "true"

    # -- processor, memory, firmware -------------------------------------------------------------------------------

    def _cpu(self) -> list[v1.Change]:
        want, seen = self.want.cpu or v1.CpuSpec(), self.seen.cpu
        if seen is None:
            return []
        changes = []
        if count := self._cpu_count(want, seen):
            changes.append(count)
        if want.cores_per_socket and seen.cores_per_socket and want.cores_per_socket != seen.cores_per_socket:
            message = f"change cores per socket from {seen.cores_per_socket} to {want.cores_per_socket}"
            changes.append(self._needs_off(_Kind.SET_CPU, "cpu.cores_per_socket", message, "CpuTopologyFixedWhileOn"))
        if want.nested_virtualization and not seen.nested_virtualization:
            message = "switch nested virtualization on"
            changes.append(self._needs_off(_Kind.SET_CPU, "cpu.nested_virtualization", message, "CpuModelFixedWhileOn"))
        elif self.seen.settings.get("cpu.nested_virtualization") == "true" and not want.nested_virtualization:
            message = "switch nested virtualization off"
            changes.append(self._needs_off(_Kind.SET_CPU, "cpu.nested_virtualization", message, "CpuModelFixedWhileOn"))
        full = self.limits.max_cpus and want.count >= self.limits.max_cpus
        used_up = seen.max_count and seen.max_count <= want.count and not full
        if want.hot_add and used_up and not self._had_room("cpu.hot_add"):
            message = f"leave room for more than {seen.max_count} CPUs"
            changes.append(self._needs_off(_Kind.SET_CPU, "cpu.hot_add", message, "CpuCeilingFixedWhileOn"))
        for name in ("reservation_mhz", "limit_mhz", "shares"):
            changes += self._setting(_Kind.SET_CPU, f"cpu.{name}", _number(getattr(want, name)), live=True)
        return changes

    def _cpu_count(self, want: v1.CpuSpec, seen: v1.CpuState) -> v1.Change | None:
        configured = seen.configured_count or seen.count
        now = configured if self.seen.power is OFF else seen.count
        if not want.count or (want.count == now and want.count == configured):
            return None
        reasons = []
        if want.count == configured:
            reasons.append(_reason("AwaitsRestart", f"it is written and holds after a restart; {now} now"))
        elif want.count < now:
            reasons.append(_reason("CpuHotRemoveUnsupported", "CPUs are not taken from a running machine"))
        elif want.count > now:
            if not self.can.cpu_hot_add:
                reasons.append(_reason("CpuHotAddUnsupported", "this provider adds no CPUs to a running machine"))
            if seen.max_count and want.count > seen.max_count:
                reasons.append(_reason("CpuCeilingReached", f"the running machine takes at most {seen.max_count} CPUs"))
        message = f"change CPUs from {now} to {want.count}"
        return self._shape(_Kind.SET_CPU, "cpu.count", message, reasons)

    def _memory(self) -> list[v1.Change]:
        want, seen = self.want.memory or v1.MemorySpec(), self.seen.memory
        if seen is None:
            return []
        changes = []
        if change := self._memory_size(want, seen):
            changes.append(change)
        full = self.limits.max_memory_bytes and want.size_bytes >= self.limits.max_memory_bytes
        used_up = seen.max_bytes and _mib(seen.max_bytes) <= _mib(want.size_bytes) and not full
        if want.hot_add and used_up and not self._had_room("memory.hot_add"):
            message = f"leave room for more than {size(seen.max_bytes)} of memory"
            changes.append(self._needs_off(_Kind.SET_MEMORY, "memory.hot_add", message, "MemoryCeilingFixedWhileOn"))
        for name in ("reservation_bytes", "limit_bytes"):
            changes += self._setting(_Kind.SET_MEMORY, f"memory.{name}", _number(getattr(want, name)), live=True)
        return changes

    def _memory_size(self, want: v1.MemorySpec, seen: v1.MemoryState) -> v1.Change | None:
        configured = seen.configured_bytes or seen.size_bytes
        now = configured if self.seen.power is OFF else seen.size_bytes
        wish = _mib(want.size_bytes)
        if not wish or (wish == _mib(now) and wish == _mib(configured)):
            return None
        reasons = []
        if wish == _mib(configured):
            reasons.append(_reason("AwaitsRestart", f"it is written and holds after a restart; {size(now)} now"))
        elif wish < _mib(now):
            reasons.append(_reason("MemoryShrinkUnsupported", "memory is not taken from a running machine"))
        elif wish > _mib(now):
            if not self.can.memory_hot_add:
                reasons.append(_reason("MemoryHotAddUnsupported", "this provider adds no memory to a running machine"))
            if seen.max_bytes and wish > _mib(seen.max_bytes):
                reasons.append(
                    _reason("MemoryCeilingReached", f"the running machine takes at most {size(seen.max_bytes)}")
                )
        message = f"change memory from {size(now)} to {size(want.size_bytes)}"
        return self._shape(_Kind.SET_MEMORY, "memory.size_bytes", message, reasons)

    def _firmware(self) -> list[v1.Change]:
        want, seen = self.want.firmware, self.seen.firmware
        if want is None or seen is None:
            return []
        known = v1.FirmwareType.UNSPECIFIED
        if want.type is not known and seen.type is not known and want.type is not seen.type:
            message = f"change firmware from {seen.type.name} to {want.type.name}"
            why = "what is installed on the boot disk starts under one firmware only"
            return [self._never(_Kind.SET_FIRMWARE, "firmware.type", message, _Effect.RECREATE, "FirmwareFixed", why)]
        changes = []
        if want.secure_boot and not seen.secure_boot:
            message = "switch secure boot on"
            changes.append(self._needs_off(_Kind.SET_FIRMWARE, "firmware.secure_boot", message, "FirmwareFixedWhileOn"))
        if want.tpm and not seen.tpm:
            changes.append(self._needs_off(_Kind.SET_FIRMWARE, "firmware.tpm", "add a TPM", "FirmwareFixedWhileOn"))
        elif want.tpm and want.tpm_version and seen.tpm_version and want.tpm_version != seen.tpm_version:
            message = f"change TPM from {seen.tpm_version} to {want.tpm_version}"
            why = "the keys in the TPM would be lost"
            changes.append(
                self._never(_Kind.SET_FIRMWARE, "firmware.tpm_version", message, _Effect.RECREATE, "TpmFixed", why)
            )
        return changes

    def _tuning(self) -> list[v1.Change]:
        tuning = self.want.tuning or v1.Tuning()
        wishes = {
            "iommu": "true" if tuning.iommu else "",
            "virtualization_based_security": "true" if tuning.virtualization_based_security else "",
            "latency_sensitivity": tuning.latency_sensitivity.replace("normal", ""),
            "hyper_threading_policy": tuning.hyper_threading_policy.replace("auto", ""),
            "encryption": "true" if tuning.encryption else "",
            "encryption_key_provider": tuning.encryption_key_provider,
        }
        fields = [(f"tuning.{name}", wish) for name, wish in wishes.items()]
        if self.want.guest_tools_policy not in ("", "skip"):
            fields.append(("guest_tools_policy", self.want.guest_tools_policy))
        return [change for field, wish in fields for change in self._setting(_Kind.SET_TUNING, field, wish, live=False)]

    def _extra_config(self) -> list[v1.Change]:
        """Values are not shown: nobody knows what they hold."""
        changes, wishes = [], self.want.extra_config
        for key in sorted(wishes.keys() | (set(self.can.extra_config_keys) & self.seen.settings.keys())):
            if self.seen.settings.get(key) != wishes.get(key):
                message = f"set extra configuration {key}" if key in wishes else f"take extra configuration {key} off"
                field = f"extra_config[{key}]"
                reason = _reason("ReadAtStart", "the hypervisor reads it when the machine starts")
                changes.append(self._shape(_Kind.SET_EXTRA_CONFIG, field, message, [reason], subject=key))
        return changes

    # -- disks -----------------------------------------------------------------------------------------------------

    def _disks(self) -> list[v1.Change]:
        have = {disk.name: disk for disk in self.seen.disks if disk.name}
        changes: list[v1.Change] = []
        for index, disk in enumerate(self.want.disks):
            if disk.name in have:
                changes += self._known_disk(disk, have[disk.name])
            elif disk.name not in self.blocked:
                changes.append(self._attach_disk(disk, boot=index == 0))
        wanted = {disk.name for disk in self.want.disks}
        extra = [disk for name, disk in have.items() if name not in wanted]
        if not self.want.disks:
            extra = [disk for disk in extra if disk.owned]  # a spec may never have described the others
        return [*map(self._detach_disk, extra), *changes]

    def _attach_disk(self, disk: v1.DiskSpec, *, boot: bool) -> v1.Change:
        field = f"disks[{disk.name}]"
        if boot:
            why = "the machine has no disk of the name that its boot disk has; a fresh one would hide what became of it"
            message = f"attach boot disk {disk.name}"
            return self._never(_Kind.ATTACH_DISK, field, message, _Effect.RECREATE, "BootDiskMissing", why, disk.name)
        reasons = (
            []
            if self.can.disk_hot_add
            else [_reason("DiskHotAddUnsupported", "this provider adds no disks to a running machine")]
        )
        message = f"attach disk {disk.name}" + (f" of {size(disk.size_bytes)}" if disk.size_bytes else "")
        return self._shape(
            _Kind.ATTACH_DISK, field, message, reasons, subject=disk.name,
            offline=self.can.disk_offline_change, offline_code="DiskOfflineChangeUnsupported",
        )  # fmt: skip

    def _detach_disk(self, disk: v1.Disk) -> v1.Change:
        field, message = f"disks[{disk.name}]", f"detach disk {disk.name} and keep its content"
        if disk is self.seen.disks[0]:
            why = "it is the disk that the machine boots from"
            return self._never(_Kind.DETACH_DISK, field, message, _Effect.RECREATE, "BootDisk", why, disk.name)
        if not disk.owned:
            why = "we did not make this disk; detach it by hand"
            return self._never(_Kind.DETACH_DISK, field, message, _Effect.UNSUPPORTED, "ForeignDisk", why, disk.name)
        reasons = []
        if not self.can.disk_hot_remove:
            reasons.append(_reason("DiskHotRemoveUnsupported", "this provider takes no disks from a running machine"))
        return self._shape(
            _Kind.DETACH_DISK, field, message, reasons, subject=disk.name,
            offline=self.can.disk_offline_change, offline_code="DiskOfflineChangeUnsupported",
        )  # fmt: skip

    def _known_disk(self, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
        changes = [*self._disk_size(want, have), *self._fixed_disk_fields(want, have)]
        where = f"disks[{want.name}]"
        for field, wish, live in (
            ("iops_limit", str(want.iops_limit or ""), True),
            ("sharing", want.sharing.replace("noSharing", ""), False),
            ("storage_policy", want.storage_policy, True),
        ):
            changes += self._setting(_Kind.UPDATE_DISK, f"{where}.{field}", wish, live=live, subject=want.name)
        return changes

    def _disk_size(self, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
        field, sizes = f"disks[{want.name}].size_bytes", f"from {size(have.size_bytes)} to {size(want.size_bytes)}"
        if not want.size_bytes or not have.size_bytes or _mib(want.size_bytes) == _mib(have.size_bytes):
            return []
        granule = max(MIB, self.limits.disk_granularity_bytes)
        if want.size_bytes < have.size_bytes < want.size_bytes + granule:
            return []  # the storage rounded it up
        if want.size_bytes < have.size_bytes:
            why = "a disk never shrinks: the guest's data would be cut off"
            message = f"shrink disk {want.name} {sizes}"
            return [self._never(_Kind.GROW_DISK, field, message, _Effect.UNSUPPORTED, "DiskShrink", why, want.name)]
        if have.fixed_size_reason:
            message, why = f"grow disk {want.name} {sizes}", have.fixed_size_reason
            return [self._never(_Kind.GROW_DISK, field, message, _Effect.UNSUPPORTED, "DiskSizeFixed", why, want.name)]
        reasons = []
        if not self.can.disk_online_grow:
            reasons.append(_reason("DiskOnlineGrowUnsupported", "this provider grows no disks of a running machine"))
        if not want.online_grow:
            reasons.append(_reason("OnlineGrowNotAllowed", "the spec does not allow growth while the machine runs"))
        return [
            self._shape(
                _Kind.GROW_DISK, field, f"grow disk {want.name} {sizes}", reasons, subject=want.name,
                offline=self.can.disk_offline_grow, offline_code="DiskOfflineGrowUnsupported",
            )
        ]  # fmt: skip

    def _fixed_disk_fields(self, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
        where = f"disks[{want.name}]"
        changes = []

        def fixed(field: str, message: str, effect: v1.Effect, code: str, why: str) -> None:
            changes.append(self._never(_Kind.UPDATE_DISK, f"{where}.{field}", message, effect, code, why, want.name))

        bus, kind = v1.DiskBus.UNSPECIFIED, v1.DiskProvisioning.UNSPECIFIED
        if want.bus is not bus and have.bus is not bus and want.bus is not have.bus:
            message = f"move disk {want.name} from bus {have.bus.name} to {want.bus.name}"
            fixed("bus", message, _Effect.RECREATE, "DiskBusFixed", "the guest may not start from another bus")
        if (
            want.provisioning is not kind
            and have.provisioning is not kind
            and want.provisioning is not have.provisioning
        ):
            message = f"make disk {want.name} {want.provisioning.name} instead of {have.provisioning.name}"
            fixed("provisioning", message, _Effect.UNSUPPORTED, "DiskProvisioningFixed", "a disk keeps how it was made")
        if want.storage and have.storage and want.storage != have.storage:
            message = f"move disk {want.name} from storage {have.storage} to {want.storage}"
            fixed("storage", message, _Effect.UNSUPPORTED, "DiskMoveUnsupported", "moving disks is not supported yet")
        controller = self.seen.settings.get(f"{where}.controller_type", "")
        if want.controller_type and controller and want.controller_type != controller:
            message = f"move disk {want.name} from a {controller} controller to {want.controller_type}"
            why = "the guest may not start from another controller"
            fixed("controller_type", message, _Effect.RECREATE, "DiskControllerFixed", why)
        if want.image is not None and have.image_id and want.image.id != have.image_id:
            message = f"build disk {want.name} from image {want.image.id} instead of {have.image_id}"
            fixed("image", message, _Effect.RECREATE, "DiskSourceFixed", "an image is read once, when the disk is made")
        if want.existing is not None and have.owned:
            message = f"take the existing disk {want.existing.id} instead of the one made for {want.name}"
            fixed("existing", message, _Effect.RECREATE, "DiskSourceFixed", "a disk of this name was made already")
        return changes

    # -- drives ----------------------------------------------------------------------------------------------------

    def _cdroms(self) -> list[v1.Change]:
        """A medium is changed at any time; a drive itself comes and goes while the machine is off."""
        have = {cdrom.name: cdrom for cdrom in self.seen.cdroms if cdrom.name}
        wanted = {cdrom.name: cdrom for cdrom in self.want.cdroms}
        changes = []
        for name in have:
            if name not in wanted:
                changes.append(
                    self._needs_off(
                        _Kind.DETACH_CDROM, f"cdroms[{name}]", f"remove drive {name}", "CdromFixedWhileOn", subject=name
                    )
                )
        for name, want in wanted.items():
            field = f"cdroms[{name}]"
            if name not in have:
                message = f"add drive {name}" + (f" with {want.medium}" if want.medium else "")
                changes.append(self._needs_off(_Kind.SET_CDROM, field, message, "CdromFixedWhileOn", subject=name))
            elif have[name].medium != want.medium:
                message = f"put {want.medium} into drive {name}" if want.medium else f"empty drive {name}"
                changes.append(self._shape(_Kind.SET_CDROM, f"{field}.medium", message, [], subject=name))
        return changes

    # -- network adapters ------------------------------------------------------------------------------------------

    def _nics(self) -> list[v1.Change]:
        if not self.want.nics and self.adopted:
            return []
        have = {nic.name: nic for nic in self.seen.nics if nic.name}
        wanted = {nic.name for nic in self.want.nics}
        changes = [
            self._nic_shape(_Kind.DETACH_NIC, name, "detach", self.can.nic_hot_remove)
            for name in have
            if name not in wanted
        ]
        for nic in self.want.nics:
            if nic.name in have:
                changes += self._known_nic(nic, have[nic.name])
            elif nic.name not in self.blocked:
                changes.append(self._nic_shape(_Kind.ATTACH_NIC, nic.name, "attach", self.can.nic_hot_add))
        return changes

    def _nic_shape(self, kind: v1.ChangeKind, name: str, verb: str, hot: bool) -> v1.Change:
        word = {"attach": "HotAdd", "detach": "HotRemove"}[verb]
        reasons = (
            []
            if hot
            else [_reason(f"Nic{word}Unsupported", f"this provider does not {verb} NICs of a running machine")]
        )
        return self._shape(
            kind, f"nics[{name}]", f"{verb} NIC {name}", reasons, subject=name,
            offline=self.can.nic_offline_change, offline_code="NicOfflineChangeUnsupported",
        )  # fmt: skip

    def _known_nic(self, want: v1.NicSpec, have: v1.Nic) -> list[v1.Change]:
        where, changes = f"nics[{want.name}]", []

        def update(field: str, message: str, reasons: list[v1.Reason]) -> None:
            changes.append(
                self._shape(
                    _Kind.UPDATE_NIC, f"{where}.{field}", message, reasons, subject=want.name,
                    offline=self.can.nic_offline_change, offline_code="NicOfflineChangeUnsupported",
                )
            )  # fmt: skip

        if want.network is not None and have.network is not None and not _same_network(want.network, have.network):
            reasons = []
            if not self.can.nic_online_update:
                reasons.append(
                    _reason("NicOnlineUpdateUnsupported", "this provider re-plugs no NIC of a running machine")
                )
            update(
                "network", f"move NIC {want.name} from {_network(have.network)} to {_network(want.network)}", reasons
            )
        fixed = [_reason("NicFixedWhileOn", "the guest sees it as another adapter, which needs a restart")]
        if want.model and have.model and want.model != have.model:
            update("model", f"change model of NIC {want.name} from {have.model} to {want.model}", fixed)
        if want.mac and have.mac and want.mac != have.mac.lower():
            update("mac", f"change MAC of NIC {want.name} from {have.mac} to {want.mac}", fixed)
        wish, live = str(want.mtu or ""), self.can.nic_online_update
        return changes + self._setting(_Kind.UPDATE_NIC, f"{where}.mtu", wish, live=live, subject=want.name)

    # -- the rest --------------------------------------------------------------------------------------------------

    def _boot_data(self) -> list[v1.Change]:
        have, wish = self.seen.settings.get(BOOT_DATA_SETTING, ""), boot_data_digest(self.want)
        if not have or not wish or have == wish:
            return []
        reason = _reason(
            "BootDataReadAtFirstBoot", "a guest reads it at its first boot; one that has booted may never look again"
        )
        return [self._shape(_Kind.SET_BOOT_DATA, "boot_data", "replace the first-boot data", [reason])]

    def _placement(self) -> list[v1.Change]:
        placement = self.want.placement
        changes: list[v1.Change] = []
        if placement is None:
            return changes
        for name in ("cluster", "host", "resource_pool", "folder", "datastore", "storage_pod"):
            field, wish = f"placement.{name}", getattr(placement, name)
            have = self.seen.settings.get(field, "") or (self.seen.host if name == "host" else "")
            if wish and have and wish != have:
                message = f"move machine from {name.replace('_', ' ')} {have} to {wish}"
                why = "a machine stays where it was made: moving it is not supported yet"
                changes.append(
                    self._never(_Kind.SET_PLACEMENT, field, message, _Effect.RECREATE, "MoveUnsupported", why)
                )
        return changes

    def _affinity(self) -> list[v1.Change]:
        if not self.can.affinity:
            return []
        rules = self.want.placement.affinity if self.want.placement is not None else []
        wishes = {rule.name: affinity_words(rule) for rule in rules}
        return self._by_name(_Kind.SET_PLACEMENT, "placement.affinity", wishes)

    def _attributes(self) -> list[v1.Change]:
        if not self.can.attributes:
            return []
        return self._by_name(_Kind.SET_ATTRIBUTES, "attributes", self.want.attributes)

    def _by_name(self, kind: v1.ChangeKind, field: str, wishes: Mapping[str, str]) -> list[v1.Change]:
        """What is written beside a machine in any state of it: by name, and gone once it is no longer asked for."""
        have = {key[len(field) + 1 : -1]: value for key, value in self.seen.settings.items()
                if key.startswith(f"{field}[")}  # fmt: skip
        changes = []
        for name in sorted(wishes.keys() | have.keys()):
            if wishes.get(name) == have.get(name):
                continue
            verb = "take off" if name not in wishes else "set" if name not in have else "change"
            where = f"{field}[{plain(name)}]"
            changes.append(
                v1.Change(kind=kind, field=where, subject=name, effect=_Effect.ONLINE, message=f"{verb} {where}")
            )
        return changes

    def _texts(self) -> list[v1.Change]:
        changes = []
        if self.can.tags and set(self.want.tags) != set(self.seen.tags):
            tags = ", ".join(sorted(set(self.want.tags)))
            message = f"set tags to {tags}" if tags else "take all tags off"
            changes.append(v1.Change(kind=_Kind.SET_TAGS, field="tags", effect=_Effect.ONLINE, message=message))
        wish, ours = self.want.description, self.seen.settings.get(DESCRIPTION_SETTING) == "true"
        if (wish and wish != self.seen.description) or (ours and not wish):
            message = "set description" if wish else "take the description off"
            change = v1.Change(kind=_Kind.SET_DESCRIPTION, field="description", effect=_Effect.ONLINE, message=message)
            changes.append(change)
        return changes

    def _gpus(self) -> list[v1.Change]:
        wish = ",".join(f"{gpu.count}x{gpu.model}" for gpu in self.want.gpus)
        have = self.seen.settings.get("gpus", "")
        if wish == have or (not wish and "gpus" in self.refused):
            return []
        message = f"change GPUs to {wish}" if wish else f"take GPUs {have} off"
        why = "GPUs are given when a machine is made"
        return [self._never(_Kind.SET_TUNING, "gpus", message, _Effect.RECREATE, "GpusFixed", why)]

    # -- power -----------------------------------------------------------------------------------------------------

    def _power(self) -> v1.Change | None:
        wish, seen = self.wish, self.seen.power
        if wish is v1.PowerState.UNSPECIFIED or wish is seen:
            return None
        effect, reasons = _Effect.ONLINE, []
        message = {ON: "power on", OFF: "power off", SUSPENDED: "suspend"}[wish]
        if wish is ON and seen in (SUSPENDED, PAUSED):
            message = "resume" + (
                f" (paused: {self.seen.power_reason})" if seen is PAUSED and self.seen.power_reason else ""
            )
        if seen not in (ON, OFF, SUSPENDED, PAUSED):
            reasons.append(_reason("PowerStateUnknown", "the hypervisor does not tell the power state"))
        elif wish is SUSPENDED and seen is OFF:
            reasons.append(_reason("MachineOff", "a machine that is off has no memory to keep; power it on first"))
        elif wish is OFF and self.want.power is not None and self.want.power.graceful:
            message = "shut down gracefully"
            if not self.can.graceful_shutdown:
                reasons.append(
                    _reason(
                        "GracefulShutdownUnsupported", "this provider cannot ask the guest; power off without grace"
                    )
                )
        if reasons:
            effect = _Effect.UNSUPPORTED
        return v1.Change(kind=_Kind.SET_POWER, field="power.state", effect=effect, message=message, reasons=reasons)

    def _restart(self) -> Sequence[v1.Change]:
        if not self.seen.pending_restart or self.off or self.seen.power not in (ON, PAUSED):
            return ()
        reasons = [_reason("AwaitsRestart", line) for line in self.seen.pending_restart]
        message = "restart so that written settings take hold"
        return (
            v1.Change(
                kind=_Kind.RESTART, field="power.state", effect=_Effect.RESTART, message=message, reasons=reasons
            ),
        )

    def _never(self, kind: v1.ChangeKind, field: str, message: str, effect: v1.Effect, code: str, why: str,
               subject: str = "") -> v1.Change:  # fmt: skip
        return v1.Change(
            kind=kind, field=field, subject=subject, effect=effect, message=message, reasons=[_reason(code, why)]
        )


def _reason(code: str, message: str) -> v1.Reason:
    return v1.Reason(code=code, message=message)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _mib(count: int) -> int:
    """MiB, rounded up: hypervisors round sizes up to their own granule, which is no difference."""
    return -(-count // MIB)


def _same_network(want: v1.NetworkRef, have: v1.NetworkRef) -> bool:
    if want.kind is v1.NetworkKind.NAT:
        return have.kind is v1.NetworkKind.NAT
    same_switch = not want.switch or not have.switch or want.switch == have.switch
    return (want.kind, want.name, want.vlan) == (have.kind, have.name, have.vlan) and same_switch


def _network(network: v1.NetworkRef) -> str:
    name = f"{network.kind.name or int(network.kind)} {network.name}".strip().lower()
    return name + (f" vlan {network.vlan}" if network.vlan else "")


def _label(want: v1.MachineSpec) -> str:
    return hypervisor_name(want.identity) if want.identity is not None else "without identity"
