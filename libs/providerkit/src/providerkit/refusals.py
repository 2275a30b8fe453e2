"""What a spec asks for and this provider lacks: cut out of the spec, and reported one by one.

A blocking refusal also stops the creation: a machine without it would boot into the wrong network, without its
security or not at all. The others leave a machine that works, and a report that says what it lacks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from common import v1

from .violations import plain, shown

_UNSUPPORTED = v1.Effect.UNSUPPORTED
_Kind = v1.ChangeKind


@dataclass(frozen=True, slots=True)
class Refusal:
    """One field that cannot be had."""

    change: v1.Change
    blocking: bool


class _Refusals:
    """Collects refusals, and edits the copy of the spec that they are cut out of."""

    def __init__(self, want: v1.MachineSpec, seen: v1.Machine | None, can: v1.Capabilities) -> None:
        self.want = want
        self.seen = seen
        self.settings = seen.settings if seen is not None else {}
        self.can = can
        self.found: list[Refusal] = []

    def add(
        self, kind: v1.ChangeKind, field: str, code: str, message: str, *, subject: str = "", blocking: bool = False
    ) -> None:
        reason = v1.Reason(code=code, message=message)
        change = v1.Change(
            kind=kind,
            field=field,
            subject=subject,
            effect=_UNSUPPORTED,
            message=f"{field}: {message}",
            reasons=[reason],
        )
        self.found.append(Refusal(change, blocking))


def narrow(want: v1.MachineSpec, seen: v1.Machine | None, can: v1.Capabilities) -> tuple[v1.MachineSpec, list[Refusal]]:
    """The spec without what the provider lacks, and what was cut out. What the machine has already is not refused."""
    found = _Refusals(copy.deepcopy(want), seen, can)
    _cpu(found)
    _memory(found)
    _firmware(found)
    have_disks = {disk.name: disk for disk in seen.disks} if seen is not None else {}
    for disk in found.want.disks:
        _disk(found, disk, have_disks.get(disk.name))
    have_nics = {nic.name: nic for nic in seen.nics} if seen is not None else {}
    for nic in found.want.nics:
        _nic(found, nic, have_nics.get(nic.name))
    _boot_data(found)
    _customization(found)
    _placement(found)
    _tuning(found)
    _rest(found)
    return found.want, found.found


def _cpu(found: _Refusals) -> None:
    cpu, can = found.want.cpu, found.can
    if cpu is None:
        return
    seen = found.seen.cpu if found.seen is not None else None

    def refuse(field: str, code: str, what: str) -> None:
        found.add(_Kind.SET_CPU, f"cpu.{field}", code, f"this provider has no {what}")

    if cpu.hot_add and not can.cpu_hot_add:
        refuse("hot_add", "CpuHotAddUnsupported", "hot-add of CPUs")
        cpu.hot_add = False
    if cpu.cores_per_socket and not can.cpu_topology:
        if seen is None or seen.cores_per_socket != cpu.cores_per_socket:
            refuse("cores_per_socket", "CpuTopologyUnsupported", "choice of the CPU topology")
        cpu.cores_per_socket = 0
    if cpu.nested_virtualization and not can.nested_virtualization:
        if seen is None or not seen.nested_virtualization:
            refuse("nested_virtualization", "NestedVirtualizationUnsupported", "nested virtualization")
        cpu.nested_virtualization = False
    if cpu.reservation_mhz is not None and not can.cpu_reservation:
        refuse("reservation_mhz", "CpuReservationUnsupported", "reservation of CPU time")
        cpu.reservation_mhz = None
    if cpu.limit_mhz is not None and not can.cpu_limit:
        refuse("limit_mhz", "CpuLimitUnsupported", "limit of CPU time")
        cpu.limit_mhz = None
    if cpu.shares is not None and not can.cpu_shares:
        refuse("shares", "CpuSharesUnsupported", "CPU shares")
        cpu.shares = None


def _memory(found: _Refusals) -> None:
    memory, can = found.want.memory, found.can
    if memory is None:
        return

    def refuse(field: str, code: str, what: str) -> None:
        found.add(_Kind.SET_MEMORY, f"memory.{field}", code, f"this provider has no {what}")

    if memory.hot_add and not can.memory_hot_add:
        refuse("hot_add", "MemoryHotAddUnsupported", "hot-add of memory")
        memory.hot_add = False
    if memory.reservation_bytes is not None and not can.memory_reservation:
        refuse("reservation_bytes", "MemoryReservationUnsupported", "reservation of memory")
        memory.reservation_bytes = None
    if memory.limit_bytes is not None and not can.memory_limit:
        refuse("limit_bytes", "MemoryLimitUnsupported", "limit of memory")
        memory.limit_bytes = None


def _firmware(found: _Refusals) -> None:
    firmware, can = found.want.firmware, found.can
    if firmware is None:
        return
    seen = (found.seen.firmware if found.seen is not None else None) or v1.FirmwareSpec()

    def refuse(field: str, code: str, message: str) -> None:
        found.add(_Kind.SET_FIRMWARE, f"firmware.{field}", code, message, blocking=True)

    if firmware.type is not v1.FirmwareType.UNSPECIFIED and firmware.type not in can.firmware:
        if seen.type is not firmware.type:
            refuse("type", "FirmwareUnsupported", f"this provider has no {firmware.type.name} firmware")
        firmware.type = v1.FirmwareType.UNSPECIFIED
    if firmware.secure_boot and not can.secure_boot:
        if not seen.secure_boot:
            refuse("secure_boot", "SecureBootUnsupported", "this provider has no secure boot")
        firmware.secure_boot = False
    versions = can.tpm_versions
    if firmware.tpm and (not versions or (firmware.tpm_version and firmware.tpm_version not in versions)):
        if not seen.tpm or (firmware.tpm_version and seen.tpm_version != firmware.tpm_version):
            refuse(
                "tpm",
                "TpmUnsupported",
                f"TPM {firmware.tpm_version or 'of any version'} asked for, on offer: {_offer(versions)}",
            )
        firmware.tpm, firmware.tpm_version = False, ""


def _disk(found: _Refusals, disk: v1.DiskSpec, have: v1.Disk | None) -> None:
    can, where = found.can, f"disks[{disk.name}]"

    def refuse(field: str, code: str, message: str, *, blocking: bool = False) -> None:
        kind = _Kind.ATTACH_DISK if have is None else _Kind.UPDATE_DISK
        found.add(kind, f"{where}.{field}", code, message, subject=disk.name, blocking=blocking)

    if disk.bus is not v1.DiskBus.UNSPECIFIED and disk.bus not in can.disk_buses:
        if have is None or have.bus is not disk.bus:
            offer = _offer([bus.name for bus in can.disk_buses])
            refuse("bus", "DiskBusUnsupported", f"bus {disk.bus.name} asked for, on offer: {offer}", blocking=True)
        disk.bus = v1.DiskBus.UNSPECIFIED
    if disk.provisioning is not v1.DiskProvisioning.UNSPECIFIED and disk.provisioning not in can.disk_provisionings:
        if have is None or have.provisioning is not disk.provisioning:
            offer = _offer([kind.name for kind in can.disk_provisionings])
            refuse(
                "provisioning", "DiskProvisioningUnsupported", f"{disk.provisioning.name} asked for, on offer: {offer}"
            )
        disk.provisioning = v1.DiskProvisioning.UNSPECIFIED
    if disk.existing is not None and not can.existing_disk:
        if have is None:
            refuse("existing", "ExistingDiskUnsupported", "this provider takes no existing disks yet", blocking=True)
        disk.existing = None
    if disk.iops_limit and not can.disk_iops_limit:
        refuse("iops_limit", "DiskIopsLimitUnsupported", "this provider has no limit of disk operations")
        disk.iops_limit = 0
    if disk.sharing not in ("", "noSharing") and not can.disk_sharing:
        refuse("sharing", "DiskSharingUnsupported", "this provider does not share disks", blocking=True)
        disk.sharing = ""
    if disk.storage_policy and not can.storage_policies:
        refuse("storage_policy", "StoragePolicyUnsupported", "this provider has no storage policies")
        disk.storage_policy = ""
    if disk.controller_type and disk.controller_type not in can.disk_controllers:
        offer = _offer(can.disk_controllers)
        refuse("controller_type", "DiskControllerUnsupported", f"{disk.controller_type} asked for, on offer: {offer}")
        disk.controller_type, disk.controller_index = "", None
    elif disk.controller_index is not None and not can.disk_controllers:
        refuse("controller_index", "DiskControllerUnsupported", "this provider chooses disk controllers itself")
        disk.controller_index = None


def _nic(found: _Refusals, nic: v1.NicSpec, have: v1.Nic | None) -> None:
    can, where = found.can, f"nics[{nic.name}]"
    net = nic.network or v1.NetworkRef()
    have_net = (have.network if have is not None else None) or v1.NetworkRef()

    def refuse(field: str, code: str, message: str, *, blocking: bool = True) -> None:
        kind = _Kind.ATTACH_NIC if have is None else _Kind.UPDATE_NIC
        found.add(kind, f"{where}.{field}", code, message, subject=nic.name, blocking=blocking)

    if nic.network is not None and net.kind not in can.network_kinds:
        if have is None or have_net.kind is not net.kind:
            offer = _offer([kind.name for kind in can.network_kinds])
            refuse("network.kind", "NetworkKindUnsupported", f"{net.kind.name} network asked for, on offer: {offer}")
        nic.network = None
    elif net.vlan and not can.vlan:
        if have is None or have_net.vlan != net.vlan:
            refuse("network.vlan", "VlanUnsupported", "this provider does not tag VLANs")
        nic.network = None
    if nic.model and nic.model not in can.nic_models:
        if have is None or have.model != nic.model:
            refuse("model", "NicModelUnsupported", f"model {nic.model} asked for, on offer: {_offer(can.nic_models)}")
        nic.model = ""
    if nic.mac and not can.fixed_mac:
        if have is None or have.mac != nic.mac:
            refuse("mac", "FixedMacUnsupported", "this provider chooses MAC addresses itself")
        nic.mac = ""
    if nic.mtu and not can.nic_mtu:
        refuse("mtu", "NicMtuUnsupported", "this provider has no MTU per NIC", blocking=False)
        nic.mtu = 0
    if nic.firewall and not can.nic_firewall:
        refuse("firewall", "NicFirewallUnsupported", "this provider has no firewall of its own for NICs")
        nic.firewall = False
    if nic.rate_limit_bytes and not can.nic_rate_limit:
        message = "this provider limits no NIC's bandwidth"
        refuse("rate_limit_bytes", "NicRateLimitUnsupported", message, blocking=False)
        nic.rate_limit_bytes = 0
    if nic.trunks and not can.nic_trunks:
        refuse("trunks", "NicTrunksUnsupported", "this provider hands no tagged VLANs to the guest")
        nic.trunks = []
    if nic.addressing is not None and nic.addressing != v1.GuestAddressing() and not can.static_addresses:
        if found.seen is None or have is None:
            refuse("addressing", "StaticAddressesUnsupported", "this provider hands no addresses to the guest")
        nic.addressing = None


def _boot_data(found: _Refusals) -> None:
    boot, can = found.want.boot_data, found.can
    if boot is None:
        return

    def refuse(field: str, code: str, what: str) -> None:
        found.add(
            _Kind.SET_BOOT_DATA,
            f"boot_data.{field}",
            code,
            f"this provider hands no {what} to the guest",
            blocking=True,
        )

    if (boot.user_data or boot.meta_data or boot.hostname) and not can.cloud_init:
        refuse("user_data", "CloudInitUnsupported", "cloud-init data")
        boot.user_data = boot.meta_data = boot.hostname = ""
    if boot.ignition and not can.ignition:
        refuse("ignition", "IgnitionUnsupported", "Ignition data")
        boot.ignition = ""
    if boot == v1.BootData():
        found.want.boot_data = None


def _customization(found: _Refusals) -> None:
    """Done once, when the machine is made: one that is there already lacks nothing."""
    wish, can = found.want.customization, found.can
    if wish is None:
        return
    guest, lacks = ("Windows", not can.sysprep) if wish.sysprep is not None else ("Linux", not can.customization)
    if lacks:
        if found.seen is None:
            code = "SysprepUnsupported" if wish.sysprep is not None else "CustomizationUnsupported"
            message = f"this provider does not customize {guest} guests"
            found.add(_Kind.CREATE, "customization", code, message, blocking=True)
        found.want.customization = None


PLACES = {
    "cluster": v1.PlacementKind.CLUSTER,
    "host": v1.PlacementKind.HOST,
    "resource_pool": v1.PlacementKind.RESOURCE_POOL,
    "folder": v1.PlacementKind.FOLDER,
    "datastore": v1.PlacementKind.DATASTORE,
    "storage_pod": v1.PlacementKind.STORAGE_POD,
}


def _placement(found: _Refusals) -> None:
    placement = found.want.placement
    if placement is None:
        return
    for field, kind in PLACES.items():
        wish = getattr(placement, field)
        if not wish or kind in found.can.placements:
            continue
        if not (field == "host" and found.seen is not None and found.seen.host == wish):
            message = f"this provider does not place machines by {field.replace('_', ' ')}"
            found.add(_Kind.SET_PLACEMENT, f"placement.{field}", "PlacementUnsupported", message)
        setattr(placement, field, "")
    if found.can.affinity:
        return
    for rule in placement.affinity:
        message = "this provider keeps machines neither together nor apart"
        field = f"placement.affinity[{rule.name}]"
        found.add(_Kind.SET_PLACEMENT, field, "AffinityUnsupported", message, subject=rule.name, blocking=rule.required)
    placement.affinity = []


def _tuning(found: _Refusals) -> None:
    tuning, can = found.want.tuning, found.can
    if tuning is None:
        return

    def refuse(field: str, code: str, what: str, *, blocking: bool = False) -> None:
        found.add(_Kind.SET_TUNING, f"tuning.{field}", code, f"this provider has no {what}", blocking=blocking)

    if tuning.iommu and not can.iommu:
        refuse("iommu", "IommuUnsupported", "virtual IOMMU")
        tuning.iommu = False
    if tuning.virtualization_based_security and not can.virtualization_based_security:
        refuse(
            "virtualization_based_security", "VirtualizationBasedSecurityUnsupported", "virtualization-based security"
        )
        tuning.virtualization_based_security = False
    if tuning.latency_sensitivity not in ("", "normal") and not can.latency_sensitivity:
        refuse("latency_sensitivity", "LatencySensitivityUnsupported", "latency sensitivity")
        tuning.latency_sensitivity = ""
    if tuning.hyper_threading_policy not in ("", "auto") and not can.hyper_threading_policy:
        refuse("hyper_threading_policy", "HyperThreadingPolicyUnsupported", "hyper-threading policy")
        tuning.hyper_threading_policy = ""
    if (tuning.encryption or tuning.encryption_required) and not can.encryption:
        refuse("encryption", "EncryptionUnsupported", "encryption of machines", blocking=tuning.encryption_required)
        tuning.encryption = tuning.encryption_required = False
        tuning.encryption_key_provider = ""


def _rest(found: _Refusals) -> None:
    want, can = found.want, found.can
    if want.gpus and not can.gpu:
        found.add(_Kind.SET_TUNING, "gpus", "GpuUnsupported", "this provider has no GPUs", blocking=True)
        want.gpus = []
    if want.cdroms and not can.cdroms:
        for cdrom in want.cdroms:
            field = f"cdroms[{plain(cdrom.name)}]"
            found.add(
                _Kind.SET_CDROM,
                field,
                "CdromUnsupported",
                "this provider has no drives",
                subject=cdrom.name,
                blocking=True,
            )
        want.cdroms = []
    if want.tags and not can.tags:
        if found.seen is None or set(found.seen.tags) != set(want.tags):
            found.add(_Kind.SET_TAGS, "tags", "TagsUnsupported", "this provider has no tags")
        want.tags = []
    if want.attributes and not can.attributes:
        for name in sorted(want.attributes):
            message = "this provider has no attributes"
            field = f"attributes[{plain(name)}]"
            found.add(_Kind.SET_ATTRIBUTES, field, "AttributesUnsupported", message, subject=name)
        want.attributes = {}
    for key in sorted(set(want.extra_config) - set(can.extra_config_keys)):
        message = f"key {shown(key)} means nothing here; known keys: {_offer(can.extra_config_keys)}"
        found.add(_Kind.SET_EXTRA_CONFIG, f"extra_config[{plain(key)}]", "ExtraConfigKeyUnknown", message)
        del want.extra_config[key]
    if want.guest_tools_policy not in ("", "skip") and not can.guest_tools_policy:
        found.add(
            _Kind.SET_TUNING,
            "guest_tools_policy",
            "GuestToolsPolicyUnsupported",
            "this provider does not manage guest tools",
        )
        want.guest_tools_policy = ""
    if want.power is not None and want.power.state is v1.PowerState.SUSPENDED and not can.suspend:
        if found.seen is None or found.seen.power is not v1.PowerState.SUSPENDED:
            found.add(_Kind.SET_POWER, "power.state", "SuspendUnsupported", "this provider does not suspend machines")
        want.power = None


def _offer(words: list[str]) -> str:
    return ", ".join(words) or "nothing"
