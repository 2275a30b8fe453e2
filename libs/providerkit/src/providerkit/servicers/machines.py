"""MachineService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from common import v1

from providerkit.apply import ABSENT
from providerkit.consoles import Consoles
from providerkit.machines import Machines
from providerkit.watch import BATCH, Hub

from .context import Context, seconds

MIN_HEARTBEAT = 0.05


class MachineServicer:
    """Translates MachineService."""

    def __init__(self, machines: Machines, hub: Hub, consoles: Consoles) -> None:
        self._machines = machines
        self._hub = hub
        self._consoles = consoles

    async def plan_machine(self, request: v1.PlanMachineRequest, context: Context) -> v1.PlanMachineResponse:
        """What ApplyMachine would do."""
        changes, seen = await self._machines.plan(request.spec)
        return v1.PlanMachineResponse(
            changes=changes, precondition=seen.token if seen is not None else ABSENT, machine=seen
        )

    async def apply_machine(self, request: v1.ApplyMachineRequest, context: Context) -> v1.ApplyMachineResponse:
        """Bring a machine closer to its spec."""
        outcome = await self._machines.apply(request, remaining=context.time_remaining())
        return v1.ApplyMachineResponse(
            machine=outcome.machine, operation=outcome.operation, pending=outcome.pending, applied=outcome.applied
        )

    async def delete_machine(self, request: v1.DeleteMachineRequest, context: Context) -> v1.DeleteMachineResponse:
        """Remove a machine."""
        grace = None if request.graceful_timeout is None else seconds(request.graceful_timeout, 0.0)
        remaining = context.time_remaining()
        gone = await self._machines.delete(
            request.identity, retain=request.retain, grace=grace, remaining=remaining, fence=request.fence
        )
        return v1.DeleteMachineResponse(gone=gone.gone, operation=gone.operation)

    async def get_machine(self, request: v1.GetMachineRequest, context: Context) -> v1.GetMachineResponse:
        """Observe one machine."""
        return v1.GetMachineResponse(machine=await self._machines.get(request.uid))

    async def list_machines(
        self, request: v1.ListMachinesRequest, context: Context
    ) -> AsyncIterator[v1.ListMachinesResponse]:
        """Every machine, in batches."""
        machines = await self._machines.everything(include_foreign=request.include_foreign)
        for start in range(0, len(machines), BATCH):
            yield v1.ListMachinesResponse(machines=machines[start : start + BATCH])

    async def watch_machines(
        self, request: v1.WatchMachinesRequest, context: Context
    ) -> AsyncIterator[v1.WatchMachinesResponse]:
        """A snapshot or what was missed, then each change."""
        heartbeat = max(MIN_HEARTBEAT, seconds(request.heartbeat, 30.0))
        async for message in self._hub.subscribe(request.resume_revision, heartbeat):
            yield message

    async def run_power_action(self, request: v1.RunPowerActionRequest, context: Context) -> v1.RunPowerActionResponse:
        """One imperative power action."""
        outcome = await self._machines.act(request, remaining=context.time_remaining())
        return v1.RunPowerActionResponse(machine=outcome.machine, operation=outcome.operation)

    async def clone_machine(self, request: v1.CloneMachineRequest, context: Context) -> v1.CloneMachineResponse:
        """Copy a machine, where the provider can."""
        machine, operation = await self._machines.clone(request, remaining=context.time_remaining())
        return v1.CloneMachineResponse(machine=machine, operation=operation)

    async def open_console(
        self, requests: AsyncIterator[v1.OpenConsoleRequest], context: Context
    ) -> AsyncIterator[v1.OpenConsoleResponse]:
        """Carry a console session."""
        async for response in self._consoles.session(requests):
            yield response

    async def capture_screenshot(
        self, request: v1.CaptureScreenshotRequest, context: Context
    ) -> v1.CaptureScreenshotResponse:
        """One picture of the display."""
        return v1.CaptureScreenshotResponse(image=await self._machines.screenshot(request.uid))

    async def adopt_machine(self, request: v1.AdoptMachineRequest, context: Context) -> v1.AdoptMachineResponse:
        """Take a foreign machine over."""
        machine = await self._machines.adopt(request.identity, request.id, remaining=context.time_remaining())
        return v1.AdoptMachineResponse(machine=machine)
