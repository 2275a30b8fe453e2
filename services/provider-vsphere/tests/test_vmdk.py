"""The VMDK codec: against itself, against qemu-img, and against anything at all."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import pytest
from common.errors import BrokenImageError, NotSupportedError
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_vsphere.content import vmdk
from provider_vsphere.content.vmdk import GRAIN, SECTOR, Reader, Writer

MIB = 1 << 20
Pieces = list[tuple[int, bytes]]

qemu_img = pytest.mark.skipif(
    shutil.which("qemu-img") is None and not os.environ.get("REQUIRE_REAL"), reason="needs qemu-img"
)


def written(capacity: int, pieces: Pieces) -> bytes:
    writer = Writer(capacity)
    out = [writer.begin()]
    for offset, data in pieces:
        out += writer.write(offset, data)
    out += writer.finish()
    return b"".join(out)


def read(data: bytes, steps: list[int] | None = None) -> tuple[int, Pieces]:
    """Capacity and grains of a whole file, fed in steps."""
    reader, grains, position = Reader("disk"), [], 0
    for step in [*(steps or []), len(data)]:
        grains += reader.feed(data[position : position + step])
        position += step
    reader.close()
    return reader.capacity, grains


def flat(capacity: int, pieces: Pieces) -> bytes:
    content = bytearray(capacity)
    for offset, data in pieces:
        content[offset : offset + len(data)] = data
    return bytes(content)


@st.composite
def disks(draw: st.DrawFn) -> tuple[int, Pieces]:
    """A capacity, and ascending pieces of all sizes that touch or leave holes."""
    capacity = draw(st.integers(1, 6 * GRAIN // SECTOR)) * SECTOR
    cuts = sorted(draw(st.lists(st.integers(0, capacity), max_size=8)))
    seeds = draw(st.randoms(use_true_random=False))
    pieces = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        data = seeds.randbytes(end - start) if seeds.random() < 0.7 else bytes(end - start)
        pieces.append((start, data))
    return capacity, pieces


class TestRoundTrip:
    @settings(deadline=None, max_examples=150)
    @given(disk=disks(), steps=st.lists(st.integers(0, 3000), max_size=20))
    def test_what_is_written_is_read(self, disk: tuple[int, Pieces], steps: list[int]) -> None:
        capacity, pieces = disk
        found, grains = read(written(capacity, pieces), steps)
        assert found == capacity
        assert flat(capacity, grains) == flat(capacity, pieces)
        offsets = [offset for offset, _ in grains]
        assert offsets == sorted(set(offsets))

    def test_holes_take_no_room(self) -> None:
        """A terabyte with two grains in it is a small file."""
        pieces = [(0, b"first"), ((1 << 40) - 4, b"last")]
        data = written(1 << 40, pieces)
        assert len(data) < 256 << 10
        capacity, grains = read(data)
        assert capacity == 1 << 40
        assert [offset for offset, _ in grains] == [0, (1 << 40) - GRAIN]
        assert grains[1][1].endswith(b"last")

    def test_memory_does_not_grow_with_the_disk(self) -> None:
        """32 MiB of content pass through a disk of a terabyte."""
        writer, reader, piece, passed = Writer(1 << 40), Reader("disk"), random.Random(2).randbytes(MIB), 0
        tracemalloc.start()
        try:
            assert list(reader.feed(writer.begin())) == []
            for index in range(32):
                for part in writer.write(index << 35, piece):
                    passed += sum(len(content) for _, content in reader.feed(part))
            for part in writer.finish():
                assert all(reader.feed(part))
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        finally:
            tracemalloc.stop()
        reader.close()
        assert passed >= 31 * MIB

    def test_zeros_are_a_hole(self) -> None:
        assert read(written(4 * MIB, [(0, bytes(4 * MIB))]))[1] == []

    def test_pieces_out_of_order_are_refused(self) -> None:
        writer = Writer(MIB)
        writer.begin()
        assert list(writer.write(2 * GRAIN, b"x")) == []
        with pytest.raises(ValueError, match="out of place"):
            list(writer.write(GRAIN, b"x"))
        with pytest.raises(ValueError, match="out of place"):
            list(writer.write(MIB, b"x"))

    @pytest.mark.parametrize("capacity", [0, 100, vmdk.MOST_CAPACITY + SECTOR])
    def test_impossible_sizes_are_refused(self, capacity: int) -> None:
        with pytest.raises(NotSupportedError):
            Writer(capacity)


@qemu_img
class TestQemu:
    """The tool that everybody uses agrees."""

    CAPACITY = 40 * MIB + 5 * SECTOR  # more than one grain table, and no whole number of grains

    def pieces(self) -> Pieces:
        seeds = random.Random(7)
        starts = sorted(seeds.sample(range(0, self.CAPACITY - 3 * GRAIN, GRAIN), 20))
        made = [(start + 7, seeds.randbytes(seeds.randrange(1, GRAIN - 7))) for start in starts]
        return [*made, (self.CAPACITY - 3, b"end")]

    def test_it_reads_what_we_write(self, tmp_path: Path) -> None:
        source, raw = tmp_path / "ours.vmdk", tmp_path / "raw"
        source.write_bytes(written(self.CAPACITY, self.pieces()))
        _qemu_img("check", "-f", "vmdk", source)
        _qemu_img("convert", "-f", "vmdk", "-O", "raw", source, raw)
        assert raw.read_bytes() == flat(self.CAPACITY, self.pieces())

    def test_we_read_what_it_writes(self, tmp_path: Path) -> None:
        raw, made = tmp_path / "raw", tmp_path / "theirs.vmdk"
        raw.write_bytes(flat(self.CAPACITY, self.pieces()))
        _qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, made)
        capacity, grains = read(made.read_bytes(), [1000, 65536, 1])
        assert capacity == self.CAPACITY
        assert flat(capacity, grains) == raw.read_bytes()
        assert len(grains) <= 2 * len(self.pieces())


def _qemu_img(*args: object) -> None:
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, timeout=60)


class TestForeignInput:
    """Whoever sent it, the worst that happens is a refusal."""

    GOOD = written(2 * MIB + SECTOR, [(0, b"a" * 100), (GRAIN, random.Random(1).randbytes(GRAIN)), (MIB, b"z" * 9)])

    @given(data=st.binary(max_size=3000))
    def test_noise_is_refused(self, data: bytes) -> None:
        with pytest.raises(BrokenImageError):
            read(data)

    @settings(deadline=None, max_examples=400)
    @given(
        edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
        step=st.integers(1, 5000),
    )
    def test_a_mutated_file_is_read_or_refused(self, edits: list[tuple[int, int]], step: int) -> None:
        data = bytearray(self.GOOD)
        for position, value in edits:
            data[position] = value
        reader = Reader("disk")
        try:
            for start in range(0, len(data), step):
                for offset, content in reader.feed(bytes(data[start : start + step])):
                    assert 0 < len(content) <= vmdk.MOST_GRAIN
                    assert offset + len(content) <= reader.capacity
            reader.close()
        except BrokenImageError as error:
            assert "disk" in str(error)  # noqa: PT017  # a mutation may also be harmless

    @settings(deadline=None, max_examples=60)
    @given(cut=st.integers(0, len(GOOD) - SECTOR - 1))
    def test_a_cut_file_is_refused(self, cut: int) -> None:
        with pytest.raises(BrokenImageError):
            read(self.GOOD[:cut])

    @pytest.mark.parametrize(
        ("at", "form", "value", "why"),
        [
            (0, "4s", b"COWD", "begins"),
            (4, "<I", 9, "version"),
            (8, "<I", 1, "another kind"),
            (12, "<Q", 0, "capacity"),
            (12, "<Q", 1 << 63, "capacity"),
            (20, "<Q", 1 << 40, "grain of"),
            (20, "<Q", 3, "grain of"),
            (44, "<I", 1 << 30, "tables of"),
            (64, "<Q", 1 << 60, "before the first"),
            (73, "4s", b"\n \n\n", "as text"),
            (77, "<H", 2, "another kind"),
            (128 * SECTOR, "<Q", 3, "out of place"),
            (128 * SECTOR, "<Q", 1 << 50, "out of place"),
            (128 * SECTOR + 8, "<I", 1 << 31, "compressed grain"),
            (128 * SECTOR + 12, "4s", b"none", "decompressed"),
        ],
    )
    def test_each_lie_is_named(self, at: int, form: str, value: object, why: str) -> None:
        data = bytearray(self.GOOD)
        struct.pack_into(form, data, at, value)
        with pytest.raises(BrokenImageError, match=why):
            read(bytes(data))

    def test_a_grain_that_explodes_is_refused(self) -> None:
        bomb = zlib.compress(bytes(32 * MIB))
        data = self.GOOD[: 128 * SECTOR] + struct.pack("<QI", 0, len(bomb)) + bomb.ljust(GRAIN, b"\0")
        reader = Reader("disk")
        tracemalloc.start()
        try:
            with pytest.raises(BrokenImageError, match="another size"):
                list(reader.feed(data))
            assert tracemalloc.get_traced_memory()[1] < 2 * MIB
        finally:
            tracemalloc.stop()

    def test_what_follows_the_end_is_refused(self) -> None:
        assert read(self.GOOD + bytes(1000))[0] == 2 * MIB + SECTOR
        with pytest.raises(BrokenImageError, match="follows"):
            read(self.GOOD + b"more")
