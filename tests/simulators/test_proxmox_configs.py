"""Configs in the simulated Proxmox VE: what is kept, what waits, and what becomes of disks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from simulators.proxmox import Proxmox, pve
from simulators.proxmox.client import Client, by_ticket, client

__all__ = ["pve"]
QEMU = "/nodes/pve1/qemu"
CONFIG = f"{QEMU}/101/config"


@pytest.fixture
async def admin(pve: Proxmox) -> AsyncIterator[Client]:
    async with client(pve) as made:
        yield made


async def made(admin: Client, **params: object) -> None:
    ended = await admin.run("POST", QEMU, vmid=101, name="a", **params)
    assert ended.exitstatus == "OK"


async def test_a_config_reads_back_as_proxmox_keeps_it(admin: Client) -> None:
    """Identities are made, disks named, tags sorted, and numbers are mixed."""
    net = "virtio,bridge=vmbr0,firewall=1,tag=10"
    await made(
        admin, memory=128, cores=2, agent=1, scsi0="local-lvm:8,ssd=1,discard=on", net0=net, tags="b;a;A",
        description="x\n", onboot=1, ide2="local-lvm:cloudinit", efidisk0="local-lvm:1,efitype=4m",
    )  # fmt: skip
    config = await admin.get(CONFIG)
    assert (config["memory"], config["cores"], config["agent"], config["onboot"]) == ("128", 2, "1", 1)
    assert (config["tags"], config["description"]) == ("a;b", "x")
    assert config["scsi0"] == "local-lvm:vm-101-disk-0,discard=on,size=8G,ssd=1"
    assert config["efidisk0"] == "local-lvm:vm-101-disk-1,efitype=4m,size=528K"
    assert config["ide2"] == "local-lvm:vm-101-cloudinit,media=cdrom"
    assert re.fullmatch(r"virtio=BC:24:11(:[0-9A-F]{2}){3},bridge=vmbr0,firewall=1,tag=10", config["net0"])
    assert re.fullmatch(r"uuid=[0-9a-f-]{36}", config["smbios1"])
    assert config["boot"] == "order=scsi0;net0"
    assert re.fullmatch(r"[0-9a-f]{40}", config["digest"])


async def test_a_stale_digest_is_refused(admin: Client) -> None:
    """It changes with every change, and with nothing else."""
    await made(admin)
    first = (await admin.get(CONFIG))["digest"]
    await admin.put(CONFIG, memory=192, digest=first)
    second = (await admin.get(CONFIG))["digest"]
    for method in ("PUT", "POST"):
        answer = await admin.ask(method, CONFIG, memory=128, digest=first)
        assert (answer.status, answer.reason) == (500, "checksum mismatch (file change by other user?)")
    await admin.put(CONFIG, memory=192, digest=second)
    assert (await admin.get(CONFIG))["digest"] == second


async def test_what_contradicts_itself_is_refused(admin: Client) -> None:
    """And nothing of it is done."""
    await made(admin, scsi0="local-lvm:1")
    assert (await admin.ask("PUT", CONFIG)).reason == "no options specified"
    unknown = await admin.ask("PUT", CONFIG, delete="scsi0,bogus")
    assert unknown.errors == {"delete": "unknown option 'bogus'"}
    assert "scsi0" in await admin.get(CONFIG)
    both = await admin.ask("PUT", CONFIG, cores=1, delete="cores")
    assert both.errors == {"delete": "you can't use '-cores' and -delete cores' at the same time"}
    assert (await admin.ask("PUT", CONFIG, delete="numa")).status == 200


async def test_a_running_guest_keeps_what_needs_a_restart_pending(pve: Proxmox, admin: Client) -> None:
    """GET shows the pending value unless told otherwise; the next start makes it true."""
    await made(admin, memory=192, cores=1)
    await admin.run("POST", f"{QEMU}/101/status/start")
    assert (await admin.run("POST", CONFIG, memory=256, cores=2)).lines[0] == "update VM 101: -memory 256 -cores 2"
    await admin.put(CONFIG, name="b", tags="t", description="d")
    assert (await admin.get(CONFIG))["memory"] == "256"
    now = await admin.get(CONFIG, current=1)
    assert (now["memory"], now["cores"], now["name"]) == ("192", 1, "b")
    waiting = {row["key"]: row["pending"] for row in await admin.get(f"{QEMU}/101/pending") if "pending" in row}
    assert waiting == {"memory": "256", "cores": 2}
    await admin.put(CONFIG, revert="memory")
    await admin.run("POST", f"{QEMU}/101/status/stop")
    assert (await admin.get(CONFIG, current=1))["cores"] == 2
    assert pve.world.guests[101].pending == {}


async def test_a_disk_that_is_taken_away_stays_as_unused(pve: Proxmox, admin: Client) -> None:
    """Its options are lost; attached again it is not unused any more; deleted as unused its volume goes."""
    await made(admin, scsi0="local-lvm:1", scsi1="local-lvm:2,ssd=1")
    await admin.put(CONFIG, delete="scsi1")
    assert (await admin.get(CONFIG))["unused0"] == "local-lvm:vm-101-disk-1"
    await admin.put(CONFIG, virtio1="local-lvm:vm-101-disk-1")
    config = await admin.get(CONFIG)
    assert config["virtio1"] == "local-lvm:vm-101-disk-1,size=2G"
    assert "unused0" not in config
    await admin.put(CONFIG, virtio1="local-lvm:3")
    assert (await admin.get(CONFIG))["unused0"] == "local-lvm:vm-101-disk-1"
    await admin.put(CONFIG, delete="unused0")
    await admin.put(f"{QEMU}/101/unlink", idlist="virtio1", force=1)
    assert list(pve.world.storages["local-lvm"].on("pve1")) == ["local-lvm:vm-101-disk-0"]


async def test_the_boot_order_follows_the_drives(admin: Client) -> None:
    """The boot disk's place is lost with it, and does not come back."""
    await made(admin, scsi0="local-lvm:1")
    await admin.put(CONFIG, ide2="none,media=cdrom")
    assert (await admin.get(CONFIG))["boot"] == "order=scsi0;ide2"
    await admin.put(CONFIG, delete="scsi0,ide2")
    assert (await admin.get(CONFIG))["boot"] == " "
    await admin.put(CONFIG, scsi0="local-lvm:vm-101-disk-0")
    assert (await admin.get(CONFIG))["boot"] == " "
    answer = await admin.ask("PUT", CONFIG, boot="order=scsi9")
    assert answer.reason == "invalid bootorder: device 'scsi9' does not exist'"


async def test_disks_and_nics_are_plugged_into_a_running_guest(admin: Client) -> None:
    """But a boot disk is not plugged out, an IDE disk waits, and a NIC needs its bridge."""
    await made(admin, scsi0="local-lvm:1")
    await admin.run("POST", f"{QEMU}/101/status/start")
    await admin.run("POST", CONFIG, scsi1="local-lvm:1")
    await admin.put(CONFIG, ide0="local-lvm:1", net0="virtio,bridge=vmbr0")
    now = await admin.get(CONFIG, current=1)
    assert {"scsi1", "net0"} <= now.keys()
    assert "ide0" not in now
    answer = await admin.ask("PUT", CONFIG, delete="scsi0")
    assert answer.errors == {"scsi0": "hotplug problem - can't unplug bootdisk 'scsi0'\n"}
    ended = await admin.run("POST", CONFIG, net1="virtio,bridge=vmbr77")
    assert ended.exitstatus.startswith("400 Parameter verification failed. net1: hotplug problem - VM 101 qmp command")
    assert "vmbr77" in (await admin.get(CONFIG))["net1"]
    await admin.put(CONFIG, delete="scsi1")
    assert (await admin.get(CONFIG, current=1))["unused0"] == "local-lvm:vm-101-disk-1"


async def test_a_disk_grows_and_never_shrinks(admin: Client) -> None:
    """Every refusal is the task's."""
    await made(admin, scsi0="local-lvm:1")
    resize = f"{QEMU}/101/resize"
    assert (await admin.run("PUT", resize, disk="scsi0", size="+1G")).exitstatus == "OK"
    assert (await admin.run("PUT", resize, disk="scsi0", size="2G")).exitstatus == "OK"
    assert (await admin.get(CONFIG))["scsi0"] == "local-lvm:vm-101-disk-0,size=2G"
    assert (await admin.run("PUT", resize, disk="scsi0", size="1G")).exitstatus == "shrinking disks is not supported"
    assert (await admin.run("PUT", resize, disk="scsi7", size="1G")).exitstatus == "disk 'scsi7' does not exist"
    stale = await admin.run("PUT", resize, disk="scsi0", size="9G", digest="0" * 40)
    assert stale.exitstatus == "checksum mismatch (file change by other user?)"


async def test_a_disk_moves_to_another_storage(pve: Proxmox, admin: Client) -> None:
    """Its source stays as unused unless it is to go."""
    await made(admin, scsi0="local-lvm:1,ssd=1")
    move = f"{QEMU}/101/move_disk"
    assert (await admin.run("POST", move, disk="scsi0", storage="shared", format="qcow2")).exitstatus == "OK"
    config = await admin.get(CONFIG)
    assert config["scsi0"] == "shared:101/vm-101-disk-0.qcow2,size=1G,ssd=1"
    assert config["unused0"] == "local-lvm:vm-101-disk-0"
    same = await admin.ask("POST", move, disk="scsi0", storage="shared", format="qcow2")
    assert same.reason == "you can't move to the same storage with same format"
    await admin.run("POST", move, disk="scsi0", storage="local-lvm", delete=1)
    assert list(pve.world.storages["shared"].on("pve1")) == []


async def test_a_locked_config_is_not_changed(pve: Proxmox, admin: Client) -> None:
    """Only root in person may look past the lock, or take it away."""
    await made(admin)
    pve.world.guests[101].lock = "backup"
    assert (await admin.ask("PUT", CONFIG, memory=64)).reason == "VM is locked (backup)"
    assert (await admin.run("POST", f"{QEMU}/101/status/start")).exitstatus == "VM is locked (backup)"
    assert (await admin.run("POST", f"{QEMU}/101/status/stop")).exitstatus == "OK"
    assert (await admin.run("DELETE", f"{QEMU}/101")).exitstatus == "VM is locked (backup)"
    assert (await admin.ask("PUT", CONFIG, delete="lock")).reason == "only root can set 'lock' config"
    async with client(pve, await by_ticket(pve)) as root:
        await root.put(CONFIG, delete="lock", skiplock=1)
    assert (await admin.ask("PUT", CONFIG, memory=64)).status == 200


async def test_cloud_init_is_told_apart_from_what_the_drive_was_made_from(admin: Client) -> None:
    """The password never comes back, and the guest sees a change after its next start."""
    await made(admin, ide2="local-lvm:cloudinit", ciuser="u", cipassword="p", sshkeys="ssh-ed25519%20AAAA%20x")
    assert (await admin.get(CONFIG))["cipassword"] == "**********"
    await admin.run("POST", f"{QEMU}/101/status/start")
    await admin.put(CONFIG, ciuser="v")
    rows = {row["key"]: row for row in await admin.get(f"{QEMU}/101/cloudinit")}
    assert rows["ciuser"] == {"key": "ciuser", "value": "u", "pending": "v"}
    assert "  - ssh-ed25519 AAAA x" in await admin.get(f"{QEMU}/101/cloudinit/dump", type="user")
    second = await admin.ask("PUT", CONFIG, ide3="local-lvm:cloudinit")
    assert second.reason == "ide3 - cloud-init drive is already attached at 'ide2'"


async def test_a_change_is_made_whole_or_not_at_all(pve: Proxmox, admin: Client) -> None:
    """The volume of the disk that could be made is gone again."""
    await made(admin)
    before = await admin.get(CONFIG)
    answer = await admin.ask("PUT", CONFIG, memory=64, scsi0="local-lvm:1", scsi1="local-lvm:vm-101-disk-9")
    assert (answer.status, answer.reason) == (500, "volume 'local-lvm:vm-101-disk-9' does not exist")
    assert await admin.get(CONFIG) == before
    assert pve.world.storages["local-lvm"].on("pve1") == {}


async def test_rights_on_a_guest_end_with_it(pve: Proxmox, admin: Client) -> None:
    """Who may use the next guest with that VMID is asked anew."""
    await made(admin)
    async with client(pve, await by_ticket(pve)) as root:
        await root.post("/access/users", userid="a@pve")
        await root.put("/access/acl", path="/vms/101", roles="PVEVMUser", users="a@pve")
        await admin.run("DELETE", f"{QEMU}/101")
        assert [row["path"] for row in await root.get("/access/acl")] == ["/"]


async def test_a_disk_is_handed_to_another_guest(pve: Proxmox, admin: Client) -> None:
    """Nothing is copied; the volume gets the name that its new owner's have."""
    await made(admin, scsi0="local-lvm:1", scsi1="local-lvm:2,ssd=1")
    await admin.run("POST", QEMU, vmid=102, scsi0="local-lvm:1")
    move = f"{QEMU}/101/move_disk"
    used = await admin.run("POST", move, disk="scsi1", target__vmid=102, target__disk="scsi0")
    assert used.exitstatus == "Target disk key 'scsi0' is already in use for VM '102'"
    ended = await admin.run("POST", move, disk="scsi1", target__vmid=102, target__disk="virtio5")
    assert ended.exitstatus == "OK"
    assert (await admin.get(f"{QEMU}/102/config"))["virtio5"] == "local-lvm:vm-102-disk-1,size=2G,ssd=1"
    assert "scsi1" not in await admin.get(CONFIG)
    assert "local-lvm:vm-101-disk-1" not in pve.world.storages["local-lvm"].on("pve1")
