"""A provider that is killed while it imports an image, and one that comes after it."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import processes
import pytest
from common import v1
from common.errors import ProviderError
from provider_vsphere.stamps import imagestamp
from scenes import image_wish, prepare_image, stalling
from simulators import ovas
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, credentials_of

pytestmark = pytest.mark.real


def provider(server: Vcsim, tmp_path: Path, *, fault: str = "") -> AbstractAsyncContextManager[processes.Provider]:
    secrets = tmp_path / "credentials"
    secrets.mkdir(exist_ok=True)
    return processes.provider(
        "provider_vsphere", tmp_path, OWNER, "--endpoint", server.url,
        "--credentials-directory", str(credentials_of(server, secrets)), "--default-cluster", "DC0_C0",
        "--image-directory", str(tmp_path), "--image-url-allow", "127.0.0.1", fault=fault,
    )  # fmt: skip


def imported(admin: Admin) -> list[str]:
    return [vm._moId for vm in admin.every() if vm.name.startswith("image-")]


def wait_imported(admin: Admin) -> None:
    """Wait until the import has made its VM; another administrator is told of nothing."""
    end = time.monotonic() + 30
    while not imported(admin):
        assert time.monotonic() < end
        time.sleep(0.05)


async def assert_one_template(server: Vcsim, tmp_path: Path, request: v1.PrepareImageRequest) -> None:
    """The provider that comes next makes the image, once, and can remove it without a trace."""
    async with (
        provider(server, tmp_path) as running,
        running.service("ImageService") as images,
        running.service("OperationService") as operations,
    ):
        image = await prepare_image(images, operations, request)
        with Admin(server) as admin:
            [vm] = admin.with_uuid(imagestamp.instance_uuid(image.id))
            assert vm.config.template
            assert imported(admin) == [vm._moId]
            listed = await images.list_images(v1.ListImagesRequest(), timeout=10)
            assert [each.id for each in listed.images] == [image.id]
            await images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=10)
            assert imported(admin) == []
            assert admin.orphans() == []


@pytest.mark.parametrize(
    "point", ["images.prepare.before", "vsphere.image.imported", "vsphere.image.uploaded", "vsphere.image.sealed",
              "images.prepare.after"],
)  # fmt: skip
async def test_W40_killed_at_any_step_of_an_import_it_makes_one_template(
    own_vcsim: Vcsim, tmp_path: Path, point: str
) -> None:
    (tmp_path / "small.ova").write_bytes(ovas.ova())
    request = image_wish(file=v1.FileSource(path="small.ova"))
    async with provider(own_vcsim, tmp_path, fault=f"{point}:kill") as doomed:
        async with doomed.service("ImageService") as images, doomed.service("OperationService") as operations:
            with pytest.raises(ProviderError):
                await prepare_image(images, operations, request)
        assert await doomed.ended() == -signal.SIGKILL
    await assert_one_template(own_vcsim, tmp_path, request)


async def test_W40_killed_in_the_middle_of_a_transfer_it_makes_one_template(own_vcsim: Vcsim, tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with stalling("small.ova", ovas.ova(), asyncio.Event(), go_on) as url:
        request = image_wish(url=v1.UrlSource(url=url))
        async with provider(own_vcsim, tmp_path) as doomed, doomed.service("ImageService") as images:
            begun = await images.prepare_image(request, timeout=10)
            assert begun.operation is not None
            with Admin(own_vcsim) as admin:
                await asyncio.to_thread(wait_imported, admin)
            await doomed.kill()
        go_on.set()
        await assert_one_template(own_vcsim, tmp_path, request)
