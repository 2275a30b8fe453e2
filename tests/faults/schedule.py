"""What happens when: delays and faults, a function of the seed and of how often a boundary was passed.

No decision depends on another one, so that a fault can be taken out of a run and the others stay what they were: that
is what lets a failing run be shrunk.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from common.errors import HostFullError, HypervisorUnavailableError, ProviderError

from .process import Process, here

LOST, DUPLICATE, HANG, REFUSE, LATE, CUT, HELD = "lost", "duplicate", "hang", "refuse", "late", "cut", "held"
KILL, STOP = "kill", "stop"
DEADLY = (KILL, STOP)
"""What befalls the process that passes a boundary: SIGKILL; SIGSTOP and, later, SIGCONT."""
API_READ = ("429", "500", HANG, LATE, STOP)
API_WRITE = ("409", "429", "500", HANG, LATE, *DEADLY)
"""Refusals of the Kubernetes API, silence until the caller's timeout, a request that arrives much later."""
LONGEST_LIFE = 6000
"""Steps within which a process that dies between two boundaries does so."""
LONGEST_LATE = 60.0
LONGEST_STOP = 45.0
"""Seconds. A Lease expires in 15."""

RPC_TIMES, VERB_TIMES, LEASE_TIMES = 3.0, 2.0, 0.3
"""How much oftener than elsewhere something goes wrong: most calls are about the Lease, the fewest to providers."""

_EVERY = (1 << 64) - 1


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that goes wrong: at the n-th pass of a boundary."""

    boundary: str
    on_pass: int
    what: str

    def __str__(self) -> str:
        return f"{self.boundary}#{self.on_pass}={self.what}"


@dataclass
class _Boundary:
    """How often one was passed, and the dice of the last pass: 64 bits."""

    salt: int
    safe: bool
    """Nothing goes wrong there, because the run looks elsewhere."""
    passes: int = 0
    dice: int = 0

    def roll(self) -> None:
        self.passes += 1
        self.dice = _mixed((self.salt + self.passes * 0x9E3779B97F4A7C15) & _EVERY)


@dataclass
class Schedule:
    """The choices of one run."""

    seed: int
    rate: float = 0.02
    """Part of the passes at which something goes wrong."""
    only: Collection[Fault] | None = None
    """Exactly these faults and no others; None: as the seed says."""
    focus: str = ""
    """Only at boundaries whose name this expression finds something goes wrong; empty for all."""
    active: bool = True
    """Faults strike; afterwards everything must converge."""
    struck: list[Fault] = field(default_factory=list)
    trace: list[tuple[float, str, str]] = field(default_factory=list)
    """Every pass of every boundary, in order: when, by whom, what. Two runs of one seed have the same."""
    story: list[str] = field(default_factory=list)
    """Of these what went wrong, and what people did."""
    kill: Callable[[Process], None] = lambda process: None
    """Told of a process that dies at a boundary."""
    stop: Callable[[Process, float], None] = lambda process, seconds: None
    """Told of a process that is stopped at a boundary, and for how long."""
    _boundaries: dict[str, _Boundary] = field(default_factory=dict)
    _given: dict[tuple[str, int], str] | None = None

    def __post_init__(self) -> None:
        if self.only is not None:
            self._given = {(each.boundary, each.on_pass): each.what for each in self.only}

    def say(self, what: str, *, loud: bool = True) -> None:
        """Note what happened."""
        now, who = asyncio.get_running_loop().time(), here()
        self.trace.append((now, str(who) if who is not None else "world", what))
        if loud:
            self.story.append(f"{now:9.3f} {who or 'world'}: {what}")

    # -- choosing ------------------------------------------------------------------------------------------------------

    def fraction(self, *what: object) -> float:
        """A number from 0 to 1 that depends on the seed and on this alone."""
        return self._salt("/".join(map(str, what))) / (_EVERY + 1)

    def _salt(self, what: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed}/{what}".encode(), digest_size=8).digest(), "big")

    def _boundary(self, name: str) -> _Boundary:
        boundary = self._boundaries.get(name)
        if boundary is None:
            safe = bool(self.focus) and re.search(self.focus, name) is None
            boundary = self._boundaries[name] = _Boundary(self._salt(name), safe)
        return boundary

    def fault(self, name: str, options: Collection[str], *, rate: float | None = None) -> str:
        """What goes wrong at this pass; empty for nothing."""
        boundary = self._boundary(name)
        boundary.roll()
        found, count = "", boundary.passes
        if self.active:
            if self._given is not None:
                found = self._given.get((name, count), "")
            elif not boundary.safe and boundary.dice / (_EVERY + 1) < (self.rate if rate is None else rate):
                listed = list(options)
                found = listed[_mixed(boundary.dice) % len(listed)]
        if found:
            self.struck.append(Fault(name, count, found))
            self.say(f"{name}#{count} {found}")
        else:
            self.say(name, loud=False)
        return found

    def doom(self, process: Process) -> int:
        """The step of its life before which a process dies, wherever that finds it; 0 for none."""
        name = f"step {process}"
        if self._given is not None:
            return next((count for (boundary, count), _ in self._given.items() if boundary == name), 0)
        dies = self.active and not self.focus and self.fraction("doom", process) < 8 * self.rate
        return 1 + int(self.fraction("doom", process, "step") * LONGEST_LIFE) if dies else 0

    def doomed(self, process: Process) -> None:
        """It dies now, if faults strike still."""
        if self.active:
            self.struck.append(Fault(f"step {process}", process.steps, KILL))
            self.kill(process)

    async def delay(self, name: str, most: float = 0.05) -> None:
        """A little of virtual time, so that who comes first differs from seed to seed."""
        boundary = self._boundary(name)
        await asyncio.sleep(((boundary.dice & 0xFFFFFFFF) / (1 << 32)) ** 3 * most)
        await alive()

    def much_later(self, name: str) -> float:
        """Seconds by which the last pass of a boundary is late; a minute at most, more often a few."""
        return 1.0 + self.fraction("late", name, self._boundary(name).passes) ** 2 * LONGEST_LATE

    async def _befalls(self, what: str, name: str) -> None:
        """Kill or stop the process that passes a boundary."""
        process = here()
        if process is None or what not in DEADLY:
            return
        if what == KILL:
            self.kill(process)
            await alive()
        else:
            self.stop(process, 1.0 + self.fraction("stop", name, self._boundary(name).passes) ** 2 * LONGEST_STOP)
            await asyncio.sleep(0)

    # -- boundaries ----------------------------------------------------------------------------------------------------

    async def _pass(self, name: str, options: Collection[str], most: float = 0.05, times: float = 1.0) -> str:
        """One boundary: what goes wrong at it, its delay, and the end or the sleep of who passes it.

        Args: times: how much oftener than elsewhere something goes wrong here.
        """
        await alive()
        found = self.fault(name, options, rate=times * self.rate)
        await self.delay(name, most)
        if found in DEADLY:
            await self._befalls(found, name)
        return found

    async def api_before(self, what: str) -> str:
        """Before the API server acts: the status of a refusal, or LATE, or nothing."""
        found = await self._pass(
            f"api {what}", API_READ if what.startswith(("GET", "WATCH")) else API_WRITE, times=_times(what)
        )
        if found == HANG:
            await asyncio.Event().wait()
        return found

    async def api_after(self, what: str) -> None:
        """After it has acted, before its answer arrives."""
        name = f"api {what} reply"
        found = await self._pass(name, [LOST, LATE, *DEADLY], times=_times(what))
        if found == LOST:
            await asyncio.Event().wait()
        if found == LATE:
            await asyncio.sleep(self.much_later(name))

    async def watch_line(self, path: str) -> bool:
        """Before a line of a watch arrives, and whatever follows it; True cuts the stream."""
        found = await self._pass(f"watch {path}", [CUT, HELD], most=0.3)
        if found == HELD:
            await asyncio.sleep(self.much_later(f"watch {path}"))
        return found == CUT

    async def rpc_before(self, method: str) -> str:
        """On the way to the provider."""
        return await self._pass(f"rpc {method}", [REFUSE, HANG, DUPLICATE, LATE, *DEADLY], times=RPC_TIMES)

    async def rpc_after(self, method: str) -> bool:
        """On the way back; True loses the answer."""
        name = f"rpc {method} reply"
        found = await self._pass(name, [LOST, LATE, STOP], most=0.2, times=RPC_TIMES)
        if found == LATE:
            await asyncio.sleep(self.much_later(name))
        return found == LOST

    async def verb(self, verb: str) -> ProviderError | str:
        """Before the hypervisor carries out a verb of the driver: an error, or LATE, or nothing."""
        found = await self._pass(
            f"verb {verb}", ["slow", HANG, REFUSE, "full", "quota", LATE, *DEADLY], most=0.1, times=VERB_TIMES
        )
        match found:
            case "slow":
                await asyncio.sleep(20.0)
            case "hang":  # until the client of the hypervisor gives up, as each has a limit
                await asyncio.sleep(60.0)
                return HypervisorUnavailableError(f"{verb}: the simulated hypervisor gave no answer")
            case "full":
                return HostFullError(f"{verb}: the simulated storage is full")
            case "quota":
                return HostFullError(f"{verb}: the simulated quota is used up")
            case "refuse":
                return HypervisorUnavailableError(f"{verb}: the simulated hypervisor refused")
        return found if found == LATE else ""

    async def point(self, name: str) -> None:
        """A point that the code declares as one where a death would be worst."""
        await self._pass(f"point {name}", DEADLY, most=0.0)


async def alive() -> None:
    """Go on; in a process that was killed, never."""
    process = here()
    if process is not None and not process.alive:
        await process.stopped()


def _times(call: str) -> float:
    return LEASE_TIMES if "/leases/" in call else 1.0


def _mixed(number: int) -> int:
    """64 bits of which each depends on each of the number's. Source: Steele, Lea, Flood: SplitMix64."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _EVERY
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _EVERY
    return number ^ (number >> 31)
