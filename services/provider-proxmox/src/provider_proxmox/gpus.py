"""Devices of the nodes that machines are given: known by the name of a PCI mapping, which says what each node has."""

from __future__ import annotations

from collections import Counter

from common import v1
from common.errors import HostFullError

from provider_proxmox.config import hardware, properties
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve


async def nodes_with(pve: Pve, spec: v1.MachineSpec, doing: str) -> frozenset[str]:
    """Nodes that have as many devices left as the spec asks for; empty when it asks for none.

    Proxmox VE itself looks only when the machine starts.

    Raises:
        ResourceNotFoundError: there is no such mapping.
        HostFullError: no node has so many that no guest is to have already.
    """
    wanted = Counter[str]()
    for value in hardware.gpus(spec).values():
        wanted[properties.parse(value).get("mapping")] += 1
    uid = spec.identity.uid if spec.identity is not None else ""
    found = {node.name for node in pve.index.nodes.values()}
    for name, count in wanted.items():
        told = await pve.get(doing, f"cluster/mapping/pci/{name}")
        left = Counter(properties.parse(entry).get("node") for entry in told.get("map") or ())
        for guest in pve.index.guests.values():
            if guest.stamp is None or guest.stamp.uid != uid:
                left[guest.node] -= given(guest, name)
        found &= {node for node, devices in left.items() if devices >= count}
        if not found:
            rest = ", ".join(f"{node} {max(devices, 0)}" for node, devices in sorted(left.items()))
            raise HostFullError(f"{doing}: {count} devices {name} asked for, free are: {rest or 'none'}")
    return frozenset(found) if wanted else frozenset()


def given(guest: Guest, mapping: str) -> int:
    """Devices of this mapping that a guest is to have, running or not."""
    devices = (value for key, value in guest.config.items() if key.startswith("hostpci"))
    return sum(properties.parse(value).get("mapping") == mapping for value in devices)
