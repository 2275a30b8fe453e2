"""Templates made from packages, on a simulated vCenter."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from common import faults, v1
from common.clock import SystemClock
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    DownloadFailedError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
)
from provider_vsphere import machines
from provider_vsphere.content.nfc import Nfc
from provider_vsphere.images.images import Images
from provider_vsphere.images.importing import Importer
from provider_vsphere.places import Defaults, Places
from provider_vsphere.session.login import Endpoint
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import imagestamp
from providerkit import fetch
from pyVmomi import vim
from simulators import ovas

from .conftest import OWNER, eventually
from .test_images import quiet, request


def nfc_of(vsphere: Vsphere) -> Nfc:
    return Nfc(vsphere, Transfers(vsphere.endpoint), SystemClock())


def images_of(vsphere: Vsphere, directory: Path, **settings: Any) -> Images:
    places = Places(vsphere.tree, Defaults(cluster="DC0_C0"))
    importer = Importer(
        vsphere, places, nfc_of(vsphere), SystemClock(), owner=OWNER, directories=[directory], **settings
    )
    return Images(vsphere, places, importer, owner=OWNER)


@pytest.fixture
async def images(vsphere: Vsphere, tmp_path: Path) -> Images:
    async with asyncio.timeout(30):
        await vsphere.wait_connected()
    return images_of(vsphere, tmp_path)


def file(directory: Path, data: bytes, name: str = "small.ova", **source: Any) -> v1.PrepareImageRequest:
    (directory / name).write_bytes(data)
    return request(file=v1.FileSource(path=name), **source)


def stamped(vsphere: Vsphere, image_id: str) -> list[Entity]:
    return vsphere.tree.with_uuid(imagestamp.instance_uuid(image_id))


async def wait_gone(vsphere: Vsphere, image_id: str) -> None:
    """Nothing is left of an image; vSphere may have removed it by itself, and tells so in a moment."""
    async with asyncio.timeout(10):
        await eventually(
            lambda: not stamped(vsphere, image_id),
            lambda: vsphere.call("look at the clock", lambda login: login.instance.CurrentTime()),
        )


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
async def test_an_ova_becomes_a_template_of_ours(
    vsphere: Vsphere, images: Images, tmp_path: Path, algorithm: str
) -> None:
    data = ovas.ova(algorithm=algorithm)
    wish = file(tmp_path, data)
    seen: list[float] = []
    image = await images.prepare(wish, lambda done, _step: seen.append(done))
    assert image.source_digest == hashlib.sha256(data).hexdigest()
    assert image.virtual_size_bytes == ovas.CAPACITY
    assert image.size_bytes == len(ovas.vmdk())
    assert (image.uid, image.namespace, image.name) == (wish.uid, "lab", "small")
    assert seen == sorted(seen)
    assert await images.get(image.id) == image
    assert await images.prepare(wish, quiet) == image
    assert [each.id for each in await images.all()].count(image.id) == 1
    [entity] = stamped(vsphere, image.id)
    assert entity.facts["config.template"]
    assert (await images.source(image.id)).entity is entity
    await images.delete(image.id)
    assert stamped(vsphere, image.id) == []


async def test_a_template_of_ours_has_no_nic(vsphere: Vsphere, images: Images, tmp_path: Path) -> None:
    """It would sit on a network that nobody chose."""
    image = await images.prepare(file(tmp_path, ovas.ova()), quiet)
    present = (await images.source(image.id)).devices
    assert any(isinstance(each, vim.vm.device.VirtualDisk) for each in present)
    assert not any(isinstance(each, vim.vm.device.VirtualEthernetCard) for each in present)


async def test_a_template_tells_what_its_guest_asks_for(images: Images, tmp_path: Path) -> None:
    image = await images.prepare(file(tmp_path, ovas.ova(properties=("user-data", "hostname"))), quiet)
    assert [each.id for each in (await images.source(image.id)).properties] == ["user-data", "hostname"]


async def test_an_ovf_is_fetched_with_the_files_beside_it(vsphere: Vsphere, images: Images, tmp_path: Path) -> None:
    for name, data in ovas.package().items():
        (tmp_path / name).write_bytes(data)
    image = await images.prepare(request(file=v1.FileSource(path=ovas.DESCRIPTOR)), quiet)
    assert image.virtual_size_bytes == ovas.CAPACITY
    assert image.source_digest == hashlib.sha256(ovas.package()[ovas.DESCRIPTOR]).hexdigest()


async def test_an_ovf_at_a_url_is_fetched_with_the_files_beside_it(vsphere: Vsphere, tmp_path: Path) -> None:
    """All of them from the same place and with the same headers; its descriptor alone is what a checksum is of."""
    images = images_of(vsphere, tmp_path, policy=fetch.Policy(["127.0.0.1"]))
    package = ovas.package()
    asked: list[tuple[str, str]] = []

    async def serve(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        asked.append((name, request.headers.get("Authorization", "")))
        return web.Response(body=package[name]) if name in package else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/images/{name}", serve)
    async with TestServer(app, host="127.0.0.1") as server:
        url = v1.UrlSource(
            url=str(server.make_url(f"/images/{ovas.DESCRIPTOR}")), headers={"Authorization": "Bearer canary"}
        )
        digest = hashlib.sha256(package[ovas.DESCRIPTOR]).hexdigest()
        checksum = v1.Checksum(algorithm="sha256", digest=digest)
        image = await images.prepare(request(url=url, checksum=checksum), quiet)
        assert (image.virtual_size_bytes, image.source_digest) == (ovas.CAPACITY, digest)
        assert {name for name, _ in asked} == set(package)
        assert {header for _, header in asked} == {"Bearer canary"}
        package.pop(ovas.DISK)
        with pytest.raises(DownloadFailedError, match=ovas.DISK):
            await images.prepare(request(url=url), quiet)
    assert [each.id for each in await images.all() if each.location.startswith("image-lab-")].count(image.id) == 1


@pytest.mark.parametrize("kind", ["vmdk", "raw"])
async def test_a_lone_disk_becomes_a_template_with_it(
    vsphere: Vsphere, images: Images, tmp_path: Path, kind: str
) -> None:
    data = ovas.vmdk() if kind == "vmdk" else b"boot" * (ovas.CAPACITY // 4)
    image = await images.prepare(file(tmp_path, data, f"disk.{kind}", format=kind), quiet)
    assert image.virtual_size_bytes == ovas.CAPACITY
    [entity] = stamped(vsphere, image.id)
    assert not machines.is_machine(entity)
    assert entity.facts["config.template"]


def broken() -> dict[str, tuple[bytes, type[Exception], str]]:
    whole, disk = ovas.package(), ovas.vmdk()
    flat = bytearray(disk)
    flat[0:4] = b"COWD"
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><Envelope>&b;</Envelope>'
    outside = b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Envelope/>'
    huge = ovas.descriptor(len(disk), capacity=1 << 60)
    up = ovas.descriptor(len(disk), disk="../../etc/passwd")
    other = {ovas.DESCRIPTOR: whole[ovas.DESCRIPTOR], ovas.DISK: ovas.vmdk(b"other")}
    cut = ovas.descriptor(len(disk) - 512)
    return {
        "empty": (b"", BrokenImageError, "empty"),
        "no tar": (b"\0" * 4096, BrokenImageError, "no known format"),
        "cut tar": (ovas.tar(whole)[:-12000], BrokenImageError, "cut off|ends in the middle"),
        "end mark missing": (ovas.tar(whole)[:-10240], BrokenImageError, "ends in the middle|cut off"),
        "wrong digest": (ovas.tar(whole | {ovas.DISK: other[ovas.DISK]}), ChecksumMismatchError, "manifest promises"),
        "wrong digest, manifest last": (
            ovas.tar(other | {ovas.MANIFEST: whole[ovas.MANIFEST]}), ChecksumMismatchError, "manifest promises",
        ),
        "no descriptor": (ovas.tar({ovas.DISK: disk}), BrokenImageError, "begins with"),
        "no disk": (ovas.tar({ovas.DESCRIPTOR: whole[ovas.DESCRIPTOR]}), BrokenImageError, "not in the package"),
        "a disk of another kind": (
            ovas.tar({ovas.DESCRIPTOR: whole[ovas.DESCRIPTOR], ovas.DISK: bytes(flat)}), BrokenImageError, "VMDK",
        ),
        "half a disk": (
            ovas.tar({ovas.DESCRIPTOR: cut, ovas.DISK: disk[:-512]}), BrokenImageError, "ends too early",
        ),
        "entity bomb": (ovas.tar({ovas.DESCRIPTOR: bomb}), BrokenImageError, "document type"),
        "external entity": (ovas.tar({ovas.DESCRIPTOR: outside}), BrokenImageError, "document type"),
        "huge disk": (ovas.tar({ovas.DESCRIPTOR: huge, ovas.DISK: disk}), BrokenImageError, "TiB"),
        "path upwards": (ovas.tar({ovas.DESCRIPTOR: up}), BrokenImageError, "beside the descriptor"),
        "flat vmdk": (bytes(flat), BrokenImageError, "streamOptimized"),
        "qcow2": (b"QFI\xfb" + bytes(600), NotSupportedError, "subformat=streamOptimized"),
        "gzip": (b"\x1f\x8b" + bytes(600), NotSupportedError, "unpack"),
        "page": (b"<!DOCTYPE html><html>" + bytes(600), BrokenImageError, "web page"),
    }  # fmt: skip


@pytest.mark.parametrize("case", broken())
async def test_P10_what_is_broken_leaves_nothing(vsphere: Vsphere, images: Images, tmp_path: Path, case: str) -> None:
    data, error, complaint = broken()[case]
    wish = file(tmp_path, data)
    with pytest.raises(error, match=complaint):
        await images.prepare(wish, quiet)
    await wait_gone(vsphere, images.check(wish))
    assert await images.get(images.check(wish)) is None


async def test_what_vsphere_holds_against_a_package_is_told(vsphere: Vsphere, images: Images, tmp_path: Path) -> None:
    items = "".join(
        f"<Item><rasd:ElementName>{name}</rasd:ElementName><rasd:InstanceID>{key}</rasd:InstanceID>"
        "<rasd:ResourceType>99</rasd:ResourceType></Item>"
        for key, name in ((97, "flux capacitor"), (98, "warp core"))
    )
    package = {ovas.DESCRIPTOR: ovas.descriptor(len(ovas.vmdk()), extra=items), ovas.DISK: ovas.vmdk()}
    wish = file(tmp_path, ovas.tar(package))
    with pytest.raises(NotSupportedError, match="flux capacitor") as refusal:
        await images.prepare(wish, quiet)
    assert "warp core" in str(refusal.value)
    assert stamped(vsphere, images.check(wish)) == []


async def test_P10_a_wrong_checksum_leaves_nothing(vsphere: Vsphere, images: Images, tmp_path: Path) -> None:
    wish = file(tmp_path, ovas.ova(), checksum=v1.Checksum(algorithm="sha512", digest="0" * 128))
    with pytest.raises(ChecksumMismatchError, match="was promised"):
        await images.prepare(wish, quiet)
    await wait_gone(vsphere, images.check(wish))


async def test_W39_a_template_of_the_same_name_is_not_the_image(images: Images, tmp_path: Path) -> None:
    """Two objects declare images of one name: each gets a template of its own."""
    first = await images.prepare(file(tmp_path, ovas.ova()), quiet)
    second = await images.prepare(file(tmp_path, ovas.ova()), quiet)
    assert first.id != second.id
    assert first.location != second.location


async def test_W40_a_changed_source_is_another_image(images: Images, tmp_path: Path) -> None:
    wish = file(tmp_path, ovas.ova())
    first = await images.prepare(wish, quiet)
    digest = hashlib.sha256(ovas.ova()).hexdigest()
    wish.source = v1.ImageSource(
        file=v1.FileSource(path="small.ova"), checksum=v1.Checksum(algorithm="sha256", digest=digest)
    )
    assert (await images.prepare(wish, quiet)).id != first.id


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({"url": v1.UrlSource(url="http://169.254.169.254/x.ova")}, InvalidSpecError),
        ({"url": v1.UrlSource(url="ftp://images.example/x.ova")}, InvalidSpecError),
        ({"file": v1.FileSource(path="x.ova"), "format": "qcow2"}, InvalidSpecError),
        ({"registry": v1.RegistrySource(image="a/b:c")}, NotSupportedError),
        ({"template": v1.TemplateSource(name="a"), "checksum": v1.Checksum("sha256", "0" * 64)}, InvalidSpecError),
    ],
)
def test_P10_W41_a_source_that_can_never_work_says_so(
    tmp_path: Path, source: dict[str, Any], error: type[Exception]
) -> None:
    images = images_of(Vsphere(Endpoint("https://vc.example/sdk"), clock=SystemClock()), tmp_path)
    with pytest.raises(error, match=r"source"):
        images.check(request(**source))


async def test_a_file_outside_of_the_directories_is_refused(images: Images) -> None:
    with pytest.raises(InvalidSpecError, match="outside"):
        await images.prepare(request(file=v1.FileSource(path="/etc/passwd")), quiet)
    with pytest.raises(ImageNotFoundError, match=r"nowhere\.ova"):
        await images.prepare(request(file=v1.FileSource(path="nowhere.ova")), quiet)


# -- interrupted -------------------------------------------------------------------------------------------------------


async def held(images: Images, wish: v1.PrepareImageRequest, point: str) -> asyncio.Future[v1.Image]:
    """An import that has come to this point, and goes no further."""
    reached = asyncio.Event()

    def strike(_: str) -> object:
        reached.set()
        return asyncio.Event().wait()

    with faults.FaultPlan().does(point, strike).installed():
        attempt = asyncio.ensure_future(images.prepare(wish, quiet))
        async with asyncio.timeout(20):
            await reached.wait()
    return attempt


POINTS = ["vsphere.image.imported", "vsphere.image.uploaded", "vsphere.image.sealed"]


@pytest.mark.parametrize("point", POINTS)
async def test_W40_an_interrupted_import_is_seen_by_nobody_and_replaced(
    vsphere: Vsphere, tmp_path: Path, point: str
) -> None:
    """Nothing was tidied: what is left is neither an image nor a machine, and the next attempt replaces it."""
    async with asyncio.timeout(30):
        await vsphere.wait_connected()
    images = images_of(vsphere, tmp_path)
    wish = file(tmp_path, ovas.ova())
    attempt = await held(images, wish, point)
    [half] = stamped(vsphere, images.check(wish))
    assert not machines.is_machine(half)
    assert await images.get(images.check(wish)) is None
    images_after = images_of(vsphere, tmp_path)
    image = await images_after.prepare(wish, quiet)
    [entity] = stamped(vsphere, image.id)
    assert entity.moid != half.moid
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert await images.get(image.id) == image


async def test_a_cancelled_import_leaves_nothing(vsphere: Vsphere, images: Images, tmp_path: Path) -> None:
    wish = file(tmp_path, ovas.ova())
    attempt = await held(images, wish, "vsphere.image.imported")
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await wait_gone(vsphere, images.check(wish))
