"""What takes effect late: requests that arrive after newer ones, and calls to the hypervisor that nobody waits for any
more. A machine must not come from either after its removal was told. Why so: docs/adr/0018-late-requests-are-fenced.md.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from common import v1
from common.clock import Clock
from common.errors import (
    HypervisorUnavailableError,
    OperationInProgressError,
    OutcomeUnknownError,
    StalePreconditionError,
)

MAX_REMEMBERED = 100_000
"""Machines whose last requests are remembered; the longest untouched are forgotten first."""


class Fence:
    """Refuses requests about machines that rest on less than this server has been told already."""

    def __init__(self) -> None:
        self.instance = uuid.uuid4().hex
        """Of this life of the server: what was sent to an earlier one is not for this one, which remembers nothing."""
        self._asked: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By UID the newest generation that was applied or removed, and the newest that was removed."""

    def apply(self, uid: str, fence: v1.Fence | None) -> None:
        """Note a request to apply.

        Raises:
            StalePreconditionError: a newer spec was applied, or the removal of the machine was asked for since.
        """
        newest, removed = self._admit("apply", uid, fence)
        if fence is None or not fence.generation:
            return
        if fence.generation <= removed:
            raise StalePreconditionError(f"apply machine {uid}: a newer request removes it")
        self._note(uid, max(newest, fence.generation), removed)

    def remove(self, uid: str, fence: v1.Fence | None) -> None:
        """Note a request to delete or release, before it is carried out.

        Raises:
            StalePreconditionError: a newer spec was applied since.
        """
        newest, removed = self._admit("delete", uid, fence)
        if fence is not None and fence.generation:
            self._note(uid, max(newest, fence.generation), max(removed, fence.generation))

    def _admit(self, what: str, uid: str, fence: v1.Fence | None) -> tuple[int, int]:
        newest, removed = self._asked.get(uid, (0, 0))
        if fence is not None and fence.instance not in ("", self.instance):
            raise StalePreconditionError(f"{what} machine {uid}: the server was restarted since; read what it is now")
        if fence is not None and 0 < fence.generation < newest:
            raise StalePreconditionError(f"{what} machine {uid}: the request is older than one that came before it")
        return newest, removed

    def _note(self, uid: str, newest: int, removed: int) -> None:
        self._asked[uid] = (newest, removed)
        self._asked.move_to_end(uid)
        while len(self._asked) > MAX_REMEMBERED:
            self._asked.popitem(last=False)


class Unsettled:
    """Creates that failed without an answer: the hypervisor may carry them out yet."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        """Args: seconds: how long the hypervisor may take to begin with what it was asked for."""
        self._clock, self._seconds = clock, seconds
        self._until: dict[str, float] = {}

    @contextmanager
    def noted(self, uid: str) -> Iterator[None]:
        """Held around a create: one that ends without an answer is noted."""
        try:
            yield
        except (HypervisorUnavailableError, OutcomeUnknownError):
            self._note(uid)
            raise

    def _note(self, uid: str) -> None:
        now = self._clock.monotonic()
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[uid] = now + self._seconds

    def refuse(self, doing: str, uid: str) -> None:
        """Told nothing of the machine is left, say whether that is sure to stay so.

        Raises:
            OperationInProgressError: not yet; with the time after which to look again.
        """
        left = self._until.get(uid, 0.0) - self._clock.monotonic()
        if left <= 0:
            self._until.pop(uid, None)
            return
        raise OperationInProgressError(
            f"{doing} machine {uid}: its creation failed without an answer and may still take effect; "
            f"looking again for {left:.0f} s",
            retry_after=min(left + 0.1, 5.0),
        )
