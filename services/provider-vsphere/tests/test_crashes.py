"""The provider killed while it takes, removes and reverts snapshots, and clones: nothing double, nothing lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import processes
import pytest
from common import v1
from common.errors import ProviderError
from processes import settle
from scenes import ON, Scene, uid_of
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .test_process import provider, wait_asked

pytestmark = pytest.mark.real


async def link(scene: Scene) -> None:
    await scene.clone(v1.CloneKind.LINKED)


async def fork(scene: Scene) -> None:
    """Of a machine that runs, into one that does."""
    for spec in (scene.spec, scene.more, scene.copy):
        spec.power = v1.PowerSpec(state=ON)
    await settle(scene.machines, scene.more)
    await scene.clone(v1.CloneKind.INSTANT)


STEPS: dict[str, tuple[str, Callable[[Scene], Awaitable[None]]]] = {
    "snapshot": ("CreateSnapshot_Task", Scene.take_second),
    "remove": ("RemoveSnapshot_Task", Scene.remove),
    "revert": ("RevertToSnapshot_Task", Scene.revert),
    "clone": ("CloneVM_Task", Scene.clone),
    "link": ("CloneVM_Task", link),
    "link, in its snapshot": ("CreateSnapshot_Task", link),
    "fork": ("InstantClone_Task", fork),
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
        ("vsphere.snapshot.taken", link),
        ("vsphere.snapshot.removed", Scene.remove),
        ("vsphere.snapshot.reverting", Scene.revert),
        ("vsphere.snapshot.reverted", Scene.revert),
        ("vsphere.clone.made", Scene.clone),
        ("vsphere.clone.forked", fork),
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
