"""The supervisor's promise for one process: it runs, it comes back, it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from vrtg.components import Component


class Watched(Component):
    """Tells each phase that it went through."""

    def __init__(self, script: str, log: Path, grace: float = 5.0) -> None:
        self.phases: asyncio.Queue[str] = asyncio.Queue()
        super().__init__(
            "part",
            ["sh", "-c", script],
            log=log,
            environment={"GIVEN": "yes"},
            ready=self._says_ready,
            changed=lambda: self.phases.put_nowait(self.state.phase),
            grace=grace,
        )
        self.log = log

    async def _says_ready(self) -> bool:
        return self.log.exists() and self.log.read_bytes().count(b"ready") > self.state.restarts

    async def reach(self, phase: str) -> None:
        async with asyncio.timeout(20):
            while await self.phases.get() != phase:
                pass


async def test_a_killed_process_comes_back_and_is_counted(tmp_path: Path) -> None:
    part = Watched("echo ready $GIVEN; exec sleep 60", tmp_path / "log")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(part.run())
        await part.reach("ready")
        first = part.state.pid
        os.kill(first, signal.SIGKILL)
        await part.reach("restarting")
        assert "SIGKILL" in part.state.message
        await part.reach("ready")
        assert part.state.pid != first
        assert part.state.restarts == 1
        part.stop()
        await running
    assert part.state.phase == "stopped"
    assert (tmp_path / "log").read_bytes() == b"ready yes\nready yes\n"


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    part = Watched("trap '' TERM; echo ready; while :; do sleep 60; done", tmp_path / "log", grace=0.2)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(part.run())
        await part.reach("ready")
        part.stop()
    assert part.state.phase == "stopped"


async def test_a_command_that_is_missing_is_named(tmp_path: Path) -> None:
    part = Watched("", tmp_path / "log")
    part._command = ["/no/such/command"]
    async with asyncio.TaskGroup() as group:
        group.create_task(part.run())
        await part.reach("restarting")
        assert "/no/such/command" in part.state.message
        part.stop()


async def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """A full disk: the process goes on, its output is read all the same, and the state says why there is no log."""
    (tmp_path / "log").symlink_to("/dev/full")
    go = tmp_path / "go"
    part = Watched(f"dd if=/dev/zero bs=1M count=2 2>/dev/null; : >{go}; exec sleep 60", tmp_path / "log")
    part.log = tmp_path / "none"  # readiness is asked of it, and /dev/full has no end
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(part.run())
        while not go.exists():  # noqa: ASYNC110  # it got rid of more than a pipe holds
            await asyncio.sleep(0.02)
        assert "log cannot be written" in part.state.message
        assert part.state.restarts == 0
        part.stop()
    assert part.state.phase == "stopped"
