"""The provider under test, served in this process by the kit's own parts and called over real gRPC."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from common import faults, rpc, v1
from common.rpc import Stub
from providerkit.driver import Driver
from providerkit.machines import MachineSettings
from providerkit.serving import PACKAGE, Serving, ServingSettings, serve
from providerkit.watch import HubSettings

OWNER = "contract-suite"
MIB = 1 << 20
GIB = 1 << 30
ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED


class World:
    """What a test does to the hypervisor behind the provider's back. What a provider cannot do skips its tests."""

    async def make_foreign(self, name: str, uid: str = "") -> str:
        """Make a machine that is not ours, with a UID if given; answers with what `fingerprint` takes."""
        raise _lacking("making foreign machines")

    async def fingerprint(self, machine_id: str) -> str:
        """A machine's definition and power state as the hypervisor itself tells them: equal if nobody touched it."""
        raise _lacking("fingerprints")

    async def count(self, uid: str) -> int:
        """How many machines carry this UID."""
        raise _lacking("counting")

    async def leftovers(self, uid: str) -> list[str]:
        """Names of everything on the hypervisor that was made for this UID: machines, disks, files."""
        raise _lacking("looking for leftovers")

    async def power_off(self, uid: str) -> None:
        """Cut the power with another tool."""
        raise _lacking("power from outside")

    async def remove(self, uid: str) -> None:
        """Remove the machine with another tool."""
        raise _lacking("removal from outside")

    def slow_create(self) -> AbstractAsyncContextManager[None]:
        """Creates take long inside of this context (or until cancelled)."""
        raise _lacking("slow creates")

    def deaf(self, uid: str) -> None:
        """The guest ignores requests to shut down."""
        raise _lacking("deaf guests")

    async def agent(self, uid: str, *, running: bool) -> None:
        """The agent of a running guest runs, or does not."""
        raise _lacking("guest agents")

    async def take_foreign_snapshot(self, uid: str, name: str) -> None:
        """Take a snapshot of our machine with another tool."""
        raise _lacking("snapshots from outside")

    async def make_of_others(self, name: str) -> str:
        """Make a machine that carries another installation's stamp; answers with its `Machine.id`."""
        raise _lacking("machines of other installations")

    async def has_disk(self, disk_id: str) -> bool:
        """The disk with this `Disk.id` is there, plugged in or not."""
        raise _lacking("looking for disks")

    async def let_go(self, uid: str) -> None:
        """A released machine lets go of its disks, which stay: what is used elsewhere is attached nowhere else."""

    async def make_template(self, name: str) -> str:
        """Make a foreign template; answers with its `Machine.id`."""
        raise _lacking("templates")

    def outage(self) -> AbstractAsyncContextManager[None]:
        """The hypervisor is away inside of this context."""
        raise _lacking("outages")

    async def scribble(self, uid: str, disk: str, offset: int, data: bytes) -> None:
        """A guest writes to its disk: here the bytes are put there without the provider."""
        raise _lacking("writing to disks from outside")

    def storage_full(self) -> AbstractAsyncContextManager[None]:
        """No room for another disk inside of this context."""
        raise _lacking("full storage")


def _lacking(what: str) -> BaseException:
    return pytest.skip.Exception(f"this provider's tests have no control for {what}")


@dataclass(frozen=True)
class Pace:
    """Seconds; a real hypervisor is slower than the fake."""

    call: float = 10.0
    settle: float = 10.0
    """From a change to its appearance."""
    short_wait: float = 1.0
    parallel: int = 20
    """Machines made at the same time by the test of parallelism."""


@dataclass(frozen=True)
class Traits:
    """What is peculiar to a provider."""

    memory_bytes: int = 64 * MIB
    disk_bytes: int = 8 * MIB
    network: v1.NetworkRef = field(default_factory=lambda: v1.NetworkRef(kind=v1.NetworkKind.NAT))
    other_network: v1.NetworkRef | None = None
    places: Mapping[v1.PlacementKind, tuple[str, str]] = field(default_factory=dict)
    """Two of each kind that a machine can be moved between."""
    other_storage: str = ""
    """A second storage that a disk can be moved to."""
    change_tracking: dict[str, str] = field(default_factory=dict)
    """extra_config of a machine whose changed blocks are to be told, where that must be asked for."""
    extra_config: Mapping[str, str] = field(default_factory=dict)
    """A value that makes sense for each key of extra_config; "1" where there is none."""
    media: tuple[str, str] = ("one.iso", "two.iso")
    """Two images of optical disks that are there."""
    guest_obeys: bool = True
    """A guest that was powered on shuts down when asked, though nothing is installed on its disk."""
    image: Callable[[], v1.ImageSource] | None = None
    """A source that can be prepared; called once per test."""
    broken_image: Callable[[], v1.ImageSource] | None = None
    copies_images: bool = False
    """A machine's disk is a full copy of its image, and does not stand on it."""
    console: tuple[bytes, bytes] | None = None
    """What to type, and what must come back."""
    policies: tuple[str, str] = ("gold", "silver")
    """Two storage policies, where the provider has such."""
    gpu: str = ""
    """What a machine can be given one of, where the provider gives GPUs."""
    pace: Pace = field(default_factory=Pace)


class Subject:
    """One provider, its world, and stubs of all services."""

    def __init__(self, make_driver: Callable[[], Driver], world: World, traits: Traits) -> None:
        self.world = world
        self.traits = traits
        self.pace = traits.pace
        self.faults = faults.FaultPlan()
        """Installed in the server from the start; tests add to it."""
        self.swallowed: set[str] = set()
        """Verbs that the hypervisor accepts and does not carry out, from the next restart of the server on."""
        self.serving: Serving
        self.address = ""
        self._make_driver = make_driver
        self._stack = AsyncExitStack()
        self._server = AsyncExitStack()

    async def __aenter__(self) -> Subject:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        settings = ServingSettings(
            insecure=True,
            owner=OWNER,
            grace=0.5,
            health_interval=1.0,
            hub=HubSettings(retry=0.1, retry_most=0.5),
            machines=MachineSettings(short_wait=self.pace.short_wait),
        )
        self._server = AsyncExitStack()
        driver = self._make_driver()
        for verb in self.swallowed:
            setattr(driver, verb, _swallow)
        with self.faults.installed():
            self.serving = await self._server.enter_async_context(serve(driver, settings, registry=None))
        self.address = await self.dialled(self.serving.server.address, self._server)
        channel = await self._server.enter_async_context(rpc.connect(self.address, insecure=True, registry=None))

        def stub(service: str) -> Stub:
            return rpc.stub(channel, f"{PACKAGE}.{service}")

        self.channel = channel
        self.provider, self.machines, self.snapshots = (
            stub("ProviderService"),
            stub("MachineService"),
            stub("SnapshotService"),
        )
        self.images, self.disks, self.operations = stub("ImageService"), stub("DiskService"), stub("OperationService")
        self.inventory = stub("InventoryService")

    async def dialled(self, address: str, stack: AsyncExitStack) -> str:
        """Where to call the server at an address; a suite may put something in between."""
        return address

    async def _stop(self) -> None:
        await self._server.aclose()

    async def restart(self) -> None:
        """The server ends and another one, with another driver, takes over the same hypervisor."""
        await self._stop()
        await self._start()

    # -- making specs ----------------------------------------------------------------------------------------------

    def identity(self, name: str = "web", uid: str = "", namespace: str = "contract") -> v1.MachineIdentity:
        """A new identity."""
        return v1.MachineIdentity(uid=uid or str(uuid.uuid4()), namespace=namespace, name=name, owner=OWNER)

    def spec(
        self, name: str = "", *, power: v1.PowerState = OFF, identity: v1.MachineIdentity | None = None
    ) -> v1.MachineSpec:
        """A small machine with one empty disk and one NIC."""
        traits = self.traits
        return v1.MachineSpec(
            identity=identity or self.identity(name or f"m-{uuid.uuid4().hex[:8]}"),
            cpu=v1.CpuSpec(count=1),
            memory=v1.MemorySpec(size_bytes=traits.memory_bytes),
            disks=[v1.DiskSpec(name="root", size_bytes=traits.disk_bytes)],
            nics=[v1.NicSpec(name="net0", network=copy.deepcopy(traits.network))],
            power=v1.PowerSpec(state=power, graceful_timeout=timedelta(seconds=5)),
        )

    async def can(self) -> v1.Capabilities:
        """What the provider declares."""
        facts = await self.provider.get_provider(v1.GetProviderRequest(), timeout=self.pace.call)
        return facts.capabilities or v1.Capabilities()

    # -- calling ---------------------------------------------------------------------------------------------------

    async def apply(self, spec: v1.MachineSpec, **fields: object) -> v1.ApplyMachineResponse:
        """One call, as it answers."""
        request = v1.ApplyMachineRequest(spec=spec, **fields)  # type: ignore[arg-type]  # fields of the message
        answer: v1.ApplyMachineResponse = await self.machines.apply_machine(request, timeout=self.pace.call)
        return answer

    async def settle(self, spec: v1.MachineSpec, **fields: object) -> v1.ApplyMachineResponse:
        """Apply until no operation is left, as a controller does; answers with the last reply, `applied` summed up."""
        applied: list[v1.Change] = []
        async with asyncio.timeout(self.pace.settle + self.pace.call):
            while True:
                answer = await self.apply(spec, **fields)
                if answer.operation is None:
                    answer.applied = [*applied, *answer.applied]
                    return answer
                applied += [change for change in answer.applied if change not in applied]
                await self.ended(answer.operation)

    async def ended(self, operation: v1.Operation) -> v1.Operation:
        """The operation as it ended."""
        last = operation
        request = v1.WatchOperationRequest(id=operation.id)
        async for message in self.operations.watch_operation(request, timeout=self.pace.settle + self.pace.call):
            last = message.operation
        return last

    async def get(self, uid: str) -> v1.Machine:
        """The machine as it is."""
        answer = await self.machines.get_machine(v1.GetMachineRequest(uid=uid), timeout=self.pace.call)
        assert answer.machine is not None
        machine: v1.Machine = answer.machine
        return machine

    async def delete(self, identity: v1.MachineIdentity, **fields: object) -> None:
        """Delete until it is gone."""
        async with asyncio.timeout(self.pace.settle + self.pace.call):
            while True:
                request = v1.DeleteMachineRequest(identity=identity, **fields)  # type: ignore[arg-type]  # as above
                answer = await self.machines.delete_machine(request, timeout=self.pace.call)
                if answer.gone:
                    return
                assert answer.operation is not None
                await self.ended(answer.operation)

    async def plan(self, spec: v1.MachineSpec) -> v1.PlanMachineResponse:
        """What would be done."""
        answer: v1.PlanMachineResponse = await self.machines.plan_machine(
            v1.PlanMachineRequest(spec=spec), timeout=self.pace.call
        )
        return answer

    async def act(self, uid: str, action: v1.PowerAction, **fields: object) -> v1.Machine | None:
        """A power action, followed to its end."""
        request = v1.RunPowerActionRequest(uid=uid, action=action, **fields)  # type: ignore[arg-type]  # as above
        answer = await self.machines.run_power_action(request, timeout=self.pace.call)
        if answer.operation is not None:
            await self.ended(answer.operation)
            return await self.get(uid)
        machine: v1.Machine | None = answer.machine
        return machine

    async def every(self, *, include_foreign: bool = False) -> list[v1.Machine]:
        """All machines."""
        request = v1.ListMachinesRequest(include_foreign=include_foreign)
        machines: list[v1.Machine] = []
        async for batch in self.machines.list_machines(request, timeout=self.pace.call):
            assert len(batch.machines) <= 200
            machines += batch.machines
        return machines

    async def wait_power(self, uid: str, power: v1.PowerState) -> v1.Machine:
        """Wait, by watching, until the machine has this power state."""
        async with asyncio.timeout(self.pace.settle):
            async for message in self.machines.watch_machines(v1.WatchMachinesRequest()):
                for event in message.events:
                    machine = event.changed
                    if machine is not None and machine.identity.uid == uid and machine.power is power:
                        found: v1.Machine = machine
                        return found
        raise AssertionError("the watch ended")


async def _swallow(*_args: object, **_kwargs: object) -> None:
    """Yes, and nothing."""


@asynccontextmanager
async def served(make_driver: Callable[[], Driver], world: World, traits: Traits) -> AsyncIterator[Subject]:
    """A subject for one test."""
    async with Subject(make_driver, world, traits) as subject:
        yield subject
