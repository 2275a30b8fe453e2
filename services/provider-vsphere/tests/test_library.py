"""Templates made from items of content libraries, on a simulated vCenter that speaks either dialect."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import BrokenImageError, ImageNotFoundError, InvalidSpecError, NotSupportedError
from provider_vsphere import machines
from provider_vsphere.content.nfc import Nfc
from provider_vsphere.images.images import Images
from provider_vsphere.images.importing import Importer
from provider_vsphere.images.library import Library
from provider_vsphere.places import Defaults, Places
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.vapi import Vapi
from provider_vsphere.session.vsphere import Vsphere
from simulators import ovas
from simulators.shelf import LIBRARY, Shelf
from simulators.vcsim import Vcsim

from .conftest import OWNER
from .test_images import quiet, request

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def shelf(vcsim: Vcsim) -> Iterator[Shelf]:
    with Shelf(vcsim) as shelf:
        yield shelf


@pytest.fixture
async def images(vsphere: Vsphere) -> Images:
    async with asyncio.timeout(30):
        await vsphere.wait_connected()
    clock, transfers = SystemClock(), Transfers(vsphere.endpoint)
    places = Places(vsphere.tree, Defaults(cluster="DC0_C0"))
    importer = Importer(
        vsphere,
        places,
        Nfc(vsphere, transfers, clock),
        clock,
        owner=OWNER,
        library=Library(Vapi(vsphere), transfers, clock),
    )
    return Images(vsphere, places, importer, owner=OWNER)


def to(item: str, library: str = LIBRARY, version: str = "") -> v1.PrepareImageRequest:
    return request(library=v1.LibrarySource(library=library, item=item, version=version))


@pytest.mark.parametrize("api", [True, False])
async def test_W41_an_ovf_item_becomes_a_template_of_ours(
    vcsim: Vcsim, vsphere: Vsphere, shelf: Shelf, images: Images, api: bool
) -> None:
    name = f"small-{uuid.uuid4()}"
    await asyncio.to_thread(shelf.put, name, ovas.package())
    await asyncio.to_thread(vcsim.control, "behaviours", api=api)
    wish = to(name)
    image = await images.prepare(wish, quiet)
    assert image.virtual_size_bytes == ovas.CAPACITY
    assert image.size_bytes == len(ovas.vmdk())
    assert await images.get(image.id) == image
    assert image in await images.all()
    await images.delete(image.id)
    assert await images.get(image.id) is None


async def test_W41_a_template_item_is_copied_under_our_stamp(vsphere: Vsphere, shelf: Shelf, images: Images) -> None:
    """The library's own template stays what it was."""
    original = await asyncio.to_thread(shelf.capture, "golden")
    image = await images.prepare(to("golden"), quiet)
    assert image.virtual_size_bytes == 2 << 20
    entity = (await images.source(image.id)).entity
    assert entity.moid != original
    assert machines.image_stamp_of(entity) is not None
    assert machines.stamp_of(entity) is None
    await images.delete(image.id)
    assert vsphere.tree.get(original) is not None


async def test_what_is_not_in_the_library_is_named(shelf: Shelf, images: Images) -> None:
    await asyncio.to_thread(shelf.put, "versioned", ovas.package())
    for wish, complaint in (
        (to("nothing"), "no item nothing"),
        (to("versioned", "nowhere"), "no content library nowhere"),
        (to("versioned", version="77"), "not 77"),
    ):
        with pytest.raises(ImageNotFoundError, match=complaint):
            await images.prepare(wish, quiet)


async def test_an_item_that_makes_no_machine_is_refused(shelf: Shelf, images: Images) -> None:
    await asyncio.to_thread(shelf.put, "disc", {"disc.iso": b"x"}, "iso")
    with pytest.raises(NotSupportedError, match="iso"):
        await images.prepare(to("disc"), quiet)


async def test_a_broken_item_leaves_nothing(shelf: Shelf, images: Images) -> None:
    disk = ovas.vmdk()
    files = {ovas.DESCRIPTOR: ovas.descriptor(len(disk) - 512), ovas.DISK: disk[:-512]}
    await asyncio.to_thread(shelf.put, "broken", files)
    wish = to("broken")
    with pytest.raises(BrokenImageError, match="too early"):
        await images.prepare(wish, quiet)
    assert await images.get(images.check(wish)) is None


@pytest.mark.parametrize(
    "source", [v1.LibrarySource(item="a"), v1.LibrarySource(library="a"), v1.LibrarySource("a", "\n")]
)
async def test_an_item_that_cannot_exist_is_refused(images: Images, source: v1.LibrarySource) -> None:
    with pytest.raises(InvalidSpecError, match=r"source\.library"):
        images.check(request(library=source))
