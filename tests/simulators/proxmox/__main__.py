"""A simulated cluster as a process of its own: `python -m simulators.proxmox --port 8006 --nodes 3 --vms 20`.

It prints one line of JSON when it answers (where, and who may call), and ends with SIGTERM or its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from . import foreign
from .control import Control, controlled
from .guests import run_now
from .pace import Pace
from .qemu import Qemu
from .server import Proxmox, proxmox
from .world import Volume, World

FIRST_VMID = 100


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="simulators.proxmox", description="A simulated Proxmox VE cluster.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=0, help="of the first address; 0 picks free ones")
    parser.add_argument("--addresses", type=int, default=1, help="API endpoints of the cluster")
    parser.add_argument("--nodes", type=int, default=3, help="hosts: pve1, pve2, ...")
    parser.add_argument("--vms", type=int, default=0, help="guests that are there already, spread over the nodes")
    parser.add_argument("--template", default="", help="make the first of them a template of this name")
    parser.add_argument("--name", default="", help="a further name that the certificate is made for")
    parser.add_argument("--credentials", type=Path, help="directory to write into what a Provider's Secret holds")
    parser.add_argument("--scale", type=float, default=1.0, help="how long a second of the cluster lasts here")
    parser.add_argument("--control-port", type=int, default=0, help="of the switches, on loopback; 0 picks a free one")
    parser.add_argument("--qemu", action="store_true", help="let real QEMU processes run the guests (by emulation)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--stay", action="store_true", help="live on when standard input ends")
    return parser.parse_args()


def populated(args: argparse.Namespace) -> World:
    """The cluster that was asked for."""
    world = World(tuple(f"pve{n}" for n in range(1, args.nodes + 1)), Pace(scale=args.scale), args.seed)
    populate(world, args.vms)
    if args.template:
        foreign.edit(world, FIRST_VMID, {"template": "1", "name": args.template})
        world.board.report_all()
    return world


def populate(world: World, count: int) -> None:
    """Guests as others made them long ago, spread over the nodes; every second one runs."""
    names = list(world.nodes)
    for place in range(count):
        vmid, node = FIRST_VMID + place, names[place % len(names)]
        volid = f"local-lvm:vm-{vmid}-disk-0"
        world.storages["local-lvm"].on(node)[volid] = Volume(volid, "images", "raw", 8 << 30, 1 << 30, vmid)
        guest = world.add_guest(
            vmid,
            node,
            {
                "name": f"vm{vmid}",
                "memory": "1024",
                "cores": "1",
                "boot": "order=scsi0",
                "scsi0": f"{volid},size=8G",
                "net0": f"virtio={world.mac()},bridge=vmbr0",
                "vmgenid": world.uuid(),
            },
        )
        if place % 2:
            run_now(world, guest)
    world.board.report_all()


def write_credentials(pve: Proxmox, directory: Path) -> None:
    """What a Provider needs in order to log in here, one file per key."""
    authority = Path(pve.ca_file).read_text()
    for name, text in (("token_id", pve.token_id), ("token_secret", pve.token_secret), ("ca.crt", authority)):
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)


def told(pve: Proxmox, control: Control) -> dict[str, object]:
    """The ready line."""
    return {
        "url": pve.url,
        "urls": pve.urls,
        "control": control.url,
        "certificate": Path(pve.ca_file).read_text(),
        "fingerprint": pve.fingerprint,
        "token_id": pve.token_id,
        "token_secret": pve.token_secret,
        "user": pve.user,
        "password": pve.password,
    }


async def serve(args: argparse.Namespace) -> None:
    """Answer until somebody ends it."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if not args.stay:
        loop.add_reader(sys.stdin.fileno(), lambda: over.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    async with (
        proxmox(populated(args), host=args.host, port=args.port, addresses=args.addresses, name=args.name) as pve,
        controlled(pve, args.control_port) as control,
    ):
        qemu = Qemu(pve.world) if args.qemu else None
        if args.credentials:
            write_credentials(pve, args.credentials)
        print(json.dumps(told(pve, control)), flush=True)
        try:
            await over.wait()
        finally:
            if qemu is not None:
                await qemu.close()


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
