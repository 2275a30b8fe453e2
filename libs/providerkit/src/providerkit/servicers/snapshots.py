"""SnapshotService on the wire; a driver without snapshots refuses each call by itself."""

from __future__ import annotations

from common import v1
from common.errors import MachineNotFoundError

from providerkit.driver import Driver
from providerkit.machines import Machines
from providerkit.operations import Job
from providerkit.snapshots import require_possible

from .context import Context


class SnapshotServicer:
    """Translates SnapshotService; every change holds the machine, like any other change of it."""

    def __init__(self, driver: Driver, machines: Machines) -> None:
        self._driver = driver
        self._machines = machines

    async def create_snapshot(self, request: v1.CreateSnapshotRequest, context: Context) -> v1.CreateSnapshotResponse:
        """Take a snapshot."""
        facts = await self._driver.describe()
        require_possible(request, facts.capabilities or v1.Capabilities())

        async def body(job: Job[v1.Snapshot | None]) -> v1.Snapshot | None:
            return await self._driver.create_snapshot(request, job.progress)

        remaining, uid = context.time_remaining(), request.machine_uid
        snapshot, operation = await self._machines.exclusive(
            "create-snapshot", uid, request.uid, body, remaining=remaining
        )
        return v1.CreateSnapshotResponse(snapshot=snapshot, operation=operation)

    async def delete_snapshot(self, request: v1.DeleteSnapshotRequest, context: Context) -> v1.DeleteSnapshotResponse:
        """Remove a snapshot."""

        async def body(job: Job[None]) -> None:
            await self._driver.delete_snapshot(request, job.progress)

        remaining, uid = context.time_remaining(), request.machine_uid
        try:
            _, operation = await self._machines.exclusive(
                "delete-snapshot", uid, f"{request.uid} {request.children}", body, remaining=remaining
            )
        except MachineNotFoundError:
            return v1.DeleteSnapshotResponse(gone=True)  # its snapshots went with it
        return v1.DeleteSnapshotResponse(gone=operation is None, operation=operation)

    async def revert_snapshot(self, request: v1.RevertSnapshotRequest, context: Context) -> v1.RevertSnapshotResponse:
        """Put a machine back to a snapshot."""

        async def body(job: Job[None]) -> None:
            await self._driver.revert_snapshot(request, job.progress)

        remaining, uid = context.time_remaining(), request.machine_uid
        _, operation = await self._machines.exclusive("revert-snapshot", uid, request.uid, body, remaining=remaining)
        return v1.RevertSnapshotResponse(operation=operation)

    async def list_snapshots(self, request: v1.ListSnapshotsRequest, context: Context) -> v1.ListSnapshotsResponse:
        """The snapshot tree."""
        return v1.ListSnapshotsResponse(snapshots=await self._driver.list_snapshots(request.machine_uid))
