"""What every provider owes those who follow long work."""

from __future__ import annotations

import pytest
from common import v1
from common.errors import HostFullError, OperationNotFoundError

from .subject import Subject


class OperationContract:
    """Get, list, cancel, watch."""

    async def test_P39_P41_an_operation_can_be_found_and_followed(self, subject: Subject) -> None:
        spec = subject.spec()
        async with subject.world.slow_create():
            answer = await subject.apply(spec)
            operation = answer.operation
            assert operation is not None
            assert operation.subject == spec.identity.uid
            assert operation.state is v1.OperationState.RUNNING
            assert operation.start_time is not None
            assert 0 <= operation.progress <= 1
            assert operation.phase
            got = await subject.operations.get_operation(
                v1.GetOperationRequest(id=operation.id), timeout=subject.pace.call
            )
            assert got.operation.id == operation.id
            assert await self._ids(subject, spec.identity.uid) == [operation.id]
        ended = await subject.ended(operation)
        assert ended.state is v1.OperationState.SUCCEEDED
        assert ended.progress == 1
        assert ended.end_time >= ended.start_time
        assert await self._ids(subject, spec.identity.uid) == [operation.id]
        assert await self._ids(subject, "somebody-else") == []

    async def test_an_ended_operation_stays_as_it_ended(self, subject: Subject) -> None:
        spec = subject.spec()
        async with subject.world.slow_create():
            operation = (await subject.apply(spec)).operation
            assert operation is not None
        ended = await subject.ended(operation)
        cancel = v1.CancelOperationRequest(id=operation.id)
        after = await subject.operations.cancel_operation(cancel, timeout=subject.pace.call)
        assert after.operation == ended

    async def test_a_failed_operation_tells_why_and_so_does_the_next_call(self, subject: Subject) -> None:
        spec = subject.spec()
        async with subject.world.slow_create():
            subject.faults.raises("machines.create.after", HostFullError("no room for it"))
            operation = (await subject.apply(spec)).operation
            assert operation is not None
        ended = await subject.ended(operation)
        assert ended.state is v1.OperationState.FAILED
        assert (ended.error.reason, ended.error.message) == ("HostFull", "no room for it")
        with pytest.raises(HostFullError, match="no room for it"):
            await subject.apply(spec)
        await subject.settle(spec)

    async def test_an_unknown_operation_is_not_found(self, subject: Subject) -> None:
        timeout = subject.pace.call
        for name in ("", "nowhere", "x" * 10_000):
            with pytest.raises(OperationNotFoundError):
                await subject.operations.get_operation(v1.GetOperationRequest(id=name), timeout=timeout)
            with pytest.raises(OperationNotFoundError):
                await subject.operations.cancel_operation(v1.CancelOperationRequest(id=name), timeout=timeout)
            with pytest.raises(OperationNotFoundError):
                await subject.ended(v1.Operation(id=name))

    async def test_settled_calls_leave_no_operations(self, subject: Subject) -> None:
        spec = subject.spec()
        await subject.settle(spec)
        for _ in range(3):
            await subject.apply(spec)
        assert len(await self._ids(subject, spec.identity.uid)) <= 1

    async def _ids(self, subject: Subject, about: str) -> list[str]:
        request = v1.ListOperationsRequest(subject=about)
        listed = await subject.operations.list_operations(request, timeout=subject.pace.call)
        return [operation.id for operation in listed.operations]
