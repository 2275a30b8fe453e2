"""The simulator answers what a real Proxmox VE answered: its recording, replayed step by step."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from simulators.proxmox import Pace, Proxmox, World, proxmox
from simulators.proxmox.access import Token
from simulators.proxmox.client import by_ticket
from simulators.proxmox.images import qcow2, vmdk
from simulators.proxmox.reference import RECORDING, reference
from simulators.proxmox.world import Node, Storage, Volume
from simulators.recordings import Comparison, Names, Step, read, upid_of

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

# Steps that are not replayed: a pattern of their names, and why.
EXCLUDED: dict[str, str] = {}
# Steps that need nothing which the simulator does not have yet.
READY = (
    "auth: .*|version|access: .*|storage (?!.*unused).*|nextid: .*|unknown .*|bad node name|wrong method|pools? .*"
    "|upload: .*|download-url: .*|query-url-metadata|task: .*"
)


def world() -> World:
    """The installation that was recorded: one node, one storage, one guest."""
    made = World(("pve1",), Pace(scale=1 / 50))
    made.nodes["pve1"] = Node("pve1", "192.0.2.1", cpus=2, memory=25_276_502_016, bridges=set())
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


GUEST_DISK, SNIPPET = "local:100/vm-100-disk-0.qcow2", "local:snippets/u.yaml"


def token_of_root(world: World) -> None:
    world.access.users["root@pam"].tokens["rec"] = Token(secret=world.uuid(), privsep=False)


def snippet(world: World) -> None:
    world.storages["local"].on("pve1")[SNIPPET] = Volume(SNIPPET, "snippets", "snippet", 26)


# What the recorder did by hand before a step.
BY_HAND: dict[str, Callable[[World], None]] = {
    "root token privsep=0: skiplock refused?": token_of_root,
    "access: delete root token": token_of_root,
    "create vm 101 (full set)": snippet,
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


@dataclass
class Replay:
    """One run through the recording.

    Attributes:
        wrong: what differed, a line each.
    """

    pve: Proxmox
    session: aiohttp.ClientSession
    files: str
    root: dict[str, str]
    names: Names = field(default_factory=Names)
    tokens: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    replayed: int = 0

    def headers(self, caller: str) -> dict[str, str]:
        """The credentials that the recorder used, by its own words for them."""
        user = "00000000-0000-4000-8000-00000000000"
        if not caller:
            return self.root
        if caller == "anonymous":
            return {}
        if caller == "ticket without CSRF header":
            return {"Cookie": self.root["Cookie"]}
        if caller == "bad ticket":
            return {"Cookie": "PVEAuthCookie=PVE:root@pam:00000000::x"}
        if caller == "malformed token":
            return {"Authorization": "PVEAPIToken=nonsense"}
        if caller in ("bad token", "wrong token secret"):
            return {"Authorization": f"PVEAPIToken=rec@pve!t1={user}9"}
        name = "rec@pve!t1" if caller == "deleted user's token" else caller.split()[0]
        return {"Authorization": f"PVEAPIToken={name}={self.secret(name)}"}

    def secret(self, name: str) -> str:
        """Of a token; one that the recorder made without recording it is made now."""
        if name not in self.tokens:
            user, _, token = name.partition("!")
            known = self.pve.world.access.users[user].tokens
            made = known.setdefault(token, Token(secret=self.pve.world.uuid(), privsep=name == "rec@pve!t2"))
            self.tokens[name] = made.secret
        return self.tokens[name]

    def body(self, step: Step) -> dict[str, Any]:
        """The parameters as they are in this run."""
        given = {name: self.translated(value) for name, value in step.params.items()}
        if step.name == "auth: login ok":
            given["password"] = self.pve.password
        if given.get("checksum") == RECORDED_SUM:
            given["checksum"] = IMAGE_SUM
        if "url" in given:
            given["url"] = given["url"].replace(RECORDED_SERVER, self.files)
        return given

    def translated(self, value: Any) -> Any:
        return self.names.translate(value) if isinstance(value, str) else value

    async def send(self, step: Step) -> tuple[int, str, Any]:
        """The request of a step, in the way that the recorder sent it."""
        given: dict[str, Any] = self.body(step)
        more: dict[str, Any] = {}
        if step.name in UPLOADS:
            filename, content = UPLOADS[step.name]
            parts = aiohttp.FormData({name: str(value) for name, value in given.items()}, quote_fields=False)
            parts.add_field("filename", content, filename=filename, content_type="application/octet-stream")
            more = {"data": parts}
        elif any(isinstance(value, bool | list) for value in given.values()):
            more = {"json": given}
        elif given:
            form = {name: str(value) for name, value in given.items()}
            more = {"params": form} if step.method in ("GET", "DELETE") else {"data": form}
        url = f"{self.pve.url}/api2/json{self.names.translate(step.path)}"
        async with self.session.request(step.method, url, headers=self.headers(step.caller), **more) as response:
            raw = await response.text()
            return response.status, response.reason or "", await response.json(content_type=None) if raw else ""

    async def play(self, step: Step) -> None:
        """Send a step and compare everything that comes of it."""
        BY_HAND.get(step.name, lambda world: None)(self.pve.world)
        self.names.given(str(step.params))
        status, reason, body = await self.send(step)
        compare = Comparison(self.names, LEFT_OUT)
        told = {"status": step.status, "reason": step.reason, "body": step.body}
        found = list(compare.differences(told, {"status": status, "reason": reason, "body": body}, ""))
        if step.exit is not None and (upid := upid_of(body)):
            await self.pve.world.tasks.wait(upid)
            ended = {"exitstatus": await self.exit_of(upid)}
            found += compare.differences({"exitstatus": step.exit}, ended, "task")
        if step.name.startswith("access: create API token") and status == 200:
            self.tokens[body["data"]["full-tokenid"]] = body["data"]["value"]
        self.wrong += [f"{step.number} {step.name}: {line}" for line in found]
        self.replayed += 1

    async def exit_of(self, upid: str) -> str:
        """How a task ended, as the API tells it."""
        url = f"{self.pve.url}/api2/json/nodes/{upid.split(':')[1]}/tasks/{upid}/status"
        async with self.session.get(url, headers=self.root) as response:
            return str((await response.json())["data"]["exitstatus"])


LEFT_OUT: frozenset[str] = frozenset()


def excluded(step: Step) -> bool:
    return not re.fullmatch(READY, step.name) or any(re.fullmatch(pattern, step.name) for pattern in EXCLUDED)


async def test_the_simulator_answers_as_the_product_did() -> None:
    file = reference(RECORDING)
    if file is None:
        pytest.skip("the recording of Proxmox VE is not here: PVE_REFERENCE_DIR names no directory with it")
    steps = [step for step in read(file) if not excluded(step)]
    async with proxmox(world()) as pve, file_server() as files:
        tls = ssl.create_default_context(cafile=pve.ca_file)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            replay = Replay(pve, session, files, await by_ticket(pve))
            for together, group in groupby(steps, key=lambda step: step.together or step.number):
                async with asyncio.TaskGroup() as running:
                    for step in sorted(group, key=lambda step: step.name):
                        running.create_task(replay.play(step), name=str(together))
    assert replay.replayed > 60
    assert not replay.wrong, "\n".join(replay.wrong)
