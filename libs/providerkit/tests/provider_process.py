"""The fake provider as a real process, and what drives it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from common import rpc, v1
from common.rpc import Channel, Stub
from providerkit.serving import PACKAGE

OWNER = "runner-tests"
GIB = 1 << 30


class Process:
    """A provider process and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, object]] = []
        self.address = ""

    async def wait_event(self, name: str) -> dict[str, object]:
        """Read its log until this event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stderr.readline():
                self.log.append(json.loads(line))
                if self.log[-1]["event"] == name:
                    return self.log[-1]
        raise AssertionError(f"the process ended before {name}: {self.log}")

    async def wait_ended(self) -> int:
        """Read the rest of its log; answers with its exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            self.log += [json.loads(line) async for line in self.process.stderr]
            return await self.process.wait()


@asynccontextmanager
async def started(*flags: str, environment: Mapping[str, str] = {}) -> AsyncIterator[Process]:
    """A provider process on a free port, ended at the end whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "providerkit.fake", "--listen-address", "127.0.0.1:0", "--owner", OWNER, *flags,
        env={**os.environ, **environment}, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    started = Process(process)
    try:
        started.address = str((await started.wait_event("provider.ready"))["address"])
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def machines(channel: Channel) -> Stub:
    return rpc.stub(channel, f"{PACKAGE}.MachineService")


def spec(uid: str) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="n", name="m"),
        disks=[v1.DiskSpec(name="root", size_bytes=GIB), v1.DiskSpec(name="data", size_bytes=GIB)],
        power=v1.PowerSpec(state=v1.PowerState.ON),
    )
