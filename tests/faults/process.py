"""Processes of the simulation: what SIGKILL and SIGSTOP do to a program, done to a part of this one.

Nothing of a killed process runs any more, not even a `finally`, and whoever spoke to it sees the connection break.
Nothing of a stopped one runs until it goes on: then all its timers are due at once, and what it held for true is old.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)
"""The process that a task belongs to; None for the world outside."""


@dataclass(eq=False)
class Process:
    """One life of one program."""

    name: str
    number: int
    """How many lives it had before."""
    doom: int = 0
    """The step of its life before which it dies; 0 for none."""
    die: Callable[[], None] = lambda: None
    """Called at that step."""
    alive: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    """The simulation has ended: what is stuck may unwind."""
    since: float = 0.0
    """When it began, or went on after it had been stopped."""
    steps: int = 0
    """How often anything of it ran: from one `await` to the next is a step."""
    _runs: bool = True
    _held: list[asyncio.Handle] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}.{self.number}"

    def may_run(self, step: asyncio.Handle) -> bool:
        """Whether the process runs; if not, the step is kept for when it does."""
        self.steps += 1
        if self.steps == self.doom and self.alive:
            self.die()
        if self._runs:
            return True
        self._held.append(step)
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = self._runs = False
        self.ended.set()

    def stop(self) -> None:
        """SIGSTOP: what it is doing now, it does to the next `await`."""
        self._runs = False

    def go_on(self) -> None:
        """SIGCONT. One that was killed meanwhile stays dead."""
        if self.alive or self.over:
            self._runs = True
            held, self._held = self._held, []
            loop: Any = asyncio.get_running_loop()  # a VirtualLoop, which is built on this module
            self.since = loop.time()
            loop.again(held)

    def finish(self) -> None:
        """The simulation ends: whatever of it is stuck gets the chance to unwind."""
        self.over = True
        self.go_on()

    async def stopped(self) -> None:
        """Where tasks of a dead process end up."""
        if self.over:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    def start(self, main: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run its program; the task and all that it starts belong to this process."""
        context = contextvars.copy_context()
        context.run(current.set, self)

        async def body() -> None:
            await main()

        task = asyncio.get_running_loop().create_task(body(), name=str(self), context=context)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # how a dead one ends is no matter
        return task


def here() -> Process | None:
    """The process that runs now; None for the world outside."""
    return current.get()
