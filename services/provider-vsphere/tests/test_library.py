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
from provider_vsphere.images import Images
from provider_vsphere.importing import Importer
from provider_vsphere.library import Library
from provider_vsphere.nfc import Nfc
from provider_vsphere.places import Defaults, Places
from provider_vsphere.transfers import Transfers
from provider_vsphere.vapi import Vapi
from provider_vsphere.vsphere import Vsphere
from pyVmomi import vim
from simulators import ovas
from simulators.rest_client import Rest
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER
from .test_images import quiet, request

pytestmark = pytest.mark.real
LIBRARY = "images"


class Shelf:
    """A content library, kept by somebody else."""

    def __init__(self, server: Vcsim) -> None:
        self.rest = Rest(server)
        self.admin = Admin(server)
        self._storage = self.admin.every(vim.Datastore)[0]._moId
        self.library = self.make(LIBRARY)

    def make(self, name: str) -> str:
        storage = [{"type": "DATASTORE", "datastore_id": self._storage}]
        library: str = self.rest(
            "POST", "content/local-library", {"name": name, "type": "LOCAL", "storage_backings": storage}
        )
        return library

    def put(self, name: str, files: dict[str, bytes], kind: str = "ovf") -> str:
        item: str = self.rest("POST", "content/library/item", {"library_id": self.library, "name": name, "type": kind})
        session = self.rest("POST", "content/library/item/update-session", {"library_item_id": item})
        path = f"content/library/item/update-session/{session}"
        for file, content in files.items():
            told = self.rest("POST", f"{path}/file", {"name": file, "source_type": "PUSH", "size": len(content)})
            self.rest.upload(told["upload_endpoint"]["uri"], content)
        self.rest("POST", f"{path}?action=complete")
        return item

    def capture(self, name: str) -> str:
        """A template item, made from a machine; the object id of its template."""
        disk = vim.vm.device.VirtualDisk(
            key=-2,
            controllerKey=-1,
            unitNumber=0,
            capacityInKB=2048,
            backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent"),
        )
        controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        adds = [
            vim.vm.device.VirtualDeviceSpec(operation="add", device=controller),
            vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
        ]
        machine = self.admin.create(f"{name}-source", deviceChange=adds)
        placement = {
            "folder": machine.parent._moId,
            "resource_pool": machine.resourcePool._moId,
            "host": machine.runtime.host._moId,
        }
        body = {"name": name, "library": self.library, "source_vm": machine._moId, "placement": placement}
        item = self.rest("POST", "vcenter/vm-template/library-items", body)
        return str(self.rest("GET", f"vcenter/vm-template/library-items/{item}")["vm_template"])


@pytest.fixture(scope="module")
def shelf(vcsim: Vcsim) -> Iterator[Shelf]:
    shelf = Shelf(vcsim)
    yield shelf
    shelf.admin.__exit__()


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
