"""Machines come: one call makes the guest, every later step goes on from what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from common import v1
from common.errors import (
    HostFullError,
    ImageNotFoundError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    ProviderError,
    ResourceNotFoundError,
)
from common.faults import FaultPlan
from provider_proxmox import claiming, creating
from provider_proxmox.config import disks, making, properties
from provider_proxmox.images.source import Source
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox
from simulators.proxmox.backups import back_up
from simulators.proxmox.calls import Call
from simulators.proxmox.errors import PveError

from .conftest import vm
from .ours import IDENTITY, UID, machine, volume
from .workshop import GIB, NAT, Workshop, first, quiet, template, wanted, workshop


@pytest.fixture
def shop(cluster: Pve) -> Workshop:
    return workshop(cluster)


def _ours(server: Proxmox) -> list[int]:
    """VMIDs of everything that carries our UID's stamp."""
    return [vmid for vmid, guest in server.world.guests.items() if UID in guest.config.get("description", "")]


def _volumes(server: Proxmox, vmid: int) -> set[str]:
    return {
        each.volid
        for storage in server.world.storages.values()
        for there in storage.volumes.values()
        for each in there.values()
        if each.vmid == vmid
    }


async def _seen(cluster: Pve, vmid: int) -> Guest:
    guest = await cluster.refresh(vmid, "look")
    assert guest is not None
    return guest


async def test_a_machine_from_nothing(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Complete, off, stamped, and what the index knows at once."""
    await shop.creator.create(wanted(tags=["Web"], description="for the shop"), quiet)
    guest = cluster.index.guests[first(UID)]
    assert guest.stamp is not None
    assert (guest.stamp.made, guest.status, guest.description) == (True, "stopped", "for the shop")
    assert (guest.name, guest.config["tags"]) == ("shop.web", "virtrigaud;web")
    assert guest.config["smbios1"] == f"uuid={UID}"
    (root,) = disks.disks(guest.config)
    assert (root.slot, root.size_bytes, root.volume) == ("scsi0", GIB, guest.stamp.disks[0].volume)
    assert _volumes(pve, guest.vmid) == {root.volume}


async def test_W11_P19_creating_twice_makes_one(pve: Proxmox, shop: Workshop) -> None:
    """A lost reply may be retried, and finds what is there in the first VMID that it tries."""
    await shop.creator.create(wanted(), quiet)
    before = dict(pve.world.guests[first(UID)].config)
    await shop.creator.create(wanted(), quiet)
    assert _ours(pve) == [first(UID)]
    assert pve.world.guests[first(UID)].config == before


@pytest.mark.parametrize("linked", [False, True])
async def test_a_machine_from_a_template(pve: Proxmox, cluster: Pve, shop: Workshop, linked: bool) -> None:
    """Its first disk becomes ours and grows, its NICs go, and the template stays as it is."""
    image = template(pve, shop.shelf, linked=linked)
    before = dict(pve.world.guests[900].config)
    root = v1.DiskSpec(name="root", size_bytes=4 * GIB, image=v1.ImageRef(id=image))
    spec = wanted(
        disks=[root, v1.DiskSpec(name="data", size_bytes=GIB)],
        nics=[v1.NicSpec(name="lan", network=NAT), v1.NicSpec(name="dmz", network=NAT)],
    )
    await shop.creator.create(spec, quiet)
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert guest.stamp.made
    found = {disk.slot: disk for disk in disks.disks(guest.config)}
    assert {slot: disk.size_bytes for slot, disk in found.items()} == {"scsi0": 4 * GIB, "scsi1": GIB, "scsi2": GIB}
    assert ("base-900-disk-0" in found["scsi0"].volume) is linked
    assert [(disk.name, disk.slot, disk.volume) for disk in guest.stamp.disks] == [
        ("root", "scsi0", found["scsi0"].volume),
        ("data", "scsi2", found["scsi2"].volume),
    ]
    assert [properties.parse(guest.config[net]).get("bridge") for net in ("net0", "net1")] == ["vmbr0", "vmbr0"]
    assert guest.stamp.settings[making.UNNAMED_DISKS] == "scsi1"
    assert pve.world.guests[900].config == before


async def test_P23_a_disk_from_an_imported_volume(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Copied by `import-from`, and grown to what was asked for."""
    volume(pve, "pve1", "shared:import/debian.qcow2", GIB)
    pve.world.storages["shared"].on("pve1")["shared:import/debian.qcow2"].content = "import"
    shop.shelf.sources["img"] = Source(
        "img", "volume", "pve1", volume="shared:import/debian.qcow2", disks={"scsi0": GIB}
    )
    disk = v1.DiskSpec(name="root", size_bytes=3 * GIB, image=v1.ImageRef(id="img"))
    await shop.creator.create(wanted(disks=[disk]), quiet)
    (root,) = disks.disks((await _seen(cluster, first(UID))).config)
    assert root.size_bytes == 3 * GIB


async def test_a_machine_from_a_backup(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It is a machine of its own, whoever was backed up: even one of ours, whose stamp the archive brings along."""
    old = machine(pve, identity=replace(IDENTITY, name="old", uid=UID.replace("1", "2")))
    archive = back_up(pve.world, old, "shared")
    shop.shelf.sources["backup"] = Source("backup", "archive", "pve1", volume=archive)
    spec = wanted(disks=[v1.DiskSpec(name="root", size_bytes=2 * GIB, image=v1.ImageRef(id="backup"))])
    await shop.creator.create(spec, quiet)
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert (guest.stamp.made, guest.stamp.uid, guest.name) == (True, UID, "shop.web")
    assert (guest.stamp.disks[0].slot, disks.disks(guest.config)[0].size_bytes) == ("scsi0", 2 * GIB)
    assert guest.config["smbios1"] == f"uuid={UID}"
    assert pve.world.guests[1042] is old


async def test_an_existing_disk_is_attached_as_it_stands(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It was there before, and is nobody's of ours."""
    there = volume(pve, "pve1", "shared:77/vm-77-disk-0.qcow2", GIB, 77)
    disk = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=there))
    await shop.creator.create(wanted(disks=[disk]), quiet)
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert [(each.volume, each.owned) for each in guest.stamp.disks] == [(there, False)]
    assert disks.disks(guest.config)[0].volume == there


async def test_the_node_that_has_an_existing_disk_is_taken(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """A storage of one name on every node is not one storage."""
    there = volume(pve, "pve3", "local-lvm:vm-77-disk-0", GIB, 77)
    disk = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=there))
    await shop.creator.create(wanted(disks=[disk]), quiet)
    assert (await _seen(cluster, first(UID))).node == "pve3"
    gone = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id="local-lvm:vm-78-disk-0"))
    other = replace(IDENTITY, name="other", uid=UID.replace("1", "2"))
    with pytest.raises(ResourceNotFoundError, match=r"disk root.*local-lvm:vm-78-disk-0"):
        await shop.creator.create(wanted(other, disks=[gone]), quiet)


@pytest.mark.parametrize("ours", [True, False])
async def test_when_the_nodes_of_its_template_are_full(pve: Proxmox, cluster: Pve, shop: Workshop, ours: bool) -> None:
    """A template of ours goes where the room is; somebody else's holds its machines on its nodes."""
    image = template(pve, shop.shelf)
    near = shop.shelf.sources[image] = replace(shop.shelf.sources[image], nodes=frozenset({"pve1"}))
    for name in ("pve1", "pve3"):
        pve.world.nodes[name].cpus = 1
        cluster.index.nodes[name] = replace(cluster.index.nodes[name], cpus=1)  # as the next look will find it
    if ours:
        template(pve, shop.shelf, 901, node="pve2")
        shop.shelf.copies[image, "pve2"] = replace(near, node="pve2", vmid=901, nodes=frozenset({"pve2"}))
    making_it = shop.creator.create(_spec_with(image, cpu=v1.CpuSpec(count=2)), quiet)
    if ours:
        await making_it
        assert (await _seen(cluster, first(UID))).node == "pve2"
    else:
        with pytest.raises(HostFullError, match="nodes that reach its template are full"):
            await making_it
        assert _ours(pve) == []


async def test_the_node_that_has_its_gpus_is_taken(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Proxmox VE would look only when the machine starts; a device that another guest is to have is none."""
    where = [f"node={node},path=0000:0{n}:00.0,id=10de:20b0" for node, n in (("pve2", 1), ("pve3", 1), ("pve3", 2))]
    pve.world.mappings["pci"] = {"a100": {"map": where}}
    vm(pve, 101, node="pve2", hostpci0="mapping=a100")
    await cluster.refresh(101, "look")
    await shop.creator.create(wanted(gpus=[v1.GpuSpec(count=2, model="a100")]), quiet)
    guest = await _seen(cluster, first(UID))
    assert (guest.node, guest.config["hostpci0"], guest.config["hostpci1"]) == (
        "pve3", "mapping=a100,pcie=1", "mapping=a100,pcie=1",
    )  # fmt: skip
    other = wanted(replace(IDENTITY, name="other", uid=UID.replace("1", "2")), gpus=[v1.GpuSpec(count=1, model="a100")])
    with pytest.raises(HostFullError, match="free are: pve2 0, pve3 0"):
        await shop.creator.create(other, quiet)
    other.gpus = [v1.GpuSpec(count=1, model="h100")]
    with pytest.raises(ResourceNotFoundError, match="h100"):
        await shop.creator.create(other, quiet)


async def test_a_disk_that_another_guest_has_is_not_attached(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """Two guests that write to one disk destroy it, and Proxmox VE does not mind."""
    there = volume(pve, "pve1", "shared:77/vm-77-disk-0.qcow2", GIB, 77)
    vm(pve, 77 + 100, scsi0=f"{there},size=1G")
    await cluster.refresh(177, "look")
    disk = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=there))
    with pytest.raises(InvalidSpecError, match="attached to guest 177"):
        await shop.creator.create(wanted(disks=[disk]), quiet)
    assert _ours(pve) == []


async def test_a_disk_that_another_guest_gets_meanwhile_is_given_back(
    pve: Proxmox, cluster: Pve, shop: Workshop
) -> None:
    """Two guests that write to one volume destroy it: ours has never run, and goes."""
    there = volume(pve, "pve1", "shared:177/vm-177-disk-0.qcow2", GIB, 177)

    async def come(_: str) -> None:
        vm(pve, 177, scsi0=f"{there},size=1G")
        await cluster.refresh(177, "look")

    disk = v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=there))
    with FaultPlan().does(creating.FINISHING, come).installed(), pytest.raises(InvalidSpecError, match="guest 177"):
        await shop.creator.create(wanted(disks=[disk]), quiet)
    assert set(pve.world.guests) == {177}
    assert there in _volumes(pve, 177)


async def test_first_boot_data_come_with_it(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """And the stamp knows the ISO."""
    await shop.creator.create(wanted(boot_data=v1.BootData(user_data="#!/bin/sh\n")), quiet)
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert guest.stamp.boot_digest
    assert list(guest.stamp.volumes) == [disks.cdroms(guest.config)[0].medium]


async def test_options_pool_and_ha(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """It is a member of HA and stays off: starting it is what tells HA to keep it started."""
    from simulators.proxmox.world import Pool

    pve.world.pools["web"] = Pool("web")
    spec = wanted(
        placement=v1.Placement(host="pve2", resource_pool="web"),
        extra_config={
            "proxmox.ha": "started",
            "proxmox.protection": "true",
            "proxmox.onBoot": "1",
            "proxmox.vmid": "500",
        },
    )
    await shop.creator.create(spec, quiet)
    guest = await _seen(cluster, 500)
    assert (guest.node, guest.status, str(guest.config["protection"]), str(guest.config["onboot"])) == (
        "pve2", "stopped", "1", "1",
    )  # fmt: skip
    assert pve.world.ha["vm:500"]["state"] == "stopped"
    assert pve.world.access.pool_of[500] == "web"


async def test_a_foreign_guest_of_its_name(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """People would take the one for the other."""
    vm(pve, 101, name="shop.web")
    await cluster.refresh(101, "look")
    with pytest.raises(NameConflictError, match="guest 101 on pve1"):
        await shop.creator.create(wanted(), quiet)
    assert set(pve.world.guests) == {101}


async def test_a_vmid_that_another_has(pve: Proxmox, shop: Workshop) -> None:
    """One that the spec asks for is not replaced by another in silence."""
    vm(pve, 500)
    with pytest.raises(NameConflictError, match="VMID 500"):
        await shop.creator.create(wanted(extra_config={"proxmox.vmid": "500"}), quiet)
    assert _ours(pve) == []


def _spec_with(image: str, **more: object) -> v1.MachineSpec:
    disk = v1.DiskSpec(name="root", size_bytes=4 * GIB, image=v1.ImageRef(id=image))
    return wanted(disks=[disk], **more)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda spec: replace(spec, placement=v1.Placement(host="pve9")), ResourceNotFoundError),
        (lambda spec: replace(spec, placement=v1.Placement(datastore="gone")), ResourceNotFoundError),
        (lambda spec: replace(spec, placement=v1.Placement(resource_pool="gone")), ResourceNotFoundError),
        (lambda spec: replace(spec, cpu=v1.CpuSpec(count=999)), HostFullError),
        (
            lambda spec: replace(spec, disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id="gone"))]),
            ImageNotFoundError,
        ),
        (lambda spec: replace(spec, extra_config={"proxmox.onBoot": "perhaps"}), InvalidSpecError),
        (
            lambda spec: replace(spec, cdroms=[v1.CdromSpec(name="cd", medium="shared:iso/gone.iso")]),
            ResourceNotFoundError,
        ),
        (
            lambda spec: replace(
                spec, disks=[*spec.disks, v1.DiskSpec(name="two", image=v1.ImageRef(id="template-900"))]
            ),
            NotSupportedError,
        ),
    ],
)
@pytest.mark.parametrize("from_template", [False, True])
async def test_what_cannot_be_leaves_nothing_behind(
    pve: Proxmox, shop: Workshop, change: Callable[[v1.MachineSpec], v1.MachineSpec], error: type[ProviderError],
    from_template: bool,
) -> None:  # fmt: skip
    """Neither a guest nor a volume, at whatever step it shows."""
    image = template(pve, shop.shelf)
    spec = change(_spec_with(image) if from_template else wanted())
    before = set(_all_volumes(pve))
    with pytest.raises(error):
        await shop.creator.create(spec, quiet)
    assert set(pve.world.guests) == {900}
    assert set(_all_volumes(pve)) == before


def _all_volumes(server: Proxmox) -> list[str]:
    return [
        each.volid
        for storage in server.world.storages.values()
        for there in storage.volumes.values()
        for each in there.values()
    ]


async def test_a_step_that_can_never_succeed_takes_the_guest_back(pve: Proxmox, shop: Workshop) -> None:
    """A full storage shows when a disk is grown."""
    image = template(pve, shop.shelf)

    def full(call: Call) -> None:
        if call.route.template.endswith("/resize"):
            raise PveError(500, "storage 'shared' is full: not enough free space")

    pve.checks.append(full)
    with pytest.raises(HostFullError):
        await shop.creator.create(_spec_with(image), quiet)
    assert set(pve.world.guests) == {900}
    assert not [each for each in _all_volumes(pve) if "base-900" not in each]


async def test_a_templates_protection_is_not_the_machines(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """A clone inherits it: neither its clean-up nor its end may be held up by it."""
    image = template(pve, shop.shelf)
    pve.world.guests[900].config["protection"] = "1"
    with FaultPlan().raises(claiming.CLAIMED, HostFullError("no room")).installed(), pytest.raises(HostFullError):
        await shop.creator.create(_spec_with(image), quiet)
    assert set(pve.world.guests) == {900}
    await shop.creator.create(_spec_with(image), quiet)
    assert str((await _seen(cluster, first(UID))).config.get("protection", "0")) == "0"
    await shop.remover.destroy(UID, quiet)
    assert set(pve.world.guests) == {900}


# -- crashes -----------------------------------------------------------------------------------------------------------

POINTS = [
    claiming.JUDGED, claiming.CLAIMED, creating.SHAPED, creating.GROWN, creating.FINISHING, creating.MADE,
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("from_template", [False, True])
async def test_a_maker_that_dies_is_followed_by_another(
    pve: Proxmox, cluster: Pve, shop: Workshop, point: str, from_template: bool
) -> None:
    """Whatever the first one has done, the second finds it and goes on: there is one machine, and it is complete."""
    spec = _spec_with(template(pve, shop.shelf)) if from_template else wanted()
    with FaultPlan().raises(point, asyncio.CancelledError()).installed(), pytest.raises(asyncio.CancelledError):
        await shop.creator.create(spec, quiet)
    await workshop(cluster, shelf=shop.shelf).creator.create(spec, quiet)
    assert _ours(pve) == [first(UID)]
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert guest.stamp.made
    assert disks.disks(guest.config)[0].size_bytes == spec.disks[0].size_bytes
    assert _volumes(pve, guest.vmid) == set(disks.volumes(guest.config).values())


@pytest.mark.parametrize("route", ["/nodes/{node}/qemu", "/nodes/{node}/qemu/{vmid}/clone"])
async def test_cancelled_while_it_is_made_nothing_goes_on_behind(pve: Proxmox, shop: Workshop, route: str) -> None:
    """The clean-up that follows would be overtaken."""
    from_template = route.endswith("clone")
    spec = _spec_with(template(pve, shop.shelf)) if from_template else wanted()
    begun = asyncio.Event()

    def see(call: Call) -> None:
        if call.method == "POST" and call.route.template == route:
            begun.set()

    pve.checks.append(see)
    making_it = asyncio.create_task(shop.creator.create(spec, quiet))
    await begun.wait()
    making_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making_it
    await shop.remover.destroy(UID, quiet)
    assert set(pve.world.guests) == ({900} if from_template else set())
    assert not [each for each in _all_volumes(pve) if "base-900" not in each]


async def test_an_unknown_outcome_is_looked_after(pve: Proxmox, cluster: Pve, shop: Workshop) -> None:
    """The same VMID is judged again before anything else is tried."""
    spec, struck = _spec_with(template(pve, shop.shelf)), []

    def lose(call: Call) -> None:
        if call.method == "POST" and call.route.template.endswith("/clone") and not struck:
            struck.append(call)
            raise PveError(596, "Connection timed out")

    pve.checks.append(lose)
    await shop.creator.create(spec, quiet)
    assert struck
    assert _ours(pve) == [first(UID)]
    guest = await _seen(cluster, first(UID))
    assert guest.stamp is not None
    assert guest.stamp.made
