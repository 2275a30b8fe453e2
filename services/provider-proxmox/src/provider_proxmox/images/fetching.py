"""Image files on their way into an import storage: fetched by a node, or streamed through here.

A node fetches by itself only what it can verify and what the operator allows it to reach: it follows every redirect, to
wherever that leads. All else passes through here, under the policy for URLs, with the headers that a URL needs, and is
judged by its first bytes; its last piece is let go only when the checksum is right, so that nothing wrong gets whole.
Proxmox VE wants to know how long an upload is: what does not say so waits in a file first.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common import logging, v1
from common.errors import (
    BrokenImageError,
    DownloadFailedError,
    HostFullError,
    InvalidSpecError,
    NotSupportedError,
    PermissionMissingError,
    ProviderError,
)
from providerkit import formats
from providerkit.driver import Progress
from providerkit.fetch import CHUNK, Digests, Download, LocalFile, Policy

from provider_proxmox.content.pipe import upload
from provider_proxmox.images import vmdk
from provider_proxmox.session.pve import Pve

log = logging.get(__name__)

FORMATS = ("qcow2", "raw", "vmdk")


@dataclass(frozen=True)
class Target:
    """Where a file goes."""

    node: str
    storage: str
    stem: str
    """Its name without the ending, which tells the format."""

    def name(self, format: str) -> str:
        """Name of the file."""
        return f"{self.stem}.{format}"

    def volume(self, format: str) -> str:
        """Id of the volume that it is then."""
        return f"{self.storage}:import/{self.name(format)}"


@dataclass(frozen=True)
class Fetched:
    """A file that is there, whole and verified."""

    volume: str
    format: str
    digest: str
    """sha256."""
    size_bytes: int


class Fetcher:
    """Fetches the files of images."""

    def __init__(
        self,
        pve: Pve,
        *,
        directories: Sequence[Path] = (),
        policy: Policy | None = None,
        limit: int = 256 << 30,
        spool: Path | None = None,
        by_node: bool = False,
    ) -> None:
        """Args:
        directories: file sources are confined to these.
        policy: which hosts images may come from.
        limit: most bytes of one file.
        spool: where files of unknown length wait.
        by_node: nodes may fetch what they can verify.
        """
        self._pve = pve
        self._directories = directories
        self._policy = policy or Policy()
        self._limit = limit
        self._spool = spool
        self._by_node = by_node

    def check(self, source: v1.ImageSource) -> None:
        """Judge a source by itself.

        Raises:
            InvalidSpecError, NotSupportedError: it can never be fetched.
        """
        if source.url is None and source.file is None:
            raise NotSupportedError("source: Proxmox VE takes images from template, url and file")
        if source.format == "ova" or _ending(source) == "ova":
            raise NotSupportedError(
                "source: an OVA holds more than one file; unpack it, and give its disk (qemu-img convert -O qcow2)"
            )
        if source.format not in ("", *FORMATS):
            raise InvalidSpecError(f"source.format: {source.format} given; this provider takes {', '.join(FORMATS)}")
        if source.url is not None:
            self._policy.check_url(source.url.url)

    async def fetch(self, source: v1.ImageSource, target: Target, doing: str, progress: Progress) -> Fetched:
        """Have the file in its place; whatever goes wrong, none of it is there that looks whole.

        Raises:
            BrokenImageError, ChecksumMismatchError, DownloadFailedError, ImageNotFoundError: the source is to blame.
            HostFullError: no room for it, here or there.
        """
        if self._by_node and _a_node_can(source):
            try:
                return await self._by_the_node(source, target, doing, progress)
            except (DownloadFailedError, PermissionMissingError, NotSupportedError) as error:
                log.info("proxmox.image.node.cannot", node=target.node, error=str(error))
        return await self._through_here(source, target, doing, progress)

    # -- by the node -----------------------------------------------------------------------------------------------

    async def _by_the_node(self, source: v1.ImageSource, target: Target, doing: str, progress: Progress) -> Fetched:
        url, checksum = source.url or v1.UrlSource(), source.checksum or v1.Checksum()
        try:
            told = await self._pve.get(doing, f"nodes/{target.node}/query-url-metadata", url=url.url)
        except ProviderError as error:
            raise DownloadFailedError(f"{doing}: node {target.node} cannot look at it: {error}") from error
        size = int(told.get("size") or 0)
        if size > self._limit:
            raise InvalidSpecError(f"{doing}: {size} bytes announced, at most {self._limit} are taken")
        order = {"checksum": checksum.digest, "checksum-algorithm": checksum.algorithm}
        path = f"nodes/{target.node}/storage/{target.storage}/download-url"
        upid = await self._pve.post(doing, path, content="import", filename=target.name("qcow2"), url=url.url, **order)
        await self._pve.task(doing, upid, progress, cancel=True)
        return Fetched(target.volume("qcow2"), "qcow2", checksum.digest, size)

    # -- through here ----------------------------------------------------------------------------------------------

    async def _through_here(self, source: v1.ImageSource, target: Target, doing: str, progress: Progress) -> Fetched:
        origin = self._origin(source)
        async with aclosing(origin.chunks()) as chunks, self._measured(origin, chunks, doing, progress) as (body, size):
            first = await _first(body)
            kind = _examined(first, size, source.format)
            digests = Digests(source.checksum)
            verified = _verified(first, body, digests, doing)
            async with aclosing(_told(verified, size, progress)) as sent:
                name = target.name(kind.name)
                await upload(self._pve, doing, target.node, target.storage, "import", name, sent, size)
        return Fetched(target.volume(kind.name), kind.name, digests.verify(doing), size)

    def _origin(self, source: v1.ImageSource) -> Download | LocalFile:
        if source.file is not None:
            return LocalFile(source.file, self._directories, limit=self._limit)
        return Download(source.url or v1.UrlSource(), self._policy, limit=self._limit)

    @asynccontextmanager
    async def _measured(
        self, origin: Download | LocalFile, chunks: AsyncGenerator[bytes], doing: str, progress: Progress
    ) -> AsyncIterator[tuple[AsyncGenerator[bytes], int]]:
        """The content with its length; what does not tell it is read to its end first."""
        first = await anext(chunks, b"")
        if origin.length is not None:
            async with aclosing(_chained(first, chunks)) as body:
                yield body, origin.length
            return
        if self._spool is not None:
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._spool) as file:
            try:
                async with aclosing(_chained(first, chunks)) as body:
                    async for chunk in body:
                        await asyncio.to_thread(file.write, chunk)
                        progress(0.0, "downloading")
                file.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise HostFullError(
                        f"{doing}: no space left in {self._spool} for a file of unknown size"
                    ) from error
                raise
            size = file.tell()
            async with aclosing(_read(file.fileno())) as body:
                yield body, size


def _ending(source: v1.ImageSource) -> str:
    path = source.file.path if source.file is not None else urlsplit((source.url or v1.UrlSource()).url).path
    return path.rpartition(".")[2].lower()


def _a_node_can(source: v1.ImageSource) -> bool:
    """It can verify a sha256, which is what we keep of an image; it sends no headers; of qcow2 alone it sees the
    format."""
    checksum = source.checksum or v1.Checksum()
    return (
        source.url is not None
        and not source.url.headers
        and checksum.algorithm == "sha256"
        and bool(checksum.digest)
        and (source.format or _ending(source)) == "qcow2"
    )


def _examined(head: bytes, size: int, wanted: str) -> formats.Format:
    if head.startswith(vmdk.MAGIC):
        return vmdk.examine(head[: vmdk.HEAD_BYTES], wanted)
    if wanted == "vmdk":
        raise BrokenImageError("the image is declared as vmdk, and is none")
    return formats.examine(head[: formats.HEADER_BYTES], size, wanted)


async def _first(body: AsyncIterator[bytes]) -> bytes:
    """At least what a format is judged by, if there is as much."""
    head = b""
    async for chunk in body:
        head += chunk
        if len(head) >= vmdk.HEAD_BYTES:
            break
    return head


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _read(descriptor: int) -> AsyncGenerator[bytes]:
    offset = 0
    while chunk := await asyncio.to_thread(os.pread, descriptor, CHUNK, offset):
        offset += len(chunk)
        yield chunk


async def _verified(first: bytes, rest: AsyncIterator[bytes], digests: Digests, doing: str) -> AsyncGenerator[bytes]:
    """The content; its last piece only when all of it is what was promised."""
    held = first
    async for chunk in rest:
        await asyncio.to_thread(digests.update, held)
        yield held
        held = chunk
    await asyncio.to_thread(digests.update, held)
    digests.verify(doing)
    yield held


async def _told(body: AsyncIterator[bytes], size: int, progress: Progress) -> AsyncGenerator[bytes]:
    sent = 0
    async for chunk in body:
        yield chunk
        sent += len(chunk)
        progress(min(sent / size, 1.0), "uploading")
