"""Processes of the simulation: what SIGKILL does to a program, done to a part of this one.

A killed process does nothing any more: each of its tasks stops for ever at the next boundary, no `finally` of it has an
effect on anybody, and whoever spoke to it sees the connection break.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_here: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)


@dataclass(eq=False)
class Process:
    """One life of one program."""

    name: str
    number: int
    """How many lives it had before."""
    alive: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    """The simulation has ended: what is stuck may unwind."""

    def __str__(self) -> str:
        return f"{self.name}.{self.number}"

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.ended.set()

    async def stopped(self) -> None:
        """Where tasks of a dead process end up."""
        if self.over:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    def start(self, main: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run its program; the task and all that it starts belong to this process."""
        context = contextvars.copy_context()
        context.run(_here.set, self)

        async def body() -> None:
            await main()

        task = asyncio.get_running_loop().create_task(body(), name=str(self), context=context)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # how a dead one ends is no matter
        return task


def here() -> Process | None:
    """The process that runs now; None for the world outside."""
    return _here.get()
