"""What `making` and `editing` build, taken by a vCenter's own code and read back from it."""

from __future__ import annotations

from typing import Any

from common import v1
from provider_vsphere.config import devices, editing, making, nics
from provider_vsphere.machines import stamp_of
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from pyVmomi import vim

from .conftest import OWNER, one

UID = "0a1b2c3d-0000-4000-8000-00000000ab01"
CLONE = "0a1b2c3d-0000-4000-8000-00000000ab02"
GIB = 1 << 30


def spec(uid: str, name: str, **fields: Any) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=name, owner=OWNER),
        cpu=v1.CpuSpec(count=2),
        memory=v1.MemorySpec(size_bytes=GIB),
        firmware=v1.FirmwareSpec(type=v1.FirmwareType.UEFI, secure_boot=True, tpm=True),
        boot_data=v1.BootData(user_data="#cloud-config\n"),
        nics=[v1.NicSpec(name="lan"), v1.NicSpec(name="san", model="e1000e")],
        **fields,
    )


def config(vsphere: Vsphere, wish: v1.MachineSpec, source: list[Any]) -> Any:
    group = next(
        each for each in vsphere.tree.of_kind("DistributedVirtualPortgroup") if not each.facts.get("config.uplink")
    )
    switch = vsphere.tree.get(group.facts["config.distributedVirtualSwitch"])
    assert switch is not None
    return making.new_machine(
        wish,
        stamp.of(wish.identity or v1.MachineIdentity(), 1),
        macs=nics.macs(wish, ()),
        networks={"lan": one(vsphere, "Network"), "san": group},
        switches={group.moid: switch.facts["uuid"]},
        datastore_name=one(vsphere, "Datastore").name,
        source=source,
    )


async def made(vsphere: Vsphere, wish: v1.MachineSpec) -> Entity:
    folder, pool = (
        one(vsphere, "Datacenter").facts["vmFolder"],
        one(vsphere, "ClusterComputeResource").facts["resourcePool"],
    )
    wanted = config(vsphere, wish, [])

    def begin(login: Any) -> Any:
        stub = login.instance._stub
        return vim.Folder(folder, stub).CreateVM_Task(wanted, vim.ResourcePool(pool, stub), None)

    return await found(vsphere, await vsphere.task("create", begin))


async def found(vsphere: Vsphere, machine: Any) -> Entity:
    await vsphere.refresh(Entity("VirtualMachine", str(machine)))
    entity = vsphere.tree.get(str(machine))
    assert entity is not None
    return entity


def present(entity: Entity) -> list[Any]:
    return list(entity.facts["config.hardware.device"])


def record(entity: Entity) -> stamp.Stamp:
    mark = stamp_of(entity)
    assert mark is not None
    return mark


async def change(vsphere: Vsphere, entity: Entity, edit: Any) -> Entity:
    await vsphere.task("edit", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    return await found(vsphere, entity.moid)


async def test_a_machine_is_made_edited_and_cloned(vsphere: Vsphere) -> None:
    wish = spec(UID, "taken", disks=[v1.DiskSpec(name="root", size_bytes=GIB), v1.DiskSpec(name="log", size_bytes=GIB)])
    entity = await made(vsphere, wish)
    assert (entity.facts["config.firmware"], entity.facts["config.bootOptions.efiSecureBootEnabled"]) == ("efi", True)
    assert any(isinstance(each, vim.vm.device.VirtualTPM) for each in present(entity))
    macs = {nic.mac for nic in record(entity).nics}
    assert {card.macAddress for card in nics.cards(present(entity))} == macs
    assert [making.slot_of(present(entity), disk) for disk in devices.disks_of(present(entity))] == [
        "scsi0:0",
        "scsi0:1",
    ]

    entity = await change(vsphere, entity, editing.grow_disk(present(entity), record(entity), "root", 2 * GIB))
    file = devices.file_of(devices.disks_of(present(entity))[1])
    entity = await change(vsphere, entity, editing.detach_disk(present(entity), record(entity), "log"))
    assert [devices.capacity(disk) for disk in devices.disks_of(present(entity))] == [2 * GIB]
    entity = await change(
        vsphere, entity, editing.add_disk(present(entity), record(entity), v1.DiskSpec(name="log", size_bytes=GIB), "")
    )
    assert [devices.file_of(disk) for disk in devices.disks_of(present(entity))][1:] == [file]
    moved = editing.update_nic(present(entity), record(entity), v1.NicSpec(name="san"), one(vsphere, "Network"), {})
    entity = await change(vsphere, entity, moved)
    entity = await change(vsphere, entity, editing.remove_nic(present(entity), record(entity), "lan"))
    assert [card.macAddress for card in nics.cards(present(entity))] == [nic.mac for nic in record(entity).nics]

    twin = await cloned(vsphere, entity)
    assert {card.macAddress for card in nics.cards(present(twin))} == {nic.mac for nic in record(twin).nics}
    assert len(nics.cards(present(twin))) == 2
    assert devices.capacity(devices.disks_of(present(twin))[0]) == 3 * GIB
    assert twin.facts["config.instanceUuid"] == CLONE


async def cloned(vsphere: Vsphere, entity: Entity) -> Entity:
    root = v1.DiskSpec(name="root", size_bytes=3 * GIB, image=v1.ImageRef(id="t"))
    wanted = config(vsphere, spec(CLONE, "twin", disks=[root]), present(entity))
    where = vim.vm.RelocateSpec(pool=vim.ResourcePool(entity.facts["resourcePool"]))
    order = vim.vm.CloneSpec(location=where, powerOn=False, template=False, config=wanted)
    folder = entity.parent

    def begin(login: Any) -> Any:
        stub = login.instance._stub
        return vsphere.machine(entity, login).CloneVM_Task(vim.Folder(folder, stub), "lab.twin", order)

    return await found(vsphere, await vsphere.task("clone", begin))
