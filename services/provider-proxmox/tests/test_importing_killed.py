"""A provider that is killed while it imports an image, and one that comes after it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import processes
import pytest
from common import v1
from common.errors import ProviderError
from scenes import image_wish, prepare_image, stalling
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call

from .conftest import OWNER, credentials_of
from .test_importing import IMAGE, imports

pytestmark = pytest.mark.real


def provider(server: Proxmox, tmp_path: Path, *, fault: str = "") -> AbstractAsyncContextManager[processes.Provider]:
    return processes.provider(
        "provider_proxmox", tmp_path, OWNER, "--endpoint", server.url,
        "--credentials-directory", str(credentials_of(server, tmp_path / "credentials")),
        "--image-directory", str(tmp_path), "--image-url-allow", "127.0.0.1",
        "--spool-directory", str(tmp_path / "spool"), fault=fault,
    )  # fmt: skip


async def assert_one_template(server: Proxmox, tmp_path: Path, request: v1.PrepareImageRequest) -> None:
    """The provider that comes next makes the image, once, and can remove it without a trace."""
    async with (
        provider(server, tmp_path) as running,
        running.service("ImageService") as images,
        running.service("OperationService") as operations,
    ):
        image = await prepare_image(images, operations, request)
        [guest] = server.world.guests.values()
        assert guest.template
        assert guest.config["description"].count(image.id) == 1
        listed = await images.list_images(v1.ListImagesRequest(), timeout=10)
        assert [each.id for each in listed.images] == [image.id]
        await images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=10)
        assert server.world.guests == {}
        assert imports(server) == []
        kept = [
            volumes for storage in server.world.storages.values() for volumes in storage.volumes.values() if volumes
        ]
        assert kept == []


@pytest.mark.parametrize("point", ["proxmox.image.fetched", "proxmox.image.imported", "proxmox.image.converted"])
async def test_W40_killed_at_any_step_of_an_import_it_makes_one_template(
    pve: Proxmox, tmp_path: Path, point: str
) -> None:
    (tmp_path / "small.qcow2").write_bytes(IMAGE)
    request = image_wish(file=v1.FileSource(path="small.qcow2"))
    async with provider(pve, tmp_path, fault=f"{point}:kill") as doomed:
        async with doomed.service("ImageService") as images, doomed.service("OperationService") as operations:
            with pytest.raises(ProviderError):
                await prepare_image(images, operations, request)
        assert await doomed.ended() == -signal.SIGKILL
    await assert_one_template(pve, tmp_path, request)


@pytest.mark.parametrize(("kind", "call"), [("qmcreate", "/qemu"), ("qmtemplate", "/template")])
async def test_W40_killed_while_a_task_runs_it_makes_one_template(
    pve: Proxmox, tmp_path: Path, kind: str, call: str
) -> None:
    """The task goes on without it, and ends before the next provider comes."""
    (tmp_path / "small.qcow2").write_bytes(IMAGE)
    request = image_wish(file=v1.FileSource(path="small.qcow2"))
    asked = asyncio.Event()

    def notice(made: Call) -> None:
        if made.method == "POST" and made.request.path.endswith(call):
            asked.set()

    pve.checks.append(notice)
    pve.world.tasks.hold(kind)
    async with provider(pve, tmp_path) as doomed, doomed.service("ImageService") as images:
        begun = await images.prepare_image(request, timeout=10)
        assert begun.operation is not None
        await asked.wait()
        await doomed.kill()
    pve.world.tasks.release(kind)
    await assert_one_template(pve, tmp_path, request)


async def test_W40_killed_in_the_middle_of_a_transfer_it_makes_one_template(pve: Proxmox, tmp_path: Path) -> None:
    sent, go_on = asyncio.Event(), asyncio.Event()
    async with stalling("small.qcow2", IMAGE, sent, go_on) as url:
        request = image_wish(url=v1.UrlSource(url=url))
        async with provider(pve, tmp_path) as doomed, doomed.service("ImageService") as images:
            begun = await images.prepare_image(request, timeout=10)
            assert begun.operation is not None
            await sent.wait()
            await doomed.kill()
        go_on.set()
        await assert_one_template(pve, tmp_path, request)
