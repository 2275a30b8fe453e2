"""The contract, kept by the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from common import v1
from providerkit.fake import FakeDriver, FakeHypervisor

from .adoption import AdoptionContract
from .capabilities import ELSEWHERE, CapabilityContract
from .clones import CloneContract
from .consoles import ConsoleContract
from .disks import DiskContract
from .images import ImageContract
from .machines import MachineContract
from .operations import OperationContract
from .server import ServerContract
from .snapshots import SnapshotContract
from .subject import OWNER, Pace, Subject, Traits, World, served
from .watching import WatchContract

CONTRACTS = {
    contract.__name__: contract
    for contract in (
        AdoptionContract, CapabilityContract, CloneContract, ConsoleContract, DiskContract, ImageContract,
        MachineContract, SnapshotContract,
    )
}  # fmt: skip


class FakeWorld(World):
    """The fake's knobs in the suite's words."""

    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor()

    async def make_foreign(self, name: str, uid: str = "") -> str:
        return self.hypervisor.make_foreign(name, uid)

    async def fingerprint(self, machine_id: str) -> str:
        return repr(self.hypervisor.snapshot(machine_id))

    async def count(self, uid: str) -> int:
        return sum(uid in (key, machine.id) for key, machine in self.hypervisor.machines.items())

    async def leftovers(self, uid: str) -> list[str]:
        volumes = [volume.id for volume in self.hypervisor.volumes.values() if volume.uid == uid]
        return volumes + [key for key in self.hypervisor.machines if key == uid]

    async def power_off(self, uid: str) -> None:
        self.hypervisor.power_behind_our_back(uid, v1.PowerState.OFF)

    async def remove(self, uid: str) -> None:
        self.hypervisor.remove_behind_our_back(uid)

    @asynccontextmanager
    async def slow_create(self) -> AsyncIterator[None]:
        self.hypervisor.hang("copy_disk")
        try:
            yield
        finally:
            self.hypervisor.unhang()

    def deaf(self, uid: str) -> None:
        self.hypervisor.misbehave.deaf.add(uid)

    async def agent(self, uid: str, *, running: bool) -> None:
        self.hypervisor.machines[uid].guest = v1.Guest(agent_running=running)

    async def take_foreign_snapshot(self, uid: str, name: str) -> None:
        self.hypervisor.take_behind_our_back(uid, name)

    async def has_disk(self, disk_id: str) -> bool:
        return disk_id in self.hypervisor.volumes

    async def make_of_others(self, name: str) -> str:
        return self.hypervisor.make_foreign(name, owner="somebody-else")

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.hypervisor.away()
        try:
            yield
        finally:
            self.hypervisor.back()

    async def scribble(self, uid: str, disk: str, offset: int, data: bytes) -> None:
        self.hypervisor.scribble(f"{uid}/{disk}", offset, data)

    @asynccontextmanager
    async def storage_full(self) -> AsyncIterator[None]:
        capacity, self.hypervisor.capacity_bytes = self.hypervisor.capacity_bytes, self.hypervisor.used_bytes
        try:
            yield
        finally:
            self.hypervisor.capacity_bytes = capacity


def _image() -> v1.ImageSource:
    return v1.ImageSource(url=v1.UrlSource(url="https://images.example/small.qcow2"), format="qcow2")


def traits(world: FakeWorld) -> Traits:
    """What is peculiar to the fake."""
    world.hypervisor.urls["https://broken.example/image"] = b"<html>404</html>"
    broken = v1.ImageSource(url=v1.UrlSource(url="https://broken.example/image"), format="qcow2")
    return Traits(
        other_network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan"),
        places={v1.PlacementKind.HOST: ("fake-host", "other-host")},
        other_storage="other",
        image=_image,
        broken_image=lambda: broken,
        console=(b"hello\n", b"hello\n"),
        pace=Pace(call=5.0, settle=5.0, short_wait=0.25),
    )


@pytest.fixture
async def subject() -> AsyncIterator[Subject]:
    world = FakeWorld()
    async with served(lambda: FakeDriver(world.hypervisor, owner=OWNER), world, traits(world)) as subject:
        yield subject


class TestMachines(MachineContract): ...


class TestCapabilities(CapabilityContract): ...


class TestWatch(WatchContract): ...


class TestImages(ImageContract): ...


class TestOperations(OperationContract): ...


class TestServer(ServerContract): ...


class TestConsole(ConsoleContract): ...


class TestSnapshots(SnapshotContract): ...


class TestClones(CloneContract): ...


class TestAdoption(AdoptionContract): ...


class TestDisks(DiskContract): ...


@pytest.mark.parametrize("name", ELSEWHERE)
def test_proof_that_is_elsewhere_is_there(name: str) -> None:
    """Capabilities that the capability contract leaves to other contracts name a test, or a contract, that exists."""
    contract, _, test = ELSEWHERE[name].partition(".")
    assert contract in CONTRACTS
    assert not test or callable(getattr(CONTRACTS[contract], test))
