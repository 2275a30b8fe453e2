"""Storages of the simulated Proxmox VE: contents, uploads, downloads."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from simulators.ovas import DISK, ova
from simulators.proxmox import Proxmox, pve
from simulators.proxmox.client import Client, by_ticket, client
from simulators.proxmox.images import qcow2
from simulators.proxmox.world import Volume

__all__ = ["pve"]

IMAGE = qcow2(64 << 20)
SUM = hashlib.sha256(IMAGE).hexdigest()
LOCAL = "/nodes/pve1/storage/local"


async def uploaded(admin: Client, filename: str, content: bytes = IMAGE, **fields: str) -> str:
    """How the upload's task ended."""
    named = {name.replace("__", "-"): value for name, value in fields.items()}
    answer = await admin.upload(f"{LOCAL}/upload", filename, content, {"content": "import", **named})
    return (await admin.end(answer.data)).exitstatus


@asynccontextmanager
async def files(content: Mapping[str, bytes]) -> AsyncIterator[str]:
    """A web server with these files; where it is."""

    async def answer(request: web.Request) -> web.Response:
        body = content.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def names(admin: Client, **filters: object) -> set[str]:
    return {row["volid"] for row in await admin.get(f"{LOCAL}/content", **filters)}


async def test_an_upload_becomes_a_volume_of_its_cleaned_name(pve: Proxmox) -> None:
    async with client(pve) as admin:
        assert await uploaded(admin, "we ird (1).qcow2") == "OK"
        assert await names(admin, content="import") == {"local:import/we_ird__1_.qcow2"}
        told = await admin.get(f"{LOCAL}/content/local:import/we_ird__1_.qcow2")
        listed = (await admin.get(f"{LOCAL}/content"))[0]
    assert (told["size"], told["format"], told["path"]) == (
        64 << 20,
        "qcow2",
        "/var/lib/vz/import/we_ird__1_.qcow2",
    ), "one volume is told with the size of its disk"
    assert listed["size"] == len(IMAGE), "a list with that of its file"


async def test_an_upload_replaces_a_file_without_a_word(pve: Proxmox) -> None:
    async with client(pve) as admin:
        await uploaded(admin, "a.qcow2")
        assert await uploaded(admin, "a.qcow2", qcow2(1 << 30)) == "OK"
        assert (await admin.get(f"{LOCAL}/content/local:import/a.qcow2"))["size"] == 1 << 30


async def test_a_wrong_checksum_or_format_ends_the_task_and_leaves_nothing(pve: Proxmox) -> None:
    async with client(pve) as admin:
        wrong = await uploaded(admin, "a.qcow2", checksum__algorithm="sha256", checksum="0" * 64)
        junk = await uploaded(admin, "b.qcow2", b"nothing")
        good = await uploaded(admin, "c.qcow2", checksum__algorithm="sha256", checksum=SUM)
        assert await names(admin) == {"local:import/c.qcow2"}
    assert wrong == f"checksum mismatch: got '{SUM}' != expect '{'0' * 64}'"
    assert junk.endswith("Image is not in qcow2 format")
    assert good == "OK"


@pytest.mark.parametrize(
    ("filename", "content", "storage", "status", "told"),
    [
        ("a.txt", "import", "local", 400, {"filename": "invalid filename or wrong extension"}),
        ("a.img", "import", "local", 400, {"filename": "invalid filename or wrong extension"}),
        ("a.txt", "iso", "local", 400, {"filename": "wrong file extension"}),
        ("a.qcow2", "import", "nope", 500, "storage 'nope' does not exist"),
        ("a.qcow2", "import", "local-lvm", 500, "can't upload to storage type 'lvmthin'"),
        ("a.qcow2", "import", "iso-only", 500, "storage 'iso-only' does not support 'import' content"),
    ],
)
async def test_uploads_that_are_refused_at_once(
    pve: Proxmox, filename: str, content: str, storage: str, status: int, told: Any
) -> None:
    async with client(pve) as admin:
        await admin.post("/storage", storage="iso-only", type="dir", path="/iso", content="iso")
        path = f"/nodes/pve1/storage/{storage}/upload"
        answer = await admin.upload(path, filename, IMAGE, {"content": content})
    assert answer.status == status
    assert (answer.errors if status == 400 else answer.reason) == told


async def test_an_upload_without_a_length_is_refused(pve: Proxmox) -> None:
    """The product reads no chunked requests: a client that streams must know the length of all parts."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"--x\r\n"

    pin = aiohttp.Fingerprint(bytes.fromhex(pve.fingerprint.replace(":", "")))
    headers = {"Authorization": pve.token, "Content-Type": "multipart/form-data; boundary=x"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{pve.url}/api2/json{LOCAL}/upload", data=chunks(), ssl=pin) as response,
    ):
        assert (response.status, response.reason) == (501, "chunked transfer encoding not supported")


async def test_downloads_are_really_fetched_and_replace_nothing(pve: Proxmox) -> None:
    async with files({"/a.qcow2": IMAGE, "/junk": b"junk"}) as url, client(pve) as admin:

        async def fetch(name: str, of: str, **more: object) -> str:
            given = {"content": "import", "filename": name, "url": f"{url}/{of}", **more}
            return (await admin.run("POST", f"{LOCAL}/download-url", **given)).exitstatus

        assert await fetch("a.qcow2", "a.qcow2", checksum=SUM, checksum__algorithm="sha256") == "OK"
        again = await fetch("a.qcow2", "a.qcow2")
        wrong = await fetch("b.qcow2", "a.qcow2", checksum="0" * 64, checksum__algorithm="sha256")
        junk = await fetch("c.qcow2", "junk")
        missing = await fetch("d.qcow2", "nope")
        assert await names(admin) == {"local:import/a.qcow2"}
        told = await admin.get("/nodes/pve1/query-url-metadata", url=f"{url}/a.qcow2")
    assert again == "refusing to override existing file '/var/lib/vz/import/a.qcow2'"
    assert wrong.startswith("checksum mismatch: got")
    assert junk.startswith("failed to verify file: qemu-img: Could not open")
    assert missing == "download failed: exit code 8"
    assert told == {"filename": "a.qcow2", "size": len(IMAGE), "mimetype": "application/octet-stream"}


async def test_a_download_from_nowhere_tells_why(pve: Proxmox) -> None:
    async with files({}) as url:
        pass  # a port that nobody listens on any more
    async with client(pve) as admin:
        given = {"content": "iso", "filename": "a.iso", "url": f"{url}/a.iso"}
        outcome = await admin.run("POST", f"{LOCAL}/download-url", **given)
    where = url.removeprefix("http://")
    assert outcome.exitstatus == f"download failed: Connecting to {where}... failed: Connection refused."


async def test_a_list_for_a_guest_still_shows_imports_and_snippets(pve: Proxmox) -> None:
    held = pve.world.storages["shared"].on("pve1")
    for volid, content, vmid in (
        ("shared:100/vm-100-disk-0.raw", "images", 100),
        ("shared:101/vm-101-disk-0.raw", "images", 101),
        ("shared:iso/a.iso", "iso", None),
        ("shared:import/a.qcow2", "import", None),
        ("shared:snippets/u.yaml", "snippets", None),
    ):
        held[volid] = Volume(volid, content, "raw", 1 << 30, vmid=vmid)
    async with client(pve) as admin:
        rows = await admin.get("/nodes/pve2/storage/shared/content", vmid=100)
    assert {row["volid"] for row in rows} == {
        "shared:100/vm-100-disk-0.raw",
        "shared:import/a.qcow2",
        "shared:snippets/u.yaml",
    }


async def test_deleting_asks_nobody_who_uses_it(pve: Proxmox) -> None:
    """A file that is gone already is deleted with success; a base with clones is not."""
    held = pve.world.storages["shared"].on("pve1")
    base, clone = "shared:100/base-100-disk-0.qcow2", "shared:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2"
    held[base] = Volume(base, "images", "qcow2", 1 << 30, vmid=100)
    held[clone] = Volume(clone, "images", "qcow2", 1 << 30, vmid=101, parent=base)
    path = "/nodes/pve1/storage/shared/content"
    async with client(pve) as admin:
        rows = {row["volid"]: row["parent"] for row in await admin.get(path)}
        kept = await admin.run("DELETE", f"{path}/{base}")
        gone = await admin.run("DELETE", f"{path}/{clone}")
        again = await admin.run("DELETE", f"{path}/{clone}")
    assert rows == {base: None, clone: "../100/base-100-disk-0.qcow2"}
    assert kept.exitstatus == f"base volume '{base}' is still in use by linked cloned"
    assert gone.upid.split(":")[5:7] == ["imgdel", "101@shared"]
    assert (gone.exitstatus, again.exitstatus) == ("OK", "OK")
    assert list(held) == [base]


async def test_storages_are_where_they_are_set_up_to_be(pve: Proxmox) -> None:
    async with client(pve) as admin:
        await admin.post("/storage", storage="fast", type="zfspool", pool="tank", content="images", nodes="pve2")
        here = {row["storage"] for row in await admin.get("/nodes/pve1/storage")}
        there = {row["storage"] for row in await admin.get("/nodes/pve2/storage", content="images")}
        answer = await admin.ask("GET", "/nodes/pve1/storage/fast/content")
        told = await admin.get("/storage/fast")
        await admin.put("/storage/fast", delete="nodes")
        assert (await admin.ask("GET", "/nodes/pve1/storage/fast/content")).status == 200
        await admin.delete("/storage/fast")
        missing = await admin.ask("GET", "/storage/fast")
    assert here == {"local", "local-lvm", "shared"}
    assert there == {"local-lvm", "shared", "fast"}
    assert answer.reason == "storage 'fast' is not available on node 'pve1'"
    assert (told["type"], told["pool"], told["nodes"], told["content"]) == ("zfspool", "tank", "pve2", "images")
    assert missing.reason == "storage 'fast' does not exist"


async def test_an_image_is_allocated_under_the_callers_name(pve: Proxmox) -> None:
    path = "/nodes/pve1/storage/shared/content"
    given = {"vmid": 130, "filename": "vm-130-disk-77.qcow2", "size": "1G", "format": "qcow2"}
    async with client(pve) as admin:
        assert await admin.post(path, **given) == "shared:130/vm-130-disk-77.qcow2"
        again = await admin.ask("POST", path, **given)
    assert again.reason == "disk image '/mnt/pve/shared/images/130/vm-130-disk-77.qcow2' already exists"


async def test_pools_hold_guests_and_carry_rights(pve: Proxmox) -> None:
    pve.world.add_guest(100, "pve1")
    async with client(pve) as admin:
        await admin.post("/pools", poolid="p1", comment="c")
        await admin.put("/pools", poolid="p1", vms=100)
        pool = (await admin.get("/pools", poolid="p1"))[0]
        full = await admin.ask("DELETE", "/pools", poolid="p1")
        taken = await admin.ask("PUT", "/pools/p1", vms=100)
        await admin.put("/pools", poolid="p1", vms=100, delete=1)
        await admin.delete("/pools", poolid="p1")
        gone = await admin.ask("GET", "/pools", poolid="p1")
    assert [member["vmid"] for member in pool["members"]] == [100]
    assert full.reason == "delete pool failed: pool 'p1' is not empty (contains VM 100)"
    assert taken.reason == "update pools failed: VM 100 is already a pool member"
    assert gone.reason == "pool 'p1' does not exist"


async def test_an_archive_tells_what_a_guest_would_need_and_gives_its_disk(pve: Proxmox) -> None:
    async with client(pve) as admin:
        assert await uploaded(admin, "small.ova", ova()) == "OK"
        told = await admin.get(f"{LOCAL}/import-metadata", volume="local:import/small.ova")
        wrong = await admin.ask("GET", f"{LOCAL}/import-metadata", volume="local:import/nope.ova")
        source = told["disks"]["scsi0"]
        given = {"vmid": 100, "scsi0": f"shared:0,import-from={source}", **told["create-args"]}
        made = await admin.run("POST", "/nodes/pve1/qemu", **given)
    assert (told["type"], source) == ("vm", f"local:import/small.ova/{DISK}")
    assert told["warnings"][0]["type"] == "ova-needs-extracting"
    assert wrong.reason == "volume 'local:import/nope.ova' does not exist"
    assert made.exitstatus == "OK", made.lines
    assert pve.world.guests[100].config["scsi0"].endswith("size=1M")


async def test_what_the_product_has_and_the_simulator_lacks_says_so(pve: Proxmox) -> None:
    if pve.schema is None:
        pytest.skip("the reference of Proxmox VE's API is not here")
    async with client(pve) as admin:
        lacking = await admin.ask("GET", "/access/tfa")
        nowhere = await admin.ask("GET", "/access/nowhere")
    assert lacking.reason == "Method 'GET /access/tfa' not implemented by the simulator"
    assert nowhere.reason == "Method 'GET /access/nowhere' not implemented"


async def test_a_pool_takes_all_members_of_a_call_or_none(pve: Proxmox) -> None:
    for vmid in (100, 101):
        pve.world.add_guest(vmid, "pve1")
    async with client(pve) as admin:
        await admin.post("/pools", poolid="p1")
        await admin.post("/pools", poolid="p2")
        await admin.put("/pools", poolid="p2", vms=101)
        refused = await admin.ask("PUT", "/pools", poolid="p1", vms="100,101")
        assert pve.world.pool_of(100) == ""
        await admin.put("/pools", **{"poolid": "p1", "vms": "100,101", "allow-move": 1})
    assert refused.reason == ("update pools failed: VM 101 belongs already to pool 'p2' and allow-move is not set")
    assert (pve.world.pool_of(100), pve.world.pool_of(101)) == ("p1", "p1")


async def test_the_right_to_make_a_guest_is_enough_to_put_it_into_a_pool(pve: Proxmox) -> None:
    """The refusal comes with what the lock around the change puts in front of it."""
    pve.world.add_guest(100, "pve1")
    async with client(pve, await by_ticket(pve)) as root:
        await root.post("/access/users", userid="a@pve")
        await root.post("/pools", poolid="p1")
        await root.put("/access/acl", path="/pool/p1", roles="PVEPoolAdmin", users="a@pve")
        made = await root.post("/access/users/a@pve/token/t1", privsep=0)
        headers = {"Authorization": f"PVEAPIToken={made['full-tokenid']}={made['value']}"}
        async with client(pve, headers) as token:
            refused = await token.ask("PUT", "/pools", poolid="p1", vms=100)
            await root.put("/access/acl", path="/vms", roles="PVEVMAdmin", users="a@pve")
            await token.put("/pools", poolid="p1", vms=100)
    told = "403 Permission check failed (/vms/100, Permissions.Modify|VM.Allocate)"
    assert (refused.status, refused.reason) == (500, f"update pools failed: {told}")
    assert pve.world.pool_of(100) == "p1"


async def restricted(pve: Proxmox, root: Client, *grants: tuple[str, str]) -> dict[str, str]:
    """The headers of a new user's token with these rights: path and role."""
    await root.post("/access/users", userid="a@pve")
    for path, role in grants:
        await root.put("/access/acl", path=path, roles=role, users="a@pve")
    made = await root.post("/access/users/a@pve/token/t1", privsep=0)
    return {"Authorization": f"PVEAPIToken={made['full-tokenid']}={made['value']}"}


async def test_a_user_of_a_storage_reads_files_and_images_of_own_guests(pve: Proxmox) -> None:
    """Snippets are for its administrators alone, and so for nobody who may only use it."""
    held = pve.world.storages["shared"].on("pve1")
    for volid, content, vmid in (
        ("shared:100/vm-100-disk-0.raw", "images", 100),
        ("shared:101/vm-101-disk-0.raw", "images", 101),
        ("shared:iso/a.iso", "iso", None),
        ("shared:import/a.qcow2", "import", None),
        ("shared:snippets/u.yaml", "snippets", None),
    ):
        held[volid] = Volume(volid, content, "raw", 1 << 30, vmid=vmid)
    path = "/nodes/pve1/storage/shared/content"
    async with client(pve, await by_ticket(pve)) as root:
        headers = await restricted(pve, root, ("/storage/shared", "PVEDatastoreUser"), ("/vms/100", "PVEVMAdmin"))
        async with client(pve, headers) as user:
            seen = {row["volid"] for row in await user.get(path)}
            foreign = await user.ask("GET", f"{path}/shared:101/vm-101-disk-0.raw")
            snippet = await user.ask("GET", f"{path}/shared:snippets/u.yaml")
            attached = await user.ask("PUT", "/nodes/pve1/qemu/100/config", scsi1="shared:101/vm-101-disk-0.raw")
    assert seen == {"shared:100/vm-100-disk-0.raw", "shared:iso/a.iso", "shared:import/a.qcow2"}
    assert foreign.reason == "Permission check failed (/vms/101, VM.Config.Disk)"
    assert snippet.reason == "missing privileges to access shared:snippets/u.yaml"
    assert attached.reason == "Permission check failed (/vms/101, VM.Config.Disk)"
