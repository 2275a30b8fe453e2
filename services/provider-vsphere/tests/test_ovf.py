"""Descriptors, manifests and tars: sound ones are understood, and no bytes at all do harm."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from common import v1
from common.errors import BrokenImageError, ChecksumMismatchError, NotSupportedError, ProviderError
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_vsphere.content import vmdk
from provider_vsphere.images import ova, ovf, packages
from provider_vsphere.images.ova import Seal, Stream, Tar
from provider_vsphere.session import transfers
from simulators import ovas

DISK = ovas.vmdk()
GOOD = ovas.descriptor(len(DISK))


class Bytes:
    """An origin in memory, in pieces of any size."""

    def __init__(self, data: bytes, name: str = "small.ova", piece: int = 1000, *, known: bool = True) -> None:
        self.name = name
        self.length = len(data) if known else None
        self.missing = False
        self._data = data
        self._piece = piece

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._data), self._piece):
            yield self._data[start : start + self._piece]


def nothing_beside(href: str) -> Bytes:
    raise AssertionError(f"{href} was asked for")


async def taken(data: bytes, piece: int = 1000, **source: str) -> dict[str, bytes]:
    """Every part of a package, when all of it was right."""
    found: dict[str, bytes] = {}
    async with packages.opened(Bytes(data, piece=piece), nothing_beside, v1.ImageSource(**source)) as package:  # type: ignore[arg-type]  # fields of the message
        async for part in package.parts():
            found[part.href] = b"".join([each async for each in part.content])
            assert part.size in (None, len(found[part.href]))
        assert await package.verify() == hashlib.sha256(data).hexdigest()
    return found


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_a_descriptor_tells_its_files_and_networks() -> None:
    found = ovf.parse(GOOD)
    assert found.files == (ovf.File(ovas.DISK, len(DISK)),)
    assert found.networks == ("lan",)


def test_a_descriptor_of_ours_is_one() -> None:
    found = ovf.parse(ovf.of_disk("disk.vmdk", None, 1 << 30).text.encode())
    assert found.files == (ovf.File("disk.vmdk", None),)
    assert ovf.parse(ovf.of_disk("disk.vmdk", 77, 1 << 30).text.encode()).size == 77


@pytest.mark.parametrize(
    ("old", "new", "error", "complaint"),
    [
        (b"<Envelope", b"<!DOCTYPE Envelope><Envelope", BrokenImageError, "document type"),
        (b"</Envelope>", b"", BrokenImageError, "not XML"),
        (b"Envelope", b"Letter", BrokenImageError, "begins with"),
        (b"VirtualSystem", b"VirtualSystemCollection", NotSupportedError, "several machines"),
        (ovas.DISK.encode(), b"http://evil.example/x.vmdk", BrokenImageError, "beside the descriptor"),
        (ovas.DISK.encode(), b"/etc/passwd", BrokenImageError, "beside the descriptor"),
        (ovas.DISK.encode(), b"a/../../b", BrokenImageError, "beside the descriptor"),
        (b'ovf:size="', b'ovf:compression="gzip" ovf:size="', NotSupportedError, "compressed"),
        (b'ovf:size="', b'ovf:chunkSize="1000" ovf:size="', NotSupportedError, "chunks"),
        (b'ovf:size="', b'ovf:size="-', BrokenImageError, "no number"),
        (b'ovf:fileRef="file1"', b'ovf:fileRef="file2"', BrokenImageError, "not listed"),
        (b"vmdk.html", b"vhd.html", NotSupportedError, "streamOptimized"),
        (b'Units="byte"', b'Units="byte * 2^99"', BrokenImageError, "TiB"),
        (b'Units="byte"', b'Units="furlong"', BrokenImageError, "no known unit"),
        (b'ovf:fileRef="file1"', b'ovf:fileRef="file1" ovf:parentRef="x"', NotSupportedError, "another disk"),
    ],
)
def test_a_descriptor_that_does_harm_is_refused(
    old: bytes, new: bytes, error: type[ProviderError], complaint: str
) -> None:
    assert old in GOOD
    with pytest.raises(error, match=complaint):
        ovf.parse(GOOD.replace(old, new))


def test_depth_and_number_of_elements_are_bounded() -> None:
    for text in (b"<a>" * 1000 + b"</a>" * 1000, b"<a>" + b"<b/>" * 300_000 + b"</a>"):
        with pytest.raises(BrokenImageError, match="more elements"):
            ovf.parse(text)
    with pytest.raises(BrokenImageError, match="larger than"):
        ovf.parse(b" " * (ovf.MOST_DESCRIPTOR + 1))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_descriptor_or_refused(data: bytes) -> None:
    for each in (data, GOOD[:200] + data, GOOD[:900] + data + GOOD[900:]):
        try:
            ovf.parse(each)
        except (BrokenImageError, NotSupportedError):
            continue


# -- manifests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_a_manifest_tells_digests(algorithm: str) -> None:
    found = ovf.parse_manifest(ovas.manifest({"a (1).vmdk": b"x"}, algorithm))
    assert found == {"a (1).vmdk": (algorithm, hashlib.new(algorithm, b"x").hexdigest())}


@pytest.mark.parametrize(
    "text", [b"SHA256(a)= 00", b"MD5(a)= " + b"0" * 32, b"hello", b"\xff", b"SHA1(a)= " + b"g" * 40]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(BrokenImageError, match="manifest"):
        ovf.parse_manifest(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    try:
        ovf.parse_manifest(data)
    except BrokenImageError:
        return


# -- tars --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 5000))
async def test_an_ova_gives_its_files_however_it_is_cut(piece: int) -> None:
    assert await taken(ovas.ova(), piece) == {ovas.DISK: DISK}


async def test_the_manifest_may_come_last() -> None:
    files = ovas.package()
    assert await taken(ovas.tar({name: files[name] for name in (ovas.DESCRIPTOR, ovas.DISK, ovas.MANIFEST)}))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_every_kind_of_tar_is_read(format: int) -> None:
    """Long names and sizes over 8 GiB are written in three ways."""
    name = "d" * 90 + "/" + "n" * 90 + ".vmdk"
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as archive:
        for each, data in ((ovas.DESCRIPTOR, ovas.descriptor(len(DISK), disk=name)), (name, DISK)):
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert await taken(target.getvalue()) == {name: DISK}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
async def test_links_and_devices_in_a_tar_are_refused(kind: bytes) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo("x.ovf")
        member.type = kind
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(BrokenImageError, match="no plain file"):
        await taken(target.getvalue())


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 20_000))
async def test_a_damaged_ova_is_read_or_refused(damage: bytes, at: int) -> None:
    whole = ovas.ova()
    for data in (damage, whole[:at], whole[:at] + damage + whole[at + len(damage) :]):
        try:
            await taken(data)
        except (BrokenImageError, NotSupportedError, ChecksumMismatchError):
            continue


@given(st.binary(max_size=2000))
async def test_any_bytes_are_a_tar_or_refused(data: bytes) -> None:
    tar = Tar(Stream(Bytes(data).chunks()))
    try:
        while await tar.next() is not None:
            async for _ in tar.content():
                pass
    except BrokenImageError:
        return


async def test_a_seal_is_broken_by_what_it_does_not_cover() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    seal = Seal()
    seal.promise({"a": ("sha256", hashlib.sha256(b"x").hexdigest())})
    assert [each async for each in seal.watch("a", pieces())] == [b"x"]
    seal.verify()
    seal.add("b", b"y")
    with pytest.raises(BrokenImageError, match="no digest"):
        seal.verify()
    with pytest.raises(BrokenImageError, match="two files"):
        seal.add("b", b"y")


# -- lone disks --------------------------------------------------------------------------------------------------------


async def test_a_raw_disk_is_encoded_on_the_way() -> None:
    content = b"boot" + bytes(1 << 20) + b"end!" + bytes(512 - 8)
    [(_, data)] = (await taken(content, 4096, format="raw")).items()
    reader, found = vmdk.Reader("x"), bytearray(len(content))
    for offset, grain in reader.feed(data):
        found[offset : offset + len(grain)] = grain
    reader.close()
    assert bytes(found) == content


async def test_a_raw_disk_needs_a_size() -> None:
    unknown = Bytes(bytes(1024), known=False)
    with pytest.raises(NotSupportedError, match="how long"):
        async with packages.opened(unknown, nothing_beside, v1.ImageSource(format="raw")):
            pass
    with pytest.raises(BrokenImageError, match="multiple of 512"):
        await taken(bytes(1000), format="raw")


async def test_half_a_disk_is_no_disk() -> None:
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    assert b"".join([each async for each in packages.checked(pieces(DISK), "x")]) == DISK
    with pytest.raises(BrokenImageError, match="ends too early"):
        _ = [each async for each in packages.checked(pieces(DISK[:-512]), "x")]


async def test_an_announced_size_binds() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(1024)

    for size in (512, 2048):
        with pytest.raises(BrokenImageError, match="the disk"):
            _ = [each async for each in packages.encoded(pieces(), size)]


@pytest.mark.parametrize(
    ("head", "wanted", "found"),
    [
        (DISK[:512], "", "vmdk"),
        (ovas.ova()[:512], "ova", "ova"),
        (GOOD[:512], "", "ovf"),
        (b"\xef\xbb\xbf" + GOOD[:512], "", "ovf"),
        (bytes(510) + b"\x55\xaa", "", "raw"),
        (bytes(512), "raw", "raw"),
    ],
)
def test_a_source_is_told_by_its_first_bytes(head: bytes, wanted: str, found: str) -> None:
    assert packages.judge(head, wanted) == found


def test_what_was_declared_as_something_else_is_refused() -> None:
    with pytest.raises(BrokenImageError, match="declared as raw, and is vmdk"):
        packages.judge(DISK[:512], "raw")


@given(st.binary(max_size=600), st.sampled_from(["", *packages.FORMATS]))
def test_any_first_bytes_are_judged(head: bytes, wanted: str) -> None:
    try:
        assert packages.judge(head, wanted) in packages.FORMATS
    except (BrokenImageError, NotSupportedError):
        return


def test_the_longest_piece_fits_into_one_step() -> None:

    assert ova.PIECE <= transfers.CHUNK
