"""Calls that change something, and files that are sent."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from common.errors import ChecksumMismatchError, HypervisorUnavailableError, OutcomeUnknownError
from provider_proxmox.content.pipe import upload
from provider_proxmox.session.pve import LOCK_TRIES, Pve
from provider_proxmox.session.pve_errors import FileLockedError
from simulators.proxmox import Proxmox
from simulators.proxmox.calls import Call
from simulators.proxmox.errors import refused

from .conftest import connected, person_of, vm, watched

CONTENT = b"\0" * 70_000 + b"the end of an ISO"


async def send(cluster: Pve, file: io.RawIOBase | io.BytesIO, name: str = "seed.iso", checksum: str = "") -> None:
    upid = await cluster.upload(
        "send it",
        "pve1",
        "local",
        "iso",
        name,
        file,
        len(CONTENT),
        checksum=checksum or None,  # type: ignore[arg-type]
    )
    await cluster.task("send it", upid)


def content_of(server: Proxmox, volid: str) -> bytes:
    volume = server.world.volume(volid, "pve1")
    assert volume is not None
    assert volume.file is not None
    return volume.file.read_bytes()


async def test_a_file_arrives_as_it_is(pve: Proxmox, cluster: Pve) -> None:
    """Streamed, and compared by the other side."""
    await send(cluster, io.BytesIO(CONTENT), checksum=hashlib.sha256(CONTENT).hexdigest())
    assert content_of(pve, "local:iso/seed.iso") == CONTENT


async def test_a_file_that_arrives_wrong_is_not_kept(pve: Proxmox, cluster: Pve) -> None:
    """The task tells."""
    with pytest.raises(ChecksumMismatchError):
        await send(cluster, io.BytesIO(CONTENT), checksum="0" * 64)
    assert pve.world.volume("local:iso/seed.iso", "pve1") is None


async def test_a_file_is_sent_again_from_its_beginning_after_a_new_login(pve: Proxmox, tmp_path: Path) -> None:
    """A ticket that ended in the meantime was refused when part of the file was gone already."""
    async with connected(pve, person_of(pve, tmp_path)) as cluster:
        pve.world.access.expire_tickets()
        await send(cluster, io.BytesIO(CONTENT))
    assert content_of(pve, "local:iso/seed.iso") == CONTENT


async def test_a_file_that_ends_early_is_not_kept(pve: Proxmox, cluster: Pve) -> None:
    """Half an image is none."""
    with pytest.raises((HypervisorUnavailableError, OutcomeUnknownError)):
        await send(cluster, io.BytesIO(CONTENT[:1000]))
    assert pve.world.volume("local:iso/seed.iso", "pve1") is None


def locked(times: int) -> list[str]:
    """What a check says so often."""
    return ["can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"] * times


@pytest.mark.parametrize("times", [1, LOCK_TRIES])
async def test_a_file_lock_is_waited_for(pve: Proxmox, tmp_path: Path, times: int) -> None:
    """Something else works on the machine for a moment; nothing was done, so the call is repeated, not for ever."""
    vm(pve, 100)
    left = locked(times)

    def check(call: Call) -> None:
        if call.method == "PUT" and left:
            raise refused(left.pop())

    async with watched(pve, tmp_path) as seen:
        pve.checks.append(check)
        changing = asyncio.create_task(seen.pve.put("change it", "nodes/pve1/qemu/100/config", memory=1024))
        await seen.go(60, changing.done)
        if times < LOCK_TRIES:
            await changing
            assert pve.world.guests[100].config["memory"] == "1024"
        else:
            with pytest.raises(FileLockedError) as error:
                await changing
            assert error.value.retry_after
            assert pve.world.guests[100].config["memory"] == "256"


async def test_those_who_look_for_new_guests_at_the_same_time_share_a_look(pve: Proxmox, cluster: Pve) -> None:
    """The list of a large cluster is long."""
    vm(pve, 100, "pve2")
    before = pve.counted()["GET /cluster/resources"]
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(cluster.rescan("look"))
    assert cluster.index.guests[100].node == "pve2"
    assert pve.counted()["GET /cluster/resources"] - before <= 3


async def test_names_may_hold_anything(pve: Proxmox, cluster: Pve) -> None:
    """A volume's name stands in the path."""
    await send(cluster, io.BytesIO(CONTENT), name="a+b.iso")
    await cluster.delete("remove it", "nodes/pve1/storage/local/content/local:iso/a+b.iso")


async def test_a_small_file_does_not_wait_for_senders_that_hang(pve: Proxmox, cluster: Pve) -> None:
    """Images come as slowly as somebody sends them; first-boot data are here, and a machine waits for them."""
    hanging = [asyncio.Event() for _ in range(2)]

    async def hangs(begun: asyncio.Event) -> AsyncGenerator[bytes]:
        yield b"the beginning"
        begun.set()
        await asyncio.Event().wait()

    slow = [
        asyncio.ensure_future(upload(cluster, "send", "pve1", "local", "iso", f"slow{n}.iso", hangs(begun), 1 << 20))
        for n, begun in enumerate(hanging)
    ]
    for begun in hanging:
        await begun.wait()
    await send(cluster, io.BytesIO(CONTENT))
    assert content_of(pve, "local:iso/seed.iso") == CONTENT
    for each in slow:
        each.cancel()
    await asyncio.wait(slow)
