"""When machines became what their specs say: a watch on them, as any client has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
from controller.api import Api

from .rig import VMS

WATCH_SECONDS = 3600.0


class _Meta(msgspec.Struct):
    name: str
    generation: int = 1
    resource_version: str = msgspec.field(name="resourceVersion", default="")


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []
    observed_generation: int = msgspec.field(name="observedGeneration", default=0)


class _Machine(msgspec.Struct):
    metadata: _Meta
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    type: str
    object: _Machine


_EVENTS = msgspec.json.Decoder(_Event)


class Following:
    """By name, when each machine was first seen Ready in the generation that it had then, by the wall clock."""

    def __init__(self) -> None:
        self.ready: dict[tuple[str, int], float] = {}
        self._news = asyncio.Event()

    def take(self, line: bytes) -> None:
        """One line of the watch."""
        seen = _EVENTS.decode(line)
        meta, status = seen.object.metadata, seen.object.status
        if seen.type == "DELETED" or status.observed_generation != meta.generation:
            return
        if any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions):
            self.ready.setdefault((meta.name, meta.generation), time.time())
            self._news.set()

    async def wait(self, names: Iterable[str], generation: int = 1, seconds: float = 600.0) -> list[float]:
        """When each of these became Ready in this generation; waits for the last of them."""
        wanted = {(name, generation) for name in names}
        async with asyncio.timeout(seconds):
            while missing := wanted - self.ready.keys():
                self._news.clear()
                if len(missing) > len(wanted) // 20:  # looking costs as much as there is to look at
                    await asyncio.sleep(0.05)
                await self._news.wait()
        return [self.ready[key] for key in wanted]


@asynccontextmanager
async def following(api: Api, version: str) -> AsyncIterator[Following]:
    """Follow the machines from a resource version on."""
    found = Following()

    async def follow() -> None:
        params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(int(WATCH_SECONDS))}
        async for line in api.lines(VMS, params, WATCH_SECONDS):
            found.take(line)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        yield found
        task.cancel()
