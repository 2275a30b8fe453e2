"""A connection to a simulated Proxmox VE, and the small words that the tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common.clock import SystemClock
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox, pve
from simulators.proxmox.world import Guest

__all__ = ["pve"]  # the simulated cluster, a fixture

OWNER = "tests"


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


async def eventually(holds: Callable[[], object], changes: Callable[[], Any]) -> None:
    """Wait for changes until something holds."""
    while not holds():
        await changes()
