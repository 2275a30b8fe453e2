"""What a machine costs, in counts that no busy computer changes: writes, calls, and nothing when nobody touches it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .following import following
from .rig import Process, Rig, rig
from .throughput import create, quiet

MACHINES = 10
WRITES = 3
"""Of the controller for a new machine: its finalizer, where it is to be made, and what it is."""
CALLS = 1


async def counts(found: Rig, controller: Process, provider: Process) -> tuple[float, float, float]:
    """Writes to VirtualMachines, calls to the provider, and looks at VirtualMachines so far."""
    return (
        await found.metric(controller, "virtrigaud_api_writes_total", kind="VirtualMachine"),
        await found.calls(provider),
        await found.metric(controller, "virtrigaud_manager_reconcile_total", kind="VirtualMachine"),
    )


@pytest.mark.timeout(400)  # several processes start
async def test_a_machine_costs_its_writes_and_one_call_and_nothing_when_idle(tmp_path: Path) -> None:
    async with (
        rig(tmp_path) as found,
        found.provider("one") as provider,
        found.controller("--resync", "1s") as controller,
        following(found.api, str(await found.revision())) as followed,
    ):
        await found.many([create("first")])  # has the image prepared
        await followed.wait(["first"])
        await quiet(found)
        writes, calls, _ = await counts(found, controller, provider)
        names = [f"vm-{number}" for number in range(MACHINES)]
        await found.many(create(name) for name in names)
        await followed.wait(names)
        await quiet(found)
        made = await counts(found, controller, provider)
        assert (made[0] - writes, made[1] - calls) == (WRITES * MACHINES, CALLS * MACHINES)
        revision = await found.revision()
        async with asyncio.timeout(200):
            while (now := await counts(found, controller, provider))[2] < made[2] + 2 * MACHINES:  # noqa: ASYNC110  # a metric
                await asyncio.sleep(0.1)
        assert (now[:2], await found.revision()) == (made[:2], revision), "an idle machine was written or asked for"
