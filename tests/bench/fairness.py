"""`make bench SECTIONS=fairness`: how soon a new machine is picked up while others have the system busy, or hang.

Pickup is from the acknowledgement of the create until the provider begins to act on it, which it tells in its log.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from .figures import Figure, Reach, Reference, quantiles
from .following import following
from .record import quantity
from .rig import GROUP, VMS, Object, Process, Rig, machine, rig
from .throughput import create, quiet

OTHERS = 1000
PROBES = 50
PAUSE = 0.2
"""Seconds between two probes; 50 of them take as long as the others' creation."""
GUESTS = "guests"
"""Namespace of the probes."""
ONE_SECOND = Reach(1)


async def measure(others: int = OTHERS, probes: int = PROBES, pause: float = PAUSE) -> list[Figure]:
    """Every figure, on one stack with two providers."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with (
            rig(Path(home)) as found,
            found.provider("one") as one,
            found.provider("two") as two,
            found.controller(),
        ):
            await found.furnish(GUESTS)
            idle = await probe(found, one, "idle", probes, pause)
            async with crowd(found, others):
                same, other = await _both(found, one, two, probes, pause)
            async with hung(found, two, others // 5):
                hanging = await probe(found, one, "hung", probes, pause)
    taken = f"{probes} machines of another namespace, one every {pause:g} s"
    return [
        _figure(
            f"pickup, {others} others on its provider", same, idle,
            f"{taken}, while {others} are being created on the same provider.",
        ),
        _figure(
            f"pickup, {others} others on another provider", other, idle,
            f"{taken}, while {others} are being created on another provider.",
        ),
        _figure(
            "pickup, another provider hangs", hanging, idle,
            f"{taken}, while another provider is stopped (SIGSTOP: its connections stay open, no call is answered) and "
            f"{others // 5} machines wait for it.",
        ),
    ]  # fmt: skip


def _figure(name: str, samples: list[float], idle: list[float], taken: str) -> Figure:
    p50, p99 = quantiles(samples)
    return Figure(
        f"{name}, p99", p99, "s", taken,
        finding=f"{name[0].upper()}{name[1:]}: half within {quantity(p50, 's')}, 99% within {quantity(p99, 's')}",
        reference=Reference("nothing else to do, p99", quantiles(idle)[1]),
        reach=ONE_SECOND, samples={"meanwhile": samples, "nothing else to do": idle},
    )  # fmt: skip


async def _both(found: Rig, one: Process, two: Process, probes: int, pause: float) -> tuple[list[float], list[float]]:
    async with asyncio.TaskGroup() as group:
        same = group.create_task(probe(found, one, "same", probes, pause))
        other = group.create_task(probe(found, two, "other", probes, pause))
    return same.result(), other.result()


async def probe(found: Rig, provider: Process, prefix: str, probes: int, pause: float) -> list[float]:
    """Create a machine now and then on this provider; answers with each one's seconds to its pickup."""
    name = provider.name.removeprefix("provider ")
    acknowledged: dict[str, float] = {}
    for number in range(probes):
        body = machine(f"{prefix}-{number}", name, GUESTS)
        answer = await found.api.request("POST", f"/apis/{GROUP}/namespaces/{GUESTS}/virtualmachines", body=body)
        acknowledged[json.loads(answer)["metadata"]["uid"]] = time.time()
        await asyncio.sleep(pause)
    async with asyncio.timeout(300):
        while acknowledged.keys() - (begun := _pickups(provider)).keys():  # noqa: ASYNC110  # a log
            await asyncio.sleep(0.2)
    return [begun[uid] - at for uid, at in acknowledged.items()]


class _Line(msgspec.Struct):
    event: str = ""
    uid: str = ""
    timestamp: str = ""


_LINES = msgspec.json.Decoder(_Line)


def _pickups(provider: Process) -> dict[str, float]:
    """By UID, when the provider began to make a machine."""
    found = {}
    for text in provider.log.read_bytes().splitlines():
        if b'"machine.create"' in text:
            line = _LINES.decode(text)
            found.setdefault(line.uid, datetime.fromisoformat(line.timestamp).timestamp())
    return found


@asynccontextmanager
async def crowd(found: Rig, others: int) -> AsyncIterator[None]:
    """So many machines are being created meanwhile; at the end, all are there."""
    names = [f"crowd-{number}" for number in range(others)]
    async with following(found.api, str(await found.revision())) as followed, asyncio.TaskGroup() as group:
        creating = group.create_task(found.many(create(name) for name in names))
        await asyncio.sleep(0.5)
        yield
        await creating
        await followed.wait(names)
    await quiet(found)


@asynccontextmanager
async def hung(found: Rig, provider: Process, waiting: int) -> AsyncIterator[None]:
    """The provider does not answer meanwhile, and so many machines wait for it."""
    provider.process.send_signal(signal.SIGSTOP)
    try:
        requests: list[Object] = [create(f"waiting-{number}", "two") for number in range(waiting)]
        await found.many(requests)
        yield
    finally:
        provider.process.send_signal(signal.SIGCONT)
    await found.api.request("DELETE", VMS)
