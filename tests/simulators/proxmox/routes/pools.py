"""Pools: sets of guests and storages that rights can be granted on."""

from __future__ import annotations

from typing import Any

from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import PveError, refused
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
    """Members that the call names come in, or go with `delete`; all of them or none."""
    name = call.path.get("poolid") or call.text("poolid")
    call.require(f"/pool/{name}", "Pool.Allocate")
    world, dropping = call.world, call.flag("delete")
    vmids, storages = [int(text) for text in call.many("vms")], call.many("storage")
    try:
        pool = pool_of(call)
        for vmid in vmids:
            check_guest(call, name, vmid)
        for storage in storages:
            check_storage(call, pool, storage)
    except PveError as error:
        # What the lock around it makes of every refusal, a missing right included.
        status = "403 " if error.status == 403 else ""
        raise refused(f"update pools failed: {status}{error.reason}") from error
    pool.comment = call.text("comment", pool.comment)
    for vmid in vmids:
        if dropping:
            del world.access.pool_of[vmid]
        else:
            world.access.pool_of[vmid] = name
    for storage in storages:
        held = world.access.pool_storages.setdefault(storage, set())
        (pool.storages.discard if dropping else pool.storages.add)(storage)
        (held.discard if dropping else held.add)(name)
    return None


def check_guest(call: Call, name: str, vmid: int) -> None:
    """Whether a guest may come into a pool, or leave it."""
    where = call.world.pool_of(vmid)
    call.require(f"/vms/{vmid}", "Permissions.Modify", "VM.Allocate")
    if call.flag("delete"):
        if where != name:
            raise refused(f"VM {vmid} is not a pool member")
    elif where == name:
        raise refused(f"VM {vmid} is already a pool member")
    elif where and not call.flag("allow-move"):
        raise refused(f"VM {vmid} belongs already to pool '{where}' and allow-move is not set")
    elif where:
        call.require(f"/pool/{where}", "Pool.Allocate")


def check_storage(call: Call, pool: Pool, storage: str) -> None:
    """Whether a storage may come into a pool, or leave it."""
    call.require(f"/storage/{storage}", "Permissions.Modify", "Datastore.Allocate")
    if call.flag("delete") and storage not in pool.storages:
        raise refused(f"Storage '{storage}' is not a pool member")
    if not call.flag("delete") and storage in pool.storages:
        raise refused(f"Storage '{storage}' is already a pool member")


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
    held = [f"VM {vmid}" for vmid, pool in sorted(call.world.access.pool_of.items()) if pool == name]
    held += [f"storage '{storage}'" for storage in sorted(call.world.pools[name].storages)]
    if held:
        raise refused(f"delete pool failed: pool '{name}' is not empty (contains {held[0]})")
    del call.world.pools[name]
    return None
