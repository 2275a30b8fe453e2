"""A machine's snapshots as the inventory tree keeps them, and who they are: pure, without a round trip.

vSphere gives a snapshot a name, which need not be unique, and a description, and both are for people. Whose it is
stands in a line of the description: "[virtrigaud snapshot UID of OWNER]", or "[virtrigaud base of clone UID of OWNER]"
for one that a linked clone stands on. Whoever removes that line makes the snapshot a foreign one.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from common import v1
from providerkit.records import decoded

from provider_vsphere.session.tree import plain_name

FACT = "snapshot"
"""Property of a VM, whose value the tree keeps as a tuple of nodes; absent while there is no snapshot."""

_SHOWN = 5
"""So many names are told in a reason."""

_MARK = re.compile(r"^\[virtrigaud (?P<kind>snapshot|base of clone) (?P<uid>[0-9a-f-]{36}) of (?P<owner>.*)\]$")
_KEEP = re.compile(r"^\[virtrigaud reverts: (?P<kept>\{.*\})\]$")


@dataclass(frozen=True)
class Node:
    """One snapshot.

    Attributes:
        moid: its id in this vCenter.
        parent: moid of the one that it stands on; empty at the root.
        state: power state that it was taken in as far as memory is in it: "poweredOff" for one without.
        current: the machine's state derives from it.
    """

    moid: str
    parent: str
    name: str
    description: str
    created: datetime.datetime
    state: str
    quiesced: bool
    current: bool

    @property
    def memory(self) -> bool:
        """It holds the memory of a running or suspended machine."""
        return self.state != "poweredOff"

    def uid(self, owner: str) -> str:
        """Who it is for this owner; empty for a foreign one."""
        marks = (_MARK.match(line) for line in self.description.splitlines())
        mark = next((mark for mark in marks if mark is not None), None)
        return mark["uid"] if mark is not None and mark["owner"] == owner else ""

    @property
    def text(self) -> str:
        """The description without our lines."""
        lines = self.description.splitlines()
        return "\n".join(line for line in lines if not _MARK.match(line) and not _KEEP.match(line)).rstrip()

    @property
    def kept(self) -> dict[str, str] | None:
        """Files of disks that a revert to it unplugs, by the disk's name, while that revert is not complete."""
        for line in self.description.splitlines():
            if (found := _KEEP.match(line)) is not None:
                return decoded(found["kept"], dict[str, str])
        return None

    def keeping(self, kept: Mapping[str, str] | None) -> str:
        """The description with that line, or without."""
        lines = [line for line in self.description.splitlines() if not _KEEP.match(line)]
        if kept is not None:
            lines.append(f"[virtrigaud reverts: {msgspec.json.encode(dict(kept)).decode()}]")
        return "\n".join(lines)


def description(text: str, uid: str, owner: str, *, base: bool = False) -> str:
    """What a new snapshot of ours is described with."""
    kind = "base of clone" if base else "snapshot"
    return f"{text}\n\n[virtrigaud {kind} {uid} of {owner}]".lstrip()


def nodes(info: Any) -> tuple[Node, ...]:
    """All of a vim.vm.SnapshotInfo, parents before children."""
    current = info.currentSnapshot._moId if info.currentSnapshot is not None else ""
    return tuple(_walk(info.rootSnapshotList or (), "", current))


def _walk(trees: Iterable[Any], parent: str, current: str) -> Iterator[Node]:
    for each in trees:
        moid = str(each.snapshot._moId)
        yield Node(
            moid=moid,
            parent=parent,
            name=plain_name(str(each.name or "")),
            description=str(each.description or ""),
            created=each.createTime,
            state=str(each.state),
            quiesced=bool(each.quiesced),
            current=moid == current,
        )
        yield from _walk(each.childSnapshotList or (), moid, current)


def told(node: Node, owner: str) -> v1.Snapshot:
    """In the contract's words."""
    return v1.Snapshot(
        id=node.moid,
        uid=node.uid(owner),
        name=node.name,
        description=node.text,
        parent_id=node.parent,
        memory=node.memory,
        quiesced=node.quiesced,
        current=node.current,
        create_time=node.created.astimezone(datetime.UTC),
    )


def below(every: Iterable[Node], top: Node) -> list[Node]:
    """Its children, their children, and so on."""
    ids, found = {top.moid}, []
    for node in every:  # parents come first
        if node.parent in ids:
            ids.add(node.moid)
            found.append(node)
    return found


def why_no_growth(every: Iterable[Node]) -> str:
    """Why no disk of the machine can grow; empty without snapshots."""
    names = [node.name for node in every]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the machine has snapshots: {', '.join(names[:_SHOWN])}{more}" if names else ""
