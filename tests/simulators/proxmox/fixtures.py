"""pytest fixtures around the simulated Proxmox VE."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .server import Proxmox, proxmox


@pytest.fixture
async def pve() -> AsyncIterator[Proxmox]:
    """A fresh cluster of three nodes for this test alone."""
    async with proxmox() as made:
        yield made
