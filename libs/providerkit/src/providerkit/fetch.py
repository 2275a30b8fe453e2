"""Image files from where people keep them: confined directories, and http(s) under a policy of hosts."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import ipaddress
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from common import v1
from common.errors import (
    ChecksumMismatchError,
    DownloadFailedError,
    ImageNotFoundError,
    InvalidSpecError,
)

CHUNK = 1 << 20
MOST_REDIRECTS = 5
SILENCE_SECONDS = 60.0
DEFAULT_TIMEOUT = 3600.0
_REDIRECTS = (301, 302, 303, 307, 308)


def key(source: v1.ImageSource) -> list[str] | None:
    """What tells one file or URL from another; None for a source that is not fetched. Headers may rotate: no part."""
    if source.url is not None:
        where = ["url", source.url.url]
    elif source.file is not None:
        where = ["file", source.file.path]
    else:
        return None
    checksum = source.checksum or v1.Checksum()
    return [*where, source.format, checksum.algorithm, checksum.digest.lower()]


def image_id(uid: str, key: Sequence[str]) -> str:
    """Id of an image: a function of the object that declares it and of its source."""
    return f"{uid}.{hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:16]}"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Digests:
    """sha256 of what passes by, and the promised checksum where that is another algorithm."""

    def __init__(self, promised: v1.Checksum | None) -> None:
        self._sha256 = hashlib.sha256()
        self._promised = promised
        self._other: _Hash | None = None
        if promised is not None and promised.digest and promised.algorithm != "sha256":
            self._other = hashlib.new(promised.algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self._sha256.update(data)
        if self._other is not None:
            self._other.update(data)

    def verify(self, what: str) -> str:
        """The sha256.

        Raises:
            ChecksumMismatchError: it is not what was promised.
        """
        if self._promised is not None and self._promised.digest:
            got = (self._other or self._sha256).hexdigest()
            if got != self._promised.digest.lower():
                raise ChecksumMismatchError(
                    f"{what}: {self._promised.algorithm} is {got}, {self._promised.digest.lower()} was promised; "
                    "nothing of it was kept"
                )
        return self._sha256.hexdigest()


# -- files -------------------------------------------------------------------------------------------------------------


def locate(path: str, allowed: Sequence[Path]) -> Path:
    """The file, with every symbolic link followed, inside an allowed directory.

    Raises:
        InvalidSpecError: outside of them, or no path at all.
        ImageNotFoundError: nothing there, or nothing that can be read as a file.
    """
    if not allowed:
        raise InvalidSpecError("source.file: this provider takes no files; start it with --image-directory")
    asked = Path(path) if path.startswith("/") else allowed[0] / path
    try:
        real = Path(os.path.realpath(asked))
        there = real.exists()
    except (OSError, ValueError):  # a NUL, or more than a name may have
        raise InvalidSpecError("source.file.path: is no path of a file") from None
    if not any(real.is_relative_to(os.path.realpath(directory)) for directory in allowed):
        names = ", ".join(str(directory) for directory in allowed)
        raise InvalidSpecError(f"source.file.path: {path!r} is outside of the allowed directories ({names})")
    if not there:
        raise ImageNotFoundError(f"source.file.path: there is no file {asked}")
    return real


def open_file(real: Path) -> int:
    """A file descriptor for reading a plain file; devices, sockets and a link put there meanwhile are refused."""
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageNotFoundError(f"source.file.path: {real}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageNotFoundError(f"source.file.path: {real} is not a plain file")
    return descriptor


class LocalFile:
    """One image from an allowed directory, read as a Download is."""

    def __init__(self, source: v1.FileSource, directories: Sequence[Path], *, limit: int) -> None:
        """Nothing is opened yet.

        Args:
            limit: most bytes to take.
        """
        self._path = source.path
        self._directories = directories
        self._limit = limit
        self.name = source.path
        self.length: int | None = None
        """Bytes of it, once it is open."""
        self.missing = False
        """There is no such file."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content.

        Raises:
            InvalidSpecError: outside of the allowed directories, or too large.
            ImageNotFoundError: nothing there, or nothing that can be read as a file.
        """
        try:
            descriptor = await asyncio.to_thread(lambda: open_file(locate(self._path, self._directories)))
        except ImageNotFoundError:
            self.missing = True
            raise
        try:
            self.length = os.fstat(descriptor).st_size
            if self.length > self._limit:
                raise InvalidSpecError(
                    f"source.file.path: {self._path} has {self.length} bytes, at most {self._limit} are taken"
                )
            while chunk := await asyncio.to_thread(os.read, descriptor, CHUNK):
                yield chunk
        finally:
            os.close(descriptor)


# -- URLs --------------------------------------------------------------------------------------------------------------


class Policy:
    """Which hosts images may come from.

    Without patterns every host serves, but never this machine itself nor a link-local address (where clouds keep their
    credentials service). With patterns only hosts that match one do, whatever their addresses are.
    """

    def __init__(self, allowed: Sequence[str] = (), *, forbid_private: bool = False) -> None:
        self._allowed = [pattern.lower() for pattern in allowed]
        self._forbid_private = forbid_private

    def check_url(self, url: str) -> None:
        """Judge a URL by itself.

        Raises:
            InvalidSpecError: not http(s), holds a password, or the host is not allowed.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower()
            _ = parts.port
        except ValueError as error:
            raise InvalidSpecError("source.url: is no URL") from error
        if parts.scheme not in ("http", "https"):
            raise InvalidSpecError(f"source.url: scheme {parts.scheme or 'none'} given; http and https are taken")
        if parts.username is not None or parts.password is not None:
            raise InvalidSpecError("source.url: holds a user name or password; put them into a header")
        if not host:
            raise InvalidSpecError("source.url: names no host")
        if self._allowed:
            if not self._matches(host):
                raise InvalidSpecError(f"source.url: host {host} is not one that this provider may fetch images from")
            return
        try:
            self.check_address(host, str(ipaddress.ip_address(host)))
        except ValueError:
            return  # a name: its addresses are judged when it is resolved

    def _matches(self, host: str) -> bool:
        return any(fnmatch.fnmatchcase(host, pattern) for pattern in self._allowed)

    def check_address(self, host: str, address: str) -> None:
        """Judge an address that a host resolved to.

        Raises:
            InvalidSpecError: it is not allowed.
        """
        if self._allowed and self._matches(host.lower()):
            return
        ip = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        ip = mapped or ip
        bad = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
        if bad or (self._forbid_private and ip.is_private):
            raise InvalidSpecError(f"source.url: host {host} has address {ip}, which images may not be fetched from")


class _JudgedResolver(AbstractResolver):
    """Resolves names and drops what the policy forbids, so that a name cannot change its mind after the check."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self._policy.check_address(host, result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


class Download:
    """One image from a URL: bytes in order, each hop of a redirect judged by the policy."""

    def __init__(self, source: v1.UrlSource, policy: Policy, *, limit: int) -> None:
        """Args:
        limit: most bytes to take.
        """
        self._source = source
        self._policy = policy
        self._limit = limit
        self.name = shown(source.url)
        self.length: int | None = None
        """Bytes that the server announced, if it did."""
        self.missing = False
        """The server says that it has no such file."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content.

        Raises:
            DownloadFailedError: refused, missing, cut off, too large or too slow; the URL's query is not repeated.
            InvalidSpecError: a redirect to where images may not come from.
        """
        seconds = self._source.timeout.total_seconds() if self._source.timeout else DEFAULT_TIMEOUT
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE_SECONDS)
        connector = aiohttp.TCPConnector(resolver=_JudgedResolver(self._policy), limit=1)
        name = self.name
        try:
            async with (
                asyncio.timeout(seconds),
                aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
            ):
                async for chunk in self._follow(session):
                    yield chunk
        except TimeoutError as error:
            raise DownloadFailedError(f"{name}: not complete within {seconds:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise DownloadFailedError(f"{name}: the connection was cut off", retry_after=30.0) from error
        except aiohttp.ClientError as error:
            raise DownloadFailedError(f"{name}: {_plain(error)}", retry_after=30.0) from error

    async def _follow(self, session: aiohttp.ClientSession) -> AsyncIterator[bytes]:
        url, headers = self._source.url, dict(self._source.headers)
        for _ in range(MOST_REDIRECTS + 1):
            self._policy.check_url(url)
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status in _REDIRECTS and (target := response.headers.get("Location")):
                    following = redirected(url, target)
                    if _origin(following) != _origin(url):
                        headers = {}  # they may hold a secret that is meant for the first host alone
                    url = following
                    continue
                if response.status != 200:
                    self.missing = response.status in (404, 410)
                    reason = f"{response.status} {response.reason or ''}".strip()
                    raise DownloadFailedError(f"{shown(url)}: the server answered {reason}", retry_after=30.0)
                async for chunk in self._body(response, url):
                    yield chunk
                return
        raise DownloadFailedError(f"{shown(self._source.url)}: more than {MOST_REDIRECTS} redirects")

    async def _body(self, response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
        self.length = response.content_length
        if (response.content_type or "") == "text/html":
            raise DownloadFailedError(f"{shown(url)}: the server sent a web page, not an image; is a login needed?")
        if self.length is not None and self.length > self._limit:
            raise DownloadFailedError(f"{shown(url)}: {self.length} bytes announced, at most {self._limit} are taken")
        taken = 0
        async for chunk in response.content.iter_chunked(CHUNK):
            taken += len(chunk)
            if taken > self._limit:
                raise DownloadFailedError(f"{shown(url)}: more than {self._limit} bytes")
            yield chunk
        if self.length is not None and taken < self.length:
            raise DownloadFailedError(
                f"{shown(url)}: cut off before its {self.length} bytes were there", retry_after=30.0
            )


def redirected(url: str, location: str) -> str:
    """Where a server sends whoever asked for a URL.

    Raises:
        DownloadFailedError: nowhere, or where nobody can be sure of what comes.
    """
    try:
        following = urljoin(url, location)
        scheme = _origin(following)[0]
    except ValueError:
        raise DownloadFailedError(f"{shown(url)}: redirects to what is no URL") from None
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise DownloadFailedError(f"{shown(url)}: redirects from https to an insecure address")
    return following


def shown(url: str) -> str:
    """The URL without its query, which may hold a signature."""
    return url.partition("?")[0].partition("#")[0]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _plain(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.strerror}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    return type(error).__name__
