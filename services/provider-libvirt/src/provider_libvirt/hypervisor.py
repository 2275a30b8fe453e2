"""The connection to libvirt: opened, kept alive, reopened; the one way to call it.

Functions that are handed a live connection (by `call`) use libvirt's objects, and none of them keeps one: a `virDomain`
held over a reconnect would keep the dead connection open.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import libvirt
from common import logging, tracing
from common.clock import Clock
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, ProviderError
from providerkit.background import running
from providerkit.threads import Threads

from provider_libvirt import eventloop
from provider_libvirt.libvirt_errors import is_code, mapped
from provider_libvirt.remote import Credentials, connection_uri

log = logging.get(__name__)
T = TypeVar("T")

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 3
CONNECT_SECONDS = 15.0
ALIVE_SECONDS = 3.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
_LOST_CODES = (libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_CONNECT)


class Hypervisor:
    """One libvirt endpoint."""

    def __init__(
        self,
        uri: str,
        *,
        clock: Clock,
        credentials: Path | None = None,
        call_timeout: float = 20.0,
        concurrency: int = 6,
    ) -> None:
        """Nothing is opened yet.

        Args:
            credentials: directory with any of `username`, `password`, `ssh-privatekey`, `known_hosts`.
            call_timeout: seconds after which a call without an answer counts as lost.
            concurrency: calls at a time; libvirtd by default serves 5 of one client, more wait there.
        """
        self.endpoint = uri
        self.call_timeout = call_timeout
        self.generation = 0
        """Counts connections; what was learned from an earlier one may be wrong."""
        self._clock = clock
        self._credentials = Credentials(credentials)
        self._scratch = Path()
        self._calls = Threads(concurrency)
        self._slow = Threads(4)
        self._questions = Threads(2)
        self._connection: libvirt.virConnect | None = None
        self._aside: libvirt.virConnect | None = None
        """For slow calls, opened by the first. Before libvirt 9.2 a call may have to wait until another thread's on the
        same connection has been answered (the client can lose a wake-up), and an agent may not answer for seconds."""
        self._opening = asyncio.Lock()
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._reason: ProviderError = HypervisorUnavailableError(f"libvirt at {uri}: not connected yet")
        self._connected: list[Callable[[], None]] = []
        self._event: Callable[[str], None] | None = None
        self._pools_event: Callable[[], None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    @property
    def local(self) -> bool:
        """Whether libvirt runs on this very host, so that its paths are ours."""
        parts = urlsplit(self.endpoint)
        return not parts.hostname and "ssh" not in parts.scheme

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    def on_event(self, callback: Callable[[str | None], None]) -> None:
        """Have it called, on the asyncio loop, with the UUID of each domain that changed; None after a reconnect."""
        self._event = callback
        self._connected.append(lambda: callback(None))

    def on_pools(self, callback: Callable[[], None]) -> None:
        """Have it called, on the asyncio loop, when a storage pool came, went, started or stopped."""
        self._pools_event = callback

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Keep the connection until the context is left; entering waits for the first attempt, not for its success."""
        eventloop.ensure_running()
        tried = asyncio.Event()
        with tempfile.TemporaryDirectory(prefix="virtrigaud-libvirt-") as scratch:
            self._scratch = Path(scratch)
            async with running(self._keep(tried), "libvirt connection"):
                with contextlib.suppress(TimeoutError):  # an endpoint that hangs must not hold up the start
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await tried.wait()
                yield

    async def call(
        self,
        doing: str,
        use: Callable[[libvirt.virConnect], T],
        *,
        timeout: float | None = None,
        changes: str = "",
    ) -> T:
        """Call libvirt on a thread.

        Args:
            doing: for people: what is being done to which machine.
            use: gets the connection; returns plain values, never libvirt's objects.
            changes: UID of the machine that it changes; see Threads.run.
        Raises:
            ProviderError: whatever libvirt said, translated.
        """
        return await self._run(self._calls, doing, use, timeout or self.call_timeout, changes=changes)

    async def slow_call(self, doing: str, use: Callable[[libvirt.virConnect], T], *, timeout: float) -> T:
        """The same for what may take long (transfers, the guest's agent), on places and a connection of its own."""
        return await self._run(self._slow, doing, use, timeout, connection=await self._open_aside(doing))

    async def _run(
        self,
        threads: Threads,
        doing: str,
        use: Callable[[libvirt.virConnect], T],
        timeout: float,
        *,
        changes: str = "",
        connection: libvirt.virConnect | None = None,
    ) -> T:
        connection = connection or self._connection
        if connection is None:
            raise self._unavailable(doing)

        def work() -> T:
            with mapped(doing):
                return use(connection)

        # What only looks is not worth a span: an apply looks a dozen times.
        span = tracing.span("libvirt.call", machine_uid=changes, doing=doing) if changes else contextlib.nullcontext()
        try:
            with span:
                return await threads.run(work, timeout=timeout, doing=doing, changes=changes)
        except HypervisorUnavailableError as error:
            if is_code(error, *_LOST_CODES) or (error.__cause__ is not None and not await self._alive(connection)):
                self._drop(connection)
            raise

    def _unavailable(self, doing: str) -> ProviderError:
        return type(self._reason)(f"{doing}: {self._reason}", retry_after=2.0)

    async def _alive(self, connection: libvirt.virConnect) -> bool:
        """Asked on a thread like everything else: a connection that is just dying may hold its lock for ever."""
        try:
            return await self._questions.run(
                lambda: bool(connection.isAlive()), timeout=ALIVE_SECONDS, doing="see whether the connection is alive"
            )
        except (libvirt.libvirtError, HypervisorUnavailableError):
            return False

    def _drop(self, connection: libvirt.virConnect) -> None:
        if self._connection is connection:
            self._lost.set()
        elif self._aside is connection:
            self._close_aside()

    async def _open_aside(self, doing: str) -> libvirt.virConnect | None:
        """The connection for slow calls; None where the first must do: a driver in this process has no line."""
        async with self._opening:
            generation = self.generation
            if self._aside is None and self._connection is not None and not self.endpoint.startswith("test:"):
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        opened = await self._open(events=False)
                except TimeoutError:
                    raise HypervisorUnavailableError(f"{doing}: no second connection in time") from None
                if self._connection is None or generation != self.generation:
                    _close_behind(opened)
                    raise self._unavailable(doing)
                self._aside = opened
            return self._aside

    def _close_aside(self) -> None:
        if self._aside is not None:
            _close_behind(self._aside)
            self._aside = None

    # -- the keeper ------------------------------------------------------------------------------------------------

    async def _keep(self, tried: asyncio.Event) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                connection = await self._open()
            except ProviderError as error:
                self._reason = error
                log.warning("libvirt.connect.failed", endpoint=self.endpoint, error=str(error), pause=pause)
                tried.set()
                await self._clock.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self._lost.clear()
            self._connection = connection
            self._up.set()
            self.generation += 1
            log.info("libvirt.connected", endpoint=self.endpoint, generation=self.generation)
            for tell in self._connected:
                tell()
            tried.set()
            try:
                await self._lost.wait()
                log.warning("libvirt.connection.lost", endpoint=self.endpoint)
                self._reason = HypervisorUnavailableError(f"libvirt at {self.endpoint}: the connection was lost")
            finally:
                self._connection = None
                self._up.clear()
                _close_behind(connection)
                self._close_aside()
                del connection

    async def _open(self, *, events: bool = True) -> libvirt.virConnect:
        """Connect; however long the hypervisor takes, there is only one attempt at a time."""
        loop = asyncio.get_running_loop()
        uri = connection_uri(self.endpoint, self._credentials, self._scratch)
        credentials = self._credentials.answers()
        answer: asyncio.Future[libvirt.virConnect] = loop.create_future()

        def settle(connection: libvirt.virConnect | None, error: BaseException | None) -> None:
            if answer.cancelled():
                if connection is not None:
                    _close_behind(connection)
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(connection)

        def work() -> None:
            connection, failure = None, None
            try:
                with mapped(f"connect to {self.endpoint}"):
                    connection = _open_blocking(uri, credentials, lambda lost: loop_call(self._drop, lost))
                    if events:
                        self._subscribe(connection, loop_call)
            except BaseException as error:  # noqa: BLE001  # carried to the waiter, whatever it is
                failure = error
            with contextlib.suppress(RuntimeError):  # a closed loop: nobody waits any more
                loop.call_soon_threadsafe(settle, connection, failure)

        def loop_call(callback: Callable[..., None], *args: Any) -> None:
            with contextlib.suppress(RuntimeError):  # a closed loop: nobody listens any more
                loop.call_soon_threadsafe(callback, *args)

        threading.Thread(target=work, name="libvirt-open", daemon=True).start()
        try:
            while True:
                done, _ = await asyncio.wait({answer}, timeout=CONNECT_SECONDS)
                if done:
                    return answer.result()
                self._reason = HypervisorUnavailableError(
                    f"libvirt at {self.endpoint}: no answer to the connection attempt"
                )
        finally:
            answer.cancel()  # whoever gave up does not want what comes later

    def _subscribe(self, connection: libvirt.virConnect, loop_call: Callable[..., None]) -> None:
        """Events of domains and pools: every kind that shows in what we report."""

        def changed(_connection: object, domain: libvirt.virDomain, *_details: object) -> None:
            if self._event is not None:
                loop_call(self._event, domain.UUIDString())

        for kind in (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT,
            libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG,
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            libvirt.VIR_DOMAIN_EVENT_ID_DISK_CHANGE,
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
        ):
            with contextlib.suppress(libvirt.libvirtError):  # a driver without this event: the slow refresh sees it
                connection.domainEventRegisterAny(None, kind, changed, None)

        def pools_changed(*_details: object) -> None:
            if self._pools_event is not None:
                loop_call(self._pools_event)

        with contextlib.suppress(libvirt.libvirtError):  # as above
            connection.storagePoolEventRegisterAny(
                None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, pools_changed, None
            )


def _open_blocking(uri: str, secrets: dict[int, str], lost: Callable[[libvirt.virConnect], None]) -> libvirt.virConnect:
    left, unanswered = dict(secrets), ""

    def answer(requests: list[list[Any]], _opaque: object) -> int:
        nonlocal unanswered
        for request in requests:
            if request[0] not in left:  # libvirt asks again, without end, when an answer was wrong
                unanswered = (
                    "the endpoint refuses the user name or the password of the credentials directory"
                    if request[0] in secrets
                    else "the endpoint asks for a user name and password, and the credentials directory does not hold "
                    "both `username` and `password`"
                )
                return -1
            request[4] = left.pop(request[0])
        return 0

    kinds = [
        libvirt.VIR_CRED_AUTHNAME,
        libvirt.VIR_CRED_USERNAME,
        libvirt.VIR_CRED_PASSPHRASE,
        libvirt.VIR_CRED_NOECHOPROMPT,
    ]
    try:
        connection = libvirt.openAuth(uri, [kinds, answer, None], 0)
    except libvirt.libvirtError as error:
        if unanswered:
            raise CredentialsRefusedError(f"connect to {uri.partition('?')[0]}: {unanswered}") from error
        raise
    with contextlib.suppress(libvirt.libvirtError):  # drivers inside this process have no line to keep alive
        connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
    with contextlib.suppress(libvirt.libvirtError):
        connection.registerCloseCallback(lambda closed, _reason, _opaque: lost(closed), None)
    return connection


def _close_behind(connection: libvirt.virConnect) -> None:
    """Close without waiting: a hanging libvirtd may never answer."""

    def close() -> None:
        # Each holds a reference that keeps the line open.
        for callback in list(getattr(connection, "domainEventCallbackID", ())):
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(callback)
        for callback in list(getattr(connection, "storagePoolEventCallbackID", ())):
            with contextlib.suppress(libvirt.libvirtError):
                connection.storagePoolEventDeregisterAny(callback)
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()

    threading.Thread(target=close, name="libvirt-close", daemon=True).start()
