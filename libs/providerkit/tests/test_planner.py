# ruff: noqa: E501  (a table reads best with one row per line)
"""What the planner decides, one row per edge case."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta

import pytest
from common import v1
from common.errors import InvalidSpecError
from providerkit import planner
from providerkit.fake import FAKE_CAPABILITIES

GIB = 1 << 30
UID = "0b54f1a6-6c1e-4b8e-9c0f-3f0d6c0a7e11"
ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
K, E = v1.ChangeKind, v1.Effect

Edit = Callable[[v1.MachineSpec, v1.Machine, v1.Capabilities], None]


def wanted() -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="me"),
        cpu=v1.CpuSpec(count=2),
        memory=v1.MemorySpec(size_bytes=2 * GIB),
        firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI),
        disks=[
            v1.DiskSpec(name="root", size_bytes=10 * GIB, image=v1.ImageRef(id="image-1"), online_grow=True),
            v1.DiskSpec(name="data", size_bytes=20 * GIB, online_grow=True),
        ],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="default"))],
        power=v1.PowerSpec(state=ON),
    )


def seen() -> v1.Machine:
    return v1.Machine(
        identity=v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="me"),
        id=UID,
        hypervisor_name="shop.web",
        owned=True,
        power=ON,
        cpu=v1.CpuState(count=2, max_count=4, configured_count=2, cores_per_socket=1),
        memory=v1.MemoryState(size_bytes=2 * GIB, max_bytes=4 * GIB, configured_bytes=2 * GIB),
        firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI),
        disks=[
            v1.Disk(name="root", id="r", size_bytes=10 * GIB, bus=v1.DiskBus.VIRTIO, provisioning=v1.DiskProvisioning.THIN,
                    storage="fake", owned=True, image_id="image-1", active=True),
            v1.Disk(name="data", id="d", size_bytes=20 * GIB, bus=v1.DiskBus.VIRTIO, provisioning=v1.DiskProvisioning.THIN,
                    storage="fake", owned=True, active=True),
        ],
        nics=[v1.Nic(name="lan", mac="02:00:00:00:00:01", model="virtio",
                     network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="default"), active=True)],
    )  # fmt: skip


def set_(path: str, value: object, who: str = "want") -> Edit:
    """An edit that sets one attribute, written as dotted path with numeric list indices."""

    def edit(want: v1.MachineSpec, have: v1.Machine, can: v1.Capabilities) -> None:
        target: object = {"want": want, "have": have, "can": can}[who]
        *parents, last = path.split(".")
        for name in parents:
            target = target[int(name)] if name.isdigit() else getattr(target, name)  # type: ignore[index]
        setattr(target, last, value)

    return edit


def have(path: str, value: object) -> Edit:
    return set_(path, value, "have")


def can(path: str, value: object) -> Edit:
    return set_(path, value, "can")


def asked(field: str, value: str) -> Edit:
    """Our record says that a spec asked for this."""
    return lambda _want, machine, _can: machine.settings.update({field: value})


def do(action: Callable[[v1.MachineSpec, v1.Machine], object]) -> Edit:
    return lambda want, machine, _can: action(want, machine)


def all_(*edits: Edit) -> Edit:
    def edit(want: v1.MachineSpec, machine: v1.Machine, caps: v1.Capabilities) -> None:
        for each in edits:
            each(want, machine, caps)

    return edit


ONLINE, RESTART, RECREATE, UNSUPPORTED = E.ONLINE, E.RESTART, E.RECREATE, E.UNSUPPORTED
Row = tuple[v1.ChangeKind, str, v1.Effect, tuple[str, ...]]

NEW_NIC = v1.NicSpec(name="dmz", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan"))
NEW_DISK = v1.DiskSpec(name="logs", size_bytes=GIB)
AWAY = v1.AffinityRule(name="away", apart=True, required=True)
OFF_BOTH = all_(have("power", OFF), set_("power.state", OFF))

TABLE: dict[str, tuple[Edit, list[Row]]] = {
    "settled": (all_(), []),
    # -- processor
    "cpu grows online below the ceiling": (set_("cpu.count", 4), [(K.SET_CPU, "cpu.count", ONLINE, ())]),
    "cpu above the ceiling needs a restart": (
        set_("cpu.count", 8), [(K.SET_CPU, "cpu.count", RESTART, ("CpuCeilingReached",))]),
    "cpu without hot-add names both reasons": (
        all_(set_("cpu.count", 8), can("cpu_hot_add", False)),
        [(K.SET_CPU, "cpu.count", RESTART, ("CpuHotAddUnsupported", "CpuCeilingReached"))]),
    "cpu shrinks after a restart": (
        set_("cpu.count", 1), [(K.SET_CPU, "cpu.count", RESTART, ("CpuHotRemoveUnsupported",))]),
    "cpu of a machine that is off": (
        all_(OFF_BOTH, set_("cpu.count", 1)), [(K.SET_CPU, "cpu.count", ONLINE, ())]),
    "cpu is written and waits for the restart": (
        all_(set_("cpu.count", 3), have("cpu.configured_count", 3)),
        [(K.SET_CPU, "cpu.count", RESTART, ("AwaitsRestart",))]),
    "cpu would be another after the next restart": (
        have("cpu.configured_count", 3), [(K.SET_CPU, "cpu.count", ONLINE, ())]),
    "topology needs a restart": (
        set_("cpu.cores_per_socket", 2), [(K.SET_CPU, "cpu.cores_per_socket", RESTART, ("CpuTopologyFixedWhileOn",))]),
    "topology that the provider lacks": (
        all_(set_("cpu.cores_per_socket", 2), can("cpu_topology", False)),
        [(K.SET_CPU, "cpu.cores_per_socket", UNSUPPORTED, ("CpuTopologyUnsupported",))]),
    "topology that the provider lacks and the machine has": (
        all_(set_("cpu.cores_per_socket", 1), can("cpu_topology", False)), []),
    "nested virtualization needs a restart": (
        set_("cpu.nested_virtualization", True),
        [(K.SET_CPU, "cpu.nested_virtualization", RESTART, ("CpuModelFixedWhileOn",))]),
    "room for more CPUs": (
        all_(set_("cpu.hot_add", True), have("cpu.max_count", 2)),
        [(K.SET_CPU, "cpu.hot_add", RESTART, ("CpuCeilingFixedWhileOn",))]),
    "room for more CPUs was given and is used up": (
        all_(set_("cpu.hot_add", True), have("cpu.max_count", 2), have("settings", {"cpu.hot_add": "true"})), []),
    "room for more CPUs is there": (set_("cpu.hot_add", True), []),
    "shares are set online": (set_("cpu.shares", 100), [(K.SET_CPU, "cpu.shares", ONLINE, ())]),
    "shares hold": (all_(set_("cpu.shares", 100), have("settings", {"cpu.shares": "100"})), []),
    "reservation that the provider lacks": (
        all_(set_("cpu.reservation_mhz", 5), can("cpu_reservation", False)),
        [(K.SET_CPU, "cpu.reservation_mhz", UNSUPPORTED, ("CpuReservationUnsupported",))]),
    "no cpu spec": (set_("cpu", None), []),
    "cpu that the hypervisor does not tell": (all_(have("cpu", None), set_("cpu.count", 9)), []),
    # -- memory
    "memory grows online": (set_("memory.size_bytes", 3 * GIB), [(K.SET_MEMORY, "memory.size_bytes", ONLINE, ())]),
    "memory above the ceiling": (
        set_("memory.size_bytes", 8 * GIB), [(K.SET_MEMORY, "memory.size_bytes", RESTART, ("MemoryCeilingReached",))]),
    "memory shrinks after a restart": (
        set_("memory.size_bytes", GIB), [(K.SET_MEMORY, "memory.size_bytes", RESTART, ("MemoryShrinkUnsupported",))]),
    "memory that a hypervisor rounded up": (set_("memory.size_bytes", 2 * GIB - 1000), []),
    # -- firmware
    "firmware type is fixed": (
        set_("firmware.type", v1.FirmwareType.BIOS), [(K.SET_FIRMWARE, "firmware.type", RECREATE, ("FirmwareFixed",))]),
    "secure boot needs a restart": (
        set_("firmware.secure_boot", True),
        [(K.SET_FIRMWARE, "firmware.secure_boot", RESTART, ("FirmwareFixedWhileOn",))]),
    "secure boot that is on and not asked for stays": (have("firmware.secure_boot", True), []),
    "a TPM needs a restart": (
        set_("firmware.tpm", True), [(K.SET_FIRMWARE, "firmware.tpm", RESTART, ("FirmwareFixedWhileOn",))]),
    "another TPM would lose its keys": (
        all_(set_("firmware.tpm", True), set_("firmware.tpm_version", "2.0"), have("firmware.tpm", True),
             have("firmware.tpm_version", "1.2")),
        [(K.SET_FIRMWARE, "firmware.tpm_version", RECREATE, ("TpmFixed",))]),
    "firmware that the provider lacks": (
        all_(set_("firmware.type", v1.FirmwareType.BIOS), can("firmware", [v1.FirmwareType.UEFI])),
        [(K.SET_FIRMWARE, "firmware.type", UNSUPPORTED, ("FirmwareUnsupported",))]),
    # -- disks
    "a disk grows online": (
        set_("disks.1.size_bytes", 30 * GIB), [(K.GROW_DISK, "disks[data].size_bytes", ONLINE, ())]),
    "a disk whose spec forbids online growth": (
        all_(set_("disks.1.size_bytes", 30 * GIB), set_("disks.1.online_grow", False)),
        [(K.GROW_DISK, "disks[data].size_bytes", RESTART, ("OnlineGrowNotAllowed",))]),
    "a disk that cannot grow online names both reasons": (
        all_(set_("disks.1.size_bytes", 30 * GIB), set_("disks.1.online_grow", False), can("disk_online_grow", False)),
        [(K.GROW_DISK, "disks[data].size_bytes", RESTART, ("DiskOnlineGrowUnsupported", "OnlineGrowNotAllowed"))]),
    "a disk that can grow neither way": (
        all_(set_("disks.1.size_bytes", 30 * GIB), can("disk_online_grow", False), can("disk_offline_grow", False)),
        [(K.GROW_DISK, "disks[data].size_bytes", UNSUPPORTED, ("DiskOnlineGrowUnsupported", "DiskOfflineGrowUnsupported"))]),
    "a disk that cannot grow now": (
        all_(set_("disks.1.size_bytes", 30 * GIB), have("disks.1.fixed_size_reason", "the machine has snapshots: s")),
        [(K.GROW_DISK, "disks[data].size_bytes", UNSUPPORTED, ("DiskSizeFixed",))]),
    "a disk never shrinks": (
        set_("disks.1.size_bytes", 5 * GIB), [(K.GROW_DISK, "disks[data].size_bytes", UNSUPPORTED, ("DiskShrink",))]),
    "a disk without a size keeps its own": (set_("disks.0.size_bytes", 0), []),
    "a disk that its storage rounded up": (have("disks.1.size_bytes", 20 * GIB + (4 << 20) - 512), []),
    "a disk that is larger by a granule": (have("disks.1.size_bytes", 20 * GIB + (4 << 20)), [
        (K.GROW_DISK, "disks[data].size_bytes", UNSUPPORTED, ("DiskShrink",))]),
    "a size that is a hair below a whole MiB": (set_("disks.1.size_bytes", 20 * GIB - 512), []),
    "another bus": (
        set_("disks.1.bus", v1.DiskBus.SATA), [(K.UPDATE_DISK, "disks[data].bus", RECREATE, ("DiskBusFixed",))]),
    "a bus that the provider lacks": (
        set_("disks.1.bus", v1.DiskBus.NVME), [(K.UPDATE_DISK, "disks[data].bus", UNSUPPORTED, ("DiskBusUnsupported",))]),
    "another storage": (set_("disks.1.storage", "ssd"), [(K.MOVE_DISK, "disks[data].storage", ONLINE, ())]),
    "another storage where disks stay": (
        all_(set_("disks.1.storage", "ssd"), can("disk_move", False)), [(K.UPDATE_DISK, "disks[data].storage", UNSUPPORTED, ("DiskMoveUnsupported",))]),
    "another provisioning": (
        set_("disks.1.provisioning", v1.DiskProvisioning.THICK),
        [(K.UPDATE_DISK, "disks[data].provisioning", UNSUPPORTED, ("DiskProvisioningFixed",))]),
    "another image": (
        set_("disks.0.image", v1.ImageRef(id="image-2")),
        [(K.UPDATE_DISK, "disks[root].image", RECREATE, ("DiskSourceFixed",))]),
    "an existing disk instead of ours": (
        set_("disks.1.existing", v1.ExistingDisk(id="x")),
        [(K.UPDATE_DISK, "disks[data].existing", RECREATE, ("DiskSourceFixed",))]),
    "a limit of disk operations": (
        set_("disks.1.iops_limit", 500), [(K.UPDATE_DISK, "disks[data].iops_limit", ONLINE, ())]),
    "sharing that the provider lacks": (
        all_(set_("disks.1.sharing", "virtualSharing"), can("disk_sharing", False)),
        [(K.UPDATE_DISK, "disks[data].sharing", UNSUPPORTED, ("DiskSharingUnsupported",))]),
    "a controller that is not on offer": (
        all_(set_("disks.1.controller_type", "floppy"), can("disk_controllers", ["pvscsi"])),
        [(K.UPDATE_DISK, "disks[data].controller_type", UNSUPPORTED, ("DiskControllerUnsupported",))]),
    "a controller by number where none can be chosen": (
        all_(set_("disks.1.controller_index", 1), can("disk_controllers", [])),
        [(K.UPDATE_DISK, "disks[data].controller_index", UNSUPPORTED, ("DiskControllerUnsupported",))]),
    "a controller that is on offer and not told": (
        all_(set_("disks.1.controller_type", "pvscsi"), set_("disks.1.controller_index", 1),
             can("disk_controllers", ["pvscsi"])), []),
    "another controller": (
        all_(set_("disks.1.controller_type", "pvscsi"), can("disk_controllers", ["pvscsi"]),
             have("settings", {"disks[data].controller_type": "lsilogic"})),
        [(K.UPDATE_DISK, "disks[data].controller_type", RECREATE, ("DiskControllerFixed",))]),
    "a storage policy": (
        all_(set_("disks.1.storage_policy", "gold"), can("storage_policies", True)),
        [(K.UPDATE_DISK, "disks[data].storage_policy", ONLINE, ())]),
    "a storage policy that the provider lacks": (
        all_(set_("disks.1.storage_policy", "gold"), can("storage_policies", False)),
        [(K.UPDATE_DISK, "disks[data].storage_policy", UNSUPPORTED, ("StoragePolicyUnsupported",))]),
    "a new disk": (
        do(lambda want, _: want.disks.append(NEW_DISK)), [(K.ATTACH_DISK, "disks[logs]", ONLINE, ())]),
    "a new disk without hot-add": (
        all_(do(lambda want, _: want.disks.append(NEW_DISK)), can("disk_hot_add", False)),
        [(K.ATTACH_DISK, "disks[logs]", RESTART, ("DiskHotAddUnsupported",))]),
    "a new existing disk that the provider does not take is never an empty one": (
        all_(do(lambda want, _: want.disks.append(v1.DiskSpec(name="old", existing=v1.ExistingDisk(id="x")))),
             can("existing_disk", False)),
        [(K.ATTACH_DISK, "disks[old].existing", UNSUPPORTED, ("ExistingDiskUnsupported",))]),
    "a boot disk that is missing is never made afresh": (
        do(lambda _, machine: machine.disks.pop(0)),
        [(K.ATTACH_DISK, "disks[root]", RECREATE, ("BootDiskMissing",))]),
    "a disk that left the spec is detached": (
        do(lambda want, _: want.disks.pop()), [(K.DETACH_DISK, "disks[data]", ONLINE, ())]),
    "a disk that left the spec, without hot-remove": (
        all_(do(lambda want, _: want.disks.pop()), can("disk_hot_remove", False)),
        [(K.DETACH_DISK, "disks[data]", RESTART, ("DiskHotRemoveUnsupported",))]),
    "a foreign disk that left the spec is reported": (
        all_(do(lambda want, _: want.disks.pop()), have("disks.1.owned", False)),
        [(K.DETACH_DISK, "disks[data]", UNSUPPORTED, ("ForeignDisk",))]),
    "a disk without a name is left alone": (
        do(lambda _, machine: machine.disks.append(v1.Disk(id="iso", size_bytes=1))), []),
    "a renamed boot disk is not detached": (
        set_("disks.0.name", "system"),
        [(K.DETACH_DISK, "disks[root]", RECREATE, ("BootDisk",)),
         (K.ATTACH_DISK, "disks[system]", RECREATE, ("BootDiskMissing",))]),
    "a spec without disks leaves those alone that we did not make": (
        all_(set_("disks", []), have("disks.0.owned", False), have("disks.1.owned", False)), []),
    # -- network adapters
    "a new NIC": (do(lambda want, _: want.nics.append(NEW_NIC)), [(K.ATTACH_NIC, "nics[dmz]", ONLINE, ())]),
    "a new NIC without hot-add": (
        all_(do(lambda want, _: want.nics.append(NEW_NIC)), can("nic_hot_add", False)),
        [(K.ATTACH_NIC, "nics[dmz]", RESTART, ("NicHotAddUnsupported",))]),
    "a new NIC on a network kind that the provider lacks": (
        do(lambda want, _: want.nics.append(
            v1.NicSpec(name="dvs", network=v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="pg")))),
        [(K.ATTACH_NIC, "nics[dvs].network.kind", UNSUPPORTED, ("NetworkKindUnsupported",))]),
    "a NIC that left the spec": (
        do(lambda want, machine: machine.nics.append(v1.Nic(name="old", mac="02:00:00:00:00:09"))),
        [(K.DETACH_NIC, "nics[old]", ONLINE, ())]),
    "a NIC without a name is left alone": (do(lambda _, machine: machine.nics.append(v1.Nic(mac="02:00:00:00:00:09"))), []),
    "a NIC moves online": (
        set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan")),
        [(K.UPDATE_NIC, "nics[lan].network", ONLINE, ())]),
    "a NIC that cannot move online": (
        all_(set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan")), can("nic_online_update", False)),
        [(K.UPDATE_NIC, "nics[lan].network", RESTART, ("NicOnlineUpdateUnsupported",))]),
    "another model": (
        set_("nics.0.model", "e1000e"), [(K.UPDATE_NIC, "nics[lan].model", RESTART, ("NicFixedWhileOn",))]),
    "another MAC": (
        set_("nics.0.mac", "02:00:00:00:00:07"), [(K.UPDATE_NIC, "nics[lan].mac", RESTART, ("NicFixedWhileOn",))]),
    "the same MAC in capitals": (
        all_(set_("nics.0.mac", "02:00:00:00:00:0a"), have("nics.0.mac", "02:00:00:00:00:0A")), []),
    "NAT is NAT, whatever it is called there": (
        all_(set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.NAT)),
             have("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.NAT, name="default"))), []),
    "an MTU": (set_("nics.0.mtu", 9000), [(K.UPDATE_NIC, "nics[lan].mtu", ONLINE, ())]),
    "a VLAN that the provider lacks": (
        all_(set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="default", vlan=7)), can("vlan", False)),
        [(K.UPDATE_NIC, "nics[lan].network.vlan", UNSUPPORTED, ("VlanUnsupported",))]),
    # -- the rest
    "boot data that another was written for": (
        all_(set_("boot_data", v1.BootData(user_data="#cloud-config")), have("settings", {"boot-data": "old"})),
        [(K.SET_BOOT_DATA, "boot_data", RESTART, ("BootDataReadAtFirstBoot",))]),
    "boot data of a machine that was made without": (
        set_("boot_data", v1.BootData(user_data="#cloud-config")),
        [(K.SET_BOOT_DATA, "boot_data", RESTART, ("BootDataReadAtFirstBoot",))]),
    "boot data of an adopted machine": (
        all_(set_("boot_data", v1.BootData(user_data="#cloud-config")), have("settings", {"adopted": "true"})), []),
    "no boot data is no difference": (have("settings", {"boot-data": "old"}), []),
    "another host": (
        all_(set_("placement", v1.Placement(host="b")), have("host", "a"), can("placements", [v1.PlacementKind.HOST])),
        [(K.SET_PLACEMENT, "placement.host", ONLINE, ())]),
    "another host where machines stay": (
        all_(set_("placement", v1.Placement(host="b")), have("host", "a"), can("placement_moves", [])),
        [(K.SET_PLACEMENT, "placement.host", RECREATE, ("MoveUnsupported",))]),
    "a placement that the provider lacks": (
        set_("placement", v1.Placement(folder="prod")),
        [(K.SET_PLACEMENT, "placement.folder", UNSUPPORTED, ("PlacementUnsupported",))]),
    "tags": (set_("tags", ["b", "a"]), [(K.SET_TAGS, "tags", ONLINE, ())]),
    "tags in another order": (all_(set_("tags", ["b", "a"]), have("tags", ["a", "b"])), []),
    "description": (set_("description", "hello"), [(K.SET_DESCRIPTION, "description", ONLINE, ())]),
    "tuning needs a restart": (
        set_("tuning", v1.Tuning(iommu=True)), [(K.SET_TUNING, "tuning.iommu", RESTART, ("ReadAtStart",))]),
    "tuning that the provider lacks": (
        all_(set_("tuning", v1.Tuning(latency_sensitivity="high")), can("latency_sensitivity", False)),
        [(K.SET_TUNING, "tuning.latency_sensitivity", UNSUPPORTED, ("LatencySensitivityUnsupported",))]),
    "customization is for the guest's first start": (set_("customization", v1.Customization(domain="example.org")), []),
    "attributes by value": (
        all_(set_("attributes", {"a": "1", "b": "2", "c": "3"}), can("attributes", True),
             have("settings", {"attributes[b]": "1", "attributes[c]": "3", "attributes[d]": "4"})),
        [(K.SET_ATTRIBUTES, "attributes[a]", ONLINE, ()), (K.SET_ATTRIBUTES, "attributes[b]", ONLINE, ()),
         (K.SET_ATTRIBUTES, "attributes[d]", ONLINE, ())]),
    "attributes that the provider lacks": (
        all_(set_("attributes", {"a": "1"}), can("attributes", False)),
        [(K.SET_ATTRIBUTES, "attributes[a]", UNSUPPORTED, ("AttributesUnsupported",))]),
    "affinity": (
        all_(set_("placement", v1.Placement(affinity=[AWAY])), can("affinity", True),
             have("settings", {"placement.affinity[old]": "together"})),
        [(K.SET_PLACEMENT, "placement.affinity[away]", ONLINE, ()),
         (K.SET_PLACEMENT, "placement.affinity[old]", ONLINE, ())]),
    "affinity that holds": (
        all_(set_("placement", v1.Placement(affinity=[AWAY])), can("affinity", True),
             have("settings", {"placement.affinity[away]": "apart required"})), []),
    "affinity that the provider lacks": (
        all_(set_("placement", v1.Placement(affinity=[AWAY])), can("affinity", False)),
        [(K.SET_PLACEMENT, "placement.affinity[away]", UNSUPPORTED, ("AffinityUnsupported",))]),
    "tuning that says nothing": (set_("tuning", v1.Tuning(latency_sensitivity="normal", hyper_threading_policy="auto")), []),
    "an unknown key of extra configuration": (
        set_("extra_config", {"a.b": "1"}),
        [(K.SET_EXTRA_CONFIG, "extra_config[a.b]", UNSUPPORTED, ("ExtraConfigKeyUnknown",))]),
    "a known key of extra configuration": (
        set_("extra_config", {"fake.colour": "red"}),
        [(K.SET_EXTRA_CONFIG, "extra_config[fake.colour]", RESTART, ("ReadAtStart",))]),
    "GPUs": (set_("gpus", [v1.GpuSpec(count=1)]), [(K.SET_TUNING, "gpus", UNSUPPORTED, ("GpuUnsupported",))]),
    # -- what the spec says no longer
    "shares that left the spec": (asked("cpu.shares", "100"), [(K.SET_CPU, "cpu.shares", ONLINE, ())]),
    "a limit that left the spec": (asked("memory.limit_bytes", "100"), [(K.SET_MEMORY, "memory.limit_bytes", ONLINE, ())]),
    "shares that cannot be had any more stay": (
        all_(set_("cpu.shares", 100), asked("cpu.shares", "100"), can("cpu_shares", False)),
        [(K.SET_CPU, "cpu.shares", UNSUPPORTED, ("CpuSharesUnsupported",))]),
    "nested virtualization that left the spec": (
        all_(asked("cpu.nested_virtualization", "true"), have("cpu.nested_virtualization", True)),
        [(K.SET_CPU, "cpu.nested_virtualization", RESTART, ("CpuModelFixedWhileOn",))]),
    "nested virtualization of a template stays": (have("cpu.nested_virtualization", True), []),
    "a flag that left the spec": (
        all_(asked("tuning.iommu", "true"), set_("tuning", v1.Tuning())),
        [(K.SET_TUNING, "tuning.iommu", RESTART, ("ReadAtStart",))]),
    "a policy of guest tools that left the spec is done": (asked("guest_tools_policy", "install"), []),
    "a key that left the spec": (
        asked("fake.colour", "red"), [(K.SET_EXTRA_CONFIG, "extra_config[fake.colour]", RESTART, ("ReadAtStart",))]),
    "a key of somebody else's stays": (asked("their.key", "red"), []),
    "GPUs that left the spec": (asked("gpus", "1xA100"), [(K.SET_TUNING, "gpus", RECREATE, ("GpusFixed",))]),
    "a limit of disk operations that left the spec": (
        asked("disks[data].iops_limit", "500"), [(K.UPDATE_DISK, "disks[data].iops_limit", ONLINE, ())]),
    "sharing that left the spec": (
        all_(asked("disks[data].sharing", "virtualSharing"), set_("disks.1.sharing", "noSharing")),
        [(K.UPDATE_DISK, "disks[data].sharing", RESTART, ("ReadAtStart",))]),
    "an MTU that left the spec": (asked("nics[lan].mtu", "9000"), [(K.UPDATE_NIC, "nics[lan].mtu", ONLINE, ())]),
    "the last tag left the spec": (have("tags", ["a"]), [(K.SET_TAGS, "tags", ONLINE, ())]),
    "tags of a provider without tags stay": (all_(have("tags", ["a"]), can("tags", False)), []),
    "a description that left the spec": (
        all_(have("description", "hello"), asked("description", "true")),
        [(K.SET_DESCRIPTION, "description", ONLINE, ())]),
    "a description of a person stays": (have("description", "hello"), []),
    "the last NIC left the spec": (set_("nics", []), [(K.DETACH_NIC, "nics[lan]", ONLINE, ())]),
    "NICs of a template stay": (all_(set_("nics", []), have("nics.0.name", "")), []),
    "NICs of an adopted machine stay while nobody has described them": (
        all_(set_("nics", []), asked("adopted", "true")), []),
    "a NIC that left the spec of an adopted machine": (
        all_(asked("adopted", "true"), do(lambda _, machine: machine.nics.append(v1.Nic(name="old")))),
        [(K.DETACH_NIC, "nics[old]", ONLINE, ())]),
    "all disks left the spec": (
        set_("disks", []),
        [(K.DETACH_DISK, "disks[data]", ONLINE, ()), (K.DETACH_DISK, "disks[root]", RECREATE, ("BootDisk",))]),
    # -- power
    "power on": (have("power", OFF), [(K.SET_POWER, "power.state", ONLINE, ())]),
    "power off": (set_("power.state", OFF), [(K.SET_POWER, "power.state", ONLINE, ())]),
    "graceful off is settled by off": (
        all_(have("power", OFF), set_("power", v1.PowerSpec(state=OFF, graceful=True))), []),
    "graceful off where the guest cannot be asked": (
        all_(set_("power", v1.PowerSpec(state=OFF, graceful=True)), can("graceful_shutdown", False)),
        [(K.SET_POWER, "power.state", UNSUPPORTED, ("GracefulShutdownUnsupported",))]),
    "suspend": (set_("power.state", SUSPENDED), [(K.SET_POWER, "power.state", ONLINE, ())]),
    "suspend a machine that is off": (
        all_(set_("power.state", SUSPENDED), have("power", OFF)), [(K.SET_POWER, "power.state", UNSUPPORTED, ("MachineOff",))]),
    "suspend where the provider lacks it": (
        all_(set_("power.state", SUSPENDED), can("suspend", False)),
        [(K.SET_POWER, "power.state", UNSUPPORTED, ("SuspendUnsupported",))]),
    "resume what is suspended": (have("power", SUSPENDED), [(K.SET_POWER, "power.state", ONLINE, ())]),
    "resume what is paused": (have("power", PAUSED), [(K.SET_POWER, "power.state", ONLINE, ())]),
    "an unknown power state is not touched": (
        have("power", v1.PowerState.UNKNOWN), [(K.SET_POWER, "power.state", UNSUPPORTED, ("PowerStateUnknown",))]),
    "no wish about power": (all_(set_("power", None), have("power", PAUSED)), []),
    "settings that wait for a restart": (
        have("pending_restart", ["vcpu model"]), [(K.RESTART, "power.state", RESTART, ("AwaitsRestart",))]),
    # -- order and power together
    "changes come before power on": (
        all_(have("power", OFF), set_("cpu.count", 1)),
        [(K.SET_CPU, "cpu.count", ONLINE, ()), (K.SET_POWER, "power.state", ONLINE, ())]),
    "power off comes before changes that need it": (
        all_(set_("power.state", OFF), set_("cpu.count", 1)),
        [(K.SET_POWER, "power.state", ONLINE, ()), (K.SET_CPU, "cpu.count", ONLINE, ())]),
    "resume comes before online changes": (
        all_(have("power", SUSPENDED), set_("cpu.count", 4)),
        [(K.SET_POWER, "power.state", ONLINE, ()), (K.SET_CPU, "cpu.count", ONLINE, ())]),
    "a suspended machine that shall stay so takes no changes": (
        all_(have("power", SUSPENDED), set_("power.state", SUSPENDED), set_("cpu.count", 4)),
        [(K.SET_CPU, "cpu.count", RESTART, ("MachineNotRunning",))]),
    "what can be done comes before what cannot": (
        all_(set_("disks.1.size_bytes", GIB), set_("memory.size_bytes", GIB), set_("tags", ["x"])),
        [(K.SET_TAGS, "tags", ONLINE, ()), (K.SET_MEMORY, "memory.size_bytes", RESTART, ("MemoryShrinkUnsupported",)),
         (K.GROW_DISK, "disks[data].size_bytes", UNSUPPORTED, ("DiskShrink",))]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_W13_W14_W15_decides(name: str) -> None:
    edit, rows = TABLE[name]
    want, machine, caps = wanted(), seen(), copy.deepcopy(FAKE_CAPABILITIES)
    edit(want, machine, caps)
    before = copy.deepcopy((want, machine, caps))
    changes = planner.plan(want, machine, caps, v1.Limits(disk_granularity_bytes=4 << 20))
    got = [(c.kind, c.field, c.effect, tuple(r.code for r in c.reasons)) for c in changes]
    assert got == rows
    assert all(change.message for change in changes)
    assert all(reason.message for change in changes for reason in change.reasons)
    assert (want, machine, caps) == before, "the planner changed what it was given"


CREATE_TABLE: dict[str, tuple[Edit, v1.Effect, list[str]]] = {
    "plain": (all_(), ONLINE, []),
    "a network that cannot be had": (
        set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="pg")), UNSUPPORTED, ["NetworkKindUnsupported"]),
    "secure boot that cannot be had": (
        all_(set_("firmware.secure_boot", True), can("secure_boot", False)), UNSUPPORTED, ["SecureBootUnsupported"]),
    "every blocking reason is named": (
        all_(set_("disks.0.bus", v1.DiskBus.NVME), set_("nics.0.model", "vmxnet3")), UNSUPPORTED,
        ["DiskBusUnsupported", "NicModelUnsupported"]),
    "encryption that must be": (
        all_(set_("tuning", v1.Tuning(encryption=True, encryption_required=True)), can("encryption", False)), UNSUPPORTED,
        ["EncryptionUnsupported"]),
    "encryption that would be nice": (all_(set_("tuning", v1.Tuning(encryption=True)), can("encryption", False)), ONLINE, []),
    "a folder": (set_("placement", v1.Placement(folder="x")), ONLINE, []),
    "customization that cannot be had": (
        all_(set_("customization", v1.Customization(stored="linux")), can("customization", False)), UNSUPPORTED,
        ["CustomizationUnsupported"]),
    "sysprep that cannot be had": (
        all_(set_("customization", v1.Customization(sysprep=v1.Sysprep())), can("customization", True), can("sysprep", False)),
        UNSUPPORTED, ["SysprepUnsupported"]),
    "a rule that must be kept": (
        all_(set_("placement", v1.Placement(affinity=[AWAY])), can("affinity", False)), UNSUPPORTED, ["AffinityUnsupported"]),
    "a rule that would be nice": (
        all_(set_("placement", v1.Placement(affinity=[v1.AffinityRule(name="near")])), can("affinity", False)), ONLINE, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CREATE_TABLE)
def test_creates(name: str) -> None:
    """What a machine cannot be without stops its creation; the rest is created and reported."""
    edit, effect, codes = CREATE_TABLE[name]
    want, machine, caps = wanted(), seen(), copy.deepcopy(FAKE_CAPABILITIES)
    edit(want, machine, caps)
    create, *rest = planner.plan(want, None, caps)
    assert (create.kind, create.effect, [r.code for r in create.reasons]) == (K.CREATE, effect, codes)
    assert all(change.effect is UNSUPPORTED for change in rest)


SPEC_FAULTS: dict[str, tuple[Edit, str]] = {
    "no identity": (set_("identity", None), "identity: is missing"),
    "capital uid": (set_("identity.uid", UID.upper()), "identity.uid"),
    "uid that is a path": (set_("identity.uid", "../../etc/passwd"), "identity.uid"),
    "hostile namespace": (set_("identity.namespace", "a;rm -rf /"), "identity.namespace"),
    "namespace with a newline": (set_("identity.namespace", "shop\n"), "identity.namespace"),
    "name with markup": (set_("identity.name", "<script>"), "identity.name"),
    "name with a dot at its end": (set_("identity.name", "web."), "identity.name"),
    "name that is too long": (set_("identity.name", "a" * 254), "identity.name"),
    "no cpu": (set_("cpu.count", 0), "cpu.count"),
    "too many cpus": (set_("cpu.count", 1000), "at most 64"),
    "sockets that do not divide": (set_("cpu.cores_per_socket", 3), "cpu.cores_per_socket"),
    "memory below 1 MiB": (set_("memory.size_bytes", 1023), "memory.size_bytes"),
    "too much memory": (set_("memory.size_bytes", 1 << 50), "memory.size_bytes"),
    "reservation above the size": (set_("memory.reservation_bytes", 3 * GIB), "memory.reservation_bytes"),
    "secure boot with BIOS": (
        set_("firmware", v1.FirmwareSpec(type=v1.FirmwareType.BIOS, secure_boot=True)), "firmware.secure_boot"),
    "unknown firmware": (set_("firmware.type", v1.FirmwareType(77)), "firmware.type: 77"),
    "unknown TPM": (set_("firmware.tpm_version", "3"), "firmware.tpm_version"),
    "duplicate disks": (set_("disks.1.name", "root"), "given twice"),
    "hostile disk name": (set_("disks.1.name", "../root"), "disks: name '../root'"),
    "empty disk without size": (set_("disks.1.size_bytes", 0), "an empty disk needs a size"),
    "endless disk": (set_("disks.1.size_bytes", 1 << 63), "disks[data].size_bytes"),
    "unknown bus": (set_("disks.1.bus", v1.DiskBus(99)), "disks[data].bus: 99"),
    "too many disks": (do(lambda want, _: want.disks.extend(
        v1.DiskSpec(name=f"d{i}", size_bytes=GIB) for i in range(40))), "at most 32"),
    "storage that is a path": (set_("disks.1.storage", "/etc"), "disks[data].storage"),
    "unknown sharing": (set_("disks.1.sharing", "all"), "disks[data].sharing"),
    "controller that is a sentence": (set_("disks.1.controller_type", "a b"), "disks[data].controller_type"),
    "policy with control characters": (set_("disks.1.storage_policy", "a\n"), "disks[data].storage_policy"),
    "duplicate nics": (do(lambda want, _: want.nics.append(copy.deepcopy(want.nics[0]))), "given twice"),
    "a nic without network": (set_("nics.0.network", None), "nics[lan].network: is missing"),
    "a network without name": (set_("nics.0.network.name", ""), "nics[lan].network.name"),
    "a bridge that is a path": (
        set_("nics.0.network", v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="../br0")), "no bridge device"),
    "a VLAN out of range": (set_("nics.0.network.vlan", 5000), "nics[lan].network.vlan"),
    "a MAC in capitals": (set_("nics.0.mac", "02:00:00:00:00:AA"), "nics[lan].mac"),
    "a multicast MAC": (set_("nics.0.mac", "01:00:5e:00:00:01"), "multicast"),
    "the zero MAC": (set_("nics.0.mac", "00:00:00:00:00:00"), "nobody"),
    "an address that is none": (set_("nics.0.addressing", v1.GuestAddressing(addresses=["300.1.1.1/24"])), "CIDR"),
    "an address without prefix": (set_("nics.0.addressing", v1.GuestAddressing(addresses=["192.0.2.1"])), "prefix"),
    "a gateway of the wrong family": (set_("nics.0.addressing", v1.GuestAddressing(gateway4="2001:db8::1")), "IPv4 is meant"),
    "a nameserver that is a name": (set_("nics.0.addressing", v1.GuestAddressing(nameservers=["dns.example"])), "nameservers"),
    "a route to nowhere": (
        set_("nics.0.addressing", v1.GuestAddressing(routes=[v1.Route(destination="x", via="192.0.2.1")])), "routes"),
    "an MTU too small": (set_("nics.0.mtu", 10), "nics[lan].mtu"),
    "endless user data": (set_("boot_data", v1.BootData(user_data="x" * (5 << 20))), "boot_data.user_data"),
    "two kinds of boot data": (set_("boot_data", v1.BootData(user_data="a", ignition="{}")), "boot_data.ignition"),
    "a host name that is none": (set_("boot_data", v1.BootData(hostname="a b")), "boot_data.hostname"),
    "a wish to be paused": (set_("power.state", PAUSED), "power.state"),
    "an unknown power state": (set_("power.state", v1.PowerState(42)), "power.state: 42"),
    "an endless grace": (
        set_("power", v1.PowerSpec(state=OFF, graceful_timeout=timedelta(days=9))), "power.graceful_timeout"),
    "a tag with control characters": (set_("tags", ["a\x00"]), "tags"),
    "a key that is none": (set_("extra_config", {"a b\n": "1"}), "extra_config"),
    "a value with control characters": (set_("extra_config", {"a": "\x1b[2J"}), "extra_config[a]"),
    "a description with control characters": (set_("description", "\x07"), "description"),
    "an attribute without name": (set_("attributes", {"": "1"}), "attributes: ''"),
    "an attribute with control characters": (set_("attributes", {"a": "\x00"}), "attributes[a]"),
    "a rule named twice": (set_("placement", v1.Placement(affinity=[AWAY, AWAY])), "placement.affinity: name 'away'"),
    "a hostile rule": (set_("placement", v1.Placement(affinity=[v1.AffinityRule(name="a/b")])), "placement.affinity"),
    "a guest's domain that is none": (set_("customization", v1.Customization(domain="a b")), "customization.domain"),
    "a time zone with control characters": (set_("customization", v1.Customization(time_zone="\x07")), "time_zone"),
    "a password with control characters": (
        set_("customization", v1.Customization(sysprep=v1.Sysprep(admin_password="a\n"))), "sysprep.admin_password"),
    "a guest in a domain and a workgroup": (
        set_("customization", v1.Customization(sysprep=v1.Sysprep(join_domain="a", workgroup="b"))), "sysprep.workgroup"),
    "an endless answer file": (
        set_("customization", v1.Customization(sysprep=v1.Sysprep(answer_file="x" * (5 << 20)))), "answer_file"),
    "a host with control characters": (set_("placement", v1.Placement(host="a\n")), "placement.host"),
}  # fmt: skip

LIMITS = v1.Limits(max_cpus=64, max_memory_bytes=1 << 40, max_disks=32, max_nics=16)


@pytest.mark.parametrize("name", SPEC_FAULTS)
def test_refuses_a_spec_that_can_never_be_met(name: str) -> None:
    edit, text = SPEC_FAULTS[name]
    want = wanted()
    edit(want, seen(), v1.Capabilities())
    with pytest.raises(InvalidSpecError) as refusal:
        planner.require_valid(want, LIMITS)
    assert text in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_names_every_violation_at_once() -> None:
    want = wanted()
    want.cpu = v1.CpuSpec(count=0)
    want.memory = v1.MemorySpec(size_bytes=1)
    want.nics[0].mac = "x"
    with pytest.raises(InvalidSpecError) as refusal:
        planner.require_valid(want, LIMITS)
    assert all(text in str(refusal.value) for text in ("cpu.count", "memory.size_bytes", "nics[lan].mac"))


def test_a_good_spec_has_no_violations() -> None:
    assert planner.check(wanted(), LIMITS) == []


def test_violations_never_show_secrets() -> None:
    want, secret = wanted(), "canary\x00" * (1 << 20)
    want.boot_data = v1.BootData(user_data=secret, ignition="canary")
    sysprep = v1.Sysprep(
        answer_file=secret, product_key=secret, admin_password=secret, join_password=secret, commands=[secret]
    )
    want.customization = v1.Customization(sysprep=sysprep)
    violations = planner.check(want, LIMITS)
    assert len(violations) == 7
    assert "canary" not in "; ".join(violations)


def test_boot_data_digest_tells_payloads_and_machines_apart() -> None:
    one, two, other = wanted(), wanted(), wanted()
    one.boot_data = v1.BootData(user_data="a")
    two.boot_data = v1.BootData(user_data="b")
    other.boot_data = v1.BootData(user_data="a")
    assert other.identity is not None
    other.identity.uid = UID.replace("0", "1")
    digests = {planner.boot_data_digest(spec) for spec in (one, two, other)}
    assert len(digests) == 3
    assert planner.boot_data_digest(wanted()) == ""


def test_addresses_are_part_of_the_boot_data() -> None:
    want = wanted()
    want.nics[0].addressing = v1.GuestAddressing(addresses=["192.0.2.7/24"])
    assert planner.boot_data_digest(want) != ""
