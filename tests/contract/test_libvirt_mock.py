"""The contract, kept on libvirt's own mock driver: definitions, states and events without guests or files."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import libvirt
import pytest
from common import v1
from common.clock import SystemClock
from provider_libvirt.driver import LibvirtDriver
from provider_libvirt.guests import Guests
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.images import Images
from provider_libvirt.making import Config
from provider_libvirt.reading import Reader
from providerkit.fetch import Policy

from .machines import MachineContract
from .server import ServerContract
from .subject import OWNER, Pace, Subject, Traits, World
from .watching import WatchContract

URI = "test:///default"
POOL = "default-pool"


class MockWorld(World):
    """Connections of one process to this URI share one mock host, as long as one of them is open."""

    def __init__(self) -> None:
        self.connection = libvirt.open(URI)

    async def make_foreign(self, name: str, uid: str = "") -> str:
        uid = uid or str(uuid.uuid4())
        self.connection.defineXML(
            f"<domain type='test'><name>{name}</name><uuid>{uid}</uuid><memory unit='MiB'>16</memory>"
            "<os><type>hvm</type></os></domain>"
        )
        return uid

    async def fingerprint(self, machine_id: str) -> str:
        domain = self.connection.lookupByUUIDString(machine_id)
        return f"{domain.state()} {domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}"

    async def count(self, uid: str) -> int:
        return sum(domain.UUIDString() == uid for domain in self.connection.listAllDomains(0))

    async def leftovers(self, uid: str) -> list[str]:
        volumes = self.connection.storagePoolLookupByName(POOL).listVolumes()
        domains = [domain.name() for domain in self.connection.listAllDomains(0) if domain.UUIDString() == uid]
        return domains + [name for name in volumes if name.startswith(uid)]

    async def power_off(self, uid: str) -> None:
        self.connection.lookupByUUIDString(uid).destroy()

    async def remove(self, uid: str) -> None:
        domain = self.connection.lookupByUUIDString(uid)
        if domain.isActive():
            domain.destroy()
        domain.undefine()

    def deaf(self, uid: str) -> None:
        pytest.skip("the mock driver's guests obey at once")


@pytest.fixture
async def subject() -> AsyncIterator[Subject]:
    world = MockWorld()

    def make_driver() -> LibvirtDriver:
        clock = SystemClock()
        hypervisor = Hypervisor(URI, clock=clock)
        images = Images(hypervisor, pool=POOL, directories=[], policy=Policy(), limit=1, spool=None, privileged=True)  # type: ignore[arg-type]  # no image can be prepared here
        config = Config(owner=OWNER, pool=POOL, pool_path="")
        return LibvirtDriver(hypervisor, images, Guests(hypervisor, clock), Reader(hypervisor, clock), config, "auto")

    traits = Traits(
        network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="default"),
        pace=Pace(call=10.0, settle=10.0, parallel=10),
    )
    async with Subject(make_driver, world, traits) as subject:
        yield subject
    world.connection.close()


class TestMachines(MachineContract):
    @pytest.mark.skip(reason="the mock driver takes no boot data: the real one shows it")
    async def test_boot_data_is_never_shown(self, subject: Subject, capsys: pytest.CaptureFixture[str]) -> None: ...


class TestWatch(WatchContract):
    @pytest.mark.skip(reason="the mock driver lives in this process and is never away")
    async def test_an_outage_ends_the_stream_and_hides_nothing(self, subject: Subject) -> None: ...


class TestServer(ServerContract): ...
