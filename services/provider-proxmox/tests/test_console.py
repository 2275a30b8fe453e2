"""Consoles on a simulated cluster: bytes both ways, and no secret of theirs anywhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    NotSupportedError,
    WrongPowerStateError,
)
from provider_proxmox.console import Consoles
from provider_proxmox.guests import Guests
from provider_proxmox.rfb import VERSION, Doorman
from provider_proxmox.session.pve import Pve
from providerkit.driver import Console
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Running

from .conftest import OWNER, connected, credentials_of
from .ours import UID, machine

SERIAL, VNC = v1.ConsoleKind.SERIAL, v1.ConsoleKind.VNC


def _consoles(cluster: Pve) -> Consoles:
    return Consoles(cluster, Guests(cluster, owner=OWNER), SystemClock())


def _on(server: Proxmox, **config: str) -> None:
    machine(server, serial0="socket", **config).run = Running(pid=1, machine="q35")


async def _exactly(console: Console, amount: int) -> bytes:
    data = b""
    async with asyncio.timeout(10):
        while len(data) < amount:
            more = await console.read()
            assert more
            data += more
    assert len(data) == amount
    return data


async def test_a_serial_console_carries_bytes_both_ways(pve: Proxmox, cluster: Pve) -> None:
    _on(pve)
    async with _consoles(cluster).open(UID, SERIAL) as console:
        await console.write(b"hello:1\r")
        assert await _exactly(console, 9) == b"hello:1\r\n"
        await console.write("ü".encode())
        assert await _exactly(console, 2) == "ü".encode()


async def test_the_end_of_the_guest_ends_it(pve: Proxmox, cluster: Pve) -> None:
    _on(pve)
    async with _consoles(cluster).open(UID, SERIAL) as console:
        pve.world.consoles.end(1042)
        async with asyncio.timeout(10):
            assert await console.read() == b""


async def test_a_display_asks_the_client_for_no_password(pve: Proxmox, cluster: Pve) -> None:
    """Proxmox VE wants one, which nobody but us has."""
    _on(pve)
    async with _consoles(cluster).open(UID, VNC) as console:
        assert await _exactly(console, len(VERSION)) == VERSION
        await console.write(VERSION)
        assert await _exactly(console, 2) == b"\x01\x01"
        await console.write(b"\x01\x01")  # the choice, and at once whether it shares the screen
        assert await _exactly(console, 4) == bytes(4)
        screen = await _exactly(console, 24 + len("shop.web"))
        assert screen[:4] == b"\x02\xd0\x01\x90"
        assert screen.endswith(b"shop.web")


@pytest.mark.parametrize(
    ("version", "typed", "back", "rest"),
    [
        (b"RFB 003.008\n", [b"\x01", b"\x00"], [b"\x01\x01", bytes(4)], b"\x00"),
        (b"RFB 003.007\n", [b"\x01\x00"], [b"\x01\x01", b""], b"\x00"),
        (b"RFB 003.003\n", [b"\x00"], [b"\x00\x00\x00\x01"], b"\x00"),
    ],
)
def test_older_clients_are_let_in_their_way(version: bytes, typed: list[bytes], back: list[bytes], rest: bytes) -> None:
    doorman = Doorman()
    assert doorman.take(version[:5]) == (b"", b"")
    said = [doorman.take(version[5:])[0]]
    passed = b""
    for data in typed:
        if doorman.through:
            passed += data
            continue
        more, through = doorman.take(data)
        said.append(more)
        passed += through
    assert (said, passed, doorman.through) == (back, rest, True)


def test_a_client_of_something_else_is_refused() -> None:
    with pytest.raises(NotSupportedError):
        Doorman().take(b"GET / HTTP/1.1\r\n")


async def test_what_cannot_be_opened(pve: Proxmox, cluster: Pve) -> None:
    consoles = _consoles(cluster)

    async def refused(kind: v1.ConsoleKind) -> None:
        async with consoles.open(UID, kind):
            raise AssertionError("it is open")

    with pytest.raises(MachineNotFoundError):
        await refused(SERIAL)
    guest = machine(pve)
    with pytest.raises(WrongPowerStateError):
        await refused(SERIAL)
    guest.run = Running(pid=1, machine="q35")
    with pytest.raises(NotSupportedError, match="serial0"):
        await refused(SERIAL)
    with pytest.raises(NotSupportedError):
        await refused(v1.ConsoleKind.TICKET)


async def test_a_pinned_certificate_is_compared_before_anything_is_sent(pve: Proxmox, tmp_path: Path) -> None:
    """A context checks blocking sockets alone; credentials must not go to whoever has another certificate."""
    _on(pve)
    files = credentials_of(pve, tmp_path / "pinned")
    (files / "ca.crt").unlink()
    (files / "fingerprint").write_text(pve.fingerprint)
    async with connected(pve, files) as cluster:
        async with _consoles(cluster).open(UID, SERIAL) as console:
            await console.write(b"x")
            assert await _exactly(console, 1) == b"x"
        before = len(pve.requests)
        (files / "fingerprint").write_text("00" * 32)
        with pytest.raises(CredentialsRefusedError):
            async with cluster.websocket("open", "nodes/pve1/qemu/1042/vncwebsocket", port=5900, vncticket="x"):
                raise AssertionError("it is open")
        assert [each.path for each in pve.requests[before:] if "websocket" in each.path] == []


async def test_no_ticket_in_what_is_said(pve: Proxmox, cluster: Pve, caplog: pytest.LogCaptureFixture) -> None:
    """The library's own errors hold the address, and that holds the ticket."""
    caplog.set_level("DEBUG")
    _on(pve)
    with pytest.raises((CredentialsRefusedError, HypervisorUnavailableError)) as caught:
        async with cluster.websocket("open", "nodes/pve1/qemu/1042/vncwebsocket", port=5900, vncticket="canary"):
            raise AssertionError("it is open")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "canary" not in caplog.text
