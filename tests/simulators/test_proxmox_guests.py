"""Guests of the simulated Proxmox VE: made, started, stopped, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox.client import Client, by_ticket, client

__all__ = ["pve"]
QEMU = "/nodes/pve1/qemu"


@pytest.fixture
async def admin(pve: Proxmox) -> AsyncIterator[Client]:
    async with client(pve) as made:
        yield made


async def test_a_guest_lives_from_create_to_delete(pve: Proxmox, admin: Client) -> None:
    """Each verb answers a UPID, and its volume goes with it."""
    made = await admin.run("POST", QEMU, vmid=101, name="a", memory=1024, cores=2, scsi0="local-lvm:8", tags="B;a b")
    assert made.exitstatus == "OK"
    assert "scsi0: successfully created disk 'local-lvm:vm-101-disk-0,size=8G'" in made.lines
    assert (await admin.run("POST", f"{QEMU}/101/status/start")).exitstatus == "OK"
    told = await admin.get(f"{QEMU}/101/status/current")
    assert (told["status"], told["qmpstatus"], told["tags"], told["cpus"]) == ("running", "running", "a;b", 2)
    assert (await admin.ask("DELETE", f"{QEMU}/101")).reason == "VM 101 is running - destroy failed"
    assert (await admin.run("POST", f"{QEMU}/101/status/stop")).exitstatus == "OK"
    assert (await admin.run("DELETE", f"{QEMU}/101")).exitstatus == "OK"
    gone = await admin.ask("GET", f"{QEMU}/101/status/current")
    assert (gone.status, gone.reason) == (500, "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist")
    assert pve.world.storages["local-lvm"].on("pve1") == {}


async def test_of_two_equal_creates_one_wins(admin: Client) -> None:
    """nextid reserves nothing, so this is how two callers find out."""
    both = await asyncio.gather(*(admin.ask("POST", QEMU, vmid=121, name=f"x{n}") for n in range(2)))
    assert sorted(answer.status for answer in both) == [200, 500]
    lost = next(answer for answer in both if answer.status == 500)
    assert lost.reason == "unable to create VM 121 - VM 121 already exists on node 'pve1'"


async def test_a_vmid_is_taken_in_the_whole_cluster(admin: Client) -> None:
    """Another node has no other numbers."""
    await admin.run("POST", QEMU, vmid=121)
    answer = await admin.ask("POST", "/nodes/pve2/qemu", vmid=121)
    assert answer.reason == "unable to create VM 121 - VM 121 already exists on node 'pve1'"


async def test_a_create_that_fails_leaves_nothing(pve: Proxmox, admin: Client) -> None:
    """Neither the config nor the volume of the disk before."""
    ended = await admin.run("POST", QEMU, vmid=103, scsi0="local-lvm:1", ide2="local:iso/nope.iso,media=cdrom")
    assert ended.exitstatus == "unable to create VM 103 - volume 'local:iso/nope.iso' does not exist"
    assert 103 not in pve.world.guests
    assert pve.world.storages["local-lvm"].on("pve1") == {}


async def test_a_missing_storage_is_refused_at_once(admin: Client) -> None:
    """And one without images is told under `storage`."""
    missing = await admin.ask("POST", QEMU, vmid=103, scsi0="nope:1")
    assert (missing.status, missing.reason) == (500, "storage 'nope' does not exist")
    other = await admin.ask("POST", QEMU, vmid=103, scsi0="local:1")
    assert (other.status, other.errors) == (400, {"storage": "storage 'local' does not support vm images"})


async def test_what_is_wrong_with_a_start_only_the_task_tells(admin: Client) -> None:
    """200 with a UPID means queued."""
    missing = await admin.run("POST", f"{QEMU}/999/status/start")
    assert missing.exitstatus == "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist"
    assert missing.lines == [f"TASK ERROR: {missing.exitstatus}"]
    await admin.run("POST", QEMU, vmid=101, net0="virtio,bridge=vmbr77")
    assert (await admin.run("POST", f"{QEMU}/101/status/start")).exitstatus == "bridge 'vmbr77' does not exist"


async def test_two_starts_at_once_take_turns(admin: Client) -> None:
    """The second waits for the file lock and finds it running."""
    await admin.run("POST", QEMU, vmid=101)
    queued = [await admin.post(f"{QEMU}/101/status/start") for _ in range(2)]
    ended = [await admin.end(upid) for upid in queued]
    assert [one.exitstatus for one in ended] == ["OK", "VM 101 already running"]
    assert ended[1].lines[:2] == ["trying to acquire lock...", " OK"]


async def test_a_shutdown_holds_the_lock_until_a_stop_overrules_it(pve: Proxmox, admin: Client) -> None:
    """Everything else that needs the guest gives up meanwhile."""
    await admin.run("POST", QEMU, vmid=101)
    await admin.run("POST", f"{QEMU}/101/status/start")
    pve.world.guests[101].obeys = False
    waiting = await admin.post(f"{QEMU}/101/status/shutdown", timeout=3000)
    refused = await admin.run("POST", f"{QEMU}/101/status/stop")
    assert refused.exitstatus == "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout"
    stopped = await admin.run("POST", f"{QEMU}/101/status/stop", overrule__shutdown=1)
    assert (stopped.exitstatus, stopped.lines[0]) == ("OK", f"overruled qmshutdown tasks: {waiting}")
    assert (await admin.end(waiting)).exitstatus == "received interrupt"
    assert pve.world.guests[101].status == "stopped"


async def test_a_guest_that_obeys_goes_off(pve: Proxmox, admin: Client) -> None:
    """One that does not runs on, unless force is asked for."""
    await admin.run("POST", QEMU, vmid=101, start=1)
    await asyncio.gather(*(admin.end(upid) for upid in list(pve.world.tasks.all)))
    pve.world.guests[101].obeys = False
    late = await admin.run("POST", f"{QEMU}/101/status/shutdown", timeout=1)
    assert late.exitstatus == "VM quit/powerdown failed - got timeout"
    assert pve.world.guests[101].status == "running"
    pve.world.guests[101].obeys = True
    assert (await admin.run("POST", f"{QEMU}/101/status/shutdown")).exitstatus == "OK"
    assert pve.world.guests[101].status == "stopped"


async def test_verbs_of_a_running_guest_are_refused_at_once_when_it_is_off(admin: Client) -> None:
    """stop and shutdown are content."""
    await admin.run("POST", QEMU, vmid=101)
    for verb in ("reboot", "reset", "suspend", "resume"):
        answer = await admin.ask("POST", f"{QEMU}/101/status/{verb}")
        assert (answer.status, answer.reason) == (500, "VM 101 not running")
    for verb in ("stop", "shutdown"):
        assert (await admin.run("POST", f"{QEMU}/101/status/{verb}")).exitstatus == "OK"


async def test_a_paused_guest_shows_only_in_its_own_status(admin: Client) -> None:
    """The plain list calls it running."""
    await admin.run("POST", QEMU, vmid=101)
    await admin.run("POST", f"{QEMU}/101/status/start")
    await admin.run("POST", f"{QEMU}/101/status/suspend")
    assert (await admin.get(f"{QEMU}/101/status/current"))["qmpstatus"] == "paused"
    assert "qmpstatus" not in (await admin.get(QEMU))[0]
    assert (await admin.get(QEMU, full=1))[0]["qmpstatus"] == "paused"
    assert (await admin.run("POST", f"{QEMU}/101/status/start")).exitstatus == "VM 101 already running"
    assert (await admin.run("POST", f"{QEMU}/101/status/resume")).exitstatus == "OK"


async def test_a_hibernated_guest_is_stopped_and_locked(pve: Proxmox, admin: Client) -> None:
    """Its memory is a volume until it wakes."""
    await admin.run("POST", QEMU, vmid=101, scsi0="local-lvm:1")
    await admin.run("POST", f"{QEMU}/101/status/start")
    assert (await admin.run("POST", f"{QEMU}/101/status/suspend", todisk=1)).exitstatus == "OK"
    told = await admin.get(f"{QEMU}/101/status/current")
    assert (told["status"], told["lock"]) == ("stopped", "suspended")
    assert len(pve.world.storages["local-lvm"].on("pve1")) == 2
    assert (await admin.run("POST", f"{QEMU}/101/status/resume")).exitstatus == "OK"
    assert pve.world.guests[101].lock == ""
    assert len(pve.world.storages["local-lvm"].on("pve1")) == 1


async def test_cluster_resources_lags_behind() -> None:
    """A VMID that is used again shows its predecessor's name until the next round."""
    async with proxmox(World(pace=Pace(refresh=1e9))) as made, client(made) as admin:
        await admin.run("POST", QEMU, vmid=101, name="old")
        made.world.board.report_all()
        await admin.run("DELETE", f"{QEMU}/101")
        assert await admin.get("/cluster/resources", type="vm") == []
        await admin.run("POST", QEMU, vmid=101, name="new", tags="t")
        (row,) = await admin.get("/cluster/resources", type="vm")
        assert (row["name"], row["tags"]) == ("old", "t")
        made.world.board.report_all()
        (row,) = await admin.get("/cluster/resources", type="vm")
        assert row["name"] == "new"


async def test_only_root_in_person_may_set_what_is_dangerous(pve: Proxmox, admin: Client) -> None:
    """A token of an administrator is refused, and so is one of root."""
    assert (await admin.ask("POST", QEMU, vmid=101, args="-S")).reason == "only root can set 'args' config"
    await admin.run("POST", QEMU, vmid=101)
    answer = await admin.ask("POST", f"{QEMU}/101/status/stop", skiplock=1)
    assert answer.errors == {"skiplock": "Only root may use this option."}
    async with client(pve, await by_ticket(pve)) as root:
        assert (await root.run("POST", f"{QEMU}/101/status/stop", skiplock=1)).exitstatus == "OK"


async def test_a_forbidden_guest_is_forbidden_even_when_it_is_not_there(pve: Proxmox) -> None:
    """Rights are looked at first."""
    async with client(pve, await by_ticket(pve)) as root:
        await root.post("/access/users", userid="a@pve", password="12345678")
    async with client(pve, await by_ticket(pve, "a@pve", "12345678")) as nobody:
        answer = await nobody.ask("GET", f"{QEMU}/998/status/current")
        create = await nobody.ask("POST", QEMU, vmid=150)
    assert (answer.status, answer.reason) == (403, "Permission check failed (/vms/998, VM.Audit)")
    assert (create.status, create.reason) == (403, "Permission check failed")


async def test_a_host_has_only_so_much(pve: Proxmox, admin: Client) -> None:
    """Memory is counted over all guests that run, processors for each."""
    pve.world.nodes["pve1"].memory = 8 << 30
    await admin.run("POST", QEMU, vmid=101, memory=3072)
    await admin.run("POST", QEMU, vmid=102, memory=3072)
    await admin.run("POST", QEMU, vmid=103, sockets=2, cores=32)
    assert (await admin.run("POST", f"{QEMU}/101/status/start")).exitstatus == "OK"
    full = await admin.run("POST", f"{QEMU}/102/status/start")
    assert full.exitstatus == "start failed: QEMU exited with code 1"
    assert full.lines[-2].endswith("Cannot allocate memory")
    many = await admin.run("POST", f"{QEMU}/103/status/start")
    assert many.exitstatus == "MAX 32 vcpus allowed per VM on this node"
