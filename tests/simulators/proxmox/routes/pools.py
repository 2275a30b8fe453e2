"""Pools: sets of guests and storages that rights can be granted on."""

from __future__ import annotations

from typing import Any

from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import refused
from simulators.proxmox.world import Pool

ADMIN = at("/pool/{poolid}", "Pool.Allocate")


def pool_of(call: Call) -> Pool:
    """The pool that the call names.

    Raises:
        PveError: there is none.
    """
    name = call.path.get("poolid") or call.text("poolid")
    if name not in call.world.pools:
        raise refused(f"pool '{name}' does not exist")
    return call.world.pools[name]


def members(call: Call, pool: Pool) -> list[dict[str, Any]]:
    """Guests as the cluster shows them, and storages."""
    world, kind = call.world, call.text("type")
    guests = [world.board.guest(guest) for guest in world.guests.values() if world.pool_of(guest.vmid) == pool.poolid]
    storages = [
        {"id": f"storage/{node}/{name}", "type": "storage", "storage": name, "node": node}
        for name in sorted(pool.storages & world.storages.keys())
        for node in world.nodes
        if world.storages[name].there(node)
    ]
    return [member for member in [*guests, *storages] if not kind or member["type"] == kind]


@route("GET", "/pools")
async def listing(call: Call) -> object:
    """The pools that the caller may see; one that is named comes with its members."""
    if call.has("poolid"):
        call.require(f"/pool/{call.text('poolid')}", "Pool.Audit")
        pool = pool_of(call)
        return [{"poolid": pool.poolid, "members": members(call, pool)} | comment(pool)]
    return [
        {"poolid": pool.poolid} | comment(pool)
        for pool in call.world.pools.values()
        if call.may(f"/pool/{pool.poolid}", "Pool.Audit")
    ]


def comment(pool: Pool) -> dict[str, str]:
    return {"comment": pool.comment} if pool.comment else {}


@route("GET", "/pools/{poolid}", allowed=at("/pool/{poolid}", "Pool.Audit"))
async def one(call: Call) -> object:
    """The old way to ask for one."""
    pool = pool_of(call)
    return {"members": members(call, pool)} | comment(pool)


@route("POST", "/pools")
async def create(call: Call) -> object:
    call.required("poolid")
    name = call.text("poolid")
    call.require(f"/pool/{name}", "Pool.Allocate")
    if name in call.world.pools:
        raise refused(f"create pool failed: pool '{name}' already exists")
    call.world.pools[name] = Pool(name, call.text("comment"))
    return None


@route("PUT", "/pools")
async def update(call: Call) -> object:
    """Members that the call names come in, or go with `delete`."""
    call.required("poolid")
    return await change(call)


@route("PUT", "/pools/{poolid}", allowed=ADMIN)
async def change(call: Call) -> object:
    """Members that the call names come in, or go with `delete`."""
    name = call.path.get("poolid") or call.text("poolid")
    call.require(f"/pool/{name}", "Pool.Allocate")
    pool, world, dropping = pool_of(call), call.world, call.flag("delete")
    if call.has("comment"):
        pool.comment = call.text("comment")
    for text in call.many("vms"):
        vmid, where = int(text), world.pool_of(int(text))
        call.require(f"/vms/{vmid}", "Permissions.Modify")
        if dropping and where != name:
            raise refused(f"update pools failed: VM {vmid} is not a pool member")
        if not dropping and where == name:
            raise refused(f"update pools failed: VM {vmid} is already a pool member")
        if not dropping and where and not call.flag("allow-move"):
            taken = f"VM {vmid} belongs already to pool '{where}' and 'allow-move' is not set"
            raise refused(f"update pools failed: {taken}")
        if dropping:
            del world.access.pool_of[vmid]
        else:
            world.access.pool_of[vmid] = name
    for storage in call.many("storage"):
        call.require(f"/storage/{storage}", "Permissions.Modify")
        held = world.access.pool_storages.setdefault(storage, set())
        (pool.storages.discard if dropping else pool.storages.add)(storage)
        (held.discard if dropping else held.add)(name)
    return None


@route("DELETE", "/pools")
async def delete(call: Call) -> object:
    """Empty pools only."""
    call.required("poolid")
    return await remove(call)


@route("DELETE", "/pools/{poolid}", allowed=ADMIN)
async def remove(call: Call) -> object:
    """Empty pools only."""
    name = call.path.get("poolid") or call.text("poolid")
    call.require(f"/pool/{name}", "Pool.Allocate")
    if name not in call.world.pools:
        raise refused(f"delete pool failed: pool '{name}' does not exist")
    pool = call.world.pools[name]
    if pool.storages or name in call.world.access.pool_of.values():
        raise refused(f"delete pool failed: pool '{name}' is not empty (contains VMs or storage)")
    del call.world.pools[name]
    return None
