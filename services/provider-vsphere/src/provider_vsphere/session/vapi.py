"""vCenter's REST interface ("vAPI"), where tags and content libraries live: a session of its own beside the SOAP one.

It comes in two dialects. `/api` (vCenter 7.0 U2 and later) takes and gives plain JSON; `/rest` (older ones, and the
simulator) wraps what it takes under the parameter's name and what it gives under "value", and writes `~action` and
`id:`. A `Request` says the same in both; which one the server speaks is found out at the first login. A lone ESXi
host has neither.

Each call has a connection of its own, by `http.client` on a thread: such calls are few, and an idle connection may be
gone without saying so. An asyncio client would shake hands by `SSLContext.wrap_bio`, where `PinnedContext` compares
nothing; `http.client` uses `wrap_socket`, as pyvmomi does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from common import redact
from common.errors import (
    CredentialsRefusedError,
    DownloadFailedError,
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    OperationCancelledError,
    OperationInProgressError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from providerkit.threads import Threads

from provider_vsphere.session.login import Endpoint, Login
from provider_vsphere.session.vim_errors import mapped
from provider_vsphere.session.vsphere import Vsphere

SESSION_HEADER = "vmware-api-session-id"

_BY_TYPE: dict[str, type[ProviderError]] = {
    "already_exists": NameConflictError,
    "already_in_desired_state": WrongPowerStateError,
    "canceled": OperationCancelledError,
    "concurrent_change": StalePreconditionError,
    "feature_in_use": OperationInProgressError,
    "invalid_argument": InvalidSpecError,
    "invalid_element_configuration": InvalidSpecError,
    "invalid_element_type": InvalidSpecError,
    "invalid_request": InvalidSpecError,
    "not_allowed_in_current_state": WrongPowerStateError,
    "not_found": ResourceNotFoundError,
    "operation_not_found": NotSupportedError,
    "resource_busy": OperationInProgressError,
    "resource_in_use": OperationInProgressError,
    "resource_inaccessible": ResourceNotFoundError,
    "service_unavailable": HypervisorUnavailableError,
    "timed_out": HypervisorUnavailableError,
    "unable_to_allocate_resource": HostFullError,
    "unauthenticated": HypervisorUnavailableError,  # the session ended; refused credentials are told apart at login
    "unauthorized": PermissionMissingError,
    "unexpected_input": InvalidSpecError,
    "unsupported": NotSupportedError,
    "unverified_peer": DownloadFailedError,  # of a server that the vCenter itself fetches from
}
"""Source: vSphere Automation API, package com.vmware.vapi.std.errors."""
_BY_STATUS: dict[int, type[ProviderError]] = {
    400: InvalidSpecError,
    401: HypervisorUnavailableError,
    403: PermissionMissingError,
    404: NotSupportedError,  # not an answer of the API, which names a type: this server has no such path
    429: HypervisorUnavailableError,
    502: HypervisorUnavailableError,
    503: HypervisorUnavailableError,
    504: HypervisorUnavailableError,
}
"""For answers that name no type: those of a proxy in front of the API, or of a service that is down."""
_MOST_SAID = 500
"""Characters of a message that are told on."""


@dataclass(frozen=True)
class Request:
    """One call, in words that fit both dialects.

    Attributes:
        path: without the dialect's beginning: "cis/tagging/tag". Its "{}" stands for `id`.
        id: of the object that is meant.
        action: of a POST that is none of the four verbs: "attach".
        body: as `/api` takes it.
        parameter: the name under which `/rest` wants the body; empty where it takes the same.
        legacy: the whole path in `/rest`, where that is another one.
    """

    method: str
    path: str
    id: str = ""
    action: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  # JSON
    parameter: str = ""
    legacy: str = ""


@dataclass(frozen=True)
class Dialect:
    """How one of the two interfaces is spoken to."""

    login: str
    """Path of its session."""
    wraps: bool

    def target(self, request: Request) -> str:
        """Path and query."""
        query = dict(request.query)
        if self.wraps:
            beginning = "" if request.path.startswith("vcenter/") else "com/vmware/"
            path = "/rest/" + (request.legacy or beginning + request.path).replace("{}", f"id:{_quoted(request.id)}")
            query |= {"~action": request.action} if request.action else {}
        else:
            path = "/api/" + request.path.replace("{}", _quoted(request.id))
            query |= {"action": request.action} if request.action else {}
        return path + (f"?{urlencode(query, safe='~')}" if query else "")

    def body(self, request: Request) -> Any:
        """What is sent."""
        return {request.parameter: request.body} if self.wraps and request.parameter else request.body

    def answer(self, value: Any) -> Any:
        """What was meant by what came."""
        return value["value"] if self.wraps and isinstance(value, dict) and "value" in value else value


API = Dialect("/api/session", wraps=False)
REST = Dialect("/rest/com/vmware/cis/session", wraps=True)


@dataclass(frozen=True)
class _Session:
    """A token, good for one server and as long as nobody ends it. It is a secret, so it is never shown."""

    login: Login
    dialect: Dialect
    token: str = field(repr=False)


class Vapi:
    """The REST interface of one vCenter."""

    def __init__(self, vsphere: Vsphere, *, concurrency: int = 4, call_timeout: float = 30.0) -> None:
        """Nothing is opened before the first call.

        Args:
            concurrency: calls at a time.
            call_timeout: seconds after which a call without an answer counts as lost.
        """
        self._vsphere = vsphere
        self._calls = Threads(concurrency)
        self._timeout = call_timeout
        self._opening = asyncio.Lock()
        self._session: _Session | None = None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Log out when the context is left."""
        try:
            yield
        finally:
            await self._leave()

    async def call(self, doing: str, request: Request) -> Any:
        """Ask, and give the answer's JSON; None for an empty one.

        Args:
            doing: for people: what is being done to which machine.
        Raises:
            NotSupportedError: an ESXi host, or a server without this path.
            ProviderError: whatever vCenter said. HypervisorUnavailableError when there was no answer, though what was
                asked may have been done.
        """
        session = await self._open(doing)
        try:
            return await self._ask(doing, session, request)
        except ProviderError as error:
            if not _is_unauthenticated(error):
                raise
        if self._session is session:
            self._session = None
        return await self._ask(doing, await self._open(doing), request)

    async def token(self, doing: str) -> str:
        """The session's token, for transfers that take it as SESSION_HEADER. A secret."""
        return (await self._open(doing)).token

    async def _ask(self, doing: str, session: _Session, request: Request) -> Any:
        dialect = session.dialect
        answer = await self._send(
            doing,
            request.method,
            dialect.target(request),
            {SESSION_HEADER: session.token},
            dialect.body(request),
        )
        return dialect.answer(answer)

    async def _send(self, doing: str, method: str, target: str, headers: Mapping[str, str], body: Any = None) -> Any:
        endpoint = self._vsphere.endpoint

        def work() -> Any:
            with mapped(doing):
                return exchange(endpoint, method, target, headers, body, timeout=self._timeout, doing=doing)

        return await self._calls.run(work, timeout=self._timeout, doing=doing)

    # -- the session -----------------------------------------------------------------------------------------------

    async def _open(self, doing: str) -> _Session:
        """The session that goes with the SOAP login of now: one is opened for each, so that new credentials count."""
        login = self._vsphere.login(doing)
        if not login.about.is_vcenter:
            raise NotSupportedError(f"{doing}: an ESXi host has no REST interface; only a vCenter does")
        async with self._opening:
            if self._session is None or self._session.login is not login:
                await self._leave()
                self._session = await self._log_in(login)
            return self._session

    async def _log_in(self, login: Login) -> _Session:
        doing = f"log in to the REST interface of {urlsplit(self._vsphere.endpoint.url).hostname}"
        headers = {"Authorization": _authorization(self._vsphere.endpoint, doing)}
        for dialect in (API, REST):
            try:
                answer = dialect.answer(await self._send(doing, "POST", dialect.login, headers))
            except NotSupportedError:
                continue
            except ProviderError as error:
                if _is_unauthenticated(error):
                    raise CredentialsRefusedError(str(error)) from error
                raise
            redact.register(str(answer), slot=f"vapi session {self._vsphere.endpoint.url}")
            return _Session(login, dialect, str(answer))
        raise NotSupportedError(f"{doing}: it has none")

    async def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(ProviderError):  # it ends by itself when nobody uses it
                await self._send("log out", "DELETE", session.dialect.login, {SESSION_HEADER: session.token})


def _authorization(endpoint: Endpoint, doing: str) -> str:
    """Source: govmomi vapi/rest (Basic) and sts.Signer.SignRequest (a bearer token of the SSO service)."""
    user, password, token = (endpoint.secret(name) for name in ("username", "password", "token"))
    if token is not None:
        packed = base64.b64encode(gzip.compress(token.encode(), mtime=0)).decode()
        redact.register(packed, slot=f"vapi token {endpoint.url}")
        return f'SIGN token="{packed}"'
    if user is None or password is None:
        raise CredentialsRefusedError(f"{doing}: the credentials directory needs `username` and `password`, or `token`")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def exchange(
    endpoint: Endpoint,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Any = None,
    *,
    timeout: float,
    doing: str,
) -> Any:
    """One request and its answer's JSON; blocks.

    Raises:
        ProviderError: what the server said.
        OSError, http.client.HTTPException: it said nothing.
    """
    parts = urlsplit(endpoint.url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=timeout, context=endpoint.trust()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
    sent = json.dumps(body).encode() if body is not None else None
    told = {"Accept": "application/json", **headers} | ({"Content-Type": "application/json"} if sent else {})
    with contextlib.closing(connection):
        connection.request(method, target, body=sent, headers=told)
        response = connection.getresponse()
        content = response.read()
    if response.status >= 300:
        raise _error(response.status, content, doing)
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise HypervisorUnavailableError(f"{doing}: the answer is no JSON") from None


class RefusedError(Exception):
    """What the server answered with, as the cause of the error that says the same in our words.

    Attributes:
        status: HTTP status.
        type: of the error in vAPI's words, lower case: "not_found"; empty when the answer named none.
    """

    def __init__(self, status: int, type: str) -> None:
        super().__init__(f"HTTP {status} {type}".rstrip())
        self.status = status
        self.type = type


def _error(status: int, content: bytes, doing: str) -> ProviderError:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None  # a page for people, of a proxy
    told = told if isinstance(told, dict) else {}
    inner = told.get("value")  # where `/rest` has it
    value = inner if isinstance(inner, dict) else told
    type = str(told.get("error_type") or told.get("type") or "").rpartition(".")[2].lower()
    cls = _BY_TYPE.get(type) or _BY_STATUS.get(status, InternalError)
    messages = value.get("messages")
    said = [_text(each) for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []
    said += _privileges(value.get("data"))
    words = "; ".join(filter(None, said))[:_MOST_SAID]
    error = cls(f"{doing}: {words or 'refused'} ({type.replace('_', ' ') or f'HTTP {status}'})")
    error.__cause__ = RefusedError(status, type)
    return error


def _text(message: dict[str, Any]) -> str:
    return " ".join(str(message.get("default_message") or message.get("id") or "").split())


def _privileges(data: Any) -> list[str]:
    """Privileges that an answer names as missing."""
    found = data.items() if isinstance(data, dict) else ()
    return [f"{key}: {value}" for key, value in found if "privilege" in str(key).lower()]


def _is_unauthenticated(error: ProviderError) -> bool:
    cause = error.__cause__
    return isinstance(cause, RefusedError) and (cause.status == 401 or cause.type == "unauthenticated")


def _quoted(text: str) -> str:
    """An id as one part of a path. Those of vAPI hold colons: "urn:vmomi:InventoryServiceTag:...:GLOBAL"."""
    return quote(text, safe=":")
