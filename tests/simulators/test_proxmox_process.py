"""The simulated cluster as a process of its own."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path

import aiohttp

TESTS = Path(__file__).resolve().parents[1]


async def test_the_process_says_where_it_answers_and_ends_with_its_input() -> None:
    """Nothing is left behind by a test that was killed."""
    command = (sys.executable, "-m", "simulators.proxmox", "--nodes", "2", "--vms", "5", "--scale", "0.02")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=TESTS, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    header = {"Authorization": f"PVEAPIToken={ready['token_id']}={ready['token_secret']}"}
    tls = ssl.create_default_context(cadata=ready["certificate"])
    url = f"{ready['url']}/api2/json/cluster/resources?type=vm"
    async with aiohttp.ClientSession() as session, session.get(url, headers=header, ssl=tls) as answer:
        rows = (await answer.json())["data"]
    assert [(row["vmid"], row["node"], row["status"]) for row in rows[:2]] == [
        (100, "pve1", "stopped"),
        (101, "pve2", "running"),
    ]
    assert len(rows) == 5
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0
