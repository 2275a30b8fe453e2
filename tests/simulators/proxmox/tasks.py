"""Work in the background: UPIDs, logs, how it ended, and who may watch."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .access import Who
from .errors import PveError

if TYPE_CHECKING:
    from .world import World

LISTED = 25  # that ended, of each node in cluster/tasks
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
    began: float = field(default_factory=time.monotonic)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def upid(self) -> str:
        return (
            f"UPID:{self.node}:{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}:{self.kind}:{self.id}:{self.user}:"
        )

    @property
    def age(self) -> float:
        """Seconds since it began, here and not of the world."""
        return time.monotonic() - self.began

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
        """Work for so many seconds of the world, once nobody holds tasks of this kind."""
        if (held := self.world.tasks.held.get(self.kind)) is not None:
            await held.wait()
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
        self.held: dict[str, asyncio.Event] = {}  # kind -> set when its tasks may go on
        self._latest: defaultdict[str, deque[Task]] = defaultdict(lambda: deque(maxlen=LISTED))

    async def run(self, ready: asyncio.Event) -> None:
        """Own the workers until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                ready.set()
                await asyncio.Event().wait()
        finally:
            self._group = None

    def start(
        self,
        who: Who | str,
        node: str,
        kind: str,
        id: int | str,
        worker: Worker,
        release: Callable[[], None] | None = None,
    ) -> str:
        """Begin `worker` in the background and answer its UPID.

        Args:
            release: called when it is over, even if it was cancelled before its first step; gives back a lock that
                the caller took.
        """
        assert self._group is not None, "tasks run only while the server does"
        task = self._new(who, node, kind, id)
        work = self._group.create_task(self._carry(task, worker), name=task.upid)
        self._works[task.upid] = work
        work.add_done_callback(lambda _: self._over(task, release))
        return task.upid

    def spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run something that is no task of the API, such as a daemon's clean-up."""
        assert self._group is not None, "tasks run only while the server does"
        self._group.create_task(work, name=name)

    def hold(self, kind: str) -> None:
        """Let tasks of a kind stand still at their next piece of work."""
        self.held.setdefault(kind, asyncio.Event())

    def release(self, kind: str = "") -> None:
        """Let them go on; without a kind all of them."""
        for name in [kind] if kind else list(self.held):
            if (event := self.held.pop(name, None)) is not None:
                event.set()

    def pid(self) -> int:
        """The number of the next process."""
        self._pid += 1
        return self._pid

    def done(self, who: Who | str, node: str, kind: str, id: int | str, exitstatus: str = "OK") -> str:
        """Note a task that is over already."""
        task = self._new(who, node, kind, id)
        self._end(task, exitstatus)
        return task.upid

    def _new(self, who: Who | str, node: str, kind: str, id: int | str) -> Task:
        user = who if isinstance(who, str) else who.name
        ticks = int((time.time() - self._born) * 100) + 0x40000
        task = Task(self._world, node, kind, str(id), user, self.pid(), ticks)
        self.all[task.upid] = task
        return task

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
        return [self.all[upid] for upid in list(self._works) if self.all[upid].running]

    def listed(self) -> list[Task]:
        """What cluster/tasks tells: everything that runs, and the latest of each node that ended; newest first."""
        ended = [task for latest in self._latest.values() for task in latest]
        return sorted([*self.active(), *ended], key=lambda task: task.pid, reverse=True)

    async def _carry(self, task: Task, worker: Worker) -> None:
        try:
            await worker(task)
        except PveError as error:
            self._end(task, error.line)
        except asyncio.CancelledError:
            self._end(task, task.interrupted)
        else:
            self._end(task, f"WARNINGS: {task.warnings}" if task.warnings else "OK")

    def _over(self, task: Task, release: Callable[[], None] | None) -> None:
        self._works.pop(task.upid, None)
        if release is not None:
            release()
        if task.running:  # cancelled before its first step
            self._end(task, task.interrupted)

    def _end(self, task: Task, exitstatus: str) -> None:
        text = exitstatus.rstrip("\n")
        fine = text == "OK" or text.startswith("WARNINGS: ")
        task.log(f"TASK {text}" if fine else f"TASK ERROR: {text}")
        task.exitstatus = text
        task.endtime = int(time.time())
        self._latest[task.node].append(task)
        task.ended.set()
