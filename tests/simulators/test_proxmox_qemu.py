"""A guest that really boots behind the API of the simulated Proxmox VE."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from libvirtd.fixtures import guest_image, missing

from simulators.proxmox import Pace, Proxmox, World, proxmox
from simulators.proxmox.client import Client, client
from simulators.proxmox.qemu import BINARY, Qemu

__all__ = ["guest_image"]

BOOT_SECONDS = 90
PATH = "/nodes/pve1/qemu/100"


@pytest.fixture
async def backed() -> AsyncIterator[Proxmox]:
    """A cluster of one node whose guests are real; a second of it is a fifth of one here."""
    if shutil.which(BINARY) is None:
        missing(f"{BINARY} is not installed")
    world = World(("pve1",), Pace(scale=1 / 5, clean_up=0))  # on again at once without waiting for a lock
    async with proxmox(world) as pve:
        qemu = Qemu(world)
        try:
            yield pve
        finally:
            await qemu.close()


async def said(pve: Proxmox, admin: Client, text: bytes, typed: bytes = b"") -> bytes:
    """What the guest printed on its serial line until it printed `text`."""
    told = await admin.post(f"{PATH}/termproxy")
    query = urlencode({"port": told["port"], "vncticket": told["ticket"]})
    tls = ssl.create_default_context(cafile=pve.ca_file)
    seen = b""
    async with (
        asyncio.timeout(BOOT_SECONDS),
        aiohttp.ClientSession(headers={"Authorization": pve.token}) as session,
        session.ws_connect(f"{pve.url}/api2/json{PATH}/vncwebsocket?{query}", ssl=tls) as line,
    ):
        await line.send_bytes(f"{told['user']}:{told['ticket']}\n".encode())
        await line.send_bytes(b"0:%d:%s" % (len(typed), typed))
        while text not in seen:
            message = await line.receive()
            assert message.type is aiohttp.WSMsgType.BINARY, seen.decode(errors="replace")
            seen += message.data
    return seen


@pytest.mark.real
async def test_a_guest_boots_from_an_imported_image_and_obeys(backed: Proxmox, guest_image: Path) -> None:
    """Create by import, serial line, agent, pause, power button: all through the API."""
    async with client(backed) as admin:
        content = await asyncio.to_thread(guest_image.read_bytes)
        path = "/nodes/pve1/storage/shared/upload"
        sent = await admin.upload(path, "guest.qcow2", content, {"content": "import"})
        assert (await admin.end(sent.data)).exitstatus == "OK"
        made = await admin.run(
            "POST", "/nodes/pve1/qemu", vmid=100, name="real", memory=256, agent=1, serial0="socket",
            boot="order=scsi0", scsihw="virtio-scsi-pci",
            scsi0="shared:0,import-from=shared:import/guest.qcow2,format=qcow2",
            net0="virtio=BC:24:11:00:00:01,bridge=vmbr0",
        )  # fmt: skip
        assert made.exitstatus == "OK", made.lines
        started = await admin.run("POST", f"{PATH}/status/start")
        assert started.exitstatus == "OK", started.lines
        await said(backed, admin, b"virtrigaud-guest: ready")
        assert b"\n7\r" in await said(backed, admin, b"\n7\r", typed=b"echo $((3 + 4))\r")
        async with asyncio.timeout(BOOT_SECONDS):
            while (await admin.ask("POST", f"{PATH}/agent/ping")).status != 200:
                pass  # each question waits for a while
        nics = (await admin.get(f"{PATH}/agent/network-get-interfaces"))["result"]
        await admin.run("POST", f"{PATH}/status/suspend")
        assert (await admin.get(f"{PATH}/status/current"))["qmpstatus"] == "paused"
        await admin.run("POST", f"{PATH}/status/resume")
        off = await admin.run("POST", f"{PATH}/status/shutdown", timeout=300)
        state = await admin.get(f"{PATH}/status/current")
        again = await admin.run("POST", f"{PATH}/status/start")
        stopped = await admin.run("POST", f"{PATH}/status/stop")
    assert "bc:24:11:00:00:01" in [nic["hardware-address"] for nic in nics]
    assert off.exitstatus == "OK", off.lines
    assert state["status"] == "stopped"
    assert (again.exitstatus, stopped.exitstatus) == ("OK", "OK")


@pytest.mark.real
async def test_a_start_that_qemu_refuses_fails(backed: Proxmox) -> None:
    """The task tells why, and the guest stays off."""
    backed.world.add_guest(100, "pve1", {"name": "broken", "net0": "nosuch=BC:24:11:00:00:01,bridge=vmbr0"})
    backed.world.guests[100].config["net0"] = "model=nosuch,macaddr=BC:24:11:00:00:01,bridge=vmbr0"
    async with client(backed) as admin:
        outcome = await admin.run("POST", f"{PATH}/status/start")
        state = await admin.get(f"{PATH}/status/current")
    assert outcome.exitstatus.startswith("start failed: QEMU exited with code 1")
    assert state["status"] == "stopped"
