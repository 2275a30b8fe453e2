"""OperationService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from common import v1

from providerkit.operations import Operations

from .context import Context


class OperationServicer:
    """Translates OperationService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def get_operation(self, request: v1.GetOperationRequest, context: Context) -> v1.GetOperationResponse:
        """One operation as it is now."""
        return v1.GetOperationResponse(operation=self._operations.get(request.id))

    async def list_operations(self, request: v1.ListOperationsRequest, context: Context) -> v1.ListOperationsResponse:
        """Those that run and those that ended in the last hour."""
        return v1.ListOperationsResponse(operations=self._operations.known(request.subject))

    async def cancel_operation(
        self, request: v1.CancelOperationRequest, context: Context
    ) -> v1.CancelOperationResponse:
        """Ask one to stop."""
        return v1.CancelOperationResponse(operation=self._operations.cancel(request.id))

    async def watch_operation(
        self, request: v1.WatchOperationRequest, context: Context
    ) -> AsyncIterator[v1.WatchOperationResponse]:
        """Follow one to its end."""
        async for operation in self._operations.watch(request.id):
            yield v1.WatchOperationResponse(operation=operation)
