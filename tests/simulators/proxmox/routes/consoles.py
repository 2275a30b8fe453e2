"""Screens and serial lines of guests, through a websocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.consoles import PROTOCOL, Console, Echo, Pipe, Stream, attend, screen, terminal
from simulators.proxmox.errors import PveError, refused
from simulators.proxmox.strings import parse
from simulators.proxmox.world import Guest

CONSOLE = at("/vms/{vmid}", "VM.Console")
KIND = "PVEVNC"


def offer(call: Call, kind: str, serial: str = "") -> tuple[Console, dict[str, Any]]:
    """Open a port, and tell who may come through it."""
    world, user = call.world, call.who.name
    ticket = world.access.ticket(user, KIND, f"/vms/{call.vmid}")
    console = world.consoles.open(call.node, call.vmid, kind, user, ticket, serial)
    upid = world.tasks.start(call.who, call.node, kind, call.vmid, lambda task: world.consoles.serve(console, task))
    return console, {"user": user, "ticket": ticket, "port": str(console.port), "upid": upid}


@route("POST", "/nodes/{node}/qemu/{vmid}/vncproxy", allowed=CONSOLE)
async def vncproxy(call: Call) -> object:
    """A port for a VNC client; whether the guest runs is found out by whoever comes."""
    vga = parse(call.guest.config.get("vga", ""), "type").get("type", "")
    if vga.startswith("serial") and not call.flag("websocket"):
        raise refused("websocket=1 is required for serial display")
    console, told = offer(call, "vncproxy")
    return told | {"cert": call.pve.certificate, "password": console.password}


@route("POST", "/nodes/{node}/qemu/{vmid}/termproxy", allowed=CONSOLE)
async def termproxy(call: Call) -> object:
    """A port for a terminal on a serial line."""
    serial = call.text("serial")
    vga = parse(call.guest.config.get("vga", ""), "type").get("type", "")
    return offer(call, "termproxy", serial or (vga if vga.startswith("serial") else ""))[1]


@route("POST", "/nodes/{node}/qemu/{vmid}/spiceproxy", allowed=CONSOLE)
async def spiceproxy(call: Call) -> object:
    """No guest here has such a display."""
    if call.guest.run is None:
        raise refused(f"VM {call.vmid} not running")
    raise refused(f"VM {call.vmid} qmp command 'query-spice' failed - The command query-spice has not been found")


@route("GET", "/nodes/{node}/qemu/{vmid}/vncwebsocket", allowed=CONSOLE)
async def websocket(call: Call) -> object:
    """The way to a port, for whoever holds its ticket; both kinds of console use it."""
    call.required("port", "vncticket")
    user = call.world.access.ticket_user(call.text("vncticket"), KIND, f"/vms/{call.vmid}")
    if user != call.who.name:
        await call.world.pace.spend(call.world.pace.failed_auth)
        raise PveError(401, "permission denied - invalid PVEVNC ticket", told=True)
    if call.request.headers.get("Upgrade", "").lower() != "websocket":
        return {"port": call.text("port")}
    console = call.world.consoles.find(call.node, call.number("port"), call.vmid)
    if console is None:
        raise refused("connection to port failed: Connection refused")
    socket = web.WebSocketResponse(protocols=(PROTOCOL,))
    await socket.prepare(call.request)
    await attend(console, talk(call, console, Stream(socket)))
    await socket.close()
    return socket


@asynccontextmanager
async def line_of(call: Call, guest: Guest, serial: str) -> AsyncIterator[Pipe]:
    """A guest's serial port: of what really runs, or one that prints what is typed."""
    hypervisor = call.world.hypervisor
    line = Echo() if hypervisor is None else await hypervisor.line(guest, serial)
    try:
        yield line
    finally:
        line.close()


async def talk(call: Call, console: Console, stream: Stream) -> None:
    """Until one of the two has enough; a guest that is off says nothing."""
    guest = call.guest
    if guest.run is None:
        return
    try:
        if console.kind == "vncproxy":
            await screen(stream, console, guest.name)
        elif serial := call.world.consoles.interface(console):
            async with line_of(call, guest, serial) as line:
                await terminal(stream, console, line)
    except (EOFError, ConnectionError):
        return  # the client went
