"""What the HTTP server of Proxmox VE does not take, and when it hangs up."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulators.proxmox import Proxmox, pve
from simulators.proxmox.client import client
from simulators.proxmox.errors import PveError
from simulators.proxmox.multipart import end, head
from simulators.proxmox.server import KEEP_ALIVE, MAX_BODY

__all__ = ["pve"]

MARK = "x"
CONTENT = 'Content-Disposition: form-data; name="content"\r\n\r\nimport\r\n'
SUM = 'Content-Disposition: form-data; name="checksum"\r\n\r\n00\r\n'
ALGORITHM = 'Content-Disposition: form-data; name="checksum-algorithm"\r\n\r\nsha256\r\n'
FILE = 'Content-Disposition: form-data; name="filename"; filename="a b.raw"\r\n'
TYPE = "Content-Type: application/octet-stream\r\n"


def cut(*parts: str) -> bytes:
    return "".join(f"--{MARK}\r\n{part}" for part in parts).encode()


def test_a_form_in_the_right_order_is_understood() -> None:
    data = cut(CONTENT, ALGORITHM, SUM, f"{FILE}{TYPE}\r\n")
    found = head(data + b"DATA", MARK)
    assert found.fields == {"content": "import", "checksum-algorithm": "sha256", "checksum": "00"}
    assert (found.filename, found.start) == ("a b.raw", len(data))
    assert head(cut(CONTENT, f"{FILE}\r\n"), MARK).filename == "a b.raw", "the file's own type may be missing"
    assert end(b"DATA\r\n--x--\r\n", MARK) == 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (cut(CONTENT, SUM, ALGORITHM, f"{FILE}\r\n"), "wrong Content-Disposition"),
        (cut(f"{FILE}\r\nDATA\r\n", CONTENT), "wrong Content-Disposition"),
        (cut(CONTENT, f"{TYPE}{FILE}\r\n"), "upload failed"),
        (cut(CONTENT, FILE.replace('"filename"', '"file"') + "\r\n"), "wrong field name 'file'"),
        (cut(CONTENT), "upload failed"),
        (b"nothing", "upload failed"),
    ],
)
def test_other_forms_are_not(data: bytes, reason: str) -> None:
    """As libraries write them that put the type of a part first, or fields where they like."""
    with pytest.raises(PveError, match=reason) as refused:
        head(data, MARK)
    assert refused.value.status == 501


async def test_bodies_that_no_method_gets_to_see(pve: Proxmox) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"name=x"

    headers = {"Authorization": pve.token}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=pve.ca_file))
    url = f"{pve.url}/api2/json/pools"
    told = []
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        for method, data, kind in (
            ("POST", chunks(), None),
            ("DELETE", b"poolid=x", "application/x-www-form-urlencoded"),
            ("POST", b"x" * (MAX_BODY + 1), "application/x-www-form-urlencoded"),
            ("POST", b"poolid: x", "application/yaml"),
        ):
            more = {"Content-Type": kind} if kind else {}
            async with session.request(method, url, data=data, headers=more) as response:
                told.append((response.status, response.reason))
    assert told == [
        (501, "chunked transfer encoding not supported"),
        (501, "Unexpected content for method 'DELETE'"),
        (501, "for data too large"),
        (506, "upload 'Content-Type 'application/yaml' not implemented"),
    ]


async def test_a_connection_ends_with_a_refusal_and_after_a_hundred_requests(pve: Proxmox) -> None:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=pve.ca_file))
    async with aiohttp.ClientSession(headers={"Authorization": pve.token}, connector=connector) as session:

        async def closing(path: str) -> bool:
            async with session.get(f"{pve.url}/api2/json{path}") as response:
                await response.read()
                return response.headers.get("Connection", "").lower() == "close"

        assert await closing("/nodes/nope/status")
        lasting = [await closing("/version") for _ in range(KEEP_ALIVE)]
    assert lasting == [False] * (KEEP_ALIVE - 1) + [True]


async def test_aiohttps_own_forms_are_not_understood(pve: Proxmox) -> None:
    parts = aiohttp.FormData({"content": "import"})
    parts.add_field("filename", b"DATA", filename="a.raw", content_type="application/octet-stream")
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=pve.ca_file))
    url = f"{pve.url}/api2/json/nodes/pve1/storage/local/upload"
    async with (
        aiohttp.ClientSession(headers={"Authorization": pve.token}, connector=connector) as session,
        session.post(url, data=parts) as response,
    ):
        told = (response.status, response.reason)
    async with client(pve) as admin:
        sent = await admin.upload("/nodes/pve1/storage/local/upload", "a.raw", b"DATA", {"content": "import"})
    assert told == (501, "upload failed")
    assert sent.status == 200
