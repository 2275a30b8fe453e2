"""The storages of a node: what they hold, and how it comes and goes."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import aiohttp

from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.contents import (
    check_image,
    cleaned,
    format_named,
    image_name,
    kind_of,
    owner_named,
    path_of,
    volume_name,
)
from simulators.proxmox.errors import bad, refused
from simulators.proxmox.images import virtual_size
from simulators.proxmox.ova import metadata
from simulators.proxmox.reading import check_readable, readable
from simulators.proxmox.strings import bytes_of
from simulators.proxmox.tasks import Task
from simulators.proxmox.transfers import Download, check_sum, keep, receive
from simulators.proxmox.world import Storage, Volume

READ = at("/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace")
UPLOAD = at("/storage/{storage}", "Datastore.AllocateTemplate")
SPARSE = 331_776  # what an empty image takes
_WITH_VMID_TOO = frozenset({"import", "snippets"})  # shown whatever guest a list is asked for


def storage_of(call: Call, name: str = "") -> Storage:
    """A storage as the node in the path has it.

    Raises:
        PveError: it is unknown, disabled, or not there.
    """
    storage = call.world.storage(name or call.path["storage"])
    if not storage.enabled:
        raise refused(f"storage '{storage.name}' is disabled")
    if not storage.there(call.node):
        raise refused(f"storage '{storage.name}' is not available on node '{call.node}'")
    return storage


def state(call: Call, storage: Storage) -> dict[str, Any]:
    """What a storage has to give."""
    used = storage.used(call.node)
    return {
        "type": storage.kind,
        "content": ",".join(sorted(storage.content)),
        "shared": int(storage.shared),
        "enabled": int(storage.enabled),
        "active": int(storage.enabled),
        "total": storage.total,
        "used": used,
        "avail": max(storage.total - used, 0),
    }


@route("GET", "/nodes/{node}/storage")
async def storages(call: Call) -> object:
    """Those that the caller may see, and that the node has."""
    wanted = set(call.many("content"))
    rows = []
    for storage in call.world.storages.values():
        target = call.text("target")
        if call.has("storage") and call.text("storage") != storage.name:
            continue
        if not storage.there(call.node) or (target and not storage.there(target)):
            continue
        if (wanted and not wanted & storage.content) or (call.flag("enabled") and not storage.enabled):
            continue
        if call.may(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace"):
            told = state(call, storage)
            rows.append({"storage": storage.name, **told, "used_fraction": told["used"] / max(storage.total, 1)})
    return rows


@route("GET", "/nodes/{node}/storage/{storage}", allowed=READ)
async def index(call: Call) -> object:
    return indexed("content", "download-url", "file-restore", "identity", "import-metadata", "prunebackups", "rrd",
                   "rrddata", "status", "upload")  # fmt: skip


@route("GET", "/nodes/{node}/storage/{storage}/status", allowed=READ)
async def status(call: Call) -> object:
    storage = call.world.storages.get(call.path["storage"])
    if storage is None or not storage.there(call.node):
        raise bad(storage="No such storage.")
    return state(call, storage)


def row(storage: Storage, volume: Volume) -> dict[str, Any]:
    """A volume as lists tell it."""
    told: dict[str, Any] = {
        "volid": volume.volid,
        "content": volume.content,
        "format": volume.format,
        "size": volume.size,
        "ctime": volume.ctime,
    }
    if volume.vmid is not None:
        told["vmid"] = volume.vmid
    if volume.content == "images":
        told |= {"used": volume.used, "parent": parent_path(storage, volume)}
    if volume.content == "backup":
        told |= {"subtype": "qemu", "protected": 0}
    if volume.notes:
        told["notes"] = volume.notes
    return told


def parent_path(storage: Storage, volume: Volume) -> str | None:
    """The base of a linked clone as its image names it: a path beside its own folder."""
    if volume.parent is None or not storage.files:
        return volume.parent
    return "../" + "/".join(path_of(storage, volume.parent).split("/")[-2:])


@route("GET", "/nodes/{node}/storage/{storage}/content", allowed=READ)
async def content(call: Call) -> object:
    """Every volume, or those of a kind or of a guest."""
    storage, vmid, kind = storage_of(call), call.params.get("vmid"), call.text("content")
    return [
        row(storage, volume)
        for volume in list(storage.on(call.node).values())
        if (not kind or volume.content == kind)
        and (vmid is None or volume.vmid == call.number("vmid") or volume.content in _WITH_VMID_TOO)
        and readable(call, volume.volid, owned_by=volume.vmid)
    ]


@route("POST", "/nodes/{node}/storage/{storage}/content", allowed=at("/storage/{storage}", "Datastore.AllocateSpace"))
async def allocate(call: Call) -> object:
    """An empty image under a name of the caller's choice."""
    storage, vmid, filename = storage_of(call), call.number("vmid"), call.text("filename")
    if "images" not in storage.content:
        raise refused(f"storage '{storage.name}' does not support content type 'images'")
    volid = image_name(storage, vmid, filename)
    if volid in storage.on(call.node):
        raise refused(f"disk image '{path_of(storage, volid)}' already exists")
    size = call.text("size")
    amount = bytes_of(size) if size[-1:].isalpha() else int(size) << 10  # a bare number counts KiB
    format = format_named(volid) if storage.files else "raw"
    storage.on(call.node)[volid] = Volume(volid, "images", format, amount, used=min(amount, SPARSE), vmid=vmid)
    return volid


def named_volume(call: Call) -> str:
    """The volume in the path, which may lack the storage."""
    text = unquote(call.path["volume"])
    return text if ":" in text else f"{call.path['storage']}:{text}"


@route("GET", "/nodes/{node}/storage/{storage}/content/{volume}")
async def one(call: Call) -> object:
    storage, volid = storage_of(call), named_volume(call)
    volume = storage.on(call.node).get(volid)
    check_readable(call, volid, owned_by=volume.vmid if volume else None)
    if volume is None:
        raise refused(f"volume_size_info on '{volid}' failed - no format")
    size = virtual_size(volume.file) if volume.file and volume.content == "import" else volume.size
    told = {"path": path_of(storage, volid), "size": size, "used": volume.used, "format": volume.format}
    return told | ({"notes": volume.notes} if volume.content == "backup" else {})


@route("PUT", "/nodes/{node}/storage/{storage}/content/{volume}")
async def note(call: Call) -> object:
    """Notes of a backup."""
    storage, volid = storage_of(call), named_volume(call)
    volume = storage.on(call.node).get(volid)
    check_readable(call, volid, owned_by=volume.vmid if volume else None)
    if volume is None:
        raise refused(f"volume '{volid}' does not exist")
    if call.has("notes"):
        volume.notes = call.text("notes")
    return None


@route("GET", "/nodes/{node}/storage/{storage}/import-metadata")
async def import_metadata(call: Call) -> object:
    """What a guest in an archive would need."""
    call.required("volume")
    storage, text = storage_of(call), call.text("volume")
    volid = text if ":" in text else f"{storage.name}:{text}"
    check_readable(call, volid)
    volume = storage.on(call.node).get(volid)
    if volume is None:
        raise refused(f"volume '{volid}' does not exist")
    return metadata(volume)


@route("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}")
async def delete(call: Call) -> object:
    """Whoever uses it; only a base with clones on it stays. One that is not there is gone already."""
    storage, volid = storage_of(call), named_volume(call)
    owner = owner_named(volid) if kind_of(volid) == "images" else None
    volume = storage.on(call.node).get(volid)
    if volume is not None and volume.content == "backup" and volume.vmid is not None:
        call.require(f"/storage/{storage.name}", "Datastore.AllocateSpace")
        call.require(f"/vms/{volume.vmid}", "VM.Backup")
    else:
        call.require(f"/storage/{storage.name}", "Datastore.Allocate")
    node = call.node

    async def work(task: Task) -> None:
        if any(other.parent == volid for other in storage.on(node).values()):
            raise refused(f"base volume '{volid}' is still in use by linked cloned")
        if storage.on(node).pop(volid, None) is None:
            task.log(f"disk image '{path_of(storage, volid)}' does not exist")
        task.log(f"Removed volume '{volid}'")

    id = f"{owner}@{storage.name}" if owner is not None else storage.name
    return call.world.tasks.start(call.who, node, "imgdel", id, work)


@route("POST", "/nodes/{node}/storage/{storage}/upload", allowed=UPLOAD)
async def upload(call: Call) -> object:
    """A file in a multipart form. It replaces one with the same name without a word."""
    if call.request.content_type != "multipart/form-data":
        raise bad(filename="property is missing and it is not optional")
    received = await receive(call.request, call.pve.home)
    call.params |= {**received.fields, "filename": received.filename}
    call.pve.judge(call)
    storage, kind = storage_of(call), call.text("content")
    volid = volume_name(storage, kind, received.filename)
    node, source = call.node, f"/var/tmp/{received.file.name}"

    async def work(task: Task) -> None:
        task.log(f"starting file import from: {source}")
        check_sum(task, received.file, call.text("checksum-algorithm"), call.text("checksum"))
        check_image(received.file, format_named(volid), source)
        target = path_of(storage, volid)
        task.log(f"target node: {node}")
        task.log(f"target file: {target}")
        task.log(f"file size is: {received.file.stat().st_size}")
        task.log(f"command: cp -- {source} {target}")
        await task.spend(task.world.pace.transfer)
        keep(storage, node, volid, kind, received.file)
        task.log("finished file import successfully")

    return call.world.tasks.start(call.who, node, "imgcopy", "", work)


@route("POST", "/nodes/{node}/storage/{storage}/download-url", allowed=UPLOAD)
async def download_url(call: Call) -> object:
    """The node fetches a file; it replaces nothing."""
    if not (call.may("/", "Sys.Audit") and call.may("/", "Sys.Modify")):
        call.require(f"/nodes/{call.node}", "Sys.AccessNetwork")
    storage, kind, filename = storage_of(call), call.text("content"), call.text("filename")
    download = Download(
        storage=storage,
        node=call.node,
        volid=volume_name(storage, kind, filename),
        content=kind,
        url=call.text("url"),
        folder=call.pve.home,
        algorithm=call.text("checksum-algorithm"),
        checksum=call.text("checksum"),
        verify=call.flag("verify-certificates", True),
    )
    return call.world.tasks.start(call.who, call.node, "download", cleaned(filename), download.run)


@route("GET", "/nodes/{node}/query-url-metadata")
async def url_metadata(call: Call) -> object:
    """What a server tells of a file before it is fetched."""
    if not (call.may("/", "Sys.Audit") and call.may("/", "Sys.Modify")):
        call.require(f"/nodes/{call.node}", "Sys.AccessNetwork")
    url = call.text("url")
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.head(url, ssl=call.flag("verify-certificates", True)) as response,
        ):
            if response.status != 200:
                raise refused(f"invalid server response: '{response.status} {response.reason}'")
            told: dict[str, Any] = {"mimetype": response.content_type, "size": int(response.headers["Content-Length"])}
            named = response.content_disposition
            filename = (named.filename if named else None) or response.url.name
            return told | ({"filename": cleaned(filename)} if filename else {})
    except aiohttp.ClientError as error:
        raise refused(f"invalid server response: '500 Can't connect to {error}'") from error
