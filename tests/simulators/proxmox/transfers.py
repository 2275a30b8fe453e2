"""Files on their way into a storage: uploads, and downloads from a URL that are really fetched."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from . import multipart
from .contents import check_image, format_named, path_of
from .errors import PveError, refused
from .tasks import Task
from .world import Storage, Volume

CHUNK = 1 << 20
TAIL_BYTES = 64  # more than what follows a file but the boundary
BOUNDARY = re.compile(r"boundary\s*=\s*\"?([^\s;,\"]+)")
BLOCK = 4096  # what a file takes is a multiple of it
CHECKSUM = "calculating checksum..."


@dataclass(frozen=True)
class Received:
    """A request with a file in it: its fields, and where the file lies until somebody wants it."""

    fields: dict[str, str]
    filename: str
    file: Path


async def receive(request: web.Request, folder: Path) -> Received:
    """Read a form with a file to its end.

    Raises:
        PveError: 501, it is not as the product understands one.
    """
    boundary = BOUNDARY.search(request.headers.get("Content-Type", ""))
    if boundary is None:
        raise PveError(501, "upload failed")
    raw, file = (Path(tempfile.mkstemp(prefix="pveupload-", dir=folder)[1]) for _ in range(2))
    try:
        with raw.open("wb") as target:
            async for chunk in request.content.iter_chunked(CHUNK):
                target.write(chunk)
        found = await asyncio.to_thread(split, raw, file, boundary[1])
    finally:
        raw.unlink()
    return Received(found.fields, found.filename, file)


def split(raw: Path, file: Path, boundary: str) -> multipart.Head:
    """Take the file out of a form."""
    size = raw.stat().st_size
    with raw.open("rb") as form, file.open("wb") as target:
        head = multipart.head(form.read(multipart.HEAD_BYTES), boundary)
        tail = max(head.start, size - len(boundary) - TAIL_BYTES)
        form.seek(tail)
        left = tail + multipart.end(form.read(), boundary) - head.start
        form.seek(head.start)
        while left > 0 and (chunk := form.read(min(CHUNK, left))):
            target.write(chunk)
            left -= len(chunk)
    return head


def check_sum(task: Task, file: Path, algorithm: str, wanted: str) -> None:
    """Compare a file with what its caller expects; without an expectation everything is fine.

    Raises:
        PveError: another file arrived.
    """
    if not wanted:
        return
    with file.open("rb") as content:
        got = hashlib.file_digest(content, algorithm).hexdigest()
    if got != wanted.lower():
        task.log(CHECKSUM)
        raise refused(f"checksum mismatch: got '{got}' != expect '{wanted}'")
    task.log(f"{CHECKSUM}OK, checksum verified")


def keep(storage: Storage, node: str, volid: str, content: str, file: Path) -> Volume:
    """Make a file a volume, in place of one with that name."""
    size = file.stat().st_size
    volume = Volume(volid, content, format_named(volid), size, used=-(-size // BLOCK) * BLOCK, file=file)
    storage.on(node)[volid] = volume
    return volume


@dataclass(frozen=True)
class Download:
    """One file that a node fetches.

    Attributes:
        checksum: wanted, in hex; empty: none.
        verify: whether the server's certificate must be good.
    """

    storage: Storage
    node: str
    volid: str
    content: str
    url: str
    folder: Path
    algorithm: str = ""
    checksum: str = ""
    verify: bool = True

    async def run(self, task: Task) -> None:
        """Fetch, verify and keep it.

        Raises:
            PveError: it is there already, or it could not be fetched, or is not what was asked for.
        """
        target = path_of(self.storage, self.volid)
        task.log(f"downloading {self.url} to {target}")
        if self.volid in self.storage.on(self.node):
            raise refused(f"refusing to override existing file '{target}'")
        unfinished = f"{target}.tmp_dwnl.{task.pid}"
        file = Path(tempfile.mkstemp(prefix="tmp_dwnl-", dir=self.folder)[1])
        task.log(f"--{self.url}")
        await self._fetch(task, file)
        await task.spend(task.world.pace.transfer)
        check_sum(task, file, self.algorithm, self.checksum)
        try:
            check_image(file, format_named(self.volid), unfinished)
        except PveError as error:
            raise refused(f"failed to verify file: {error.reason}") from error
        if self.volid in self.storage.on(self.node):
            raise refused(f"refusing to override existing file '{target}'")  # somebody else's download ended first
        keep(self.storage, self.node, self.volid, self.content, file)
        task.log(f"download of '{self.url}' to '{target}' finished")

    async def _fetch(self, task: Task, file: Path) -> None:
        where = urlsplit(self.url)
        port = where.port or (443 if where.scheme == "https" else 80)
        connecting = f"Connecting to {where.hostname}:{port}..."
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url, ssl=self.verify) as response:
                task.log(f"{connecting} connected.")
                if response.status >= 400:
                    task.log(f"ERROR {response.status}: {response.reason}.")
                    raise refused("download failed: exit code 8")
                with file.open("wb") as target:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        target.write(chunk)
        except aiohttp.ClientConnectorDNSError as error:
            raise refused("download failed: exit code 4") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise refused("download failed: exit code 5") from error
        except aiohttp.ClientConnectorError as error:
            raise refused(f"download failed: {connecting} failed: Connection refused.") from error
        except aiohttp.ClientError as error:
            raise refused("download failed: exit code 4") from error
