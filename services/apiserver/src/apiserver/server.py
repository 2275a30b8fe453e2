"""One running server: store, controllers and HTTP, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
import yaml

from .app import Application
from .auth import Tokens
from .crds import KEY
from .expiry import Expiry
from .garbage import Garbage
from .kinds import build_registry
from .namespaces import Definitions, Namespaces
from .operations import PROTECTED, Operations, WriteOptions
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


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def _check_tls(settings: Settings) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise StartError(
            f"cannot use the certificate {settings.tls_cert} with the key {settings.tls_key}: {error}; "
            "both must be PEM and belong together"
        ) from error


def _write_endpoint(path: Path, text: str) -> None:
    """Write the file in one step: who sees it sees all of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


async def bootstrap(operations: Operations, crds: Path | None) -> None:
    """Make sure of the namespaces that every cluster has, and apply the given definitions.

    Raises:
        StartError: a definition cannot be read.
        ApiError: a definition is invalid.
    """
    namespaces = operations.registry.find("", "v1", "namespaces")
    definitions = operations.registry.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    if namespaces is None or definitions is None:
        raise StartError("the built-in kinds are missing")
    for name in PROTECTED:
        if operations.store.get("namespaces", "", name) is None:
            await operations.create(namespaces, "", {"metadata": {"name": name}}, WriteOptions())
    for path in sorted([*crds.glob("*.yaml"), *crds.glob("*.yml")]) if crds else []:
        try:
            documents = list(yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader))
        except (OSError, yaml.YAMLError) as error:
            raise StartError(f"cannot read the definition {path}: {error}") from error
        for document in documents:
            if isinstance(document, dict) and document.get("kind") == "CustomResourceDefinition":
                name = (document.get("metadata") or {}).get("name", "")
                options = WriteOptions(manager="virtrigaud-bootstrap", force=True)
                await operations.apply(definitions, "", name, document, options)
    log.info("bootstrap.done", definitions=len(operations.store.items(KEY)))


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        StartError, StoreError, TokenFileError, ApiError: it could not start.
    """
    _check_tls(settings)
    tokens = Tokens.load(settings.token_file)
    endpoint = settings.data_dir / "endpoint"
    store = Store(settings.data_dir)
    store.open()
    try:
        endpoint.unlink(missing_ok=True)
        listener = _bind(settings)
        try:
            await _run(settings, store, tokens, listener, endpoint)
        finally:
            listener.close()
            endpoint.unlink(missing_ok=True)
    finally:
        await store.close()


async def _run(settings: Settings, store: Store, tokens: Tokens, listener: socket.socket, endpoint: Path) -> None:
    operations = Operations(store, build_registry(store, tokens, time.time), time.time)
    await bootstrap(operations, settings.crds)
    stopping = asyncio.Event()
    http = _Http(
        uvicorn.Config(
            Application(operations, tokens, stopping),
            http="httptools",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=str(settings.tls_cert),
            ssl_keyfile=str(settings.tls_key),
        )
    )

    def stop() -> None:
        stopping.set()
        store.wake_watchers()
        http.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    workers = [Namespaces(operations).worker.run(), Definitions(operations).worker.run()]
    workers += [Garbage(operations).worker.run(), Expiry(operations, settings.event_ttl).run()]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in workers]
        listener.listen(1024)  # from here on clients may connect; they are answered once the loop turns
        _write_endpoint(endpoint, address)
        log.info("apiserver.ready", endpoint=f"https://{address}", data_dir=str(settings.data_dir))
        await http.serve(sockets=[listener])
        for task in tasks:
            task.cancel()
    log.info("apiserver.stopped")
