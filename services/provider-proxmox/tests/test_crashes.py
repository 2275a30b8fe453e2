"""The provider killed while it takes, removes and reverts snapshots, and clones: nothing double, nothing lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import processes
import pytest
from common.errors import ProviderError
from scenes import Scene
from simulators.proxmox import Proxmox

from .test_process import begun, guests_of, orphans, provider


async def clone_taken(scene: Scene) -> None:
    await scene.clone(snapshot=scene.first)


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
    "clone": ("qmclone", clone_taken),
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
        ("proxmox.cloned", clone_taken),
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
