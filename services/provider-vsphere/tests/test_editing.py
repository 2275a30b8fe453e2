"""Changes of a machine that exists: each applied to its devices, and the stamp that goes with it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from common import v1
from common.errors import InvalidSpecError, ResourceNotFoundError
from provider_vsphere.config import bootdata, devices, editing, making, nics
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import stamp
from pyVmomi import SoapAdapter, vim

UID = "0a1b2c3d-0000-4000-8000-0123456789ab"
GIB, MIB = 1 << 30, 1 << 20
dev = vim.vm.device
LAN = Entity("Network", "network-7", {"name": "lan"})
SAN = Entity("Network", "network-8", {"name": "san"})


class Machine:
    """Devices and stamp, as vSphere would keep them."""

    def __init__(self) -> None:
        self.devices: list[Any] = []
        self.extra: dict[str, str] = {}
        self._next = 1000
        wish = v1.MachineSpec(
            identity=v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="tests"),
            cpu=v1.CpuSpec(count=1),
            memory=v1.MemorySpec(size_bytes=GIB),
            disks=[v1.DiskSpec(name="root", size_bytes=10 * GIB)],
            nics=[v1.NicSpec(name="lan", mac="00:50:56:00:00:01")],
        )
        identity = wish.identity or v1.MachineIdentity()
        self.apply(
            making.new_machine(
                wish,
                stamp.of(identity, 1),
                macs=nics.macs(wish, ()),
                networks={"lan": LAN},
                switches={},
                datastore_name="ds1",
            )
        )

    def apply(self, config: Any) -> Machine:
        """As ReconfigVM_Task does: keys are given, files get names, edits lay what is set over what is there."""
        assert SoapAdapter.Serialize(config)
        keys: dict[int, int] = {}
        for change in config.deviceChange:
            device = change.device
            if change.operation == "add":
                self._next += 1
                keys[device.key] = device.key = self._next
                device.controllerKey = keys.get(device.controllerKey, device.controllerKey)
                if change.fileOperation == "create":
                    device.backing.fileName += f" web/web_{device.key}.vmdk"
                self.devices.append(device)
            else:
                assert device.key in {each.key for each in self.devices}
                self.devices = [each for each in self.devices if each.key != device.key]
                if change.operation == "edit":
                    self.devices.append(device)
        self.extra |= {option.key: option.value for option in config.extraConfig}
        return self

    @property
    def record(self) -> stamp.Stamp:
        found = stamp.read(self.extra[stamp.KEY])
        assert found is not None
        return found

    def disk(self, name: str) -> Any:
        known = self.record.disk(name)
        assert known is not None
        return next(each for each in self.devices if making.slot_of(self.devices, each) == known.slot)

    def cards(self) -> list[Any]:
        return nics.cards(self.devices)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def data(**fields: Any) -> v1.DiskSpec:
    return v1.DiskSpec(**({"name": "data", "size_bytes": GIB} | fields))


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_disk_is_added_once(machine: Machine) -> None:
    machine.apply(editing.add_disk(machine.devices, machine.record, data(iops_limit=7), "ds1"))
    assert machine.record.disk("data") == stamp.DiskStamp(name="data", slot="scsi0:1")
    assert machine.record.settings == {"disks[data].iops_limit": "7"}
    assert machine.disk("data").capacityInBytes == GIB
    assert editing.add_disk(machine.devices, machine.record, data(), "ds1") is None


def test_a_detached_disk_comes_back_with_its_content(machine: Machine) -> None:
    """Its file stays and stays known: for the disk's return, and to be removed with the machine."""
    machine.apply(editing.add_disk(machine.devices, machine.record, data(sharing="physicalSharing"), "ds1"))
    file = machine.disk("data").backing.fileName
    edit = editing.detach_disk(machine.devices, machine.record, "data")
    assert edit.deviceChange[0].fileOperation is None
    machine.apply(edit)
    assert machine.record.disk("data") is None
    assert editing.kept_files(machine.record) == {"data": file}
    assert editing.detach_disk(machine.devices, machine.record, "data") is None
    again = editing.add_disk(machine.devices, machine.record, data(), "ds1")
    assert [change.fileOperation for change in again.deviceChange] == [None]
    machine.apply(again)
    assert machine.disk("data").backing.fileName == file
    assert editing.kept_files(machine.record) == {}
    assert machine.record.settings == {}


def test_a_detached_disk_of_somebody_else_is_forgotten(machine: Machine) -> None:
    wish = v1.DiskSpec(name="data", existing=v1.ExistingDisk(id="[ds2] old/old.vmdk"))
    machine.apply(editing.add_disk(machine.devices, machine.record, wish, "ds1"))
    unplug = making.detach_unowned(machine.devices, machine.record)
    assert [each.device.backing.fileName for each in unplug.deviceChange] == ["[ds2] old/old.vmdk"]
    machine.apply(editing.detach_disk(machine.devices, machine.record, "data"))
    assert editing.kept_files(machine.record) == {}


def test_a_disk_that_a_person_unplugged_is_made_anew(machine: Machine) -> None:
    machine.apply(editing.add_disk(machine.devices, machine.record, data(), "ds1"))
    machine.devices.remove(machine.disk("data"))
    machine.apply(editing.add_disk(machine.devices, machine.record, data(), "ds1"))
    assert machine.disk("data").capacityInBytes == GIB


def test_a_disk_grows_in_place_and_never_shrinks(machine: Machine) -> None:
    before = machine.disk("root")
    machine.apply(editing.grow_disk(machine.devices, machine.record, "root", 20 * GIB))
    after = machine.disk("root")
    assert (after.key, after.unitNumber, after.backing.fileName) == (before.key, 0, before.backing.fileName)
    assert (after.capacityInBytes, before.capacityInBytes) == (20 * GIB, 10 * GIB)
    for size in (20 * GIB, 5 * GIB):
        assert editing.grow_disk(machine.devices, machine.record, "root", size) is None
    with pytest.raises(ResourceNotFoundError, match="data"):
        editing.grow_disk(machine.devices, machine.record, "data", GIB)


def test_limits_of_a_disk(machine: Machine) -> None:
    machine.apply(editing.update_disk(machine.devices, machine.record, v1.DiskSpec(name="root", iops_limit=100)))
    assert machine.disk("root").storageIOAllocation.limit == 100
    assert machine.disk("root").capacityInBytes == 10 * GIB
    machine.apply(editing.grow_disk(machine.devices, machine.record, "root", 11 * GIB))
    assert machine.disk("root").storageIOAllocation.limit == 100
    machine.apply(editing.update_disk(machine.devices, machine.record, v1.DiskSpec(name="root")))
    assert machine.disk("root").storageIOAllocation.limit == -1
    assert machine.record.settings == {}


def test_a_bus_is_shared_only_for_all_who_are_on_it(machine: Machine) -> None:
    wish = v1.DiskSpec(name="root", sharing="virtualSharing")
    controller = machine.devices[0]
    machine.apply(editing.update_disk(machine.devices, machine.record, wish))
    shared = next(each for each in machine.devices if each.key == controller.key)
    assert (shared.sharedBus, controller.sharedBus) == ("virtualSharing", "noSharing")
    assert machine.record.settings == {"disks[root].sharing": "virtualSharing"}
    alone = Machine()
    alone.apply(editing.update_disk(alone.devices, alone.record, wish))
    alone.apply(editing.update_disk(alone.devices, alone.record, v1.DiskSpec(name="root")))
    assert [each.sharedBus for each in alone.devices if each.key == controller.key] == ["noSharing"]
    assert alone.record.settings == {}
    other = Machine()
    other.apply(editing.add_disk(other.devices, other.record, data(), "ds1"))
    with pytest.raises(InvalidSpecError, match="other disks"):
        editing.update_disk(other.devices, other.record, wish)


def test_a_later_disk_cannot_be_made_from_an_image(machine: Machine) -> None:
    with pytest.raises(InvalidSpecError, match="image"):
        editing.add_disk(machine.devices, machine.record, data(image=v1.ImageRef(id="t")), "ds1")


@pytest.mark.parametrize("medium", ["iso/debian.iso", "[] a.iso", "[ds]a.iso", "[ds] /a.iso", "[ds] "])
def test_a_medium_is_a_path_on_a_datastore(medium: str) -> None:
    with pytest.raises(InvalidSpecError, match="give a path on a datastore"):
        devices.load(vim.vm.device.VirtualCdrom(), medium)


# -- network adapters --------------------------------------------------------------------------------------------------


def test_a_nic_is_added_once_and_removed_once(machine: Machine) -> None:
    wish = v1.NicSpec(name="san", mtu=9000)
    machine.apply(editing.add_nic(machine.devices, machine.record, wish, "00:50:56:00:00:02", SAN, {}))
    assert [card.macAddress for card in machine.cards()] == ["00:50:56:00:00:01", "00:50:56:00:00:02"]
    assert machine.record.settings == {"nics[san].mtu": "9000"}
    assert editing.add_nic(machine.devices, machine.record, wish, "00:50:56:00:00:02", SAN, {}) is None
    machine.apply(editing.remove_nic(machine.devices, machine.record, "san"))
    assert [card.macAddress for card in machine.cards()] == ["00:50:56:00:00:01"]
    assert machine.record.nic("san") is None
    assert machine.record.settings == {}
    assert editing.remove_nic(machine.devices, machine.record, "san") is None


def test_a_nic_moves_in_place(machine: Machine) -> None:
    before = machine.cards()[0]
    ref = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="san")
    machine.apply(editing.update_nic(machine.devices, machine.record, v1.NicSpec(name="lan", network=ref), SAN, {}))
    card = machine.cards()[0]
    assert (card.key, card.macAddress, card.backing.network._moId) == (before.key, before.macAddress, "network-8")
    mark = stamp.NicStamp(name="lan", mac=before.macAddress, kind="NAMED", network="san")
    assert machine.record.nic("lan") == mark


def test_a_nic_gets_another_mac_and_is_still_known(machine: Machine) -> None:
    wish = v1.NicSpec(name="lan", mac="00:50:56:00:00:09", model="vmxnet3")
    machine.apply(editing.update_nic(machine.devices, machine.record, wish, LAN, {}))
    assert machine.cards()[0].macAddress == "00:50:56:00:00:09"
    assert editing.remove_nic(machine.devices, machine.record, "lan").deviceChange[0].operation == "remove"


def test_another_model_is_another_card_with_the_same_mac(machine: Machine) -> None:
    before = machine.cards()[0]
    wish = v1.NicSpec(name="lan", model="e1000e")
    machine.apply(editing.update_nic(machine.devices, machine.record, wish, LAN, {}))
    card = machine.cards()[0]
    assert (type(card), card.macAddress) == (dev.VirtualE1000e, before.macAddress)
    with pytest.raises(ResourceNotFoundError, match="san"):
        editing.update_nic(machine.devices, machine.record, v1.NicSpec(name="san"), LAN, {})


# -- processor, memory, firmware, tuning -------------------------------------------------------------------------------


def test_a_running_machine_gets_cpus_and_nothing_that_it_cannot_take(machine: Machine) -> None:
    wish = v1.CpuSpec(count=4, cores_per_socket=2, hot_add=True, nested_virtualization=True, shares=10)
    live = editing.set_cpu(machine.record, wish, live=True)
    assert (live.numCPUs, live.cpuAllocation.shares.shares) == (4, 10)
    assert (live.numCoresPerSocket, live.cpuHotAddEnabled, live.nestedHVEnabled) == (None, None, None)
    off = editing.set_cpu(machine.record, wish, live=False)
    assert (off.numCoresPerSocket, off.cpuHotAddEnabled, off.nestedHVEnabled) == (2, True, True)
    machine.apply(off)
    assert machine.record.settings == {"cpu.shares": "10", "cpu.nested_virtualization": "true"}


def test_what_leaves_the_cpu_spec_is_taken_back(machine: Machine) -> None:
    wish = v1.CpuSpec(count=1, nested_virtualization=True, shares=10, limit_mhz=100, reservation_mhz=50)
    machine.apply(editing.set_cpu(machine.record, wish, live=False))
    live = editing.set_cpu(machine.record, v1.CpuSpec(count=1), live=True)
    allocation = live.cpuAllocation
    assert (allocation.reservation, allocation.limit, allocation.shares.level) == (0, -1, "normal")
    assert live.nestedHVEnabled is None
    machine.apply(live)
    assert machine.record.settings == {"cpu.nested_virtualization": "true"}
    off = editing.set_cpu(machine.record, v1.CpuSpec(count=1), live=False)
    assert (off.cpuAllocation, off.nestedHVEnabled) == (None, False)
    assert machine.apply(off).record.settings == {}


def test_what_no_spec_asked_for_is_left_as_it_is(machine: Machine) -> None:
    """A template's own."""
    config = editing.set_cpu(machine.record, v1.CpuSpec(count=2), live=False)
    assert (config.cpuAllocation, config.nestedHVEnabled) == (None, None)
    tuning = editing.set_tuning(machine.record, v1.MachineSpec())
    assert (tuning.flags, tuning.latencySensitivity, tuning.memoryReservationLockedToMax) == (None, None, None)
    assert editing.set_memory(machine.record, v1.MemorySpec(size_bytes=GIB), live=False).memoryAllocation is None
    assert not editing.update_disk(machine.devices, machine.record, v1.DiskSpec(name="root")).deviceChange


@pytest.mark.parametrize(("now", "fresh"), [(4, 1), (2, None), (0, None)])
def test_a_topology_that_no_longer_divides_is_given_up(machine: Machine, now: int, fresh: int | None) -> None:
    config = editing.set_cpu(machine.record, v1.CpuSpec(count=2), live=False, cores_per_socket=now)
    assert config.numCoresPerSocket == fresh


def test_memory(machine: Machine) -> None:
    wish = v1.MemorySpec(size_bytes=513 * MIB, hot_add=True, limit_bytes=GIB)
    machine.apply(editing.set_memory(machine.record, wish, live=False))
    assert machine.record.settings == {"memory.size_bytes": str(513 * MIB), "memory.limit_bytes": str(GIB)}
    live = editing.set_memory(machine.record, v1.MemorySpec(size_bytes=GIB, hot_add=True), live=True)
    assert (live.memoryMB, live.memoryHotAddEnabled, live.memoryAllocation.limit) == (1024, None, -1)
    machine.apply(live)
    assert machine.record.settings == {}


def test_firmware_gets_a_tpm_once_and_keeps_its_type(machine: Machine) -> None:
    wish = v1.FirmwareSpec(type=v1.FirmwareType.UEFI, secure_boot=True, tpm=True)
    config = editing.set_firmware(machine.devices, wish)
    assert (config.firmware, config.bootOptions.efiSecureBootEnabled) == (None, True)
    machine.apply(config)
    assert not editing.set_firmware(machine.devices, wish).deviceChange


def test_tuning(machine: Machine) -> None:
    tuning = v1.Tuning(virtualization_based_security=True, latency_sensitivity="low")
    wish = v1.MachineSpec(tuning=tuning, extra_config={"sched.x": "1", "vsphere.guestId": "g"})
    config = editing.set_tuning(machine.record, wish)
    assert (config.flags.vbsEnabled, config.bootOptions.efiSecureBootEnabled) == (True, True)
    machine.apply(config)
    assert machine.extra["sched.x"] == "1"
    assert machine.record.settings == {
        "tuning.virtualization_based_security": "true",
        "tuning.latency_sensitivity": "low",
        "sched.x": "1",
        "vsphere.guestId": "g",
    }
    back = editing.set_tuning(machine.record, v1.MachineSpec(extra_config={"sched.x": "1"}))
    assert (back.flags.vbsEnabled, back.flags.vvtdEnabled, back.nestedHVEnabled) == (False, False, False)
    assert back.latencySensitivity.level == "normal"
    assert machine.apply(back).record.settings == {"sched.x": "1"}


def test_memory_is_reserved_as_long_as_latency_demands_it(machine: Machine) -> None:
    machine.apply(editing.set_tuning(machine.record, v1.MachineSpec(tuning=v1.Tuning(latency_sensitivity="high"))))
    back = editing.set_tuning(machine.record, v1.MachineSpec(tuning=v1.Tuning(latency_sensitivity="low")))
    assert (back.memoryReservationLockedToMax, back.memoryAllocation.reservation) == (False, 0)


# -- texts and first-boot data -----------------------------------------------------------------------------------------


def test_texts(machine: Machine) -> None:
    machine.apply(editing.set_tags(machine.record, ["b", "a", "b"]))
    assert machine.record.tags == ("a", "b")
    config = editing.set_description(machine.record, "x\ufffe")
    assert config.annotation == "x"
    assert machine.apply(config).record.settings == {"description": "true"}
    bare = editing.set_description(machine.record, "")
    assert (bare.annotation, machine.apply(bare).record.settings) == ("", {})


def test_a_note_comes_and_goes(machine: Machine) -> None:
    machine.apply(editing.note(machine.record, "seen", "yes"))
    assert machine.record.settings == {"seen": "yes"}
    assert machine.apply(editing.note(machine.record, "seen", "")).record.settings == {}


def test_boot_data_is_replaced_as_a_whole(machine: Machine) -> None:
    wish = v1.MachineSpec(
        identity=v1.MachineIdentity(uid=UID),
        boot_data=v1.BootData(ignition="{}"),
        nics=[v1.NicSpec(name="lan", addressing=v1.GuestAddressing(dhcp6=True))],
    )
    machine.extra[bootdata.USER_DATA] = "of before"
    machine.apply(editing.set_boot_data(machine.record, wish, {}))
    assert machine.extra[bootdata.USER_DATA] == ""
    assert base64.b64decode(machine.extra[bootdata.IGNITION]) == b"{}"
    assert b"00:50:56:00:00:01" in base64.b64decode(machine.extra[bootdata.META_DATA])
    assert machine.record.boot_digest
    assert machine.record.disk("root") is not None
