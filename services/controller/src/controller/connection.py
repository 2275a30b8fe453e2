"""One provider, as the controller speaks to it: channel, limits, breaker, health, and the stream of its machines.

A call that hangs costs its own deadline and a slot of its own provider; no other provider notices.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from common import logging, rpc, status, tracing, v1
from common.clock import Clock
from common.errors import (
    CertificateLapsedError,
    HypervisorUnavailableError,
    InternalError,
    OutcomeUnknownError,
    ProviderError,
    WrongServerError,
)
from common.identity import Server
from common.tls import TlsFiles

from .breaker import COUNTED, Breaker, State
from .known import Known
from .metrics import Metrics
from .ratelimit import RateLimit

log = logging.get(__name__)

PACKAGE = "virtrigaud.provider.v1"
HEARTBEAT = 20.0
SILENCE = 3 * HEARTBEAT
"""Seconds without a message after which a watch stream is taken for dead."""
CALL = 30.0
"""Deadline of a call that finishes, seconds; long work is an operation and has none."""
FIRST_RETRY, MOST_RETRY = 0.25, 15.0


@dataclass(frozen=True)
class Target:
    """Where a provider serves, and how it is spoken to. None for tls: plain text, asked for explicitly."""

    address: str
    tls: TlsFiles | None
    server: Server | None = None
    """Whose server it must be; always there with tls."""

    def __post_init__(self) -> None:
        if self.tls is not None and self.server is None:
            raise ValueError(f"dialling {self.address} with TLS needs the server that is expected there")


@dataclass(frozen=True)
class HealthPolicy:
    """spec.healthCheck; seconds."""

    enabled: bool = True
    interval: float = 30.0
    timeout: float = 10.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True)
class Limits:
    """spec.connectionPooling.maxConnections and spec.rateLimit; qps 0 means unlimited."""

    concurrent: int = 10
    qps: float = 0.0
    burst: int = 20


@dataclass(frozen=True)
class Health:
    """What the probes say. None: no verdict yet."""

    healthy: bool | None = None
    reason: str = "Connecting"
    message: str = "no probe has ended yet"


Dial = Callable[[Target], Any]
"""Makes the channel to a server; Any: what `common.rpc.connect` gives, or what stands for it."""


def dial(target: Target) -> Any:
    """A gRPC channel."""
    if target.tls is None:
        return rpc.connect(target.address, None, insecure=True)
    return rpc.connect(target.address, target.tls, server=target.server)


class Connection:
    """Run `run()` in a task group. `wake` gets the UID of each machine or image that something happened to."""

    def __init__(
        self,
        name: str,
        target: Target,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        *,
        policy: HealthPolicy,
        limits: Limits,
        wake: Callable[[str], None],
        changed: Callable[[], None],
        dial: Dial = dial,
    ) -> None:
        """Args: name: "namespace/name" of the Provider. changed: called when its health or what it can changed."""
        self._dial = dial
        self.name, self.target, self.policy, self.limits = name, target, policy, limits
        self._clock, self._rng, self._metrics, self._wake, self._changed = clock, rng, metrics, wake, changed
        self.breaker = Breaker(clock, name)
        metrics.providers.breaker(name, self.breaker.state.value)
        self.health = Health()
        self.synced = asyncio.Event()
        """The stream of machines is whole: `known` is how they are now."""
        self.known = Known(clock, metrics, wake, self._well)
        self._slots = asyncio.Semaphore(limits.concurrent)
        self._rate = RateLimit(clock, limits.qps, limits.burst)
        self._channel: Any = None
        self._distrust: ProviderError | None = None
        """Why whoever answers there is not called."""
        self._group: asyncio.TaskGroup | None = None
        self._followed: set[str] = set()
        self._probe_now = asyncio.Event()

    # -- calls -----------------------------------------------------------------------------------------------------

    async def call(self, service: str, method: str, request: Any, timeout: float = CALL) -> Any:
        """One RPC: `call("MachineService", "apply_machine", request)`. Any: the message type follows from the method.

        Raises:
            ProviderError: as the provider said; HypervisorUnavailableError at once while the breaker is open.
        """
        self._open_channel()  # first: a connection that is still being made is no silence of the provider
        self.breaker.allow()
        try:
            async with asyncio.timeout(timeout), self._slots:
                await self._rate.wait()
                answer = await self._send(service, method, request, timeout)
        except TimeoutError as error:
            # Also when the slot did not come free: as much a sign of a hanging provider as a call that hangs.
            unknown = OutcomeUnknownError(f"{method} on provider {self.name}: no answer within {timeout:g} s")
            self._record(unknown)
            raise unknown from error
        except BaseException as error:
            self._record(error)
            raise
        self._record(None)
        return answer

    async def _send(self, service: str, method: str, request: Any, timeout: float) -> Any:
        channel = self._open_channel()
        send, generation = getattr(rpc.stub(channel, f"{PACKAGE}.{service}"), method), channel.generation
        with tracing.span(f"provider {method}", provider=self.name), self._metrics.providers.rpc(self.name, method):
            try:
                return await send(request, timeout=timeout)
            except CertificateLapsedError:
                if not channel.renewed(generation, now=True):
                    raise
                return await send(request, timeout=timeout)  # nothing was done, and there is a newer one to show

    def _record(self, error: BaseException | None) -> None:
        before = self.breaker.state
        self.breaker.record(error)
        if isinstance(error, COUNTED):
            self._metrics.providers.breaker_failure(self.name)
        if self.breaker.state is not before:
            log.info("breaker.changed", provider=self.name, state=self.breaker.state.name)
            self._metrics.providers.breaker(self.name, self.breaker.state.value)
            self._probe_now.set()

    def _open_channel(self) -> Any:
        if self._channel is None:
            raise HypervisorUnavailableError(f"provider {self.name} is not connected yet")
        if self._distrust is not None:
            raise WrongServerError(str(self._distrust))
        return self._channel

    async def _examine(self, channel: Any = None) -> ProviderError | None:
        """See who answers there. One who is not meant is not called until he is gone."""
        found: ProviderError | None = await (channel or self._channel).examine()
        distrust = found if isinstance(found, WrongServerError) else None
        if (distrust is None) != (self._distrust is None):
            log.warning("provider.server.judged", provider=self.name, problem=str(distrust or ""))
        self._distrust = distrust
        return found

    def fence(self, generation: int) -> v1.Fence:
        """What a request that changes a machine rests on. Args: generation: of the object.

        Raises:
            HypervisorUnavailableError: the server has not told yet which one it is.
        """
        if self.known.info is None:
            raise HypervisorUnavailableError(f"provider {self.name} is not connected yet")
        return v1.Fence(generation=generation, instance=self.known.info.instance)

    def follow(self, operation: v1.Operation, uid: str) -> None:
        """Wake `uid` when the operation has ended; at most one follower per operation."""
        if operation.id in self._followed or self._group is None:
            return
        self._followed.add(operation.id)
        self._group.create_task(self._follow(operation.id, uid), name=f"operation {operation.id}")

    async def _follow(self, operation_id: str, uid: str) -> None:
        request = v1.WatchOperationRequest(id=operation_id)
        operation: v1.Operation | None = None
        try:
            stub = rpc.stub(self._open_channel(), f"{PACKAGE}.OperationService")
            async for answer in stub.watch_operation(request, timeout=None):
                operation = answer.operation or operation
            good = (v1.OperationState.RUNNING, v1.OperationState.SUCCEEDED)  # running: it goes on elsewhere
            if operation is not None and operation.state not in good:
                self.known.failures[uid] = (operation.kind, _end_of(operation))
        except ProviderError as error:
            # The server was restarted, or the stream broke: the next look at the machine tells what became of it.
            log.info("operation.lost", provider=self.name, operation=operation_id, error=str(error))
        finally:
            self._followed.discard(operation_id)
        self._wake(uid)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hold the channel, follow the machines, probe the health; until cancelled."""
        try:
            async with self._dial(self.target) as channel:
                await self._examine(channel)  # before anybody else has the channel
                self._channel = channel
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    group.create_task(self._watch_forever(), name=f"watch {self.name}")
                    group.create_task(self._probe_forever(), name=f"health {self.name}")
        finally:
            self._channel = self._group = None

    async def _watch_forever(self) -> None:
        revision, delay, channel = "", FIRST_RETRY, self._channel
        while True:
            generation = channel.generation
            try:
                if (problem := await self._examine()) is not None:
                    raise problem
                await self._describe()
                async for seen in self._watch(revision):
                    revision, delay = seen, FIRST_RETRY
                continue  # over a new connection, from where the old one was
            except ProviderError as error:
                if isinstance(error, CertificateLapsedError) and channel.renewed(generation, now=True):
                    continue
                log.info("provider.watch.interrupted", provider=self.name, error=str(error))
            self.synced.clear()
            self._probe_now.set()
            await self._clock.sleep(delay * (1 + self._rng.random()))
            delay = min(MOST_RETRY, delay * 2)

    async def _describe(self) -> None:
        stub = rpc.stub(self._open_channel(), f"{PACKAGE}.ProviderService")
        info = await stub.get_provider(v1.GetProviderRequest(), timeout=self.policy.timeout)
        if info != self.known.info:
            self.known.info = info
            self._metrics.providers.known(self.name, info.type, info.version)
            self._changed()

    async def _watch(self, revision: str) -> AsyncIterator[str]:
        """Follow one stream; yields each revision that is safe to resume from.

        Ends when its connection is not the one of other calls any more.
        """
        channel = self._open_channel()
        stub, generation = rpc.stub(channel, f"{PACKAGE}.MachineService"), channel.generation
        request = v1.WatchMachinesRequest(resume_revision=revision, heartbeat=timedelta(seconds=HEARTBEAT))
        stream = stub.watch_machines(request, timeout=None)
        snapshot: set[str] | None = None
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    message = await anext(stream, None)
            except TimeoutError as error:
                raise HypervisorUnavailableError(f"provider {self.name} has gone silent") from error
            if message is None:
                raise HypervisorUnavailableError(f"provider {self.name} ended the watch")
            if message.snapshot_start:
                snapshot = set()
            for event in message.events:
                self.known.take(event, snapshot)
            if message.snapshot_complete and snapshot is not None:
                self.known.keep(snapshot)
                snapshot = None
            if snapshot is None:
                if not self.synced.is_set():
                    self.synced.set()
                    self._probe_now.set()
                yield message.revision
                if channel.renewed(generation):
                    stream.cancel()
                    return

    # -- health ----------------------------------------------------------------------------------------------------

    def _well(self) -> bool:
        return self.synced.is_set() and self.health.healthy is True and self.breaker.state is State.CLOSED

    async def _probe_forever(self) -> None:
        """Probe at the policy's interval; sooner while it fails, after a broken stream, or when the breaker moves."""
        bad = good = 0
        while True:
            self._probe_now.clear()
            error = await self._probe()
            if error is None:
                good, bad = good + 1, 0
                self.breaker.reset()
                self._metrics.providers.breaker(self.name, self.breaker.state.value)
                if self.health.healthy is not True and good >= self.policy.successes:
                    self.verdict(Health(True, "Connected", "the hypervisor answers"))
                delay = self.policy.interval if self.health.healthy else min(1.0, self.policy.interval)
            else:
                bad, good = bad + 1, 0
                if bad >= self.policy.failures or not self.policy.enabled:
                    self.verdict(Health(False, error.reason, str(error)))
                delay = min(self.policy.interval, 0.5 * 2 ** min(bad, 10))
            await self._pause(delay)

    async def _pause(self, delay: float) -> None:
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(self._clock.sleep(delay), name="next probe"),
                group.create_task(self._probe_soon(), name="probe asked for"),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _probe_soon(self) -> None:
        await self._probe_now.wait()
        await self._clock.sleep(0.2)  # a burst of reasons is one reason

    async def _probe(self) -> ProviderError | None:
        if not self.policy.enabled:
            return None if self.synced.is_set() else HypervisorUnavailableError(f"provider {self.name} does not answer")
        if not self.health.healthy and (problem := await self._examine()) is not None:
            return problem
        try:
            with tracing.unseen():
                await self._check()
        except (HypervisorUnavailableError, OutcomeUnknownError) as error:
            return await self._examine() or error  # gRPC's own words tell neither whom it met, nor whom it should have
        except ProviderError as error:
            return error
        except TimeoutError:
            return HypervisorUnavailableError(f"provider {self.name} gave no answer within {self.policy.timeout:g} s")
        return None

    async def _check(self) -> None:
        async with asyncio.timeout(self.policy.timeout):
            stub = rpc.stub(self._open_channel(), f"{PACKAGE}.ProviderService")
            await stub.check_connection(v1.CheckConnectionRequest(), timeout=self.policy.timeout)

    def verdict(self, health: Health) -> None:
        """This is how it is from now on; said once."""
        if health != self.health:
            log.info("provider.health", provider=self.name, healthy=health.healthy, reason=health.reason)
            self.health = health
            self._changed()


def _end_of(operation: v1.Operation) -> ProviderError:
    """Why it did not succeed; an end that nobody here knows is none that may be repeated without a pause."""
    if operation.error is not None:
        return status.from_wire(operation.error)
    match operation.state:
        case v1.OperationState.FAILED | v1.OperationState.CANCELLED:
            return InternalError(f"{operation.kind} failed")
        case state:
            said = f"a state that this controller does not know: {int(state)}"
            return InternalError(f"{operation.kind}: the provider says that it ended in {said}")
