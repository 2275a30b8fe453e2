"""How long to wait before a repetition: by the class of the error, growing, with jitter."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass

from common.status import Action


@dataclass(frozen=True)
class Pace:
    """Delays of one class: `first`, doubled each time, at most `most`; seconds."""

    first: float
    most: float


PACES: dict[Action, Pace | None] = {
    Action.STOP: None,
    Action.LOOK_AGAIN: Pace(0.2, 10.0),
    Action.BACK_OFF: Pace(1.0, 60.0),
    Action.BACK_OFF_SLOWLY: Pace(15.0, 300.0),
}
JITTER = 0.25


class Backoff:
    """Failures in a row per key, of one version of it: what was edited since has not failed yet."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures: dict[Hashable, tuple[Hashable, int]] = {}

    def failed(
        self, key: Hashable, action: Action, retry_after: float | None = None, version: Hashable = None
    ) -> float | None:
        """Seconds until the next try; None: only a change of the object, or the slow resync, makes sense.

        Args: version: of the object that was tried: its generation.
        """
        pace = PACES[action]
        if pace is None:
            return None
        before, count = self._failures.get(key, (version, 0))
        if before != version:
            count = 0
        self._failures[key] = (version, count + 1)
        delay: float = min(pace.most, pace.first * 2 ** min(count, 32))
        delay *= 1 + self._rng.uniform(-JITTER, JITTER)
        return max(delay, retry_after or 0.0)

    def succeeded(self, key: Hashable) -> None:
        """Start over."""
        self._failures.pop(key, None)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._failures
