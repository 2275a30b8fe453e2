"""A websocket into the cluster, as its consoles use it.

What an error of the library says holds the address, and the address holds the ticket: neither leaves this module.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
from common.errors import CredentialsRefusedError, HypervisorUnavailableError

from provider_proxmox.session.login import PinnedContext

_PROTOCOL = "binary"
_OPEN_SECONDS = 20.0
_MOST = 4 << 20
"""Bytes of one message."""


class Socket:
    """An open one."""

    def __init__(self, doing: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._doing = doing
        self._socket = socket

    async def read(self) -> bytes:
        """Wait for what comes; empty when the other side ended it.

        Raises:
            HypervisorUnavailableError: the line broke.
        """
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    if message.data:
                        return bytes(message.data)
                case aiohttp.WSMsgType.TEXT:
                    if message.data:
                        return str(message.data).encode()
                case aiohttp.WSMsgType.ERROR:
                    raise HypervisorUnavailableError(f"{self._doing}: the line broke")
                case _:
                    return b""

    async def write(self, data: bytes) -> None:
        """Send it; what is sent after the other side has ended it is lost, which its end tells."""
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            raise HypervisorUnavailableError(f"{self._doing}: the line is closed") from error


class _Pins(aiohttp.Fingerprint):
    """Believes the certificates with these SHA-256 fingerprints: a context's own check sees blocking sockets alone."""

    def __init__(self, pins: frozenset[str]) -> None:
        super().__init__(bytes.fromhex(min(pins)))
        self._pins = pins

    def check(self, transport: asyncio.Transport) -> None:
        if not transport.get_extra_info("sslcontext"):
            return
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        got = sha256(certificate or b"")
        if got.hexdigest() not in self._pins:
            host, port, *_ = transport.get_extra_info("peername")
            raise aiohttp.ServerFingerprintMismatch(self.fingerprint, got.digest(), host, port)


@asynccontextmanager
async def websocket(
    doing: str, url: str, path: str, params: Mapping[str, object], *, headers: Mapping[str, str], trust: ssl.SSLContext
) -> AsyncIterator[Socket]:
    """Open one, and close it when the context is left.

    Args:
        url: of a node.
        path, params: as for a call.
        headers: of our login.
    Raises:
        HypervisorUnavailableError: it cannot be opened.
        CredentialsRefusedError: the certificate or the login is refused.
    """
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    address = urlunsplit((scheme, parts.netloc, f"/api2/json/{path}", urlencode(params), ""))
    believed = _Pins(trust.pins) if isinstance(trust, PinnedContext) else trust
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_OPEN_SECONDS, sock_read=None)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                opened = await session.ws_connect(
                    address, headers=headers, protocols=(_PROTOCOL,), ssl=believed, max_msg_size=_MOST
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                raise CredentialsRefusedError(f"{doing}: Proxmox VE does not accept our ticket for it") from None
            raise HypervisorUnavailableError(f"{doing}: Proxmox VE answers {error.status}", retry_after=2.0) from None
        except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
            raise CredentialsRefusedError(
                f"{doing}: the certificate of {url} is not to be believed: {type(error).__name__}"
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise HypervisorUnavailableError(
                f"{doing}: no line to {url}: {type(error).__name__}", retry_after=2.0
            ) from None
        async with opened:
            yield Socket(doing, opened)
