"""What cluster/resources shows: partly true at once, partly as pvestatd saw it in its last round."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .strings import disk_size, number

if TYPE_CHECKING:
    from .world import Guest, World


@dataclass(frozen=True)
class Reported:
    """One guest in the last round of its node."""

    name: str
    status: str
    template: int
    uptime: int
    cpus: int
    maxmem: int
    maxdisk: int
    mem: int
    cpu: float


class Board:
    """Every node writes it once a round; a VMID that is used again keeps what stands there until the next round."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._guests: dict[int, Reported] = {}

    async def run(self) -> None:
        """Keep writing, one node after the other within a round."""
        while True:
            for node in list(self._world.nodes.values()):
                await self._world.pace.spend(self._world.pace.refresh / len(self._world.nodes))
                if node.online:
                    self.report(node.name)

    def report(self, node: str) -> None:
        """A round of one node."""
        for guest in self._world.on(node):
            self._guests[guest.vmid] = reported(guest)
        for vmid in [vmid for vmid in self._guests if vmid not in self._world.guests]:
            del self._guests[vmid]

    def report_all(self) -> None:
        """A round of every node, now."""
        for node in self._world.nodes:
            self.report(node)

    def guest(self, guest: Guest) -> dict[str, Any]:
        """The row of a guest."""
        row: dict[str, Any] = {"id": f"qemu/{guest.vmid}", "type": "qemu", "vmid": guest.vmid, "node": guest.node}
        if pool := self._world.pool_of(guest.vmid):
            row["pool"] = pool
        if guest.lock:
            row["lock"] = guest.lock
        if tags := guest.config.get("tags"):
            row["tags"] = tags
        if (ha := self._world.ha.get(f"vm:{guest.vmid}")) is not None:
            row["hastate"] = ha.get("state", "started")
        seen = self._guests.get(guest.vmid)
        if seen is None or not self._world.nodes[guest.node].online:
            return row | {"status": "unknown"}
        return row | {
            "name": seen.name,
            "status": seen.status,
            "template": seen.template,
            "uptime": seen.uptime,
            "maxcpu": seen.cpus,
            "cpu": seen.cpu,
            "maxmem": seen.maxmem,
            "mem": seen.mem,
            "memhost": seen.mem,
            "maxdisk": seen.maxdisk,
            "disk": 0,
            "netin": 0,
            "netout": 0,
            "diskread": 0,
            "diskwrite": 0,
        }


def reported(guest: Guest) -> Reported:
    """What a round notes of a guest."""
    running = guest.run
    config = guest.config
    memory = number(config.get("memory", "512")) << 20
    return Reported(
        name=guest.name,
        status=guest.status,
        template=int(guest.template),
        uptime=int(time.time() - running.since) if running else 0,
        cpus=cpus(config),
        maxmem=memory,
        maxdisk=disk_size(guest.config),
        mem=memory // 4 if running else 0,
        cpu=0.01 if running else 0,
    )


def cpus(config: dict[str, str]) -> int:
    """Virtual CPUs that a guest starts with."""
    full = number(config.get("sockets", "1")) * number(config.get("cores", "1"))
    return number(config.get("vcpus", "0")) or full
