"""The fake in the suite's words: its knobs, its peculiarities, and what is served of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from common import v1
from providerkit.fake import FakeDriver, FakeHypervisor
from release.peers import Release, peer

from .subject import OWNER, Pace, Subject, Traits, World


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


class Fake(Subject):
    """Today's provider and today's caller; if told so, with another release between them."""

    def __init__(self, release: Release | None = None) -> None:
        world = FakeWorld()
        super().__init__(lambda: FakeDriver(world.hypervisor, owner=OWNER), world, traits(world))
        self._release = release

    async def dialled(self, address: str, stack: AsyncExitStack) -> str:
        return address if self._release is None else await stack.enter_async_context(peer(address, self._release))
