"""One provider, as the controller holds it: channel, limits, breaker, health, and the stream of its machines.

Keyed by the Provider's UID, so equal names in two namespaces share nothing. A call that hangs costs its own deadline
and a slot of its own provider; no other provider notices.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from common import logging, rpc, status, tracing, v1
from common.clock import Clock
from common.errors import (
    HypervisorUnavailableError,
    InternalError,
    OutcomeUnknownError,
    ProviderError,
    WrongServerError,
)
from common.identity import Server
from common.tls import TlsError, TlsFiles
from kinds.virtualmachine import VirtualMachine, VirtualMachineStatus

from .breaker import COUNTED, Breaker, State
from .metrics import Metrics
from .objects import created

log = logging.get(__name__)
T = TypeVar("T")

PACKAGE = "virtrigaud.provider.v1"
HEARTBEAT = 20.0
SILENCE = 3 * HEARTBEAT
"""Seconds without a message after which a watch stream is taken for dead."""
CALL = 30.0
"""Deadline of a call that finishes, seconds; long work is an operation and has none."""
FIRST_RETRY, MOST_RETRY = 0.25, 15.0
FIRST_VERDICT = 20.0
"""Seconds after the controller's start in which machines stay what they were last said to be, until it is known whether
their Provider can be used. Without it, each start would write to every machine that it is not, and then that it is."""


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


@dataclass(slots=True)
class _Settled:
    """An apply that left nothing to do."""

    asked: bytes
    token: str
    info: v1.GetProviderResponse | None
    pending: list[v1.Change]
    """What it would not do, and why."""
    ground: object | None = None
    """What the look rested on that has been reported since; None where that is not known."""


Dial = Callable[[Target], Any]
"""Makes the channel to a server; Any: what `common.rpc.connect` gives, or what stands for it."""


def dial(target: Target) -> Any:
    """A gRPC channel."""
    if target.tls is None:
        return rpc.connect(target.address, None, insecure=True)
    return rpc.connect(target.address, target.tls, server=target.server)


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
        """Args: name: "namespace/name" of the Provider. changed: called when health or `info` changed."""
        self._dial = dial
        self.name, self.target, self.policy, self.limits = name, target, policy, limits
        self._clock, self._rng, self._metrics, self._wake, self._changed = clock, rng, metrics, wake, changed
        self.breaker = Breaker(clock, name)
        metrics.breaker(name, self.breaker.state.value)
        self.health = Health()
        self.info: v1.GetProviderResponse | None = None
        self.machines: dict[str, v1.Machine] = {}
        """Last seen state per UID; complete while `synced` is set."""
        self.synced = asyncio.Event()
        self.failures: dict[str, tuple[str, ProviderError]] = {}
        """Kind and error of the last operation on a machine or image that failed; taken by the reconciler that acts."""
        self._settled: dict[str, _Settled] = {}
        self._changed_at: dict[str, float] = {}
        """Since when a machine has been told to be another (monotonic), by UID, until its status says so."""
        self._addressless: set[str] = set()
        """Machines made in our sight that have had no address yet."""
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
        stub = rpc.stub(self._open_channel(), f"{PACKAGE}.{service}")
        with tracing.span(f"provider {method}", provider=self.name), self._metrics.rpc(self.name, method):
            return await getattr(stub, method)(request, timeout=timeout)

    def _record(self, error: BaseException | None) -> None:
        before = self.breaker.state
        self.breaker.record(error)
        if isinstance(error, COUNTED):
            self._metrics.breaker_failure(self.name)
        if self.breaker.state is not before:
            log.info("breaker.changed", provider=self.name, state=self.breaker.state.name)
            self._metrics.breaker(self.name, self.breaker.state.value)
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
        if self.info is None:
            raise HypervisorUnavailableError(f"provider {self.name} is not connected yet")
        return v1.Fence(generation=generation, instance=self.info.instance)

    def settle(self, uid: str, asked: bytes, answer: v1.ApplyMachineResponse, before: v1.Machine | None) -> None:
        """Take over what an apply answered; one that left nothing to do is good until something differs.

        Args:
            asked: digest of all that the answer depends on, but for the machine.
            before: what was known of the machine when the provider was asked. Where the stream has told of another
                state meanwhile, nobody knows which is newer: it is asked again.
        """
        machine, told = answer.machine, self.machines.get(uid)
        self.remember(uid, machine)
        certain = told is before or (told is not None and machine is not None and told.token == machine.token)
        done = answer.operation is None and all(change.effect is not v1.Effect.ONLINE for change in answer.pending)
        if certain and done and machine is not None and not machine.operation_id:
            self._settled[uid] = _Settled(asked, machine.token, self.info, list(answer.pending))
        else:
            self._settled.pop(uid, None)

    def settled(self, uid: str, asked: bytes) -> v1.ApplyMachineResponse | None:
        """What an apply would answer, without asking: the same was asked before, and nothing differs since.

        Only while the stream of machines, which would tell of a difference, is whole, and the provider is well: one
        that hangs keeps its stream, and tells of nothing.
        """
        known = self._good(uid)
        if known is None or known.asked != asked:
            return None
        return v1.ApplyMachineResponse(machine=self.machines[uid], pending=known.pending)

    def _good(self, uid: str) -> _Settled | None:
        """The answer that is kept of a machine, if the machine has not changed since."""
        known, machine = self._settled.get(uid), self.machines.get(uid)
        well = self.synced.is_set() and self.health.healthy and self.breaker.state is State.CLOSED
        if known is None or machine is None or not well or machine.operation_id:
            return None
        return known if known.token == machine.token and known.info is self.info else None

    def note(self, uid: str, ground: object | None) -> None:
        """What was just reported of a machine rested on this."""
        if (known := self._settled.get(uid)) is not None:
            known.ground = ground

    def stands(self, uid: str, ground: object | None) -> bool:
        """Nothing differs from what was last reported: neither the machine nor the ground of the report."""
        known = self._good(uid)
        return known is not None and ground is not None and known.ground == ground and uid not in self.failures

    def reported(self, before: VirtualMachine, after: VirtualMachineStatus) -> None:
        """The status of a machine here was written, or says already what it shall: how long that took is noted."""
        uid, kind = before.metadata.uid, self.info.type if self.info is not None else ""
        if (since := self._changed_at.pop(uid, None)) is not None:
            self._metrics.drift(kind, self._clock.monotonic() - since)
        if after.id and not before.status.id:
            self._addressless.add(uid)
        if after.ips and uid in self._addressless:
            self._addressless.discard(uid)
            now = self._clock.now().timestamp()
            self._metrics.first_address(kind, now - created(before, now))

    def remember(self, uid: str, machine: v1.Machine | None) -> None:
        """Take over what a call has just seen, so that the stream's echo of it wakes nobody."""
        if machine is None:
            self.machines.pop(uid, None)
            self._settled.pop(uid, None)
            self._changed_at.pop(uid, None)
            self._addressless.discard(uid)
        else:
            self.machines[uid] = machine

    def take_failure(self, uid: str, kinds: Collection[str] = ()) -> ProviderError | None:
        """The error that the last operation on this machine or image ended with, once.

        Args: kinds: operations that the caller is about; the failure of another one is dropped. Empty: all.
        """
        kind, error = self.failures.pop(uid, ("", None))
        return error if not kinds or kind in kinds else None

    def follow(self, operation: v1.Operation, uid: str) -> None:
        """Wake `uid` when the operation has ended; at most one follower per operation."""
        if operation.id in self._followed or self._group is None:
            return
        self._followed.add(operation.id)
        self._group.create_task(self._follow(operation.id, uid), name=f"operation {operation.id}")

    async def _follow(self, operation_id: str, uid: str) -> None:
        request = v1.WatchOperationRequest(id=operation_id)
        try:
            stub = rpc.stub(self._open_channel(), f"{PACKAGE}.OperationService")
            async for answer in stub.watch_operation(request, timeout=None):
                operation = answer.operation
                if operation is not None and operation.state in (v1.OperationState.FAILED, v1.OperationState.CANCELLED):
                    error = operation.error
                    self.failures[uid] = (
                        operation.kind,
                        status.from_wire(error) if error is not None else InternalError(f"{operation.kind} failed"),
                    )
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
        revision, delay = "", FIRST_RETRY
        while True:
            try:
                if (problem := await self._examine()) is not None:
                    raise problem
                await self._describe()
                async for seen in self._watch(revision):
                    revision, delay = seen, FIRST_RETRY
            except ProviderError as error:
                log.info("provider.watch.interrupted", provider=self.name, error=str(error))
            self.synced.clear()
            self._probe_now.set()
            await self._clock.sleep(delay * (1 + self._rng.random()))
            delay = min(MOST_RETRY, delay * 2)

    async def _describe(self) -> None:
        stub = rpc.stub(self._open_channel(), f"{PACKAGE}.ProviderService")
        info = await stub.get_provider(v1.GetProviderRequest(), timeout=self.policy.timeout)
        if info != self.info:
            self.info = info
            self._metrics.provider_is(self.name, info.type, info.version)
            self._changed()

    async def _watch(self, revision: str) -> AsyncIterator[str]:
        """Follow one stream; yields each revision that is safe to resume from."""
        stub = rpc.stub(self._open_channel(), f"{PACKAGE}.MachineService")
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
                self._take(event, snapshot)
            if message.snapshot_complete and snapshot is not None:
                for uid in [uid for uid in self.machines if uid not in snapshot]:
                    self._removed(uid)
                snapshot = None
            if snapshot is None:
                if not self.synced.is_set():
                    self.synced.set()
                    self._probe_now.set()
                yield message.revision

    def _take(self, event: v1.MachineEvent, snapshot: set[str] | None) -> None:
        if event.removed is not None:
            self._removed(event.removed)
            return
        machine = event.changed
        if machine is None or machine.identity is None:
            return
        uid = machine.identity.uid
        if snapshot is not None:
            snapshot.add(uid)
        known = self.machines.get(uid)
        if known is None or (known.token, known.operation_id) != (machine.token, machine.operation_id):
            self.machines[uid] = machine
            if snapshot is None:  # when what a snapshot tells of has happened, nobody knows
                self._changed_at.setdefault(uid, self._clock.monotonic())
            self._wake(uid)

    def _removed(self, uid: str) -> None:
        self._settled.pop(uid, None)
        if self.machines.pop(uid, None) is not None:
            self._changed_at.setdefault(uid, self._clock.monotonic())
            self._wake(uid)

    # -- health ----------------------------------------------------------------------------------------------------

    async def _probe_forever(self) -> None:
        """Probe at the policy's interval; sooner while it fails, after a broken stream, or when the breaker moves."""
        bad = good = 0
        while True:
            self._probe_now.clear()
            error = await self._probe()
            if error is None:
                good, bad = good + 1, 0
                self.breaker.reset()
                self._metrics.breaker(self.name, self.breaker.state.value)
                if self.health.healthy is not True and good >= self.policy.successes:
                    self._verdict(Health(True, "Connected", "the hypervisor answers"))
                delay = self.policy.interval if self.health.healthy else min(1.0, self.policy.interval)
            else:
                bad, good = bad + 1, 0
                if bad >= self.policy.failures or not self.policy.enabled:
                    self._verdict(Health(False, error.reason, str(error)))
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
            async with asyncio.timeout(self.policy.timeout):
                stub = rpc.stub(self._open_channel(), f"{PACKAGE}.ProviderService")
                await stub.check_connection(v1.CheckConnectionRequest(), timeout=self.policy.timeout)
        except (HypervisorUnavailableError, OutcomeUnknownError) as error:
            return await self._examine() or error  # gRPC's own words tell neither whom it met, nor whom it should have
        except ProviderError as error:
            return error
        except TimeoutError:
            return HypervisorUnavailableError(f"provider {self.name} gave no answer within {self.policy.timeout:g} s")
        return None

    def _verdict(self, health: Health) -> None:
        if health != self.health:
            log.info("provider.health", provider=self.name, healthy=health.healthy, reason=health.reason)
            self.health = health
            self._changed()


class Connections:
    """All of them, by the Provider's UID. Run `run()` in a task group before the first `ensure`."""

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
            connection.machines.update(entry[0].machines)  # so that a new port does not look like a new fleet
            connection.info = entry[0].info
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
                connection._verdict(Health(False, "ConnectionFailed", message))
            await self._clock.sleep(delay * (1 + self._rng.random()))
            delay = min(MOST_RETRY, delay * 2)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error that a group of groups is about."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
