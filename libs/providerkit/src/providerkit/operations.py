"""Long work: every piece has an owner, a record that clients follow, and an end that is remembered for an hour."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Generic, Self, TypeVar

from common import logging, status, v1
from common.clock import Clock
from common.errors import InternalError, OperationCancelledError, OperationNotFoundError, ProviderError

from .metrics import Metrics
from .waiting import wait_event

log = logging.get(__name__)

T = TypeVar("T")

RETENTION = timedelta(hours=1)
MAX_ENDED = 1000
"""Ended operations that are kept at most; the oldest go first."""

_RUNNING = v1.OperationState.RUNNING


class Job(Generic[T]):
    """One piece of work that runs: its record, its end, its outcome.

    A body reports through `progress` and asks `cancelled` whether a client (and not the end of the server) stopped it.
    """

    def __init__(self, kind: str, subject: str, now: datetime, at_end: Callable[[Job[T]], None] | None = None) -> None:
        self.record = v1.Operation(id=uuid.uuid4().hex, kind=kind, subject=subject, state=_RUNNING, start_time=now)
        self.begun_as = kind
        """What it was begun as; the record's kind may become more exact on the way ("apply" turns into "shutdown")."""
        self.ended = asyncio.Event()
        self.cancelled = False
        self.shown = False
        """A client knows its id, so that it must be found after its end."""
        self.awaited = 0
        """How many callers wait for its end, and have not been shown it."""
        self.ahead: tuple[Job[object], ...] = ()
        """Jobs on the same subject that had not ended when this one began; its body waits for them."""
        self.error: ProviderError | None = None
        self.value: T | None = None
        self._at_end = at_end
        self._task: asyncio.Task[None] | None = None
        self._watchers: dict[asyncio.Event, None] = {}

    @property
    def id(self) -> str:
        """Id of the operation."""
        return self.record.id

    def show(self) -> v1.Operation:
        """The record as it is now, for a client, who may then ask for it again."""
        self.shown = True
        return copy.copy(self.record)

    def progress(self, part: float, phase: str) -> None:
        """Note how far it is: 0..1, never backwards within a phase, and the step for people."""
        part = min(1.0, max(0.0, part))
        if phase == self.record.phase:
            part = max(part, self.record.progress)
        if (part, phase) != (self.record.progress, self.record.phase):
            self.record.progress, self.record.phase = part, phase
            self._tell()

    def cancel(self) -> None:
        """Ask it to stop; one that has ended stays as it ended."""
        if self.ended.is_set() or self.cancelled or self._task is None:
            return
        self.cancelled = True
        self._task.cancel()

    async def wait(self, clock: Clock, seconds: float) -> bool:
        """Wait for its end, at most this long; whether it has ended."""
        return await wait_event(self.ended, clock, seconds)

    def result(self) -> T:
        """What the ended work answered.

        Raises:
            ProviderError: what it failed with.
        """
        if self.error is not None:
            raise self.error
        assert self.ended.is_set()
        return self.value  # type: ignore[return-value]  # set by the body, whose type is T

    def _tell(self) -> None:
        for event in self._watchers:
            event.set()

    def _end(self, state: v1.OperationState, now: datetime, error: ProviderError | None = None) -> None:
        self.error = error
        self.record.state = state
        self.record.end_time = now
        if state is v1.OperationState.SUCCEEDED:
            self.record.progress = 1.0
        if state is v1.OperationState.FAILED and error is not None:
            self.record.error = status.to_wire(error)
        if self._at_end is not None:
            self._at_end(self)  # before anybody who waits for the end runs: what the job held is free then
        self.ended.set()
        self._tell()


class Operations:
    """Owner of all jobs: an async context whose end cancels what still runs."""

    def __init__(self, clock: Clock, metrics: Metrics | None = None) -> None:
        self._clock, self._metrics = clock, metrics
        self._jobs: dict[str, Job[object]] = {}
        self._group = asyncio.TaskGroup()
        self._running: dict[asyncio.Task[None], None] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._running):
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(
        self,
        kind: str,
        subject: str,
        body: Callable[[Job[T]], Awaitable[T]],
        *,
        at_end: Callable[[Job[T]], None] | None = None,
    ) -> Job[T]:
        """Begin work. What the body raises becomes the end of the job and goes no further.

        Args:
            at_end: called when the outcome is known and before anybody hears of it; whatever the body came to, even if
                it was cancelled before it began.
        """
        job: Job[T] = Job(kind, subject, self._clock.now(), at_end)
        if len(self._jobs) > 2 * MAX_ENDED:  # looking through them for each job would cost as much as the job
            self._prune()
        self._jobs[job.id] = job  # type: ignore[assignment]  # the table does not care for the answer's type
        task = self._group.create_task(self._run(job, body), name=f"{kind} {subject}")
        job._task = task  # the job and its owner are one thing in two classes
        self._running[task] = None
        self._idle.clear()
        task.add_done_callback(lambda task: self._left(job, task))
        return job

    def get(self, operation_id: str) -> v1.Operation:
        """One operation as it is now.

        Raises:
            OperationNotFoundError: unknown, or ended long ago, or begun by an earlier server.
        """
        return self._find(operation_id).show()

    def known(self, subject: str = "") -> list[v1.Operation]:
        """Those that run and those that ended in the last hour, oldest first; only of one subject if it is given."""
        self._prune()
        return [job.show() for job in self._jobs.values() if not subject or job.record.subject == subject]

    def running(self) -> list[v1.Operation]:
        """The records of those that run, shown to clients or not."""
        return [job.record for job in self._jobs.values() if not job.ended.is_set()]

    def cancel(self, operation_id: str) -> v1.Operation:
        """Ask an operation to stop, and answer with it as it is now."""
        job = self._find(operation_id)
        job.cancel()
        return job.show()

    async def watch(self, operation_id: str) -> AsyncIterator[v1.Operation]:
        """The operation now and after each change, the latest state at a time, until it has ended."""
        job = self._find(operation_id)
        event = asyncio.Event()
        job._watchers[event] = None
        try:
            while True:
                event.clear()
                over = job.ended.is_set()
                yield job.show()
                if over:
                    return
                await event.wait()
        finally:
            job._watchers.pop(event, None)

    async def drain(self, seconds: float) -> bool:
        """Let running work come to its end for at most this long; whether all of it did."""
        return await wait_event(self._idle, self._clock, seconds)

    async def _run(self, job: Job[T], body: Callable[[Job[T]], Awaitable[T]]) -> None:
        try:
            job.value = await body(job)
        except asyncio.CancelledError:
            self._end_cancelled(job)
            if not job.cancelled:
                raise  # the server ends: the cancellation is not ours to keep
        except ProviderError as error:
            job._end(v1.OperationState.FAILED, self._clock.now(), error)
            log.info("operation.failed", kind=job.record.kind, subject=job.record.subject, reason=error.reason)
        except Exception:
            log.exception("operation.bug", kind=job.record.kind, subject=job.record.subject)
            job._end(v1.OperationState.FAILED, self._clock.now(), InternalError("internal error"))
        else:
            job._end(v1.OperationState.SUCCEEDED, self._clock.now())

    def _end_cancelled(self, job: Job[T]) -> None:
        error = OperationCancelledError(f"{job.record.kind} of {job.record.subject} was cancelled")
        job._end(v1.OperationState.CANCELLED, self._clock.now(), error)

    def _find(self, operation_id: str) -> Job[object]:
        self._prune()
        job = self._jobs.get(operation_id)
        if job is None:
            raise OperationNotFoundError(
                f"operation {operation_id[:64]!r} is not known; the server may have been restarted"
            )
        return job

    def _left(self, job: Job[T], task: asyncio.Task[None]) -> None:
        if not job.ended.is_set():
            self._end_cancelled(job)  # cancelled before its first step, its body never ran
        self._count(job)
        if not job.shown:
            self._jobs.pop(job.id, None)
        self._running.pop(task, None)
        if not self._running:
            self._idle.set()

    def _count(self, job: Job[T]) -> None:
        record = job.record
        if self._metrics is not None and record.start_time is not None and record.end_time is not None:
            seconds = (record.end_time - record.start_time).total_seconds()
            self._metrics.ended(record.kind, (record.state.name or "unknown").lower(), seconds)

    def _prune(self) -> None:
        horizon = self._clock.now() - RETENTION
        ended = [job for job in self._jobs.values() if job.record.end_time is not None]
        surplus = len(ended) - MAX_ENDED
        for index, job in enumerate(ended):
            assert job.record.end_time is not None
            if index < surplus or job.record.end_time < horizon:
                del self._jobs[job.id]
