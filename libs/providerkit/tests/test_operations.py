"""Jobs: their ends, their records, their retention."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HostFullError, InternalError, OperationCancelledError, OperationNotFoundError
from providerkit.operations import MAX_ENDED, Job, Operations

State = v1.OperationState


async def _forever(job: Job[None]) -> None:
    await asyncio.Event().wait()


async def _full(job: Job[None]) -> None:
    raise HostFullError("no room")


async def _bug(job: Job[None]) -> None:
    raise KeyError("a secret detail")


async def _fine(job: Job[int]) -> int:
    return 7


async def test_a_job_answers() -> None:
    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", _fine)
        await job.ended.wait()
        assert job.result() == 7
        assert job.record.state is State.SUCCEEDED


async def test_a_failure_goes_no_further_than_its_job() -> None:
    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", _full)
        job.show()
        await job.ended.wait()
        with pytest.raises(HostFullError):
            job.result()
        assert operations.get(job.id).error == v1.Error(
            code=operations.get(job.id).error.code, reason="HostFull", message="no room"
        )


async def test_a_bug_is_told_without_its_details() -> None:
    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", _bug)
        await job.ended.wait()
        with pytest.raises(InternalError) as failure:
            job.result()
        assert "secret" not in str(failure.value)


@pytest.mark.parametrize("started", [False, True])
async def test_cancel_ends_a_job_even_before_its_first_step(started: bool) -> None:
    """Whatever a job holds is freed before anybody hears of its end."""
    freed: list[bool] = []
    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", _forever, at_end=lambda job: freed.append(job.ended.is_set()))
        job.show()
        if started:
            await asyncio.sleep(0)
        operations.cancel(job.id)
        await job.ended.wait()
        assert freed == [False]
        assert operations.get(job.id).state is State.CANCELLED
        with pytest.raises(OperationCancelledError):
            job.result()
        assert operations.cancel(job.id).state is State.CANCELLED


async def test_the_end_of_the_owner_ends_its_jobs() -> None:
    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", _forever)
        await asyncio.sleep(0)
    assert job.ended.is_set()
    assert job.record.state is State.CANCELLED


async def test_ended_operations_are_kept_for_an_hour() -> None:
    clock = ManualClock()
    async with Operations(clock) as operations:
        job = operations.start("create", "m", _fine)
        job.show()
        running = operations.start("create", "n", _forever)
        running.show()
        await job.ended.wait()
        await clock.advance(timedelta(minutes=59).total_seconds())
        assert operations.get(job.id).state is State.SUCCEEDED
        await clock.advance(timedelta(minutes=2).total_seconds())
        with pytest.raises(OperationNotFoundError):
            operations.get(job.id)
        assert [operation.id for operation in operations.known()] == [running.id]


async def test_the_number_of_ended_operations_is_bounded() -> None:
    async with Operations(ManualClock()) as operations:
        jobs = [operations.start("create", str(index), _fine) for index in range(MAX_ENDED + 50)]
        for job in jobs:
            job.show()
        for job in jobs:
            await job.ended.wait()
        assert len(operations.known()) == MAX_ENDED
        assert operations.known()[-1].id == jobs[-1].id


async def test_operations_that_nobody_saw_are_forgotten_at_once() -> None:
    """Settled calls, of which there are many, leave no trace."""
    async with Operations(ManualClock()) as operations:
        job = operations.start("apply", "m", _fine)
        await job.ended.wait()
        await asyncio.sleep(0)
        assert operations.known() == []


async def test_watching_shows_the_latest_state_and_the_end() -> None:
    steps: asyncio.Queue[tuple[float, str]] = asyncio.Queue()

    async def body(job: Job[None]) -> None:
        while (step := await steps.get())[1] != "end":
            job.progress(*step)
            steps.task_done()

    async with Operations(ManualClock()) as operations:
        job = operations.start("create", "m", body)
        watch = operations.watch(job.show().id)
        assert (await anext(watch)).progress == 0
        for part in (0.1, 0.5, 0.3):
            await steps.put((part, "copying"))
        await steps.join()
        latest = await anext(watch)
        assert (latest.progress, latest.phase) == (0.5, "copying"), "progress never goes back within a phase"
        await steps.put((1.0, "end"))
        assert (await anext(watch)).state is State.SUCCEEDED
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_drain_waits_for_running_work() -> None:
    clock, go = ManualClock(), asyncio.Event()

    async def body(job: Job[None]) -> None:
        await go.wait()

    async with Operations(clock) as operations:
        job = operations.start("create", "m", body)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(operations.drain(10))
            await clock.wait_sleeping()
            go.set()
        assert drained.result()
        assert job.ended.is_set()
        operations.start("create", "n", _forever)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(operations.drain(10))
            await clock.wait_sleeping()
            await clock.advance(11)
        assert not drained.result()
