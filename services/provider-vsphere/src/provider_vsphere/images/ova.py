"""OVA: an OVF package in one tar file, read member by member as it comes, so that no copy of it is ever kept.

The descriptor is the first member. The manifest may come before the files that it speaks of, or after them, so every
file's digests are taken while it passes. A certificate (.cert) signs the manifest with a key that nobody here knows: it
is not looked at.

Sources: DMTF DSP0243, "Distribution of packages as a single file"; POSIX.1-2001 pax, "ustar" and extended headers.
"""

from __future__ import annotations

import asyncio
import hashlib
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from common.errors import BrokenImageError, ChecksumMismatchError
from providerkit.violations import shown

from provider_vsphere.images import ovf
from provider_vsphere.images.ovf import ALGORITHMS, MOST_DESCRIPTOR, MOST_MANIFEST

PIECE = 256 << 10
"""Bytes that are passed on at a time: what `transfers` takes in one step."""
_BLOCK = 512
_MOST_HEADER = 1 << 20
"""Bytes of an extended header."""
_MOST_MEMBERS = 2 * ovf.MOST_FILES
_THREAD_FROM = 64 << 10
"""Hashing less than this takes less time than a thread does."""


class Stream:
    """Bytes that come in order, read by number; whoever wants to see all of them is told as they come."""

    def __init__(self, chunks: AsyncIterator[bytes], *, tell: Callable[[bytes], None] | None = None) -> None:
        """Args: tell: gets everything once; runs on a thread where it is much."""
        self._chunks = chunks
        self._tell = tell
        self._held = b""
        self.taken = 0
        """Bytes that were read."""

    async def _more(self) -> bool:
        async for chunk in self._chunks:
            if chunk:
                if self._tell is not None:
                    await _hashed(self._tell, chunk)
                self._held += chunk
                return True
        return False

    async def peek(self, count: int) -> bytes:
        """The next bytes, which stay; fewer at the end."""
        while len(self._held) < count and await self._more():
            pass
        return self._held[:count]

    async def read(self, count: int, what: str) -> bytes:
        """Exactly so many bytes.

        Raises:
            BrokenImageError: there are not so many.
        """
        while len(self._held) < count:
            if not await self._more():
                raise BrokenImageError(f"the file ends in the middle of {what}")
        return self._take(count)

    async def some(self, most: int) -> bytes:
        """Some bytes; none at the end."""
        if not self._held:
            await self._more()
        return self._take(most)

    def _take(self, most: int) -> bytes:
        taken, self._held = self._held[:most], self._held[most:]
        self.taken += len(taken)
        return taken


async def _hashed(tell: Callable[[bytes], None], data: bytes) -> None:
    if len(data) < _THREAD_FROM:
        tell(data)
    else:
        await asyncio.to_thread(tell, data)


# -- tar ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One file of a tar."""

    name: str
    size: int


class Tar:
    """The files of a tar, in their order. Each has to be read to its end before the next."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0
        """Bytes of the member that have not been read."""
        self._padding = 0
        self._count = 0

    async def next(self) -> Member | None:
        """The next file; None at the end.

        Raises:
            BrokenImageError: this is no tar, or it is cut off.
        """
        if self._left:
            raise AssertionError("the member before was not read to its end")
        special: dict[str, str] = {}
        while True:
            await self._stream.read(self._padding, "the tar")
            self._padding = 0
            header = await self._stream.read(_BLOCK, "the tar: its end mark is missing")
            if not any(header):
                return None
            info = _header(header)
            self._count += 1
            if self._count > _MOST_MEMBERS:
                raise BrokenImageError(f"the tar has more than {_MOST_MEMBERS} members")
            kind = info.type
            if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
                data = await self._whole(info.size, _MOST_HEADER)
                if kind == tarfile.XHDTYPE:
                    special |= _pax(data)
                elif kind == tarfile.GNUTYPE_LONGNAME:
                    special["path"] = _text(data.rstrip(b"\0"))
                continue
            if kind == tarfile.DIRTYPE:
                special = {}
                continue
            if kind not in tarfile.REGULAR_TYPES or kind == tarfile.GNUTYPE_SPARSE:
                raise BrokenImageError(f"{shown(info.name)} in the tar is no plain file")
            member = Member(special.get("path", info.name).removeprefix("./"), _size(special.get("size"), info.size))
            self._begin(member.size)
            return member

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    async def _whole(self, size: int, most: int) -> bytes:
        if size > most:
            raise BrokenImageError(f"the tar has a header of {size} bytes; at most {most} are read")
        self._begin(size)
        return b"".join([piece async for piece in self.content()])

    async def content(self) -> AsyncIterator[bytes]:
        """What is left of the member."""
        while self._left:
            piece = await self._stream.some(min(self._left, PIECE))
            if not piece:
                raise BrokenImageError("the tar is cut off in the middle of a file")
            self._left -= len(piece)
            yield piece

    async def small(self, member: Member, most: int) -> bytes:
        """The whole of a small member."""
        return await self._whole(member.size, most)


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        raise BrokenImageError("the file is no tar, or its headers are damaged") from None
    if info.size < 0:
        raise BrokenImageError(f"{shown(info.name)} in the tar has a size below zero")
    return info


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n" of an extended header."""
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = rest[: size - len(length) - 2].partition(b"=")
        if size > len(data) or not equals or data[size - 1 : size] != b"\n":
            raise BrokenImageError("the tar has an extended header that cannot be read")
        found[_text(key)] = _text(value)
        data = data[size:]
    return found


def _size(told: str | None, otherwise: int) -> int:
    if told is None:
        return otherwise
    if not (told.isascii() and told.isdecimal() and len(told) <= 18):
        raise BrokenImageError(f"a file in the tar has the size {shown(told)}")
    return int(told)


# -- digests against a manifest ----------------------------------------------------------------------------------------


class Seal:
    """Digests of the files of a package as they pass, held against its manifest whenever that comes."""

    def __init__(self) -> None:
        self._promised: dict[str, tuple[str, str]] | None = None
        self._found: dict[str, dict[str, str]] = {}

    @property
    def sealed(self) -> bool:
        """There was a manifest."""
        return self._promised is not None

    def promise(self, manifest: Mapping[str, tuple[str, str]]) -> None:
        """What the manifest says."""
        self._promised = dict(manifest)

    async def watch(self, name: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass a file on; its end is only reached if its digest is right, as far as that is known by then.

        Raises:
            ChecksumMismatchError: it is not what the manifest promises.
        """
        wanted = [promised[0]] if (promised := (self._promised or {}).get(name)) else self._algorithms()
        self._begin(name)
        hashes = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in wanted}

        def tell(data: bytes) -> None:
            for each in hashes.values():
                each.update(data)

        async for piece in pieces:
            await _hashed(tell, piece)
            yield piece
        self._found[name] = {algorithm: each.hexdigest() for algorithm, each in hashes.items()}
        self._compare(name)

    def add(self, name: str, data: bytes) -> None:
        """A small file, as a whole."""
        self._begin(name)
        self._found[name] = {a: hashlib.new(a, data, usedforsecurity=False).hexdigest() for a, _ in ALGORITHMS.values()}
        self._compare(name)

    def _begin(self, name: str) -> None:
        if name in self._found:
            raise BrokenImageError(f"the package has two files of the name {shown(name)}")
        self._found[name] = {}

    def _algorithms(self) -> list[str]:
        """All that the manifest could ask for, as long as it has not come; then none."""
        return [algorithm for algorithm, _ in ALGORITHMS.values()] if self._promised is None else []

    def _compare(self, name: str) -> None:
        promised = (self._promised or {}).get(name)
        if promised is None:
            return
        algorithm, digest = promised
        got = self._found[name][algorithm]
        if got != digest:
            raise ChecksumMismatchError(
                f"file {shown(name)}: {algorithm} is {got}, the manifest promises {digest}; nothing of it was kept"
            )

    def verify(self) -> None:
        """The end: everything has passed.

        Raises:
            ChecksumMismatchError: a file is not what the manifest promises.
            BrokenImageError: the manifest speaks of a file that never came, or is silent of one that did.
        """
        if self._promised is None:
            return
        for name in self._found:
            self._compare(name)
        if missing := self._promised.keys() - self._found.keys():
            raise BrokenImageError(f"the manifest lists {shown(min(missing))}, which is not in the package")
        if unsealed := self._found.keys() - self._promised.keys():
            raise BrokenImageError(f"the manifest has no digest of {shown(min(unsealed))}")


async def descriptor_of(tar: Tar, seal: Seal) -> ovf.Descriptor:
    """The first member.

    Raises:
        BrokenImageError: it is no descriptor.
    """
    member = await tar.next()
    if member is None or not member.name.lower().endswith(".ovf"):
        what = f"begins with {shown(member.name)}" if member is not None else "is empty"
        raise BrokenImageError(f"the tar {what}; an OVA begins with its OVF descriptor")
    data = await tar.small(member, MOST_DESCRIPTOR)
    seal.add(member.name, data)
    return ovf.parse(data)


async def files_of(tar: Tar, seal: Seal) -> AsyncIterator[Member]:
    """The files after the descriptor, each to be read by `tar.content`; at the end the digests are known to be right.

    Raises:
        ChecksumMismatchError, BrokenImageError: as in Seal.verify.
    """
    while (member := await tar.next()) is not None:
        lower = member.name.lower()
        if lower.endswith(".mf"):
            if seal.sealed:
                raise BrokenImageError("the package has two manifests")
            seal.promise(ovf.parse_manifest(await tar.small(member, MOST_MANIFEST)))
        elif lower.endswith(".cert"):
            async for _ in tar.content():
                pass  # nobody here could say whose it is
        else:
            yield member
    seal.verify()
