"""A circuit breaker for one provider: after a row of failures it refuses at once, but for one probe now and then.

Only what says "the hypervisor is away" counts. A refused spec, a missing machine or a full host is an answer.
"""

from __future__ import annotations

from enum import Enum

from common.clock import Clock
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    OutcomeUnknownError,
    ProviderError,
)

COUNTED = (HypervisorUnavailableError, OutcomeUnknownError, CredentialsRefusedError)


class State(Enum):
    """As a gauge shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """`allow` before a call, `record` after it."""

    def __init__(self, clock: Clock, name: str, threshold: int = 5, first: float = 2.0, most: float = 30.0) -> None:
        """Args: threshold: failures in a row that open it. first, most: seconds it stays open, doubled each time."""
        self._clock, self._name, self._threshold, self._first, self._most = clock, name, threshold, first, most
        self.reset()

    def reset(self) -> None:
        """The provider was seen to answer."""
        self.state, self._failures, self._opened, self._until = State.CLOSED, 0, 0, 0.0

    def allow(self) -> None:
        """Raises: HypervisorUnavailableError: it is open, or its one probe is on the way."""
        if self.state is State.OPEN and self._clock.monotonic() >= self._until:
            self.state = State.HALF_OPEN
            return
        if self.state is not State.CLOSED:
            wait = max(0.5, self._until - self._clock.monotonic())
            raise HypervisorUnavailableError(f"provider {self._name} does not answer", retry_after=wait)

    def record(self, error: BaseException | None) -> None:
        """The outcome of a call that was allowed; a cancelled one frees the probe and says nothing else."""
        if error is None or (isinstance(error, ProviderError) and not isinstance(error, COUNTED)):
            self.reset()
        elif isinstance(error, COUNTED):
            self._failures += 1
            if self.state is State.HALF_OPEN or self._failures >= self._threshold:
                self._open()
        elif self.state is State.HALF_OPEN:
            self.state, self._until = State.OPEN, self._clock.monotonic()

    def _open(self) -> None:
        self.state = State.OPEN
        self._until = self._clock.monotonic() + min(self._most, self._first * 2 ** min(self._opened, 16))
        self._opened += 1
