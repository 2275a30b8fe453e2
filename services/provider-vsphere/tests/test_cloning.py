"""What CloneVM_Task and InstantClone_Task are asked for: pure, from a source and a target's spec."""

from __future__ import annotations

from typing import Any

from common import v1
from provider_vsphere.cloning import UNFINISHED, Original, copied, forked, nics_of
from provider_vsphere.config import bootdata, devices
from provider_vsphere.places import Place
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp
from pyVmomi import vim

from .conftest import OWNER

SOURCE, COPY = "0a1b2c3d-0000-4000-8000-00000000cb01", "0a1b2c3d-0000-4000-8000-00000000cb02"
GIB = 1 << 30
device = vim.vm.device
NETWORK = Entity("Network", "network-1", {"name": "lan"})


def disk(unit: int, gib: int) -> Any:
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName=f"[ds] web/{unit}.vmdk", diskMode="persistent")
    return device.VirtualDisk(
        key=2000 + unit, controllerKey=1000, unitNumber=unit, backing=backing, capacityInBytes=gib * GIB
    )


def original() -> Original:
    board = [
        device.ParaVirtualSCSIController(key=1000, busNumber=0),
        disk(0, 1),
        disk(1, 2),
        device.VirtualVmxnet3(key=4000, macAddress="00:50:56:00:00:01", addressType="manual"),
    ]
    record = Stamp(
        SOURCE, "lab", "web", OWNER,
        boot_digest="secret", tags=("source",), tag_ids={"source": "urn:1"}, attributes={"team": 1},
        disks=(DiskStamp("root", "scsi0:0", owned=False), DiskStamp("data", "scsi0:1")),
        nics=(NicStamp("lan", "00:50:56:00:00:01", "NAMED", "lan"),),
        settings={"cpu.shares": "9", "memory.limit_bytes": "1", "placement.folder": "old", "kept[log]": "x"},
    )  # fmt: skip
    return Original(Entity("VirtualMachine", "vm-1"), board, record)


def target(**fields: Any) -> v1.MachineSpec:
    return v1.MachineSpec(identity=v1.MachineIdentity(uid=COPY, namespace="lab", name="copy", owner=OWNER), **fields)


def options(config: Any) -> dict[str, str]:
    return {str(option.key): str(option.value) for option in config}


def copy_of(spec: v1.MachineSpec, *, linked: bool = False) -> tuple[Any, Stamp]:
    config = copied(
        spec, stamp.of(spec.identity or v1.MachineIdentity(), 5), original(), macs={"lan": "00:50:56:00:00:02"},
        networks={"lan": NETWORK}, switches={}, linked=linked,
    )  # fmt: skip
    record = stamp.read(options(config.extraConfig)[stamp.KEY])
    assert record is not None
    return config, record


def test_nothing_of_who_the_source_is_goes_along() -> None:
    config, record = copy_of(target(nics=nics_of(original())))
    assert (config.uuid, config.instanceUuid) == (COPY, COPY)
    assert (record.identity(), record.created) == (target().identity, 5)
    assert (record.tags, record.tag_ids, record.attributes, record.boot_digest) == ((), {}, {}, "")
    assert record.settings == {"cpu.shares": "9", "memory.limit_bytes": "1"}
    told = options(config.extraConfig)
    assert all(told[key] == "" for key in (bootdata.USER_DATA, bootdata.META_DATA, bootdata.IGNITION))
    assert [disk.name for disk in record.disks if disk.owned] == ["root", "data"]


def test_every_nic_is_another_card() -> None:
    config, record = copy_of(target(nics=nics_of(original())))
    cards = [
        (change.operation, change.device.macAddress)
        for change in config.deviceChange
        if isinstance(change.device, device.VirtualEthernetCard)
    ]
    assert cards == [("remove", "00:50:56:00:00:01"), ("add", "00:50:56:00:00:02")]
    assert record.nics == (NicStamp("lan", "00:50:56:00:00:02", "NAMED", "lan"),)


def test_the_spec_changes_size_and_name_of_disks_and_says_its_own_settings() -> None:
    wish = target(
        cpu=v1.CpuSpec(count=3, shares=2), nics=nics_of(original()),
        disks=[v1.DiskSpec(name="boot", size_bytes=4 * GIB), v1.DiskSpec(name="data", size_bytes=GIB)],
    )  # fmt: skip
    config, record = copy_of(wish)
    assert config.numCPUs == 3
    grown = [c.device for c in config.deviceChange if isinstance(c.device, device.VirtualDisk)]
    assert [(each.key, devices.capacity(each)) for each in grown] == [(2000, 4 * GIB)]
    assert [(each.name, each.slot) for each in record.disks] == [("boot", "scsi0:0"), ("data", "scsi0:1")]
    assert record.settings == {"cpu.shares": "2", "memory.limit_bytes": "1"}
    linked, _ = copy_of(wish, linked=True)
    assert not [c for c in linked.deviceChange if isinstance(c.device, device.VirtualDisk)]


def test_an_instant_clone_keeps_its_cards_and_is_unfinished() -> None:
    pool = Entity("ResourcePool", "pool-1")
    place = Place(datacenter=pool, compute=pool, pool=pool, folder=Entity("Folder", "folder-1"))
    wishes = [v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="san"))]
    wish = target(nics=nics_of(original(), wishes))
    assert [(nic.network or v1.NetworkRef()).name for nic in wish.nics] == ["san"]
    order = forked(
        wish, stamp.of(wish.identity or v1.MachineIdentity(), 5), original(), name="lab.copy", place=place,
        macs={"lan": "00:50:56:00:00:02"}, networks={"lan": NETWORK}, switches={},
    )  # fmt: skip
    assert (order.name, order.biosUuid) == ("lab.copy", COPY)
    changes = [(c.operation, c.device.key, c.device.macAddress) for c in order.location.deviceChange]
    assert changes == [("edit", 4000, "00:50:56:00:00:02")]
    record = stamp.read(options(order.config)[stamp.KEY])
    assert record is not None
    assert UNFINISHED in record.settings
