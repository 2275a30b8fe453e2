"""Where the recording of Proxmox VE was made, and what was done there that it does not tell."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from simulators.proxmox import Pace, World
from simulators.proxmox.access import Token
from simulators.proxmox.images import qcow2, vmdk
from simulators.proxmox.world import Node, Storage, Volume

IMAGE_BYTES = 196_616  # as large as the image of the recording
IMAGE = qcow2(64 << 20).ljust(IMAGE_BYTES, b"\0")
IMAGE_SUM = hashlib.sha256(IMAGE).hexdigest()
JUNK = b"no image\n\n\n\n"
DOWNLOADS = {"/a.qcow2": IMAGE, "/junk.qcow2": JUNK, "/a.vmdk": vmdk(64 << 20), "/big.iso": bytes(1 << 20)}
RECORDED_SUM = "1b7af784841125887e688254229e282829e17245d0e47fe7280da9b68a30d9e1"
RECORDED_SERVER = "http://127.0.0.1:8131"

# What the recorder uploaded; the recording tells neither names nor contents.
UPLOADS = {
    "upload: import qcow2": ("a.qcow2", IMAGE),
    "upload: same again (overwrites?)": ("a.qcow2", IMAGE),
    "upload: checksum ok": ("b.qcow2", IMAGE),
    "upload: checksum wrong": ("c.qcow2", IMAGE),
    "upload: wrong extension for import": ("a.txt", IMAGE),
    "upload: iso": ("e.iso", IMAGE),
    "upload: iso with .img": ("e.img", IMAGE),
    "upload: content images refused": ("a.qcow2", IMAGE),
    "upload: junk as qcow2": ("junk.qcow2", JUNK),
    "upload: name with blanks and slashes": ("we ird (1).qcow2", IMAGE),
    "upload: missing storage": ("a.qcow2", IMAGE),
    "upload: content not enabled on storage": ("a.qcow2", IMAGE),
    "ci: upload snippet is refused": ("u.yaml", b"#cloud-config\n"),
}
GUEST_DISK, SNIPPET = "local:100/vm-100-disk-0.qcow2", "local:snippets/u.yaml"


@dataclass(frozen=True)
class Gated(Pace):
    """A pace that waits for the recorder's next request where the product was still at work when it came.

    Attributes:
        gate: of clones that were made slow.
        all_here: whether everything that was asked at the same time has arrived.
    """

    scale: float = 1 / 50
    unseen: float = 5.0  # long enough for what came at the same time, on a busy machine
    clean_up: float = 0.0
    refresh: float = 1e9  # by hand alone
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    all_here: asyncio.Event = field(default_factory=asyncio.Event)

    async def spend(self, seconds: float) -> None:
        await self.all_here.wait()
        if 4 < seconds < 8:  # a quarter of a clone with a limit on its bandwidth, and nothing else
            await self.gate.wait()
        else:
            await super().spend(seconds)


def world() -> World:
    """The installation that was recorded: one node, one storage, one guest."""
    made = World(("pve1",), Gated())
    made.nodes["pve1"] = Node(
        "pve1", "192.0.2.1", cpus=2, memory=25_276_502_016, disk=270_553_174_016, bridges={"vmbr0"}
    )
    content = {"images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import"}
    made.storages = {"local": Storage("local", "dir", content, total=270_553_174_016, options={"path": "/var/lib/vz"})}
    local = made.storages["local"].on("pve1")
    local[GUEST_DISK] = Volume(GUEST_DISK, "images", "qcow2", 1 << 30, used=331_776, vmid=100)
    made.add_guest(
        100,
        "pve1",
        {
            "name": "vm100", "memory": "256", "cores": "1", "cpu": "qemu64", "kvm": "0", "ostype": "l26", "agent": "1",
            "scsihw": "virtio-scsi-pci", "boot": "order=scsi0", "scsi0": f"{GUEST_DISK},size=1G",
            "smbios1": f"uuid={made.uuid()}", "vmgenid": made.uuid(), "meta": "creation-qemu=10.0.2,ctime=1795405344",
        },
    )  # fmt: skip
    made.board.report_all()
    return made


def token_of_root(world: World) -> None:
    world.access.users["root@pam"].tokens["rec"] = Token(secret=world.uuid(), privsep=False)


def snippet(world: World) -> None:
    world.storages["local"].on("pve1")[SNIPPET] = Volume(SNIPPET, "snippets", "snippet", 26)


def bridge_away(world: World) -> None:
    """It was set up there, and yet the machine had none."""
    world.nodes["pve1"].bridges.clear()
    snippet(world)


def files_left(world: World) -> None:
    """The recorder's groups of steps did not run in the order in which they are recorded: this was uploaded by then."""
    keep_only(world, SNIPPET, GUEST_DISK)
    volid = "local:import/we_ird__1_.qcow2"
    world.storages["local"].on("pve1")[volid] = Volume(volid, "import", "qcow2", IMAGE_BYTES)


def tidy_up(world: World) -> None:
    """Files and guests of the steps before; a base stays behind."""
    for vmid in [vmid for vmid in world.guests if 110 <= vmid <= 120]:
        world.guests.pop(vmid).run = None
        world.access.pool_of.pop(vmid, None)
    keep_only(world, SNIPPET, GUEST_DISK, "local:import/we_ird__1_.qcow2", "local:111/base-111-disk-0.qcow2")


def keep_only(world: World, *volids: str) -> None:
    """Remove what belongs to nobody."""
    held = world.storages["local"].on("pve1")
    for volid in [volid for volid, volume in held.items() if volume.vmid not in world.guests and volid not in volids]:
        del held[volid]


def seen(world: World) -> None:
    """The daemon that cluster/resources gets its figures from had its round."""
    world.board.report_all()


def left_locked(world: World) -> None:
    """The snapshot that failed before."""
    world.guests[120].lock = "snapshot"
    volid = "local:120/vm-120-state-withram.raw"
    world.storages["local"].on("pve1")[volid] = Volume(volid, "images", "raw", 3_303_424, vmid=120)


# What the recorder did by hand before a step.
BY_HAND: dict[str, Callable[[World], None]] = {
    "root token privsep=0: skiplock refused?": token_of_root,
    "access: delete root token": token_of_root,
    "create vm 101 (full set)": bridge_away,
    "snap: storage content with vmstate volume": files_left,
    "clone: source 110": tidy_up,
    "clone running: task status": seen,
    "clone2: source 110 (no protection, no nic)": tidy_up,
    "conc: cancel the shutdown task": seen,
    "extra: vm 120": tidy_up,
    "extra: clone to an unknown node": left_locked,
    "warn: vm 110": tidy_up,
}


@asynccontextmanager
async def file_server() -> AsyncIterator[str]:
    """The files that the recorder had downloaded."""

    async def answer(request: web.Request) -> web.Response:
        body = DOWNLOADS.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
