"""What the hypervisor has, in a bounded number of calls; blocking."""

from __future__ import annotations

import contextlib

import libvirt
from common import v1

from provider_libvirt.host import Host
from provider_libvirt.reading import parse


def take(connection: libvirt.virConnect, host: Host) -> v1.GetInventoryResponse:
    """Hosts, storages and networks, each by name."""
    return v1.GetInventoryResponse(
        hosts=[_host(connection, host)],
        storages=sorted(_storages(connection), key=lambda storage: storage.name),
        networks=sorted(_networks(connection, host), key=lambda network: network.name),
    )


def _host(connection: libvirt.virConnect, host: Host) -> v1.Host:
    model, memory_mib, cpus = connection.getInfo()[:3]
    used = 0
    for _, stats in connection.getAllDomainStats(0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE):
        used += int(stats.get("balloon.current", 0)) * 1024
    return v1.Host(
        name=host.hostname,
        ready=True,
        cpu_model=model,
        cpus=cpus,
        memory_bytes=memory_mib << 20,
        memory_used_bytes=used,
        virtualization=host.virtualization,
    )


def _storages(connection: libvirt.virConnect) -> list[v1.Storage]:
    storages = []
    for pool in connection.listAllStoragePools(0):
        with contextlib.suppress(libvirt.libvirtError):  # undefined since the list was made
            state, capacity, _, free = pool.info()
            storages.append(
                v1.Storage(
                    name=pool.name(),
                    kind=parse(pool.XMLDesc(0)).get("type", ""),
                    capacity_bytes=capacity,
                    free_bytes=free,
                    ready=state == libvirt.VIR_STORAGE_POOL_RUNNING,
                )
            )
    return storages


def _networks(connection: libvirt.virConnect, host: Host) -> list[v1.Network]:
    if host.session:
        return [v1.Network(name="user", kind=v1.NetworkKind.NAT, ready=True)]
    networks = []
    with contextlib.suppress(libvirt.libvirtError):  # a driver without networks
        for network in connection.listAllNetworks(0):
            networks.append(v1.Network(name=network.name(), kind=v1.NetworkKind.NAMED, ready=bool(network.isActive())))
    return networks
