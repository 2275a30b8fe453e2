"""The HTTP side of a simulated cluster: several addresses, TLS, who calls, and how a refusal looks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus
from weakref import WeakKeyDictionary

import msgspec
import trustme
from aiohttp import web

from . import routes  # noqa: F401 - fills the table
from .access import ROOT, Who
from .calls import NOBODY, Call, Page, Route, find
from .errors import PveError, bad, refused
from .faults import Fault, taken
from .schema import Schema
from .world import ROOT_PASSWORD, TOKEN, USER, World

PREFIX = "/api2/json"
COOKIE = "PVEAuthCookie"
MAX_BODY = 512 << 10  # of calls without a file
IDLE_SECONDS = 5.0  # after which a connection is closed
KEEP_ALIVE = 100  # requests of a connection; a refusal ends it as well
TURNS = 30  # of the event loop, in which a connection that was closed goes through its end
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Logged:
    """One request that arrived.

    Attributes:
        path: without /api2/json and the query.
        route: the template it matched; empty when none did.
        when: on the clock of `time.monotonic`.
    """

    method: str
    path: str
    route: str
    when: float


class Proxmox:
    """One cluster and its API, at one or more addresses.

    Attributes:
        requests: everything that arrived, in order.
        faults: what goes wrong with calls to come.
        bugs: what no handler may raise; a test that met one fails at its end.
        checks: called with every call that may be made, before its handler; they raise a PveError to refuse it.
        answers: called with every answer of a handler; they make another one of it, however garbled.
        schema: of the product, which judges every parameter; None where it is not at hand.
    """

    def __init__(self, world: World, host: str, name: str = "") -> None:
        self.world = world
        self.requests: list[Logged] = []
        self.checks: list[Callable[[Call], None]] = []
        self.answers: list[Callable[[Call, Any], Any]] = []
        self.faults: list[Fault] = []
        self.bugs: list[Exception] = []
        self.schema = Schema.find()
        self.user, self.password = ROOT, ROOT_PASSWORD
        self.token_id = f"{USER}!{TOKEN}"
        self.token_secret = world.access.users[USER].tokens[TOKEN].secret
        self.host = host
        self.ports: list[int] = []
        self._runners: dict[int, web.AppRunner] = {}
        self._servers: list[web.Server[web.Request]] = []  # of addresses that were taken away
        self._counts: WeakKeyDictionary[object, int] = WeakKeyDictionary()  # requests of each open connection
        self._home = tempfile.TemporaryDirectory(prefix="proxmox-")
        self.home = Path(self._home.name)
        world.home = self.home
        authority = trustme.CA()
        self.ca_file = str(self.home / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        certificate = authority.issue_cert(host, "localhost", *([name] if name else []))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._tls)
        self.certificate = certificate.cert_chain_pems[0].bytes().decode()
        leaf = ssl.PEM_cert_to_DER_cert(self.certificate)
        self.fingerprint = _colons(leaf)

    @property
    def url(self) -> str:
        """Of the first address."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        return [f"https://{self.host}:{port}" for port in self.ports]

    @property
    def token(self) -> str:
        """The value of an Authorization header."""
        return f"PVEAPIToken={self.token_id}={self.token_secret}"

    def counted(self) -> Counter[str]:
        """Requests by method and route."""
        return Counter(f"{entry.method} {entry.route}" for entry in self.requests)

    async def listen(self, port: int) -> None:
        """Open one more address; port 0 picks one."""
        self.ports.append(port)
        await self.up(len(self.ports) - 1)

    async def up(self, address: int) -> None:
        """Answer at an address again, at the same port."""
        app = web.Application(client_max_size=2 * MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, keepalive_timeout=IDLE_SECONDS)
        await runner.setup()
        site = web.TCPSite(
            runner, self.host, self.ports[address], ssl_context=self._tls, reuse_address=True, reuse_port=False
        )
        await site.start()
        self.ports[address] = runner.addresses[0][1]
        self._runners[address] = runner

    async def down(self, address: int) -> None:
        """Refuse connections at an address and cut those that are open; the cluster itself lives on."""
        runner = self._runners.pop(address)
        server = runner.server  # which the runner forgets at its end
        assert server is not None, "it was set up"
        self._servers.append(server)
        _cut(server)
        await runner.cleanup()
        for _ in range(TURNS):  # what a client has just closed, in the middle of a handshake too, ends in the loop
            await asyncio.sleep(0)
            _cut(server)  # and a handshake that came to its end only now

    async def close(self) -> None:
        for address in list(self._runners):
            await self.down(address)
        for server in self._servers:
            _cut(server)
        await asyncio.sleep(0)
        self._home.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = request.rel_url.raw_path
        if not raw.startswith(PREFIX):
            return web.Response(status=404)
        path = unquote(raw.removeprefix(PREFIX)).rstrip("/") or "/"
        found = find(request.method, path)
        self.requests.append(Logged(request.method, path, found[0].template if found else "", time.monotonic()))
        last = self._last(request)
        answer = await self._answered(request, path, found)
        if last or answer.status >= 400:
            answer.force_close()
        return answer

    def _last(self, request: web.Request) -> bool:
        """Whether a connection ends with this request, however it is answered."""
        transport = request.transport
        count = self._counts[transport] = self._counts.get(transport, 0) + 1
        return count >= KEEP_ALIVE or is_form_with_file(request)

    async def _answered(self, request: web.Request, path: str, found: Found) -> web.StreamResponse:
        try:
            check_body(request)
            who = await self._who(request, found[0] if found else None)
            if found is None:
                real = self.schema is not None and self.schema.knows(request.method, path)
                lacking = " by the simulator" if real else ""
                raise PveError(501, f"Method '{request.method} {path}' not implemented{lacking}")
            call = Call(self, self.world, who, request.method, *found, await _params(request), request)
            answer = await self._handle(call)
        except PveError as error:
            return _refusal(error)
        except (ConnectionError, web.HTTPException):
            raise  # the client went away, or sent what is no HTTP
        except Exception as bug:
            self.bugs.append(bug)
            raise
        for alter in self.answers:
            answer = alter(call, answer)
        if isinstance(answer, Page):
            return _json({"data": answer.rows} | ({"total": answer.total} if answer.total else {}))
        return answer if isinstance(answer, web.StreamResponse) else _json({"data": answer})

    async def _handle(self, call: Call) -> object:
        if twice := next((name for name in call.path if name in call.params), None):
            raise PveError(400, f"Parameter verification failed - duplicate parameter '{twice}'")
        if call.route.allowed is not None:
            call.route.allowed(call)
        if "node" in call.path and call.path["node"] != "localhost":
            self._reach(call.path["node"])
        _check_vmid(call.path.get("vmid"))
        if call.request.content_type != "multipart/form-data":  # whose parameters its handler reads
            self.judge(call)
        for check in self.checks:
            check(call)
        fault = taken(self.faults, call)
        if fault is None:
            return await call.route.handler(call)
        await fault.arriving(call)
        answer = await call.route.handler(call)
        await fault.leaving(call)
        return answer

    def judge(self, call: Call) -> None:
        """Refuse (400) parameters that the product would refuse, all of them at once."""
        if self.schema is not None:
            given = {name: _form(value) for name, value in (call.path | call.params).items() if value is not None}
            if errors := self.schema.check(call.method, call.route.template, given):
                raise PveError(400, "Parameter verification failed.", errors)

    def _reach(self, name: str) -> None:
        node = self.world.nodes.get(name)
        if node is None:
            why = f"failed to get address info for: {name}: Name or service not known"
            raise refused(f"hostname lookup '{name}' failed - {why}")
        if not node.online:
            raise PveError(595, "No route to host")

    async def _who(self, request: web.Request, route: Route | None) -> Who:
        try:
            return self._known(request, route)
        except PveError:
            await self.world.pace.spend(self.world.pace.failed_auth)
            raise

    def _known(self, request: web.Request, route: Route | None) -> Who:
        access = self.world.access
        header = request.headers.get("Authorization", "")
        if header.startswith("PVEAPIToken"):
            who = access.token_who(header.removeprefix("PVEAPIToken").lstrip("= "))
            if who is None:
                raise PveError(401, "Authentication failed!")
            return who
        if route is not None and route.open:
            return NOBODY
        ticket = unquote(request.cookies.get(COOKIE, ""))
        if not ticket:
            raise PveError(401, "No ticket")
        user = access.ticket_user(ticket)
        if user is None:
            raise PveError(401, "Authentication failed!")
        if request.method not in _SAFE and not access.csrf_valid(user, request.headers.get("CSRFPreventionToken", "")):
            raise PveError(401, "Permission denied - invalid csrf token")
        return Who(user)


Found = tuple[Route, dict[str, str]] | None


def is_form_with_file(request: web.Request) -> bool:
    return request.content_type == "multipart/form-data"


def check_body(request: web.Request) -> None:
    """What the HTTP server itself does not take.

    Raises:
        PveError: 501 or 506, before anybody knows who calls.
    """
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        raise PveError(501, "chunked transfer encoding not supported")
    length = request.content_length or 0
    if length and request.method not in ("POST", "PUT"):
        raise PveError(501, f"Unexpected content for method '{request.method}'")
    if not length or is_form_with_file(request):
        return
    if length > MAX_BODY:
        raise PveError(501, "for data too large")
    if "Content-Type" in request.headers and request.content_type not in BODIES:
        raise PveError(506, f"upload 'Content-Type '{request.headers['Content-Type']}' not implemented")


BODIES = frozenset({"application/x-www-form-urlencoded", "application/json"})


def _cut(server: web.Server[web.Request]) -> None:
    """Cut every connection that is open."""
    for connection in server.connections:
        if connection.transport is not None:
            connection.transport.abort()


async def _params(request: web.Request) -> dict[str, Any]:
    """Query and body in one map; a name given several times becomes a list."""
    pairs = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    kind = request.content_type
    if kind == "application/json" and request.body_exists:
        try:
            body: dict[str, Any] = json.loads(await request.text() or "{}")
        except ValueError as error:
            raise PveError(400, f"Invalid JSON body: {error}") from error
        return dict(pairs) | body
    if kind == "application/x-www-form-urlencoded" and request.body_exists:
        pairs += [
            (unquote_plus(name), unquote_plus(value))
            for name, _, value in (part.partition("=") for part in (await request.text()).split("&") if part)
        ]
    params: dict[str, Any] = {}
    for name, value in pairs:
        if name in params:
            earlier = params[name]
            params[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
        else:
            params[name] = value
    return params


def _form(value: object) -> str | list[str]:
    """A value of JSON as a form would carry it."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return str(int(value)) if isinstance(value, bool) else str(value)


def _check_vmid(text: str | None) -> None:
    if text is None:
        return
    if not text.lstrip("-").isdecimal():
        raise bad(vmid=f"type check ('integer') failed - got '{text}'")
    if text.startswith("0") or not 100 <= int(text) <= 999_999_999:
        raise bad(vmid="invalid format - value does not look like a valid VM ID\n")


def _refusal(error: PveError) -> web.Response:
    reason = next(iter(error.reason.strip().splitlines()), "")
    if error.status == 401 and not error.told:
        return web.Response(status=401, reason=reason)
    body: dict[str, Any] = {"data": None, "message": error.reason.rstrip("\n") + "\n"}
    if error.errors is not None:
        body["errors"] = error.errors
    return _json(body, error.status, reason)


def _json(body: object, status: int = 200, reason: str | None = None) -> web.Response:
    return web.Response(
        status=status,
        reason=reason,
        body=msgspec.json.encode(body),
        headers={"Content-Type": "application/json;charset=UTF-8", "Server": "pve-api-daemon/3.0"},
    )


def _colons(certificate: bytes) -> str:
    digest = hashlib.sha256(certificate).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


@asynccontextmanager
async def proxmox(
    world: World | None = None, *, host: str = "127.0.0.1", port: int = 0, addresses: int = 1, name: str = ""
) -> AsyncIterator[Proxmox]:
    """A cluster that answers, in the caller's event loop, until the block ends.

    Args:
        port: of the first address; the others follow it. 0 picks free ones.
        addresses: how many API endpoints the cluster has.
        name: a further one that its certificate is for.
    """
    made = Proxmox(world or World(), host, name)
    ready = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            keeping = [
                group.create_task(made.world.tasks.run(ready), name="tasks"),
                group.create_task(made.world.board.run(), name="pvestatd"),
                group.create_task(made.world.managers.run(), name="pve-ha-crm"),
            ]
            try:
                await ready.wait()
                for place in range(addresses):
                    await made.listen(port + place if port else 0)
                yield made
            finally:
                await made.close()
                for task in keeping:
                    task.cancel()
            if made.bugs:
                raise ExceptionGroup("the simulator is broken", made.bugs)
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None  # what the block raised goes on as it is
        raise
