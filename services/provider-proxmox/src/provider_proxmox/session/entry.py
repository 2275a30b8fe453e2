"""The way into the cluster: which node is asked, as whom, and what happens when it does not answer.

Every node of a cluster answers for all of them. One that cannot be reached is left alone for a while and the next one
is asked; a request that may have arrived and is no GET is never repeated. A refused login costs Proxmox VE 3 seconds
and a line in its log: it is not repeated until the credentials are other ones, or a growing pause is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, OutcomeUnknownError, ProviderError
from providerkit.threads import Threads

from provider_proxmox.session.line import CONNECT_SECONDS, Line, UnreachableError, UntrustedError
from provider_proxmox.session.login import Credentials, Endpoint, Login, ticket_login, token_login
from provider_proxmox.session.pve_errors import RefusedLoginError

log = logging.get(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds for which a node that cannot be reached is left alone."""
FIRST_REFUSAL, LONGEST_REFUSAL = 10.0, 60.0
"""Seconds for which refused credentials are not tried again, unless the files have others."""
LOCAL_SECONDS = 10.0
"""So soon a node answers what it need not ask another one for; one that does not is left for the next."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked, of whichever node."""

    doing: str
    method: str
    path: str
    params: Mapping[str, object]
    lane: str = "calls"
    timeout: float | None = None
    body: Callable[[], Any] | None = None

    @property
    def changes(self) -> bool:
        """It may have an effect, so it is never repeated when it may have arrived."""
        return self.method != "GET"

    @property
    def is_local(self) -> bool:
        """Any node answers it by itself; others may need an answer of the node in the path."""
        return not self.path.startswith("nodes/")


class _CrowdedError(HypervisorUnavailableError):
    """No thread was free in time: the call was not sent."""

    @property
    def reason(self) -> str:
        return "HypervisorUnavailable"


@dataclass(slots=True)
class _Door:
    """One node that the API is asked at."""

    line: Line
    away_until: float = 0.0
    pause: float = FIRST_PAUSE
    error: ProviderError | None = None
    """Why it is left alone; None while it answers."""


class Entry:
    """Asks the cluster. Nothing is opened until the first call."""

    def __init__(self, endpoint: Endpoint, *, clock: Clock, call_timeout: float, concurrency: int) -> None:
        self.endpoint = endpoint
        self.requests = 0
        """Sent so far, those included that nobody answered."""
        self.quiet = asyncio.Event()
        """No call waits for its answer."""
        self._open = 0
        self._sent = 0
        self._came_back = asyncio.Event()
        self._clock = clock
        self._timeout = call_timeout
        self._size = concurrency
        self._lanes = {
            "calls": Threads(concurrency),
            "looks": Threads(concurrency),
            "agents": Threads(max(2, concurrency // 2)),
            "uploads": Threads(max(1, concurrency // 4)),
        }
        self._doors: list[_Door] = []
        self._trusted: object = None
        self._login: Login | None = None
        self._logging_in = asyncio.Lock()
        self._refused: Credentials | None = None
        self._refusal: CredentialsRefusedError | None = None
        self._refused_until = 0.0
        self._refusal_pause = FIRST_REFUSAL

    async def wait_back(self) -> None:
        """Wait until every call that was sent has come back, those included that nobody waits for any more."""
        while self._sent:
            self._came_back.clear()
            await self._came_back.wait()

    def close(self) -> None:
        """Drop the idle connections and forget the login."""
        for door in self._doors:
            door.line.close()
        self._doors, self._login = [], None

    @property
    def url(self) -> str:
        """Of the node that is asked now."""
        return self._doors[0].line.url if self._doors else self.endpoint.urls[0]

    async def ask(
        self,
        doing: str,
        method: str,
        path: str,
        params: Mapping[str, object],
        *,
        lane: str = "calls",
        timeout: float | None = None,
        body: Callable[[], Any] | None = None,
    ) -> Any:
        """One request, answered.

        Args:
            lane: whose threads it takes: none of them can be held up by the others.
            timeout: seconds; that of the settings if None.
            body: makes what is sent instead of the parameters, anew for each try.
        Raises:
            ProviderError: what Proxmox VE said, or why nobody knows.
        """
        request = _Request(doing, method, path, params, lane, timeout, body)
        self._open += 1
        self.quiet.clear()
        try:
            login = await self._enter(doing)
            try:
                return await self._ask(request, login)
            except RefusedLoginError:
                fresh = await self._enter(doing, instead_of=login)
            try:
                return await self._ask(request, fresh)
            except RefusedLoginError as error:
                self._refuse(fresh.credentials, error)
                raise
        finally:
            self._open -= 1
            if not self._open:
                self.quiet.set()

    async def _ask(self, request: _Request, login: Login | None) -> Any:
        """Ask as this login, on the first node that can be reached."""
        failed: ProviderError | None = None
        for door in self._open_doors(request.doing):
            try:
                answer = await self._through(door, request, login)
            except (UnreachableError, UntrustedError) as error:
                failed = error
            except _CrowdedError:
                raise
            except HypervisorUnavailableError as error:
                if request.changes or not request.is_local:
                    raise  # a node behind this one may be what does not answer
                failed = error
            else:
                self._back(door)
                return answer
            self._away(door, failed)
        assert failed is not None  # there is one door at least
        raise failed

    async def _through(self, door: _Door, request: _Request, login: Login | None) -> Any:
        seconds = request.timeout if request.timeout is not None else self._timeout
        if request.is_local and not request.changes:
            seconds = min(seconds, LOCAL_SECONDS)
        sent, loop = False, asyncio.get_running_loop()

        def work() -> Any:
            nonlocal sent
            sent = True
            loop.call_soon_threadsafe(self._leaves)
            try:
                return door.line.call(
                    request.doing, request.method, request.path, request.params, login,
                    timeout=seconds, body=request.body() if request.body is not None else None,
                )  # fmt: skip
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                    loop.call_soon_threadsafe(self._back_again)

        # The call itself gives up first; a thread is left behind only when it hangs in the system's resolver.
        patience = seconds + CONNECT_SECONDS + 1
        changes = request.path if request.changes else ""
        try:
            return await self._lanes[request.lane].run(work, timeout=patience, doing=request.doing, changes=changes)
        except HypervisorUnavailableError as error:
            if not sent:
                raise _CrowdedError(f"{error}: too many calls wait for theirs", retry_after=2.0) from error
            if changes and type(error) is HypervisorUnavailableError:
                raise OutcomeUnknownError(f"{error}; whether it was done has to be looked up") from error
            raise

    def _leaves(self) -> None:
        self.requests += 1
        self._sent += 1

    def _back_again(self) -> None:
        self._sent -= 1
        self._came_back.set()

    # -- doors -----------------------------------------------------------------------------------------------------

    def _open_doors(self, doing: str) -> list[_Door]:
        """Nodes to ask, in this order.

        Raises:
            HypervisorUnavailableError, CredentialsRefusedError: all of them failed a moment ago.
        """
        if not self._doors or any(isinstance(door.error, UntrustedError) for door in self._doors):
            self._fit()
        now = self._clock.monotonic()
        doors = [door for door in self._doors if door.away_until <= now]
        if not doors:
            first = min(self._doors, key=lambda door: door.away_until)
            untrusted = all(isinstance(door.error, UntrustedError) for door in self._doors)
            why = "; ".join(str(door.error) for door in self._doors)
            raise (UntrustedError if untrusted else UnreachableError)(
                f"{doing}: no node of the cluster can be reached: {why}", retry_after=max(first.away_until - now, 0.1)
            )
        return doors

    def _fit(self) -> None:
        """Make the lines, and make them anew when the files say something else about whom to believe."""
        try:
            files = tuple(self.endpoint.secret(name) for name in ("ca.crt", "fingerprint"))
            if self._doors and files == self._trusted:
                return
            trust = self.endpoint.trust()
        except (OSError, ValueError, CredentialsRefusedError) as error:
            raise UntrustedError(f"credentials: `ca.crt` or `fingerprint` makes no sense: {error}") from None
        for door in self._doors:
            door.line.close()
        self._doors = [_Door(Line(url, trust, size=2 * self._size)) for url in self.endpoint.urls]
        self._trusted = files

    def _away(self, door: _Door, error: ProviderError) -> None:
        log.warning("pve.endpoint.away", url=door.line.url, error=str(error), pause=door.pause)
        door.away_until = self._clock.monotonic() + door.pause
        door.pause = min(door.pause * 2, LONGEST_PAUSE)
        door.error = error
        if door in self._doors:
            self._doors.remove(door)
            self._doors.append(door)  # the next one stays the first: going back and forth would help nobody

    def _back(self, door: _Door) -> None:
        if door.error is not None:
            log.info("pve.endpoint.back", url=door.line.url)
        door.away_until, door.pause, door.error = 0.0, FIRST_PAUSE, None

    # -- logins ----------------------------------------------------------------------------------------------------

    async def _enter(self, doing: str, instead_of: Login | None = None) -> Login:
        """The login of now; another one if that was refused or grows old.

        Raises:
            CredentialsRefusedError: Proxmox VE did not like the credentials, and they are the same.
        """
        login = self._login
        if login is not None and login is not instead_of and self._clock.monotonic() < login.renew_at:
            return login
        async with self._logging_in:
            login = self._login
            if login is not None and login is not instead_of and self._clock.monotonic() < login.renew_at:
                return login
            credentials = await asyncio.to_thread(self.endpoint.read)
            self._check_refused(doing, credentials, instead_of)
            self._login = await self._new_login(credentials)
            return self._login

    def _check_refused(self, doing: str, credentials: Credentials, instead_of: Login | None) -> None:
        same = instead_of is not None and credentials.is_token and credentials == instead_of.credentials
        left = self._refused_until - self._clock.monotonic()
        if same and left <= 0:
            self._refuse(credentials, CredentialsRefusedError("Proxmox VE does not accept the API token"))
            left = self._refused_until - self._clock.monotonic()
        if self._refusal is not None and credentials == self._refused and left > 0:
            raise CredentialsRefusedError(f"{doing}: {self._refusal}", retry_after=left) from self._refusal

    async def _new_login(self, credentials: Credentials) -> Login:
        """One call at a time finds out whether the credentials are good."""
        doing = f"log in as {credentials.token_id or credentials.username}"
        try:
            if credentials.is_token:
                login = token_login(credentials)
                await self._ask(_Request(doing, "GET", "version", {}), login)
            else:
                given = {"username": credentials.username, "password": credentials.password}
                answer = await self._ask(_Request(doing, "POST", "access/ticket", given), None)
                login = ticket_login(credentials, answer, self._clock.monotonic())
        except UntrustedError:
            raise  # that is about them and not about us
        except CredentialsRefusedError as error:
            self._refuse(credentials, error)
            raise
        except OutcomeUnknownError as error:  # a login more or less does no harm
            raise HypervisorUnavailableError(str(error), retry_after=2.0) from error
        self._refusal, self._refusal_pause = None, FIRST_REFUSAL
        return login

    def _refuse(self, credentials: Credentials, error: CredentialsRefusedError) -> None:
        log.warning("pve.login.refused", user=credentials.token_id or credentials.username, error=str(error))
        self._login = None
        self._refused, self._refusal = credentials, error
        self._refused_until = self._clock.monotonic() + self._refusal_pause
        self._refusal_pause = min(self._refusal_pause * 2, LONGEST_REFUSAL)

    async def credentials_of(self, doing: str) -> tuple[str, dict[str, str]]:
        """URL of the node that is asked now, and the headers of our login: for what is no call, a websocket."""
        login = await self._enter(doing)
        return self._open_doors(doing)[0].line.url, dict(login.headers)
