"""Images of a simulated cluster: templates and volumes of others, and who stands on what."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from common import faults, v1
from common.clock import SystemClock
from common.errors import ImageInUseError, ImageNotFoundError, InvalidSpecError, NotSupportedError
from provider_proxmox import stamp
from provider_proxmox.images.building import Builder
from provider_proxmox.images.fetching import Fetcher
from provider_proxmox.images.images import Images
from provider_proxmox.images.importing import Importer
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Volume

from .conftest import connected, credentials_of, vm
from .test_importing import CAPACITY, IMAGE, file, images_of, quiet, request

GIB = 1 << 30


@pytest.fixture
def images(cluster: Pve, tmp_path: Path) -> Images:
    return images_of(cluster, tmp_path)


def template(server: Proxmox, vmid: int, node: str = "pve1", name: str = "debian", storage: str = "local-lvm") -> None:
    """A template of somebody."""
    volume = f"{storage}:base-{vmid}-disk-0"
    server.world.storage(storage).on(node)[volume] = Volume(volume, "images", "raw", 8 * GIB, vmid=vmid)
    vm(server, vmid, node, name=name, template="1", scsi0=f"{volume},size=8G", boot="order=scsi0")


def by_name(name: str, **more: Any) -> v1.PrepareImageRequest:
    return request(template=v1.TemplateSource(name=name, **more))


async def test_a_template_of_somebody_is_looked_up(pve: Proxmox, tmp_path: Path) -> None:
    """By name or VMID; nothing is written down about it, and nothing of it is removed."""
    template(pve, 100)
    template(pve, 101, "pve2", "other")
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        for wish in (by_name("100"), by_name("debian"), by_name("debian", node="pve1")):
            image = await images.prepare(wish, quiet)
            assert image.virtual_size_bytes == 8 * GIB
            assert await images.get(image.id) == image
            assert await images.all() == []
            await images.delete(image.id)
            source = await images.resolve(image.id, "test")
            assert (source.kind, source.vmid, source.node, source.linked) == ("template", 100, "pve1", False)
            assert source.nodes == {"pve1"}  # its disk is local there
            assert source.disks == {"scsi0": 8 * GIB}
        assert 100 in pve.world.guests


async def test_ambiguous_names_list_the_candidates(pve: Proxmox, tmp_path: Path) -> None:
    for vmid, node in ((100, "pve1"), (101, "pve2")):
        template(pve, vmid, node)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        with pytest.raises(InvalidSpecError, match="100 on pve1, 101 on pve2"):
            await images.prepare(by_name("debian"), quiet)
        image = await images.prepare(by_name("debian", node="pve2"), quiet)
        assert (await images.resolve(image.id, "test")).vmid == 101


async def test_a_name_that_is_a_number_is_a_vmid_first(pve: Proxmox, tmp_path: Path) -> None:
    template(pve, 100)
    template(pve, 101, name="100")
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        image = await images_of(cluster, tmp_path).prepare(by_name("100"), quiet)
        assert (await images_of(cluster, tmp_path).resolve(image.id, "test")).vmid == 100


async def test_a_machine_is_no_template(pve: Proxmox, tmp_path: Path) -> None:
    vm(pve, 100, name="debian")
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        for wish in (by_name("100"), by_name("debian"), by_name("missing")):
            with pytest.raises(ImageNotFoundError):
                await images.prepare(wish, quiet)
            assert await images.get(images.check(wish)) is None


@pytest.mark.parametrize(("linked", "storage", "expected"), [(True, "", True), (True, "local-lvm", True),
                                                           (True, "shared", False), (False, "", False)])  # fmt: skip
async def test_linked_where_the_storage_can(
    pve: Proxmox, tmp_path: Path, linked: bool, storage: str, expected: bool
) -> None:
    template(pve, 100)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        image = await images.prepare(by_name("100", linked=linked), quiet)
        assert (await images.resolve(image.id, "test", storage=storage)).linked is expected


async def test_thick_lvm_only_copies(pve: Proxmox, tmp_path: Path) -> None:
    pve.world.storages["local-lvm"].kind = "lvm"
    template(pve, 100)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        image = await images.prepare(by_name("100", linked=True), quiet)
        assert not (await images.resolve(image.id, "test")).linked


# -- volumes ---------------------------------------------------------------------------------------------------------


def volume(server: Proxmox, volid: str, content: str, format: str, tmp_path: Path, node: str = "pve1") -> None:
    path = tmp_path / f"{uuid.uuid4().hex}.img"
    path.write_bytes(IMAGE)
    storage = server.world.storage(volid.partition(":")[0])
    storage.on(node)[volid] = Volume(volid, content, format, len(IMAGE), used=len(IMAGE), file=path)


async def test_a_volume_is_imported_where_it_is(pve: Proxmox, images: Images, tmp_path: Path) -> None:
    for node in ("pve2", "pve3"):
        volume(pve, "local:import/small.qcow2", "import", "qcow2", tmp_path, node)
    wish = request(file=v1.FileSource(path="local:import/small.qcow2"))
    image = await images.prepare(wish, quiet)
    assert (image.virtual_size_bytes, image.format) == (CAPACITY, "qcow2")
    source = await images.resolve(image.id, "test", node="pve3")
    assert (source.kind, source.volume, source.node) == ("volume", "local:import/small.qcow2", "pve3")
    assert source.nodes == {"pve2", "pve3"}
    assert list(source.disks.values()) == [CAPACITY]
    await images.delete(image.id)
    assert await images.get(image.id) == image


async def test_a_backup_is_restored(pve: Proxmox, images: Images, tmp_path: Path) -> None:
    archive = "shared:backup/vzdump-qemu-101-2026_01_01-00_00_00.vma.zst"
    volume(pve, archive, "backup", "vma.zst", tmp_path)
    image = await images.prepare(request(file=v1.FileSource(path=archive)), quiet)
    source = await images.resolve(image.id, "test")
    assert (source.kind, source.volume, source.nodes) == ("archive", archive, {"pve1", "pve2", "pve3"})


async def test_a_volume_that_is_not_there(images: Images) -> None:
    for path in ("local:import/missing.qcow2", "shared:import/missing.qcow2", "nowhere:import/missing.qcow2"):
        wish = request(file=v1.FileSource(path=path))
        with pytest.raises(ImageNotFoundError, match=path.partition(":")[0]):
            await images.prepare(wish, quiet)
        assert await images.get(images.check(wish)) is None


# -- who stands on it ------------------------------------------------------------------------------------------------


async def test_an_image_in_use_names_every_machine(pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path) -> None:
    image = await images.prepare(file(tmp_path, IMAGE), quiet)
    source = await images.resolve(image.id, "test")
    uids = [str(uuid.uuid4()) for _ in range(2)]
    for vmid, uid in zip((101, 102), uids, strict=True):
        mark = stamp.of(v1.MachineIdentity(uid=uid, namespace="shop", name=f"m{vmid}", owner="tests"), vmid, created=1)
        order = {"newid": vmid, "full": False, "description": stamp.written("", mark)}
        await cluster.run("test", "POST", f"nodes/{source.node}/qemu/{source.vmid}/clone", order)
        await cluster.refresh(vmid, "test", node=source.node)
    with pytest.raises(ImageInUseError) as refusal:
        await images.delete(image.id)
    assert all(uid in str(refusal.value) for uid in uids)
    assert await images.get(image.id) == image
    for vmid in (101, 102):
        await cluster.run("test", "DELETE", f"nodes/{source.node}/qemu/{vmid}", {})
        await cluster.refresh(vmid, "test")
    await images.delete(image.id)
    assert await images.get(image.id) is None


async def test_proxmox_itself_refuses_what_we_have_not_heard_of(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path
) -> None:
    """A clone that somebody made a moment ago is in no index yet."""
    image = await images.prepare(file(tmp_path, IMAGE), quiet)
    source = await images.resolve(image.id, "test")
    await cluster.run("test", "POST", f"nodes/{source.node}/qemu/{source.vmid}/clone", {"newid": 101, "full": False})
    cluster.index.guests.pop(101, None)
    with pytest.raises(ImageInUseError):
        await images.delete(image.id)
    assert await images.get(image.id) == image


async def test_images_of_another_installation_are_not_ours(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path
) -> None:
    image = await images.prepare(file(tmp_path, IMAGE), quiet)
    builder = Builder(cluster, owner="another", ids=range(9000, 9100))
    importer = Importer(cluster, Fetcher(cluster), builder, SystemClock(), owner="another")
    others = Images(cluster, builder, importer, owner="another")
    assert (await others.all(), await others.get(image.id)) == ([], None)
    await others.delete(image.id)
    assert await images.get(image.id) == image


async def test_a_copy_of_a_template_is_no_image(pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path) -> None:
    """It brings the stamp along, under another VMID."""
    image = await images.prepare(file(tmp_path, IMAGE), quiet)
    source = await images.resolve(image.id, "test")
    order = {"newid": 101, "full": True}
    await cluster.run("test", "POST", f"nodes/{source.node}/qemu/{source.vmid}/clone", order)
    await cluster.run("test", "POST", f"nodes/{source.node}/qemu/101/template", {})
    await cluster.refresh(101, "test", node=source.node)
    assert [each.id for each in await images.all()] == [image.id]
    await images.delete(image.id)
    assert (await images.get(image.id), list(pve.world.guests)) == (None, [101])


# -- local storages --------------------------------------------------------------------------------------------------


async def test_a_template_on_a_local_storage_is_copied_once_to_another_node(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path
) -> None:
    image = await images.prepare(file(tmp_path, IMAGE, storage="local-lvm"), quiet)
    first = await images.resolve(image.id, "test")
    other = next(node for node in ("pve1", "pve2", "pve3") if node != first.node)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(images.resolve(image.id, "test", node=other)) for _ in range(5)]
    found = [task.result() for task in asked]
    assert {(source.node, source.linked, source.nodes) for source in found} == {(other, True, frozenset({other}))}
    assert len({source.vmid for source in found} | {first.vmid}) == 2
    assert (await images.resolve(image.id, "test", node=other)).vmid == found[0].vmid
    assert (await images.resolve(image.id, "test", node=first.node)).vmid == first.vmid
    assert [each.id for each in await images.all()] == [image.id]
    assert await images.get(image.id) == image
    await images.delete(image.id)
    assert pve.world.guests == {}


@pytest.mark.parametrize("point", ["cloned", "moved"])
async def test_a_copy_that_broke_off_is_gone_on_with(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path, point: str
) -> None:
    image = await images.prepare(file(tmp_path, IMAGE, storage="local-lvm"), quiet)
    first = await images.resolve(image.id, "test")
    other = next(node for node in ("pve1", "pve2", "pve3") if node != first.node)
    with faults.FaultPlan().raises(f"proxmox.image.{point}").installed(), pytest.raises(faults.InjectedFaultError):
        await images.resolve(image.id, "test", node=other)
    left = set(pve.world.guests) - {first.vmid}
    assert await images.get(image.id) == image  # the first one is as good as before
    assert {(await images.resolve(image.id, "test", node=other)).vmid} == left


async def test_a_template_of_somebody_is_copied_nowhere(pve: Proxmox, tmp_path: Path) -> None:
    template(pve, 100)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        image = await images.prepare(by_name("100"), quiet)
        with pytest.raises(NotSupportedError, match="local to node pve1"):
            await images.resolve(image.id, "test", node="pve2")
