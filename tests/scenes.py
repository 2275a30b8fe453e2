"""What is asked of a provider that is killed meanwhile: of every one the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from common import v1
from common.errors import OperationInProgressError
from common.rpc import Stub
from processes import SETTLE_SECONDS, Provider, delete, settle

OWNER = "tests"
MIB = 1 << 20
CANARY = "canary-9c3d"
"""Stands in first-boot data, and in no log."""
ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED


# -- machines ----------------------------------------------------------------------------------------------------------


def machine_spec(power: v1.PowerState = ON, **fields: Any) -> v1.MachineSpec:
    uid = str(uuid.uuid4())
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=64 * MIB),
        disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAT))],
        boot_data=v1.BootData(user_data=f"#cloud-config\npassword: {CANARY}\n"),
        power=v1.PowerSpec(state=power),
        **fields,
    )


def uid_of(spec: v1.MachineSpec) -> str:
    assert spec.identity is not None
    return spec.identity.uid


Step = Callable[[Stub, v1.MachineSpec], Awaitable[object]]


def changed(**fields: Any) -> Step:
    """Apply with other fields."""

    async def step(machines: Stub, spec: v1.MachineSpec) -> object:
        for name, value in fields.items():
            setattr(spec, name, value)
        return await settle(machines, spec)

    return step


# -- snapshots and clones ----------------------------------------------------------------------------------------------


class Scene:
    """A machine with a snapshot and a disk that it got since, and calls to the provider of the hour."""

    def __init__(self) -> None:
        self.spec = machine_spec(OFF)
        self.more = machine_spec(OFF)
        self.more.identity = self.spec.identity
        self.more.disks = [*self.spec.disks, v1.DiskSpec(name="data", size_bytes=8 * MIB)]
        self.copy = machine_spec(OFF)
        self.first, self.second = str(uuid.uuid4()), str(uuid.uuid4())
        self.machines: Stub
        self.snapshots: Stub

    async def at(self, running: Provider, act: Callable[[Scene], Awaitable[None]]) -> None:
        """Do something by this provider."""
        async with running.machines() as self.machines, running.service("SnapshotService") as self.snapshots:
            await act(self)

    async def prepare(self) -> None:
        await settle(self.machines, self.spec)
        await self.take(self.first)
        await settle(self.machines, self.more)

    async def take(self, uid: str) -> None:
        request = v1.CreateSnapshotRequest(machine_uid=uid_of(self.spec), uid=uid, name="s")
        await done(lambda: self.snapshots.create_snapshot(request, timeout=20))

    async def take_second(self) -> None:
        await self.take(self.second)

    async def remove(self) -> None:
        request = v1.DeleteSnapshotRequest(machine_uid=uid_of(self.spec), uid=self.first)
        await done(lambda: self.snapshots.delete_snapshot(request, timeout=20))

    async def revert(self) -> None:
        request = v1.RevertSnapshotRequest(machine_uid=uid_of(self.spec), uid=self.first)
        await done(lambda: self.snapshots.revert_snapshot(request, timeout=20))

    async def clone(self, kind: v1.CloneKind = v1.CloneKind.FULL, snapshot: str = "") -> None:
        source = uid_of(self.spec)
        request = v1.CloneMachineRequest(source_uid=source, kind=kind, source_snapshot_id=snapshot, target=self.copy)
        await done(lambda: self.machines.clone_machine(request, timeout=20))

    async def check(self) -> None:
        """No snapshot is there twice, and an apply makes the machine what its spec says."""
        listed = await self.snapshots.list_snapshots(v1.ListSnapshotsRequest(machine_uid=uid_of(self.spec)), timeout=20)
        uids = [snapshot.uid for snapshot in listed.snapshots]
        assert len(uids) == len(set(uids))
        machine = await settle(self.machines, self.more)
        assert [(disk.name, disk.owned) for disk in machine.disks] == [("root", True), ("data", True)]

    async def clear(self) -> None:
        await delete(self.machines, self.copy)
        await delete(self.machines, self.spec)


async def done(call: Callable[[], Awaitable[Any]]) -> None:
    """Ask until nothing is under way, as a controller does."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            try:
                if (await call()).operation is None:
                    return
            except OperationInProgressError:
                await asyncio.sleep(0.1)


# -- images ------------------------------------------------------------------------------------------------------------


async def prepare_image(images: Stub, operations: Stub, wish: v1.PrepareImageRequest) -> v1.Image:
    """Ask until it is ready, as a controller does."""
    async with asyncio.timeout(60):
        while True:
            answer = await images.prepare_image(wish, timeout=10)
            if answer.image is not None:
                image: v1.Image = answer.image
                return image
            watch = v1.WatchOperationRequest(id=answer.operation.id)
            async for _ in operations.watch_operation(watch, timeout=60):
                pass


def image_wish(**source: object) -> v1.PrepareImageRequest:
    image = v1.ImageSource(**source)  # type: ignore[arg-type]  # fields of the message
    return v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="lab", name="small", owner=OWNER, source=image)


@asynccontextmanager
async def stalling(name: str, data: bytes, sent: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[str]:
    """URL of an image that comes by half, until it may go on."""

    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        sent.set()
        await go_on.wait()
        await response.write(data[len(data) // 2 :])
        return response

    app = web.Application()
    app.router.add_get(f"/{name}", serve)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url(f"/{name}"))
        go_on.set()
