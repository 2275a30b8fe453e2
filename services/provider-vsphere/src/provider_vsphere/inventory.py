"""What vSphere has, read from the tree: no call at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from common import v1

from provider_vsphere.session.tree import Entity, Tree

NETWORKS = ("Network", "DistributedVirtualPortgroup", "OpaqueNetwork")
"""Kinds that a NIC can be plugged into."""


def inventory(tree: Tree) -> v1.GetInventoryResponse:
    """Hosts, storages and networks, each by name; those that share one go by their inventory paths."""
    hosts = list(_named(tree, "HostSystem"))
    used = memory_used(tree)
    plugged = {moid for _, host in hosts if ready(host) for moid in host.facts.get("network") or ()}
    return v1.GetInventoryResponse(
        hosts=[_host(tree, entity, name, used[entity.moid]) for name, entity in hosts],
        storages=[_storage(entity, name, hosts) for name, entity in _named(tree, "Datastore")],
        networks=[_network(entity, name, entity.moid in plugged) for name, entity in _named(tree, *NETWORKS)],
    )


def _named(tree: Tree, *kinds: str) -> Iterator[tuple[str, Entity]]:
    """Entities of these kinds in the order of their names. Ports towards a switch's uplinks are none for machines."""
    found = [entity for entity in tree.of_kind(*kinds) if entity.name and not entity.facts.get("config.uplink")]
    count = Counter(entity.name for entity in found)
    named = [(entity.name if count[entity.name] == 1 else tree.path(entity), entity) for entity in found]
    yield from sorted(named, key=lambda pair: (pair[0], pair[1].moid))


def ready(host: Entity) -> bool:
    """It takes machines."""
    return host.facts.get("runtime.connectionState") == "connected" and not host.facts.get("runtime.inMaintenanceMode")


def _host(tree: Tree, host: Entity, name: str, memory_used: int) -> v1.Host:
    facts, above = host.facts, tree.get(host.parent)
    return v1.Host(
        name=name,
        cluster=above.name if above is not None and above.kind == "ClusterComputeResource" else "",
        ready=ready(host),
        cpu_model=facts.get("summary.hardware.cpuModel") or "",
        cpus=facts.get("summary.hardware.numCpuThreads") or 0,
        memory_bytes=facts.get("summary.hardware.memorySize") or 0,
        memory_used_bytes=memory_used,
        virtualization="esxi",
    )


def memory_used(tree: Tree) -> Counter[str]:
    """Bytes by host: what the machines that run on it are configured with."""
    used: Counter[str] = Counter()
    for machine in tree.of_kind("VirtualMachine"):
        if machine.facts.get("runtime.powerState") == "poweredOn":
            used[machine.facts.get("runtime.host") or ""] += (machine.facts.get("config.hardware.memoryMB") or 0) << 20
    return used


def _storage(storage: Entity, name: str, hosts: list[tuple[str, Entity]]) -> v1.Storage:
    facts = storage.facts
    reached = [host for host, entity in hosts if storage.moid in (entity.facts.get("datastore") or ())]
    in_service = facts.get("summary.maintenanceMode") in (None, "normal")
    return v1.Storage(
        name=name,
        kind=facts.get("summary.type") or "",
        capacity_bytes=facts.get("summary.capacity") or 0,
        free_bytes=facts.get("summary.freeSpace") or 0,
        ready=bool(facts.get("summary.accessible")) and in_service and bool(reached),
        hosts=reached if len(reached) < len(hosts) else [],
    )


def _network(network: Entity, name: str, ready: bool) -> v1.Network:
    distributed = network.kind == "DistributedVirtualPortgroup"
    return v1.Network(name=name, kind=v1.NetworkKind.DISTRIBUTED if distributed else v1.NetworkKind.NAMED, ready=ready)
