"""The connections to all providers, by the Provider's UID, so that equal names in two namespaces share nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from common import logging, tracing
from common.clock import Clock
from common.tls import TlsError

from .connection import FIRST_RETRY, MOST_RETRY, Connection, Dial, Health, HealthPolicy, Limits, Target, dial
from .metrics import Metrics

log = logging.get(__name__)

FIRST_VERDICT = 20.0
"""Seconds after the controller's start in which machines stay what they were last said to be, until it is known whether
their Provider can be used. Without it, each start would write to every machine that it is not, and then that it is."""


class Connections:
    """Run `run()` in a task group before the first `ensure`."""

    def __init__(
        self, clock: Clock, rng: random.Random, metrics: Metrics, wake: Callable[[str], None], dial: Dial = dial
    ) -> None:
        self._clock, self._rng, self._metrics, self._wake, self._dial = clock, rng, metrics, wake, dial
        self._open: dict[str, tuple[Connection, asyncio.Task[None]]] = {}
        self._judged: set[str] = set()
        self._awaited: dict[str, float] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the connections' tasks, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    def judge(self, uid: str) -> bool:
        """It is known whether this Provider can be used; whether that is news since this controller started."""
        news = uid not in self._judged
        self._judged.add(uid)
        return news

    def unjudged(self, uid: str) -> float:
        """Seconds for which to wait, after the controller's start, until it is known whether a Provider can be used."""
        if uid in self._judged:
            return 0.0
        since = self._awaited.setdefault(uid, self._clock.monotonic())
        return max(0.0, since + FIRST_VERDICT - self._clock.monotonic())

    def get(self, uid: str) -> Connection | None:
        """The connection to a Provider, whether or not it answers."""
        entry = self._open.get(uid)
        return entry[0] if entry is not None else None

    def ensure(
        self, uid: str, name: str, target: Target, policy: HealthPolicy, limits: Limits, changed: Callable[[], None]
    ) -> Connection:
        """The connection to a Provider as it shall be now; one with other settings is replaced."""
        entry = self._open.get(uid)
        if entry is not None:
            connection = entry[0]
            if (connection.target, connection.policy, connection.limits) == (target, policy, limits):
                return connection
            self.close(uid)
        if self._group is None:
            raise RuntimeError("Connections.run() is not running")
        connection = Connection(
            name, target, self._clock, self._rng, self._metrics,
            policy=policy, limits=limits, wake=self._wake, changed=changed, dial=self._dial,
        )  # fmt: skip
        if entry is not None:
            connection.known.inherit(entry[0].known)
        with tracing.apart():
            task = self._group.create_task(self._run(connection), name=f"provider {name}")
        self._open[uid] = (connection, task)
        return connection

    def close(self, uid: str) -> None:
        """Let go of a Provider."""
        self._awaited.pop(uid, None)
        entry = self._open.pop(uid, None)
        if entry is not None:
            entry[1].cancel()

    async def _run(self, connection: Connection) -> None:
        """A connection that cannot even be set up (an unreadable certificate) says so in its health and tries again."""
        delay = FIRST_RETRY
        while True:
            try:
                await connection.run()
            except* (TlsError, ValueError, OSError) as group:  # whether its tasks raised it, or what comes before them
                message = f"connect to {connection.target.address}: {_first(group)}"
                connection.verdict(Health(False, "ConnectionFailed", message))
            except* Exception as group:  # one server, or what we make of its words, must not end the work on all others
                error = _first(group)
                log.error("provider.connection.bug", provider=connection.name, exc_info=error)
                message = f"connect to {connection.target.address}: internal error ({type(error).__name__})"
                connection.verdict(Health(False, "ConnectionFailed", message))
            await self._clock.sleep(delay * (1 + self._rng.random()))
            delay = min(MOST_RETRY, delay * 2)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error that a group of groups is about."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
