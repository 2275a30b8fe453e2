"""From settings to a provider process that serves until it is told to leave."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from common import corelog, faults, logging, metrics, tracing
from common.rpc import ListenError
from common.settings import Seconds, SettingsError, load
from common.tls import TlsError, TlsFiles, server_credentials

from .access import access, of_namespace
from .driver import Driver
from .machines import MachineSettings
from .serving import ServingSettings, serve

log = logging.get(__name__)


@dataclass(frozen=True)
class ProviderSettings:
    """What every provider is told; a provider's own settings extend it."""

    listen_address: Annotated[str, "host:port or unix:/path to serve on; port 0 takes a free one"] = "127.0.0.1:9443"
    tls_cert: Annotated[Path | None, "PEM file with the server's certificate"] = None
    tls_key: Annotated[Path | None, "PEM file with the server's private key"] = None
    tls_ca: Annotated[Path | None, "PEM file with the authority that clients' certificates must come from"] = None
    allowed_clients: Annotated[
        list[str] | None, "names of the client certificates that may call: a URI of ours, or ROLE=NAME; may be repeated"
    ] = None
    insecure: Annotated[bool, "serve without TLS; for tests and private networks only"] = False
    owner: Annotated[str, "id of the installation whose machines are ours; it is stamped on each of them"] = ""
    metrics_address: Annotated[str, "host:port for /metrics, /healthz and /readyz; empty serves none"] = ""
    log_level: Annotated[str, "debug, info, warning or error"] = "info"
    log_format: Annotated[str, "json or text"] = "json"
    otlp_endpoint: Annotated[str | None, "where traces go: http://host:4317; unset leaves tracing off"] = None
    credentials_directory: Annotated[Path | None, "directory with the hypervisor's credentials, one file per key"] = (
        None
    )
    exit_with_stdin: Annotated[bool, "leave when standard input ends: the parent process is gone"] = False
    ready_file: Annotated[Path | None, "file that gets host:port once the server serves"] = None
    drain: Annotated[Seconds, "how long open calls and operations may go on at the end"] = 10.0
    max_concurrent_changes: Annotated[int, "changes that the hypervisor is asked for at the same time"] = 16

    def __post_init__(self) -> None:
        if not self.owner:
            raise ValueError("owner is missing: give --owner, the id of the installation (any stable text)")
        files = (self.tls_cert, self.tls_key, self.tls_ca)
        unix = self.listen_address.startswith("unix:")
        if any(files) and not all(files):
            raise ValueError("tls_cert, tls_key and tls_ca belong together: give all three")
        if any(files) and self.insecure:
            raise ValueError("insecure contradicts tls_cert: leave one of them out")
        if not any(files) and not self.insecure and not unix:
            raise ValueError(
                "TLS files are missing: give --tls-cert, --tls-key and --tls-ca, or --insecure for plaintext"
            )
        access(self.allowed_clients or ())
        if self.max_concurrent_changes < 1:
            raise ValueError("max_concurrent_changes: at least 1")
        if self.log_format not in ("json", "text"):
            raise ValueError(f"log_format: {self.log_format!r} is neither json nor text")


S = TypeVar("S", bound=ProviderSettings)


def run_provider(
    driver_factory: Callable[[S], Driver],
    settings_type: type[S],
    name: str,
    argv: list[str] | None = None,
    *,
    distribution: str = "",
) -> int:
    """Serve until SIGTERM, SIGINT or (if asked for) the end of standard input; answers with the exit code.

    Args:
        driver_factory: makes the driver; called in the event loop, must not connect by itself.
        name: of the command.
        argv: its arguments; None takes the process's own.
        distribution: whose version it has; empty is the one that is named as the command is.
    """
    version = importlib.metadata.version(distribution or name)
    try:
        settings = load(settings_type, argv, version=f"{name} {version}")
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  (there is no log yet)
        return 2
    with corelog.taken_up() if corelog.wanted() else nullcontext(sys.stderr) as stream:
        logging.setup("virtrigaud-provider", settings.log_level, settings.log_format, stream)
        try:
            return _run_to_its_end(driver_factory, settings, version)
        finally:
            logging.setup("virtrigaud-provider", settings.log_level, settings.log_format)


def _run_to_its_end(driver_factory: Callable[[S], Driver], settings: S, version: str) -> int:
    faults.install_from_environment()
    try:
        asyncio.run(_run(driver_factory, settings, version))
    except* (ListenError, TlsError, OSError, ValueError) as group:
        for error in _leaves(group):
            log.error("provider.cannot_serve", message=str(error))
        return_code = 1
    else:
        return_code = 0
    return return_code


async def _run(driver_factory: Callable[[S], Driver], settings: S, version: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _stop, stop, name.name)
    if settings.exit_with_stdin:
        _watch_stdin(loop, stop)
    driver = driver_factory(settings)
    service = f"virtrigaud-provider-{driver.type}"
    with tracing.setup(service, settings.otlp_endpoint, version=version):
        async with _served(driver, settings, version) as address:
            if settings.ready_file is not None:
                write_atomically(settings.ready_file, address)
            log.info("provider.ready", type=driver.type, address=address, pid=os.getpid())
            await stop.wait()
            if settings.ready_file is not None:
                settings.ready_file.unlink(missing_ok=True)
    log.info("provider.left", type=driver.type)


@asynccontextmanager
async def _served(driver: Driver, settings: ProviderSettings, version: str) -> AsyncIterator[str]:
    credentials = None
    if settings.tls_cert is not None and settings.tls_key is not None and settings.tls_ca is not None:
        credentials = server_credentials(TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_ca))
    serving_settings = ServingSettings(
        listen=settings.listen_address,
        insecure=settings.insecure,
        allowed_clients=settings.allowed_clients or of_namespace(),
        owner=settings.owner,
        version=version,
        grace=settings.drain,
        machines=MachineSettings(max_concurrent_changes=settings.max_concurrent_changes),
    )
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(serve(driver, serving_settings, credentials=credentials))
        if settings.metrics_address:
            host, port = _host_port(settings.metrics_address)
            metrics.build_info(f"virtrigaud-provider-{driver.type}", version)
            page = await stack.enter_async_context(metrics.serve(host, port, ready=serving.server.health.problems))
            log.info("provider.metrics", host=page.host, port=page.port)
        yield serving.server.address


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def _stop(stop: asyncio.Event, why: str) -> None:
    log.info("provider.leaving", why=why)
    stop.set()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """A thread of its own: standard input may be a file or a terminal, which an event loop cannot wait for."""
    descriptor = sys.stdin.fileno()

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError as error:
            log.warning("provider.stdin.broken", message=str(error))
        loop.call_soon_threadsafe(_stop, stop, "standard input ended")

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"metrics_address: {address!r} is not host:port")
    return host.strip("[]"), int(port)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
