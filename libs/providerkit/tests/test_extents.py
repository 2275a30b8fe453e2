"""Content as extents: nothing lost, no gap, zeros as holes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator

import pytest
from common import v1
from common.errors import ChecksumMismatchError, InvalidSpecError
from hypothesis import given, settings
from hypothesis import strategies as st
from providerkit import extents
from providerkit.extents import BLOCK, PIECE, Digest, Incoming, Piece


async def ascending(pieces: list[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


@st.composite
def disks(draw: st.DrawFn) -> tuple[int, list[Piece]]:
    """A size, and ascending pieces of zeros and of others."""
    size = draw(st.integers(1, 5 * BLOCK))
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=10)))
    pieces = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        pieces.append((start, bytes([draw(st.integers(0, 1))]) * (end - start)))
    return size, pieces


@settings(deadline=None)
@given(disk=disks(), at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
async def test_extents_cover_a_range_and_say_what_was_there(
    disk: tuple[int, list[Piece]], at: tuple[float, float]
) -> None:
    size, pieces = disk
    start, end = sorted(int(part * size) for part in at)
    whole = bytearray(size)
    for offset, content in pieces:
        whole[offset : offset + len(content)] = content
    found = [extent async for extent in extents.covering(ascending(pieces), start, end)]
    position = start
    for extent in found:
        assert extent.offset == position
        assert extent.length > 0
        assert len(extent.data) in (0, extent.length)
        position += extent.length
    assert position == end
    assert b"".join(extent.data or bytes(extent.length) for extent in found) == whole[start:end]
    holes = [not extent.data for extent in found]
    assert (True, True) not in itertools.pairwise(holes)


async def test_neighbours_are_joined_up_to_a_limit() -> None:
    pieces = [(index * BLOCK, b"x" * BLOCK) for index in range(40)]
    found = [extent async for extent in extents.covering(ascending(pieces), 0, 40 * BLOCK)]
    assert [extent.length for extent in found] == [PIECE, PIECE, 40 * BLOCK - 2 * PIECE]


async def test_ranges_are_covered_from_one_pass() -> None:
    """Also by a piece that belongs to several of them."""
    content = bytes(range(1, 251)) * 1000

    async def ranges() -> AsyncIterator[tuple[int, int]]:
        for each in ((10, 20), (100, 200_000), (260_000, 300_000), (310_000, 320_000)):
            yield each

    pieces = ascending([(0, content[:150]), (150, content[150:]), (315_000, b"end")])
    found = [extent async for extent in extents.covering_each(pieces, ranges())]
    whole = bytearray(320_000)
    for extent in found:
        whole[extent.offset : extent.offset + extent.length] = extent.data or bytes(extent.length)
    expected = bytearray(320_000)
    expected[10:20], expected[100:200_000] = content[10:20], content[100:200_000]
    expected[315_000:315_003] = b"end"
    assert whole == expected
    assert sum(extent.length for extent in found) == 10 + 199_900 + 40_000 + 10_000


async def test_a_digest_sees_holes_and_gaps_as_zeros() -> None:
    digest = Digest()
    await digest.take(extents.hole(0, 1000))
    await digest.take(extents.data(2000, b"content"))
    found = await digest.hexdigest(200 << 20)
    assert found == hashlib.sha256(bytes(2000) + b"content" + bytes((200 << 20) - 2007)).hexdigest()


def incoming(*messages: v1.Extent | str, resume_offset: int = 0) -> Incoming:
    async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
        for each in messages:
            if isinstance(each, str):
                yield v1.WriteDiskRequest(finish_sha256=each)
            else:
                yield v1.WriteDiskRequest(extent=each)

    disk = v1.DiskRef(machine_uid="m", disk_name="root")
    return Incoming(v1.WriteDiskTarget(disk=disk, size_bytes=1000, resume_offset=resume_offset), requests())


async def test_what_comes_in_whole_passes() -> None:
    parts = [extents.data(0, b"a"), extents.hole(10, 90), extents.data(100, b"b")]
    content = incoming(*parts, "AB" * 32)
    assert [extent async for extent in content.extents()] == parts
    assert content.promised == "ab" * 32
    content.check("ab" * 32)
    with pytest.raises(ChecksumMismatchError, match="disk root of machine m"):
        content.check("cd" * 32)


@pytest.mark.parametrize(
    "messages",
    [
        [extents.hole(10, 5), extents.hole(0, 5)],
        [extents.hole(0, 5), extents.hole(4, 5)],
        [extents.hole(0, 0)],
        [extents.hole(999, 2)],
        [v1.Extent(offset=0, length=2, data=b"a")],
        ["xyz"],
        ["ab" * 32, extents.hole(0, 5)],
        ["ab" * 32, "ab" * 32],
    ],
)
async def test_nonsense_is_refused(messages: list[v1.Extent | str]) -> None:
    with pytest.raises(InvalidSpecError, match="disk root of machine m"):
        assert [extent async for extent in incoming(*messages).extents()] == []


async def test_a_damaged_extent_is_refused_and_those_before_it_are_not() -> None:
    bad = extents.data(10, b"good")
    bad.data = b"evil"
    content = incoming(extents.data(0, b"x"), bad).extents()
    assert (await anext(content)).offset == 0
    with pytest.raises(ChecksumMismatchError):
        await anext(content)


async def test_nothing_may_lie_before_the_offset_of_resumption() -> None:
    with pytest.raises(InvalidSpecError):
        assert [extent async for extent in incoming(extents.hole(0, 5), resume_offset=4).extents()] == []
