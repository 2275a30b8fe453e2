"""A machine room: the fake hypervisor, and the kit's parts over it, without a server."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from common import v1
from common.clock import Clock, SystemClock
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.machines import Machines, MachineSettings
from providerkit.operations import Operations
from providerkit.watch import Hub, HubSettings

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves siblings out

OWNER = "kit-tests"
MIB = 1 << 20
GIB = 1 << 30


@dataclass
class Room:
    """What a test needs of the kit."""

    world: FakeHypervisor
    driver: FakeDriver
    hub: Hub
    operations: Operations
    machines: Machines
    clock: Clock

    def spec(self, power: v1.PowerState = v1.PowerState.OFF, uid: str = "") -> v1.MachineSpec:
        """A small machine."""
        identity = v1.MachineIdentity(uid=uid or str(uuid.uuid4()), namespace="kit", name=f"m-{uuid.uuid4().hex[:8]}")
        return v1.MachineSpec(
            identity=identity,
            cpu=v1.CpuSpec(count=2),
            memory=v1.MemorySpec(size_bytes=GIB),
            disks=[v1.DiskSpec(name="root", size_bytes=GIB)],
            nics=[v1.NicSpec(name="net0", network=v1.NetworkRef(kind=v1.NetworkKind.NAT))],
            power=v1.PowerSpec(state=power),
        )

    async def apply(self, spec: v1.MachineSpec, **fields: object) -> object:
        """One apply."""
        return await self.machines.apply(v1.ApplyMachineRequest(spec=spec, **fields))  # type: ignore[arg-type]


MakeRoom = Callable[..., AbstractAsyncContextManager[Room]]


@asynccontextmanager
async def _room(
    *,
    clock: Clock | None = None,
    world: FakeHypervisor | None = None,
    machine_settings: MachineSettings | None = None,
    hub_settings: HubSettings | None = None,
    watching: bool = True,
    guest_shutdown_seconds: float = 0.0,
) -> AsyncIterator[Room]:
    clock = clock or SystemClock()
    world = world or FakeHypervisor(clock=clock)
    driver = FakeDriver(world, owner=OWNER, guest_shutdown_seconds=guest_shutdown_seconds)
    hub = Hub(
        driver,
        clock,
        operation_of=lambda uid: machines.jobs.operation_of(uid),
        withheld=lambda uid: machines.jobs.awaited(uid),
        settings=hub_settings,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(driver.session())
        operations = await stack.enter_async_context(Operations(clock))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        machines = Machines(driver, hub, operations, clock, owner=OWNER, settings=machine_settings)
        task = group.create_task(hub.run()) if watching else None
        try:
            yield Room(world, driver, hub, operations, machines, clock)
        finally:
            if task is not None:
                task.cancel()


@pytest.fixture
def make_room() -> MakeRoom:
    """Build rooms to measure."""
    return _room


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """A plain one."""
    async with _room() as room:
        yield room
