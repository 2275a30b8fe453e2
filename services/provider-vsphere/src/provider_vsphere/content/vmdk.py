"""Stream-optimised VMDK, the one format in which vSphere sends and takes disks over HTTP; read and written in one pass.

A file is a header, then compressed grains of 64 KiB in ascending order, each behind a marker that says where it
belongs; what has no grain is a hole. Tables for random access stand between and behind the grains. The reader passes
over them: the markers say it all. It trusts nothing: every length is checked before anything is kept or decompressed.

Source: Virtual Disk Format 5.0, VMware technical note, "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import enum
import struct
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NoReturn

from common.errors import BrokenImageError, NotSupportedError

SECTOR: Final = 512
GRAIN: Final = 64 << 10
"""Bytes of a grain that we write; other writers may choose another size."""
MOST_GRAIN: Final = 1 << 20
MOST_CAPACITY: Final = 64 << 40
"""Bytes; vSphere's own limit is 62 TB. It bounds the writer's memory: 8 MiB for the largest disk."""

_MAGIC: Final = b"KDMV"
_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARKER: Final = struct.Struct("<QII496x")
_NEWLINES: Final = b"\n \r\n"
"""Spoiled when somebody sent the file as text."""
_AT_END: Final = (1 << 64) - 1
_HAS_NEWLINES, _COMPRESSED, _MARKERS = 1 << 0, 1 << 16, 1 << 17
_DEFLATE: Final = 1
_ENTRIES: Final = 512
"""Grains of one grain table."""
_OVERHEAD: Final = 128
"""Sectors before the first grain: header, descriptor and padding."""
_MOST_OVERHEAD: Final = 1 << 31
"""Sectors; a writer that keeps its tables in front needs 1/8192 of the capacity for both copies."""


class _Marker(enum.IntEnum):
    END, TABLE, DIRECTORY, FOOTER = range(4)


Grain = tuple[int, bytes]
"""Where it begins, and its content, which may be all zeros."""

_Parser = Generator[Grain | None, None, None]


class Reader:
    """From bytes, in whatever pieces they come, to grains.

    Memory: one piece of input, one grain as compressed, one as it was; whatever the size of the disk.
    """

    def __init__(self, what: str) -> None:
        """Args: what: for people: whose disk it is, or which file."""
        self.capacity = 0
        """Bytes of the disk; 0 until the header has been read."""
        self._what = what
        self._buffer = bytearray()
        self._done = False
        self._may_just_end = False
        """The tables are in front, so that nothing must come behind the last grain."""
        self._parser = self._parse()

    def feed(self, data: bytes) -> Iterator[Grain]:
        """Take a piece; gives the grains that it completes, each made when it is asked for. Exhaust it before the next.

        Raises:
            BrokenImageError: this is no such file; nothing more can be read.
        """
        self._buffer += data
        while (grain := next(self._parser, None)) is not None:
            yield grain

    def close(self) -> None:
        """There is no more input.

        Raises:
            BrokenImageError: there should be.
        """
        if not (self._done or (self._may_just_end and not self._buffer)):
            self._refuse("it ends too early")

    def _refuse(self, why: str) -> NoReturn:
        raise BrokenImageError(f"{self._what}: no sound stream-optimised VMDK: {why}")

    def _take(self, size: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < size:
            yield None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _skip(self, size: int) -> Generator[None, None, None]:
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer.clear()
            yield None
        del self._buffer[:size]

    def _parse(self) -> _Parser:
        header = yield from self._take(SECTOR)
        grain_size, overhead = self._header(header)
        yield from self._skip((overhead - 1) * SECTOR)
        next_offset, has_footer = 0, False
        while True:
            self._may_just_end = not self._at_end
            marker = yield from self._take(SECTOR)
            self._may_just_end = False
            value, size, kind = _MARKER.unpack(marker)
            if size:
                offset = self._offset(value, grain_size, next_offset)
                yield offset, (yield from self._grain(marker, size, offset, grain_size))
                next_offset = offset + grain_size
            elif kind == _Marker.END:
                break
            elif kind in (_Marker.TABLE, _Marker.DIRECTORY):
                yield from self._skip(self._sectors(value) * SECTOR)
            elif kind == _Marker.FOOTER and value == 1:
                self._footer(header, (yield from self._take(SECTOR)))
                has_footer = True
            else:
                self._refuse(f"unknown marker {kind}")
        if self._at_end and not has_footer:
            self._refuse("it has no footer")
        self._done = True
        while True:
            if self._buffer.strip(b"\0"):
                self._refuse("something follows its end")
            self._buffer.clear()
            yield None

    def _header(self, header: bytes) -> tuple[int, int]:
        """Bytes of a grain, and sectors before the first one."""
        magic, version, flags, capacity, grain, _, _, entries, _, directory, overhead, _, newlines, how = (
            _HEADER.unpack(header)
        )
        if magic != _MAGIC:
            self._refuse("it begins with something else")
        if not 1 <= version <= 3:
            self._refuse(f"version {version}")
        if not (flags & _COMPRESSED and flags & _MARKERS and how == _DEFLATE):
            self._refuse("it is another kind of VMDK")
        if flags & _HAS_NEWLINES and newlines != _NEWLINES:
            self._refuse("it was sent as text")
        grain_size = grain * SECTOR
        if not 0 < grain_size <= MOST_GRAIN or grain & (grain - 1):
            self._refuse(f"a grain of {grain} sectors")
        if not 0 < capacity * SECTOR <= MOST_CAPACITY:
            self._refuse(f"a capacity of {capacity} sectors")
        if not 0 < entries <= _ENTRIES:
            self._refuse(f"grain tables of {entries} entries")
        if not 1 <= overhead <= _MOST_OVERHEAD:
            self._refuse(f"{overhead} sectors before the first grain")
        self.capacity = capacity * SECTOR
        self._at_end = directory == _AT_END
        return grain_size, overhead

    def _footer(self, header: bytes, footer: bytes) -> None:
        """It repeats the header and knows where the directory is."""
        first, last = list(_HEADER.unpack(header)), list(_HEADER.unpack(footer))
        directory = 9
        if last[directory] == _AT_END or first[:5] != last[:5]:
            self._refuse("its footer contradicts its header")

    def _sectors(self, count: int) -> int:
        """How many sectors of tables follow a marker."""
        if count > _MOST_OVERHEAD:
            self._refuse(f"{count} sectors of tables")
        return count

    def _offset(self, sector: int, grain_size: int, next_offset: int) -> int:
        offset = sector * SECTOR
        if offset % grain_size or not next_offset <= offset < self.capacity:
            self._refuse(f"a grain at sector {sector}, which is out of place")
        return offset

    def _grain(self, marker: bytes, size: int, offset: int, grain_size: int) -> Generator[None, None, bytes]:
        """Bytes of a grain, the last one without what lies beyond the capacity."""
        if size > 2 * grain_size:
            self._refuse(f"{size} bytes of a compressed grain")
        in_marker, head = SECTOR - 12, 12
        if size > in_marker:
            rest = -(-(size - in_marker) // SECTOR) * SECTOR
            packed = marker[head:] + (yield from self._take(rest))
        else:
            packed = marker[head:]
        inflater = zlib.decompressobj()
        try:
            content = inflater.decompress(packed[:size], grain_size + 1)
        except zlib.error as error:
            self._refuse(f"the grain at byte {offset} cannot be decompressed ({error})")
        needed = min(grain_size, self.capacity - offset)
        if not inflater.eof or not needed <= len(content) <= grain_size:
            self._refuse(f"the grain at byte {offset} has another size than it says")
        return content[:needed]


class Writer:
    """From content in ascending pieces to bytes: `begin`, then `write` as often as wanted, then `finish`.

    Grains that are all zeros are left out. Memory: one piece, one grain, and four bytes for each 32 MiB of the disk.
    """

    def __init__(self, capacity: int, *, level: int = 1) -> None:
        """Args: capacity: bytes, a whole number of sectors. level: of zlib; the first is fast and does most of it."""
        if not 0 < capacity <= MOST_CAPACITY or capacity % SECTOR:
            raise NotSupportedError(f"a VMDK of {capacity} bytes: its size must be whole sectors, and at most 64 TiB")
        self._capacity = capacity
        self._level = level
        self._position = 0
        """Sectors written so far."""
        self._grain = bytearray()
        """The grain that is not complete yet; it begins at `_grain_at`."""
        self._grain_at = 0
        self._table = [0] * _ENTRIES
        self._table_index = 0
        self._directory = array("I", bytes(4 * -(-capacity // (GRAIN * _ENTRIES))))

    def begin(self) -> bytes:
        """What comes first."""
        descriptor = _descriptor(self._capacity // SECTOR)
        head = self._header(_AT_END) + descriptor.ljust((_OVERHEAD - 1) * SECTOR, b"\0")
        self._position = _OVERHEAD
        return head

    def write(self, offset: int, data: bytes) -> Iterator[bytes]:
        """Take a piece of content that lies behind all earlier ones; gives the bytes that it completes.

        Raises:
            ValueError: it overlaps what was written, or lies beyond the end.
        """
        if offset < self._grain_at + len(self._grain) or offset + len(data) > self._capacity:
            raise ValueError(f"{len(data)} bytes at {offset} are out of place")
        view, done = memoryview(data), 0
        while done < len(view):
            at = offset + done
            start = at - at % GRAIN
            if start != self._grain_at:
                yield from self._end_grain()
                self._grain_at = start
            self._grain += bytes(at - start - len(self._grain))
            part = view[done : done + GRAIN - (at - start)]
            self._grain += part
            done += len(part)

    def finish(self) -> Iterator[bytes]:
        """What comes last."""
        yield from self._end_grain()
        yield from self._end_table()
        directory = _entries(self._directory)
        at = self._position + 1
        yield self._metadata(_Marker.DIRECTORY, directory)
        yield self._metadata(_Marker.FOOTER, self._header(at))
        yield bytes(SECTOR)

    def _end_grain(self) -> Iterator[bytes]:
        if self._grain.count(0) != len(self._grain):
            index, entry = divmod(self._grain_at // GRAIN, _ENTRIES)
            if index != self._table_index:
                yield from self._end_table()
                self._table_index = index
            self._table[entry] = self._sector()
            packed = zlib.compress(self._grain.ljust(GRAIN, b"\0"), self._level)
            marker = struct.pack("<QI", self._grain_at // SECTOR, len(packed)) + packed
            yield self._padded(marker)
        self._grain.clear()

    def _end_table(self) -> Iterator[bytes]:
        if any(self._table):
            self._directory[self._table_index] = self._sector() + 1
            yield self._metadata(_Marker.TABLE, _entries(self._table))
            self._table = [0] * _ENTRIES

    def _metadata(self, kind: _Marker, content: bytes) -> bytes:
        sectors = -(-len(content) // SECTOR)
        return self._padded(_MARKER.pack(sectors, 0, kind) + content)

    def _padded(self, data: bytes) -> bytes:
        sectors = -(-len(data) // SECTOR)
        self._position += sectors
        return data.ljust(sectors * SECTOR, b"\0")

    def _sector(self) -> int:
        """Where the next byte goes, as the tables note it."""
        if self._position >= 1 << 32:
            raise NotSupportedError("a stream-optimised VMDK holds at most 2 TiB of compressed content")
        return self._position

    def _header(self, directory: int) -> bytes:
        return _HEADER.pack(
            _MAGIC, 3, _HAS_NEWLINES | _COMPRESSED | _MARKERS, self._capacity // SECTOR, GRAIN // SECTOR, 1,
            _OVERHEAD - 1, _ENTRIES, 0, directory, _OVERHEAD, 0, _NEWLINES, _DEFLATE,
        )  # fmt: skip


def _entries(sectors: Sequence[int]) -> bytes:
    """As tables and the directory have them."""
    return struct.pack(f"<{len(sectors)}I", *sectors)


def _descriptor(sectors: int) -> bytes:
    """The text part; nobody needs its numbers, but tools want to find them."""
    cylinders = min(65535, max(1, sectors // (255 * 63)))
    return (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        'createType="streamOptimized"\n\n# Extent description\n'
        f'RDONLY {sectors} SPARSE "disk.vmdk"\n\n# The Disk Data Base\n#DDB\n\n'
        f'ddb.adapterType = "lsilogic"\nddb.geometry.cylinders = "{cylinders}"\nddb.geometry.heads = "255"\n'
        'ddb.geometry.sectors = "63"\nddb.virtualHWVersion = "4"\n'
    ).encode()
