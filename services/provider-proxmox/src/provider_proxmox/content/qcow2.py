"""A qcow2 image made on its way: its parts in order, its length known before the first byte is sent.

Only what holds data is in it: header, reference counts, one table of tables, tables, and the data behind each other.
Source: QEMU, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

CLUSTER = 1 << 16
_BITS = 16
_PER_TABLE = CLUSTER // 8
"""Clusters that one table tells of, and reference blocks that one cluster of the reference table does."""
_PER_BLOCK = CLUSTER // 2
"""Clusters that one block of reference counts (16 bits each) counts."""
_GAP = 16 * CLUSTER
"""Bytes of zeros between two parts that are not worth two parts: what is known of a disk stays small."""
_COPIED = 1 << 63
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")

Range = tuple[int, int]
"""First byte and the byte behind the last, both at a cluster's border."""


@dataclass(frozen=True)
class Layout:
    """Where everything is in the image of a disk."""

    size: int
    """Capacity of the disk."""
    ranges: Sequence[Range]
    """What of it holds data: ascending, apart from each other."""

    @property
    def data_clusters(self) -> int:
        """Clusters of data."""
        return sum(end - start for start, end in self.ranges) // CLUSTER

    @property
    def length(self) -> int:
        """Bytes of the image."""
        return self._clusters * CLUSTER

    @cached_property
    def _tables(self) -> list[int]:
        """Tables that are there, by what they tell of: those without data are left out."""
        reach = _PER_TABLE * CLUSTER
        found: dict[int, None] = {}
        for start, end in self.ranges:
            found.update(dict.fromkeys(range(start // reach, (end - 1) // reach + 1)))
        return list(found)

    @property
    def _top_entries(self) -> int:
        return -(-self.size // (_PER_TABLE * CLUSTER))

    @property
    def _top_clusters(self) -> int:
        return -(-self._top_entries * 8 // CLUSTER)

    @property
    def _rest(self) -> int:
        """Clusters besides header and reference counts."""
        return self._top_clusters + len(self._tables) + self.data_clusters

    @cached_property
    def _counting(self) -> tuple[int, int]:
        """Clusters of the reference table, and reference blocks: they count themselves as well."""
        blocks, table = 1, 1
        while True:
            total = 1 + table + blocks + self._rest
            needed = -(-total // _PER_BLOCK)
            needed_table = -(-needed // _PER_TABLE)
            if (needed, needed_table) == (blocks, table):
                return table, blocks
            blocks, table = max(blocks, needed), max(table, needed_table)

    @property
    def _clusters(self) -> int:
        return 1 + sum(self._counting) + self._rest

    def metadata(self) -> Iterator[bytes]:
        """Everything before the data, in pieces."""
        table, blocks = self._counting
        tables = self._tables
        top = 1 + table + blocks  # cluster of the table of tables
        first = top + self._top_clusters  # of the first table
        data = first + len(tables)
        yield _padded(
            _HEADER.pack(
                b"QFI\xfb", 3, 0, 0, _BITS, self.size, 0, self._top_entries, top * CLUSTER, CLUSTER, table, 0, 0,
                0, 0, 0, 4, _HEADER.size,
            )
        )  # fmt: skip
        yield _padded(b"".join(struct.pack(">Q", (1 + table + i) * CLUSTER) for i in range(blocks)), table)
        for block in range(blocks):
            counted = min(_PER_BLOCK, self._clusters - block * _PER_BLOCK)
            yield _padded(struct.pack(">H", 1) * max(counted, 0))
        entries = [0] * self._top_entries
        for place, index in enumerate(tables):
            entries[index] = (first + place) * CLUSTER | _COPIED
        yield _padded(struct.pack(f">{len(entries)}Q", *entries), self._top_clusters)
        yield from self._each_table(tables, data)

    def _each_table(self, tables: Sequence[int], data: int) -> Iterator[bytes]:
        entries, current = [0] * _PER_TABLE, iter(tables)
        index = next(current, None)
        for start, end in self.ranges:
            for cluster in range(start // CLUSTER, end // CLUSTER):
                while index is not None and cluster // _PER_TABLE != index:
                    yield struct.pack(f">{_PER_TABLE}Q", *entries)
                    entries, index = [0] * _PER_TABLE, next(current, None)
                entries[cluster % _PER_TABLE] = data * CLUSTER | _COPIED
                data += 1
        if index is not None:
            yield struct.pack(f">{_PER_TABLE}Q", *entries)


def _padded(data: bytes, clusters: int = 1) -> bytes:
    return data.ljust(clusters * CLUSTER, b"\0")


def aligned(ranges: Iterator[Range]) -> list[Range]:
    """Ranges at the borders of clusters; those that touch then, or nearly, are one."""
    found: list[Range] = []
    for start, end in ranges:
        start, end = start // CLUSTER * CLUSTER, -(-end // CLUSTER) * CLUSTER
        if found and start <= found[-1][1] + _GAP:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
