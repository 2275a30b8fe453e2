"""Clones, templates and snapshots of the simulated Proxmox VE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox.backups import back_up
from simulators.proxmox.client import Client, client
from simulators.proxmox.disks import bytes_of_volume
from simulators.proxmox.images import convert
from simulators.proxmox.world import Volume

__all__ = ["pve"]
QEMU = "/nodes/pve1/qemu"


@pytest.fixture
async def admin(pve: Proxmox) -> AsyncIterator[Client]:
    async with client(pve) as made:
        yield made


@pytest.fixture
async def slow() -> AsyncIterator[tuple[World, Client]]:
    """A cluster in which a full clone never ends by itself."""
    async with proxmox(World(pace=Pace(clone_full=1e6))) as made, client(made) as admin:
        yield made.world, admin


async def source(admin: Client, **params: object) -> None:
    ended = await admin.run("POST", QEMU, vmid=110, name="src", **params)
    assert ended.exitstatus == "OK"


async def test_a_clone_hides_its_name_until_it_ends(slow: tuple[World, Client]) -> None:
    """Its config is a lock and a note; nobody can change it, and cancelling leaves nothing."""
    world, admin = slow
    await source(admin, scsi0="local-lvm:1", tags="gold", description="d", net0="virtio,bridge=vmbr0")
    upid = await admin.post(f"{QEMU}/110/clone", newid=111, name="c", full=1)
    config = await admin.get(f"{QEMU}/111/config")
    assert {key: config[key] for key in config if key != "digest"} == {
        "lock": "clone", "description": " qmclone temporary file",
    }  # fmt: skip
    assert (await admin.get(f"{QEMU}/111/status/current"))["name"] == "VM 111"
    assert "lock" not in await admin.get(f"{QEMU}/110/config")
    locked = await admin.ask("PUT", f"{QEMU}/111/config", memory=64)
    assert (locked.status, locked.reason) == (500, "VM is locked (clone)")
    taken = await admin.ask("POST", f"{QEMU}/110/clone", newid=111)
    assert taken.reason == "unable to create VM 111: config file already exists"
    blocked = await admin.ask("PUT", f"{QEMU}/110/config", memory=64)
    assert blocked.reason == "can't lock file '/var/lock/qemu-server/lock-110.conf' - got timeout"
    await admin.delete(f"/nodes/pve1/tasks/{upid}")
    told = await admin.get(f"/nodes/pve1/tasks/{upid}/status")
    assert told["exitstatus"].endswith("failed: interrupted by signal")
    assert (list(world.guests), list(world.storages["local-lvm"].on("pve1"))) == ([110], ["local-lvm:vm-110-disk-0"])


async def test_a_clone_inherits_all_but_identities(admin: Client) -> None:
    """New are UUID, generation, MAC addresses and volumes."""
    await source(
        admin, scsi0="local-lvm:1,ssd=1", tags="gold", description="d", net0="virtio,bridge=vmbr0", onboot=1,
        ide2="local-lvm:cloudinit",
    )  # fmt: skip
    assert (await admin.run("POST", f"{QEMU}/110/clone", newid=111)).exitstatus == "OK"
    before, after = await admin.get(f"{QEMU}/110/config"), await admin.get(f"{QEMU}/111/config")
    assert after["name"] == "Copy-of-VM-src"
    assert after["scsi0"] == "local-lvm:vm-111-disk-0,size=1G,ssd=1"
    assert after["ide2"] == "local-lvm:vm-111-cloudinit,media=cdrom"
    new = {"name", "scsi0", "ide2", "smbios1", "vmgenid", "net0", "digest"}
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == new


async def test_clones_of_one_template_run_at_the_same_time(admin: Client) -> None:
    """They share the lock of a source that is off."""
    await source(admin, scsi0="local-lvm:1")
    assert (await admin.run("POST", f"{QEMU}/110/template")).exitstatus == "OK"
    assert (await admin.get(f"{QEMU}/110/config"))["scsi0"] == "local-lvm:base-110-disk-0,size=1G"
    queued = await asyncio.gather(
        *(admin.post(f"{QEMU}/110/clone", newid=200 + n, full=n % 2, name=f"c{n}") for n in range(8))
    )
    ended = [await admin.end(upid) for upid in queued]
    assert {one.exitstatus for one in ended} == {"OK"}
    assert [(await admin.get(f"{QEMU}/{200 + n}/config"))["name"] for n in range(8)] == [f"c{n}" for n in range(8)]


async def test_a_template_lives_as_long_as_linked_clones_lie_on_it(pve: Proxmox, admin: Client) -> None:
    """As a guest again it goes, but its base volume stays."""
    await source(admin, scsi0="shared:1,format=qcow2")
    await admin.run("POST", f"{QEMU}/110/template")
    start = await admin.run("POST", f"{QEMU}/110/status/start")
    assert start.exitstatus == "you can't start a vm if it's a template"
    await admin.run("POST", f"{QEMU}/110/clone", newid=115)
    linked = (await admin.get(f"{QEMU}/115/config"))["scsi0"]
    assert linked == "shared:110/base-110-disk-0.qcow2/115/vm-115-disk-0.qcow2,size=1G"
    refused = await admin.run("DELETE", f"{QEMU}/110")
    assert refused.exitstatus == "base volume 'shared:110/base-110-disk-0.qcow2' is still in use by linked cloned"
    await admin.put(f"{QEMU}/110/config", template=0)
    assert (await admin.run("DELETE", f"{QEMU}/110")).exitstatus == "WARNINGS: 1"
    assert "shared:110/base-110-disk-0.qcow2" in pve.world.storages["shared"].on("pve1")
    assert (await admin.run("DELETE", f"{QEMU}/115")).exitstatus == "OK"


async def test_what_cannot_be_linked_is_refused_at_once(admin: Client) -> None:
    """So is everything else that a look at the source tells."""
    await source(admin, scsi0="local-lvm:1")
    clone = f"{QEMU}/110/clone"
    linked = await admin.ask("POST", clone, newid=111, full=0)
    assert linked.reason == "Linked clone feature is not supported for 'local-lvm:vm-110-disk-0' (scsi0)"
    where = await admin.ask("POST", clone, newid=111, full=0, storage="shared")
    assert where.reason == "parameter 'storage' not allowed for linked clones"
    missing = await admin.ask("POST", f"{QEMU}/999/clone", newid=111)
    assert missing.reason == "unable to find configuration file for VM 999 on node 'pve1'"
    assert (await admin.ask("POST", clone, newid=111, target="x")).reason == "no such cluster node 'x'"
    local = await admin.ask("POST", clone, newid=111, target="pve2")
    assert local.reason == "can't clone VM to node 'pve2' (VM uses local storage)"
    assert (await admin.run("POST", clone, newid=111, target="pve2", storage="shared")).exitstatus == "OK"
    assert (await admin.get("/nodes/pve2/qemu/111/status/current"))["status"] == "stopped"


async def test_snapshots_form_a_tree(admin: Client) -> None:
    """Deleting one hands its children to its parent; going back moves the guest in the tree."""
    await source(admin, scsi0="local-lvm:1", memory=192)
    snapshot = f"{QEMU}/110/snapshot"
    await admin.run("POST", snapshot, snapname="s1", description="first")
    await admin.run("POST", snapshot, snapname="s2", vmstate=1)
    assert (await admin.run("POST", snapshot, snapname="s1")).exitstatus == "snapshot name 's1' already used"
    await admin.put(f"{QEMU}/110/config", memory=160, description="after")
    generation = (await admin.get(f"{QEMU}/110/config"))["vmgenid"]
    assert (await admin.run("POST", f"{snapshot}/s1/rollback")).exitstatus == "OK"
    config = await admin.get(f"{QEMU}/110/config")
    assert (config["memory"], config["description"], config["parent"]) == ("192", "after", "s1")
    assert config["vmgenid"] != generation
    await admin.run("POST", snapshot, snapname="s3")
    await admin.run("DELETE", f"{snapshot}/s1")
    rows = {row["name"]: row for row in await admin.get(snapshot)}
    assert {name: row.get("parent") for name, row in rows.items()} == {"s2": None, "s3": None, "current": "s3"}
    assert rows["s2"]["vmstate"] == 0
    assert (await admin.run("DELETE", f"{snapshot}/nope")).exitstatus == "snapshot 'nope' does not exist"


async def test_going_back_to_saved_memory_runs_the_guest(pve: Proxmox, admin: Client) -> None:
    """Without it a running guest ends stopped."""
    await source(admin, scsi0="local-lvm:1")
    await admin.run("POST", f"{QEMU}/110/snapshot", snapname="off")
    await admin.run("POST", f"{QEMU}/110/status/start")
    await admin.run("POST", f"{QEMU}/110/snapshot", snapname="ram", vmstate=1)
    assert "local-lvm:vm-110-state-ram" in pve.world.storages["local-lvm"].on("pve1")
    await admin.run("POST", f"{QEMU}/110/snapshot/off/rollback")
    assert pve.world.guests[110].status == "stopped"
    await admin.run("POST", f"{QEMU}/110/snapshot/ram/rollback")
    assert pve.world.guests[110].status == "running"


async def test_a_snapshot_with_memory_locks_the_config_and_not_the_file() -> None:
    """Calls meanwhile are refused at once instead of waiting."""
    async with proxmox(World(pace=Pace(vmstate=1e6))) as made, client(made) as admin:
        await source(admin, scsi0="local-lvm:1")
        await admin.run("POST", f"{QEMU}/110/status/start")
        upid = await admin.post(f"{QEMU}/110/snapshot", snapname="ram", vmstate=1)
        while "lock" not in await admin.get(f"{QEMU}/110/status/current"):
            pass
        assert (await admin.ask("PUT", f"{QEMU}/110/config", memory=64)).reason == "VM is locked (snapshot)"
        assert (await admin.run("POST", f"{QEMU}/110/status/stop")).exitstatus == "VM is locked (snapshot)"
        await admin.delete(f"/nodes/pve1/tasks/{upid}")
        assert (made.world.guests[110].lock, made.world.guests[110].snapshots) == ("", {})


async def test_a_raw_file_cannot_be_snapshot(admin: Client) -> None:
    """The task tells."""
    await source(admin, scsi0="shared:1,format=raw")
    ended = await admin.run("POST", f"{QEMU}/110/snapshot", snapname="s1")
    assert ended.exitstatus == "snapshot feature is not available"
    told = await admin.get(f"{QEMU}/110/feature", feature="snapshot")
    assert told == {"hasFeature": 0, "nodes": ["pve1", "pve2", "pve3"]}


async def test_bytes_follow_a_disk_through_its_life(pve: Proxmox, admin: Client, tmp_path: Path) -> None:
    """Imported, cloned, made a template, moved to a directory that others mount."""
    world = pve.world
    world.storages["shared"].root = tmp_path
    content = b"\xeb\x63boot" + bytes(1 << 20)
    file = pve.home / "image.raw"
    file.write_bytes(content)
    world.storages["shared"].on("pve1")["shared:import/image.raw"] = Volume(
        "shared:import/image.raw", "import", "raw", len(content), file=file
    )
    await source(admin, scsi0="local-lvm:0,import-from=shared:import/image.raw")
    await admin.run("POST", f"{QEMU}/110/template")
    await admin.run("POST", f"{QEMU}/110/clone", newid=111)
    await admin.run("PUT", f"{QEMU}/111/resize", disk="scsi0", size="+1M")
    ended = await admin.run("POST", f"{QEMU}/111/move_disk", disk="scsi0", storage="shared", format="qcow2", delete=1)
    assert ended.exitstatus == "OK"
    moved = tmp_path / "images/111/vm-111-disk-0.qcow2"
    assert bytes_of_volume(world, "pve2", "shared:111/vm-111-disk-0.qcow2") == moved
    back = tmp_path / "back.raw"
    await convert(moved, back, "raw")
    assert back.read_bytes()[: len(content)] == content
    await admin.run("DELETE", f"{QEMU}/111")
    assert not moved.exists()


async def test_a_snippet_that_is_written_into_the_directory_is_a_volume(pve: Proxmox, tmp_path: Path) -> None:
    """There is no other way to bring one."""
    shared = pve.world.storages["shared"]
    shared.root = tmp_path
    (tmp_path / "snippets").mkdir()
    (tmp_path / "snippets" / "u.yaml").write_text("#cloud-config\n")
    assert pve.world.volume("shared:snippets/u.yaml", "pve3") is not None
    (tmp_path / "snippets" / "u.yaml").unlink()
    assert pve.world.volume("shared:snippets/u.yaml", "pve3") is None


async def test_a_backup_becomes_a_guest_again(pve: Proxmox, admin: Client) -> None:
    """What the call asks for is laid over what the archive holds; the same VMID only by force."""
    await source(admin, scsi0="local-lvm:2,ssd=1", memory=192, tags="gold", net0="virtio,bridge=vmbr0")
    archive = back_up(pve.world, pve.world.guests[110], "shared")
    assert "memory: 192\n" in await admin.get("/nodes/pve2/vzdump/extractconfig", volume=archive)
    made = await admin.run("POST", QEMU, vmid=111, archive=archive, storage="shared", unique=1, memory=256)
    assert (made.exitstatus, made.upid.split(":")[5]) == ("OK", "qmrestore")
    before, after = await admin.get(f"{QEMU}/110/config"), await admin.get(f"{QEMU}/111/config")
    assert (after["memory"], after["tags"], after["scsi0"]) == (
        "256",
        "gold",
        "shared:111/vm-111-disk-0.raw,size=2G,ssd=1",
    )
    assert before["net0"] != after["net0"]
    assert before["smbios1"] != after["smbios1"]
    taken = await admin.ask("POST", QEMU, vmid=110, archive=archive)
    assert taken.reason == "unable to restore VM 110 - VM 110 already exists on node 'pve1'"
    assert (await admin.run("POST", QEMU, vmid=110, archive=archive, force=1)).exitstatus == "OK"
    assert list(pve.world.storages["local-lvm"].on("pve1")) == ["local-lvm:vm-110-disk-1"]
    missing = await admin.run("POST", QEMU, vmid=112, archive="shared:backup/vzdump-qemu-1-x.vma.zst")
    assert missing.exitstatus.startswith("unable to restore VM 112 - volume")
    assert 112 not in pve.world.guests
