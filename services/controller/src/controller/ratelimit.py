"""How many calls a second one provider gets."""

from __future__ import annotations

from common.clock import Clock


class RateLimit:
    """A token bucket on the given clock."""

    def __init__(self, clock: Clock, qps: float, burst: int) -> None:
        self._clock, self._qps, self._burst = clock, qps, burst
        self._tokens, self._at = float(burst), clock.monotonic()

    async def wait(self) -> None:
        """Take a token, when there is one."""
        if self._qps <= 0:
            return
        now = self._clock.monotonic()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._qps)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await self._clock.sleep(-self._tokens / self._qps)
