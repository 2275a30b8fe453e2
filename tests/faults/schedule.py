"""What happens when: delays and faults, a function of the seed and of how often a boundary was passed.

No decision depends on another one, so that a fault can be taken out of a run and the others stay what they were: that
is what lets a failing run be shrunk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from common.errors import HostFullError, HypervisorUnavailableError, ProviderError

from .process import Process, here

API = (409, 429, 500, -1)
"""Refusals of the Kubernetes API; -1 is silence until the caller's timeout."""
LOST, DUPLICATE, HANG, REFUSE = "lost", "duplicate", "hang", "refuse"


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that goes wrong: at the n-th pass of a boundary."""

    boundary: str
    on_pass: int
    what: str

    def __str__(self) -> str:
        return f"{self.boundary}#{self.on_pass}={self.what}"


@dataclass
class Schedule:
    """The choices of one run."""

    seed: int
    rate: float = 0.02
    """Part of the passes at which something goes wrong."""
    only: Collection[Fault] | None = None
    """Exactly these faults and no others; None: as the seed says."""
    active: bool = True
    """Faults strike; afterwards everything must converge."""
    struck: list[Fault] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    """Every pass of every boundary, in order, with its time: two runs of one seed have the same."""
    story: list[str] = field(default_factory=list)
    """Of these what went wrong, and what people did."""
    kill: Callable[[Process], None] = lambda process: None
    """Told of a process that dies at a boundary."""

    def say(self, what: str, *, loud: bool = True) -> None:
        """Note what happened."""
        line = f"{asyncio.get_running_loop().time():9.3f} {here() or 'world'}: {what}"
        self.trace.append(line)
        if loud:
            self.story.append(line)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def fraction(self, *what: object) -> float:
        """A number from 0 to 1 that depends on the seed and on this alone."""
        text = "/".join(map(str, (self.seed, *what))).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64

    def choose(self, options: Collection[str], *what: object) -> str:
        """One of them."""
        listed = list(options)
        return listed[int(self.fraction("choose", *what) * len(listed))]

    def fault(self, boundary: str, options: Collection[str], *, rate: float | None = None) -> str:
        """What goes wrong at this pass; empty for nothing."""
        count = self.passes[boundary] = self.passes.get(boundary, 0) + 1
        if not self.active:
            self.say(f"{boundary}#{count}", loud=False)
            return ""
        if self.only is not None:
            found = next((each.what for each in self.only if (each.boundary, each.on_pass) == (boundary, count)), "")
        else:
            strikes = self.fraction("strike", boundary, count) < (self.rate if rate is None else rate)
            found = self.choose(options, boundary, count) if strikes else ""
        if found:
            self.struck.append(Fault(boundary, count, found))
        self.say(f"{boundary}#{count} {found}".rstrip(), loud=bool(found))
        return found

    async def delay(self, boundary: str, most: float = 0.05) -> None:
        """A little of virtual time, so that who comes first differs from seed to seed."""
        count = self.passes.get(boundary, 0)
        await asyncio.sleep(self.fraction("delay", boundary, count) ** 3 * most)
        await alive()

    def _maybe_die(self, what: str) -> bool:
        process = here()
        if what == "kill" and process is not None:
            self.kill(process)
            return True
        return False

    # -- boundaries ----------------------------------------------------------------------------------------------------

    async def api_before(self, what: str) -> int:
        """Before the API server acts; answers with the status of a refusal, or 0."""
        await alive()
        writes = not what.startswith(("GET", "WATCH"))
        options = ["409", "429", "500", "hang", "kill"] if writes else ["429", "500", "hang"]
        found = self.fault(f"api {what}", options)
        await self.delay(f"api {what}")
        if self._maybe_die(found):
            await alive()
        if found == HANG:
            await asyncio.Event().wait()
        return int(found) if found.isdecimal() else 0

    async def api_after(self, what: str) -> None:
        """After it has acted, before its answer arrives."""
        found = self.fault(f"api {what} reply", [LOST, "kill"])
        await self.delay(f"api {what} reply")
        if self._maybe_die(found):
            await alive()
        if found == LOST:
            await asyncio.Event().wait()

    async def watch_line(self, path: str) -> bool:
        """Before a line of a watch arrives; True cuts the stream."""
        await alive()
        found = self.fault(f"watch {path}", ["cut"])
        await self.delay(f"watch {path}", most=0.3)
        return found == "cut"

    async def rpc_before(self, method: str) -> str:
        """On the way to the provider."""
        await alive()
        found = self.fault(f"rpc {method}", [REFUSE, HANG, DUPLICATE, "kill"])
        await self.delay(f"rpc {method}")
        if self._maybe_die(found):
            await alive()
        return found

    async def rpc_after(self, method: str) -> bool:
        """On the way back; True loses the answer."""
        found = self.fault(f"rpc {method} reply", [LOST])
        await self.delay(f"rpc {method} reply", most=0.2)
        return found == LOST

    async def verb(self, verb: str) -> ProviderError | None:
        """Before the hypervisor carries out a verb of the driver."""
        await alive()
        options = ["slow", HANG, REFUSE, "full", "kill"]
        found = self.fault(f"verb {verb}", options)
        await self.delay(f"verb {verb}", most=0.1)
        if self._maybe_die(found):
            await alive()
        if found == "slow":
            await asyncio.sleep(20.0)
            await alive()
        if found == HANG:  # until the client of the hypervisor gives up, as each has a limit
            await asyncio.sleep(60.0)
            await alive()
            return HypervisorUnavailableError(f"{verb}: the simulated hypervisor gave no answer")
        if found == "full":
            return HostFullError(f"{verb}: the simulated storage is full")
        return HypervisorUnavailableError(f"{verb}: the simulated hypervisor refused") if found == REFUSE else None

    async def point(self, name: str) -> None:
        """A point that the code declares as one where a death would be worst."""
        await alive()
        if self._maybe_die(self.fault(f"point {name}", ["kill"])):
            await alive()


async def alive() -> None:
    """Go on; in a process that was killed, never."""
    process = here()
    if process is not None and not process.alive:
        await process.stopped()
