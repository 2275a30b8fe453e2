"""What an image is made of, read from its source as it comes: a descriptor, and then its files one after the other.

An OVA is unpacked on the way, an OVF's files are fetched from beside it, a lone disk gets a descriptor from us, and a
raw disk is encoded as the stream-optimised VMDK that vSphere takes. Nothing is kept: what is wrong with the source
shows when most of it has passed, so whoever takes it must be able to give it all back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from common import v1
from common.errors import BrokenImageError, DownloadFailedError, ImageNotFoundError, NotSupportedError
from providerkit.fetch import Digests
from providerkit.violations import shown

from provider_vsphere.content import vmdk
from provider_vsphere.images import ova, ovf
from provider_vsphere.images.ova import Seal, Stream, Tar

FORMATS = ("ova", "ovf", "vmdk", "raw")
"""What `source.format` may say."""
_HEAD = 512
_CURE = "make it stream-optimised: qemu-img convert -O vmdk -o subformat=streamOptimized IN OUT"
_OTHERS = {
    b"conectix": "VPC",
    b"vhdxfile": "VHDX",
    b"<<< ": "VDI",
    b"QED\0": "QED",
}
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class Origin(Protocol):
    """Where bytes come from: a file or a download."""

    name: str
    length: int | None
    """Known at the latest when the first bytes are there; None if it is not told."""
    missing: bool
    """It failed because there is no such file."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content."""
        ...


Beside = Callable[[str], Origin]
"""Gives the file of this name beside the source."""


@dataclass(frozen=True)
class Part:
    """A file of a package. Its content has to be read to the end before the next part."""

    href: str
    size: int | None
    """Bytes of the content, where they are known."""
    content: AsyncIterator[bytes]


class Package:
    """An image on its way.

    Attributes:
        descriptor: known from the start.
        total: bytes that will be taken from the source; 0 where nobody knows.
    """

    def __init__(
        self,
        descriptor: ovf.Descriptor,
        parts: AsyncIterator[Part],
        *,
        stream: Stream,
        digests: Digests,
        what: str,
        total: int,
    ) -> None:
        self.descriptor = descriptor
        self.total = total
        self.taken = 0
        """Bytes that were taken of files beside the source."""
        self._parts = parts
        self._stream = stream
        self._digests = digests
        self._what = what

    async def parts(self) -> AsyncIterator[Part]:
        """The files, in the order in which they come."""
        async for part in self._parts:
            yield part

    def done(self) -> float:
        """How much of it has passed, 0..1."""
        return min((self._stream.taken + self.taken) / self.total, 1.0) if self.total else 0.0

    async def verify(self) -> str:
        """Take what is left of the source, and see whether all of it was right; its sha256.

        Raises:
            ChecksumMismatchError: it is not what was promised.
        """
        while await self._stream.some(ova.PIECE):
            pass
        return self._digests.verify(self._what)


@contextlib.asynccontextmanager
async def opened(origin: Origin, beside: Beside, source: v1.ImageSource) -> AsyncIterator[Package]:
    """The package in a source.

    Raises:
        BrokenImageError: there is none.
        NotSupportedError: it is of a kind that vSphere takes no machines from.
    """
    digests = Digests(source.checksum)
    async with contextlib.AsyncExitStack() as stack:

        def open_stream(from_where: Origin, tell: Callable[[bytes], None] | None = None) -> Stream:
            chunks = from_where.chunks()
            stack.push_async_callback(chunks.aclose)
            return Stream(chunks, tell=tell)

        stream = open_stream(origin, digests.update)
        kind = judge(await stream.peek(_HEAD), source.format)
        packed = _Opening(origin, beside, stream, digests, open_stream)
        yield await {"ova": packed.ova, "ovf": packed.ovf, "vmdk": packed.vmdk, "raw": packed.raw}[kind]()


def judge(head: bytes, wanted: str) -> str:
    """Which of FORMATS a source is, by its first bytes.

    Args:
        wanted: what its declaration says; empty means whichever it is.
    Raises:
        BrokenImageError: none of them, or another than was declared.
        NotSupportedError: a disk that has to be converted first.
    """
    if not head:
        raise BrokenImageError("the file is empty")
    found = _guess(head)
    if wanted == "raw" and not found:
        return "raw"
    if not found:
        raise BrokenImageError("the file is of no known format; if it is a raw disk, say so with format raw")
    if wanted and wanted != found:
        raise BrokenImageError(f"the image is declared as {wanted}, and is {found}")
    return found


def _guess(head: bytes) -> str:
    """Empty when it could be anything."""
    if head.startswith(b"KDMV"):
        return "vmdk"
    if head.startswith((b"COWD", b"# Disk DescriptorFile")):
        raise BrokenImageError(f"the file is a VMDK that cannot be sent; {_CURE}")
    if head.startswith(b"QFI\xfb"):
        raise NotSupportedError(f"the file is qcow2, which cannot be read from front to back; {_CURE}")
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise NotSupportedError(f"the file is {name}; {_CURE}")
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            raise NotSupportedError(f"the file is packed with {name}; unpack it first")
    if head[257:262] == b"ustar":
        return "ova"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise BrokenImageError("the file is a web page, not an image; is a login needed?")
    if text.startswith(b"<"):
        return "ovf"
    return "raw" if len(head) == _HEAD and head[510:512] == b"\x55\xaa" else ""


class _Opening:
    """The ways to open a source, by its kind."""

    def __init__(
        self, origin: Origin, beside: Beside, stream: Stream, digests: Digests, open_stream: Callable[[Origin], Stream]
    ) -> None:
        self._origin = origin
        self._beside = beside
        self._stream = stream
        self._digests = digests
        self._open = open_stream

    def _package(self, descriptor: ovf.Descriptor, parts: AsyncIterator[Part], total: int | None) -> Package:
        return Package(
            descriptor,
            parts,
            stream=self._stream,
            digests=self._digests,
            what=self._origin.name,
            total=total or 0,
        )

    async def ova(self) -> Package:
        tar, seal = Tar(self._stream), Seal()
        descriptor = await ova.descriptor_of(tar, seal)

        async def parts() -> AsyncIterator[Part]:
            async for member in ova.files_of(tar, seal):
                yield Part(member.name, member.size, seal.watch(member.name, tar.content()))

        return self._package(descriptor, parts(), self._origin.length)

    async def ovf(self) -> Package:
        data = await self._whole(self._stream, ovf.MOST_DESCRIPTOR, "the OVF descriptor")
        descriptor, seal = ovf.parse(data), Seal()
        name = self._origin.name.rpartition("/")[2]
        if (manifest := await self._manifest(name)) is not None:
            seal.promise(manifest)
            name = next(
                (each for each in manifest if each.lower().endswith(".ovf")), name
            )  # a URL may call it otherwise
        seal.add(name, data)

        async def parts() -> AsyncIterator[Part]:
            for file in descriptor.files:
                origin = self._beside(file.href)
                stream = self._open(origin)
                await stream.peek(1)  # its length is known from now on
                size = origin.length
                if None not in (size, file.size) and size != file.size:
                    raise BrokenImageError(f"file {shown(file.href)}: {file.size} bytes are listed, it has {size}")
                yield Part(file.href, size, self._counted(seal.watch(file.href, _all_of(stream)), package))
            seal.verify()

        package = self._package(descriptor, parts(), len(data) + descriptor.size)
        return package

    async def _manifest(self, name: str) -> dict[str, tuple[str, str]] | None:
        """Digests from beside the descriptor; None when there are none, since a package need not have them."""
        origin = self._beside(name.removesuffix(".ovf") + ".mf")
        try:
            return ovf.parse_manifest(await self._whole(self._open(origin), ovf.MOST_MANIFEST, "the manifest"))
        except (ImageNotFoundError, DownloadFailedError):
            if not origin.missing:
                raise  # it may be there, and then it counts
            return None

    async def _counted(self, pieces: AsyncIterator[bytes], package: Package) -> AsyncIterator[bytes]:
        async for piece in pieces:
            package.taken += len(piece)
            yield piece

    async def _whole(self, stream: Stream, most: int, what: str) -> bytes:
        data = bytearray()
        while piece := await stream.some(ova.PIECE):
            data += piece
            if len(data) > most:
                raise BrokenImageError(f"{what} is larger than {most} bytes")
        return bytes(data)

    async def vmdk(self) -> Package:
        capacity = capacity_of(await self._stream.peek(vmdk.SECTOR), self._origin.name)
        size = self._origin.length

        async def parts() -> AsyncIterator[Part]:
            yield Part(_DISK, size, _all_of(self._stream))

        return self._package(ovf.of_disk(_DISK, size, capacity), parts(), size)

    async def raw(self) -> Package:
        size = self._origin.length
        if size is None:
            raise NotSupportedError(
                "the server does not tell how long the file is, which a raw disk's size follows from"
            )
        if size % vmdk.SECTOR:
            raise BrokenImageError(f"{size} bytes are no disk: a raw image is a multiple of {vmdk.SECTOR} bytes")

        async def parts() -> AsyncIterator[Part]:
            yield Part(_DISK, None, encoded(_all_of(self._stream), size))

        return self._package(ovf.of_disk(_DISK, None, size), parts(), size)


_DISK = "disk.vmdk"


async def _all_of(stream: Stream) -> AsyncIterator[bytes]:
    while piece := await stream.some(ova.PIECE):
        yield piece


def capacity_of(head: bytes, what: str) -> int:
    """Bytes of the disk in a stream-optimised VMDK, from its first sector.

    Raises:
        BrokenImageError: it is none.
    """
    reader = vmdk.Reader(what)
    try:
        for _ in reader.feed(head):
            pass
    except BrokenImageError as error:
        raise BrokenImageError(f"{error}; {_CURE}") from None
    return reader.capacity


async def checked(pieces: AsyncIterator[bytes], what: str) -> AsyncIterator[bytes]:
    """Pass a stream-optimised VMDK on, and read it besides: half a disk must not become an image.

    Raises:
        BrokenImageError: it is none.
    """
    reader = vmdk.Reader(what)

    def look(data: bytes) -> None:
        for _ in reader.feed(data):
            pass

    async for piece in pieces:
        await asyncio.to_thread(look, piece)
        yield piece
    reader.close()


async def encoded(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """A raw disk as a stream-optimised VMDK, made on the way.

    Raises:
        BrokenImageError: it has more or fewer bytes than were announced.
    """
    writer, offset = vmdk.Writer(size), 0

    def join(parts: Iterator[bytes]) -> bytes:
        return b"".join(parts)

    yield writer.begin()
    async for piece in pieces:
        if offset + len(piece) > size:
            raise BrokenImageError(f"the disk goes on behind its {size} bytes")
        yield await asyncio.to_thread(join, writer.write(offset, piece))
        offset += len(piece)
    if offset < size:
        raise BrokenImageError(f"the disk ends after {offset} of {size} bytes")
    yield await asyncio.to_thread(join, writer.finish())
