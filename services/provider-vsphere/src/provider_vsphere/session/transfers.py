"""Bytes from and to the HTTP servers of vCenter and its hosts, streamed: the disks themselves do not go through SOAP.

`http.client` on threads, one step at a time, as in `vapi.py` and for the same reason: there the pinned certificate is
compared. A step hands over at most CHUNK bytes, so that memory is bounded and a slow reader slows the sender.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from common.errors import (
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
)
from providerkit.threads import Threads

from provider_vsphere.session.login import Endpoint, Login, PinnedContext
from provider_vsphere.session.vim_errors import mapped

CHUNK = 256 << 10
"""Bytes of one step; whoever takes longer than SILENCE_SECONDS for so few counts as dead, too."""
CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 300.0
"""No byte for so long, and the line counts as dead: a host that reads through many zeros sends nothing meanwhile."""
T = TypeVar("T")


class Transfers:
    """Connections to the hosts behind one endpoint."""

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 16, silence: float = SILENCE_SECONDS) -> None:
        """Args: concurrency: steps, not transfers, at a time. silence: seconds without a byte that a line survives."""
        self._endpoint = endpoint
        self._steps = Threads(concurrency)
        self._silence = silence

    def is_endpoint(self, url: str) -> bool:
        """Whether a URL leads to the server that we are logged in to; only there does the session's cookie belong."""
        return _origin(url) == _origin(self._endpoint.url)

    def resolved(self, url: str) -> str:
        """A device URL with the endpoint's own host for "*". Source: HttpNfcLeaseDeviceUrl.url."""
        parts, ours = urlsplit(url), urlsplit(self._endpoint.url)
        if parts.hostname != "*":
            return url
        if parts.port is None:
            return parts._replace(netloc=ours.netloc).geturl()
        host = f"[{ours.hostname}]" if ":" in (ours.hostname or "") else ours.hostname
        return parts._replace(netloc=f"{host}:{parts.port}").geturl()

    @contextlib.asynccontextmanager
    async def download(
        self, doing: str, url: str, *, headers: Mapping[str, str] | None = None, thumbprint: str = ""
    ) -> AsyncIterator[Download]:
        """GET; leaving the context hangs up.

        Args:
            thumbprint: of the certificate to expect instead of the usual trust, as vCenter told it.
        Raises:
            ProviderError: the server refuses, or cannot be reached, or is not to be believed.
        """
        line = _Line(self._connection(doing, url, thumbprint))

        def begin() -> http.client.HTTPResponse:
            line.connection.request("GET", _target(url), headers=dict(headers or {}))
            return line.answer()

        with contextlib.closing(line):
            await self._connect(doing, line)
            response = await self._step(doing, begin)
            if response.status not in (200, 206):
                raise _refusal(doing, response)
            yield Download(response, lambda: self._step(doing, lambda: _read(doing, response)))

    async def upload(
        self,
        doing: str,
        method: str,
        url: str,
        chunks: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
        thumbprint: str = "",
    ) -> None:
        """Send a body piece by piece, and see it accepted.

        Args:
            chunks: each should be at most CHUNK bytes.
            size: of all chunks together; None when nobody knows yet.
        Raises:
            ProviderError: as of `download`; or there are fewer or more bytes than `size`.
        """
        line = _Line(self._connection(doing, url, thumbprint))
        sent = 0

        def begin() -> None:
            connection = line.connection
            connection.putrequest(method, _target(url))
            framing = ("Transfer-Encoding", "chunked") if size is None else ("Content-Length", str(size))
            for name, value in (*(headers or {}).items(), framing):
                connection.putheader(name, value)
            connection.endheaders()

        def end() -> http.client.HTTPResponse:
            if size is None:
                line.connection.send(b"0\r\n\r\n")
            return line.answer()

        with contextlib.closing(line):
            await self._connect(doing, line)
            await self._step(doing, begin)
            async for chunk in chunks:
                sent += len(chunk)
                if size is not None and sent > size:
                    raise InternalError(f"{doing}: more than the {size} bytes that were announced")
                if chunk:
                    await self._send(doing, line, chunk, framed=size is None)
            if size is not None and sent < size:
                raise InternalError(f"{doing}: {sent} bytes where {size} were announced")
            response = await self._step(doing, end)
            if not 200 <= response.status < 300:
                raise _refusal(doing, response)

    async def _connect(self, doing: str, line: _Line) -> None:
        """Often to a host that nobody has talked to before, and that a firewall may hide: so its name is told."""
        await self._step(f"{doing}, at {line.connection.host}", lambda: line.connect(self._silence))

    async def _send(self, doing: str, line: _Line, chunk: bytes, *, framed: bool) -> None:
        data = b"%x\r\n%b\r\n" % (len(chunk), chunk) if framed else chunk
        try:
            await self._step(doing, lambda: line.connection.send(data))
        except HypervisorUnavailableError as broken:
            if not isinstance(broken.__cause__, BrokenPipeError | ConnectionResetError):
                raise
            # A server that has seen enough answers before the body ends, and hangs up.
            try:
                response = await self._step(doing, line.answer)
            except ProviderError:
                raise broken from broken.__cause__
            raise _refusal(doing, response) from broken

    async def _step(self, doing: str, step: Callable[[], T]) -> T:
        def work() -> T:
            with mapped(doing):
                return step()

        return await self._steps.run(work, timeout=self._silence + 10.0, doing=doing)

    def _connection(self, doing: str, url: str, thumbprint: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = self._trust(url, thumbprint)
            return http.client.HTTPSConnection(host, parts.port, timeout=CONNECT_SECONDS, context=context)
        if parts.scheme == "http" and urlsplit(self._endpoint.url).scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=CONNECT_SECONDS)
        raise InternalError(f"{doing}: vSphere gave a URL of scheme {parts.scheme!r}")

    def _trust(self, url: str, thumbprint: str) -> ssl.SSLContext:
        """A host's thumbprint comes from a vCenter that is believed already, and says more than any authority."""
        if thumbprint and not self.is_endpoint(url):
            return PinnedContext(thumbprint)
        return self._endpoint.trust()


class _Line:
    """A connection that can be closed while a thread reads or sends on it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._closed = False

    def connect(self, silence: float) -> None:
        """Blocks, as everything that follows: at most so many seconds without a byte."""
        self.connection.connect()
        self._socket = self.connection.sock
        self._socket.settimeout(silence)
        if self._closed:  # meanwhile
            self.close()

    def answer(self) -> http.client.HTTPResponse:
        """Blocks."""
        self._response = self.connection.getresponse()
        return self._response

    def close(self) -> None:
        """Whoever blocks gets an error, and returns. A response that is the last of its line owns the socket."""
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._response is not None:
            self._response.close()
        self.connection.close()


class Download:
    """A body that comes in."""

    def __init__(self, response: http.client.HTTPResponse, read: Callable[[], Awaitable[bytes]]) -> None:
        self.status = response.status
        self.size = response.length
        """Bytes of this body; None when the server does not tell."""
        self._read = read

    async def chunks(self) -> AsyncGenerator[bytes]:
        """All of it, CHUNK bytes at a time."""
        while chunk := await self._read():
            yield chunk


def cookie(login: Login) -> dict[str, str]:
    """The session's cookie as a header, for URLs of the endpoint itself."""
    return {"Cookie": str(login.instance._stub.cookie).partition(";")[0]}


def _read(doing: str, response: http.client.HTTPResponse) -> bytes:
    data = response.read(CHUNK)
    if not data and response.length:
        raise HypervisorUnavailableError(f"{doing}: the connection ended {response.length} bytes early")
    return data


def _refusal(doing: str, response: http.client.HTTPResponse) -> ProviderError:
    status = response.status
    elsewhere = 300 <= status < 400  # our cookie is for this server alone
    kinds: dict[int, type[ProviderError]] = {
        401: HypervisorUnavailableError,  # the session, or the lease, has ended
        403: PermissionMissingError,
        404: ResourceNotFoundError,
        507: HostFullError,
    }
    otherwise = ResourceNotFoundError if elsewhere else HypervisorUnavailableError if status >= 500 else InternalError
    kind = kinds.get(status, otherwise)
    return kind(f"{doing}: HTTP {status} {response.reason}")


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"


def _origin(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
