"""Streams from and to HTTP servers: trust, framing, refusals, and lines that break."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    InternalError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
)
from provider_vsphere.session.login import Endpoint
from provider_vsphere.session.transfers import CHUNK, Transfers


class Files(BaseHTTPRequestHandler):
    """Gives `server.content`, keeps what it gets in `server.got`, and can be told to fail."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.server.content
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content) + self.server.missing))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def do_POST(self) -> None:
        self.close_connection = True
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.end_headers()
            return
        self.server.headers = dict(self.headers)
        self.server.got = b"".join(self._body())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> Iterator[bytes]:
        if "Content-Length" in self.headers:
            yield self.rfile.read(int(self.headers["Content-Length"]))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    status, missing, content, got = 200, 0, b"", b""
    headers: dict[str, str]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(context)
    server.pem = certificate.cert_chain_pems[0].bytes()  # type: ignore[attr-defined]  # for the thumbprint
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url(server: Server) -> str:
    return f"https://127.0.0.1:{server.server_address[1]}/nfc/1/disk?a=b"


@pytest.fixture
def transfers(server: Server, authority: trustme.CA, tmp_path: Path) -> Transfers:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    return Transfers(Endpoint(url(server), credentials=tmp_path), silence=5.0)


async def fetched(transfers: Transfers, server: Server, **more: str) -> bytes:
    async with transfers.download("read", url(server), **more) as body:
        return b"".join([chunk async for chunk in body.chunks()])


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_a_body_comes_in_bounded_pieces(transfers: Transfers, server: Server) -> None:
    server.content = bytes(range(256)) * 5000
    async with transfers.download("read", url(server)) as body:
        got = [chunk async for chunk in body.chunks()]
    assert b"".join(got) == server.content
    assert max(map(len, got)) <= CHUNK
    assert body.size == len(server.content)


@pytest.mark.parametrize("size", [None, 2_000_003])
async def test_a_body_goes_out_with_and_without_its_size(
    transfers: Transfers, server: Server, size: int | None
) -> None:
    await transfers.upload(
        "write", "POST", url(server), pieces(b"abc", b"", b"d" * 2_000_000), headers={"Content-Type": "x"}, size=size
    )
    assert server.got == b"abc" + b"d" * 2_000_000
    assert server.headers["Content-Type"] == "x"


@pytest.mark.parametrize("size", [2, 4])
async def test_a_size_must_be_true(transfers: Transfers, server: Server, size: int) -> None:
    with pytest.raises(InternalError, match=f"{size}"):
        await transfers.upload("write", "POST", url(server), pieces(b"abc"), size=size)


async def test_a_body_that_is_cut_is_no_body(transfers: Transfers, server: Server) -> None:
    server.content, server.missing = b"a" * 1000, 1
    with pytest.raises(HypervisorUnavailableError, match="1 bytes early"):
        await fetched(transfers, server)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, HypervisorUnavailableError),
        (403, PermissionMissingError),
        (404, ResourceNotFoundError),
        (307, ResourceNotFoundError),
        (500, HypervisorUnavailableError),
        (418, InternalError),
    ],
)
async def test_a_refusal_says_its_status(
    transfers: Transfers, server: Server, status: int, error: type[ProviderError]
) -> None:
    server.status = status
    with pytest.raises(error, match=f"read: HTTP {status}"):
        await fetched(transfers, server)


async def test_a_refusal_amid_the_body_is_heard(transfers: Transfers, server: Server) -> None:
    """The server hangs up on what it does not want, and has said why."""
    server.status = 403

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(CHUNK)

    with pytest.raises((PermissionMissingError, HypervisorUnavailableError)):
        await transfers.upload("write", "POST", url(server), endless())


async def test_a_host_that_cannot_be_reached_is_named(transfers: Transfers, unused_tcp_port: int) -> None:
    with pytest.raises(HypervisorUnavailableError, match=r"read, at 127\.0\.0\.1"):
        async with transfers.download("read", f"https://127.0.0.1:{unused_tcp_port}/nfc"):
            raise AssertionError("nobody listens there")


async def test_an_unknown_certificate_is_not_believed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CredentialsRefusedError):
        await fetched(Transfers(Endpoint(url(server), credentials=tmp_path)), server)


async def test_a_hosts_thumbprint_is_believed_and_nothing_else(server: Server, tmp_path: Path) -> None:
    """vCenter vouches for its hosts, which have certificates of any authority."""
    server.content = b"content"
    elsewhere = Transfers(Endpoint("https://vcenter.example/sdk", credentials=tmp_path))
    der = ssl.PEM_cert_to_DER_cert(server.pem.decode())  # type: ignore[attr-defined]  # set by the fixture
    sha1 = hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
    colons = ":".join(sha1[i : i + 2] for i in range(0, 40, 2))
    assert await fetched(elsewhere, server, thumbprint=colons) == b"content"
    with pytest.raises(CredentialsRefusedError):
        await fetched(elsewhere, server, thumbprint="00" * 20)


async def test_a_reader_that_leaves_hangs_up(transfers: Transfers, server: Server) -> None:
    server.content = bytes(64 << 20)
    async with asyncio.timeout(5), transfers.download("read", url(server)) as body:
        async for _ in body.chunks():
            break


@pytest.mark.parametrize(
    ("endpoint", "device", "want"),
    [
        ("https://esx.example/sdk", "https://*/nfc/1/d", "https://esx.example/nfc/1/d"),
        ("https://esx.example:8443/sdk", "https://*/nfc/1/d", "https://esx.example:8443/nfc/1/d"),
        ("https://esx.example:8443/sdk", "https://*:443/nfc/1/d", "https://esx.example:443/nfc/1/d"),
        ("https://[2001:db8::1]:8443/sdk", "https://*:443/nfc/1/d", "https://[2001:db8::1]:443/nfc/1/d"),
        ("https://[2001:db8::1]/sdk", "https://*/nfc/1/d", "https://[2001:db8::1]/nfc/1/d"),
        ("https://vc.example/sdk", "https://esx.example/nfc/1/d", "https://esx.example/nfc/1/d"),
    ],
)
def test_a_star_stands_for_the_endpoints_host(endpoint: str, device: str, want: str) -> None:
    assert Transfers(Endpoint(endpoint)).resolved(device) == want


def test_only_the_endpoint_gets_the_sessions_cookie() -> None:
    transfers = Transfers(Endpoint("https://vc.example/sdk"))
    assert transfers.is_endpoint("https://vc.example:443/folder/x")
    assert not transfers.is_endpoint("https://vc.example:902/nfc")
    assert not transfers.is_endpoint("https://esx.example/nfc")
