"""A driver on a real, private libvirtd, and the small words that the tests share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from common import v1
from common.clock import SystemClock
from libvirtd.fixtures import guest_image, libvirtd, own_libvirtd
from libvirtd.private import PrivateLibvirtd
from provider_libvirt.driver import LibvirtDriver
from provider_libvirt.guests import Guests
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.images import Images
from provider_libvirt.making import Config
from provider_libvirt.reading import Reader
from providerkit.fetch import Policy

__all__ = ["guest_image", "libvirtd", "own_libvirtd"]  # fixtures

OWNER = "tests"
POOL = "default"
MIB = 1 << 20


class Bench:
    """A driver in session, on one daemon."""

    def __init__(
        self,
        daemon: PrivateLibvirtd,
        images: Path,
        *,
        uri: str = "",
        credentials: Path | None = None,
        call_timeout: float = 10.0,
        pool: str = "default",
    ) -> None:
        clock = SystemClock()
        self.daemon = daemon
        self.hypervisor = Hypervisor(uri or daemon.uri, clock=clock, credentials=credentials, call_timeout=call_timeout)
        self.images = Images(
            self.hypervisor,
            pool=POOL,
            directories=[images],
            policy=Policy(["127.0.0.1"]),
            limit=1 << 30,
            spool=images,
            privileged=True,
        )
        self.guests = Guests(self.hypervisor, clock)
        self.driver = LibvirtDriver(
            self.hypervisor,
            self.images,
            self.guests,
            Reader(self.hypervisor, clock),
            Config(owner=OWNER, pool=POOL, pool_path=""),
            "auto",
        )

    async def image(self, source: v1.ImageSource) -> v1.Image:
        """Prepared for a new VMImage."""
        request = v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="lab", name="guest", source=source)
        return await self.driver.prepare_image(request, quiet)

    async def wait(self, uid: str, holds: Callable[[v1.Machine], bool], *, seconds: float = 60.0) -> v1.Machine:
        """The machine, once this holds of it; driven by the provider's own hints."""
        async with asyncio.timeout(seconds):
            changes = self.driver.changes()
            hint = asyncio.ensure_future(anext(changes))
            try:
                while True:
                    machine = await self.driver.observe(uid)
                    if machine is not None and holds(machine):
                        return machine
                    await asyncio.wait({hint}, timeout=5.0)
                    if hint.done():
                        hint = asyncio.ensure_future(anext(changes))
            finally:
                hint.cancel()
                await asyncio.wait({hint})
                await changes.aclose()

    def files(self, uid: str) -> list[str]:
        """Every file of a machine, in the pool and in libvirt's own directories."""
        places = (self.daemon.pool_path, self.daemon.path / "lib")
        return [
            line for place in places for line in self.daemon.run("find", str(place), "-name", f"*{uid}*").splitlines()
        ]


def quiet(_part: float, _phase: str) -> None:
    """Progress that nobody follows."""


def machine_spec(name: str = "web", **fields: object) -> v1.MachineSpec:
    """A small machine without disks."""
    identity = v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="lab", name=name, owner=OWNER)
    spec = v1.MachineSpec(identity=identity, cpu=v1.CpuSpec(count=1), memory=v1.MemorySpec(size_bytes=256 * MIB))
    for field, value in fields.items():
        setattr(spec, field, value)
    return spec


def uid_of(spec: v1.MachineSpec) -> str:
    assert spec.identity is not None
    return spec.identity.uid


@asynccontextmanager
async def bench_on(daemon: PrivateLibvirtd, images: Path, **fields: object) -> AsyncIterator[Bench]:
    """A bench in session."""
    bench = Bench(daemon, images, **fields)  # type: ignore[arg-type]  # fields of the bench
    async with bench.driver.session():
        yield bench


@pytest.fixture
async def bench(libvirtd: PrivateLibvirtd, guest_image: Path) -> AsyncIterator[Bench]:
    """On the session's daemon; what a test leaves is removed."""
    async with bench_on(libvirtd, guest_image.parent) as bench:
        yield bench
        for machine in await bench.driver.observe_all():
            if machine.owned:
                await bench.driver.destroy(machine.id, quiet)
        for image in await bench.driver.list_images():
            await bench.driver.delete_image(image.id)
