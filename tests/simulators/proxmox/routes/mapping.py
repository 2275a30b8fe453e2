"""Devices of hosts under a name for the whole cluster. The API schema at hand leaves them out."""

from __future__ import annotations

from typing import Any

from simulators.proxmox.calls import Call, indexed, route
from simulators.proxmox.errors import refused
from simulators.proxmox.strings import parse

KINDS = ("pci", "usb", "dir")


def entries(call: Call) -> dict[str, dict[str, Any]]:
    """The mappings of the kind in the path."""
    kind = call.path["kind"]
    if kind not in KINDS:
        raise refused(f"no such kind of mapping '{kind}'")
    return call.world.mappings.setdefault(kind, {})


def one_of(call: Call) -> dict[str, Any]:
    found = entries(call).get(call.path["id"])
    if found is None:
        raise refused(f"mapping '{call.path['id']}' not found")
    return found


@route("GET", "/cluster/mapping")
async def index(call: Call) -> object:
    return indexed(*KINDS)


@route("GET", "/cluster/mapping/{kind}")
async def listing(call: Call) -> object:
    """Those that the caller may see; with `check-node` those of one node only matter, but all are listed."""
    kind = call.path["kind"]
    return [
        {"id": name, "type": kind, **told}
        for name, told in sorted(entries(call).items())
        if call.may(f"/mapping/{kind}/{name}", "Mapping.Use", "Mapping.Audit", "Mapping.Modify")
    ]


@route("POST", "/cluster/mapping/{kind}")
async def create(call: Call) -> object:
    call.required("id", "map")
    kind, name = call.path["kind"], call.text("id")
    call.require(f"/mapping/{kind}", "Mapping.Modify")
    if name in entries(call):
        raise refused(f"{kind.upper()} ID '{name}' already defined")
    entries(call)[name] = {"map": maps(call)} | described(call)
    return None


def maps(call: Call) -> list[str]:
    """The devices, one of each node that has such: `node=pve1,path=0000:01:00.0,id=8086:10ca`."""
    value = call.params["map"]
    found = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    for item in found:
        if parse(item).get("node") not in call.world.nodes:
            raise refused(f"no such cluster node '{parse(item).get('node', '')}'")
    return found


def described(call: Call) -> dict[str, str]:
    return {"description": call.text("description")} if call.has("description") else {}


@route("GET", "/cluster/mapping/{kind}/{id}")
async def one(call: Call) -> object:
    call.require(f"/mapping/{call.path['kind']}/{call.path['id']}", "Mapping.Use", "Mapping.Audit", "Mapping.Modify")
    return one_of(call)


@route("PUT", "/cluster/mapping/{kind}/{id}")
async def update(call: Call) -> object:
    call.require(f"/mapping/{call.path['kind']}/{call.path['id']}", "Mapping.Modify")
    found = one_of(call)
    found |= ({"map": maps(call)} if call.has("map") else {}) | described(call)
    return None


@route("DELETE", "/cluster/mapping/{kind}/{id}")
async def delete(call: Call) -> object:
    call.require(f"/mapping/{call.path['kind']}", "Mapping.Modify")
    entries(call).pop(call.path["id"], None)
    return None
