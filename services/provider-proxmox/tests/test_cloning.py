"""Copies of our machines in a simulated cluster: once each, in their own name, and never at the price of the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from common import faults, v1
from common.errors import (
    HypervisorUnavailableError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    ResourceNotFoundError,
    SnapshotNotFoundError,
)
from provider_proxmox import cloning, stamp
from provider_proxmox.cloning import Cloner, Seen
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Running

from .conftest import OWNER
from .ours import GIB, UID, machine, record, volume
from .workshop import Workshop, workshop

COPY = v1.MachineIdentity(uid=UID[:-1] + "9", namespace="shop", name="copy", owner=OWNER)
FULL = v1.CloneKind.FULL


@pytest.fixture
def shop(cluster: Pve) -> Workshop:
    return workshop(cluster)


@pytest.fixture
def cloner(cluster: Pve, shop: Workshop) -> Cloner:
    return Cloner(cluster, shop.guests, Snapshots(cluster, shop.guests, owner=OWNER), shop.creator)


def _quiet(_part: float, _phase: str) -> None:
    """Nobody watches."""


async def _clone(cloner: Cloner, target: v1.MachineSpec | None = None, **more: Any) -> None:
    request = v1.CloneMachineRequest(source_uid=UID, kind=FULL, target=target or v1.MachineSpec(identity=COPY), **more)
    await cloner.clone(request, _quiet)


async def _copy(cluster: Pve, shop: Workshop) -> tuple[Guest, Stamp]:
    guest = await shop.guests.get(COPY.uid, "look")
    assert guest.stamp is not None
    assert guest.stamp.made
    return guest, guest.stamp


def _source(server: Proxmox, **config: str) -> None:
    """With a second disk, a drive and options."""
    guest = machine(server, storage="shared", cores="2", onboot="1", ide3="local:iso/x.iso,media=cdrom", **config)
    data = volume(server, "pve1", "shared:1042/vm-1042-disk-1.qcow2", 2 * GIB, 1042)
    volume(server, "pve1", "local:iso/x.iso", 1 << 20)
    mark = record(
        1042,
        DiskStamp("root", "scsi0", "shared:1042/vm-1042-disk-0.qcow2"),
        DiskStamp("data", "virtio3", data, owned=False),
        cdroms={"setup": "ide3"},
        tags=("blue",),
        settings={"proxmox.onBoot": "1", "proxmox.vmid": "1042", "description": "true"},
    )
    guest.config |= {
        "virtio3": f"{data},size=2G", "description": stamp.written("the source", mark), "tags": "blue;virtrigaud",
    }  # fmt: skip


async def test_what_the_target_leaves_open_is_as_in_the_source(
    pve: Proxmox, cluster: Pve, shop: Workshop, cloner: Cloner
) -> None:
    """But for who it is, its MACs, tags and text; and all of its disks are its own."""
    _source(pve)
    before = dict(pve.world.guests[1042].config)
    for _ in range(2):
        await _clone(cloner)
    guest, mark = await _copy(cluster, shop)
    assert (guest.name, guest.description, guest.config["tags"]) == ("shop.copy", "", "virtrigaud")
    assert guest.config["smbios1"] == f"uuid={COPY.uid}"
    assert (guest.config["cores"], guest.config["memory"], guest.config["onboot"]) == (2, "512", 1)
    assert [(disk.name, disk.slot, disk.owned) for disk in mark.disks] == [
        ("root", "scsi0", True), ("data", "virtio3", True),
    ]  # fmt: skip
    assert all(disk.volume.startswith(f"shared:{guest.vmid}/vm-{guest.vmid}-disk-") for disk in mark.disks)
    assert [(nic.name, nic.slot) for nic in mark.nics] == [("lan", "net0")]
    assert guest.config["net0"].partition(",")[2] == before["net0"].partition(",")[2]
    assert guest.config["net0"] != before["net0"]
    assert (mark.cdroms, mark.settings["proxmox.onBoot"]) == ({"setup": "ide3"}, "1")
    assert "proxmox.vmid" not in mark.settings
    assert pve.world.guests[1042].config == before
    assert len(pve.world.guests) == 2


async def test_the_target_is_what_its_spec_says(pve: Proxmox, cluster: Pve, shop: Workshop, cloner: Cloner) -> None:
    _source(pve)
    pve.world.guests[1042].run = Running(pid=1, machine="q35")
    target = v1.MachineSpec(
        identity=COPY,
        cpu=v1.CpuSpec(count=4),
        memory=v1.MemorySpec(size_bytes=GIB),
        disks=[v1.DiskSpec(name="system", size_bytes=3 * GIB), v1.DiskSpec(name="more", size_bytes=GIB)],
        nics=[v1.NicSpec(name="dmz", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1"))],
        tags=["green"],
        description="the copy",
        boot_data=v1.BootData(user_data="#cloud-config\nhostname: copy\n"),
    )
    await _clone(cloner, target)
    guest, mark = await _copy(cluster, shop)
    assert (guest.description, guest.config["tags"], guest.status) == ("the copy", "green;virtrigaud", "stopped")
    assert (guest.config["cores"], guest.config["memory"]) == (4, "1024")
    assert [(disk.name, disk.slot) for disk in mark.disks] == [
        ("system", "scsi0"), ("data", "virtio3"), ("more", "scsi1"),
    ]  # fmt: skip
    assert guest.config["scsi0"].endswith("size=3G")
    assert [(nic.name, nic.slot) for nic in mark.nics] == [("dmz", "net0")]
    assert mark.boot_digest
    assert mark.volumes
    assert pve.world.guests[1042].run is not None


async def test_of_a_snapshot_what_the_snapshot_has(pve: Proxmox, cluster: Pve, shop: Workshop, cloner: Cloner) -> None:
    machine(pve, storage="shared")
    snapshots = Snapshots(cluster, shop.guests, owner=OWNER)
    taken = await snapshots.create(v1.CreateSnapshotRequest(machine_uid=UID, uid=UID[:-1] + "7", name="before"), _quiet)
    guest = pve.world.guests[1042]
    data = volume(pve, "pve1", "shared:1042/vm-1042-disk-1.qcow2", GIB, 1042)
    _, mark = stamp.read(guest.config["description"])
    assert mark is not None
    mark = mark.with_disk(DiskStamp("data", "scsi1", data))
    guest.config |= {"cores": "8", "scsi1": f"{data},size=1G", "description": stamp.written("", mark)}
    await _clone(cloner, source_snapshot_id=taken.uid)
    copy, found = await _copy(cluster, shop)
    assert ([disk.name for disk in found.disks], copy.config["cores"]) == (["root"], 1)
    assert copy.snapshots == ()
    with pytest.raises(SnapshotNotFoundError):
        await _clone(cloner, v1.MachineSpec(identity=replace(COPY, uid=UID[:-1] + "8")), source_snapshot_id="none")


async def test_what_is_refused_leaves_nothing(pve: Proxmox, cluster: Pve, cloner: Cloner) -> None:
    with pytest.raises(MachineNotFoundError):
        await _clone(cloner)
    machine(pve)
    with pytest.raises(NotSupportedError, match="image"):
        await cloner.clone(
            v1.CloneMachineRequest(source_uid=UID, kind=v1.CloneKind.LINKED, target=v1.MachineSpec(identity=COPY)),
            _quiet,
        )
    with pytest.raises(ResourceNotFoundError):
        await _clone(cloner, v1.MachineSpec(identity=COPY, placement=v1.Placement(host="pve9")))
    pve.world.add_guest(300, "pve2", {"name": "shop.copy"})
    await cluster.refresh(300, "look")
    with pytest.raises(NameConflictError):
        await _clone(cloner)
    assert sorted(pve.world.guests) == [300, 1042]


@pytest.mark.parametrize("point", ["proxmox.vmid.claimed", "proxmox.create.shaped", "proxmox.create.finishing"])
async def test_one_that_died_is_gone_on_with(
    pve: Proxmox, cluster: Pve, shop: Workshop, cloner: Cloner, point: str
) -> None:
    _source(pve)
    plan = faults.FaultPlan()
    plan.raises(point)
    with plan.installed(), pytest.raises(HypervisorUnavailableError):
        await _clone(cloner)
    await _clone(cloner)
    _, mark = await _copy(cluster, shop)
    assert [disk.name for disk in mark.disks] == ["root", "data"]
    assert len(pve.world.guests) == 2


@pytest.mark.parametrize(
    ("wishes", "datastore", "storage"),
    [
        ([], "", ""),
        ([v1.DiskSpec(name="root")], "", ""),
        ([v1.DiskSpec(name="root", storage="rbd"), v1.DiskSpec(name="data", storage="rbd")], "", "rbd"),
        ([v1.DiskSpec(name="root", storage="local")], "rbd", "rbd"),
    ],
)
def test_all_disks_go_to_one_storage_or_stay(wishes: list[v1.DiskSpec], datastore: str, storage: str) -> None:
    target = v1.MachineSpec(disks=wishes, placement=v1.Placement(datastore=datastore))
    assert cloning.common_storage(target, SEEN, "clone") == storage


def test_disks_that_shall_go_apart_are_refused() -> None:
    target = v1.MachineSpec(disks=[v1.DiskSpec(name="root", storage="rbd")])
    with pytest.raises(NotSupportedError, match="local, rbd"):
        cloning.common_storage(target, SEEN, "clone")


def test_room_to_grow_and_the_rest_are_taken_over() -> None:
    seen = Seen(
        {
            **SEEN.config,
            "cores": 8,
            "vcpus": 2,
            "memory": "current=2048",
            "net1": "e1000=02:00:00:00:00:01,bridge=b,tag=7",
        },
        replace(
            SEEN.stamp,
            nics=(NicStamp("lan", "net1"),),
            settings={"cpu.hot_add": "true", "cpu.shares": "200", "memory.reservation_bytes": str(GIB)},
        ),
    )
    spec = cloning.wish(v1.MachineSpec(identity=COPY), seen, pool="web")
    assert spec.cpu == v1.CpuSpec(count=2, hot_add=True, shares=200)
    assert spec.memory == v1.MemorySpec(size_bytes=2 * GIB, reservation_bytes=GIB)
    assert spec.nics == [
        v1.NicSpec(name="lan", model="e1000", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="b", vlan=7))
    ]
    assert spec.placement is not None
    assert spec.placement.resource_pool == "web"


SEEN = Seen(
    {"scsi0": "local:vm-1-disk-0,size=1G", "scsi1": "local:vm-1-disk-1,size=1G", "boot": "order=scsi0", "cores": 1},
    record(1042, DiskStamp("root", "scsi0"), DiskStamp("data", "scsi1")),
)
