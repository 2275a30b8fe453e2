"""The storages of the cluster, as they are set up."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import refused
from simulators.proxmox.world import Storage

ADMIN = at("/storage", "Datastore.Allocate")
SHARED = frozenset({"nfs", "cifs", "cephfs", "rbd", "iscsi", "pbs", "esxi"})
_OWN = frozenset({"storage", "type", "content", "shared", "nodes", "disable", "digest", "delete"})
DEFAULT_CONTENT = {"dir": "images,rootdir,vztmpl,iso,backup,snippets", "nfs": "images,rootdir", "lvmthin": "images"}


def row(world_digest: str, storage: Storage) -> dict[str, Any]:
    """A section of storage.cfg."""
    told: dict[str, Any] = {
        "storage": storage.name,
        "type": storage.kind,
        "content": ",".join(sorted(storage.content)),
        "digest": world_digest,
        **storage.options,
    }
    if storage.files:
        told.setdefault("prune-backups", "keep-all=1")
    if storage.shared and storage.kind not in SHARED:
        told["shared"] = 1
    if storage.nodes is not None:
        told["nodes"] = ",".join(sorted(storage.nodes))
    if not storage.enabled:
        told["disable"] = 1
    return told


def digest(call: Call) -> str:
    """Of the whole file."""
    told = [row("", storage) for storage in call.world.storages.values()]
    return hashlib.sha1(json.dumps(told, sort_keys=True).encode()).hexdigest()


@route("GET", "/storage")
async def listing(call: Call) -> object:
    kind = call.text("type")
    return [
        row(digest(call), storage)
        for storage in call.world.storages.values()
        if (not kind or storage.kind == kind)
        and call.may(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace")
    ]


@route("GET", "/storage/{storage}", allowed=at("/storage/{storage}", "Datastore.Allocate"))
async def one(call: Call) -> object:
    return row(digest(call), call.world.storage(call.path["storage"]))


@route("POST", "/storage", allowed=ADMIN)
async def create(call: Call) -> object:
    call.required("storage", "type")
    name, kind = call.text("storage"), call.text("type")
    if name in call.world.storages:
        raise refused(f"create storage failed: storage ID '{name}' already defined")
    storage = Storage(name, kind, set(DEFAULT_CONTENT.get(kind, "images").split(",")), shared=kind in SHARED)
    change(call, storage)
    call.world.storages[name] = storage
    return {"storage": name, "type": kind}


@route("PUT", "/storage/{storage}", allowed=ADMIN)
async def update(call: Call) -> object:
    storage = call.world.storage(call.path["storage"])
    if call.has("digest") and call.text("digest") != digest(call):
        raise refused("detected modified configuration - file changed by other user? Try again.")
    change(call, storage)
    for key in call.many("delete"):
        if key == "nodes":
            storage.nodes = None
        elif key == "disable":
            storage.enabled = True
        else:
            storage.options.pop(key, None)
    return {"storage": storage.name, "type": storage.kind}


def change(call: Call, storage: Storage) -> None:
    """Take over what the call tells."""
    if call.has("content"):
        storage.content = set(call.many("content"))
    if call.has("nodes"):
        storage.nodes = set(call.many("nodes"))
    if call.has("shared"):
        storage.shared = call.flag("shared")
    if call.has("disable"):
        storage.enabled = not call.flag("disable")
    storage.options |= {key: call.text(key) for key in call.params if key not in _OWN}


@route("DELETE", "/storage/{storage}", allowed=ADMIN)
async def delete(call: Call) -> object:
    """What it holds stays where it is, out of sight."""
    name = call.path["storage"]
    call.world.storage(name)
    del call.world.storages[name]
    return None
