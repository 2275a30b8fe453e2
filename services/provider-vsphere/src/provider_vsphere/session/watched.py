"""What the collector subscribes to: object types and their properties, leaves only.

Whole structs cost ten times as much to send and to decode, and `config.extraConfig` as a whole would bring every
machine's boot data, which may hold secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.Version import IsChildVersion
from pyVmomi.VmomiSupport import ManagedObject

from provider_vsphere.session import happenings, snapshot_tree
from provider_vsphere.session.tree import LIKELY
from provider_vsphere.stamps import imagestamp, stamp, uploadstamp

STAMP = f'config.extraConfig["{stamp.KEY}"]'
IMAGE_STAMP = f'config.extraConfig["{imagestamp.KEY}"]'
UPLOAD_STAMP = f'config.extraConfig["{uploadstamp.KEY}"]'

DRS = "configurationEx"
"""As a whole: its type is that of any ComputeResource, where a path cannot name what a cluster alone has."""

POD_ENABLED = "podStorageDrsEntry.storageDrsConfig.podConfig.enabled"

PROPERTIES: dict[Any, tuple[str, ...]] = {
    vim.Folder: ("name", "parent", "childType"),
    vim.StoragePod: ("summary.freeSpace", "summary.capacity", POD_ENABLED),
    vim.Datacenter: ("name", "parent", "vmFolder", "hostFolder", "datastoreFolder", "networkFolder"),
    vim.ComputeResource: ("name", "parent", "resourcePool", "host", "datastore", "network"),
    vim.ClusterComputeResource: ("configuration.drsConfig.enabled", DRS),
    vim.ResourcePool: ("name", "parent", "owner"),
    vim.HostSystem: (
        "name",
        "parent",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "summary.hardware.cpuModel",
        "summary.hardware.numCpuThreads",
        "summary.hardware.memorySize",
        "datastore",
        "network",
    ),
    vim.Datastore: (
        "name",
        "parent",
        "summary.accessible",
        "summary.maintenanceMode",
        "summary.freeSpace",
        "summary.capacity",
        "summary.type",
        "summary.url",
    ),
    vim.Network: ("name", "parent"),
    vim.dvs.DistributedVirtualPortgroup: ("key", "config.distributedVirtualSwitch", "config.uplink"),
    vim.OpaqueNetwork: ("summary",),
    vim.DistributedVirtualSwitch: ("name", "parent", "uuid"),
    vim.VirtualMachine: (
        "name",
        "parent",
        "config.instanceUuid",
        "config.template",
        "config.changeVersion",
        "config.hardware.numCPU",
        "config.hardware.numCoresPerSocket",
        "config.hardware.memoryMB",
        "config.hardware.device",
        "config.firmware",
        "config.annotation",
        "config.cpuHotAddEnabled",
        "config.memoryHotAddEnabled",
        "config.nestedHVEnabled",
        "config.bootOptions.efiSecureBootEnabled",
        "config.createDate",
        "config.vAppConfig.property",
        "config.version",
        "config.guestId",
        "config.files.vmPathName",
        STAMP,
        IMAGE_STAMP,
        UPLOAD_STAMP,
        LIKELY,
        "summary.config.vmPathName",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.host",
        "resourcePool",
        "datastore",
        "guest.net",
        "guest.hostName",
        "guest.toolsRunningStatus",
        "guest.guestFullName",
        "guest.ipAddress",
        "snapshot",
        "runtime.consolidationNeeded",
        "customValue",
        "runtime.question",
        "runtime.bootTime",
        happenings.ALARMS,
        "guest.customizationInfo",
    ),
}
_NEWER = {"guest.customizationInfo": "vim.version.v7_0_2_0"}
"""Paths that not every server has whose API we speak; one that it lacks would spoil the whole filter."""
VIEWED = [
    vim.Folder,
    vim.Datacenter,
    vim.ComputeResource,
    vim.ResourcePool,
    vim.HostSystem,
    vim.Datastore,
    vim.Network,
    vim.DistributedVirtualSwitch,
    vim.VirtualMachine,
]
"""Types of the container view; subtypes come along."""

RECENT_TASK = ("info.state", "info.descriptionId", "info.entity", "info.reason")
TASK = ("info.state", "info.progress", "info.error", "info.result")
LEASE = ("state", "error")
LATEST_EVENTS = "latestPage"

_Filter = vmodl.query.PropertyCollector.FilterSpec
_Object = vmodl.query.PropertyCollector.ObjectSpec
_Property = vmodl.query.PropertyCollector.PropertySpec
_Traversal = vmodl.query.PropertyCollector.TraversalSpec


def _known(kind: Any, stub: Any) -> list[str]:
    """The paths of a type that the server has."""
    return [path for path in PROPERTIES[kind] if path not in _NEWER or IsChildVersion(stub.version, _NEWER[path])]


def inventory_filter(view: Any, root: Any) -> Any:
    """Everything in a container view, and the root folder, which is in none."""
    everything = _Traversal(name="view", path="view", skip=False, type=vim.view.ContainerView)
    return _Filter(
        objectSet=[_Object(obj=view, skip=True, selectSet=[everything]), _Object(obj=root, skip=False)],
        propSet=[_Property(type=kind, all=False, pathSet=_known(kind, view._stub)) for kind in PROPERTIES],
    )


def task_filter(task: Any) -> Any:
    """One task."""
    return _Filter(
        objectSet=[_Object(obj=task, skip=False)], propSet=[_Property(type=vim.Task, all=False, pathSet=list(TASK))]
    )


def lease_filter(lease: Any) -> Any:
    """One lease of NFC."""
    return _Filter(
        objectSet=[_Object(obj=lease, skip=False)],
        propSet=[_Property(type=vim.HttpNfcLease, all=False, pathSet=list(LEASE))],
    )


def events_filter(collector: Any) -> Any:
    """The newest events of a history collector."""
    kind = vim.event.EventHistoryCollector
    return _Filter(
        objectSet=[_Object(obj=collector, skip=False)],
        propSet=[_Property(type=kind, all=False, pathSet=[LATEST_EVENTS])],
    )


def recent_tasks_filter(manager: Any) -> Any:
    """What runs or ended lately, of everybody; leaves, since the whole info of some tasks cannot be decoded."""
    recent = _Traversal(name="recent", path="recentTask", skip=False, type=vim.TaskManager)
    return _Filter(
        objectSet=[_Object(obj=manager, skip=True, selectSet=[recent])],
        propSet=[_Property(type=vim.Task, all=False, pathSet=list(RECENT_TASK))],
    )


def machine_filter(machines: list[Any]) -> Any:
    """A few machines, read at once."""
    kind = vim.VirtualMachine
    return _Filter(
        objectSet=[_Object(obj=machine, skip=False) for machine in machines],
        propSet=[_Property(type=kind, all=False, pathSet=_known(kind, machines[0]._stub))],
    )


@dataclass(frozen=True)
class DrsRule:
    """A rule that keeps VMs together or apart."""

    key: int
    members: frozenset[str]
    """Ids of VMs."""
    enabled: bool


@dataclass(frozen=True)
class Drs:
    """What we look at of a cluster's configuration."""

    enabled: bool
    rules: dict[str, DrsRule]
    """By name; those between VMs."""


def drs(config: Any) -> Drs:
    """What we look at of a vim.cluster.ConfigInfoEx."""
    kinds = (vim.cluster.AffinityRuleSpec, vim.cluster.AntiAffinityRuleSpec)
    rules = {
        str(rule.name): DrsRule(int(rule.key or 0), frozenset(vm._moId for vm in rule.vm or ()), bool(rule.enabled))
        for rule in config.rule or ()
        if isinstance(rule, kinds)
    }
    return Drs(bool(config.drsConfig is not None and config.drsConfig.enabled), rules)


def plain(value: Any) -> Any:
    """A property as the tree keeps it: managed objects as ids, enumerations as text, the rest as pyvmomi gives it."""
    if isinstance(value, ManagedObject):
        return value._moId
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        if all(isinstance(each, ManagedObject) for each in value):
            return tuple(each._moId for each in value)
        if all(isinstance(each, str) for each in value):
            return tuple(str(each) for each in value)
        if all(isinstance(each, vim.alarm.AlarmState) for each in value):
            return happenings.raised(value)
        return list(value)
    if isinstance(value, vim.option.OptionValue):
        return str(value.value)
    if isinstance(value, vim.cluster.ConfigInfoEx):
        return drs(value)
    if isinstance(value, vim.vm.SnapshotInfo):
        return snapshot_tree.nodes(value)
    if isinstance(value, vim.TaskReasonUser):
        return str(value.userName or "")
    if isinstance(value, vim.TaskReason):
        return ""  # an alarm or a schedule began it
    if isinstance(value, vim.OpaqueNetwork.Summary):
        return {"id": value.opaqueNetworkId, "type": value.opaqueNetworkType}
    return value


def snapshots_filter(snapshots: list[Any]) -> Any:
    """What some snapshots hold of the machine: its devices and our stamp."""
    return _Filter(
        objectSet=[_Object(obj=snapshot, skip=False) for snapshot in snapshots],
        propSet=[_Property(type=vim.vm.Snapshot, all=False, pathSet=["config.hardware.device", STAMP])],
    )
