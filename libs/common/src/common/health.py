"""Whether each service can do its work now: the standard gRPC health service, tied to checks, with the reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from common import logging, redact
from common.clock import Clock, SystemClock
from common.errors import OutcomeUnknownError, ProviderError

log = logging.get(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Serving status by service; "" is the sum of all. Nothing serves before it is said to."""

    def __init__(self) -> None:
        self.servicer = aio.HealthServicer()
        self._problems: dict[str, str] = {}
        self._stopping = False

    async def set(self, service: str, problem: str | None) -> None:
        """Say what keeps a service from serving; None means that it serves."""
        if self._stopping:
            return
        problem = redact.text(problem) if problem is not None else None  # `/readyz` shows it to whoever asks
        before = self._problems.get(service)
        self._problems[service] = problem or ""
        if before != (problem or ""):
            log.info("health.changed", watched=service, serving=problem is None, reason=problem)
        await self.servicer.set(service, _NOT_SERVING if problem else _SERVING)
        await self._set_sum()

    def problems(self) -> list[str]:
        """What keeps the whole from serving, for `/readyz`; empty means ready."""
        if self._stopping:
            return ["shutting down"]
        return [f"{service}: {problem}" for service, problem in sorted(self._problems.items()) if problem]

    async def stop(self) -> None:
        """NOT_SERVING from now on, whatever is said later."""
        self._stopping = True
        await self.servicer.enter_graceful_shutdown()

    async def follow(
        self,
        service: str,
        check: Callable[[], Awaitable[object]],
        *,
        interval: float = 10.0,
        timeout: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        """Keep a service's status at what its check says, until cancelled.

        Args:
            check: one real question to what the service depends on; raises ProviderError when the answer is no.
            interval: seconds between checks.
            timeout: seconds after which no answer is a no.
        """
        clock = clock or SystemClock()
        while True:
            await self.set(service, await _problem(check, timeout))
            await clock.sleep(interval)

    async def _set_sum(self) -> None:
        await self.servicer.set("", _NOT_SERVING if self.problems() else _SERVING)


async def _problem(check: Callable[[], Awaitable[object]], timeout: float) -> str | None:
    try:
        async with asyncio.timeout(timeout):
            await check()
    except ProviderError as error:
        return str(error) or error.reason
    except TimeoutError:
        return f"{OutcomeUnknownError('').reason}: no answer within {timeout:g} s"
    except Exception:
        log.exception("health.check.failed")
        return "the check itself failed; see the log"
    return None
