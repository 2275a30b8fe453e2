"""What goes wrong between a client and the simulated Proxmox VE."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from simulators.proxmox import Fault, Proxmox, pve
from simulators.proxmox.calls import Call
from simulators.proxmox.client import client
from simulators.proxmox.errors import PveError

__all__ = ["pve"]
CREATE = ("POST", "/nodes/{node}/qemu")
QEMU = "/nodes/pve1/qemu"


async def test_a_lost_reply_does_not_undo_what_was_asked(pve: Proxmox) -> None:
    """The client cannot know; the guest is there."""
    pve.faults.append(Fault(*CREATE, lost=True))
    async with client(pve) as admin:
        with pytest.raises(aiohttp.ClientConnectionError):
            await admin.post(QEMU, vmid=101)
        assert list(pve.world.guests) == [101]
        assert (await admin.ask("POST", QEMU, vmid=102)).status == 200


async def test_somebody_else_takes_the_vmid_in_the_middle_of_a_create(pve: Proxmox) -> None:
    """After the client looked, before the cluster acts."""

    async def taken(call: Call) -> None:
        call.world.add_guest(101, "pve2", {"name": "foreign"})

    pve.faults.append(Fault(*CREATE, before=taken))
    async with client(pve) as admin:
        answer = await admin.ask("POST", QEMU, vmid=101)
    assert answer.reason == "unable to create VM 101 - VM 101 already exists on node 'pve2'"
    assert pve.world.guests[101].name == "foreign"


async def test_calls_can_be_refused_and_held(pve: Proxmox) -> None:
    """Only as many as were asked for, and the first ones may pass."""
    go_on = asyncio.Event()

    async def wait(call: Call) -> None:
        await go_on.wait()

    refusal = PveError(596, "Connection timed out")
    held = Fault("GET", "/version", before=wait)
    pve.faults += [Fault("GET", "/version", skip=1, times=2, refusal=refusal), held]
    async with client(pve) as admin:
        asked = asyncio.create_task(admin.get("/version"))
        await held.met.wait()
        assert [(await admin.ask("GET", "/version")).status for _ in range(3)] == [596, 596, 200]
        go_on.set()
        assert (await asked)["release"] == "9.2"
