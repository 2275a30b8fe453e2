"""Consoles of the simulated Proxmox VE."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox.client import client
from simulators.proxmox.rfb import answer
from simulators.proxmox.world import Running

__all__ = ["pve"]

PATH = "/nodes/pve1/qemu/100"


def guest(world: World, *, running: bool = True) -> None:
    made = world.add_guest(100, "pve1", {"name": "g100", "serial0": "socket"})
    made.run = Running(1, "pc-i440fx-10.0+pve0") if running else None


@asynccontextmanager
async def opened(pve: Proxmox, told: dict[str, Any]) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    query = urlencode({"port": told["port"], "vncticket": told["ticket"]})
    tls = ssl.create_default_context(cafile=pve.ca_file)
    headers = {"Authorization": pve.token}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{pve.url}/api2/json{PATH}/vncwebsocket?{query}", ssl=tls, protocols=["binary"]) as socket,
    ):
        assert socket.protocol == "binary"
        yield socket


async def test_a_serial_line_prints_what_is_typed(pve: Proxmox) -> None:
    """Input travels in frames, output without."""
    guest(pve.world)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/termproxy")
        async with opened(pve, told) as line:
            await line.send_bytes(f"{told['user']}:{told['ticket']}\n".encode())
            assert await line.receive_bytes() == b"OK"
            await line.send_bytes(b"1:80:24:")
            await line.send_bytes(b"0:6:hel")
            await line.send_bytes(b"lo\r20:1:!")
            assert await line.receive_bytes() == b"hello\r\n"
            assert await line.receive_bytes() == b"!"
        outcome = await admin.end(told["upid"])
    assert told["user"] == pve.token_id
    assert (outcome.exitstatus, outcome.upid.split(":")[5]) == ("OK", "termproxy")


async def test_a_wrong_ticket_on_the_line_says_nothing(pve: Proxmox) -> None:
    guest(pve.world)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/termproxy")
        async with opened(pve, told) as line:
            await line.send_bytes(b"root@pam:nonsense\n")
            assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("right", [True, False])
async def test_a_screen_asks_for_its_password(pve: Proxmox, right: bool) -> None:
    guest(pve.world)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/vncproxy", websocket=1)
        async with opened(pve, told) as screen:
            assert await screen.receive_bytes() == b"RFB 003.008\n"
            await screen.send_bytes(b"RFB 003.008\n")
            assert await screen.receive_bytes() == b"\x01\x02"
            await screen.send_bytes(b"\x02")
            challenge = await screen.receive_bytes()
            await screen.send_bytes(answer(told["password"] if right else "guess", challenge))
            result = await screen.receive_bytes()
            if right:
                await screen.send_bytes(b"\x01")
                assert (await screen.receive_bytes()).endswith(b"g100")
    assert result == (bytes(4) if right else b"\0\0\0\x01\0\0\0\x15Authentication failed")


async def test_a_ticket_is_for_one_guest_and_one_user(pve: Proxmox) -> None:
    guest(pve.world)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/vncproxy")
        wrong = await admin.ask("GET", f"{PATH}/vncwebsocket", port=5900, vncticket="x")
        right = await admin.get(f"{PATH}/vncwebsocket", port=told["port"], vncticket=told["ticket"])
        pve.world.add_guest(101, "pve1")
        other = await admin.ask("GET", "/nodes/pve1/qemu/101/vncwebsocket", port=told["port"], vncticket=told["ticket"])
    assert (wrong.status, wrong.reason) == (401, "permission denied - invalid PVEVNC ticket")
    assert wrong.body["message"] == "permission denied - invalid PVEVNC ticket\n"
    assert right == {"port": told["port"]}
    assert other.status == 401


async def test_a_port_waits_for_a_while_and_for_one_client() -> None:
    async with proxmox(World(pace=Pace(scale=1 / 1000))) as pve, client(pve) as admin:
        guest(pve.world)
        first = await admin.post(f"{PATH}/vncproxy")
        late = await admin.end(first["upid"])
        told = await admin.post(f"{PATH}/vncproxy")
    assert late.exitstatus == "connection timed out"
    assert told["port"] == "5900", "the first port is free again"


async def test_a_guest_that_is_off_closes_the_line(pve: Proxmox) -> None:
    """The ticket is given all the same; only the task tells why."""
    guest(pve.world, running=False)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/termproxy")
        async with opened(pve, told) as line:
            assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
        outcome = await admin.end(told["upid"])
        missing = await admin.ask("POST", "/nodes/pve1/qemu/999/termproxy")
    assert outcome.exitstatus == "VM 100 not running"
    assert missing.reason == "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist"


async def test_a_line_ends_with_its_guest(pve: Proxmox) -> None:
    guest(pve.world)
    async with client(pve) as admin:
        told = await admin.post(f"{PATH}/termproxy")
        async with opened(pve, told) as line:
            await line.send_bytes(f"{told['user']}:{told['ticket']}\n".encode())
            assert await line.receive_bytes() == b"OK"
            await admin.run("POST", f"{PATH}/status/stop")
            assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
