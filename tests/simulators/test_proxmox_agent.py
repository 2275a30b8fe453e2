"""Guest agents, mapped devices and networks of the simulated Proxmox VE."""

from __future__ import annotations

import pytest

from simulators.proxmox import Proxmox, World, pve
from simulators.proxmox.client import client
from simulators.proxmox.world import Guest, Running

__all__ = ["pve"]

PATH = "/nodes/pve1/qemu/100"
MAC = "BC:24:11:00:00:01"


def guest(world: World, *, agent: bool = True, **config: str) -> Guest:
    made = world.add_guest(100, "pve1", {"name": "g100", "agent": "1", "net0": f"virtio={MAC},bridge=vmbr0", **config})
    made.run, made.agent = Running(1, "pc-i440fx-10.0+pve0"), agent
    return made


async def test_an_agent_tells_of_its_guest(pve: Proxmox) -> None:
    guest(pve.world).facts["addresses"] = {"net0": ["192.0.2.7/24", "2001:db8::7/64"]}
    async with client(pve) as admin:
        nics = (await admin.get(f"{PATH}/agent/network-get-interfaces"))["result"]
        name = await admin.get(f"{PATH}/agent/get-host-name")
        system = (await admin.get(f"{PATH}/agent/get-osinfo"))["result"]
        await admin.post(f"{PATH}/agent/ping")
        assert (await admin.post(f"{PATH}/agent", command="get-host-name")) == name
    assert [nic["name"] for nic in nics] == ["lo", "eth0"]
    assert nics[1]["hardware-address"] == MAC.lower()
    assert [each["ip-address"] for each in nics[1]["ip-addresses"]] == ["192.0.2.7", "2001:db8::7"]
    assert name == {"result": {"host-name": "g100"}}
    assert system["id"] == "alpine"


@pytest.mark.parametrize(
    ("config", "running", "reason"),
    [
        ("1", True, "QEMU guest agent is not running"),
        ("0", True, "QEMU guest agent is not running"),
        ("1", False, "VM 100 is not running"),
        ("", True, "No QEMU guest agent configured"),
    ],
)
async def test_without_an_agent_the_reason_is_told(pve: Proxmox, config: str, running: bool, reason: str) -> None:
    made = guest(pve.world, agent=False)
    made.config["agent"] = config
    if not config:
        del made.config["agent"]
    if not running:
        made.run = None
    async with client(pve) as admin:
        answer = await admin.ask("POST", f"{PATH}/agent/ping")
    assert (answer.status, answer.reason) == (500, reason)


async def test_a_shutdown_by_the_agent_leaves_no_task(pve: Proxmox) -> None:
    made = guest(pve.world)
    async with client(pve) as admin:
        await admin.post(f"{PATH}/agent/shutdown")
        tasks = await admin.get("/nodes/pve1/tasks", vmid=100)
    assert (made.status, tasks) == ("stopped", [])


async def test_files_go_in_and_out(pve: Proxmox) -> None:
    guest(pve.world)
    async with client(pve) as admin:
        await admin.post(f"{PATH}/agent/file-write", file="/tmp/a", content="hello")
        told = await admin.get(f"{PATH}/agent/file-read", file="/tmp/a")
        missing = await admin.ask("GET", f"{PATH}/agent/file-read", file="/tmp/b")
        started = await admin.post(f"{PATH}/agent/exec", command="true")
        ended = await admin.get(f"{PATH}/agent/exec-status", pid=started["pid"])
    assert told == {"content": "hello"}
    assert missing.status == 500
    assert (ended["exited"], ended["exitcode"]) == (1, 0)


async def test_virtual_networks_are_everywhere(pve: Proxmox) -> None:
    async with client(pve) as admin:
        await admin.post("/cluster/sdn/vnets", vnet="blue", zone="z1", tag=7)
        vnets = await admin.get("/cluster/sdn/vnets")
        here = await admin.get("/nodes/pve2/sdn/zones/z1/content")
        bridges = await admin.get("/nodes/pve2/sdn/zones/localnetwork/content")
        again = await admin.ask("POST", "/cluster/sdn/vnets", vnet="blue", zone="z1")
    assert vnets == [{"vnet": "blue", "zone": "z1", "type": "vnet", "tag": 7}]
    assert [row["vnet"] for row in here] == ["blue"]
    assert [row["vnet"] for row in bridges] == ["vmbr0", "vmbr1"]
    assert again.status == 500


async def test_devices_have_a_name_for_the_cluster(pve: Proxmox) -> None:
    device = "node=pve1,path=0000:01:00.0,id=8086:10ca"
    async with client(pve) as admin:
        await admin.post("/cluster/mapping/pci", id="gpu", map=device)
        listed = await admin.get("/cluster/mapping/pci")
        nowhere = await admin.ask("POST", "/cluster/mapping/pci", id="x1", map="node=nope,path=1,id=2")
        await admin.delete("/cluster/mapping/pci/gpu")
        gone = await admin.ask("GET", "/cluster/mapping/pci/gpu")
    assert listed == [{"id": "gpu", "type": "pci", "map": [device]}]
    assert nowhere.reason == "no such cluster node 'nope'"
    assert gone.reason == "mapping 'gpu' not found"
