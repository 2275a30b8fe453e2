"""Snapshots as Proxmox VE lists them, and who they are: pure, without a call.

Proxmox VE names a snapshot with 40 letters at most and keeps a description. The name is made of the one that was asked
for and of its UID, so that the same snapshot is asked for under the same name, which is there only once. Who it is
stands in a comment at the end of the description, with the machine's stamp of that moment: a rollback brings the
hardware of old back, and not the description that says what is what.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from common import v1
from providerkit.apply import RESTARTED_FOR
from providerkit.planner import ADOPTED_SETTING, DESCRIPTION_SETTING
from providerkit.records import decoded

from provider_proxmox import comment
from provider_proxmox.config import disks, hardware
from provider_proxmox.stamp import DiskStamp, Stamp

LONGEST = 40
"""Source: the API schema of Proxmox VE 9.2."""
REVERTING = "reverting"
"""Setting of the stamp: name of the snapshot that a rollback was begun to and is not known to be complete."""

_LASTING = frozenset(
    {
        DESCRIPTION_SETTING,
        ADOPTED_SETTING,
        RESTARTED_FOR,
        hardware.HA,
        hardware.VMID,
        hardware.BOOT_DATA,
        hardware.SUSPEND_TO,
    }
)
_MARK = "virtrigaud-snapshot"
_DIGITS = 12


@dataclass(frozen=True)
class Mark:
    """Whose a snapshot is, and what the machine was then."""

    uid: str
    owner: str
    name: str
    """As it was asked for."""
    vmid: int = 0
    """The guest that it was taken of; on another one it means nothing."""
    quiesced: bool = False
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Node:
    """One snapshot."""

    name: str
    """Proxmox VE's own, which is its id."""
    parent: str
    """Of the one that it stands on; empty at the root."""
    text: str
    """Description for people."""
    created: int
    """Seconds since 1970."""
    memory: bool
    current: bool
    """The machine's state derives from it."""
    mark: Mark | None
    unfinished: str = ""
    """What was being done to it when a task died: "prepare", "delete"."""

    def uid(self, owner: str) -> str:
        """Who it is for this owner; empty for a foreign one."""
        return self.mark.uid if self.mark is not None and self.mark.owner == owner else ""


def snapshot_name(name: str, uid: str) -> str:
    """The name on Proxmox VE: readable, and one for one UID."""
    digest = hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]
    word = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-_")
    word = word if word[:1].isalpha() else f"s{word}"
    return f"{word[: LONGEST - _DIGITS - 1].rstrip('-_')}-{digest}"


def description(text: str, mark: Mark) -> str:
    """What a new snapshot of ours is described with."""
    return comment.written(text, _MARK, mark)


def read(text: str, vmid: int) -> tuple[str, Mark | None]:
    """The text for people and the mark; None when there is none that makes sense for this guest."""
    plain, json = comment.read(text, _MARK)
    mark = decoded(json, Mark)
    if mark is None or mark.vmid != vmid:
        return text.rstrip("\n"), None
    return plain.rstrip("\n"), mark


def nodes(rows: Sequence[Mapping[str, Any]], vmid: int) -> list[Node]:
    """All of a listing, parents before children."""
    here = next((str(row.get("parent", "")) for row in rows if row.get("name") == "current"), "")
    found = {}
    for row in rows:
        if row.get("name") == "current":
            continue
        text, mark = read(str(row.get("description") or ""), vmid)
        found[str(row["name"])] = Node(
            name=str(row["name"]),
            parent=str(row.get("parent") or ""),
            text=text,
            created=int(row.get("snaptime") or 0),
            memory=bool(int(row.get("vmstate") or 0)),
            current=row.get("name") == here,
            mark=mark,
            unfinished=str(row.get("snapstate") or ""),
        )
    known = {name: replace(node, parent=node.parent if node.parent in found else "") for name, node in found.items()}
    return sorted(known.values(), key=lambda node: (_depth(node, known), node.created, node.name))


def _depth(node: Node, known: Mapping[str, Node]) -> int:
    depth = 0
    while node.parent and depth <= len(known):
        node, depth = known[node.parent], depth + 1
    return depth


def below(every: Iterable[Node], top: Node) -> list[Node]:
    """Its children, their children, and so on."""
    names, found = {top.name}, []
    for node in every:  # parents come first
        if node.parent in names:
            names.add(node.name)
            found.append(node)
    return found


def told(node: Node, owner: str) -> v1.Snapshot:
    """In the contract's words."""
    ours = node.mark if node.uid(owner) else None
    return v1.Snapshot(
        id=node.name,
        uid=node.uid(owner),
        name=ours.name if ours is not None else node.name,
        description=node.text,
        parent_id=node.parent,
        memory=node.memory,
        quiesced=ours.quiesced if ours is not None else False,
        current=node.current,
        create_time=datetime.fromtimestamp(node.created, UTC) if node.created else None,
    )


# -- what is true after a rollback -------------------------------------------------------------------------------------


def reverted(now: Stamp, then: Stamp, config: Mapping[str, Any]) -> Stamp:
    """The stamp that is true after a rollback: hardware of then, who the machine is and what it is called of now.

    A disk that it got since is unplugged; if it is ours it stays ours, under its name unless another disk has that.

    Args:
        config: what is there after the rollback.
    """
    there = set(disks.volumes(config).values())
    kept = tuple(disk for disk in then.disks if disk.slot)
    plugged = {disk.volume for disk in kept}
    names = {disk.name for disk in kept}
    for disk in now.disks:
        if disk.owned and disk.volume in there - plugged:
            kept += (replace(disk, slot="", name=_free_name(disk, names)),)
    lasting = {key: value for key, value in now.settings.items() if _lasts(key)}
    hardware = {key: value for key, value in then.settings.items() if not _lasts(key)}
    return replace(
        now,
        boot_digest=then.boot_digest,
        disks=kept,
        nics=then.nics,
        cdroms=then.cdroms,
        volumes=tuple(dict.fromkeys((*then.volumes, *now.volumes))),
        settings={key: value for key, value in (hardware | lasting).items() if key != REVERTING},
    )


def same_hardware(config: Mapping[str, Any], snapshot: Mapping[str, Any]) -> bool:
    """Whether a machine has the disks, drives and NICs that a snapshot has."""

    def devices(each: Mapping[str, Any]) -> dict[str, str]:
        return {key: str(value) for key, value in each.items() if disks.is_slot(key) or re.fullmatch(r"net\d+", key)}

    return devices(config) == devices(snapshot)


def _free_name(disk: DiskStamp, taken: set[str]) -> str:
    """A name that no disk of the machine has; one with an @ is none of a disk at all."""
    return f"{disk.name.partition('@')[0]}@{disk.volume}" if disk.name in taken else disk.name


def _lasts(key: str) -> bool:
    """A setting that is not about what a snapshot holds."""
    return key in _LASTING or key.startswith("placement.")
