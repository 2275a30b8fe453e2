"""Controllers of releases, as processes here: with the arguments, and the rights, that the chart gives them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from .cluster import Cluster, Object

SECONDS = 60.0


@dataclass(frozen=True)
class Release:
    """A release of the chart."""

    name: str
    namespace: str

    @property
    def objects(self) -> str:
        """What the chart calls its objects."""
        return self.name if "virtrigaud" in self.name else f"{self.name}-virtrigaud"


class Running:
    """One controller."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log

    def records(self) -> list[Object]:
        """Its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def events(self) -> list[str]:
        return [str(record["event"]) for record in self.records()]

    async def until(self, event: str) -> Object:
        """Wait for a record of its log."""
        async with asyncio.timeout(SECONDS):
            while True:
                if found := [record for record in self.records() if record["event"] == event]:
                    return dict(found[-1])
                assert self.process.returncode is None or event == "controller.stopped", self.log.read_text()
                await asyncio.sleep(0.05)

    async def readiness(self) -> tuple[int, str]:
        """What its readiness probe is told."""
        address = (await self.until("controller.metrics"))["address"]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/readyz") as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str) -> str:
        address = (await self.until("controller.metrics"))["address"]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(line.split()[-1] for line in lines if line.startswith(f"{name} "))


@asynccontextmanager
async def running(cluster: Cluster, home: Path, release: Release) -> AsyncIterator[Running]:
    """A controller of a release; its provider servers run elsewhere."""
    home.mkdir(parents=True)  # noqa: ASYNC240  # a moment
    account = cluster.account(home / "kubeconfig", release.namespace, release.objects)
    path = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{release.objects}"
    (container,) = json.loads(cluster.ask(path))["spec"]["template"]["spec"]["containers"]
    command = [
        sys.executable, "-m", "controller", *container["args"], "--kubeconfig", str(account), "--home", str(home),
        "--metrics-address", "127.0.0.1:0", "--runtime", "external",
    ]  # fmt: skip
    log = home / "log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Running(process, log)
    finally:
        if process.returncode is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # where a test left it stopped
        await process.wait()
