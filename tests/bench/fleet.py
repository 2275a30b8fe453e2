"""`make bench SECTIONS="idle growth"`: what a fleet costs that nobody touches, at its start and by its size."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .figures import Curve, Figure, Reach, cpu, exponent, memory, peak_memory
from .following import following
from .prepared import prepared
from .rig import Process, Rig, rig
from .throughput import Cost, costing, create, quiet

SIZES = (1000, 10_000)
MADE = (100, 1000, 10_000)
"""Sizes of fleets that are made one by one."""
FOUND = (100, 1000, 10_000)
"""Sizes of fleets that a controller finds."""
LARGE = 50_000
IDLE_SECONDS = 300.0
GROWTH_SECONDS = 60.0
RESYNC = 225.0
"""Seconds after which the controller looks at a settled machine again, up to twice as many. By default it is 600, and
the first five minutes have no look at all; with this, they have as many as any five minutes in the long run."""
NEARLY_LINEAR = Reach(1.05)
STARTED = "virtrigaud_rpc_server_started_total"
PARTS = ("API server", "controller", "provider")


@dataclass(frozen=True)
class Fleet:
    """What one of this size cost that was there already."""

    size: int
    synced: float
    """Seconds from the start of a controller until its caches are filled."""
    synced_cpu: float
    settled: float
    """Seconds from the start of a controller until it has asked for each machine."""
    settled_cpu: float
    settled_writes: int
    """Writes to the API until then, and until nothing happens any more."""
    peak: float
    """MiB of a controller until then."""
    idle: Cost
    memory: tuple[float, ...]
    """MiB of API server, controller and provider, when idle."""


async def find(size: int, idle: float, resync: float = RESYNC) -> Fleet:
    """Start a controller beside a fleet that is there, and leave both alone."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with prepared(Path(home), size) as (found, provider):
            revision, begun = await found.revision(), time.monotonic()
            async with found.controller("--resync", f"{resync:g}s") as controller:
                synced, synced_cpu = time.monotonic() - begun, cpu(controller.pid)
                await _asked(found, provider, size)
                settled, settled_cpu = time.monotonic() - begun, cpu(controller.pid)
                await quiet(found, min(5.0, idle))
                writes, peak = await found.revision() - revision, peak_memory(controller.pid)
                parts = [found.apiserver, controller, provider]
                async with costing(found, parts) as resting:
                    await asyncio.sleep(idle)
                held = tuple(memory(part.pid) for part in parts)
    return Fleet(size, synced, synced_cpu, settled, settled_cpu, writes, peak, resting, held)


async def _asked(found: Rig, provider: Process, size: int) -> None:
    """Wait until the provider was asked to apply so many machines."""
    async with asyncio.timeout(1800):
        while await found.metric(provider, STARTED, method="ApplyMachine") < size:  # noqa: ASYNC110  # of a process
            await asyncio.sleep(0.1)


async def make(size: int) -> Cost:
    """Make a fleet one by one; what that cost until nothing happens any more, and until the last is Ready."""
    names = [f"vm-{number}" for number in range(size)]
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with rig(Path(home)) as found, found.provider("one") as provider, found.controller() as controller:
            parts = [found.apiserver, controller, provider]
            async with following(found.api, str(await found.revision())) as followed, costing(found, parts) as cost:
                begun = time.time()
                await found.many(create(name) for name in names)
                took = max(await followed.wait(names, seconds=3600)) - begun
                await quiet(found)
    cost.seconds = took
    return cost


# -- the figures -------------------------------------------------------------------------------------------------------


async def measure_idle(sizes: Sequence[int] = SIZES, seconds: float = IDLE_SECONDS) -> list[Figure]:
    """Fleets of these sizes, for so long."""
    return [figure for size in sizes for figure in idle_figures(await find(size, seconds), seconds)]


def idle_figures(seen: Fleet, seconds: float) -> list[Figure]:
    """Of one fleet."""
    of, idle = f"{seen.size:,} idle machines", seen.idle
    taken = (
        f"{seconds:g} s in which nobody touches {seen.size:,} machines, while the controller looks at each again after "
        f"{RESYNC:g} to {2 * RESYNC:g} s (--resync {RESYNC:g}s): as many looks in 300 s as by default in the long run"
    )
    found = [
        Figure(f"API writes, {of}", idle.writes, "writes", f"{taken}; by the API server's revision.", reach=Reach(0)),
        Figure(
            f"calls to the provider, {of}", idle.calls, "calls",
            f"{taken}; by the provider's metrics, its own health aside.", reach=Reach(0),
        ),
    ]  # fmt: skip
    for name, used, held in zip(PARTS, idle.cpu, seen.memory, strict=True):
        share = used / seconds * 100
        found += [
            Figure(
                f"CPU of the {name}, {of}", share, "% of a core", f"{taken}; from /proc.",
                finding=f"The {name} takes {share:.2g}% of a core beside {of}", reach=Reach(1),
            ),
            Figure(
                f"memory of the {name}, {of}", held, "MiB", "Resident, at the end of that time.",
                finding=f"The {name} holds {held:.0f} MiB beside {of}", reach=Reach(400),
            ),
        ]  # fmt: skip
    return found + _cold_figures(seen)


def _cold_figures(seen: Fleet) -> list[Figure]:
    of = f"{seen.size:,} machines"
    return [
        Figure(
            f"start of the controller to synced, {of}", seen.synced, "s",
            "From exec until its readiness says that its caches are filled.",
            parts={"imports and caches": seen.synced, "asking for each machine": seen.settled - seen.synced},
            finding=f"A controller finds {of}: synced after {seen.synced:.1f} s, settled after {seen.settled:.1f} s",
        ),
        Figure(f"CPU of the controller until synced, {of}", seen.synced_cpu, "s", "From /proc, its imports included."),
        Figure(
            f"start of the controller to settled, {of}", seen.settled, "s",
            "Until it has asked the provider for each machine, which alone tells that it is what it shall be.",
        ),
        Figure(f"CPU of the controller until settled, {of}", seen.settled_cpu, "s", "From /proc."),
        Figure(
            f"API writes of a start, {of}", seen.settled_writes, "writes",
            "Until nothing happens any more: of the Provider, which has another address, and of no machine.",
        ),
        Figure(f"peak memory of the controller, {of}", seen.peak, "MiB", "VmHWM, when settled.", reach=Reach(400)),
    ]  # fmt: skip


async def measure_growth(
    made: Sequence[int] = MADE, found: Sequence[int] = FOUND, seconds: float = GROWTH_SECONDS
) -> list[Figure]:
    """How costs grow with the size of the fleet."""
    making = {size: await make(size) for size in made}
    return growth_figures(making, [await find(size, seconds) for size in found])


def growth_figures(making: dict[int, Cost], fleets: Sequence[Fleet]) -> list[Figure]:
    """One figure per cost: its exponent."""
    there = f"Fleets of {', '.join(f'{fleet.size:,}' for fleet in fleets)} machines that are there already"
    one_by_one = f"Fleets of {', '.join(f'{size:,}' for size in making)} machines, made one by one"

    def by_size(lines: dict[str, list[float]]) -> dict[str, list[tuple[float, float]]]:
        sizes = [float(fleet.size) for fleet in fleets]
        return {name: list(zip(sizes, costs, strict=True)) for name, costs in lines.items()}

    def by_part(costs: Sequence[tuple[float, ...]]) -> dict[str, list[float]]:
        return {name: [each[place] for each in costs] for place, name in enumerate(PARTS)}

    spent = {"all three": [(float(size), sum(cost.cpu)) for size, cost in making.items()]}
    for place, name in enumerate(PARTS):
        spent[name] = [(float(size), cost.cpu[place]) for size, cost in making.items()]
    shares = [tuple(used / fleet.idle.seconds * 100 for used in fleet.idle.cpu) for fleet in fleets]
    spans = " to ".join(f"{each:g}" for each in dict.fromkeys(sorted(round(fleet.idle.seconds) for fleet in fleets)))
    filled, asked = "caches filled", "each asked for"
    times = {filled: [fleet.synced for fleet in fleets], asked: [fleet.settled for fleet in fleets]}
    used = {filled: [fleet.synced_cpu for fleet in fleets], asked: [fleet.settled_cpu for fleet in fleets]}
    held = by_part([fleet.memory for fleet in fleets])
    return [
        _grown("CPU to make a fleet", "CPU, s", spent, f"{one_by_one}; until nothing happens any more, from /proc."),
        _grown("a cold start", "s", by_size(times), f"{there}; from the exec of a controller."),
        _grown("CPU of a cold start", "CPU, s", by_size(used), f"{there}; of the controller, from /proc."),
        _grown("CPU of an idle fleet", "% of a core", by_size(by_part(shares)), f"{there}; for {spans} s, from /proc."),
        _grown("memory", "MiB", by_size(held), f"{there}; resident, when idle."),
    ]


def _grown(what: str, unit: str, lines: dict[str, list[tuple[float, float]]], taken: str) -> Figure:
    steep = {name: exponent(line) for name, line in lines.items() if sum(y > 0 for _, y in line) > 1}
    worst = max(steep.values(), default=0.0)
    verb = "grows as the fleet does, or slower" if NEARLY_LINEAR.met_by(worst) else "grows faster than the fleet"
    return Figure(
        f"growth of {what}", worst, "exponent", f"{taken} The steepest line counts.",
        finding=f"{what[0].upper()}{what[1:]} {verb}: exponent {worst:.2f}",
        reach=NEARLY_LINEAR, curve=Curve("machines", unit, lines),
    )  # fmt: skip
