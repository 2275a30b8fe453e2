"""Provider: keeps its server running, holds the connection to it, and reports health and capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec
from common import logging, v1
from common.clock import Clock
from common.errors import ProviderError
from kinds import duration
from kinds.provider import (
    Provider,
    ProviderStatus,
    ProviderStatusRuntime,
    ReportedCapabilities,
)

from .badobjects import providers_of
from .conditions import Wish, find, merged, timestamp
from .connection import Connection, Health, HealthPolicy, Limits
from .connections import Connections
from .events import NORMAL, WARNING, Recorder
from .fields import provider_reports, wish_of
from .holds import Hold
from .index import Index
from .informer import Name
from .metrics import Metrics
from .objects import subject_of
from .references import Caches
from .runtime import API_REFUSED, Runtime, RuntimeState
from .status import DELETE_BLOCKED, FIELDS_IGNORED, READY
from .writer import Writer

log = logging.get(__name__)

FINALIZER = "provider.infra.virtrigaud.io/finalizer"
RUNTIME_READY, AVAILABLE, TLS = "ProviderRuntimeReady", "ProviderAvailable", "TLSConfigured"
CAPABILITIES = "CapabilitiesReported"
UNTRUSTED = ("WrongServer", "ClientRefused", "CertificateLapsed")
"""Reasons of a connection on which one side does not take the other for whom it should be."""
OWNED = (READY, RUNTIME_READY, AVAILABLE, TLS, CAPABILITIES, DELETE_BLOCKED, FIELDS_IGNORED)
REFUSED = "CredentialsRefused"
"""Reason of a connection whose hypervisor does not take our credentials."""
LOOK = 60.0
"""Seconds between two looks at the Secrets that a server depends on."""
LOOK_STARTING = 5.0
"""The same while a server starts, or waits for a Secret: nobody watches Secrets, nor pods, which alone tell why they do
not run."""
LOOK_REFUSED = 5.0
"""The same while the hypervisor, the server, or the API server refuses us: somebody is about to correct it."""
LASTING = ("ProcessEnded", API_REFUSED)
"""Reasons of a failure that leaves the connection: the server comes back at its place, or has never gone."""


class ProviderReconciler:
    """One Provider at a time."""

    kind = "Provider"

    def __init__(
        self,
        caches: Caches,
        index: Index,
        connections: Connections,
        runtimes: Mapping[str, Runtime],
        default_mode: str,
        writer: Writer,
        recorder: Recorder,
        metrics: Metrics,
        clock: Clock,
        wake: Callable[[str], None],
        wake_users: Callable[[Provider], None],
    ) -> None:
        """Args: wake: look at the Provider with this UID. wake_users: look at the machines of a Provider."""
        self._caches, self._index, self._connections, self._runtimes = caches, index, connections, runtimes
        self._default_mode, self._writer, self._recorder = default_mode, writer, recorder
        self._metrics, self._clock, self._wake, self._wake_users = metrics, clock, wake, wake_users
        self._available: dict[str, bool] = {}
        self._held: dict[Name, str] = {}
        """UIDs of Providers that something is held for: a connection, a server, series of metrics."""

    def holds(self, name: Name) -> bool:
        """Whether there is something to let go of when the object is gone."""
        return name in self._held

    async def reconcile(self, name: Name) -> float | None:
        """Make its server run, hold the connection, report."""
        provider, held = self._caches.providers.get(*name), self._held.get(name)
        gone = name not in self._caches.providers.bad and (provider is None or provider.metadata.uid != held)
        if held is not None and gone:
            log.warning("provider.finalizer.taken", provider="/".join(name))
            await self._let_go(name, held)
        if provider is None:
            return None
        self._held[name] = provider.metadata.uid
        if provider.metadata.deletion_timestamp and not self._users(provider):
            if self._cleaning(provider):
                return 1.0
            await self._release(provider)
            return None
        if not provider.metadata.deletion_timestamp:
            provider = await self._writer.add_finalizer(self._caches.providers, provider, FINALIZER)
        mode = self._mode(provider)
        await self._remove(
            provider.metadata.uid, [each for each in self._runtimes if each != mode]
        )  # it may have had another mode
        state = await self._runtimes[mode].ensure(provider)
        connection = self._connect(provider, state)
        await self._report(provider, state, connection)
        refused = state.reason == API_REFUSED or (
            connection is not None and connection.health.reason in (REFUSED, *UNTRUSTED)
        )
        if state.phase in ("Pending", "Starting"):
            return LOOK_STARTING
        return LOOK_REFUSED if refused else LOOK

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """A setting that cannot be understood."""
        provider = self._caches.providers.get(*name)
        if provider is not None:
            state = RuntimeState("Failed", "InvalidConfiguration", str(error))
            await self._report(provider, state, None)

    def _users(self, provider: Provider) -> frozenset[Name]:
        """Machines on it, those that cannot be read included."""
        name = (provider.metadata.namespace, provider.metadata.name)
        unread = {machine for machine, bad in self._caches.machines.bad.items() if name in providers_of(bad)}
        return self._index.users("Provider", *name) | unread

    def _cleaning(self, provider: Provider) -> bool:
        """An image that goes at the same time (a namespace that is deleted) still has to be removed through it.

        Only while the hypervisor answers: a dead one must not hold its own object for ever.
        """
        connection = self._connections.get(provider.metadata.uid)
        if connection is None or not connection.health.healthy:
            return False
        return any(
            image.metadata.deletion_timestamp and entry.provider_uid == provider.metadata.uid and entry.id
            for image in self._caches.images.values()
            for entry in image.status.provider_status.values()
        )

    def _mode(self, provider: Provider) -> str:
        mode = provider.spec.runtime.mode if provider.spec.runtime is not None else "Remote"
        return self._default_mode if mode == "Remote" else mode

    def _connect(self, provider: Provider, state: RuntimeState) -> Connection | None:
        uid = provider.metadata.uid
        if state.target is None:
            if state.phase == "Failed" and state.reason not in LASTING:
                self._connections.close(uid)
            return self._connections.get(uid)
        label = f"{provider.metadata.namespace}/{provider.metadata.name}"
        return self._connections.ensure(
            uid, label, state.target, health_policy(provider), limits(provider), lambda: self._wake(uid)
        )

    async def _report(self, provider: Provider, state: RuntimeState, connection: Connection | None) -> None:
        users = self._users(provider)
        health = connection.health if connection is not None and state.target is not None else None
        info = connection.known.info if connection is not None else None
        status = provider_status(provider, state, self._mode(provider), health, info, len(users), self._clock.now())
        await self._writer.status(self._caches.providers, provider, status)
        self._metrics.providers.up(f"{provider.metadata.namespace}/{provider.metadata.name}", bool(status.healthy))
        available, known = bool(status.healthy), self._available.get(provider.metadata.uid)
        if (bool(provider.status.healthy) if known is None else known) != available:
            told = find(status.conditions, AVAILABLE)
            message = told.message if told is not None else ""
            kind, reason = (NORMAL, "Available") if available else (WARNING, "Unavailable")
            self._recorder.record(subject_of(provider, self.kind), kind, reason, message)
        judged = state.phase == "Failed" or (health is not None and health.healthy is not None)
        first = judged and self._connections.judge(provider.metadata.uid)
        # Whatever an earlier controller told: this one may have made its users wait, for a verdict if for nothing else.
        if first or (available and not known):
            self._wake_users(provider)
        self._available[provider.metadata.uid] = available
        ignored, told = find(status.conditions, FIELDS_IGNORED), find(provider.status.conditions, FIELDS_IGNORED)
        if ignored is not None and (told is None or told.message != ignored.message):
            self._recorder.record(subject_of(provider, self.kind), WARNING, FIELDS_IGNORED, ignored.message)
        if provider.metadata.deletion_timestamp and not any(
            condition.type == DELETE_BLOCKED for condition in provider.status.conditions
        ):
            message = f"removal waits: VirtualMachine {'/'.join(min(users))} is on it" if users else "removal waits"
            self._recorder.record(subject_of(provider, self.kind), WARNING, DELETE_BLOCKED, message)

    async def _release(self, provider: Provider) -> None:
        await self._let_go((provider.metadata.namespace, provider.metadata.name), provider.metadata.uid)
        await self._writer.remove_finalizer(self._caches.providers, provider, FINALIZER)

    async def _let_go(self, name: Name, uid: str) -> None:
        """Of all that is held for a Provider that goes, or is gone because somebody took its finalizer away."""
        self._connections.close(uid)
        await self._remove(uid, self._runtimes)
        self._available.pop(uid, None)
        self._metrics.providers.gone("/".join(name))
        self._held.pop(name, None)

    async def _remove(self, uid: str, modes: Iterable[str]) -> None:
        """End the servers of these modes; of most there is none."""
        for mode in modes:
            await self._runtimes[mode].remove(uid)


def health_policy(provider: Provider) -> HealthPolicy:
    """spec.healthCheck as numbers. Raises: Hold: a duration that cannot be."""
    spec = provider.spec.health_check
    if spec is None:
        return HealthPolicy()
    return HealthPolicy(
        enabled=spec.enabled,
        interval=max(0.1, _seconds(spec.interval, "spec.healthCheck.interval")),
        timeout=max(0.1, _seconds(spec.timeout, "spec.healthCheck.timeout")),
        failures=spec.failure_threshold,
        successes=spec.success_threshold,
    )


def limits(provider: Provider) -> Limits:
    """spec.connectionPooling and spec.rateLimit as limits of our calls."""
    pooling, rate = provider.spec.connection_pooling, provider.spec.rate_limit
    concurrent = pooling.max_connections if pooling is not None else Limits.concurrent
    if rate is None:
        return Limits(concurrent)
    return Limits(concurrent, float(rate.qps), rate.burst)


def _seconds(text: str, where: str) -> float:
    try:
        return duration.parse(text)
    except ValueError as error:
        raise Hold("InvalidConfiguration", f"{where}: {error}") from error


def provider_status(
    provider: Provider,
    state: RuntimeState,
    mode: str,
    health: Health | None,
    info: v1.GetProviderResponse | None,
    users: int,
    now: datetime,
) -> ProviderStatus:
    """The status of a Provider: pure."""
    before = provider.status
    status = msgspec.structs.replace(before)
    status.observed_generation = provider.metadata.generation
    status.connected_vms = users
    status.runtime = ProviderStatusRuntime(
        phase=state.phase,
        mode=mode,  # type: ignore[arg-type]  # one of the schema's words, by construction
        message=state.message,
        endpoint=state.target.address if state.target is not None else None,
    )
    healthy = health.healthy if health is not None else (None if state.phase in ("Pending", "Starting") else False)
    if healthy is not before.healthy and healthy is not None:
        status.last_health_check = timestamp(now)
    status.healthy = bool(healthy)
    if info is not None:
        status.version = info.hypervisor or None
        can = info.capabilities or v1.Capabilities()
        status.reported_capabilities = reported(can)
        status.capabilities = coarse(can)  # type: ignore[assignment]  # words of the schema, by its table
    wishes = _wishes(provider, state, health, info, users) + wish_of(provider_reports(provider, mode))
    status.conditions = merged(before.conditions, wishes, OWNED, provider.metadata.generation, now)
    return status


def _wishes(
    provider: Provider, state: RuntimeState, health: Health | None, info: v1.GetProviderResponse | None, users: int
) -> list[Wish]:
    running = state.phase == "Running"
    wishes = [
        Wish(RUNTIME_READY, "True" if running else "False", state.reason, state.message),
        _tls(provider, state, health),
    ]
    if state.target is None:
        available = Wish(AVAILABLE, "False", state.reason, state.message)
    elif health is None or health.healthy is None:
        message = health.message if health is not None else "not connected yet"
        available = Wish(AVAILABLE, "Unknown", "Connecting", message)
    else:
        available = Wish(AVAILABLE, "True" if health.healthy else "False", health.reason, health.message)
    wishes.append(available)
    if info is not None:
        version = f"{info.type} provider {info.version}".strip()
        wishes.append(Wish(CAPABILITIES, "True", "CapabilitiesFetched", f"reported by {version}"))
    else:
        wishes.append(Wish(CAPABILITIES, "False", "CapabilitiesUnavailable", "the provider has not told them yet"))
    if provider.metadata.deletion_timestamp:
        message = (
            f"removal waits: {'VirtualMachines' if users != 1 else 'a VirtualMachine'} still on it; delete them first"
        )
        wishes.append(Wish(DELETE_BLOCKED, "True", "InUse", message))
        wishes.append(Wish(READY, "False", "Deleting", message))
    elif not running:
        wishes.append(Wish(READY, "False", state.reason, state.message))  # also where an older server works on
    else:
        wishes.append(Wish(READY, available.status, available.reason, available.message))
    return wishes


def _tls(provider: Provider, state: RuntimeState, health: Health | None = None) -> Wish:
    service = provider.spec.runtime.service if provider.spec.runtime is not None else None
    if health is not None and health.reason in UNTRUSTED:
        return Wish(TLS, "False", health.reason, health.message)
    if state.target is not None and state.target.tls is not None:
        return Wish(TLS, "True", "Enabled", "calls to the provider server use mutual TLS")
    if state.target is not None:
        return Wish(
            TLS, "False", "ExplicitlyDisabled", "calls to the provider server are in plain text, as the object says"
        )
    if state.reason in ("SecretRefMissing", "TLSInvalid"):
        return Wish(TLS, "False", state.reason, state.message)
    if service is not None and service.tls is not None and not service.tls.enabled:
        return Wish(TLS, "False", "ExplicitlyDisabled", "the object asks for plain text")
    return Wish(TLS, "Unknown", state.reason, state.message)


def reported(can: v1.Capabilities) -> ReportedCapabilities:
    """Capabilities in the words of the API."""
    return ReportedCapabilities(
        supported_disk_types=list(can.image_formats),
        supported_network_types=list(can.nic_models),
        supports_disk_expansion_online=can.disk_online_grow,
        supports_disk_export=can.disk_read,
        supports_disk_import=can.disk_write,
        supports_image_import=can.image_import,
        supports_linked_clones=can.linked_clone,
        supports_memory_snapshots=can.memory_snapshots,
        supports_reconfigure_online=can.cpu_hot_add or can.memory_hot_add,
        supports_snapshots=can.snapshots,
        supports_image_artifact_identity=can.image_import,
        supports_honest_reconfigure=True,
    )


def coarse(can: v1.Capabilities) -> list[str]:
    """The older, coarse list."""
    have = {
        "VirtualMachines": True,
        "Snapshots": can.snapshots,
        "Cloning": can.full_clone or can.linked_clone,
        "ConsoleAccess": bool(can.consoles),
        "DiskManagement": can.disk_hot_add or can.disk_offline_change,
        "NetworkManagement": can.nic_hot_add or can.nic_offline_change,
        "GPUPassthrough": can.gpu,
        "Templates": can.image_import,
    }
    return [name for name, given in have.items() if given]
