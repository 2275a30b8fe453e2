"""The server's own socket."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from apiserver.server import bind
from apiserver.settings import Settings


async def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_headers(tmp_path: Path) -> None:
    """With Nagle's algorithm, each body waited 40 ms for what the client delays: kubectl made 7 objects a second."""
    nothing = tmp_path / "unused"
    settings = Settings(tmp_path, "127.0.0.1", 0, nothing, nothing, nothing, None, "info", 3600.0)
    accepted: asyncio.Queue[int] = asyncio.Queue()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind(settings) as listener:
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await accepted.get() != 0
            writer.close()
            await writer.wait_closed()


def test_tls_1_2_is_refused(process: Any) -> None:
    process.start()
    host, _, port = process.url.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(process.directory / "ca.pem"))
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as line:
        assert line.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((host, int(port))) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=host)


def test_metrics_are_served_beside_the_api_and_nothing_else_is(process: Any) -> None:
    process.start("--metrics-address", "127.0.0.1:0")
    told = next(json.loads(line) for line in process.log().splitlines() if "apiserver.metrics" in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{told['port']}/metrics", timeout=10) as answer:
        assert b"apiserver_store_revision" in answer.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{told['port']}/api/v1/secrets", timeout=10) as answer:
        assert b'"items"' not in answer.read()
    assert process.end() == 0


def test_an_address_for_metrics_that_is_taken_is_named(process: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AssertionError):
            process.start("--metrics-address", address)
    assert f"cannot serve metrics on {address}" in process.log()
