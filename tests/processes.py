"""A provider as a process of its own: started, spoken to, killed. For the tests of every provider."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common import rpc, v1
from common.errors import OperationInProgressError
from common.rpc import Stub
from providerkit.serving import PACKAGE

START_SECONDS = 30.0
SETTLE_SECONDS = 60.0


class Provider:
    """A running process, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ready: Path) -> None:
        self.process = process
        self.log = log
        self.ready = ready

    @property
    def address(self) -> str:
        """host:port that it serves on."""
        return self.ready.read_text().strip()

    async def ended(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(START_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        """As the kernel would."""
        self.process.kill()
        await self.ended()

    @asynccontextmanager
    async def service(self, name: str) -> AsyncIterator[Stub]:
        """Calls to one of its services."""
        async with rpc.connect(self.address, insecure=True, registry=None) as channel:
            yield rpc.stub(channel, f"{PACKAGE}.{name}")

    @asynccontextmanager
    async def machines(self) -> AsyncIterator[Stub]:
        """Calls to its MachineService."""
        async with self.service("MachineService") as machines:
            yield machines


@asynccontextmanager
async def provider(module: str, home: Path, owner: str, *arguments: str, fault: str = "") -> AsyncIterator[Provider]:
    """Start it, wait until it serves, and end it.

    Args:
        module: Python module of its command: "provider_libvirt".
        home: for its log and ready file.
        fault: value of VIRTRIGAUD_FAULT.
    """
    ready, log = home / "ready", home / "log"
    ready.unlink(missing_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--owner", owner, "--insecure", "--listen-address", "127.0.0.1:0",
            "--ready-file", str(ready), *arguments,
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "VIRTRIGAUD_FAULT": fault},
        )  # fmt: skip
    try:
        async with asyncio.timeout(START_SECONDS):
            while not ready.exists():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield Provider(process, log, ready)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def settle(machines: Stub, spec: v1.MachineSpec, *, seconds: float = SETTLE_SECONDS) -> v1.Machine:
    """Apply until nothing is under way, as a controller does."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                answer = await machines.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=20)
            except OperationInProgressError:
                await asyncio.sleep(0.1)
                continue
            if answer.operation is None:
                assert answer.machine is not None
                machine: v1.Machine = answer.machine
                return machine


async def delete(machines: Stub, spec: v1.MachineSpec) -> None:
    """Delete until it is gone."""
    request = v1.DeleteMachineRequest(identity=spec.identity)
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            try:
                if (await machines.delete_machine(request, timeout=20)).gone:
                    return
            except OperationInProgressError:
                await asyncio.sleep(0.1)
