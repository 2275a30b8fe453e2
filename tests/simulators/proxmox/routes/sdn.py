"""Networks that the cluster defines: zones and their virtual networks. The API schema at hand leaves them out."""

from __future__ import annotations

from typing import Any

from simulators.proxmox.calls import Call, route
from simulators.proxmox.errors import refused
from simulators.proxmox.world import LOCAL_ZONE, Vnet


def row(name: str, vnet: Vnet) -> dict[str, Any]:
    """A virtual network as the API tells it."""
    return {"vnet": name, "zone": vnet.zone, "type": "vnet"} | ({"tag": vnet.tag} if vnet.tag else {})


@route("GET", "/cluster/sdn/zones")
async def zones(call: Call) -> object:
    names = sorted({vnet.zone for vnet in call.world.vnets.values()})
    seen = [name for name in names if call.may(f"/sdn/zones/{name}", "SDN.Audit", "SDN.Allocate")]
    return [{"zone": name, "type": "simple"} for name in seen]


@route("GET", "/cluster/sdn/vnets")
async def vnets(call: Call) -> object:
    return [
        row(name, vnet)
        for name, vnet in sorted(call.world.vnets.items())
        if call.may(f"/sdn/zones/{vnet.zone}/{name}", "SDN.Audit", "SDN.Allocate")
    ]


@route("POST", "/cluster/sdn/vnets")
async def create(call: Call) -> object:
    """It is there at once; the real one waits for the changes to be applied."""
    call.required("vnet", "zone")
    name, zone = call.text("vnet"), call.text("zone")
    call.require(f"/sdn/zones/{zone}", "SDN.Allocate")
    if name in call.world.vnets:
        raise refused(f"create sdn vnet object failed: sdn vnet object ID '{name}' already defined")
    call.world.vnets[name] = Vnet(zone, call.number("tag"))
    return None


@route("DELETE", "/cluster/sdn/vnets/{vnet}")
async def delete(call: Call) -> object:
    name = call.path["vnet"]
    if name not in call.world.vnets:
        raise refused(f"sdn '{name}' does not exist")
    call.require(f"/sdn/zones/{call.world.vnets[name].zone}", "SDN.Allocate")
    del call.world.vnets[name]
    return None


@route("GET", "/cluster/sdn/ipams/{ipam}/status")
async def leases(call: Call) -> object:
    """Addresses that the cluster's own IPAM gave out; only that one can be asked."""
    if call.path["ipam"] != "pve":
        raise refused("Currently only PVE IPAM is supported!")
    return [{"ip": address, "mac": mac, "vnet": vnet} for mac, (vnet, address) in call.world.leases.items()]


@route("GET", "/nodes/{node}/sdn/zones")
async def node_zones(call: Call) -> object:
    names = sorted({LOCAL_ZONE, *(vnet.zone for vnet in call.world.vnets.values())})
    seen = [name for name in names if call.may(f"/sdn/zones/{name}", "SDN.Audit", "SDN.Use")]
    return [{"zone": name, "status": "available"} for name in seen]


@route("GET", "/nodes/{node}/sdn/zones/{zone}/content")
async def zone_content(call: Call) -> object:
    """The networks that a guest may join here."""
    zone, world = call.path["zone"], call.world
    there = {name for name, vnet in world.vnets.items() if vnet.zone == zone}
    names = sorted(call.host.bridges if zone == LOCAL_ZONE else there)
    return [
        {"vnet": name, "status": "available"}
        for name in names
        if call.may(f"/sdn/zones/{zone}/{name}", "SDN.Audit", "SDN.Use")
    ]
