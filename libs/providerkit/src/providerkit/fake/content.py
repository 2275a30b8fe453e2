"""What stands on a disk of the fake: blocks of bytes in memory, everything else a hole."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from providerkit.extents import BLOCK, Piece


@dataclass(slots=True)
class Content:
    """Copied before it is written, so that snapshots and clones may share it."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    """In which generation each block was written last."""
    generation: int = 0
    durable: int = 0
    """How far a write came that is not complete; 0 for none."""

    def copy(self) -> Content:
        """One of its own."""
        return Content(dict(self.blocks), dict(self.changed), self.generation, self.durable)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there; zeros of a whole block make a hole."""
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, BLOCK)
            part = data[done : done + BLOCK - start]
            block = bytearray(self.blocks.get(index, bytes(BLOCK)))
            block[start : start + len(part)] = part
            self._put(index, bytes(block))
            done += len(part)

    def clear(self, offset: int, length: int) -> None:
        """Make it zeros, without touching blocks that are."""
        for index in [each for each in self.blocks if offset < (each + 1) * BLOCK and each * BLOCK < offset + length]:
            start = max(offset, index * BLOCK)
            self.write(start, bytes(min(offset + length, (index + 1) * BLOCK) - start))

    def _put(self, index: int, block: bytes) -> None:
        if any(block):
            self.blocks[index] = block
        else:
            self.blocks.pop(index, None)
        self.changed[index] = self.generation

    def pieces(self) -> list[Piece]:
        """All blocks, ascending."""
        return [(index * BLOCK, self.blocks[index]) for index in sorted(self.blocks)]

    def changed_since(self, generation: int) -> list[int]:
        """Indices of blocks that were written in a later generation, ascending."""
        return sorted(index for index, when in self.changed.items() if when > generation)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        blocks = {str(index): base64.b64encode(block).decode() for index, block in self.blocks.items()}
        changed = {str(index): when for index, when in self.changed.items()}
        return {"blocks": blocks, "changed": changed, "generation": self.generation, "durable": self.durable}


def from_plain(plain: dict[str, Any]) -> Content:
    """Of what `plain` made."""
    blocks = {int(index): base64.b64decode(block) for index, block in plain["blocks"].items()}
    changed = {int(index): when for index, when in plain["changed"].items()}
    return Content(blocks, changed, plain["generation"], plain["durable"])
