"""From a change by somebody else to the status that tells of it, beside a loop that looks every 10 seconds.

Machines are suspended and cut off by calls on a connection of the bench, at random moments; the controller says so in
the status (`powerState`, Ready=False for PowerDrift), and puts the machine right, which makes room for the next change.
A change that an apply happens to find first is put right at once, and the status stays as it was.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt
from e2e.stack import Object

from .figures import Figure, Reach, Reference, quantiles
from .libvirt_rig import NAMESPACE, PATIENCE, Rig, is_ready, own_rig, wish

CHANGES, MACHINES = 200, 4
PAUSE = 1.2
"""Seconds between two changes, on average; the putting right comes besides."""
EVERY = 10.0
"""Seconds between two looks of the poller: what VirtRigaud 0.3 did."""
CUTS = 0.25
"""Part of the changes that cut the power. The guest boots after each, which takes most of an emulated CPU."""
REACH = Reach(1000.0)
SLACK = 2.0
"""Seconds that the watch of the bench may lag behind libvirt's event."""
AGAIN = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: libvirt.VIR_DOMAIN_EVENT_RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: libvirt.VIR_DOMAIN_EVENT_STARTED,
}
WORDS = {libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "Suspended", libvirt.VIR_DOMAIN_EVENT_STOPPED: "Off"}


@dataclass(frozen=True)
class Change:
    """One change, in seconds since 1970."""

    event: int
    happened: float
    """By libvirt's own event."""
    told: float
    """A watching client saw it in the status; or, of one that was put right at once, the machine runs again."""
    healed: float
    """A watching client saw that the machine is as its spec says."""
    silent: bool
    """It was put right before the status could tell."""


class Poller(threading.Thread):
    """A loop that asks libvirt for the state of every domain, one by one, and sleeps."""

    def __init__(self, uri: str, every: float) -> None:
        super().__init__(name="poller", daemon=True)
        self._connection, self._every = libvirt.open(uri), every
        self._leave = threading.Event()
        self._looked = threading.Condition()
        self._looks: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._leave.set()
        self.join()
        self._connection.close()

    def run(self) -> None:
        """Look until told to leave."""
        while True:
            begun = time.time()
            for domain in self._connection.listAllDomains(0):
                domain.state()
            with self._looked:
                self._looks.append((begun, time.time()))
                self._looked.notify_all()
            if self._leave.wait(self._every):
                return

    def sees(self, when: float) -> float:
        """When it knew, or would have known had it lasted, of something that happened then; waits for that look."""

        def first() -> float | None:
            return next((end for begun, end in self._looks if begun >= when), None)

        with self._looked:
            seen = self._looked.wait_for(first, timeout=self._every + PATIENCE)
        assert seen is not None, "the poller has ended"
        return seen


async def changes(rig: Rig, count: int, machines: int, pause: float) -> list[Change]:
    """So many changes, at any moment, to one machine after another."""
    names = [f"d{number}" for number in range(machines)]
    await asyncio.to_thread(rig.stack.apply, *(wish(name) for name in names))
    for name in names:
        await rig.told.wait(name, is_ready)
    events = [libvirt.VIR_DOMAIN_EVENT_STOPPED] * max(1, round(count * CUTS))
    events += [libvirt.VIR_DOMAIN_EVENT_SUSPENDED] * (count - len(events))
    random.shuffle(events)
    found = []
    for number, event in enumerate(events):
        await asyncio.sleep(random.uniform(0, 2 * pause))
        found.append(await _change(rig, names[number % machines], event))
    return found


async def _change(rig: Rig, name: str, event: int) -> Change:
    """Make it, and wait until it is told and put right."""
    begun = time.time()
    await asyncio.to_thread(_act, rig.lifecycle.connection, f"{NAMESPACE}.{name}", event)
    happened = await rig.lifecycle.wait(f"{NAMESPACE}.{name}", event, begun)

    def tells(body: Object) -> bool:
        return bool(body.get("status", {}).get("powerState") == WORDS[event])

    runs = await rig.lifecycle.wait(f"{NAMESPACE}.{name}", AGAIN[event], happened)
    try:  # the status is written before the machine is put right, so it has been told by now, or never will
        told = await rig.told.wait(name, tells, begun, patience=SLACK)
    except TimeoutError:
        return Change(event, happened, runs, runs, silent=True)
    return Change(event, happened, told, await rig.told.wait(name, is_ready, told), silent=False)


def _act(connection: libvirt.virConnect, name: str, event: int) -> None:
    domain = connection.lookupByName(name)
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
        domain.destroy()
    else:
        domain.suspend()


def figures(made: Sequence[Change], polled: Sequence[float]) -> list[Figure]:
    """Args: polled: when the poller knew of each change, in their order."""
    ours = [max(0.0, each.told - each.happened) * 1000 for each in made]
    theirs = [(seen - each.happened) * 1000 for seen, each in zip(polled, made, strict=True)]
    healed = [(each.healed - each.happened) * 1000 for each in made]
    silent = sum(each.silent for each in made)
    cuts = sum(each.event == libvirt.VIR_DOMAIN_EVENT_STOPPED for each in made)
    how = (
        f"{len(made)} changes at random moments, {cuts} of them a cut of the power and the others a suspend, by calls "
        "to libvirt; from libvirt's own event to the watch event of the VirtualMachine. "
        f"{silent} were put right at once, by an apply that found them; there, until the machine ran again."
    )
    poller = f"look every {EVERY:g} s"
    p50, p99 = quantiles(ours)
    poller_p50, poller_p99 = quantiles(theirs)
    right_p50, right_p99 = quantiles(healed)
    return [
        Figure("change to status, p50", p50, "ms", how, reference=Reference(poller, poller_p50)),
        Figure(
            "change to status, p99", p99, "ms", f"{how} The poller runs beside it, on a connection of its own.",
            reference=Reference(poller, poller_p99), reach=REACH, samples={"change to status": ours, poller: theirs},
        ),
        Figure(
            "change until the machine is as its spec says, p50", right_p50, "ms",
            "From libvirt's event until a client that watches is told Ready and powerState On again.",
            reference=Reference("its p99", right_p99), samples={"put right": healed},
        ),
    ]  # fmt: skip


async def taken(
    rig: Rig, *, count: int = CHANGES, machines: int = MACHINES, pause: float = PAUSE, every: float = EVERY
) -> list[Figure]:
    """Every figure."""
    with Poller(rig.uri, every) as poller:
        made = await changes(rig, count, machines, pause)
        polled = [await asyncio.to_thread(poller.sees, each.happened) for each in made]
    return figures(made, polled)


async def measure() -> list[Figure]:
    """The section `drift`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with own_rig(Path(home)) as rig:
            return await taken(rig)
