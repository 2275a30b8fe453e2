"""The cluster as a whole."""

from __future__ import annotations

from typing import Any

from simulators.proxmox.calls import Call, route
from simulators.proxmox.errors import bad, refused
from simulators.proxmox.world import World

from .nodes import VERSION, node_row

LOWEST, HIGHEST = 100, 999_999_999


@route("GET", "/version")
async def version(call: Call) -> object:
    return VERSION


@route("GET", "/cluster/status")
async def cluster_status(call: Call) -> object:
    call.require("/", "Sys.Audit")
    world = call.world
    nodes = [
        {
            "id": f"node/{node.name}",
            "type": "node",
            "name": node.name,
            "nodeid": place,
            "ip": node.address,
            "online": int(node.online),
            "local": int(place == 1),
            "level": "",
        }
        for place, node in enumerate(world.nodes.values(), 1)
    ]
    quorate = sum(node.online for node in world.nodes.values()) * 2 > len(world.nodes)
    if len(nodes) == 1:
        return [nodes[0] | {"nodeid": 0}]
    cluster: dict[str, Any] = {"id": "cluster", "type": "cluster", "name": world.name, "version": len(nodes)}
    return [cluster | {"nodes": len(nodes), "quorate": int(quorate)}, *nodes]


@route("GET", "/cluster/log")
async def cluster_log(call: Call) -> object:
    """The newest lines first; those of others for auditors of the whole. The API schema at hand leaves it out."""
    everything = call.may("/", "Sys.Syslog")
    lines = [line for line in reversed(call.world.log) if everything or line["user"] == call.who.name]
    return lines[: call.number("max") if call.has("max") else 50]


@route("GET", "/cluster/nextid")
async def nextid(call: Call) -> object:
    """The lowest free VMID; nothing is reserved."""
    world = call.world
    if call.has("vmid"):
        wanted = call.text("vmid")
        if not wanted.isdecimal() or wanted.startswith("0") or not LOWEST <= int(wanted) <= HIGHEST:
            raise bad(vmid="invalid format - value does not look like a valid VM ID\n")
        if int(wanted) in world.guests:
            raise bad(vmid=f"VM {wanted} already exists")
        return wanted
    for vmid in range(LOWEST, HIGHEST + 1):
        if vmid not in world.guests:
            return str(vmid)
    raise refused("unable to get any free VMID")


@route("GET", "/cluster/resources")
async def resources(call: Call) -> object:
    """Everything the caller may see; guests lag behind, see `board.py`."""
    kinds = {"vm", "storage", "node", "sdn"}
    wanted = call.text("type")
    if wanted and wanted not in kinds:
        names = "vm, storage, node, sdn"
        raise bad(type=f"value '{wanted}' does not have a value in the enumeration '{names}'")
    shown = {wanted} if wanted else kinds
    rows: list[dict[str, Any]] = []
    if "vm" in shown:
        rows += _guests(call)
    if "node" in shown:
        rows += [row if call.may(f"/nodes/{row['node']}", "Sys.Audit") else _blank(row) for row in _nodes(call.world)]
    if "storage" in shown:
        rows += _storages(call)
    if "sdn" in shown:
        rows += [
            {
                "id": f"network/{name}/zone/localnetwork",
                "type": "network",
                "network": "localnetwork",
                "network-type": "zone",
                "node": name,
                "status": "ok",
            }
            for name in call.world.nodes
            if call.may("/sdn/zones/localnetwork", "SDN.Audit")
        ]
    return rows


def _guests(call: Call) -> list[dict[str, Any]]:
    board = call.world.board
    seen = call.may("/vms", "VM.Audit") and not any(g.path.startswith("/vms/") for g in call.world.access.grants)
    return [
        board.guest(guest)
        for guest in list(call.world.guests.values())
        if seen or call.may(f"/vms/{guest.vmid}", "VM.Audit")
    ]


def _nodes(world: World) -> list[dict[str, Any]]:
    return [node_row(world, node) for node in world.nodes.values()]


def _blank(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "node", "type", "status", "level")}


def _storages(call: Call) -> list[dict[str, Any]]:
    return [
        {
            "id": f"storage/{node.name}/{storage.name}",
            "type": "storage",
            "storage": storage.name,
            "node": node.name,
            "plugintype": storage.kind,
            "content": ",".join(sorted(storage.content)),
            "shared": int(storage.shared),
            "status": "available" if node.online else "unknown",
            "maxdisk": storage.total,
            "disk": storage.used(node.name),
        }
        for node in call.world.nodes.values()
        for storage in call.world.storages.values()
        if storage.there(node.name)
        and storage.enabled
        and call.may(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace")
    ]
