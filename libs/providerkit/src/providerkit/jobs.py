"""Which piece of work holds which machine: the table of jobs is the lock, and a machine has at most one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from common import v1
from common.clock import Clock
from common.errors import OperationInProgressError, ProviderError

from .operations import Job, Operations
from .watch import Hub

T = TypeVar("T")

_MAX_FAILURES = 10_000


class Patience:
    """How long a caller still waits; seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - self._clock.monotonic()


class Jobs:
    """By UID of the machine."""

    def __init__(self, operations: Operations, hub: Hub, clock: Clock, freed: Callable[[str], object]) -> None:
        """Args: freed: told the UID of a machine that nothing of ours holds any more, or only what was there before."""
        self._operations, self._hub, self._clock, self._freed = operations, hub, clock, freed
        self._jobs: dict[str, Job[object]] = {}
        self._failures: OrderedDict[str, tuple[str, ProviderError]] = OrderedDict()

    def get(self, uid: str) -> Job[object] | None:
        """What holds the machine now."""
        return self._jobs.get(uid)

    def operation_of(self, uid: str) -> str:
        """Id of the operation that runs on a machine and that a client may follow, or ""."""
        job = self._jobs.get(uid)
        return job.id if job is not None and job.shown else ""

    def awaited(self, uid: str) -> bool:
        """Whether work on a machine is so short, so far, that its caller still waits for the end of it."""
        job = self._jobs.get(uid)
        return job is not None and job.awaited > 0 and not job.shown

    def begin(
        self, kind: str, uid: str, body: Callable[[Job[T]], Awaitable[T]], digest: str = "",
        ahead: Job[object] | None = None,
    ) -> Job[T]:  # fmt: skip
        """Start the job that holds the machine from now on; the caller made sure that none does.

        Args:
            ahead: one that does still, for a body that waits for the end of `job.ahead`.
        """

        def free(job: Job[T]) -> None:
            if self._jobs.get(uid) is job:
                left = next((each for each in job.ahead if not each.ended.is_set()), None)
                if left is not None:  # cancelled before it could wait: the machine is not free
                    self._jobs[uid] = left
                else:
                    del self._jobs[uid]
                self._freed(uid)
            if digest and job.error is not None and job.record.state is v1.OperationState.FAILED:
                self._failures[uid] = (digest, job.error)
                while len(self._failures) > _MAX_FAILURES:
                    self._failures.popitem(last=False)
            self._hub.touch(uid)

        job = self._operations.start(kind, uid, body, at_end=free)
        if ahead is not None:
            job.ahead = tuple(each for each in (ahead, *ahead.ahead) if not each.ended.is_set())
        self._jobs[uid] = job  # type: ignore[assignment]  # the table does not care for the answer's type
        return job

    async def exclusive(
        self, kind: str, uid: str, body: Callable[[Job[T]], Awaitable[T]], patience: Patience, *, join: str
    ) -> Job[T]:
        """Begin work when nothing else holds the machine; the same work, if it runs already, is joined."""
        while (running := self._jobs.get(uid)) is not None:
            if join and running.begun_as == join:
                return running  # type: ignore[return-value]  # the same work has the same kind of answer
            if not await running.wait(self._clock, patience.left):
                text = f"{kind} machine {uid}: {running.record.kind} is running on it"
                raise OperationInProgressError(text, retry_after=1.0)
        job = self.begin(kind, uid, body)
        job.begun_as = join or kind
        return job

    async def wait(self, uid: str, job: Job[T], patience: Patience) -> bool:
        """Wait for the end of a job, or of the caller's patience; subscribers are told of the outcome alone."""
        job.awaited += 1
        try:
            return await job.wait(self._clock, patience.left)
        finally:
            job.awaited -= 1
            self._hub.touch(uid)

    def show(self, uid: str, job: Job[T]) -> v1.Operation:
        """The job as an operation, which its caller gets instead of a result."""
        shown = job.show()
        self._hub.touch(uid)
        return shown

    def raise_once(self, uid: str, digest: str) -> None:
        """Raise what the last work with this digest failed with, if nobody has been told yet."""
        failure = self._failures.pop(uid, None)
        if failure is not None and failure[0] == digest:
            raise failure[1]

    def forget_failure(self, uid: str) -> None:
        """Nobody need be told of it any more."""
        self._failures.pop(uid, None)


async def until_ended(jobs: tuple[Job[object], ...]) -> None:
    """Wait for the end of all of them, also when cancelled: a machine that another still works on is not free."""
    given_up: asyncio.CancelledError | None = None
    for job in jobs:
        while not job.ended.is_set():
            try:
                await job.ended.wait()
            except asyncio.CancelledError as error:
                given_up = error
    if given_up is not None:
        raise given_up
