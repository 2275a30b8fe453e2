"""Every part of a provider server, built and joined: what the runner and in-process tests serve alike."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from common import logging
from common.clock import Clock, SystemClock
from common.errors import ProviderError
from common.rpc import Server
from common.tls import ServerCredentials
from prometheus_client import REGISTRY, CollectorRegistry

from .access import PACKAGE, access, of_namespace
from .consoles import Consoles
from .driver import Driver
from .figures import Figures
from .images import Images
from .machines import Machines, MachineSettings
from .metrics import Metrics
from .operations import Operations
from .servicers.disks import DiskServicer
from .servicers.images import ImageServicer
from .servicers.inventory import InventoryServicer
from .servicers.machines import MachineServicer
from .servicers.operations import OperationServicer
from .servicers.provider import ProviderServicer
from .servicers.snapshots import SnapshotServicer
from .waiting import wait_event
from .watch import Hub, HubSettings

log = logging.get(__name__)

ALWAYS = ("ProviderService", "OperationService")
"""Services that work without the hypervisor."""
DEPENDENT = ("MachineService", "SnapshotService", "ImageService", "DiskService", "InventoryService")
"""Services that are NOT_SERVING while the hypervisor is away."""


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How a provider is served; seconds."""

    listen: str = "127.0.0.1:0"
    insecure: bool = False
    allowed_clients: Collection[str] = of_namespace()
    """Who may call, as `access.access` takes it."""
    owner: str = ""
    version: str = ""
    """Version of the provider; empty takes the kit's own."""
    grace: float = 10.0
    """How long open calls and operations may go on at the end."""
    health_interval: float = 10.0
    health_timeout: float = 5.0
    hub: HubSettings = field(default_factory=HubSettings)
    machines: MachineSettings = field(default_factory=MachineSettings)


@dataclass(frozen=True, slots=True)
class Serving:
    """A provider that serves."""

    server: Server
    hub: Hub
    machines: Machines
    operations: Operations


@asynccontextmanager
async def serve(
    driver: Driver,
    settings: ServingSettings,
    *,
    credentials: ServerCredentials | None = None,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = REGISTRY,
    server: Server | None = None,
) -> AsyncIterator[Serving]:
    """Serve a driver while the context is open; on a server of the caller's, or on one that the settings describe.

    At the end: health says NOT_SERVING, streams end, open calls and operations finish within the grace; what still runs
    then is left to the hypervisor, and the session is closed.

    Raises:
        ListenError: the address cannot be served.
    """
    clock = clock or SystemClock()
    metrics = _metrics(registry) if registry is not None else None
    async with driver.session(), Operations(clock, metrics) as operations, asyncio.TaskGroup() as group:
        hub = Hub(
            driver,
            clock,
            operation_of=lambda uid: machines.jobs.operation_of(uid),
            withheld=lambda uid: machines.jobs.awaited(uid),
            settings=settings.hub,
            metrics=metrics,
        )
        machines = Machines(driver, hub, operations, clock, owner=settings.owner, settings=settings.machines)
        images = Images(driver, operations, clock, owner=settings.owner, short_wait=settings.machines.short_wait)
        allowed = access(settings.allowed_clients)
        server = server or Server(
            settings.listen,
            credentials,
            insecure=settings.insecure,
            allowed_clients=allowed.roles,
            may_call=allowed.may_call,
            grace=settings.grace,
            registry=registry,
        )
        provider = ProviderServicer(
            driver,
            clock,
            owner=settings.owner,
            version=settings.version or importlib.metadata.version("virtrigaud-providerkit"),
            instance=machines.fence.instance,
            max_concurrent_changes=settings.machines.max_concurrent_changes,
        )
        for service, servicer in {
            "ProviderService": provider,
            "MachineService": MachineServicer(machines, hub, Consoles(driver, hub)),
            "SnapshotService": SnapshotServicer(driver, machines),
            "ImageService": ImageServicer(images),
            "DiskService": DiskServicer(driver, machines),
            "OperationService": OperationServicer(operations),
            "InventoryService": InventoryServicer(driver),
        }.items():
            server.bind(f"{PACKAGE}.{service}", servicer)
        background = [
            group.create_task(hub.run(), name="watch hub"),
            group.create_task(_follow_health(server, driver, hub, clock, settings), name="health"),
        ]
        shown = metrics.showing(Figures(hub, operations, clock)) if metrics is not None else nullcontext()
        try:
            with shown:
                async with server:
                    yield Serving(server, hub, machines, operations)
                if not await operations.drain(settings.grace):
                    log.warning("provider.drain.unfinished", grace_seconds=settings.grace)
        finally:
            for task in background:
                task.cancel()


@functools.cache
def _metrics(registry: CollectorRegistry) -> Metrics:
    """One set per registry, whoever serves on it one after the other."""
    return Metrics(registry)


async def _follow_health(server: Server, driver: Driver, hub: Hub, clock: Clock, settings: ServingSettings) -> None:
    """Keep each service's health at what the hypervisor's session says, at once when the hub sees it turn."""
    for service in ALWAYS:
        await server.health.set(f"{PACKAGE}.{service}", None)
    while True:
        hub.turned.clear()
        problem = await _problem(driver, settings.health_timeout)
        if problem is not None and hub.available:
            hub.suspect(None)  # the hub has not noticed: let it look, and tell its subscribers
        if problem is None and hub.fault is not None:
            problem = str(hub.fault)
        for service in DEPENDENT:
            await server.health.set(f"{PACKAGE}.{service}", problem)
        await wait_event(hub.turned, clock, settings.health_interval)


async def _problem(driver: Driver, timeout: float) -> str | None:
    try:
        async with asyncio.timeout(timeout):
            await driver.check()
    except ProviderError as error:
        return str(error) or error.reason
    except TimeoutError:
        return f"the hypervisor gave no answer in {timeout:g} s"
    except Exception:
        log.exception("health.check.bug")
        return "the check itself failed; see the log"
    return None
