"""The worker loop: takes keys, catches what reconcilers raise, reports it, and decides when to look again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, Protocol

from common import logging, status, tracing
from common.clock import Clock
from common.errors import ProviderError
from common.status import Action

from .api import ApiError, ApiUnavailableError, ConflictError, NotFoundError
from .backoff import Backoff
from .holds import Hold
from .informer import Name
from .metrics import Metrics
from .queue import WorkQueue

log = logging.get(__name__)


class Key(NamedTuple):
    """What a queue holds."""

    kind: str
    namespace: str
    name: str


def _where(key: Key) -> dict[str, str]:
    """As it stands in logs."""
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}


class Reconciler(Protocol):
    """One kind's rules."""

    @property
    def kind(self) -> str: ...

    async def reconcile(self, name: Name) -> float | None:
        """Bring one object closer to its spec; answers with seconds until the next look, None for no own wish."""
        ...

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """Put what stopped the reconcile into the object's conditions."""
        ...


class Worker:
    """Run `run()` in a task group. Concurrency is bounded per lane by the queue."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        reconcilers: Mapping[str, Reconciler],
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        resync: float,
        version: Callable[[Key], int | None],
        stands: Callable[[Key], bool],
        look: Callable[[Key], AbstractContextManager[None]] = lambda key: nullcontext(),
    ) -> None:
        """Args:
        resync: seconds after which a settled object is looked at again, jittered; a safety net.
        version: generation of an object; None for one that is gone.
        stands: whether nothing differs from the last look, so that this one can be spared.
        look: held around each look, and around what is said of it.
        """
        self._queue, self._reconcilers, self._clock, self._rng = queue, reconcilers, clock, rng
        self._version, self._stands, self._look = version, stands, look
        self._metrics, self._resync = metrics, resync
        self.backoff = Backoff(rng)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(), name="queue timers")
            while True:
                key = await self._queue.get()
                if self._spared(key):
                    self._metrics.work.unchanged(key.kind)
                    self._ended(key, None)
                    await asyncio.sleep(0)  # a large fleet must not hold up everything else
                else:
                    group.create_task(self._work(key), name=f"{key.kind} {key.namespace}/{key.name}")

    def _spared(self, key: Key) -> bool:
        """A look more does no harm; one that never comes leaves an object alone."""
        try:
            return self._stands(key)
        except Exception:
            log.exception("reconcile.stands.bug", **_where(key))
            return False

    async def _work(self, key: Key) -> None:
        delay = None
        try:
            with self._looking(key):
                delay = await self._reconcile(key)
        except Exception as error:  # noqa: BLE001  # one object must not end the work on all others
            delay = self._delay(key, None, error)
        finally:
            self._ended(key, delay)

    @contextmanager
    def _looking(self, key: Key) -> Iterator[None]:
        """The look as such; that it could not begin is told, and no reason to leave the object alone."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._look(key))
            except Exception:
                log.exception("reconcile.look.bug", **_where(key))
            yield

    def _ended(self, key: Key, delay: float | None) -> None:
        self._queue.done(key)
        if self._version(key) is None:
            self.backoff.succeeded(key)
            return
        if delay is None:
            delay = self._resync * (1 + self._rng.random())
        self._queue.add_after(key, delay)

    async def _reconcile(self, key: Key) -> float | None:
        """Seconds until the next look; None: the slow resync."""
        reconciler = self._reconcilers[key.kind]
        name, version = (key.namespace, key.name), self._version(key)
        try:
            with (
                self._span(key) if version is not None else nullcontext(),
                self._metrics.work.reconcile(key.kind),
            ):
                again = await reconciler.reconcile(name)
        except Exception as error:  # noqa: BLE001  # this is the one place that must outlive any reconcile
            return await self._failed(reconciler, key, version, error)
        self.backoff.succeeded(key)
        return again

    def _span(self, key: Key) -> AbstractContextManager[object]:
        """Waiting for something else, and being overtaken by another's write, are no failures."""
        return tracing.span(
            f"reconcile {key.kind}", expected=(Hold, ConflictError), k8s__namespace=key.namespace, k8s__object=key.name
        )

    async def _failed(self, reconciler: Reconciler, key: Key, version: int | None, error: Exception) -> float | None:
        if isinstance(error, ProviderError) or (isinstance(error, Hold) and not error.quiet):
            try:
                await reconciler.report((key.namespace, key.name), error)
            except Exception as second:  # noqa: BLE001  # the report is as fallible as the reconcile
                return self._delay(key, version, second)
        return self._delay(key, version, error)

    def _delay(self, key: Key, version: int | None, error: Exception) -> float | None:
        failed = partial(self.backoff.failed, key, version=version)
        where = _where(key)
        match error:
            case Hold():
                self.backoff.succeeded(key)
                return error.again
            case ProviderError():
                log.info("reconcile.failed", reason=error.reason, error=str(error), **where)
                return failed(status.action(error), error.retry_after)
            case ConflictError():
                return failed(Action.LOOK_AGAIN)
            case NotFoundError():
                return None  # the object went while it was worked on; its deletion wakes whoever cares
            case ApiUnavailableError():
                log.info("reconcile.api_unavailable", error=str(error), **where)
                return failed(Action.BACK_OFF, error.retry_after)
            case ApiError():
                log.warning("reconcile.refused", error=str(error), **where)
                return failed(Action.BACK_OFF_SLOWLY)
            case _:
                log.error("reconcile.bug", exc_info=error, **where)
                return failed(Action.BACK_OFF_SLOWLY)
