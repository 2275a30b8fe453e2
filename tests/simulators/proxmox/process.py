"""The simulated cluster as a process of its own, for benches and for tests that count what a provider costs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

START_SECONDS = 30.0
MAX_LINE = 1 << 20
_TESTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Running:
    """A simulated cluster that answers, and its switches."""

    told: dict[str, Any]
    """Its ready line."""
    pid: int
    control: aiohttp.ClientSession

    @property
    def urls(self) -> tuple[str, ...]:
        """Where its API is."""
        return tuple(self.told["urls"])

    def credentials(self, directory: Path) -> Path:
        """Write what the Secret of a Provider holds."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, key in (("token_id", "token_id"), ("token_secret", "token_secret"), ("ca.crt", "certificate")):
            (directory / name).write_text(self.told[key])
        return directory

    async def switch(self, name: str, **asked: object) -> Any:
        """Turn a switch; see README.md."""
        async with self.control.post(f"{self.told['control']}/{name}", json=asked) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    async def requests(self) -> Counter[str]:
        """Calls so far, by method and route."""
        async with self.control.get(f"{self.told['control']}/requests") as reply:
            return Counter(await reply.json())


@asynccontextmanager
async def process(**options: object) -> AsyncIterator[Running]:
    """Start one, with the options of its command (`vms=20`), and end it."""
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.proxmox", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE,
        cwd=_TESTS,
    )  # fmt: skip
    try:
        assert made.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            told = json.loads(await made.stdout.readline())
        async with aiohttp.ClientSession() as control:
            yield Running(told, made.pid, control)
    finally:
        if made.returncode is None:
            made.terminate()
        await made.wait()
