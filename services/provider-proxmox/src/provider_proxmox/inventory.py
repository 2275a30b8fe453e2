"""What the cluster has, read from the index: no call at all."""

from __future__ import annotations

from collections import Counter

from common import v1

from provider_proxmox.placing import memory_of
from provider_proxmox.session.index import Index, Storage


def inventory(index: Index) -> v1.GetInventoryResponse:
    """Nodes, storages and networks. A storage that is not shared is another one on each node, of the same name."""
    used = memory_used(index)
    return v1.GetInventoryResponse(
        hosts=[
            v1.Host(
                name=node.name,
                ready=node.online,
                cpus=node.cpus,
                memory_bytes=node.memory_bytes,
                memory_used_bytes=used[node.name],
                virtualization="kvm",
            )
            for node in sorted(index.nodes.values(), key=lambda node: node.name)
        ],
        storages=_storages(index),
        networks=_networks(index),
    )


def memory_used(index: Index) -> Counter[str]:
    """Bytes by node: what the guests that run on it are configured with."""
    used: Counter[str] = Counter()
    for guest in index.guests.values():
        if guest.status == "running":
            used[guest.node] += memory_of(guest)
    return used


def _storages(index: Index) -> list[v1.Storage]:
    shared: dict[str, list[Storage]] = {}
    found: list[v1.Storage] = []
    for storage in sorted(index.storages.values(), key=lambda storage: (storage.name, storage.node)):
        if storage.shared:
            shared.setdefault(storage.name, []).append(storage)
        else:
            found.append(_storage([storage], index))
    found += [_storage(each, index) for each in shared.values()]
    return sorted(found, key=lambda storage: (storage.name, storage.hosts))


def _storage(each: list[Storage], index: Index) -> v1.Storage:
    """One storage, as these nodes see it."""
    ready = [storage for storage in each if storage.active and _is_online(storage.node, index)]
    best = (ready or each)[0]
    hosts = [storage.node for storage in each]
    return v1.Storage(
        name=best.name,
        kind=best.kind,
        capacity_bytes=best.capacity_bytes,
        free_bytes=best.free_bytes,
        ready=bool(ready),
        hosts=hosts if len(hosts) < len(index.nodes) else [],
    )


def _networks(index: Index) -> list[v1.Network]:
    """Bridges of nodes, and vnets of the cluster."""
    kinds = {name: kind for networks in index.networks.values() for name, kind in networks.items()}
    ready = {name for node, networks in index.networks.items() if _is_online(node, index) for name in networks}
    return [
        v1.Network(
            name=name,
            kind=v1.NetworkKind.NAMED if kind == "vnet" else v1.NetworkKind.BRIDGE,
            ready=name in ready,
        )
        for name, kind in sorted(kinds.items())
    ]


def _is_online(node: str, index: Index) -> bool:
    return node in index.nodes and index.nodes[node].online
