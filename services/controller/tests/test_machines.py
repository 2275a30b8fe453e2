"""VirtualMachines end to end: real API server, real controller, real provider process with a fake hypervisor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from controller_harness import Cluster, controller, furnish, machine, ready

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The home of the controller that runs for this module."""
    directory = tmp_path_factory.mktemp("home")
    async with controller(cluster, directory):
        yield directory


async def test_a_machine_is_made_and_removed(cluster: Cluster, home: Path, namespace: str):
    await furnish(cluster, namespace)
    await cluster.create("VirtualMachine", namespace, "web", machine())
    vm = await cluster.wait("VirtualMachine", namespace, "web", ready)
    status = vm["status"]
    assert status["phase"] == "Running"
    assert status["powerState"] == "On"
    assert status["boundProvider"]["name"] == "fake"
    assert status["id"]
    await cluster.delete("VirtualMachine", namespace, "web")
    await cluster.gone("VirtualMachine", namespace, "web")
