"""The contract about the content of disks, kept by the Proxmox VE provider: over SSH, and from a mounted storage."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from common import v1
from simulators.proxmox.server import proxmox
from simulators.proxmox.sshd import sshd
from simulators.proxmox.world import World

from .disks import DiskContract
from .images import ImageContract
from .subject import Subject, Traits
from .test_proxmox import PACE, home, served_proxmox

__all__ = ["home"]  # a fixture

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None and not os.environ.get("REQUIRE_REAL"), reason="qemu-nbd is not installed"
)


def traits() -> Traits:
    return Traits(
        memory_bytes=1 << 30,
        image=lambda: v1.ImageSource(file=v1.FileSource(path="small.qcow2")),
        broken_image=lambda: v1.ImageSource(file=v1.FileSource(path="broken.qcow2")),
        pace=PACE,
    )


@pytest.fixture
async def over_ssh(home: Path) -> AsyncIterator[Subject]:
    async with proxmox(World()) as pve, sshd(pve) as ssh:
        ssh.credentials(home)
        settings = {"default_storage": "shared", "ssh_port": ssh.port}
        async with served_proxmox(pve, home, traits(), **settings) as subject:
            yield subject


@pytest.fixture
async def mounted(home: Path) -> AsyncIterator[Subject]:
    world = World()
    world.storages["shared"].root = home / "mounted"
    async with proxmox(world) as pve:
        settings = {"default_storage": "shared", "disk_directory": [f"shared={home / 'mounted'}"]}
        async with served_proxmox(pve, home, traits(), **settings) as subject:
            yield subject


class TestOverSsh(DiskContract):
    @pytest.fixture
    def subject(self, over_ssh: Subject) -> Subject:
        return over_ssh


class TestMounted(DiskContract):
    @pytest.fixture
    def subject(self, mounted: Subject) -> Subject:
        return mounted


class TestImagesThatMachinesStandOn(ImageContract):
    """On a storage of files; what is made on thin LVM stands on nothing."""

    @pytest.fixture
    def subject(self, over_ssh: Subject) -> Subject:
        return over_ssh
