"""Templates made of image files, on a simulated cluster."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    HostFullError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
    ResourceNotFoundError,
)
from provider_proxmox.images import templates
from provider_proxmox.images.building import Builder
from provider_proxmox.images.fetching import Fetcher
from provider_proxmox.images.images import Images
from provider_proxmox.images.importing import Importer
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from providerkit.fetch import Policy
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call
from simulators.proxmox.errors import PveError
from simulators.proxmox.images import convert, qcow2, vmdk

from .conftest import OWNER, connected, credentials_of

MIB = 1 << 20
CAPACITY = 64 * MIB
IMAGE = qcow2(CAPACITY) + bytes(range(256)) * 4096
IDS = range(9000, 9100)


def images_of(cluster: Pve, directory: Path, *, policy: Policy | None = None, **settings: Any) -> Images:
    fetching = {key: settings.pop(key) for key in ("limit", "by_node") if key in settings}
    fetcher = Fetcher(
        cluster, directories=[directory], policy=policy or Policy(["127.0.0.1"]), spool=directory, **fetching
    )
    builder = Builder(cluster, owner=OWNER, ids=settings.pop("ids", IDS))
    importer = Importer(cluster, fetcher, builder, SystemClock(), owner=OWNER, **settings)
    return Images(cluster, builder, importer, owner=OWNER)


def request(storage: str = "", **source: Any) -> v1.PrepareImageRequest:
    return v1.PrepareImageRequest(
        uid=str(uuid.uuid4()), namespace="lab", name="small", storage=storage, source=v1.ImageSource(**source)
    )


def file(directory: Path, data: bytes, name: str = "small.qcow2", storage: str = "", **source: Any):  # type: ignore[no-untyped-def]
    (directory / name).write_bytes(data)
    return request(storage, file=v1.FileSource(path=name), **source)


def sha256(data: bytes) -> v1.Checksum:
    return v1.Checksum(algorithm="sha256", digest=hashlib.sha256(data).hexdigest())


def quiet(_done: float, _phase: str) -> None:
    """Nobody looks."""


def imports(server: Proxmox) -> list[str]:
    """Files in any import storage."""
    return [
        volume.volid
        for storage in server.world.storages.values()
        for there in storage.volumes.values()
        for volume in there.values()
        if volume.content == "import"
    ]


def stamped(cluster: Pve, image_id: str) -> list[Guest]:
    return templates.of_image(cluster.index, OWNER, image_id)


@asynccontextmanager
async def serving(
    data: bytes, *, chunked: bool = False, name: str = "small.qcow2"
) -> AsyncIterator[tuple[str, list[str]]]:
    """A web server with one file; its URL, and who asked for it: user agents."""
    asked: list[str] = []

    async def answer(asking: web.Request) -> web.StreamResponse:
        asked.append(asking.headers.get("User-Agent", ""))
        if asking.headers.get("X-Token", "") not in ("", "secret"):
            raise web.HTTPForbidden
        if not chunked:
            return web.Response(body=data, content_type="application/octet-stream")
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.enable_chunked_encoding()
        await response.prepare(asking)
        for start in range(0, len(data), MIB):
            await response.write(data[start : start + MIB])
        return response

    app = web.Application()
    app.router.add_get(f"/{name}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url(f"/{name}")), asked


@pytest.fixture
def images(cluster: Pve, tmp_path: Path) -> Images:
    return images_of(cluster, tmp_path)


async def test_P23_a_file_becomes_a_template_of_ours(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path
) -> None:
    wish = file(tmp_path, IMAGE)
    seen: list[float] = []
    image = await images.prepare(wish, lambda done, _phase: seen.append(done))
    assert image.source_digest == hashlib.sha256(IMAGE).hexdigest()
    assert (image.virtual_size_bytes, image.size_bytes, image.format) == (CAPACITY, len(IMAGE), "qcow2")
    assert (image.uid, image.namespace, image.name) == (wish.uid, "lab", "small")
    assert seen == sorted(seen)
    assert await images.get(image.id) == image
    assert await images.prepare(wish, quiet) == image
    assert [each.id for each in await images.all()] == [image.id]
    [guest] = stamped(cluster, image.id)
    assert guest.vmid in IDS
    assert not [key for key in guest.config if key.startswith("net")]
    assert imports(pve) == []
    source = await images.resolve(image.id, "test")
    assert (source.kind, source.vmid, source.linked, source.storage) == ("template", guest.vmid, True, "shared")
    assert source.disks == {"scsi0": CAPACITY}
    assert source.nodes == {"pve1", "pve2", "pve3"}
    for _ in range(2):
        await images.delete(image.id)
    assert await images.get(image.id) is None
    assert (stamped(cluster, image.id), pve.world.guests) == ([], {})


async def test_content_arrives_as_it_was(pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path) -> None:
    data = bytes(3 * MIB) + b"end".ljust(512, b".")
    image = await images.prepare(file(tmp_path, data, "small.img"), quiet)
    assert (image.format, image.virtual_size_bytes) == ("raw", len(data))
    [guest] = stamped(cluster, image.id)
    first = templates.first_disk(guest)
    assert first is not None
    volume = pve.world.volume(first.volume, guest.node)
    assert volume is not None
    assert volume.file is not None
    there = tmp_path / "there.raw"
    await convert(volume.file, there, "raw")
    assert there.read_bytes()[: len(data)] == data


async def test_a_vmdk_that_stands_alone_is_taken(images: Images, tmp_path: Path) -> None:
    image = await images.prepare(file(tmp_path, vmdk(CAPACITY), "small.vmdk", format="vmdk"), quiet)
    assert (image.format, image.virtual_size_bytes) == ("vmdk", CAPACITY)
    assert image.source_digest == hashlib.sha256(vmdk(CAPACITY)).hexdigest()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_url_is_fetched_with_its_headers(images: Images, chunked: bool) -> None:
    """Also from a server that does not say how long the file is."""
    async with serving(IMAGE, chunked=chunked) as (url, _):
        source = v1.UrlSource(url=url, headers={"X-Token": "secret"})
        image = await images.prepare(request(url=source, checksum=sha256(IMAGE)), quiet)
        assert image.source_digest == hashlib.sha256(IMAGE).hexdigest()
        with pytest.raises(DownloadFailedError, match="403"):
            await images.prepare(request(url=v1.UrlSource(url=url, headers={"X-Token": "other"})), quiet)


async def test_a_node_fetches_what_it_can_verify(pve: Proxmox, cluster: Pve, tmp_path: Path) -> None:
    """Then nothing of it passes through here."""
    images = images_of(cluster, tmp_path, by_node=True)
    async with serving(IMAGE) as (url, _):
        image = await images.prepare(request(url=v1.UrlSource(url=url), checksum=sha256(IMAGE)), quiet)
        assert image.source_digest == hashlib.sha256(IMAGE).hexdigest()
        assert image.size_bytes == len(IMAGE)
        asked = pve.counted()
        assert asked["POST /nodes/{node}/storage/{storage}/download-url"] == 1
        assert asked["POST /nodes/{node}/storage/{storage}/upload"] == 0
        wrong = request(url=v1.UrlSource(url=url), checksum=v1.Checksum("sha256", "0" * 64))
        with pytest.raises(ChecksumMismatchError):
            await images.prepare(wrong, quiet)
        assert imports(pve) == []


@pytest.mark.parametrize("route", ["query-url-metadata", "download-url"])
async def test_what_a_node_cannot_fetch_passes_through_here(
    pve: Proxmox, cluster: Pve, tmp_path: Path, route: str
) -> None:
    """It lacks the privilege, or its way to the server."""

    def refuse(call: Call) -> None:
        if route in call.request.path:
            raise PveError(403, "Permission check failed (/nodes/pve1, Sys.AccessNetwork)")

    pve.checks.append(refuse)
    async with serving(IMAGE) as (url, _):
        wish = request(url=v1.UrlSource(url=url), checksum=sha256(IMAGE))
        image = await images_of(cluster, tmp_path, by_node=True).prepare(wish, quiet)
    assert image.source_digest == hashlib.sha256(IMAGE).hexdigest()
    assert imports(pve) == []


async def test_what_a_node_may_not_fetch_passes_through_here(pve: Proxmox, cluster: Pve, tmp_path: Path) -> None:
    """It has no checksum to verify, or needs a header; or the node is not allowed to, or cannot reach it."""
    images = images_of(cluster, tmp_path, by_node=True)
    async with serving(IMAGE) as (url, _):
        await images.prepare(request(url=v1.UrlSource(url=url)), quiet)
        source = v1.UrlSource(url=url, headers={"X-Token": "secret"})
        await images.prepare(request(url=source, checksum=sha256(IMAGE)), quiet)
        assert pve.counted()["POST /nodes/{node}/storage/{storage}/download-url"] == 0


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "source", "error"),
    [
        (b"", {}, BrokenImageError),
        (b"<html>not found</html>".ljust(512), {}, BrokenImageError),
        (IMAGE, {"format": "raw"}, BrokenImageError),
        (b"\x1f\x8b" + bytes(510), {}, BrokenImageError),
        (bytes(100), {}, BrokenImageError),
        (IMAGE, {"format": "vmdk"}, BrokenImageError),
        (vmdk(CAPACITY), {"format": "qcow2"}, BrokenImageError),
        (vmdk(CAPACITY).replace(b"ffffffff", b"0badcafe"), {}, BrokenImageError),
        (vmdk(CAPACITY).replace(b"SPARSE", b"FLAT  "), {}, BrokenImageError),
        (vmdk(CAPACITY).replace(b"monolithicSparse", b"vmfsRawDeviceMap"), {}, BrokenImageError),
        (vmdk(CAPACITY)[:100], {}, BrokenImageError),
        (IMAGE, {"checksum": v1.Checksum("sha256", "0" * 64)}, ChecksumMismatchError),
        (IMAGE, {"checksum": v1.Checksum("md5", "0" * 32)}, ChecksumMismatchError),
    ],
)
async def test_what_is_not_right_is_not_kept(
    pve: Proxmox, images: Images, tmp_path: Path, data: bytes, source: dict[str, Any], error: type[ProviderError]
) -> None:
    with pytest.raises(error):
        await images.prepare(file(tmp_path, data, **source), quiet)
    assert (imports(pve), pve.world.guests, await images.all()) == ([], {}, [])


async def test_sources_that_can_never_work(images: Images, tmp_path: Path) -> None:
    for wish, error in (
        (request(url=v1.UrlSource(url="http://10.0.0.1/x.qcow2")), InvalidSpecError),
        (request(url=v1.UrlSource(url="http://127.0.0.1/x.ova")), NotSupportedError),
        (file(tmp_path, IMAGE, format="vhdx"), InvalidSpecError),
        (request(registry=v1.RegistrySource(image="x")), NotSupportedError),
        (request(library=v1.LibrarySource(library="x", item="y")), NotSupportedError),
    ):
        with pytest.raises(error, match="source"):
            images.check(wish)
    with pytest.raises(ImageNotFoundError):
        await images.prepare(request(file=v1.FileSource(path="missing.qcow2")), quiet)


async def test_no_room_and_no_place(pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path) -> None:
    pve.world.storages["shared"].total = 0
    with pytest.raises(HostFullError):
        await images.prepare(file(tmp_path, IMAGE, storage="shared"), quiet)
    assert (imports(pve), pve.world.guests) == ([], {})
    with pytest.raises(ResourceNotFoundError, match="nowhere"):
        await images.prepare(file(tmp_path, IMAGE, storage="nowhere"), quiet)
    with pytest.raises(ResourceNotFoundError, match="set import_storage"):
        await images_of(cluster, tmp_path, import_storage="local-lvm").prepare(file(tmp_path, IMAGE), quiet)


async def test_a_taken_vmid_is_passed_over(pve: Proxmox, cluster: Pve, tmp_path: Path) -> None:
    """Also one that was taken a moment ago, and that we have not heard of yet."""
    images = images_of(cluster, tmp_path, ids=range(9000, 9003))

    def take(_point: str) -> None:
        for vmid in (9000, 9001):
            pve.world.add_guest(vmid, "pve2", {"name": "somebody"})

    plan = faults.FaultPlan().does("proxmox.image.fetched", take)
    with plan.installed():
        image = await images.prepare(file(tmp_path, IMAGE), quiet)
    assert [guest.vmid for guest in stamped(cluster, image.id)] == [9002]
    with pytest.raises(HostFullError, match="every VMID from 9000 to 9002"):
        await images.prepare(file(tmp_path, IMAGE), quiet)
    assert imports(pve) == []


# -- killed half-way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["fetched", "imported", "converted"])
async def test_an_import_that_was_killed_is_gone_on_with_or_cleared(pve: Proxmox, tmp_path: Path, point: str) -> None:
    """The line is cut there and then, so that nothing can be tidied up: as if the process had died."""
    wish = file(tmp_path, IMAGE)

    async def cut() -> None:
        await pve.down(0)
        raise DownloadFailedError("killed")

    plan = faults.FaultPlan().does(f"proxmox.image.{point}", lambda _: cut())
    async with connected(pve, credentials_of(pve, tmp_path / "first")) as cluster:
        with plan.installed(), pytest.raises(DownloadFailedError, match="killed"):
            await images_of(cluster, tmp_path).prepare(wish, quiet)
    await pve.up(0)
    assert imports(pve) != []
    async with connected(pve, credentials_of(pve, tmp_path / "second")) as cluster:
        images = images_of(cluster, tmp_path)
        assert (await images.get(images.check(wish)) is not None) == (point == "converted")
        image = await images.prepare(wish, quiet)
        assert len(stamped(cluster, image.id)) == len(pve.world.guests) == 1
        await images.delete(image.id)
    assert (imports(pve), pve.world.guests) == ([], {})


async def test_what_another_provider_converts_meanwhile_is_ready(
    pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path
) -> None:
    """It found the guest with its disk and went on with it: that is no fault of the image."""

    async def convert(_: str) -> None:
        (vmid,) = pve.world.guests
        await cluster.run("convert", "POST", f"{cluster.index.guests[vmid].path}/template", {})

    with faults.FaultPlan().does("proxmox.image.imported", convert).installed():
        image = await images.prepare(file(tmp_path, IMAGE), quiet)
    assert len(stamped(cluster, image.id)) == len(pve.world.guests) == 1
    assert imports(pve) == []


async def test_what_is_cancelled_leaves_nothing(pve: Proxmox, cluster: Pve, images: Images, tmp_path: Path) -> None:
    for point in ("fetched", "imported"):
        there = asyncio.Event()

        async def hang(there: asyncio.Event = there) -> None:
            there.set()
            await asyncio.Event().wait()

        with faults.FaultPlan().does(f"proxmox.image.{point}", lambda _, hang=hang: hang()).installed():
            task = asyncio.ensure_future(images.prepare(file(tmp_path, IMAGE), quiet))
            await there.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (imports(pve), pve.world.guests) == ([], {})


async def test_a_sender_that_hangs_can_be_cancelled(pve: Proxmox, images: Images) -> None:
    """The upload's thread waits for the next piece, and must not wait for ever."""
    sent = asyncio.Event()

    async def answer(asking: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(100 * MIB)})
        await response.prepare(asking)
        await response.write(IMAGE)
        sent.set()
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get("/small.qcow2", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/small.qcow2"))
        task = asyncio.ensure_future(images.prepare(request(url=v1.UrlSource(url=url)), quiet))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (imports(pve), pve.world.guests) == ([], {})
