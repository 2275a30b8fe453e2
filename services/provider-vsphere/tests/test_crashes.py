"""The provider killed while it takes, removes and reverts snapshots, and clones: nothing double, nothing lost."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from common import v1
from common.errors import OperationInProgressError, ProviderError
from common.rpc import Stub
from processes import delete, settle
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .test_process import MIB, OFF, ON, machine_spec, provider, uid_of, wait_asked

pytestmark = pytest.mark.real


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

    async def at(self, running: processes.Provider, act: Callable[[Scene], Awaitable[None]]) -> None:
        """Do something by this provider."""
        async with running.machines() as self.machines, running.service("SnapshotService") as self.snapshots:
            await act(self)

    async def prepare(self) -> None:
        await settle(self.machines, self.spec)
        await self.take(self.first)
        await settle(self.machines, self.more)

    async def take(self, uid: str) -> None:
        request = v1.CreateSnapshotRequest(machine_uid=uid_of(self.spec), uid=uid, name="s")
        await _done(lambda: self.snapshots.create_snapshot(request, timeout=20))

    async def take_second(self) -> None:
        await self.take(self.second)

    async def remove(self) -> None:
        request = v1.DeleteSnapshotRequest(machine_uid=uid_of(self.spec), uid=self.first)
        await _done(lambda: self.snapshots.delete_snapshot(request, timeout=20))

    async def revert(self) -> None:
        request = v1.RevertSnapshotRequest(machine_uid=uid_of(self.spec), uid=self.first)
        await _done(lambda: self.snapshots.revert_snapshot(request, timeout=20))

    async def clone(self, kind: v1.CloneKind = v1.CloneKind.FULL) -> None:
        request = v1.CloneMachineRequest(source_uid=uid_of(self.spec), kind=kind, target=self.copy)
        await _done(lambda: self.machines.clone_machine(request, timeout=20))

    async def link(self) -> None:
        await self.clone(v1.CloneKind.LINKED)

    async def fork(self) -> None:
        for spec in (self.spec, self.more, self.copy):
            spec.power = v1.PowerSpec(state=ON)
        await settle(self.machines, self.more)
        await self.clone(v1.CloneKind.INSTANT)

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


async def _done(call: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(processes.SETTLE_SECONDS):
        while True:
            try:
                if (await call()).operation is None:
                    return
            except OperationInProgressError:
                await asyncio.sleep(0.1)


STEPS: dict[str, tuple[str, Callable[[Scene], Awaitable[None]]]] = {
    "snapshot": ("CreateSnapshot_Task", Scene.take_second),
    "remove": ("RemoveSnapshot_Task", Scene.remove),
    "revert": ("RevertToSnapshot_Task", Scene.revert),
    "clone": ("CloneVM_Task", Scene.clone),
    "link": ("CloneVM_Task", Scene.link),
    "link, in its snapshot": ("CreateSnapshot_Task", Scene.link),
    "fork": ("InstantClone_Task", Scene.fork),
}
"""The task that is under way when the provider dies, and what makes it begin one."""


async def _settled(scene: Scene, running: processes.Provider, server: Vcsim) -> None:
    await scene.at(running, Scene.check)
    with Admin(server) as admin:
        assert len(admin.with_uuid(uid_of(scene.spec))) == 1
        assert len(admin.with_uuid(uid_of(scene.copy))) <= 1
        await scene.at(running, Scene.clear)
        assert [*admin.with_uuid(uid_of(scene.spec)), *admin.with_uuid(uid_of(scene.copy))] == []
        assert admin.orphans() == []


@pytest.mark.parametrize("what", STEPS)
async def test_W48_W49_killed_in_the_middle_of_a_task_it_finds_it_again(
    own_vcsim: Vcsim, tmp_path: Path, what: str
) -> None:
    """vCenter goes on with what a dead process began, and the next process waits for it."""
    method, step = STEPS[what]
    scene = Scene()
    async with provider(own_vcsim, tmp_path) as doomed:
        await scene.at(doomed, Scene.prepare)
        own_vcsim.control("slow", method=method, seconds=0)
        own_vcsim.control("requests/reset")
        work = asyncio.ensure_future(scene.at(doomed, step))
        await asyncio.to_thread(wait_asked, own_vcsim, method)
        await doomed.kill()
        await asyncio.wait({work})
        assert isinstance(work.exception(), ProviderError)
    async with provider(own_vcsim, tmp_path) as running:
        again = asyncio.ensure_future(scene.at(running, step))
        await asyncio.wait({again}, timeout=1.0)
        own_vcsim.control("slow/release")
        await again
        if what != "revert":
            assert own_vcsim.requests()[method] == 1
        await _settled(scene, running, own_vcsim)


@pytest.mark.parametrize(
    ("point", "step"),
    [
        ("vsphere.snapshot.taken", Scene.link),
        ("vsphere.snapshot.removed", Scene.remove),
        ("vsphere.snapshot.reverting", Scene.revert),
        ("vsphere.snapshot.reverted", Scene.revert),
        ("vsphere.clone.made", Scene.clone),
        ("vsphere.clone.forked", Scene.fork),
    ],
)
async def test_W48_W49_killed_between_two_tasks_it_goes_on(
    own_vcsim: Vcsim, tmp_path: Path, point: str, step: Callable[[Scene], Awaitable[None]]
) -> None:
    scene = Scene()
    async with provider(own_vcsim, tmp_path) as running:
        await scene.at(running, Scene.prepare)
    async with provider(own_vcsim, tmp_path, fault=f"{point}:kill") as doomed:
        with pytest.raises(ProviderError):
            await scene.at(doomed, step)
        assert await doomed.ended() == -signal.SIGKILL
    async with provider(own_vcsim, tmp_path) as running:
        await scene.at(running, step)
        await _settled(scene, running, own_vcsim)


async def test_what_an_interrupted_revert_unplugged_is_not_forgotten(own_vcsim: Vcsim, tmp_path: Path) -> None:
    """Even where nobody asks for the revert again: the snapshot knows of the disk, and it goes with the machine."""
    scene = Scene()
    async with provider(own_vcsim, tmp_path, fault="vsphere.snapshot.reverted:kill") as doomed:
        await scene.at(doomed, Scene.prepare)
        with pytest.raises(ProviderError):
            await scene.at(doomed, Scene.revert)
    async with provider(own_vcsim, tmp_path) as running:
        await scene.at(running, Scene.clear)
        with Admin(own_vcsim) as admin:
            assert admin.orphans() == []
