"""The hosts of the cluster."""

from __future__ import annotations

import time
from typing import Any

from simulators.proxmox.board import cpus
from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.errors import bad
from simulators.proxmox.guests import memory_used
from simulators.proxmox.world import Node, World

RELEASE = "9.2"
VERSION = {"release": RELEASE, "version": "9.2.11", "repoid": "14a22df3"}


def cpu_used(world: World, node: Node) -> float:
    """The share of the host's processors that are busy."""
    busy = sum(cpus(guest.config) for guest in world.on(node.name) if guest.run)
    return min(1.0, node.cpu_load + 0.02 * busy / node.cpus)


def node_row(world: World, node: Node) -> dict[str, Any]:
    """A host as lists tell it."""
    row: dict[str, Any] = {"id": f"node/{node.name}", "node": node.name, "type": "node", "level": ""}
    if not node.online:
        return row | {"status": "offline"}
    return row | {
        "status": "online",
        "cpu": cpu_used(world, node),
        "maxcpu": node.cpus,
        "mem": memory_used(world, node.name),
        "maxmem": node.memory,
        "disk": node.disk // 4,
        "maxdisk": node.disk,
        "uptime": int(time.time() - node.started),
        "cgroup-mode": 2,
    }


@route("GET", "/nodes")
async def nodes(call: Call) -> object:
    """Every login sees the names; figures need Sys.Audit."""
    shown = []
    for node in call.world.nodes.values():
        row = node_row(call.world, node) | {"ssl_fingerprint": call.pve.fingerprint}
        row.pop("cgroup-mode", None)
        if not call.may(f"/nodes/{node.name}", "Sys.Audit"):
            row = {key: row[key] for key in ("id", "node", "type", "level", "status", "ssl_fingerprint")}
        shown.append(row)
    return shown


@route("GET", "/nodes/{node}")
async def index(call: Call) -> object:
    return indexed("qemu", "storage", "tasks", "network", "status", "version", "query-url-metadata")


@route("GET", "/nodes/{node}/version")
async def version(call: Call) -> object:
    return VERSION


@route("GET", "/nodes/{node}/status", allowed=at("/nodes/{node}", "Sys.Audit"))
async def status(call: Call) -> object:
    node = call.host
    used, disk = memory_used(call.world, node.name), node.disk
    return {
        "cpu": cpu_used(call.world, node),
        "wait": 0,
        "idle": 0,
        "uptime": int(time.time() - node.started),
        "loadavg": ["0.10", "0.10", "0.10"],
        "memory": {"total": node.memory, "used": used, "free": node.memory - used, "available": node.memory - used},
        "swap": {"total": 0, "used": 0, "free": 0},
        "ksm": {"shared": 0},
        "rootfs": {"total": disk, "used": disk // 4, "free": disk * 3 // 4, "avail": disk * 3 // 4},
        "cpuinfo": {"cpus": node.cpus, "cores": node.cpus // 2, "sockets": 1, "model": "Simulated", "mhz": "3000.000"},
        "kversion": "Linux 6.17.2-1-pve",
        "current-kernel": {"sysname": "Linux", "release": "6.17.2-1-pve", "machine": "x86_64", "version": "#1 SMP"},
        "boot-info": {"mode": "efi", "secureboot": 0},
        "pveversion": "pve-manager/9.2.11/14a22df3",
    }


MANUAL = {"method": "manual", "method6": "manual"}
NIC = {"iface": "eth0", "type": "eth", "exists": 1, "active": 1, "families": ["inet"]} | MANUAL
BRIDGES = frozenset({"bridge", "any_bridge", "any_local_bridge", "include_sdn", ""})
VNETS = frozenset({"vnet", "any_bridge", "include_sdn"})


@route("GET", "/nodes/{node}/network")
async def network(call: Call) -> object:
    """What there is of a type; bridges and virtual networks for those who may use them."""
    wanted, world = call.text("type"), call.world
    rows: list[dict[str, Any]] = [NIC] if wanted in ("eth", "include_sdn", "") else []
    if wanted in BRIDGES:
        rows += [interface(name) for name in sorted(call.host.bridges) if usable(call, name)]
    if wanted in VNETS:
        rows += [
            {"iface": name, "type": "vnet", "active": 1, "families": ["inet"]} | MANUAL
            for name in sorted(world.vnets)
            if usable(call, name)
        ]
    return rows


def usable(call: Call, name: str) -> bool:
    return call.may(call.world.network_path(name), "SDN.Audit", "SDN.Use") or call.may("/", "Sys.Audit")


@route("GET", "/nodes/{node}/network/{iface}", allowed=at("/nodes/{node}", "Sys.Audit"))
async def one_network(call: Call) -> object:
    name = call.path["iface"]
    if name not in call.host.bridges:
        raise bad(iface="interface does not exist")
    row = interface(name)
    return {key: value for key, value in row.items() if key not in ("iface", "active")}


def interface(name: str) -> dict[str, Any]:
    """A bridge as the node tells it."""
    return {
        "iface": name,
        "type": "bridge",
        "active": 1,
        "autostart": 1,
        "bridge_ports": "",
        "bridge_stp": "off",
        "bridge_fd": "0",
        "bridge_vlan_aware": 1,
        "families": ["inet"],
        "priority": 3,
        **MANUAL,
    }
