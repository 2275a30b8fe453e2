"""The guest agent: what runs inside a guest tells of itself, if it runs and if it may."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from simulators.proxmox.board import cpus
from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import PveError, bad, refused
from simulators.proxmox.guests import agent_enabled, off_now
from simulators.proxmox.property_strings import NIC, parse
from simulators.proxmox.strings import NET, drives, is_cdrom
from simulators.proxmox.world import Guest

VM = "/nodes/{node}/qemu/{vmid}/agent"
ANYTHING = "VM.GuestAgent.Unrestricted"
AUDIT, FILES, POWER = "VM.GuestAgent.Audit", "VM.GuestAgent.FileSystemMgmt", "VM.PowerMgmt"
STATISTICS = dict.fromkeys(
    ("rx-bytes", "rx-dropped", "rx-errs", "rx-packets", "tx-bytes", "tx-dropped", "tx-errs", "tx-packets"), 0
)


async def answering(call: Call) -> Guest:
    """The guest in the path, with an agent that answers.

    Raises:
        PveError: it is off, may have no agent, or (after a while) has none.
    """
    guest = call.guest
    if "agent" not in guest.config:
        raise refused("No QEMU guest agent configured")
    if guest.run is None:
        raise refused(f"VM {guest.vmid} is not running")
    if not agent_enabled(guest) or guest.run.status != "running":
        raise refused("QEMU guest agent is not running")
    if call.world.hypervisor is not None:
        await call.world.hypervisor.agent(guest, "ping")
    elif not guest.agent:
        await call.world.pace.spend(call.world.pace.agent)
        raise refused("QEMU guest agent is not running")
    return guest


def addresses(guest: Guest, key: str) -> list[dict[str, Any]]:
    """Of a NIC: what `facts` say (a list of "10.0.0.5/24" by key), else one that its VMID makes."""
    told: dict[str, list[str]] = guest.facts.get("addresses", {})
    high, low = divmod(guest.vmid % 65536, 256)
    found = told.get(key, [f"10.{key.removeprefix('net')}.{high}.{low}/16"])
    return [
        {"ip-address": text, "ip-address-type": "ipv6" if ":" in text else "ipv4", "prefix": int(prefix)}
        for text, _, prefix in (each.partition("/") for each in found)
    ]


def interfaces(guest: Guest) -> list[dict[str, Any]]:
    """The loopback and a device for each NIC that is plugged in."""
    loopback = [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]
    rows: list[dict[str, Any]] = [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": loopback, "statistics": STATISTICS}
    ]
    for key in sorted(key for key in guest.config if NET.fullmatch(key)):
        mac = parse(guest.config[key], NIC).get("macaddr", "").lower()
        name = f"eth{key.removeprefix('net')}"
        rows.append(
            {"name": name, "hardware-address": mac, "ip-addresses": addresses(guest, key), "statistics": STATISTICS}
        )
    return rows


def osinfo(guest: Guest) -> dict[str, str]:
    more: dict[str, str] = guest.facts.get("osinfo", {})
    return {
        "id": "alpine",
        "name": "Alpine Linux",
        "pretty-name": "Alpine Linux v3.22",
        "version": "3.22.0",
        "version-id": "3.22.0",
        "kernel-release": "6.12.30-0-virt",
        "kernel-version": "#1-Alpine SMP",
        "machine": "x86_64",
        **more,
    }


def filesystems(guest: Guest) -> list[dict[str, Any]]:
    disks = [key for key, drive in drives(guest.config).items() if not is_cdrom(drive)]
    return [
        {"name": f"sd{chr(97 + place)}1", "mountpoint": f"/mnt/{key}" if place else "/", "type": "ext4", "disk": []}
        for place, key in enumerate(disks)
    ]


def host_name(guest: Guest) -> dict[str, str]:
    return {"host-name": guest.facts.get("host-name", guest.name)}


def power_off(guest: Guest) -> dict[str, Any]:
    return {}


def virtual_cpus(guest: Guest) -> list[dict[str, Any]]:
    return [{"logical-id": place, "online": True, "can-offline": place > 0} for place in range(cpus(guest.config))]


# The HTTP method, the rights of which one is needed, and what the agent says.
COMMANDS: dict[str, tuple[str, tuple[str, ...], Callable[[Guest], Any]]] = {
    "fsfreeze-freeze": ("POST", (FILES, ANYTHING), lambda guest: len(filesystems(guest))),
    "fsfreeze-status": ("POST", (AUDIT, FILES, ANYTHING), lambda guest: "thawed"),
    "fsfreeze-thaw": ("POST", (FILES, ANYTHING), lambda guest: len(filesystems(guest))),
    "fstrim": ("POST", (FILES, ANYTHING), lambda guest: {"paths": []}),
    "get-fsinfo": ("GET", (AUDIT, ANYTHING), filesystems),
    "get-host-name": ("GET", (AUDIT, ANYTHING), host_name),
    "get-memory-block-info": ("GET", (AUDIT, ANYTHING), lambda guest: {"size": 128 << 20}),
    "get-memory-blocks": ("GET", (AUDIT, ANYTHING), lambda guest: []),
    "get-osinfo": ("GET", (AUDIT, ANYTHING), osinfo),
    "get-time": ("GET", (AUDIT, ANYTHING), lambda guest: time.time_ns()),
    "get-timezone": ("GET", (AUDIT, ANYTHING), lambda guest: {"zone": "UTC", "offset": 0}),
    "get-users": ("GET", (AUDIT, ANYTHING), lambda guest: guest.facts.get("users", [])),
    "get-vcpus": ("GET", (AUDIT, ANYTHING), virtual_cpus),
    "info": ("GET", (AUDIT, ANYTHING), lambda guest: {"version": "9.2.0", "supported_commands": []}),
    "network-get-interfaces": ("GET", (AUDIT, ANYTHING), interfaces),
    "ping": ("POST", (AUDIT, ANYTHING), lambda guest: {}),
    "shutdown": ("POST", (POWER, ANYTHING), power_off),
    "suspend-disk": ("POST", (POWER, ANYTHING), lambda guest: {}),
    "suspend-hybrid": ("POST", (POWER, ANYTHING), lambda guest: {}),
    "suspend-ram": ("POST", (POWER, ANYTHING), lambda guest: {}),
}


async def execute(call: Call, command: str) -> object:
    """Ask the agent; a shutdown has begun when the answer comes, and no task tells of it."""
    guest = await answering(call)
    if call.world.hypervisor is not None:
        return {"result": await call.world.hypervisor.agent(guest, command)}
    told = {"result": COMMANDS[command][2](guest)}
    if command == "shutdown":
        off_now(call.world, guest, applied=False)
    return told


def register(command: str, method: str, privileges: tuple[str, ...]) -> None:
    """A path for each command."""

    @route(method, f"{VM}/{command}", allowed=at("/vms/{vmid}", *privileges))
    async def handler(call: Call) -> object:
        return await execute(call, command)


for _command, (_method, _privileges, _) in COMMANDS.items():
    register(_command, _method, _privileges)


@route("GET", VM)
async def index(call: Call) -> object:
    return [{"name": name} for name in sorted([*COMMANDS, "exec", "exec-status", "file-read", "file-write"])]


@route("POST", VM, allowed=at("/vms/{vmid}", ANYTHING))
async def any_command(call: Call) -> object:
    """The old way: one path for all of them."""
    call.required("command")
    command = call.text("command")
    if command not in COMMANDS:
        known = ", ".join(sorted(COMMANDS))
        raise bad(command=f"value '{command}' does not have a value in the enumeration '{known}'")
    return await execute(call, command)


@route("POST", f"{VM}/exec", allowed=at("/vms/{vmid}", ANYTHING))
async def run(call: Call) -> object:
    """Nothing runs in there; what was asked for is kept for whoever looks."""
    guest = await answering(call)
    ran: list[list[str]] = guest.facts.setdefault("executed", [])
    ran.append(call.many("command"))
    return {"pid": 1000 + len(ran)}


@route("GET", f"{VM}/exec-status", allowed=at("/vms/{vmid}", ANYTHING))
async def ran(call: Call) -> object:
    guest = await answering(call)
    if not 1000 < call.number("pid") <= 1000 + len(guest.facts.get("executed", [])):
        raise refused(f"Agent error: PID {call.number('pid')} does not exist")
    return {"exited": 1, "exitcode": 0, "out-data": ""}


@route("POST", f"{VM}/file-write", allowed=at("/vms/{vmid}", "VM.GuestAgent.FileWrite", ANYTHING))
async def write(call: Call) -> object:
    guest = await answering(call)
    guest.facts.setdefault("files", {})[call.text("file")] = call.text("content")
    return None


@route("GET", f"{VM}/file-read", allowed=at("/vms/{vmid}", "VM.GuestAgent.FileRead", ANYTHING))
async def read(call: Call) -> object:
    guest = await answering(call)
    files, file = guest.facts.get("files", {}), call.text("file")
    if file not in files:
        raise PveError(500, f"Agent error: failed to open file '{file}': No such file or directory")
    return {"content": files[file]}
