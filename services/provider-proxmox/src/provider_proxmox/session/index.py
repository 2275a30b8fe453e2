"""The cluster as it is known here: guests, nodes, storages. Kept by the ticker; reading it costs no call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from provider_proxmox import stamp
from provider_proxmox.stamp import Stamp

_read = lru_cache(maxsize=4096)(stamp.read)
"""Stamps are looked at all the time and change rarely."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One QEMU guest. A change makes a new one: what was read stays true of its moment."""

    vmid: int
    node: str
    name: str = ""
    status: str = "unknown"
    """"running" or "stopped"; "unknown" while the node does not answer."""
    qmpstatus: str = ""
    """QEMU's own word where the node tells it: "paused", "suspended", "io-error", ..."""
    lock: str = ""
    """Word of the configuration lock: "clone", "snapshot", "suspended"; "" without."""
    template: bool = False
    pool: str = ""
    ha: str = ""
    """State that HA wants: "started"; "" for a guest that it does not manage."""
    config: dict[str, Any] = field(default_factory=dict)
    """As it runs (`current=1`), "digest" included; empty until it was read once."""
    pending: dict[str, Any] = field(default_factory=dict)
    """What holds only after the next start, by key; None for what will be gone."""
    snapshots: tuple[dict[str, Any], ...] = ()
    """As Proxmox VE lists them, without "current"."""
    agent: dict[str, Any] = field(default_factory=dict)
    """What the guest agent told: "interfaces", "hostname", "osinfo"."""

    @property
    def digest(self) -> str:
        """Of the configuration that `config` shows; a change that names it fails if somebody else was there first."""
        return str(self.config.get("digest", ""))

    @property
    def description(self) -> str:
        """Text for people, without the stamp."""
        return _read(str(self.config.get("description", "")))[0]

    @property
    def stamp(self) -> Stamp | None:
        """Its stamp, whoever's it is, if it was written for this very guest and not brought along by a copy."""
        found = _read(str(self.config.get("description", "")))[1]
        return found if found is not None and found.vmid == self.vmid else None

    @property
    def path(self) -> str:
        """Of the guest in the API."""
        return f"nodes/{self.node}/qemu/{self.vmid}"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the cluster."""

    name: str
    online: bool = True
    cpus: int = 0
    cpu_load: float = 0.0
    """Part of the CPUs in use, 0 to 1."""
    memory_bytes: int = 0
    memory_used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as one node sees it."""

    name: str
    node: str
    kind: str = ""
    """"dir", "nfs", "lvmthin", "zfspool", "rbd", ..."""
    content: frozenset[str] = frozenset()
    """"images", "import", "iso", "snippets", "backup", ..."""
    shared: bool = False
    active: bool = True
    capacity_bytes: int = 0
    free_bytes: int = 0


class Index:
    """Everything that is known of the cluster now."""

    def __init__(self) -> None:
        self.guests: dict[int, Guest] = {}
        """By VMID; changed by `put` and `drop` alone."""
        self.leases: dict[str, tuple[str, ...]] = {}
        """Addresses that the cluster's own IPAM gave out, by MAC in lower case."""
        self._uids: dict[str, set[int]] = {}
        self.nodes: dict[str, Node] = {}
        self.storages: dict[tuple[str, str], Storage] = {}
        """By node and name."""
        self.networks: dict[str, dict[str, str]] = {}
        """Per node: kind ("bridge", "vnet") of each network by its name."""

    def with_uid(self, uid: str) -> list[Guest]:
        """Guests whose stamp names this UID, whoever's it is."""
        return [self.guests[vmid] for vmid in sorted(self._uids.get(uid, ()))]

    def put(self, guest: Guest) -> None:
        """Have it known as it is now."""
        self.drop(guest.vmid)
        self.guests[guest.vmid] = guest
        if guest.stamp is not None:
            self._uids.setdefault(guest.stamp.uid, set()).add(guest.vmid)

    def drop(self, vmid: int) -> Guest | None:
        """Forget it; what was known of it."""
        guest = self.guests.pop(vmid, None)
        if guest is not None and guest.stamp is not None:
            vmids = self._uids[guest.stamp.uid]
            vmids.discard(vmid)
            if not vmids:
                del self._uids[guest.stamp.uid]
        return guest

    def with_smbios(self, uid: str) -> list[Guest]:
        """Guests without a stamp for it whose SMBIOS UUID is this UID: somebody else's, or copies."""
        return [
            guest for guest in self.guests.values() if f"uuid={uid}" in str(guest.config.get("smbios1", "")).lower()
        ]

    def on_node(self, node: str) -> Iterable[Guest]:
        """Guests of a node."""
        return (guest for guest in self.guests.values() if guest.node == node)
