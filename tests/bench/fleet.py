"""`make bench SECTIONS="idle growth"`: what a fleet costs that nobody touches, at its start and by its size."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .figures import Curve, Figure, Reach, Reference, cpu, exponent, memory, peak_memory
from .following import following
from .rig import Process, Rig, rig
from .throughput import Cost, costing, create, quiet

SIZES = (1000, 10_000)
GROWTH = (100, 1000, 10_000)
LARGE = 50_000
IDLE_SECONDS = 300.0
GROWTH_SECONDS = 30.0
RESYNC = 150.0
"""Seconds after which the controller looks at a settled machine again, up to twice as many: a quarter of the default,
so that the time that is measured has one look at each machine at least."""
NEARLY_LINEAR = Reach(1.05)


@dataclass(frozen=True)
class Fleet:
    """What one of this size cost."""

    size: int
    making: Cost
    idle: Cost
    memory: tuple[float, ...]
    """MiB of API server, controller and provider, when idle."""
    synced: float
    """Seconds from the start of a controller until its caches are filled."""
    synced_cpu: float
    settled: float
    """Seconds from the start of a controller until it has asked for each machine."""
    settled_cpu: float
    peak: float
    """MiB of a controller until then."""
    empty_synced: float
    """Seconds until the caches are filled of a controller that has nothing to fill them with."""


async def fleet(size: int, idle: float, resync: float = RESYNC) -> Fleet:
    """Make one, leave it alone, and start a controller that finds it."""
    flags = ("--resync", f"{resync:g}s")
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with rig(Path(home)) as found, found.provider("one") as provider:
            begun = time.monotonic()
            async with found.controller(*flags) as controller:
                empty = time.monotonic() - begun
                parts = [found.apiserver, controller, provider]
                making = await make(found, parts, size)
                await asyncio.sleep(min(5.0, idle))
                async with costing(found, parts) as resting:
                    await asyncio.sleep(idle)
                held = tuple(memory(part.pid) for part in parts)
            return await cold(found, provider, Fleet(size, making, resting, held, 0, 0, 0, 0, 0, empty), flags)


async def make(found: Rig, parts: Sequence[Process], size: int) -> Cost:
    """Create so many machines, and wait until nothing happens any more; what that cost."""
    names = [f"vm-{number}" for number in range(size)]
    async with following(found.api, str(await found.revision())) as followed, costing(found, parts) as cost:
        begun = time.time()
        await found.many(create(name) for name in names)
        took = max(await followed.wait(names, seconds=3600)) - begun
        await quiet(found)
    cost.seconds = took
    return cost


async def cold(found: Rig, provider: Process, known: Fleet, flags: Sequence[str]) -> Fleet:
    """A controller that finds the fleet: until its caches are filled, and until it has asked for each machine."""
    begun, asked = time.monotonic(), await found.calls(provider)
    async with found.controller(*flags) as controller:
        synced, synced_cpu = time.monotonic() - begun, cpu(controller.pid)
        async with asyncio.timeout(1800):
            while await found.calls(provider) - asked < known.size:  # noqa: ASYNC110  # a metric of another process
                await asyncio.sleep(0.1)
        settled, settled_cpu = time.monotonic() - begun, cpu(controller.pid)
        return Fleet(
            known.size, known.making, known.idle, known.memory, synced, synced_cpu, settled, settled_cpu,
            peak_memory(controller.pid), known.empty_synced,
        )  # fmt: skip


# -- the figures -------------------------------------------------------------------------------------------------------


async def measure_idle(sizes: Sequence[int] = SIZES, seconds: float = IDLE_SECONDS) -> list[Figure]:
    """Fleets of these sizes, for so long."""
    return [figure for size in sizes for figure in idle_figures(await fleet(size, seconds), seconds)]


def idle_figures(seen: Fleet, seconds: float) -> list[Figure]:
    """Of one fleet."""
    of, idle = f"{seen.size:,} idle machines", seen.idle
    taken = (
        f"{seconds:g} s in which nobody touches {seen.size:,} machines, each of which the controller looks at once at "
        f"least: --resync {RESYNC:g}s, four times as often as by default"
    )
    shares = [used / seconds * 100 for used in idle.cpu]
    found = [
        Figure(f"API writes, {of}", idle.writes, "writes", f"{taken}; by the API server's revision.", reach=Reach(0)),
        Figure(
            f"calls to the provider, {of}", idle.calls, "calls",
            f"{taken}; by the provider's metrics, its own health aside.", reach=Reach(0),
        ),
    ]  # fmt: skip
    names = ("API server", "controller", "provider")
    for name, share, held in zip(names, shares, seen.memory, strict=True):
        found += [
            Figure(f"CPU of the {name}, {of}", share, "% of a core", f"{taken}; from /proc.", reach=Reach(1)),
            Figure(f"memory of the {name}, {of}", held, "MiB", "Resident, at the end of that time.", reach=Reach(400)),
        ]
    return found + _cold_figures(seen)


def _cold_figures(seen: Fleet) -> list[Figure]:
    of = f"{seen.size:,} machines"
    return [
        Figure(
            f"start of the controller to synced, {of}", seen.synced, "s",
            "From exec until its readiness says that its caches are filled.",
            reference=Reference("beside no machine", seen.empty_synced),
        ),
        Figure(f"CPU of the controller until synced, {of}", seen.synced_cpu, "s", "From /proc, its imports included."),
        Figure(
            f"start of the controller to settled, {of}", seen.settled, "s",
            "Until it has asked the provider for each machine, which alone tells that it is what it shall be.",
        ),
        Figure(f"CPU of the controller until settled, {of}", seen.settled_cpu, "s", "From /proc."),
        Figure(f"peak memory of the controller, {of}", seen.peak, "MiB", "VmHWM, when settled.", reach=Reach(400)),
    ]  # fmt: skip


async def measure_growth(sizes: Sequence[int] = GROWTH, seconds: float = GROWTH_SECONDS) -> list[Figure]:
    """How costs grow with the size of the fleet."""
    return growth_figures([await fleet(size, seconds) for size in sizes], seconds)


def growth_figures(fleets: Sequence[Fleet], seconds: float) -> list[Figure]:
    """One figure per cost: its exponent."""

    def of(cost: str) -> str:
        return (
            f"Fleets of {', '.join(f'{each.size:,}' for each in fleets)} machines, each on a stack of its own; {cost}."
        )

    names = ("API server", "controller", "provider")
    cold = {"caches filled": [f.synced for f in fleets], "each machine asked for": [f.settled for f in fleets]}
    return [
        _grown("time to make a fleet", "s", fleets, {"all": [f.making.seconds for f in fleets]},
               of("from the first create to the last Ready")),
        _grown("CPU to make a fleet", "CPU, s", fleets,
               {"all three": [sum(f.making.cpu) for f in fleets]}
               | {name: [f.making.cpu[i] for f in fleets] for i, name in enumerate(names)},
               of("until nothing happens any more")),
        _grown("cold start", "s", fleets, cold, of("from the exec of a controller")),
        _grown("CPU of a cold start", "CPU, s", fleets, {"controller": [f.settled_cpu for f in fleets]},
               of("of the controller, until it has asked for each machine")),
        _grown("CPU of an idle fleet", "% of a core", fleets,
               {name: [f.idle.cpu[i] / seconds * 100 for f in fleets] for i, name in enumerate(names)},
               of(f"for {seconds:g} s")),
        _grown("memory", "MiB", fleets,
               {name: [f.memory[i] for f in fleets] for i, name in enumerate(names)}, of("resident, when idle")),
    ]  # fmt: skip


def _grown(what: str, unit: str, fleets: Sequence[Fleet], lines: dict[str, list[float]], taken: str) -> Figure:
    points = {name: [(float(f.size), y) for f, y in zip(fleets, ys, strict=True)] for name, ys in lines.items()}
    steep = {name: exponent(line) for name, line in points.items() if sum(y > 0 for _, y in line) > 1}
    worst = max(steep.values(), default=0.0)
    verb = "grows as the fleet does, or slower" if NEARLY_LINEAR.met_by(worst) else "grows faster than the fleet"
    return Figure(
        f"growth of {what}", worst, "exponent", f"{taken} The steepest line counts.",
        finding=f"{what[0].upper()}{what[1:]} {verb}: exponent {worst:.2f}",
        reach=NEARLY_LINEAR, curve=Curve("machines", unit, points),
    )  # fmt: skip
