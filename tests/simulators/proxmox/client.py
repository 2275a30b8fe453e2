"""A bare client of the API, for tests of the simulator and for benches."""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from .server import COOKIE, PREFIX, Proxmox


@dataclass(frozen=True)
class Answer:
    """What came back: `data` of a success, `reason` and `errors` of a refusal."""

    status: int
    reason: str
    body: Any  # JSON of any shape, or None when the body was empty

    @property
    def data(self) -> Any:
        """What was asked for.

        Raises:
            AssertionError: it was refused.
        """
        assert self.status == 200, f"{self.status} {self.reason} {self.body}"
        return self.body["data"]

    @property
    def errors(self) -> dict[str, str]:
        return dict(self.body["errors"])


@dataclass(frozen=True)
class Outcome:
    """A task that is over."""

    exitstatus: str
    lines: list[str]
    upid: str


def form(fields: Mapping[str, str], filename: str, content: bytes) -> tuple[bytes, str]:
    """A form with a file, as Proxmox VE takes one, and its content type. (aiohttp's own has its headers in an order
    that is not understood there.)"""
    boundary = "simulated-boundary"
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    head = f'Content-Disposition: form-data; name="filename"; filename="{filename}"\r\n'
    parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n")
    text = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts).removesuffix("\r\n")
    return text.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class Client:
    """Calls of one user. Parameters travel as a form, as most clients send them."""

    def __init__(self, pve: Proxmox, session: aiohttp.ClientSession, headers: Mapping[str, str]) -> None:
        self._pve = pve
        self._session = session
        self._headers = dict(headers)

    async def ask(self, method: str, path: str, address: int = 0, /, **params: object) -> Answer:
        """One call; a dash in a parameter's name is written as two underscores."""
        sent = {name.replace("__", "-"): str(value) for name, value in params.items()}
        where = "params" if method in ("GET", "DELETE") else "data"
        url = f"{self._pve.urls[address]}{PREFIX}{path}"
        given: Any = {where: sent}  # aiohttp types each keyword on its own
        async with self._session.request(method, url, headers=self._headers, **given) as response:
            raw = await response.read()
            body = await response.json(content_type=None) if raw else None
            return Answer(response.status, response.reason or "", body)

    async def upload(self, path: str, filename: str, content: bytes, fields: Mapping[str, str]) -> Answer:
        """Send a file."""
        body, kind = form(fields, filename, content)
        headers = {**self._headers, "Content-Type": kind}
        url = f"{self._pve.urls[0]}{PREFIX}{path}"
        async with self._session.post(url, data=io.BytesIO(body), headers=headers) as response:
            raw = await response.read()
            return Answer(response.status, response.reason or "", await response.json() if raw else None)

    async def get(self, path: str, /, **params: object) -> Any:
        return (await self.ask("GET", path, **params)).data

    async def post(self, path: str, /, **params: object) -> Any:
        return (await self.ask("POST", path, **params)).data

    async def put(self, path: str, /, **params: object) -> Any:
        return (await self.ask("PUT", path, **params)).data

    async def delete(self, path: str, /, **params: object) -> Any:
        return (await self.ask("DELETE", path, **params)).data

    async def run(self, method: str, path: str, /, **params: object) -> Outcome:
        """One call that queues a task, and how the task ended."""
        return await self.end((await self.ask(method, path, **params)).data)

    async def end(self, upid: str) -> Outcome:
        """How a task ended; waits for it without asking over and over."""
        task = await self._pve.world.tasks.wait(upid)
        return Outcome(task.exitstatus, list(task.lines), upid)


@asynccontextmanager
async def client(pve: Proxmox, headers: Mapping[str, str] | None = None) -> AsyncIterator[Client]:
    """A client with the cluster's own token, unless other headers are given."""
    tls = ssl.create_default_context(cafile=pve.ca_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        yield Client(pve, session, {"Authorization": pve.token} if headers is None else headers)


async def by_ticket(pve: Proxmox, user: str = "", password: str = "") -> dict[str, str]:
    """The headers of a login; root in person unless told otherwise."""
    async with client(pve, {}) as nobody:
        told = await nobody.post("/access/ticket", username=user or pve.user, password=password or pve.password)
    return {"Cookie": f"{COOKIE}={told['ticket']}", "CSRFPreventionToken": told["CSRFPreventionToken"]}
