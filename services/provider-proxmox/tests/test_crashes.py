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
from simulators.proxmox import Proxmox

from .test_process import MIB, OFF, begun, guests_of, machine_spec, orphans, provider, uid_of


class Scene:
    """A machine with a snapshot and a disk that it got since, and calls to the provider of the hour."""

    def __init__(self) -> None:
        self.spec = machine_spec(OFF)
        self.more = machine_spec(OFF)
        self.more.identity, self.more.boot_data = self.spec.identity, self.spec.boot_data
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

    async def clone(self) -> None:
        request = v1.CloneMachineRequest(
            source_uid=uid_of(self.spec), kind=v1.CloneKind.FULL, source_snapshot_id=self.first, target=self.copy
        )
        await _done(lambda: self.machines.clone_machine(request, timeout=20))

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


async def _settled(scene: Scene, running: processes.Provider, server: Proxmox) -> None:
    await scene.at(running, Scene.check)
    assert len(guests_of(server, scene.spec)) == 1
    assert len(guests_of(server, scene.copy)) <= 1
    await scene.at(running, Scene.clear)
    assert [*guests_of(server, scene.spec), *guests_of(server, scene.copy), *orphans(server)] == []


STEPS: dict[str, tuple[str, Callable[[Scene], Awaitable[None]]]] = {
    "snapshot": ("qmsnapshot", Scene.take_second),
    "remove": ("qmdelsnapshot", Scene.remove),
    "revert": ("qmrollback", Scene.revert),
    "clone": ("qmclone", Scene.clone),
}
"""The task that is under way when the provider dies, and what makes it begin one."""


@pytest.mark.parametrize("what", STEPS)
async def test_W48_W49_killed_in_the_middle_of_a_task_it_finds_it_again(
    pve: Proxmox, tmp_path: Path, what: str
) -> None:
    """The cluster goes on with what a dead process began, and the next process waits for it."""
    kind, step = STEPS[what]
    scene = Scene()
    async with provider(pve, tmp_path) as doomed:
        await scene.at(doomed, Scene.prepare)
        pve.world.tasks.hold(kind)
        before = _count(pve, kind)
        work = asyncio.ensure_future(scene.at(doomed, step))
        await begun(pve, kind)
        await doomed.kill()
        await asyncio.wait({work})
        assert isinstance(work.exception(), ProviderError)
    async with provider(pve, tmp_path) as running:
        again = asyncio.ensure_future(scene.at(running, step))
        await asyncio.wait({again}, timeout=1.0)
        pve.world.tasks.release()
        await again
        if what != "revert":
            assert _count(pve, kind) == before + 1
        await _settled(scene, running, pve)


def _count(server: Proxmox, kind: str) -> int:
    return len([task for task in server.world.tasks.all.values() if task.kind == kind])


@pytest.mark.parametrize(
    ("point", "step"),
    [
        ("proxmox.snapshot.taken", Scene.take_second),
        ("proxmox.snapshot.removed", Scene.remove),
        ("proxmox.snapshot.reverting", Scene.revert),
        ("proxmox.snapshot.reverted", Scene.revert),
        ("proxmox.cloned", Scene.clone),
    ],
)
async def test_W48_W49_killed_between_two_tasks_it_goes_on(
    pve: Proxmox, tmp_path: Path, point: str, step: Callable[[Scene], Awaitable[None]]
) -> None:
    scene = Scene()
    async with provider(pve, tmp_path) as running:
        await scene.at(running, Scene.prepare)
    async with provider(pve, tmp_path, fault=f"{point}:kill") as doomed:
        with pytest.raises(ProviderError):
            await scene.at(doomed, step)
        assert await doomed.ended() == -signal.SIGKILL
    async with provider(pve, tmp_path) as running:
        await scene.at(running, step)
        await _settled(scene, running, pve)


async def test_what_an_interrupted_revert_unplugged_is_not_forgotten(pve: Proxmox, tmp_path: Path) -> None:
    """Even where nobody asks for the revert again: an apply makes the machine right, and all of it goes with it."""
    scene = Scene()
    async with provider(pve, tmp_path, fault="proxmox.snapshot.reverted:kill") as doomed:
        await scene.at(doomed, Scene.prepare)
        with pytest.raises(ProviderError):
            await scene.at(doomed, Scene.revert)
    async with provider(pve, tmp_path) as running:
        await _settled(scene, running, pve)
