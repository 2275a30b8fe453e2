"""What goes wrong, done to real processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from common.faults import ENVIRONMENT

from .installation import Installation
from .network import Weather
from .programs import Program
from .stories import APISERVER, HYPERVISOR, LEADER, PROVIDER, Strike


class Striker:
    """Deals the blows to one installation, and takes them back."""

    def __init__(self, installation: Installation, say: Callable[[str], None]) -> None:
        self._installation, self._say = installation, say
        self._locks: dict[str, asyncio.Lock] = {}
        self.hypervisor = self._locks.setdefault(HYPERVISOR, asyncio.Lock())
        """Held while it answers nobody, and by who asks it something: it is not struck meanwhile."""

    async def arm(self, strikes: Sequence[Strike]) -> None:
        """Start the programs anew whose strikes are fault points: they die at these."""
        for whom in (PROVIDER, LEADER):
            points = [strike.detail for strike in strikes if strike.what == "point" and strike.whom == whom]
            if not points:
                continue
            self._say(f"{whom} will die at {', '.join(points)}")
            for program in self._installation.controllers if whom == LEADER else [self._program(whom)]:
                program.kill()
                program.start({ENVIRONMENT: ",".join(points)})
                program.armed = True

    async def disarm(self) -> None:
        """Programs that passed none of their points forget them."""
        for program in self._installation.programs:
            if program.armed and program.pid:
                program.kill()
                program.start()

    async def strike(self, strike: Strike) -> None:
        """At its time, for as long as it lasts."""
        if strike.what == "point":
            return
        await asyncio.sleep(strike.at)
        program = self._program(strike.whom) if strike.whom in (PROVIDER, APISERVER, LEADER) else None
        async with self._lock(program.name if program is not None else strike.whom):
            self._say(str(strike))
            async with self._blow(strike, program):
                await asyncio.sleep(strike.seconds)
            self._say(f"over: {strike}")

    def _lock(self, victim: str) -> asyncio.Lock:
        """One blow at a time."""
        return self._locks.setdefault(victim, asyncio.Lock())

    def _program(self, whom: str) -> Program:
        """The process that is meant."""
        installation = self._installation
        return {PROVIDER: installation.provider, APISERVER: installation.apiserver}.get(whom) or installation.leader

    def _blow(self, strike: Strike, program: Program | None) -> contextlib.AbstractAsyncContextManager[None]:
        if program is not None:
            return self._installation.down(program) if strike.what == "kill" else self._stopped(program)
        match strike.what:
            case "full":
                return self._full(int(strike.detail))
            case "kill" | "stop":
                return self._away(strike.what)
            case _:
                return self._weather(Weather(strike.what))

    @contextlib.asynccontextmanager
    async def _stopped(self, program: Program) -> AsyncIterator[None]:
        program.pause()
        try:
            yield
        finally:
            program.resume()

    @contextlib.asynccontextmanager
    async def _away(self, what: str) -> AsyncIterator[None]:
        site = self._installation.site
        (site.kill if what == "kill" else site.pause)()
        try:
            yield
        finally:
            (site.start if what == "kill" else site.resume)()

    @contextlib.asynccontextmanager
    async def _weather(self, weather: Weather) -> AsyncIterator[None]:
        self._installation.network.become(weather)
        try:
            yield
        finally:
            self._installation.network.become(Weather.FAIR)

    @contextlib.asynccontextmanager
    async def _full(self, spare_bytes: int) -> AsyncIterator[None]:
        site = self._installation.site
        await asyncio.to_thread(site.fill, spare_bytes)
        try:
            yield
        finally:
            await asyncio.to_thread(site.make_room)
