"""A channel to one server that takes up changed certificates by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from prometheus_client import REGISTRY, CollectorRegistry

from common import logging, metrics
from common.clock import Clock, SystemClock
from common.errors import ProviderError
from common.identity import Server
from common.rpc.inspection import examine
from common.rpc.services import OPTIONS
from common.tls import TlsFiles, Watched, channel_credentials

log = logging.get(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks at the certificate files."""

_OPTIONS = (
    *OPTIONS,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Repeating is the controller's decision; a call that was sent is never sent again behind its back.
    ("grpc.enable_retries", 0),
)


@dataclass
class _Generation:
    """A grpc channel with one set of certificates, and the calls that are open on it."""

    channel: Any
    open_calls: int = 0
    retired: bool = False
    calls: dict[str, Any] = field(default_factory=dict)


class Channel:
    """Dials lazily and for ever; leaving its context cancels what is open.

    A call begins on the newest certificates and ends on those it began with. Whoever keeps a stream open asks `renewed`
    now and then, and opens it anew where it says so. A server's certificate that was good when it was shown is not
    relied on beyond its end: what begins later goes over a new connection, and so over a new handshake.
    """

    def __init__(
        self,
        target: str,
        tls: TlsFiles | None,
        *,
        expected_name: str | None = None,
        server: Server | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = REGISTRY,
    ) -> None:
        self.target = target
        self.metrics = metrics.rpc("client", registry) if registry is not None else None
        self._clock = clock or SystemClock()
        self._watched = Watched(tls, self._clock) if tls is not None else None
        self._server = server if tls is not None else None
        self._expected_name = server.host if server is not None else expected_name
        self._looked = self._clock.monotonic()
        self._generation: _Generation | None = None
        self._count = 0
        self._until: datetime | None = None
        """End of the certificate that the server has shown to the connection of now, or to the next one."""
        self._retired: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is open and hang up. Repeatable."""
        self._closed = True
        generation, self._generation = self._generation, None
        if generation is not None:
            await generation.channel.close(None)
        for task in tuple(self._retired):
            task.cancel()
            await asyncio.wait({task})

    def refresh(self) -> bool:
        """Look at the certificate files now; whether new calls use new ones from here on."""
        self._looked = self._clock.monotonic()
        if self._watched is None or not self._watched.refresh():
            return False
        self._replace()
        return True

    def renewed(self, since: int, *, now: bool = False) -> bool:
        """Whether calls that begin now go over another connection than those at that `generation`.

        Args:
            now: look at the certificate files even if that was done a moment ago.
        """
        if now:
            self.refresh()
        self._look()
        return self._count != since

    @property
    def generation(self) -> int:
        """Which connection calls begin on, counted."""
        return self._count

    async def examine(self) -> ProviderError | None:
        """What is wrong with the server that answers now, in words; None: it is the one that was named, or is away."""
        if self._server is None or self._watched is None:
            return None
        seen = await examine(self.target, self._watched.files, self._server)
        if seen.certificate is not None and seen.problem is None:
            until = seen.certificate.not_valid_after_utc  # of the two, it is not known which one gRPC has met
            self._until = until if self._until is None else min(until, self._until)
        return seen.problem

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until the connection stands; False when it does not within `timeout` seconds."""
        channel = self._current().channel
        try:
            async with asyncio.timeout(timeout):
                await channel.channel_ready()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def call(self, kind: str, path: str) -> Iterator[Callable[..., Any]]:
        """The multi-callable of a method, counted as open while the context is."""
        generation = self._current()
        multi = generation.calls.get(path)
        if multi is None:
            multi = generation.calls[path] = getattr(generation.channel, kind)(path)
        generation.open_calls += 1
        try:
            yield multi
        finally:
            generation.open_calls -= 1
            if generation.retired and generation.open_calls == 0:
                self._hang_up(generation)

    def _current(self) -> _Generation:
        if self._closed:
            raise RuntimeError(f"the channel to {self.target} is closed")
        self._look()
        if self._generation is None:
            self._generation = _Generation(self._dial())
        return self._generation

    def _look(self) -> None:
        """Let go of a connection that is not to be relied on any more."""
        if self._watched is not None and self._clock.monotonic() - self._looked >= LOOK_EVERY:
            self.refresh()
        if self._until is not None and self._until < self._clock.now():
            log.info("rpc.server.lapsed", target=self.target, expired=self._until.isoformat())
            self._replace()

    def _replace(self) -> None:
        old, self._generation, self._until = self._generation, None, None
        self._count += 1
        if old is not None:
            self._retire(old)

    def _dial(self) -> Any:
        if self._watched is None:
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        options = list(_OPTIONS)
        if self._expected_name:
            options.append(("grpc.ssl_target_name_override", self._expected_name))  # type: ignore[arg-type]  # grpc takes both
        return grpc.aio.secure_channel(self.target, channel_credentials(self._watched.material), options=options)

    def _retire(self, generation: _Generation) -> None:
        generation.retired = True
        if generation.open_calls == 0:
            self._hang_up(generation)

    def _hang_up(self, generation: _Generation) -> None:
        task = asyncio.get_running_loop().create_task(generation.channel.close(None), name=f"hang up {self.target}")
        self._retired.add(task)  # owned: close() waits for it
        task.add_done_callback(self._retired.discard)


def connect(
    target: str,
    tls: TlsFiles | None = None,
    *,
    insecure: bool = False,
    expected_name: str | None = None,
    server: Server | None = None,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = REGISTRY,
) -> Channel:
    """A channel to "host:port", "dns:///name:port" or "unix:/path"; nothing is dialled before the first call.

    Args:
        tls: own certificate, key and the server's authority; None is plaintext and needs `insecure=True`, or a
            unix socket.
        expected_name: name that the server's certificate must carry, where it is not the host that is dialled.
        server: the Provider whose server alone is spoken to, whatever the host; its certificate must carry its name.
    Raises:
        TlsError: the files cannot be used now.
        ValueError: plaintext that was not asked for.
    """
    if tls is None and not insecure and not target.startswith("unix:"):
        raise ValueError(f"dialling {target} without TLS must be asked for: pass TlsFiles, or insecure=True")
    return Channel(target, tls, expected_name=expected_name, server=server, clock=clock, registry=registry)
