"""What several test modules of the package share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from common import errors, pki, rpc, v1
from common.tls import CONTROLLER, TlsFiles
from prometheus_client import CollectorRegistry

MACHINES = "virtrigaud.provider.v1.MachineService"
DISKS = "virtrigaud.provider.v1.DiskService"


class Machines:
    """A small MachineService whose behaviour a request's uid picks."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    async def get_machine(self, request: v1.GetMachineRequest, context) -> v1.GetMachineResponse:
        match request.uid:
            case "missing":
                raise errors.MachineNotFoundError("there is no machine missing", retry_after=1.5)
            case "bug":
                raise KeyError("the password is hunter2")
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._refuse())
            case "own-timeout":
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            case "wrong-answer":
                return v1.GetProviderResponse()  # type: ignore[return-value]  # the bug under test
            case "slow":
                await self._wait()
            case "huge":
                return v1.GetMachineResponse(machine=v1.Machine(description="x" * 12_000_000))
        return v1.GetMachineResponse(machine=v1.Machine(id=request.uid))

    async def apply_machine(self, request: v1.ApplyMachineRequest, context) -> v1.ApplyMachineResponse:
        return v1.ApplyMachineResponse()

    async def watch_machines(
        self, request: v1.WatchMachinesRequest, context
    ) -> AsyncIterator[v1.WatchMachinesResponse]:
        try:
            for number in range(3):
                yield v1.WatchMachinesResponse(revision=str(number))
            match request.resume_revision:
                case "end":
                    return
                case "refuse":
                    raise errors.HypervisorUnavailableError("the session ended", retry_after=3)
                case "bug":
                    raise KeyError("the password is hunter2")
            self.entered.set()
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def open_console(self, requests, context) -> AsyncIterator[v1.OpenConsoleResponse]:
        async for request in requests:
            yield v1.OpenConsoleResponse(output=request.input)

    async def _refuse(self) -> None:
        raise errors.HostFullError("no room")

    async def _wait(self) -> None:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.left.set()


class Disks:
    """Counts what is written."""

    async def write_disk(self, requests, context) -> v1.WriteDiskResponse:
        offset = 0
        async for request in requests:
            offset += request.extent.length if request.extent is not None else 0
        return v1.WriteDiskResponse(offset=offset, complete=True)


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(machines, registry) -> AsyncIterator[rpc.Server]:
    server = rpc.Server("127.0.0.1:0", insecure=True, grace=1.0, registry=registry, max_unary_seconds=30)
    server.bind(MACHINES, machines)
    server.bind(DISKS, Disks())
    async with server:
        yield server


@pytest.fixture
async def channel(server, registry) -> AsyncIterator[rpc.Channel]:
    async with rpc.connect(server.address, insecure=True, registry=registry) as channel:
        yield channel


@pytest.fixture
def stub(channel) -> rpc.Stub:
    return rpc.stub(channel, MACHINES)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.Authority.create(tmp_path / "pki")


@pytest.fixture
def issue(authority: pki.Authority, tmp_path: Path) -> Callable[..., TlsFiles]:
    def issue(name: str = CONTROLLER, *sans: str, days: float = 30) -> TlsFiles:
        return authority.issue(tmp_path / "issued" / name.replace("/", "_"), name, sans, days)

    return issue
