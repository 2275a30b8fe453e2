"""For as long as is asked: several users, one fault after the other, and a look at everything all the while.

In the first quarter every process is killed now and then. From then on our own processes are stopped and cut off, and
not killed, so that they grow as old as in production: that is when memory, descriptors and threads are measured. Every
few minutes users and faults pause, everything must come right, and then there must be silence.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace

from .claims import LATE_SECONDS, Claims
from .footprints import Footprints
from .runs import Runs, Violation
from .stories import HYPERVISOR, Strike, edited, first_spec, kinds_of, strike_of
from .strikes import Striker

USERS, MACHINES = 4, 3
"""Users, and machines that each has at most."""
MOST_KEPT = 6
"""Machines that outlive their objects; then no more are asked for."""
WORK_SECONDS = 100.0
"""Between two pauses."""
SAMPLE_SECONDS = 5.0
KILLING = 0.25
"""Part of the time in which our processes are killed."""
LONG = 70.0
"""Now and then somebody hangs for longer than any call's deadline."""
SHORTEST_LEASE = 8.0
"""A leader that hangs for less keeps its Lease."""


class Soak:
    """One soak on one installation."""

    def __init__(self, runs: Runs, seed: int, seconds: float) -> None:
        self._runs, self._rng, self._seconds = runs, random.Random(seed), seconds
        runs.claims = Claims(LATE_SECONDS + LONG)
        self._began = time.monotonic()
        self._made = 0
        self._footprints = Footprints()
        self.done: Counter[str] = Counter()
        """What happened how often."""

    @property
    def _killing(self) -> bool:
        return time.monotonic() - self._began < self._seconds * KILLING

    async def run(self) -> None:
        """Until the time is over.

        Raises:
            Violation: something that must hold did not.
        """
        self._began = time.monotonic()
        async with self._runs.watched():
            while (left := self._began + self._seconds - time.monotonic()) > 0:
                await self._work(min(WORK_SECONDS, left))
                await self._runs.settle()
                self.done["settled"] += 1
                self._runs.story.clear()  # nobody asks for what led to a good end
            await self._runs.people.clear()
            await self._runs.settle()
        self._judge()

    async def _work(self, seconds: float) -> None:
        """Users and faults for a while; a fault that has begun ends, and a user's call too."""
        until = asyncio.get_running_loop().time() + seconds
        self._runs.striker = striker = Striker(self._runs.installation, self._runs.say)
        async with asyncio.TaskGroup() as group:
            for user in range(USERS):
                group.create_task(self._use(user, until), name=f"user {user}")
            group.create_task(self._strike(striker, until), name="faults")
            group.create_task(self._sample(until), name="footprints")
        await striker.disarm()

    # -- users ---------------------------------------------------------------------------------------------------------

    async def _use(self, user: int, until: float) -> None:
        people, rng = self._runs.people, self._rng
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(rng.uniform(0.2, 5.0))
            mine = sorted(name for name in people.wanted if name.startswith(f"u{user}-"))
            what = rng.choice(["create", "edit", "edit", "edit", "delete"])
            if not mine or (what == "create" and len(mine) < MACHINES):
                self._made += 1
                retain = len(people.kept) < MOST_KEPT
                await people.apply(f"u{user}-{self._made}", first_spec(rng, self._runs.installation.site, retain))
            elif what in ("create", "delete"):
                await people.delete(rng.choice(mine))
            else:
                name = rng.choice(mine)
                await people.apply(name, edited(rng, people.wanted[name]))
            self.done[what] += 1

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _strike(self, striker: Striker, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self._rng.uniform(1.0, 10.0))
            strike = self._draw()
            if strike.what == "point":
                await striker.arm([strike])
            else:
                await striker.strike(strike)
            self.done[f"{strike.what} {strike.whom}"] += 1

    def _draw(self) -> Strike:
        site, rng = self._runs.installation.site, self._rng
        kinds = [*kinds_of(site)]
        if not self._killing:
            kinds = [(what, whom) for what, whom in kinds if what not in ("kill", "point") or whom == HYPERVISOR]
        strike = replace(strike_of(rng, site, *rng.choice(kinds)), at=0.0)
        patient = strike.whom in ("provider", HYPERVISOR, "network") and strike.what in ("stop", "dead", "cut")
        if patient and rng.random() < 0.1:
            return replace(strike, seconds=LONG)
        return replace(strike, seconds=min(strike.seconds, SHORTEST_LEASE))

    # -- footprints ----------------------------------------------------------------------------------------------------

    async def _sample(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            if not self._killing:
                self._footprints.take(self._runs.installation.programs)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _judge(self) -> None:
        growths = list(self._footprints.growths())
        for growth in growths:
            self._runs.say(str(growth))
        if excess := [growth.excess for growth in growths if growth.excess]:
            raise Violation("; ".join(excess))
