"""A connection to a simulated Proxmox VE, and the small words that the tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common import v1
from common.clock import ManualClock, SystemClock
from provider_proxmox import stamp
from provider_proxmox.session.index import Guest as Known
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox, pve
from simulators.proxmox.world import Guest

__all__ = ["pve"]  # the simulated cluster, a fixture

OWNER = "tests"
STEP = 0.1
TICK = 2.85


def credentials_of(server: Proxmox, directory: Path) -> Path:
    """What the Secret of a Provider becomes: a directory of files, with an API token."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "token_id").write_text(server.token_id)
    (directory / "token_secret").write_text(server.token_secret + "\n")
    (directory / "ca.crt").write_text(Path(server.ca_file).read_text())
    return directory


def person_of(server: Proxmox, directory: Path) -> Path:
    """The same, with a password."""
    credentials_of(server, directory)
    (directory / "token_id").unlink()
    (directory / "username").write_text(server.user)
    (directory / "password").write_text(server.password)
    return directory


@asynccontextmanager
async def connected(server: Proxmox, credentials: Path, **settings: Any) -> AsyncIterator[Pve]:
    """In session, with everything read."""
    cluster = Pve(Endpoint(tuple(server.urls), credentials=credentials), clock=SystemClock(), **settings)
    async with cluster.session():
        yield cluster


@pytest.fixture
async def cluster(pve: Proxmox, tmp_path: Path) -> AsyncIterator[Pve]:
    """In session on this test's simulated cluster."""
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        yield cluster


def vm(server: Proxmox, vmid: int, node: str = "pve1", **config: str) -> Guest:
    """A guest that is simply there."""
    return server.world.add_guest(vmid, node, {"name": f"vm{vmid}", "memory": "256", **config})


def uid_of(vmid: int) -> str:
    return f"6f1d7c6e-0000-4000-8000-{vmid:012d}"


def ours(server: Proxmox, vmid: int, node: str = "pve1", **config: str) -> None:
    """A guest with our stamp that is simply there."""
    identity = v1.MachineIdentity(uid=uid_of(vmid), namespace="shop", name=f"vm{vmid}", owner=OWNER)
    vm(server, vmid, node, description=stamp.written("", stamp.of(identity, vmid, 0)), **config)


class Watched:
    """A session whose clock stands still, and what it told."""

    def __init__(self, server: Proxmox, clock: ManualClock, pve: Pve) -> None:
        self.server = server
        self.clock = clock
        self.pve = pve
        self.told: list[str | None] = []
        pve.on_change(self.told.append)

    def guest(self, vmid: int) -> Known:
        return self.pve.index.guests[vmid]

    async def settled(self) -> None:
        """Wait until nothing is asked any more, nor by whoever got the last answer."""
        for _ in range(10):
            await self.pve.wait_quiet()
            await asyncio.sleep(0)

    async def go(self, seconds: float, until: Callable[[], object] = lambda: False, step: float = STEP) -> float:
        """Let time go by; whatever is asked in a step is answered before the next. The seconds that went by."""
        for number in range(round(seconds / step)):
            if until():
                return number * step
            await self.clock.advance(step)
            await self.settled()
        return seconds


@asynccontextmanager
async def watched(server: Proxmox, home: Path) -> AsyncIterator[Watched]:
    clock = ManualClock()
    endpoint = Endpoint(tuple(server.urls), credentials=credentials_of(server, home))
    pve = Pve(endpoint, clock=clock, tick=TICK)
    async with pve.session():
        yield Watched(server, clock, pve)


async def eventually(holds: Callable[[], object], changes: Callable[[], Any]) -> None:
    """Wait for changes until something holds."""
    while not holds():
        await changes()
