"""The simulator answers what a real Proxmox VE answered: its recording, replayed step by step."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import aiohttp
import pytest

from simulators.proxmox import Proxmox, proxmox
from simulators.proxmox.access import Token
from simulators.proxmox.client import by_ticket
from simulators.proxmox.client import form as form_with_file
from simulators.proxmox.multipart import FIELDS
from simulators.proxmox.reference import RECORDING, reference
from simulators.recorder import (
    BY_HAND,
    IMAGE_SUM,
    RECORDED_SERVER,
    RECORDED_SUM,
    UPLOADS,
    Gated,
    file_server,
    world,
)
from simulators.recordings import Comparison, Names, Step, read, upid_of

MACHINE = "the clean-up after a power-off took its time on that machine"
# Steps that are not replayed: a pattern of their names, and why.
EXCLUDED: dict[str, str] = {
    "cluster/tasks|node tasks.*": "tasks of the time before the recording",
    "cluster/resources right after create": "shows a predecessor of the guest from before the recording",
    "lock: .* while a running create task .*": "the task that held the lock was not recorded",
    r"termproxy \(no serial port\)": "the program was not installed",
    "clone running: cluster/tasks": "others worked at the same time",
    "power: start 3": "that machine lacked what starts a guest again after its reboot",
    "power: shutdown timeout=3 forceStop=1|power: start 5": MACHINE,
    "extra: vmstate snapshot, status polled|extra: stop": MACHINE,
    "final: ha managed start|final: ha managed config status": "the HA managers were not installed",
}
# The recorded guests had no operating system; here somebody ended QEMU while the shutdown waited.
OBEYED = frozenset({"power: shutdown, guest goes off after 3 s", "power: reboot, guest goes off after 3 s"})
# Clones that were made slow; they go on once the request arrived that waited for their end.
THROTTLED = re.compile("clone.*: .*throttled.*")
WAITED = frozenset({
    "clone running: start target",
    "clone B running: PUT source config",
    "clone2 running: PUT source memory (how long does it wait?)",
})  # fmt: skip
# Differences that do not count: a pattern of their lines, and why.
IGNORED = {
    r".* cluster/resources: .*\[vmid 101\].*": "other steps with this guest ran at the same time",
    r".* nextid twice gives the same id .*": "the guest with this id was already gone in other steps",
}
ADDED = frozenset({"active"})  # a bridge that is up; the recorded one was only set up


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
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    replayed: int = 0

    def __post_init__(self) -> None:
        self.pve.checks.append(lambda call: self.arrived.set())

    @property
    def pace(self) -> Gated:
        pace = self.pve.world.pace
        assert isinstance(pace, Gated)
        return pace

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
        if "since" in given:
            given["since"] = int(time.time()) + 1  # the recorder asked for what came after everything
        if "url" in given:
            given["url"] = given["url"].replace(RECORDED_SERVER, self.files)
        return given

    def translated(self, value: Any) -> Any:
        return self.names.translate(value) if isinstance(value, str) else value

    async def send(self, step: Step) -> tuple[int, str, Any]:
        """The request of a step, in the way that the recorder sent it."""
        given: dict[str, Any] = self.body(step)
        more: dict[str, Any] = {}
        headers = dict(self.headers(step.caller))
        if step.name in UPLOADS:
            filename, content = UPLOADS[step.name]
            order = sorted(given, key=FIELDS.index)
            content, kind = form_with_file({name: str(given[name]) for name in order}, filename, content)
            more = {"data": io.BytesIO(content)}
            headers["Content-Type"] = kind
        elif any(isinstance(value, bool | list) for value in given.values()):
            more = {"json": given}
        elif given:
            form = {name: str(value) for name, value in given.items()}
            more = {"params": form} if step.method in ("GET", "DELETE") else {"data": form}
        url = f"{self.pve.url}/api2/json{self.names.translate(step.path)}"
        async with self.session.request(step.method, url, headers=headers, **more) as response:
            raw = await response.text()
            return response.status, response.reason or "", await response.json(content_type=None) if raw else ""

    async def play(self, step: Step) -> None:
        """Send a step and compare everything that comes of it."""
        if prepare := BY_HAND.get(step.name):
            prepare(self.pve.world)
        if step.name == "power: guest crash (monitor quit)":
            for task in self.pve.world.tasks.of_guest(101, "qmstart"):  # which the node itself began after the reboot
                await self.pve.world.tasks.wait(task.upid)
        for guest in self.pve.world.guests.values():
            guest.obeys = step.name in OBEYED
        self.names.given(str(step.params))
        compare = Comparison(self.names, added=ADDED, cut=step.cut)
        found: list[str] = []
        if step.body is None:  # the recorder waited for a task without saying how
            upid = self.names.translate(step.path).split("/")[4]
        else:
            status, reason, body = await self.send(step)
            told = {"status": step.status, "reason": step.reason, "body": step.body}
            found += compare.differences(told, {"status": status, "reason": reason, "body": body})
            upid = upid_of(body)
            if step.name.startswith("access: create API token") and status == 200:
                self.tokens[body["data"]["full-tokenid"]] = body["data"]["value"]
        if step.exit is not None and upid in self.pve.world.tasks.all:
            await self.pve.world.tasks.wait(upid)
            found += compare.differences({"exitstatus": step.exit}, {"exitstatus": await self.exit_of(upid)}, "task")
        lines = [f"{step.number} {step.name}: {line}" for line in found]
        self.wrong += [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in IGNORED)]
        self.replayed += 1

    async def play_together(self, steps: list[Step]) -> None:
        """Steps that ran at the same time, in the order in which the product began them."""
        gate, all_here = self.pace.gate, self.pace.all_here
        all_here.clear()
        async with asyncio.TaskGroup() as running:
            for step in sorted(steps, key=lambda step: (step.pid, step.name)):
                if THROTTLED.fullmatch(step.name):
                    gate.clear()
                self.arrived.clear()
                running.create_task(self.play(step), name=step.name)
                if len(steps) > 1 or step.name in WAITED:
                    await self.arrived.wait()
                if step.name in WAITED:
                    gate.set()
            all_here.set()

    async def exit_of(self, upid: str) -> str:
        """How a task ended, as the API tells it."""
        url = f"{self.pve.url}/api2/json/nodes/{upid.split(':')[1]}/tasks/{upid}/status"
        async with self.session.get(url, headers=self.root) as response:
            return str((await response.json())["data"]["exitstatus"])


def excluded(step: Step) -> bool:
    return any(re.fullmatch(pattern, step.name) for pattern in EXCLUDED)


def together(step: Step) -> str:
    """What the steps share that ran at the same time."""
    return "clone2 running" if step.name.startswith("clone2 running") else step.together or str(step.number)


@pytest.fixture(scope="module")
def recorded() -> list[Step]:
    file = reference(RECORDING)
    if file is None:
        pytest.skip("the recording of Proxmox VE is not here: PVE_REFERENCE_DIR names no directory with it")
    return list(read(file))


def test_every_exception_still_has_its_step(recorded: list[Step]) -> None:
    """A table of reasons that nothing needs any more would hide what it once excused."""
    names = {step.name for step in recorded}
    for pattern in (*EXCLUDED, THROTTLED.pattern):
        assert any(re.fullmatch(pattern, name) for name in names), pattern
    assert names >= {*UPLOADS, *BY_HAND, *OBEYED, *WAITED}
    left_out = [step for step in recorded if excluded(step)]
    assert len(left_out) < len(recorded) / 30, "nearly everything is replayed"


async def test_the_simulator_answers_as_the_product_did(recorded: list[Step]) -> None:
    steps = [step for step in recorded if not excluded(step)]
    async with proxmox(world()) as pve, file_server() as files:
        tls = ssl.create_default_context(cafile=pve.ca_file)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            replay = Replay(pve, session, files, await by_ticket(pve))
            for _, group in groupby(steps, key=together):
                await replay.play_together(list(group))
    assert replay.replayed == len(steps)
    assert not replay.wrong, "\n".join(replay.wrong)
