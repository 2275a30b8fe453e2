"""Node and storages of a new guest: by what is free now, less what was promised to others and does not show yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from common import logging, v1
from common.clock import Clock
from common.errors import HostFullError, HypervisorUnavailableError, ProviderError, ResourceNotFoundError
from providerkit.violations import size

from provider_proxmox.config import disks, nics, properties, sizes
from provider_proxmox.config.making import Where
from provider_proxmox.images.source import Source
from provider_proxmox.session.index import Guest, Index, Node, Storage

log = logging.get(__name__)

IMAGES: Final = "images"
"""Content of a storage that takes disks."""
LAPSE: Final = 120.0
"""Seconds after the end of a making until what it was promised must show by itself."""
_THICK: Final = frozenset({"lvm", "iscsi", "iscsidirect"})
"""Kinds of storages that give a disk all of its room at once; others give it as it is written."""
_AFFINITY: Final = "placement.affinity["
_TOGETHER_BONUS: Final = 2.0
_STATE_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Wish:
    """What a new guest needs of its place."""

    uid: str
    label: str
    """For people: "shop/web"."""
    memory: int
    """In bytes."""
    cpus: int
    runs: bool
    """It shall be started, and then needs its memory."""
    host: str = ""
    """The node that it must be on."""
    nodes: frozenset[str] = frozenset()
    """Nodes that have what it is made from; empty means all."""
    datastore: str = ""
    """Storage of disks that name none."""
    new_disks: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Storage that it names, and bytes, of each disk that is to be made, by its name."""
    linked: str = ""
    """Storage of the template that its first disk stands on; empty for none."""
    volumes: frozenset[str] = frozenset()
    """Volumes that the node must reach: existing disks, media of drives."""
    bridges: frozenset[str] = frozenset()
    owner: str = ""
    namespace: str = ""
    affinity: tuple[v1.AffinityRule, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a new guest goes."""

    node: str
    disks: Mapping[str, Where]
    home: Where
    """For what is no disk."""


@dataclass
class _Promise:
    wish: Wish
    place: Place
    ended: float | None = None
    """When its making ended; None while it goes on."""


@dataclass(frozen=True)
class _Refusal:
    """Why a node does not do."""

    text: str
    full: bool = False
    away: bool = False


def wish_of(
    spec: v1.MachineSpec, sources: Mapping[str, Source], *, owner: str, default_storage: str, default_bridge: str
) -> Wish:
    """What the spec needs.

    Args:
        sources: of disks that are copies, by the disk's name.
    """
    identity, placement = spec.identity or v1.MachineIdentity(), spec.placement or v1.Placement()
    found: dict[str, tuple[str, int]] = {}
    for disk in spec.disks:
        if disk.existing is None:
            source = sources.get(disk.name)
            at_least = next(iter(source.disks.values()), 0) if source is not None else 0
            found[disk.name] = (disk.storage, max(disk.size_bytes, at_least))
    linked = next((source.storage for source in sources.values() if source.linked), "")
    limits = [source.nodes for source in sources.values() if source.nodes]
    nodes = frozenset.intersection(*limits) if limits else frozenset()
    volumes = {disk.existing.id for disk in spec.disks if disk.existing is not None}
    volumes |= {cdrom.medium for cdrom in spec.cdroms if cdrom.medium}
    bridges = {
        nics.bridge_of(nic.name, nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT), default_bridge)
        for nic in spec.nics
    }
    return Wish(
        uid=identity.uid,
        label=f"{identity.namespace}/{identity.name}",
        memory=spec.memory.size_bytes if spec.memory is not None else 0,
        cpus=(spec.cpu.count if spec.cpu is not None else 0) or 1,
        runs=spec.power is not None and spec.power.state is v1.PowerState.ON,
        host=placement.host,
        nodes=nodes,
        datastore=placement.datastore or default_storage,
        new_disks=found,
        linked=linked,
        volumes=frozenset(volumes),
        bridges=frozenset(bridges),
        owner=owner,
        namespace=identity.namespace,
        affinity=tuple(placement.affinity),
    )


class Places:
    """Chooses places, and remembers what it has promised."""

    def __init__(self, index: Index, clock: Clock, *, default_nodes: Iterable[str] = ()) -> None:
        """Args: default_nodes: those that a guest may be put on unless its spec names another; empty means all."""
        self._index = index
        self._clock = clock
        self._default_nodes = frozenset(default_nodes)
        self._promises: dict[str, _Promise] = {}

    @contextmanager
    def promised(self, wish: Wish, doing: str) -> Iterator[Place]:
        """The best place for it; what it takes there is taken into account for others until it shows.

        Raises:
            HostFullError: there is no room for it anywhere.
            ResourceNotFoundError: no node has all that it needs; the message says what each one lacks.
            HypervisorUnavailableError: only nodes that do not answer could have it.
        """
        self._forget_what_shows()
        self._promises.pop(wish.uid, None)  # an earlier attempt's
        promise = _Promise(wish, self._choose(wish, doing))
        self._promises[wish.uid] = promise
        log.info("proxmox.place.chosen", uid=wish.uid, node=promise.place.node)
        try:
            yield promise.place
        except BaseException:
            self._promises.pop(wish.uid, None)
            raise
        promise.ended = self._clock.monotonic()

    def is_full(self, wish: Wish) -> bool:
        """Whether nothing but room is missing for it; `promised` says where."""
        self._forget_what_shows()
        self._promises.pop(wish.uid, None)
        try:
            self._choose(wish, wish.label)
        except HostFullError:
            return True
        except (ResourceNotFoundError, HypervisorUnavailableError):
            return False
        return False

    # -- the node --------------------------------------------------------------------------------------------------

    def _choose(self, wish: Wish, doing: str) -> Place:
        refusals: dict[str, _Refusal] = {}
        best: tuple[float, str] | None = None
        for node in self._candidates(wish, doing):
            refusal = self._refusal(wish, node)
            if refusal is not None:
                refusals[node.name] = refusal
                continue
            rank = (self._score(wish, node), node.name)
            best = rank if best is None else max(best, rank)
        if best is None:
            raise _nowhere(doing, refusals)
        return self._at(wish, best[1])

    def _candidates(self, wish: Wish, doing: str) -> list[Node]:
        """Raises: ResourceNotFoundError: the node that is asked for is not there."""
        nodes = self._index.nodes
        if wish.host:
            if wish.host not in nodes:
                raise ResourceNotFoundError(
                    f"{doing}: placement.host {wish.host}: there is no such node, only {', '.join(sorted(nodes))}"
                )
            return [nodes[wish.host]]
        if not nodes:
            raise HypervisorUnavailableError(f"{doing}: no node of the cluster is known yet")
        found = [node for node in nodes.values() if not self._default_nodes or node.name in self._default_nodes]
        if not found:
            wanted = ", ".join(sorted(self._default_nodes))
            raise ResourceNotFoundError(f"{doing}: default_nodes: none of {wanted} is a node of the cluster")
        return found

    def _refusal(self, wish: Wish, node: Node) -> _Refusal | None:
        if not node.online:
            return _Refusal("is offline", away=True)
        if wish.nodes and node.name not in wish.nodes and not wish.host:
            return _Refusal("does not reach what it is made from")
        for check in (self._lacks_storage, self._lacks_network, self._lacks_room, self._breaks_rule):
            refusal = check(wish, node)
            if refusal is not None:
                return refusal
        return None

    def _lacks_room(self, wish: Wish, node: Node) -> _Refusal | None:
        if node.cpus and wish.cpus > node.cpus:
            return _Refusal(f"has {node.cpus} CPUs, {wish.cpus} asked for", full=True)
        if not node.memory_bytes:
            return None  # it does not tell
        free = self._free_memory(node) if wish.runs else node.memory_bytes
        if wish.memory > free:
            return _Refusal(f"has {size(max(free, 0))} of memory free, {size(wish.memory)} asked for", full=True)
        return None

    def _lacks_network(self, wish: Wish, node: Node) -> _Refusal | None:
        known = self._index.networks.get(node.name)
        missing = sorted(wish.bridges - set(known)) if known else []
        if not missing:
            return None
        return _Refusal(f"has no network {', '.join(missing)}, only {', '.join(sorted(known or ()))}")

    def _breaks_rule(self, wish: Wish, node: Node) -> _Refusal | None:
        for rule in wish.affinity:
            where = self._members(wish, rule.name)
            if rule.required and where and (node.name in where) is rule.apart:
                how = "runs a machine that it must not be with" if rule.apart else "runs none that it must be with"
                return _Refusal(f"{how}: rule {rule.name}")
        return None

    def _score(self, wish: Wish, node: Node) -> float:
        """The part of memory or CPU that is left afterwards, whichever is less; wishes of affinity count for more."""
        memory = (self._free_memory(node) - wish.memory) / node.memory_bytes if node.memory_bytes else 0.0
        busy = node.cpus * node.cpu_load + self._promised_cpus(node.name) + wish.cpus
        score = min(memory, 1 - busy / node.cpus) if node.cpus else memory
        for rule in wish.affinity:
            where = self._members(wish, rule.name)
            if where and (node.name in where) is not rule.apart:
                score += _TOGETHER_BONUS
        return score

    def _free_memory(self, node: Node) -> int:
        """What neither runs there nor was promised; a guest counts in full, whatever it has touched of it."""
        running = sum(memory_of(guest) for guest in self._index.on_node(node.name) if guest.status == "running")
        promised = sum(each.wish.memory for each in self._on(node.name))
        return node.memory_bytes - max(node.memory_used_bytes, running) - promised

    def _promised_cpus(self, node: str) -> int:
        return sum(promise.wish.cpus for promise in self._on(node))

    def _on(self, node: str) -> list[_Promise]:
        return [promise for promise in self._promises.values() if promise.place.node == node]

    def _members(self, wish: Wish, rule: str) -> set[str]:
        """Nodes of the other machines that name this rule."""
        key = f"{_AFFINITY}{rule}]"
        found = set()
        for guest in self._index.guests.values():
            mark = guest.stamp
            if mark is None or mark.uid == wish.uid or (mark.owner, mark.namespace) != (wish.owner, wish.namespace):
                continue
            if key in mark.settings:
                found.add(guest.node)
        for promise in self._promises.values():
            other = promise.wish
            same = (other.owner, other.namespace) == (wish.owner, wish.namespace) and other.uid != wish.uid
            if same and any(each.name == rule for each in other.affinity):
                found.add(promise.place.node)
        return found

    def _forget_what_shows(self) -> None:
        """A guest that runs is counted as such; after a while everything else shows as well."""
        now = self._clock.monotonic()
        for uid, promise in list(self._promises.items()):
            lapsed = promise.ended is not None and now - promise.ended > LAPSE
            runs = any(guest.status == "running" for guest in self._index.with_uid(uid))
            if lapsed or (promise.ended is not None and runs):
                del self._promises[uid]

    # -- storages --------------------------------------------------------------------------------------------------

    def for_disk(self, node: str, storage: str, disk: v1.DiskSpec, doing: str) -> Where:
        """Where one more disk of a machine on this node is made.

        Args:
            storage: empty takes the one with most room.
        Raises:
            ResourceNotFoundError, HostFullError, HypervisorUnavailableError: says what is wrong with it.
        """
        try:
            if storage:
                there = self._reached(node, storage, f"disk {disk.name} asks for", IMAGES)
            else:
                there = self._roomiest(node, disk.size_bytes)
            self._has_room(there, disk.size_bytes, f"disk {disk.name}")
        except ProviderError as error:
            raise type(error)(f"{doing}: node {node}: {error}") from error
        return Where(there.name, disks.format_on(there.kind))

    def _lacks_storage(self, wish: Wish, node: Node) -> _Refusal | None:
        try:
            self._at(wish, node.name)
        except ResourceNotFoundError as error:
            return _Refusal(str(error))
        except HostFullError as error:
            return _Refusal(str(error), full=True)
        except HypervisorUnavailableError as error:
            return _Refusal(str(error), away=True)
        return None

    def _at(self, wish: Wish, node: str) -> Place:
        """Storages on this node.

        Raises:
            ResourceNotFoundError, HostFullError, HypervisorUnavailableError: says what is wrong with them.
        """
        for volume in sorted(wish.volumes):
            self._reached(node, disks.storage_of(volume), f"volume {volume} is on")
        taken: dict[str, int] = {}
        found: dict[str, Where] = {}
        roomiest = ""
        for index, (name, (asked, needed)) in enumerate(wish.new_disks.items()):
            storage = asked or wish.datastore
            if index == 0 and wish.linked and not asked:
                storage = wish.linked
            elif not storage:
                roomiest = storage = roomiest or self._roomiest(node, sum(b for _, b in wish.new_disks.values())).name
            there = self._reached(node, storage, f"disk {name} asks for", IMAGES)
            taken[storage] = taken.get(storage, 0) + needed
            self._has_room(there, taken[storage], f"disk {name}")
            found[name] = Where(storage, disks.format_on(there.kind))
        home = next(iter(found.values()), None)
        if home is None:
            named = wish.datastore
            there = self._reached(node, named, "placement", IMAGES) if named else self._roomiest(node, _STATE_BYTES)
            home = Where(there.name, disks.format_on(there.kind))
        return Place(node, found, home)

    def _reached(self, node: str, name: str, who: str, content: str = "") -> Storage:
        storage = self._index.storages.get((node, name))
        takes = [each.name for each in self._of_node(node) if not content or content in each.content]
        if storage is None:
            raise ResourceNotFoundError(f"{who} storage {name or '(none)'}, which it lacks; it has {', '.join(takes)}")
        if not storage.active:
            raise HypervisorUnavailableError(f"{who} storage {name}, which is not active")
        if content and content not in storage.content:
            raise ResourceNotFoundError(
                f"{who} storage {name}, which takes no disks (content {content}); {', '.join(takes) or 'none'} does"
            )
        return storage

    def _roomiest(self, node: str, needed: int) -> Storage:
        """The storage with most room left; a shared one before others, since its guests can move."""
        found = [each for each in self._of_node(node) if each.active and IMAGES in each.content]
        if not found:
            raise ResourceNotFoundError("has no active storage that takes disks (content images)")
        fitting = [each for each in found if self._limit(each) >= needed]
        return max(fitting or found, key=lambda each: (self._free(each), each.shared, each.name))

    def _of_node(self, node: str) -> list[Storage]:
        return sorted((each for each in self._index.storages.values() if each.node == node), key=lambda each: each.name)

    def _has_room(self, storage: Storage, needed: int, who: str) -> None:
        limit = self._limit(storage)
        if storage.capacity_bytes and needed > limit:
            raise HostFullError(
                f"{who}: {size(needed)} asked for, storage {storage.name} has {size(max(limit, 0))} left"
            )

    def _limit(self, storage: Storage) -> int:
        """The largest disk that can be filled there one day."""
        return self._free(storage) if storage.kind in _THICK else storage.capacity_bytes

    def _free(self, storage: Storage) -> int:
        promised = 0
        for promise in self._promises.values():
            if storage.shared or promise.place.node == storage.node:
                for name, (_, needed) in promise.wish.new_disks.items():
                    promised += needed if promise.place.disks[name].storage == storage.name else 0
        return storage.free_bytes - promised


def memory_of(guest: Guest) -> int:
    """Bytes that its configuration gives it."""
    text = properties.parse(guest.config.get("memory", ""))
    number = text.head or text.get("current")
    return int(number) * sizes.MIB if number.isdigit() else 0


def _nowhere(doing: str, refusals: Mapping[str, _Refusal]) -> Exception:
    why = "; ".join(f"{node} {refusal.text}" for node, refusal in sorted(refusals.items()))
    message = f"{doing}: no node can have it: {why}"
    if any(refusal.full for refusal in refusals.values()):
        return HostFullError(message)
    if any(refusal.away for refusal in refusals.values()):
        return HypervisorUnavailableError(message)
    return ResourceNotFoundError(message)
