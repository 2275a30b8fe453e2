"""Today's controller, as a process, with a provider of the release before and of the one after."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .peers import After, Before, peer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services" / "controller" / "tests"))

from controller_harness import (  # a sibling of the controller's own tests
    Cluster,
    api_server,
    condition,
    controller,
    furnish,
    hypervisor,
    machine,
    ready,
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with api_server(tmp_path / "api") as found:
        yield found


@pytest.mark.parametrize("release", [Before(), After()], ids=["before", "after"])
async def test_a_machine_lives_its_life(cluster: Cluster, tmp_path: Path, release: Before | After) -> None:
    """Made once, changed, seen when others act on it, and gone."""
    async with (
        hypervisor() as (world, spec),
        peer(spec["runtime"]["address"], release) as address,
        controller(cluster, tmp_path / "home", "--owner", "test-installation", "--runtime", "external"),
    ):
        await furnish(cluster, "shop", **{**spec, "runtime": {**spec["runtime"], "address": address}})
        await cluster.create("VirtualMachine", "shop", "web", machine())
        web = await cluster.wait("VirtualMachine", "shop", "web", ready)
        uid = web["metadata"]["uid"]
        assert list(world.machines) == [uid]

        await cluster.patch("VirtualMachine", "shop", "web", {"spec": {"powerState": "Off"}})
        await cluster.wait(
            "VirtualMachine", "shop", "web", lambda item: item["status"].get("powerState") == "Off" and ready(item)
        )
        world.remove_behind_our_back(uid)
        await cluster.wait(
            "VirtualMachine", "shop", "web", lambda item: condition(item, "Ready")["reason"] == "MachineMissing"
        )
        assert world.machines == {}, "it was not made twice"
        await cluster.delete("VirtualMachine", "shop", "web")
        await cluster.gone("VirtualMachine", "shop", "web")
