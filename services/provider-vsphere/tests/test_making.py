"""A machine as one ConfigSpec: what is in it, what a template keeps, and where disks go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import pytest
import yaml
from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from provider_vsphere.config import bootdata, making, nics
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import imagestamp, stamp
from pyVmomi import SoapAdapter, vim

UID = "0a1b2c3d-0000-4000-8000-0123456789ab"
GIB, MIB = 1 << 30, 1 << 20
dev = vim.vm.device
THIN, THICK, EAGER = v1.DiskProvisioning.THIN, v1.DiskProvisioning.THICK, v1.DiskProvisioning.EAGER_ZEROED_THICK
BIOS, UEFI = v1.FirmwareType.BIOS, v1.FirmwareType.UEFI

LAN = Entity("Network", "network-7", {"name": "lan"})
GROUP = Entity("DistributedVirtualPortgroup", "dvportgroup-9", {"name": "dvlan", "key": "dvportgroup-9"})
OPAQUE = Entity("OpaqueNetwork", "network-o1", {"name": "seg", "summary": {"id": "ls-1", "type": "nsx.LogicalSwitch"}})


def spec(**fields: Any) -> v1.MachineSpec:
    given = {
        "identity": v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="tests"),
        "cpu": v1.CpuSpec(count=2),
        "memory": v1.MemorySpec(size_bytes=2 * GIB),
    }
    return v1.MachineSpec(**(given | fields))


def make(
    wish: v1.MachineSpec, source: Iterable[Any] = (), networks: dict[str, Entity] | None = None, **options: Any
) -> Any:
    config = making.new_machine(
        wish,
        stamp.of(wish.identity or v1.MachineIdentity(), 1),
        macs=nics.macs(wish, ()),
        networks=networks or {nic.name: LAN for nic in wish.nics},
        switches={GROUP.moid: "50 1d 2e"},
        datastore_name=options.get("datastore", "ds1"),
        source=list(source),
    )
    assert SoapAdapter.Serialize(config)  # every field holds what its type takes
    return config


def template() -> list[Any]:
    """Two disks on LSI Logic, a CD drive on IDE, two NICs."""
    return [
        dev.VirtualIDEController(key=200, busNumber=0),
        dev.VirtualLsiLogicController(key=1000, busNumber=0, sharedBus="noSharing", scsiCtlrUnitNumber=7),
        dev.VirtualCdrom(key=3000, controllerKey=200, unitNumber=0),
        a_disk(2001, 1000, 1, 5 * GIB),
        a_disk(2000, 1000, 0, 10 * GIB),
        dev.VirtualE1000(key=4000, controllerKey=100, unitNumber=7, macAddress="00:50:56:aa:00:01"),
        dev.VirtualVmxnet3(key=4001, controllerKey=100, unitNumber=8, macAddress="00:50:56:aa:00:02"),
    ]


def a_disk(key: int, controller: int, unit: int, size: int) -> Any:
    backing = dev.VirtualDisk.FlatVer2BackingInfo(fileName=f"[ds1] t/t_{key}.vmdk", thinProvisioned=True)
    return dev.VirtualDisk(
        key=key, controllerKey=controller, unitNumber=unit, backing=backing, capacityInBytes=size,
        capacityInKB=size // 1024,
    )  # fmt: skip


def added(config: Any, kind: Any) -> list[Any]:
    return [each.device for each in config.deviceChange if each.operation == "add" and isinstance(each.device, kind)]


def operations(config: Any) -> list[tuple[str, str, int]]:
    return [
        (each.operation, type(each.device).__name__.rpartition(".")[2], each.device.key) for each in config.deviceChange
    ]


def extra(config: Any) -> dict[str, str]:
    return {option.key: option.value for option in config.extraConfig}


def record(config: Any) -> stamp.Stamp:
    found = stamp.read(extra(config)[stamp.KEY])
    assert found is not None
    return found


def decoded(config: Any, key: str) -> str:
    values = extra(config)
    assert values[f"{key}.encoding"] == "base64"
    return base64.b64decode(values[key]).decode()


# -- who and where -----------------------------------------------------------------------------------------------------


def test_a_machine_from_nothing_is_complete() -> None:
    config = make(spec(description="for people", disks=[v1.DiskSpec(name="root", size_bytes=GIB)], tags=["b", "a"]))
    assert (config.name, config.uuid, config.instanceUuid) == ("shop.web", UID, UID)
    assert (config.files.vmPathName, config.guestId, config.annotation) == ("[ds1]", "otherGuest64", "for people")
    assert (config.numCPUs, config.numCoresPerSocket, config.memoryMB) == (2, 1, 2048)
    seen = record(config)
    assert (seen.uid, seen.namespace, seen.name, seen.owner) == (UID, "shop", "web", "tests")
    assert seen.disks == (stamp.DiskStamp(name="root", slot="scsi0:0"),)
    assert seen.tags == (), "they are attached afterwards"


def test_a_clone_keeps_what_the_spec_leaves_unset() -> None:
    """Guest, files and name of a clone come from its template or from the clone call."""
    config = make(v1.MachineSpec(identity=spec().identity), template())
    own = "name files guestId numCPUs numCoresPerSocket memoryMB firmware bootOptions flags annotation version"
    for field in [*own.split(), "cpuAllocation", "memoryAllocation", "latencySensitivity", "nestedHVEnabled"]:
        assert getattr(config, field) is None, field
    assert config.instanceUuid == UID


def test_the_stamp_overwrites_a_templates() -> None:
    """Both are the same key, and vCenter lays ours over the template's own."""
    config = make(spec(), template())
    assert [option.key for option in config.extraConfig].count(stamp.KEY) == 1
    assert record(config).uid == UID


def test_without_a_datastore_nothing_is_made() -> None:
    with pytest.raises(InvalidSpecError, match="datastore"):
        make(spec(), datastore="")


@pytest.mark.parametrize("length", [1, 75, 76, 253])
def test_names_fit_vsphere_and_stay_different(length: int) -> None:
    """More than 80 characters are refused there."""
    one, other = (
        making.machine_name(v1.MachineIdentity(uid=UID, namespace="shop", name="x" * (length - 1) + last))
        for last in "ab"
    )
    assert len(one) <= 80
    assert one != other


def test_versions_and_guests_are_fields_and_not_extra_configuration() -> None:
    wish = spec(extra_config={"vsphere.hardwareVersion": "19", "vsphere.guestId": "debian12_64Guest", "sched.x": "1"})
    config = make(wish)
    assert (config.version, config.guestId) == ("vmx-19", "debian12_64Guest")
    assert extra(config)["sched.x"] == "1"
    assert not any(key.startswith("vsphere.") for key in extra(config))
    assert record(config).settings["vsphere.hardwareVersion"] == "19"
    assert make(wish, template()).version is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("vsphere.hardwareVersion", "new"), ("guestinfo.userdata", "x"), ("GuestInfo.x", "y"), (stamp.KEY, "{}")],
)
def test_extra_configuration_cannot_take_our_keys(key: str, value: str) -> None:
    with pytest.raises(InvalidSpecError, match="extra_config"):
        make(spec(extra_config={key: value}))


def test_text_that_soap_cannot_carry_is_dropped() -> None:
    config = make(spec(description="a\ufffeb <&> \U0001f600"))
    assert config.annotation == "ab <&> \U0001f600"


# -- processor, memory, firmware, tuning -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mb"), [(4 * MIB, 4), (MIB, 4), (513 * MIB, 516), (512 * MIB + 1, 516), (512 * MIB, 512)]
)
def test_memory_is_rounded_up_to_what_vsphere_takes(size: int, mb: int) -> None:
    """And the stamp remembers what was asked for, or the planner would see a difference for ever."""
    config = make(spec(memory=v1.MemorySpec(size_bytes=size)))
    assert config.memoryMB == mb
    remembered = {} if mb * MIB == size else {"memory.size_bytes": str(size)}
    assert record(config).settings == remembered


def test_shares_of_the_host() -> None:
    config = make(
        spec(
            cpu=v1.CpuSpec(count=4, cores_per_socket=2, reservation_mhz=500, limit_mhz=0, shares=3000),
            memory=v1.MemorySpec(size_bytes=GIB, reservation_bytes=MIB + 1, limit_bytes=2 * GIB),
        )
    )
    cpu, memory = config.cpuAllocation, config.memoryAllocation
    assert (config.numCPUs, config.numCoresPerSocket) == (4, 2)
    assert (cpu.reservation, cpu.limit, cpu.shares.level, cpu.shares.shares) == (500, -1, "custom", 3000)
    assert (memory.reservation, memory.limit, memory.shares) == (2, 2048, None)
    assert record(config).settings == {
        "cpu.reservation_mhz": "500",
        "cpu.limit_mhz": "0",
        "cpu.shares": "3000",
        "memory.reservation_bytes": str(MIB + 1),
        "memory.limit_bytes": str(2 * GIB),
    }


def test_room_to_grow_and_nested_virtualization() -> None:
    config = make(
        spec(
            cpu=v1.CpuSpec(count=1, hot_add=True, nested_virtualization=True),
            memory=v1.MemorySpec(size_bytes=GIB, hot_add=True),
        )
    )
    assert (config.cpuHotAddEnabled, config.memoryHotAddEnabled, config.nestedHVEnabled) == (True, True, True)


@pytest.mark.parametrize(("kind", "text"), [(BIOS, "bios"), (UEFI, "efi"), (v1.FirmwareType.UNSPECIFIED, None)])
def test_firmware(kind: v1.FirmwareType, text: str | None) -> None:
    config = make(spec(firmware=v1.FirmwareSpec(type=kind)))
    assert config.firmware == text
    assert config.bootOptions is None


def test_secure_boot_and_tpm_bring_efi() -> None:
    secure = make(spec(firmware=v1.FirmwareSpec(secure_boot=True)))
    assert (secure.firmware, secure.bootOptions.efiSecureBootEnabled) == ("efi", True)
    tpm = make(spec(firmware=v1.FirmwareSpec(tpm=True, tpm_version="2.0")))
    assert (tpm.firmware, tpm.bootOptions, len(added(tpm, dev.VirtualTPM))) == ("efi", None, 1)


def test_virtualization_based_security_brings_what_it_stands_on() -> None:
    config = make(spec(tuning=v1.Tuning(virtualization_based_security=True)))
    assert (config.flags.vbsEnabled, config.flags.vvtdEnabled, config.nestedHVEnabled) == (True, True, True)
    assert (config.firmware, config.bootOptions.efiSecureBootEnabled) == ("efi", True)
    assert record(config).settings == {"tuning.virtualization_based_security": "true"}


@pytest.mark.parametrize(
    ("firmware", "tuning", "field"),
    [
        (v1.FirmwareSpec(type=BIOS, secure_boot=True), None, "firmware.secure_boot"),
        (v1.FirmwareSpec(type=BIOS, tpm=True), None, "firmware.tpm"),
        (v1.FirmwareSpec(type=BIOS), v1.Tuning(virtualization_based_security=True), "virtualization_based_security"),
        (v1.FirmwareSpec(tpm=True, tpm_version="1.2"), None, "firmware.tpm_version"),
    ],
)
def test_what_bios_cannot_have_is_refused(firmware: v1.FirmwareSpec, tuning: v1.Tuning | None, field: str) -> None:
    with pytest.raises(InvalidSpecError, match=field):
        make(spec(firmware=firmware, tuning=tuning))


def test_iommu_alone() -> None:
    config = make(spec(tuning=v1.Tuning(iommu=True)))
    assert (config.flags.vvtdEnabled, config.flags.vbsEnabled, config.firmware) == (True, None, None)


@pytest.mark.parametrize(("level", "locked"), [("low", None), ("normal", None), ("high", True)])
def test_high_latency_sensitivity_reserves_the_memory(level: str, locked: bool | None) -> None:
    """A machine with it and without reserved memory does not start."""
    config = make(spec(tuning=v1.Tuning(latency_sensitivity=level)))
    assert config.latencySensitivity.level == level
    assert config.memoryReservationLockedToMax is locked


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "thin", "eager"),
    [
        (v1.DiskProvisioning.UNSPECIFIED, True, False),
        (THIN, True, False),
        (THICK, False, False),
        (EAGER, False, True),
    ],
)
def test_provisioning(kind: v1.DiskProvisioning, thin: bool, eager: bool) -> None:
    config = make(spec(disks=[v1.DiskSpec(name="root", size_bytes=GIB + 1, provisioning=kind, iops_limit=500)]))
    disk = added(config, dev.VirtualDisk)[0]
    assert (disk.backing.thinProvisioned, disk.backing.eagerlyScrub) == (thin, eager)
    assert (disk.backing.fileName, disk.backing.diskMode) == ("[ds1]", "persistent")
    assert (disk.capacityInKB, disk.capacityInBytes) == (GIB // 1024 + 1, GIB + 1024)
    assert disk.storageIOAllocation.limit == 500
    assert [change.fileOperation for change in config.deviceChange] == [None, "create"]
    assert record(config).disks[0].provisioning == (kind.name if kind else "THIN")
    assert record(config).settings == {"disks[root].iops_limit": "500"}


def test_disks_fill_slots_in_order_and_pass_over_the_controllers_own() -> None:
    config = make(spec(disks=[v1.DiskSpec(name=f"d{i}", size_bytes=GIB) for i in range(17)]))
    assert [disk.slot for disk in record(config).disks] == [
        *(f"scsi0:{unit}" for unit in range(16) if unit != 7),
        "scsi1:0",
        "scsi1:1",
    ]
    keys = [change.device.key for change in config.deviceChange]
    assert len(set(keys)) == len(keys)
    assert max(keys) < 0
    controllers = {each.key: each for each in added(config, dev.ParaVirtualSCSIController)}
    assert [each.busNumber for each in controllers.values()] == [0, 1]
    assert {disk.controllerKey for disk in added(config, dev.VirtualDisk)} == set(controllers)


def test_controllers_come_before_their_disks() -> None:
    config = make(spec(disks=[v1.DiskSpec(name="a", size_bytes=GIB), v1.DiskSpec(name="b", size_bytes=GIB)]))
    names = [name for _, name, _ in operations(config)]
    assert names == ["ParaVirtualSCSIController", "VirtualDisk", "VirtualDisk"]


@pytest.mark.parametrize(
    ("bus", "kind", "index", "slot", "controller"),
    [
        (v1.DiskBus.UNSPECIFIED, "", None, "scsi0:0", dev.ParaVirtualSCSIController),
        (v1.DiskBus.UNSPECIFIED, "", 3, "scsi3:0", dev.ParaVirtualSCSIController),
        (v1.DiskBus.SCSI, "lsilogic", None, "scsi0:0", dev.VirtualLsiLogicController),
        (v1.DiskBus.SCSI, "lsilogic-sas", 1, "scsi1:0", dev.VirtualLsiLogicSASController),
        (v1.DiskBus.UNSPECIFIED, "buslogic", None, "scsi0:0", dev.VirtualBusLogicController),
        (v1.DiskBus.SATA, "", None, "sata0:0", dev.VirtualAHCIController),
        (v1.DiskBus.NVME, "nvme", 2, "nvme2:0", dev.VirtualNVMEController),
        (v1.DiskBus.IDE, "", None, "ide0:0", dev.VirtualIDEController),
    ],
)
def test_choice_of_a_controller(bus: v1.DiskBus, kind: str, index: int | None, slot: str, controller: Any) -> None:
    disk = v1.DiskSpec(name="root", size_bytes=GIB, bus=bus, controller_type=kind, controller_index=index)
    config = make(spec(disks=[disk]))
    assert record(config).disks[0].slot == slot
    assert type(config.deviceChange[0].device) is controller


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bus": v1.DiskBus.VIRTIO}, "no VIRTIO bus"),
        ({"controller_type": "floppy"}, "none of pvscsi"),
        ({"controller_type": "nvme", "bus": v1.DiskBus.SCSI}, "no scsi bus"),
        ({"controller_index": 4}, "at most 4"),
        ({"bus": v1.DiskBus.SATA, "sharing": "virtualSharing"}, "sata controller has no virtualSharing"),
        ({"provisioning": 9}, "provisioning"),
    ],
)
def test_impossible_disks_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSpecError, match=reason):
        make(spec(disks=[v1.DiskSpec(name="root", size_bytes=GIB, **fields)]))


def test_a_full_machine_says_so() -> None:
    disks = [v1.DiskSpec(name=f"d{i}", size_bytes=GIB) for i in range(61)]
    assert len(record(make(spec(disks=disks[:60]))).disks) == 60
    with pytest.raises(InvalidSpecError, match="d60"):
        make(spec(disks=disks))
    ones = [v1.DiskSpec(name=f"d{i}", size_bytes=GIB, controller_index=0) for i in range(16)]
    with pytest.raises(InvalidSpecError, match="every slot"):
        make(spec(disks=ones))


def test_shared_disks_have_a_shared_controller_to_themselves() -> None:
    """Sharing is the bus's: a private disk on the same one would be shared with it."""
    disks = [
        v1.DiskSpec(name="root", size_bytes=GIB),
        v1.DiskSpec(name="quorum", size_bytes=GIB, sharing="physicalSharing"),
        v1.DiskSpec(name="data", size_bytes=GIB, sharing="physicalSharing"),
        v1.DiskSpec(name="log", size_bytes=GIB, sharing="noSharing"),
    ]
    config = make(spec(disks=disks))
    assert [disk.slot for disk in record(config).disks] == ["scsi0:0", "scsi1:0", "scsi1:1", "scsi0:1"]
    assert [each.sharedBus for each in added(config, dev.VirtualSCSIController)] == ["noSharing", "physicalSharing"]
    disks[3].controller_index = 1
    with pytest.raises(InvalidSpecError, match=r"log: scsi1 .*physicalSharing"):
        make(spec(disks=disks))


def test_an_existing_disk_is_taken_as_it_stands() -> None:
    disks = [v1.DiskSpec(name="root", existing=v1.ExistingDisk(id="[ds2] old/old.vmdk"))]
    config = make(spec(disks=disks))
    disk = config.deviceChange[1]
    assert (disk.fileOperation, disk.device.backing.fileName) == (None, "[ds2] old/old.vmdk")
    assert (disk.device.backing.thinProvisioned, disk.device.capacityInBytes) == (None, None)
    assert not record(config).disks[0].owned


def test_a_disk_goes_to_the_datastore_that_it_names() -> None:
    config = make(spec(disks=[v1.DiskSpec(name="root", size_bytes=GIB, storage="fast")]))
    assert added(config, dev.VirtualDisk)[0].backing.fileName == "[fast]"


def test_only_a_template_makes_a_disk_from_an_image() -> None:
    with pytest.raises(NotSupportedError, match="root"):
        make(spec(disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id="t"))]))


# -- templates ---------------------------------------------------------------------------------------------------------


def root(**fields: Any) -> v1.DiskSpec:
    return v1.DiskSpec(**({"name": "root", "image": v1.ImageRef(id="img")} | fields))


def test_a_templates_first_disk_is_the_specs_first_and_grows_in_place() -> None:
    config = make(spec(disks=[root(size_bytes=20 * GIB), v1.DiskSpec(name="data", size_bytes=GIB)]), template())
    edit = config.deviceChange[0]
    assert (edit.operation, edit.device.key, edit.fileOperation) == ("edit", 2000, None)
    assert (edit.device.controllerKey, edit.device.unitNumber) == (1000, 0)
    assert edit.device.capacityInBytes == 20 * GIB
    assert edit.device.backing.fileName == "[ds1] t/t_2000.vmdk"
    seen = record(config)
    assert [(disk.name, disk.slot, disk.image_id) for disk in seen.disks] == [
        ("root", "scsi0:0", "img"),
        ("data", "scsi0:2", ""),
    ]
    assert seen.settings[making.UNNAMED_DISKS] == "scsi0:1"


@pytest.mark.parametrize("size", [0, 10 * GIB])
def test_a_templates_disk_of_the_right_size_is_left_alone(size: int) -> None:
    config = make(spec(disks=[root(size_bytes=size)]), template())
    assert not [each for each in config.deviceChange if isinstance(each.device, dev.VirtualDisk)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"size_bytes": 5 * GIB}, "never shrinks"),
        ({"bus": v1.DiskBus.SATA}, "scsi0:0"),
        ({"controller_type": "pvscsi"}, "VirtualLsiLogicController"),
        ({"controller_index": 1}, "scsi0:0"),
        ({"sharing": "virtualSharing"}, "noSharing"),
        ({"image": None, "existing": v1.ExistingDisk(id="[ds1] x.vmdk")}, "existing"),
    ],
)
def test_what_a_templates_disk_cannot_be_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSpecError, match=reason):
        make(spec(disks=[root(**fields)]), template())


def test_a_template_without_a_disk_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="no disk"):
        make(spec(disks=[root()]), template()[:3])


def test_the_tree_is_not_changed_by_what_is_made_of_it() -> None:
    """Facts belong to the collector, and everybody reads them."""
    source = template()
    before = [SoapAdapter.Serialize(device) for device in source]
    make(spec(disks=[root(size_bytes=20 * GIB, iops_limit=9)], nics=[v1.NicSpec(name="lan")]), source)
    assert [SoapAdapter.Serialize(device) for device in source] == before


def test_the_clones_root_is_provisioned_as_asked() -> None:
    wish = spec(disks=[root(provisioning=EAGER)])
    locator = making.disk_locators(wish, template(), "datastore-3")[0]
    assert (locator.diskId, locator.datastore._moId) == (2000, "datastore-3")
    assert (locator.diskBackingInfo.thinProvisioned, locator.diskBackingInfo.eagerlyScrub) == (False, True)
    assert record(make(wish, template())).disks[0].provisioning == "EAGER_ZEROED_THICK"
    for settled in (root(), root(provisioning=THIN)):
        assert making.disk_locators(spec(disks=[settled]), template(), "datastore-3") == []


def test_P25_a_tpm_survives_networks_and_every_network_is_there() -> None:
    """One list of device changes, and everything appends to it: nothing that was in it before is lost."""
    wish = spec(
        firmware=v1.FirmwareSpec(type=UEFI, tpm=True),
        disks=[root(size_bytes=20 * GIB), v1.DiskSpec(name="data", size_bytes=GIB)],
        nics=[v1.NicSpec(name="lan"), v1.NicSpec(name="san", model="e1000e"), v1.NicSpec(name="nsx")],
    )
    config = make(wish, template(), {"lan": LAN, "san": GROUP, "nsx": OPAQUE})
    assert operations(config) == [
        ("edit", "VirtualDisk", 2000),
        ("add", "VirtualDisk", -101),
        ("remove", "VirtualE1000", 4000),
        ("remove", "VirtualVmxnet3", 4001),
        ("add", "VirtualVmxnet3", -102),
        ("add", "VirtualE1000e", -103),
        ("add", "VirtualVmxnet3", -104),
        ("add", "VirtualTPM", -105),
    ]


def test_a_templates_nics_go_even_where_the_spec_has_none() -> None:
    config = make(spec(), template())
    assert operations(config) == [("remove", "VirtualE1000", 4000), ("remove", "VirtualVmxnet3", 4001)]


def test_a_templates_tpm_is_the_machines() -> None:
    config = make(spec(firmware=v1.FirmwareSpec(tpm=True)), [*template(), dev.VirtualTPM(key=11000)])
    assert added(config, dev.VirtualTPM) == []


# -- network adapters --------------------------------------------------------------------------------------------------


def test_each_kind_of_network_has_its_backing() -> None:
    wish = spec(nics=[v1.NicSpec(name=name) for name in ("a", "b", "c")])
    first, second, third = added(make(wish, (), {"a": LAN, "b": GROUP, "c": OPAQUE}), dev.VirtualEthernetCard)
    assert (first.backing.network._moId, first.backing.deviceName) == ("network-7", "lan")
    assert (second.backing.port.switchUuid, second.backing.port.portgroupKey) == ("50 1d 2e", "dvportgroup-9")
    assert (third.backing.opaqueNetworkId, third.backing.opaqueNetworkType) == ("ls-1", "nsx.LogicalSwitch")


@pytest.mark.parametrize(
    "network",
    [
        Entity("DistributedVirtualPortgroup", "dvportgroup-10", {"name": "x", "key": "dvportgroup-10"}),
        Entity("DistributedVirtualPortgroup", GROUP.moid, {"name": "x"}),
        Entity("OpaqueNetwork", "o", {"name": "x"}),
    ],
)
def test_a_network_that_lacks_its_key_is_an_error(network: Entity) -> None:
    with pytest.raises(ResourceNotFoundError, match="NIC lan"):
        make(spec(nics=[v1.NicSpec(name="lan")]), (), {"lan": network})


@pytest.mark.parametrize(("model", "kind"), [("", dev.VirtualVmxnet3), *nics.MODELS.items()])
def test_models(model: str, kind: Any) -> None:
    ref = v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="dvlan")
    wish = spec(nics=[v1.NicSpec(name="lan", model=model, mac="00:50:56:01:02:03", network=ref, mtu=9000)])
    config = make(wish, (), {"lan": GROUP})
    card = added(config, dev.VirtualEthernetCard)[0]
    assert type(card) is kind
    assert nics.model_of(card) == (model or nics.DEFAULT_MODEL)
    assert (card.addressType, card.macAddress) == ("manual", "00:50:56:01:02:03")
    assert card.connectable.startConnected
    mark = stamp.NicStamp(name="lan", mac="00:50:56:01:02:03", kind="DISTRIBUTED", network="dvlan")
    assert record(config).nics == (mark,)
    assert record(config).settings == {"nics[lan].mtu": "9000"}


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="vmxnet3"):
        make(spec(nics=[v1.NicSpec(name="lan", model="virtio")]))


@given(st.uuids(), st.text("abc-", min_size=1, max_size=9), st.integers(0, 5))
def test_macs_are_stable_in_range_and_avoid_taken_ones(uid: Any, name: str, collisions: int) -> None:
    wish = v1.MachineSpec(identity=v1.MachineIdentity(uid=str(uid)), nics=[v1.NicSpec(name=name)])
    taken: set[str] = set()
    for _ in range(collisions):
        taken.add(nics.macs(wish, taken)[name])
    assert len(taken) == collisions
    mac = nics.macs(wish, taken)[name]
    assert mac not in taken
    assert mac == nics.macs(wish, taken)[name] == mac.lower()
    assert mac.startswith("00:50:56:")
    assert int(mac[9:11], 16) <= 0x3F


def test_a_mac_of_the_spec_counts_before_a_derived_one() -> None:
    derived = nics.macs(spec(nics=[v1.NicSpec(name="b")]), ())["b"]
    both = nics.macs(spec(nics=[v1.NicSpec(name="a", mac=derived.upper()), v1.NicSpec(name="b")]), ())
    assert both["a"] == derived
    assert both["b"] != derived


# -- first-boot data ---------------------------------------------------------------------------------------------------


def test_boot_data_reaches_the_guest_as_it_stands() -> None:
    script = "#!/bin/sh\necho 'ä <&>'\n"
    boot = v1.BootData(user_data=script, meta_data="local-hostname: other\nzone: [1, 2]\n")
    config = make(spec(boot_data=boot))
    assert decoded(config, bootdata.USER_DATA) == script
    assert yaml.safe_load(decoded(config, bootdata.META_DATA)) == {
        "instance-id": UID,
        "local-hostname": "other",
        "zone": [1, 2],
    }
    assert bootdata.IGNITION not in extra(config)
    assert len(record(config).boot_digest) == len(hashlib.sha256().hexdigest())


def test_ignition() -> None:
    config = make(spec(boot_data=v1.BootData(ignition='{"ignition": {"version": "3.4.0"}}')))
    assert decoded(config, bootdata.IGNITION) == '{"ignition": {"version": "3.4.0"}}'
    assert set(extra(config)) == {stamp.KEY, bootdata.IGNITION, f"{bootdata.IGNITION}.encoding"}


def test_P3_W25_nothing_is_handed_over_that_was_not_asked_for() -> None:
    assert set(extra(make(spec(nics=[v1.NicSpec(name="lan")])))) == {stamp.KEY}


def test_a_machine_is_not_the_image_that_it_was_made_from() -> None:
    assert extra(make(spec(), template()))[imagestamp.KEY] == ""
    assert imagestamp.KEY not in extra(make(spec()))


def test_a_templates_boot_data_is_taken_away() -> None:
    """Its user-data, with whatever keys are in it, would run in every clone."""
    config = make(spec(boot_data=v1.BootData(hostname="db")), template())
    values = extra(config)
    assert yaml.safe_load(decoded(config, bootdata.META_DATA))["local-hostname"] == "db"
    emptied = {key for key, value in values.items() if value == ""}
    assert emptied - {imagestamp.KEY} == {
        key + end for key in (bootdata.USER_DATA, bootdata.VENDOR_DATA, bootdata.IGNITION) for end in ("", ".encoding")
    }


def test_static_addresses_are_part_of_the_metadata_and_matched_by_mac() -> None:
    addressing = v1.GuestAddressing(
        addresses=["192.0.2.7/24", "2001:db8::7/64"],
        gateway4="192.0.2.1",
        gateway6="2001:db8::1",
        nameservers=["192.0.2.53"],
        search_domains=["example.org"],
        routes=[v1.Route(destination="198.51.100.0/24", via="192.0.2.2", metric=7)],
        dhcp6=False,
    )
    mac = "00:50:56:10:20:30"
    wish = spec(nics=[v1.NicSpec(name="lan", mac=mac, addressing=addressing, mtu=1400), v1.NicSpec(name="wan")])
    config = make(wish)
    text = decoded(config, bootdata.META_DATA)
    assert f'"macaddress": "{mac}"' in text  # quoted: a number in base 60 to some parsers
    assert yaml.safe_load(text)["network"] == {
        "version": 2,
        "ethernets": {
            "nic0": {
                "match": {"macaddress": mac},
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["192.0.2.7/24", "2001:db8::7/64"],
                "routes": [
                    {"to": "0.0.0.0/0", "via": "192.0.2.1"},
                    {"to": "::/0", "via": "2001:db8::1"},
                    {"to": "198.51.100.0/24", "via": "192.0.2.2", "metric": 7},
                ],
                "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.org"]},
                "mtu": 1400,
            },
            "nic1": {"match": {"macaddress": record(config).nics[1].mac}, "dhcp4": True},
        },
    }


def test_two_network_configurations_are_refused() -> None:
    """Whichever won, the other would be ignored without a word."""
    nic = v1.NicSpec(name="lan", addressing=v1.GuestAddressing(addresses=["192.0.2.7/24"]))
    with pytest.raises(InvalidSpecError, match="network"):
        make(spec(nics=[nic], boot_data=v1.BootData(meta_data="network: {version: 2}")))


@pytest.mark.parametrize(
    "text", ["- a\n- list\n", "a: [", "just words", "1: number key", "!!python/object:os.system {}"]
)
def test_metadata_that_is_no_mapping_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"boot_data\.meta_data") as refusal:
        make(spec(boot_data=v1.BootData(meta_data=text)))
    assert text.strip() not in str(refusal.value)


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=200))
def test_whatever_is_in_it_comes_out_again(text: str) -> None:
    config = make(spec(boot_data=v1.BootData(user_data=text, hostname=text)))
    assert decoded(config, bootdata.USER_DATA) == text
    assert yaml.safe_load(decoded(config, bootdata.META_DATA))["local-hostname"] == text


# -- unmaking ----------------------------------------------------------------------------------------------------------


def test_disks_that_we_did_not_make_come_off_before_the_machine_is_destroyed() -> None:
    """Destroying a VM removes the file of every disk that is plugged in."""
    source = template()
    seen = record(make(spec(disks=[root()]), source))
    assert making.detach_unowned(source, seen) is None
    foreign = a_disk(2002, 1000, 2, GIB)
    edit = making.detach_unowned([*source, foreign], seen)
    assert [(each.operation, each.fileOperation, each.device.key) for each in edit.deviceChange] == [
        ("remove", None, 2002)
    ]
    everything = making.detach_unowned(source, None)
    assert [each.device.key for each in everything.deviceChange] == [2000, 2001]
