"""Work in the background: UPIDs, logs, how it ended, and who may watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .access import Who
from .errors import PveError

if TYPE_CHECKING:
    from .world import World

Worker = Callable[["Task"], Awaitable[None]]


@dataclass
class Task:
    """One worker process of a node."""

    world: World
    node: str
    kind: str  # qmcreate, qmstart, ...
    id: str
    user: str
    pid: int
    pstart: int
    starttime: int = field(default_factory=lambda: int(time.time()))
    endtime: int = 0
    exitstatus: str = ""
    lines: list[str] = field(default_factory=list)
    warnings: int = 0
    interrupted: str = "received interrupt"  # what it ends with when cancelled; a worker may know better
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def upid(self) -> str:
        return (
            f"UPID:{self.node}:{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}:{self.kind}:{self.id}:{self.user}:"
        )

    @property
    def running(self) -> bool:
        return not self.exitstatus

    def log(self, text: str) -> None:
        """Write one line that everybody who may see the task can read."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Write a warning; a task that warned ends as `WARNINGS: n`."""
        self.warnings += 1
        self.log(f"WARN: {text}")

    async def spend(self, seconds: float) -> None:
        """Work for so many seconds of the world."""
        await self.world.pace.spend(seconds)


class Tasks:
    """The workers of every node. They live as long as `run` does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._group: asyncio.TaskGroup | None = None
        self._works: dict[str, asyncio.Task[None]] = {}
        self._pid = 0x4000
        self._born = time.time()
        self.all: dict[str, Task] = {}  # by UPID, oldest first

    async def run(self, ready: asyncio.Event) -> None:
        """Own the workers until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                ready.set()
                await asyncio.Event().wait()
        finally:
            self._group = None

    def start(self, who: Who | str, node: str, kind: str, id: int | str, worker: Worker) -> str:
        """Begin `worker` in the background and answer its UPID."""
        assert self._group is not None, "tasks run only while the server does"
        user = who if isinstance(who, str) else who.name
        task = Task(self._world, node, kind, str(id), user, self.pid(), int((time.time() - self._born) * 100) + 0x40000)
        self.all[task.upid] = task
        self._works[task.upid] = self._group.create_task(self._carry(task, worker), name=task.upid)
        return task.upid

    def pid(self) -> int:
        """The number of the next process."""
        self._pid += 1
        return self._pid

    def done(self, who: Who | str, node: str, kind: str, id: int | str, exitstatus: str = "OK") -> str:
        """Note a task that is over already."""
        user = who if isinstance(who, str) else who.name
        task = Task(self._world, node, kind, str(id), user, self.pid(), int((time.time() - self._born) * 100) + 0x40000)
        self._end(task, exitstatus)
        self.all[task.upid] = task
        return task.upid

    async def cancel(self, upid: str) -> None:
        """Interrupt a task and wait until it is over; one that is over already stays as it was."""
        work = self._works.get(upid)
        if work is not None:
            work.cancel()
            await self.all[upid].ended.wait()

    async def wait(self, upid: str) -> Task:
        """The task, once it is over."""
        task = self.all[upid]
        await task.ended.wait()
        return task

    def of_guest(self, vmid: int, *kinds: str) -> list[Task]:
        """Tasks that work on a guest now."""
        return [
            self.all[upid]
            for upid in list(self._works)
            if self.all[upid].id == str(vmid) and (not kinds or self.all[upid].kind in kinds)
        ]

    def active(self) -> list[Task]:
        """Everything that runs now, in the order it began."""
        return [self.all[upid] for upid in list(self._works)]

    async def _carry(self, task: Task, worker: Worker) -> None:
        try:
            await worker(task)
        except PveError as error:
            self._end(task, error.reason)
        except asyncio.CancelledError:
            self._end(task, task.interrupted)
            if self._group is None or asyncio.current_task() not in self._works.values():
                raise
        else:
            self._end(task, f"WARNINGS: {task.warnings}" if task.warnings else "OK")
        finally:
            self._works.pop(task.upid, None)

    @staticmethod
    def _end(task: Task, exitstatus: str) -> None:
        text = exitstatus.rstrip("\n")
        fine = text == "OK" or text.startswith("WARNINGS: ")
        task.log(f"TASK {text}" if fine else f"TASK ERROR: {text}")
        task.exitstatus = text
        task.endtime = int(time.time())
        task.ended.set()
