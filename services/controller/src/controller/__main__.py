"""`virtrigaud-controller`: builds everything, top to bottom, and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version

from common import faults, identity, logging, tracing
from common import metrics as common_metrics
from common.clock import Clock, SystemClock
from common.pki import Authority, End
from common.settings import SettingsError, load
from common.tls import TlsError
from prometheus_client import REGISTRY

from .api import Api, ApiError, connect
from .claims import Claim, Installation, TakenError
from .controller import Controller
from .files import write_private
from .installation import own_namespace, owner_id
from .leader import Leader, LeaseSettings, LostError
from .metrics import Metrics
from .runtime import Runtime
from .runtime.authority import ClusterAuthority
from .runtime.certificates import Certificates
from .runtime.external import ExternalRuntime
from .runtime.kubernetes import KubernetesRuntime
from .runtime.manifests import ServerSettings
from .runtime.process import ProcessRuntime, ProcessSettings
from .runtime.unsupported import UnsupportedRuntime
from .secrets import Secrets
from .settings import Settings

log = logging.get(__name__)

SERVICE = "virtrigaud-controller"
MODES = {"process": "Process", "external": "External", "kubernetes": "Kubernetes"}
API_RETRY = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    try:
        settings = load(Settings, argv, version=f"{SERVICE} {version(SERVICE)}")
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  # there is no log yet
        return 2
    logging.setup(SERVICE, settings.log_level, settings.log_format)
    faults.install_from_environment()
    try:
        asyncio.run(serve(settings, SystemClock(), random.Random()))
    except* (LostError, TakenError, TlsError, ValueError, OSError) as group:
        for leaf in _leaves(group):
            log.error("controller.stopped", message=str(leaf))
        return_code = 1
    else:
        return_code = 0
    return return_code


async def serve(settings: Settings, clock: Clock, rng: random.Random) -> None:
    """Run one controller until SIGTERM or SIGINT.

    Raises:
        LostError, TakenError: another leads, or serves the same objects; the process must be started anew.
        ValueError, OSError, TlsError: it cannot be set up.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(tracing.setup(SERVICE, settings.otlp_endpoint or None, version=version(SERVICE)))
        metrics = Metrics(REGISTRY)
        api = await stack.enter_async_context(connect(settings.kubeconfig, settings.context, metrics.api.asked))
        common_metrics.build_info(SERVICE, version(SERVICE))
        serving = _Serving()
        if settings.metrics_address:
            host, _, port = settings.metrics_address.rpartition(":")
            page = common_metrics.serve(host.strip("[]"), int(port), serving.problems)
            served = await stack.enter_async_context(page)
            serving.address = f"{served.host}:{served.port}"
            log.info("controller.metrics", address=serving.address)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_work(settings, api, clock, rng, metrics, serving), name="controller")
            wait = group.create_task(stop.wait(), name="signal")
            await asyncio.wait((work, wait), return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            wait.cancel()
    log.info("controller.left")


class _Serving:
    """What /readyz answers."""

    def __init__(self) -> None:
        self.address = ""
        self.controller: Controller | None = None
        self.claim: Claim | None = None
        self.standby = False

    def problems(self) -> list[str]:
        if self.standby:
            return []  # a standby does its work: it waits for the Lease
        if self.claim is not None and self.claim.refused:
            return [self.claim.refused]
        if self.controller is None:
            return ["the controller is starting"]
        return self.controller.problems()


async def _work(
    settings: Settings, api: Api, clock: Clock, rng: random.Random, metrics: Metrics, serving: _Serving
) -> None:
    owner = await _owner(settings, api, clock)

    async def lead(api: Api) -> None:
        controller = Controller(
            api, clock, rng, metrics,
            owner=owner, runtimes=_runtimes(settings, api, owner, clock, rng), default_mode=MODES[settings.runtime],
            namespace=settings.namespace, concurrency=settings.concurrency, resync=settings.resync,
        )  # fmt: skip
        serving.controller, serving.standby = controller, False
        async with asyncio.TaskGroup() as group:
            group.create_task(controller.run(), name="controller")
            for cache in controller.caches.all():
                await cache.synced.wait()
            log.info("controller.ready", owner=owner)
            if settings.ready_file is not None:
                write_private(settings.ready_file, serving.address.encode())

    mine = Installation(settings.lease_namespace, settings.lease_name, settings.namespace)
    claim = Claim(api, clock, rng, mine, retry=settings.lease_retry)
    if not settings.leader_elect:
        if refused := await claim.blocked():
            raise ValueError(refused)
        metrics.work.leads(True)
        await lead(api)
        return
    serving.standby = True
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    lease = LeaseSettings(
        settings.lease_namespace, settings.lease_name, identity,
        settings.lease_duration, settings.lease_renew_deadline, settings.lease_retry,
    )  # fmt: skip

    async def lead_alone() -> None:
        serving.claim, serving.standby = claim, False
        await claim.obtain()
        metrics.work.leads(True)
        async with asyncio.TaskGroup() as group:
            group.create_task(claim.keep(), name="claim")
            group.create_task(lead(api.guarded(leader.holds)), name="leader")

    leader = Leader(api, clock, rng, lease)
    leader.on_change = lambda leading: None if leading else metrics.work.leads(False)
    await leader.run(lead_alone)


async def _owner(settings: Settings, api: Api, clock: Clock) -> str:
    """The installation's id; waits for the API, which may still be starting."""
    while True:
        try:
            return await owner_id(api, settings.owner)
        except ApiError as error:
            log.warning("controller.api_unavailable", error=str(error))
            await clock.sleep(API_RETRY)


def _runtimes(
    settings: Settings, api: Api, owner: str, clock: Clock, rng: random.Random
) -> Callable[[Secrets, Callable[[str], None]], Mapping[str, Runtime]]:
    def make(secrets: Secrets, changed: Callable[[str], None]) -> Mapping[str, Runtime]:
        root = settings.root
        client = settings.tls
        runtimes: dict[str, Runtime] = {"Kubernetes": _kubernetes(settings, api, owner, clock, rng, changed)}
        if settings.runtime == "process":
            authority = Authority.create(root / "pki" / "ca", clock=clock)
            # Not that of a pod that all of it may run in: the other clients, such as vrtg, know of none.
            namespace = settings.controller_namespace or identity.SYSTEM_NAMESPACE
            name = identity.client(identity.Role.CONTROLLER, namespace)
            client = authority.issue(root / "pki" / "controller", name, end=End.CLIENT)
            process = ProcessSettings(
                root / "run" / "providers", root / "logs", root / "images", owner, settings.otlp_endpoint,
                namespace=namespace,
            )  # fmt: skip
            runtimes["Process"] = ProcessRuntime(process, authority, client, secrets, clock, rng, changed)
        else:
            runtimes["Process"] = UnsupportedRuntime("Process", "start the controller with --runtime process")
        runtimes["External"] = ExternalRuntime(secrets, root / "run" / "external", client)
        return runtimes

    return make


def _kubernetes(
    settings: Settings, api: Api, owner: str, clock: Clock, rng: random.Random, changed: Callable[[str], None]
) -> Runtime:
    namespace = settings.controller_namespace or own_namespace()
    if not namespace:
        cure = "run the controller in a pod, or give it --controller-namespace"
        return UnsupportedRuntime("Kubernetes", cure)
    pull, root = tuple(settings.provider_image_pull or ()), settings.root
    servers = ServerSettings(owner, namespace, settings.images, pull, settings.otlp_endpoint, settings.network)
    authority = ClusterAuthority(
        api, namespace, settings.authority, root / "run" / "authority", clock, others_make=not settings.make_authority
    )
    certificates = Certificates(root / "run" / "servers", root / "pki" / "cluster", namespace, clock)
    return KubernetesRuntime(api, servers, authority, certificates, clock, rng, changed, namespace=settings.namespace)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    sys.exit(main())
