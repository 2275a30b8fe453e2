"""One running server: store, controllers and HTTP, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from .app import Application
from .auth import Tokens
from .certificate import Certificate
from .crds import KEY
from .deletion import PROTECTED
from .expiry import Expiry
from .garbage import Garbage
from .kinds import build_registry
from .namespaces import Definitions, Namespaces
from .operations import Operations
from .options import WriteOptions
from .settings import Settings
from .store import Store

log = structlog.get_logger(__name__)
GRACE_SECONDS = 5


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


class _Http(uvicorn.Server):
    """uvicorn without its own signal handling: one path leads to the end here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield


def bind(settings: Settings) -> socket.socket:
    """A socket on the address of the settings, not listening yet.

    Raises:
        StartError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, because asyncio sets TCP_NODELAY only on sockets that name it. Without it, a body that
    # follows its headers waits for the client's delayed acknowledgement: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --listen"
        ) from error
    listener.set_inheritable(False)
    return listener


def _certificate(settings: Settings) -> Certificate:
    """Ours; who calls shows a token.

    Raises:
        StartError: the files cannot be used.
    """
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise StartError(
            f"cannot use the certificate {settings.tls_cert} with the key {settings.tls_key}: {error}; "
            "both must be PEM and belong together"
        ) from error


def _warn_exposed(*paths: Path) -> None:
    """Say which of the secret files other users can read."""
    for path in paths:
        if path.stat().st_mode & 0o077:
            log.warning("file.exposed", path=str(path), cure="chmod 600")


def _write_endpoint(path: Path, text: str) -> None:
    """Write the file in one step: who sees it sees all of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_definitions(directory: Path) -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions in a directory's YAML files, by file name.

    Raises:
        StartError: one cannot be read.
    """
    found = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            documents = list(yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader))
        except (OSError, yaml.YAMLError) as error:
            raise StartError(f"cannot read the definition {path}: {error}") from error
        for document in documents:
            if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
                continue
            if not isinstance(document.get("metadata"), dict) or not document["metadata"].get("name"):
                raise StartError(f"the definition in {path} has no metadata.name")
            found.append(document)
    return found


async def bootstrap(operations: Operations, crds: Path | None) -> None:
    """Make sure of the namespaces that every cluster has, and apply the given definitions.

    Raises:
        StartError: a definition cannot be read.
        ApiError: one is invalid.
    """
    namespaces = operations.registry.find("", "v1", "namespaces")
    definitions = operations.registry.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    if namespaces is None or definitions is None:
        raise StartError("the built-in kinds are missing")
    for name in PROTECTED:
        if operations.store.get("namespaces", "", name) is None:
            await operations.create(namespaces, "", {"metadata": {"name": name}}, WriteOptions())
    for document in read_definitions(crds) if crds else []:
        options = WriteOptions(manager="virtrigaud-bootstrap", force=True)
        await operations.apply(definitions, "", document["metadata"]["name"], document, options)
    log.info("bootstrap.done", definitions=len(operations.store.items(KEY)))


@dataclass(frozen=True)
class Instance:
    """A server without its sockets: what tests and `serve` share."""

    application: Application
    operations: Operations
    store: Store
    expiry: Expiry
    stopping: asyncio.Event

    def stop(self) -> None:
        """End all watches and refuse readiness; requests in flight are still answered."""
        self.stopping.set()
        self.store.wake_watchers()


@asynccontextmanager
async def running(
    store: Store,
    tokens: Tokens,
    *,
    clock: Callable[[], float] = time.time,
    event_ttl: float = 3600.0,
    crds: Path | None = None,
) -> AsyncGenerator[Instance, None]:
    """Open a store, make it ready, and run the controllers until the block ends.

    Args:
        clock: seconds since the epoch, for timestamps and ages.
        event_ttl: seconds that Events are kept.
        crds: directory of definitions to apply first.

    Raises:
        StartError, StoreError, ApiError: it could not start.
    """
    store.open()
    try:
        operations = Operations(store, build_registry(store, tokens, clock), clock)
        await bootstrap(operations, crds)
        stopping = asyncio.Event()
        expiry = Expiry(operations, event_ttl)
        application = Application(operations, tokens, stopping)
        workers = [w.worker.run() for w in (Namespaces(operations), Definitions(operations))]
        workers += [Garbage(operations).worker.run(), expiry.run()]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in workers]
            try:
                yield Instance(application, operations, store, expiry, stopping)
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        await store.close()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        StartError, StoreError, TokenFileError, ApiError: it could not start.
    """
    certificate = _certificate(settings)
    _warn_exposed(settings.token_file, settings.tls_key)
    tokens = Tokens.load(settings.token_file)
    endpoint = settings.data_dir / "endpoint"
    store = Store(settings.data_dir)
    store.lock()
    endpoint.unlink(missing_ok=True)  # one that a killed server left behind
    listener = bind(settings)
    try:
        async with running(store, tokens, event_ttl=settings.event_ttl, crds=settings.crds) as instance:
            with _metrics(settings.metrics, instance.application.metrics.registry):
                await _answer(settings, instance, listener, endpoint, certificate)
            endpoint.unlink(missing_ok=True)
    finally:
        listener.close()
    log.info("apiserver.stopped")


@contextlib.contextmanager
def _metrics(address: tuple[str, int] | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve them beside the API to whoever reaches the address, as every service does: Prometheus needs no token.

    Raises:
        StartError: the address cannot be had.
    """
    if address is None:
        yield
        return
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; choose another --metrics-address"
        ) from error
    log.info("apiserver.metrics", host=host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _answer(
    settings: Settings, instance: Instance, listener: socket.socket, endpoint: Path, certificate: Certificate
) -> None:
    http = _Http(
        uvicorn.Config(
            instance.application,
            http="httptools",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_context_factory=lambda _config, _default: certificate.context,
        )
    )

    def stop() -> None:
        instance.stop()
        http.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listener.listen(1024)  # from here on clients may connect; they are answered once the loop turns
    _write_endpoint(endpoint, address)
    log.info("apiserver.ready", endpoint=f"https://{address}", data_dir=str(settings.data_dir))
    renewing = asyncio.create_task(certificate.run(), name="certificate")
    try:
        await http.serve(sockets=[listener])
    finally:
        renewing.cancel()
