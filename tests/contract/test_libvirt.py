"""The contract, kept by the libvirt provider on a real libvirtd with QEMU."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import libvirt
import pytest
from common import v1
from common.clock import SystemClock
from libvirtd.fixtures import guest_image, libvirtd
from libvirtd.private import PrivateLibvirtd
from provider_libvirt.driver import CREATING, LibvirtDriver
from provider_libvirt.guests import Guests
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.images import Images
from provider_libvirt.making import Config
from provider_libvirt.reading import Reader
from providerkit.fetch import Policy

from .capabilities import ALL, CapabilityContract
from .consoles import ConsoleContract
from .images import ImageContract, prepare, request
from .machines import MachineContract
from .operations import OperationContract
from .server import ServerContract
from .subject import MIB, ON, OWNER, Pace, Subject, Traits, World
from .watching import WatchContract

__all__ = ["guest_image", "libvirtd"]  # fixtures

pytestmark = pytest.mark.real
POOL = "contract"
POOL_BYTES = 512 * MIB
OTHER_NETWORK = "contract-other"
NEED_A_GUEST = {"nic_hot_add", "nic_hot_remove", "nic_online_update"}
"""The guest takes part in unplugging a NIC: these are tried on one that runs."""


class LibvirtWorld(World):
    """The private libvirtd, reached by a connection of the test's own."""

    def __init__(self, daemon: PrivateLibvirtd, storage: Path) -> None:
        self.daemon = daemon
        self.storage = storage
        self.hypervisor: Hypervisor | None = None
        self.subject: Subject | None = None

    def _open(self) -> libvirt.virConnect:
        return libvirt.open(self.daemon.uri)

    async def make_foreign(self, name: str, uid: str = "") -> str:
        uid = uid or str(uuid.uuid4())
        connection = self._open()
        connection.defineXML(
            f"<domain type='qemu'><name>{name}</name><uuid>{uid}</uuid><memory unit='MiB'>16</memory>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        )
        return uid

    async def fingerprint(self, machine_id: str) -> str:
        domain = self._open().lookupByUUIDString(machine_id)
        return f"{domain.state()} {domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}"

    async def count(self, uid: str) -> int:
        return sum(domain.UUIDString() == uid for domain in self._open().listAllDomains(0))

    async def leftovers(self, uid: str) -> list[str]:
        domains = [domain.name() for domain in self._open().listAllDomains(0) if domain.UUIDString() == uid]
        places = [self.storage, self.daemon.pool_path, self.daemon.path / "lib"]
        return domains + [
            line for place in places for line in self.daemon.run("find", str(place), "-name", f"*{uid}*").splitlines()
        ]

    async def power_off(self, uid: str) -> None:
        self._open().lookupByUUIDString(uid).destroy()

    async def remove(self, uid: str) -> None:
        domain = self._open().lookupByUUIDString(uid)
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        for file in await self.leftovers(uid):
            self.daemon.run("rm", "-f", file)

    @asynccontextmanager
    async def slow_create(self) -> AsyncIterator[None]:
        assert self.subject is not None
        go_on, over = asyncio.Event(), False

        async def strike() -> None:
            if not over:
                await go_on.wait()

        for number in range(1, 40):
            passed = self.subject.faults.passed.get(CREATING, 0)
            self.subject.faults.does(CREATING, lambda _: strike(), on_pass=passed + number)
        try:
            yield
        finally:
            over = True
            go_on.set()

    def deaf(self, uid: str) -> None:
        """Nothing runs on an empty disk: every guest here is deaf."""

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.daemon.kill()
        try:
            yield
        finally:
            self.daemon.start()
            assert self.hypervisor is not None
            async with asyncio.timeout(30):
                await self.hypervisor.wait_connected()

    @asynccontextmanager
    async def storage_full(self) -> AsyncIterator[None]:
        filler = str(self.storage / "filler")
        self.daemon.run("sh", "-c", f"dd if=/dev/zero of={filler} bs=64k 2>/dev/null || true")
        try:
            yield
        finally:
            self.daemon.run("rm", filler)


class LibvirtSubject(Subject):
    """Machines with an empty disk, or, with `boots`, with a guest that has come up once it is on."""

    guest: Callable[[], v1.ImageSource]
    boots = ""
    """Id of the image to boot from."""

    def spec(self, name: str = "", **fields: object) -> v1.MachineSpec:
        spec = super().spec(name, **fields)  # type: ignore[arg-type]  # as it is there
        if self.boots:
            spec.disks = [v1.DiskSpec(name="root", image=v1.ImageRef(id=self.boots))]
            spec.memory = v1.MemorySpec(size_bytes=256 * MIB)
        return spec

    async def settle(self, spec: v1.MachineSpec, **fields: object) -> v1.ApplyMachineResponse:
        answer = await super().settle(spec, **fields)
        if self.boots and spec.power is not None and spec.power.state is ON and spec.identity is not None:
            await self._wait_booted(spec.identity.uid)
        return answer

    async def _wait_booted(self, uid: str) -> None:
        async with asyncio.timeout(60):
            async for message in self.machines.watch_machines(v1.WatchMachinesRequest()):
                for event in message.events:
                    seen = event.changed
                    if seen is not None and seen.identity.uid == uid and seen.addresses:
                        return


@pytest.fixture(scope="module")
def storage(libvirtd: PrivateLibvirtd) -> Iterator[Path]:
    """A pool on a file system of its own, small enough to be filled."""
    path = Path(tempfile.mkdtemp(prefix="vrtg-contract-", dir=libvirtd.path))
    libvirtd.run("mount", "-t", "tmpfs", "-o", f"size={POOL_BYTES},mode=0755", "tmpfs", str(path))
    connection = libvirt.open(libvirtd.uri)
    target = f"<target><path>{path}</path></target>"
    pool = connection.storagePoolDefineXML(f"<pool type='dir'><name>{POOL}</name>{target}</pool>")
    pool.create()
    pool.setAutostart(1)
    bridge = "<bridge name='virbr-other' stp='off' delay='0'/>"
    network = connection.networkDefineXML(f"<network><name>{OTHER_NETWORK}</name>{bridge}</network>")
    network.create()
    network.setAutostart(1)
    yield path
    connection = libvirt.open(libvirtd.uri)  # tests have restarted the daemon since
    for made in (connection.networkLookupByName(OTHER_NETWORK), connection.storagePoolLookupByName(POOL)):
        made.destroy()
        made.undefine()
    libvirtd.run("umount", str(path))


@pytest.fixture
async def subject(
    libvirtd: PrivateLibvirtd, storage: Path, guest_image: Path, tmp_path: Path
) -> AsyncIterator[Subject]:
    world = LibvirtWorld(libvirtd, storage)
    shutil.copyfile(guest_image, tmp_path / "guest.qcow2")
    (tmp_path / "broken.qcow2").write_bytes(b"<html>404</html>")

    def make_driver() -> LibvirtDriver:
        clock = SystemClock()
        world.hypervisor = hypervisor = Hypervisor(libvirtd.uri, clock=clock, call_timeout=5.0)
        images = Images(
            hypervisor,
            pool=POOL,
            directories=[tmp_path],
            policy=Policy(),
            limit=1 << 30,
            spool=tmp_path,
            privileged=True,
        )
        config = Config(owner=OWNER, pool=POOL, pool_path="")
        return LibvirtDriver(hypervisor, images, Guests(hypervisor, clock), Reader(hypervisor, clock), config, "auto")

    def source(name: str) -> Callable[[], v1.ImageSource]:
        return lambda: v1.ImageSource(file=v1.FileSource(path=name), format="qcow2")

    traits = Traits(
        network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=libvirtd.network),
        other_network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=OTHER_NETWORK),
        guest_obeys=False,
        image=source("guest.qcow2"),
        broken_image=source("broken.qcow2"),
        pace=Pace(call=20.0, settle=20.0, short_wait=1.0, parallel=6),
    )
    async with LibvirtSubject(make_driver, world, traits) as subject:
        world.subject = subject
        yield subject
        for domain in libvirt.open(libvirtd.uri).listAllDomains(0):
            await world.remove(domain.UUIDString())


@pytest.fixture
async def booting(subject: LibvirtSubject) -> LibvirtSubject:
    """Its machines boot a guest that obeys and answers."""
    assert subject.traits.image is not None
    console = (b"\necho $((6 * 7))x\n", b"42x")
    subject.traits = dataclasses.replace(subject.traits, guest_obeys=True, console=console)
    subject.boots = (await prepare(subject, request(subject.traits.image()))).id
    return subject


class TestMachines(MachineContract):
    async def test_graceful_off_is_settled_by_off(self, booting: LibvirtSubject) -> None:  # type: ignore[override]
        await super().test_graceful_off_is_settled_by_off(booting)


class TestCapabilities(CapabilityContract):
    @pytest.mark.parametrize("name", sorted(NEED_A_GUEST))
    async def test_P13_is_honest_with_a_guest(self, booting: LibvirtSubject, name: str) -> None:
        """The same, on a machine whose guest has come up."""
        await super().test_is_honest(booting, name)

    @pytest.mark.parametrize("name", [name for name in ALL if name not in NEED_A_GUEST])
    async def test_is_honest(self, subject: Subject, name: str) -> None:
        await super().test_is_honest(subject, name)


class TestWatch(WatchContract): ...


class TestImages(ImageContract): ...


class TestOperations(OperationContract): ...


class TestServer(ServerContract): ...


class TestConsole(ConsoleContract):
    async def test_a_serial_console_carries_bytes_both_ways(self, booting: LibvirtSubject) -> None:  # type: ignore[override]
        await super().test_a_serial_console_carries_bytes_both_ways(booting)
