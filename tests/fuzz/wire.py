"""The contract as a whole: arbitrary bytes to every method of a provider server, with the fake behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from common import v1, wire
from common.rpc.services import Method, methods, service
from prometheus_client import CollectorRegistry
from providerkit.fake import FakeDriver, FakeHypervisor
from providerkit.serving import ALWAYS, DEPENDENT, PACKAGE, ServingSettings, serve

from fuzz.registry import parts, target

METHODS = [each for name in (*ALWAYS, *DEPENDENT) for each in methods(service(f"{PACKAGE}.{name}"))]
OWNER = "home"
KEPT, OTHER = (f"0a6b5d6e-3c1c-4a53-9d3e-0000000000{end}" for end in ("a1", "b2"))
SECONDS = 60.0
"""Within which a call that answers once must have answered, on however busy a computer."""
ANSWERS = frozenset(
    {
        "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "ABORTED", "ALREADY_EXISTS",
        "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "OUT_OF_RANGE", "DATA_LOSS",
    }
)  # fmt: skip
"""Of the contract, for a request that is at fault: never UNKNOWN or INTERNAL."""
BETWEEN = b"\n--next--\n"
"""Between the messages of a stream of requests."""


def _identity(uid: str) -> v1.MachineIdentity:
    return v1.MachineIdentity(uid=uid, namespace="shop", name=f"m{uid[-2:]}", owner=OWNER)


def _spec(uid: str) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=_identity(uid), cpu=v1.CpuSpec(count=2, cores_per_socket=1), memory=v1.MemorySpec(size_bytes=1 << 30),
        disks=[v1.DiskSpec(name="root", size_bytes=1 << 20)], power=v1.PowerSpec(state=v1.PowerState.OFF),
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAT))], tags=["a"],
        boot_data=v1.BootData(user_data="#cloud-config", hostname="h"), extra_config={"k": "v"}, description="d",
    )  # fmt: skip


_VALUES: dict[str, Any] = {
    "uid": OTHER, "machine_uid": OTHER, "source_uid": OTHER, "id": "x", "image_id": "x", "operation_id": "x",
    "disk": "root", "name": "s", "namespace": "shop", "offset": 0, "length": 4096, "size_bytes": 1 << 20, "limit": 10,
    "cols": 80, "rows": 25, "owner": OWNER, "format": "raw", "resume": "x",
}  # fmt: skip


def _request(method: Method) -> bytes:
    """One that says something in every field that has a usual value."""
    request = method.request_class()
    for name in wire.fields_by_name(method.request_class):
        if name in _VALUES and isinstance(getattr(request, name), type(_VALUES[name])):
            setattr(request, name, _VALUES[name])
    if "identity" in wire.fields_by_name(method.request_class):
        request.identity = _identity(OTHER)
    if "spec" in wire.fields_by_name(method.request_class) and method.path.endswith("Machine"):
        with contextlib.suppress(wire.EncodeError):
            request.spec = _spec(OTHER)
            return method.request.dumps(request)
        request.spec = None
    return method.request.dumps(request)


def _whole() -> list[bytes]:
    """Requests that name their own machine's parts, too."""
    disk = v1.DiskRef(machine_uid=OTHER, disk_name="root")
    source = v1.ImageSource(url=v1.UrlSource(url="http://127.0.0.1/x"))
    image = v1.PrepareImageRequest(uid=OTHER, namespace="shop", name="i", owner=OWNER, source=source, check_only=True)
    requests = {
        "run_power_action": v1.RunPowerActionRequest(uid=OTHER, action=v1.PowerAction(1)),
        "clone_machine": v1.CloneMachineRequest(source_uid=OTHER, kind=v1.CloneKind(1), target=_spec(OTHER)),
        "prepare_image": image,
        "get_disk": v1.GetDiskRequest(disk=disk),
        "read_disk": v1.ReadDiskRequest(disk=disk),
    }
    return [m.path.encode() + b"\0" + m.request.dumps(requests[m.name]) for m in METHODS if m.name in requests]


SEEDS = _whole() + [each.path.encode() + b"\0" + _request(each) for each in METHODS]
UNKNOWN = [seed + b"\xfa\x3e\x03abc" + b"\x08\xff\xff\xff\xff\x0f" for seed in SEEDS]


class Provider:
    """A server with the fake in this process, made for the first call and kept for all."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._live: asyncio.Task[None] | None = None
        self._channel: Any = None  # grpc.aio has no usable static types
        self.world = FakeHypervisor()

    def ask(self, method: Method, data: bytes) -> tuple[str, str]:
        """Code and message of the answer."""
        return self._loop.run_until_complete(self._ask(method, data))

    def close(self) -> None:
        """End it."""
        if self._live is not None:
            self._over.set()
            self._loop.run_until_complete(self._live)
        self._loop.close()

    async def _start(self) -> None:
        ready: asyncio.Future[str] = self._loop.create_future()

        async def live() -> None:
            driver = FakeDriver(self.world, owner=OWNER, guest_shutdown_seconds=0.0)
            settings = ServingSettings(insecure=True, owner=OWNER, grace=1.0)
            async with (
                serve(driver, settings, registry=CollectorRegistry()) as serving,
                grpc.aio.insecure_channel(serving.server.address) as self._channel,
            ):
                ready.set_result(serving.server.address)
                await self._over.wait()

        self._live = self._loop.create_task(live())
        await ready
        self.world.make_foreign("foreign")
        spec = v1.ApplyMachineRequest(spec=_spec(KEPT))
        applied = next(each for each in METHODS if each.name == "apply_machine")
        code, message = await self._ask(applied, applied.request.dumps(spec))
        assert code == "OK", message

    async def _ask(self, method: Method, data: bytes) -> tuple[str, str]:
        if self._channel is None:
            await self._start()
        kind = "_".join("stream" if each else "unary" for each in (method.client_streaming, method.server_streaming))
        make = getattr(self._channel, kind)(method.path)
        call = make(_pieces(data) if method.client_streaming else data, timeout=SECONDS)
        try:
            if method.server_streaming:
                await self._look(call)
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""

    async def _look(self, call: Any) -> None:
        """A stream may go on for ever: its first answer will do."""
        try:
            async with asyncio.timeout(1.0):
                async for _ in call:
                    break
        except TimeoutError:
            pass
        finally:
            call.cancel()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for piece in data.split(BETWEEN):
        yield piece


_provider: Provider | None = None


@target("wire.request", SEEDS + UNKNOWN, inputs=700)
def request(data: bytes) -> None:
    """An answer that the contract knows, a server that goes on, and no effect on machines that were not named."""
    global _provider
    _provider = _provider or Provider()
    path, content = parts(data, 2)
    method = next((each for each in METHODS if each.path.encode() == path), METHODS[len(data) % len(METHODS)])
    before = _provider.world.snapshot(KEPT), sorted(_provider.world.machines)
    code, message = _provider.ask(method, content)
    assert code in ANSWERS, f"{method.path}: {code}: {message}"
    assert code == "OK" or message
    if before[0] is not None and KEPT.encode() not in content:
        assert _provider.world.snapshot(KEPT) == before[0]
        assert set(before[1]) - {OTHER} <= set(_provider.world.machines)
    code, message = _provider.ask(GET, GET.request.dumps(v1.GetMachineRequest(uid=KEPT)))
    assert code == "OK" or KEPT.encode() in content, message


GET = next(each for each in METHODS if each.name == "get_machine")


def close() -> None:
    """End the server, if one was made."""
    global _provider
    if _provider is not None:
        _provider.close()
        _provider = None
