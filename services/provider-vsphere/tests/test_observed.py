"""What is said of a VM, from trees and device lists that the tests build."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from common import v1
from provider_vsphere import observed
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.watched import STAMP
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp
from providerkit.planner import BOOT_DATA_SETTING, plan
from pyVmomi import vim

UID = "5f7d9a1e-1c1f-4c2b-8a55-3f0f6f1d2c3b"
OWNER = "tests"
MAC = "00:50:56:00:00:01"
GIB = 1 << 30
dev = vim.vm.device
THIN, THICK, EAGER = v1.DiskProvisioning.THIN, v1.DiskProvisioning.THICK, v1.DiskProvisioning.EAGER_ZEROED_THICK

MARK = Stamp(
    uid=UID,
    namespace="shop",
    name="web",
    owner=OWNER,
    created=1_700_000_000,
    boot_digest="digest",
    disks=(DiskStamp("root", "scsi0:0", image_id="template:debian"), DiskStamp("data", "scsi0:1", owned=False)),
    nics=(NicStamp("lan", MAC, network="VM Network"),),
    tags=("b", "a"),
)


def disk(
    key: int, controller: int, unit: int, *, gib: int = 1, path: str = "[shared] web/web.vmdk", **backing: Any
) -> Any:
    return dev.VirtualDisk(
        key=key,
        controllerKey=controller,
        unitNumber=unit,
        capacityInBytes=gib * GIB,
        backing=dev.VirtualDisk.FlatVer2BackingInfo(fileName=path, **({"thinProvisioned": True} | backing)),
    )


def nic(
    key: int = 4000, mac: str | None = MAC, kind: Any = dev.VirtualVmxnet3, backing: Any = None, **state: bool
) -> Any:
    usual = dev.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    told = {"startConnected": True, "connected": True, "allowGuestControl": True} | state
    return kind(key=key, macAddress=mac, backing=backing or usual, connectable=dev.VirtualDevice.ConnectInfo(**told))


def board(*more: Any) -> list[Any]:
    return [
        dev.ParaVirtualSCSIController(key=1000, busNumber=0),
        dev.VirtualAHCIController(key=15000, busNumber=0),
        dev.VirtualCdrom(key=16000, controllerKey=15000, unitNumber=0),
        *more,
    ]


@pytest.fixture
def tree() -> Tree:
    """One datacenter with a cluster of one host, two datastores in a pod, a switch, and the usual network."""
    tree = Tree()
    tree.put("Folder", "group-d1", {"name": "Datacenters"})
    tree.put("Datacenter", "dc-1", {"name": "DC0", "parent": "group-d1"})
    tree.put("Folder", "group-v1", {"name": "vm", "parent": "dc-1"})
    tree.put("Folder", "group-v2", {"name": "lab", "parent": "group-v1"})
    tree.put("Folder", "group-s1", {"name": "datastore", "parent": "dc-1"})
    tree.put("Folder", "group-n1", {"name": "network", "parent": "dc-1"})
    tree.put("ClusterComputeResource", "domain-c1", {"name": "C0", "parent": "dc-1"})
    tree.put("ResourcePool", "resgroup-1", {"name": "Resources", "parent": "domain-c1", "owner": "domain-c1"})
    tree.put("HostSystem", "host-1", {"name": "esx1", "parent": "domain-c1", "runtime.connectionState": "connected"})
    tree.put("StoragePod", "group-p1", {"name": "pod", "parent": "group-s1"})
    tree.put("Datastore", "datastore-1", {"name": "shared", "parent": "group-p1"})
    tree.put("Datastore", "datastore-2", {"name": "other", "parent": "group-p1"})
    tree.put("Network", "network-1", {"name": "VM Network", "parent": "group-n1"})
    tree.put("VmwareDistributedVirtualSwitch", "dvs-1", {"name": "switch", "parent": "group-n1", "uuid": "50 01"})
    lab = {"name": "lab", "parent": "group-n1", "key": "dvportgroup-1", "config.distributedVirtualSwitch": "dvs-1"}
    tree.put("DistributedVirtualPortgroup", "dvportgroup-1", lab)
    return tree


def vm(tree: Tree, mark: Stamp | None = MARK, /, **more: Any) -> Entity:
    """A VM that runs, with what `more` says of it; dots of a path are written as two underscores."""
    facts = {
        "name": "shop.web",
        "parent": "group-v2",
        "config.instanceUuid": UID,
        "config.hardware.numCPU": 2,
        "config.hardware.numCoresPerSocket": 1,
        "config.hardware.memoryMB": 2048,
        "config.hardware.device": board(disk(2000, 1000, 0), nic()),
        "config.firmware": "efi",
        "runtime.powerState": "poweredOn",
        "runtime.host": "host-1",
        "resourcePool": "resgroup-1",
        "datastore": ("datastore-1",),
    }
    if mark is not None:
        facts[STAMP] = mark.text()
    return tree.put("VirtualMachine", "vm-42", facts | {key.replace("__", "."): value for key, value in more.items()})


def look(tree: Tree, mark: Stamp | None = MARK, /, **more: Any) -> v1.Machine:
    return observed.machine(vm(tree, mark, **more), tree, OWNER)


def look_at_devices(tree: Tree, *devices: Any, mark: Stamp | None = MARK, **more: Any) -> v1.Machine:
    return look(tree, mark, config__hardware__device=board(*devices), **more)


# -- whose ---------------------------------------------------------------------------------------------------------


def test_ours_carries_its_identity(tree: Tree) -> None:
    seen = look(tree)
    assert seen.owned
    assert seen.identity == v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner=OWNER)
    assert (seen.id, seen.hypervisor_name, seen.host) == ("vm-42", "shop.web", "esx1")


@pytest.mark.parametrize(
    "mark",
    [None, replace(MARK, owner="somebody"), replace(MARK, uid="5f7d9a1e-1c1f-4c2b-8a55-000000000000")],
    ids=["no stamp", "another owner", "the stamp that a copy brought along"],
)
def test_foreign_machines_have_no_identity_and_no_names(tree: Tree, mark: Stamp | None) -> None:
    seen = look(tree, mark)
    assert (seen.owned, seen.identity) == (False, None)
    assert [(each.name, each.owned) for each in seen.disks] == [("", False)]
    assert [each.name for each in seen.nics] == [""]
    assert seen.tags == []
    assert BOOT_DATA_SETTING not in seen.settings


def test_a_vm_of_which_nothing_is_known_is_still_told(tree: Tree) -> None:
    """vSphere shows a VM whose files are out of reach, and has no configuration of it."""
    entity = tree.put("VirtualMachine", "vm-7", {"name": "lost"})
    seen = observed.machine(entity, tree, OWNER)
    assert (seen.hypervisor_name, seen.power, seen.owned) == ("lost", v1.PowerState.UNKNOWN, False)
    assert (seen.disks, seen.nics, seen.addresses, seen.settings) == ([], [], [], {})


def test_equal_facts_make_equal_machines(tree: Tree) -> None:
    """The kit derives the token from the message, and sends an event for each difference."""
    devices = (disk(2001, 1000, 1), disk(2000, 1000, 0), nic(4001, "00:50:56:00:00:02"), nic())
    assert look_at_devices(tree, *devices) == look_at_devices(tree, *reversed(devices))


# -- power ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "power"),
    [
        ("poweredOn", v1.PowerState.ON),
        ("poweredOff", v1.PowerState.OFF),
        ("suspended", v1.PowerState.SUSPENDED),
        ("hibernating", v1.PowerState.UNKNOWN),
        (None, v1.PowerState.UNKNOWN),
    ],
)
def test_power(tree: Tree, told: str | None, power: v1.PowerState) -> None:
    seen = look(tree, runtime__powerState=told)
    assert (seen.power, seen.power_reason) == (power, "")


def test_the_state_of_a_machine_on_a_host_that_does_not_answer_is_old(tree: Tree) -> None:
    tree.put("HostSystem", "host-1", {"runtime.connectionState": "notResponding"})
    assert look(tree).power_reason == "host esx1 does not answer; this is the last state known"


def test_the_state_of_a_machine_that_cannot_be_read_is_old(tree: Tree) -> None:
    reason = look(tree, runtime__connectionState="inaccessible").power_reason
    assert reason == "vSphere cannot read it (inaccessible); this is the last state known"


# -- processor, memory, firmware -----------------------------------------------------------------------------------


def test_shape(tree: Tree) -> None:
    seen = look(tree, config__nestedHVEnabled=True)
    assert seen.cpu == v1.CpuState(
        count=2, max_count=2, configured_count=2, cores_per_socket=1, nested_virtualization=True
    )
    assert seen.memory == v1.MemoryState(size_bytes=2 * GIB, max_bytes=2 * GIB, configured_bytes=2 * GIB)
    assert "cpu.hot_add" not in seen.settings


def test_room_to_grow_has_no_ceiling_that_we_know(tree: Tree) -> None:
    """The planner takes 0 for unknown, and asks for the growth of the running machine."""
    seen = look(tree, config__cpuHotAddEnabled=True, config__memoryHotAddEnabled=True)
    assert (seen.cpu.max_count, seen.memory.max_bytes) == (0, 0)
    assert (seen.settings["cpu.hot_add"], seen.settings["memory.hot_add"]) == ("true", "true")
    want = v1.MachineSpec(
        identity=seen.identity,
        cpu=v1.CpuSpec(count=4, hot_add=True),
        memory=v1.MemorySpec(size_bytes=4 * GIB, hot_add=True),
    )
    changes = plan(want, seen, v1.Capabilities(cpu_hot_add=True, memory_hot_add=True))
    shape = [each for each in changes if each.field.startswith(("cpu.", "memory."))]
    assert [(each.field, each.effect) for each in shape] == [
        ("cpu.count", v1.Effect.ONLINE),
        ("memory.size_bytes", v1.Effect.ONLINE),
    ]


def test_memory_that_vsphere_rounded_up_is_told_as_it_was_asked_for(tree: Tree) -> None:
    asked = 2046 << 20
    mark = replace(MARK, settings={"memory.size_bytes": str(asked)})
    seen = look(tree, mark)
    assert seen.memory.size_bytes == seen.memory.configured_bytes == asked
    assert "memory.size_bytes" not in seen.settings
    assert look(tree, mark, config__hardware__memoryMB=4096).memory.size_bytes == 4 * GIB


@pytest.mark.parametrize("text", ["", "much", "-1", "9" * 30])
def test_a_stamp_that_somebody_edited_does_no_harm(tree: Tree, text: str) -> None:
    seen = look(tree, replace(MARK, settings={"memory.size_bytes": text}, created=1 << 60))
    assert seen.memory.size_bytes == 2 * GIB
    assert seen.create_time is None


@pytest.mark.parametrize(
    ("facts", "firmware"),
    [
        ({"config__firmware": "bios"}, v1.FirmwareSpec(type=v1.FirmwareType.BIOS)),
        ({"config__firmware": None}, v1.FirmwareSpec()),
        (
            {"config__bootOptions__efiSecureBootEnabled": True},
            v1.FirmwareSpec(type=v1.FirmwareType.UEFI, secure_boot=True),
        ),
        (
            {"config__hardware__device": [dev.VirtualTPM(key=11000)]},
            v1.FirmwareSpec(type=v1.FirmwareType.UEFI, tpm=True, tpm_version="2.0"),
        ),
    ],
)
def test_firmware(tree: Tree, facts: dict[str, Any], firmware: v1.FirmwareSpec) -> None:
    assert look(tree, **facts).firmware == firmware


# -- disks ---------------------------------------------------------------------------------------------------------


def test_a_disk(tree: Tree) -> None:
    assert look_at_devices(tree, disk(2000, 1000, 0, gib=10)).disks == [
        v1.Disk(
            name="root",
            id="[shared] web/web.vmdk",
            size_bytes=10 * GIB,
            bus=v1.DiskBus.SCSI,
            provisioning=THIN,
            storage="shared",
            format="vmdk",
            owned=True,
            image_id="template:debian",
            device="scsi0:0",
            active=True,
        )
    ]


def test_disks_come_in_the_order_of_the_stamp_and_then_of_the_slots(tree: Tree) -> None:
    """The first one is the one to boot from, wherever it is plugged in."""
    mark = replace(MARK, disks=(DiskStamp("root", "sata0:3"), DiskStamp("data", "scsi0:0")))
    devices = [disk(2000, 1000, 0), disk(16003, 15000, 3), disk(2010, 1000, 10), disk(2002, 1000, 2)]
    seen = look_at_devices(tree, *devices, mark=mark).disks
    assert [(each.name, each.device, each.bus) for each in seen] == [
        ("root", "sata0:3", v1.DiskBus.SATA),
        ("data", "scsi0:0", v1.DiskBus.SCSI),
        ("", "scsi0:2", v1.DiskBus.SCSI),
        ("", "scsi0:10", v1.DiskBus.SCSI),
    ]


def test_only_disks_that_we_made_are_owned(tree: Tree) -> None:
    seen = look_at_devices(tree, disk(2000, 1000, 0), disk(2001, 1000, 1), disk(2002, 1000, 2)).disks
    assert [(each.name, each.owned) for each in seen] == [("root", True), ("data", False), ("", False)]


def test_a_slot_that_was_given_anew_belongs_to_the_later_record(tree: Tree) -> None:
    """Somebody unplugged "data" by hand, and its slot went to the next disk."""
    mark = MARK.with_disk(DiskStamp("logs", "scsi0:1"))
    seen = look_at_devices(tree, disk(2000, 1000, 0), disk(2001, 1000, 1), mark=mark).disks
    assert [each.name for each in seen] == ["root", "logs"]


@pytest.mark.parametrize(
    ("backing", "asked", "told"),
    [
        ({"thinProvisioned": True}, "THICK", THIN),
        ({"thinProvisioned": False, "eagerlyScrub": False}, "EAGER_ZEROED_THICK", THICK),
        ({"thinProvisioned": False, "eagerlyScrub": True}, "THIN", EAGER),
        ({"thinProvisioned": False}, "THIN", THICK),
        ({"thinProvisioned": False}, "EAGER_ZEROED_THICK", EAGER),
        ({"thinProvisioned": None}, "THICK", THICK),
        ({"thinProvisioned": None}, "of_our_own", v1.DiskProvisioning.UNSPECIFIED),
    ],
)
def test_provisioning(tree: Tree, backing: dict[str, Any], asked: str, told: v1.DiskProvisioning) -> None:
    mark = replace(MARK, disks=(DiskStamp("root", "scsi0:0", provisioning=asked),))
    assert look_at_devices(tree, disk(2000, 1000, 0, **backing), mark=mark).disks[0].provisioning is told


def test_a_snapshot_does_not_change_how_a_disk_was_made(tree: Tree) -> None:
    """The delta is thin whatever stands below it."""
    parent = dev.VirtualDisk.FlatVer2BackingInfo(fileName="[shared] web/web.vmdk", thinProvisioned=False)
    parent.eagerlyScrub = True
    delta = disk(2000, 1000, 0, path="[shared] web/web-000001.vmdk", parent=parent)
    seen = look_at_devices(tree, delta).disks[0]
    assert (seen.id, seen.provisioning) == ("[shared] web/web-000001.vmdk", EAGER)


def test_the_storage_is_the_one_of_the_file_and_the_datastore_knows_its_name_best(tree: Tree) -> None:
    moved = disk(2001, 1000, 1, path="[shared] web/web_1.vmdk", datastore=vim.Datastore("datastore-2"))
    seen = look_at_devices(tree, disk(2000, 1000, 0, path="[a ] b] web/web.vmdk"), moved).disks
    assert [each.storage for each in seen] == ["a ", "other"]
    assert look_at_devices(tree, disk(2000, 1000, 0, path="web.vmdk")).disks[0].storage == ""


# -- NICs ----------------------------------------------------------------------------------------------------------


def test_a_nic(tree: Tree) -> None:
    network = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="VM Network")
    assert look_at_devices(tree, nic(mac=MAC.upper())).nics == [
        v1.Nic(name="lan", mac=MAC, model="vmxnet3", network=network, id="4000", active=True, connected=True)
    ]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (dev.VirtualVmxnet3, "vmxnet3"),
        (dev.VirtualE1000, "e1000"),
        (dev.VirtualE1000e, "e1000e"),
        (dev.VirtualPCNet32, "pcnet32"),
        (dev.VirtualSriovEthernetCard, "sriov"),
    ],
)
def test_models(tree: Tree, kind: Any, model: str) -> None:
    assert look_at_devices(tree, nic(kind=kind)).nics[0].model == model


def test_nics_come_in_the_order_of_their_keys_and_only_ours_have_names(tree: Tree) -> None:
    seen = look_at_devices(tree, nic(4001), nic(4002), nic(4000, None)).nics
    assert [(each.id, each.name, each.mac) for each in seen] == [
        ("4000", "", ""),
        ("4001", "lan", MAC),
        ("4002", "", MAC),
    ]


@pytest.mark.parametrize(
    ("power", "state", "connected"),
    [
        ("poweredOn", {"connected": False, "startConnected": True}, False),
        ("suspended", {"connected": False, "startConnected": True}, False),
        ("poweredOff", {"connected": False, "startConnected": True}, True),
        ("poweredOff", {"connected": False, "startConnected": False}, False),
    ],
)
def test_link(tree: Tree, power: str, state: dict[str, bool], connected: bool) -> None:
    """Nothing is connected in a machine that is off."""
    assert look_at_devices(tree, nic(**state), runtime__powerState=power).nics[0].connected is connected


def distributed(key: str) -> Any:
    port = vim.dvs.PortConnection(switchUuid="50 01", portgroupKey=key)
    return dev.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)


def opaque(network: str) -> Any:
    return dev.VirtualEthernetCard.OpaqueNetworkBackingInfo(
        opaqueNetworkId=network, opaqueNetworkType="nsx.LogicalSwitch"
    )


def standard(network: str, name: str) -> Any:
    return dev.VirtualEthernetCard.NetworkBackingInfo(network=vim.Network(network), deviceName=name)


NAMED, DISTRIBUTED = v1.NetworkKind.NAMED, v1.NetworkKind.DISTRIBUTED


@pytest.mark.parametrize(
    ("backing", "network"),
    [
        (standard("network-1", "as it was called"), v1.NetworkRef(kind=NAMED, name="VM Network")),
        (standard("network-9", "gone"), v1.NetworkRef(kind=NAMED, name="gone")),
        (distributed("dvportgroup-1"), v1.NetworkRef(kind=DISTRIBUTED, name="lab", switch="switch")),
        (distributed("key-2"), v1.NetworkRef(kind=DISTRIBUTED, name="other", switch="switch")),
        (distributed("key-9"), v1.NetworkRef(kind=DISTRIBUTED, name="key-9")),
        (opaque("segment-1"), v1.NetworkRef(kind=NAMED, name="segment")),
        (opaque("segment-9"), v1.NetworkRef(kind=NAMED, name="segment-9")),
    ],
)
def test_networks_of_foreign_nics(tree: Tree, backing: Any, network: v1.NetworkRef) -> None:
    tree.put("OpaqueNetwork", "network-o1", {"name": "segment", "summary": {"id": "segment-1", "type": "nsx"}})
    other = {"name": "other", "key": "key-2", "config.distributedVirtualSwitch": "dvs-1"}
    tree.put("DistributedVirtualPortgroup", "dvportgroup-2", other)
    assert look_at_devices(tree, nic(backing=backing), mark=None).nics[0].network == network


@pytest.mark.parametrize(
    ("asked", "backing", "network"),
    [
        (("DISTRIBUTED", "lab"), distributed("dvportgroup-1"), (DISTRIBUTED, "lab")),
        (("NAMED", "lab"), distributed("dvportgroup-1"), (NAMED, "lab")),
        (("NAMED", "/DC0/network/lab"), distributed("dvportgroup-1"), (NAMED, "/DC0/network/lab")),
        (("NAMED", "DC0/network/VM Network"), standard("network-1", ""), (NAMED, "DC0/network/VM Network")),
        (("NAMED", "VM Network"), distributed("dvportgroup-1"), (DISTRIBUTED, "lab")),
        (("DISTRIBUTED", "VM Network"), standard("network-1", ""), (NAMED, "VM Network")),
        (("NAT", ""), standard("network-1", ""), (v1.NetworkKind.NAT, "")),
        (("UNSPECIFIED", ""), standard("network-1", ""), (NAMED, "VM Network")),
    ],
)
def test_our_networks_are_told_as_they_were_asked_for_while_that_holds(
    tree: Tree, asked: tuple[str, str], backing: Any, network: tuple[v1.NetworkKind, str]
) -> None:
    """Another word for the same network is no difference; a NIC that somebody moved is one."""
    mark = replace(MARK, nics=(NicStamp("lan", MAC, kind=asked[0], network=asked[1]),))
    seen = look_at_devices(tree, nic(backing=backing), mark=mark).nics[0].network
    assert (seen.kind, seen.name, seen.switch) == (*network, "")


# -- guest ---------------------------------------------------------------------------------------------------------


def guest_nic(mac: str, *addresses: str, detailed: bool = True) -> Any:
    if not detailed:
        return vim.vm.GuestInfo.NicInfo(macAddress=mac, ipAddress=list(addresses), connected=True, deviceConfigId=4000)
    listed = [vim.net.IpConfigInfo.IpAddress(ipAddress=each, prefixLength=24, state="preferred") for each in addresses]
    return vim.vm.GuestInfo.NicInfo(
        macAddress=mac,
        ipAddress=list(addresses),
        ipConfig=vim.net.IpConfigInfo(ipAddress=listed),
        connected=True,
        deviceConfigId=4000,
    )


RUNNING = {
    "guest__toolsRunningStatus": "guestToolsRunning",
    "guest__hostName": "web",
    "guest__guestFullName": "Debian GNU/Linux 12 (64-bit)",
}


@pytest.mark.parametrize("detailed", [True, False])
def test_addresses_in_the_order_of_the_nics_without_what_nobody_can_reach(tree: Tree, detailed: bool) -> None:
    reachable = ("2001:db8::7", "192.0.2.10", "192.0.2.9")
    others = ("fe80::1%eth0", "169.254.1.1", "127.0.0.1", "junk", "::")
    told = [
        guest_nic("02:42:00:00:00:01", "172.17.0.1", detailed=detailed),
        guest_nic("00:50:56:00:00:02", "198.51.100.9", detailed=detailed),
        guest_nic(MAC.upper(), *reachable, *others, detailed=detailed),
    ]
    devices = [nic(4000), nic(4001, "00:50:56:00:00:02")]
    seen = look_at_devices(tree, *devices, guest__net=told, **RUNNING).addresses
    assert seen == [
        v1.GuestAddress(address="192.0.2.9", mac=MAC, sources=["tools"], nic="lan"),
        v1.GuestAddress(address="192.0.2.10", mac=MAC, sources=["tools"], nic="lan"),
        v1.GuestAddress(address="2001:db8::7", mac=MAC, sources=["tools"], nic="lan"),
        v1.GuestAddress(address="198.51.100.9", mac="00:50:56:00:00:02", sources=["tools"]),
    ]


def test_the_one_address_that_old_tools_tell(tree: Tree) -> None:
    seen = look(tree, guest__ipAddress="192.0.2.9", **RUNNING).addresses
    assert seen == [v1.GuestAddress(address="192.0.2.9", sources=["tools"])]
    assert look(tree, guest__ipAddress="fe80::1", **RUNNING).addresses == []


def test_the_guest(tree: Tree) -> None:
    assert look(tree, **RUNNING).guest == v1.Guest(
        hostname="web", agent_running=True, os="Debian GNU/Linux 12 (64-bit)"
    )
    said = look(tree, **(RUNNING | {"guest__hostName": "a\x1b[2J" + "b" * 1000})).guest
    assert said.hostname.startswith("a[2Jb")
    assert len(said.hostname) < 300


@pytest.mark.parametrize(
    "past",
    [
        {"runtime__powerState": "poweredOff"},
        {"runtime__powerState": "suspended"},
        {"guest__toolsRunningStatus": "guestToolsNotRunning"},
    ],
)
def test_what_the_guest_said_in_the_past_is_not_told(tree: Tree, past: dict[str, str]) -> None:
    """vSphere keeps some of it after the machine went off."""
    more = RUNNING | {"guest__net": [guest_nic(MAC, "192.0.2.9")], "guest__ipAddress": "192.0.2.9"} | past
    seen = look(tree, **more)
    assert (seen.guest, seen.addresses) == (v1.Guest(), [])


# -- the rest ------------------------------------------------------------------------------------------------------


def test_texts_and_times(tree: Tree) -> None:
    made = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    seen = look(tree, config__annotation="the shop", config__createDate=made)
    assert (seen.description, seen.tags) == ("the shop", ["a", "b"])
    assert seen.create_time == datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
    assert look(tree, replace(MARK, created=0), config__createDate=made).create_time == made
    unknown = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert look(tree, replace(MARK, created=0), config__createDate=unknown).create_time is None


def test_settings_are_those_of_the_stamp_and_of_vsphere(tree: Tree) -> None:
    asked = {"cpu.shares": "2000", "disks[data].iops_limit": "500", "placement.folder": "elsewhere"}
    assert look(tree, replace(MARK, settings=asked)).settings == {
        "cpu.shares": "2000",
        "disks[data].iops_limit": "500",
        BOOT_DATA_SETTING: "digest",
        "placement.cluster": "C0",
        "placement.resource_pool": "Resources",
        "placement.folder": "lab",
        "placement.datastore": "shared",
        "placement.storage_pod": "pod",
    }


def test_a_placement_that_still_holds_is_told_as_it_was_asked_for(tree: Tree) -> None:
    asked = {
        "placement.cluster": "DC0/C0",
        "placement.host": "/DC0/C0/esx1",
        "placement.folder": "/DC0/vm/lab/",
        "placement.datastore": "other",
    }
    seen = look(tree, replace(MARK, settings=asked), datastore=("datastore-1", "datastore-2"))
    assert {key: seen.settings[key] for key in asked} == asked
    moved = tree.put("VirtualMachine", "vm-42", {"runtime.host": "host-2", "parent": "group-v1"})
    tree.put("HostSystem", "host-2", {"name": "esx2", "parent": "domain-c1"})
    seen = observed.machine(moved, tree, OWNER)
    assert seen.host == "esx2"
    assert "placement.host" not in seen.settings
    assert seen.settings["placement.folder"] == "vm"


def test_one_of_several_datastores_is_not_guessed(tree: Tree) -> None:
    assert "placement.datastore" not in look(tree, datastore=("datastore-1", "datastore-2")).settings


def test_a_standalone_host_is_no_cluster(tree: Tree) -> None:
    tree.put("ComputeResource", "domain-s1", {"name": "esx9"})
    tree.put("HostSystem", "host-9", {"name": "esx9", "parent": "domain-s1"})
    seen = look(tree, runtime__host="host-9")
    assert seen.host == "esx9"
    assert "placement.cluster" not in seen.settings


def test_a_machine_that_is_as_asked_for_has_an_empty_plan(tree: Tree) -> None:
    seen = look_at_devices(tree, disk(2000, 1000, 0, gib=10), nic())
    want = v1.MachineSpec(
        identity=seen.identity,
        cpu=v1.CpuSpec(count=2, cores_per_socket=1),
        memory=v1.MemorySpec(size_bytes=2 * GIB),
        firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI),
        disks=[v1.DiskSpec(name="root", size_bytes=10 * GIB, bus=v1.DiskBus.SCSI, provisioning=THIN, storage="shared")],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=NAMED, name="VM Network"), mac=MAC, model="vmxnet3")],
        placement=v1.Placement(cluster="C0", host="esx1", resource_pool="Resources", folder="lab", datastore="shared"),
        power=v1.PowerSpec(state=v1.PowerState.ON),
        tags=["a", "b"],
    )
    can = v1.Capabilities(
        firmware=[v1.FirmwareType.UEFI],
        disk_buses=[v1.DiskBus.SCSI],
        disk_provisionings=[THIN],
        nic_models=["vmxnet3"],
        network_kinds=[NAMED],
        fixed_mac=True,
        cpu_topology=True,
        tags=True,
        placements=[
            v1.PlacementKind.CLUSTER,
            v1.PlacementKind.HOST,
            v1.PlacementKind.RESOURCE_POOL,
            v1.PlacementKind.FOLDER,
            v1.PlacementKind.DATASTORE,
        ],
    )
    assert plan(want, seen, can) == []
    want.placement.folder = "elsewhere"
    assert [each.field for each in plan(want, seen, can)] == ["placement.folder"]


# -- reasons ---------------------------------------------------------------------------------------------------------


def test_a_question_that_waits_for_a_person_is_the_reason(tree: Tree) -> None:
    assert look(tree).power_reason == ""
    question = vim.vm.QuestionInfo(id="1", text="msg.hbacommon.outofspace:\nThere is no more space.\x07")
    reason = look(tree, runtime__question=question).power_reason
    assert reason == "vSphere asks, and waits for an answer: msg.hbacommon.outofspace: There is no more space."


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        ("TOOLSDEPLOYPKG_SUCCEEDED", None, ""),
        ("TOOLSDEPLOYPKG_FAILED", "no perl", "customization of the guest failed: no perl"),
        ("TOOLSDEPLOYPKG_FAILED", None, "customization of the guest failed: its tools do not say why"),
    ],
)
def test_a_guest_that_could_not_be_customized_is_a_reason(
    tree: Tree, status: str, error: str | None, reason: str
) -> None:
    told = vim.vm.GuestInfo.CustomizationInfo(customizationStatus=status, errorMsg=error)
    assert look(tree, guest__customizationInfo=told).power_reason == reason


def test_attributes_are_told_as_they_are_now(tree: Tree) -> None:
    text = vim.CustomFieldsManager.StringValue(key=101, value="42")
    seen = look(tree, replace(MARK, attributes={"cost": 101, "owner": 102}), customValue=[text])
    assert {key: value for key, value in seen.settings.items() if key.startswith("attributes")} == {
        "attributes[cost]": "42",
        "attributes[owner]": "",
    }
