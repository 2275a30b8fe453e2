"""One run: an installation of controllers, providers and hypervisors, everything that goes wrong with them, and what
must hold all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common import faults
from common.tls import Watched
from controller.claims import Claim, Installation
from controller.controller import Controller
from controller.leader import Leader, LeaseSettings, LostError
from controller.metrics import Metrics
from controller.runtime.external import ExternalRuntime
from prometheus_client import CollectorRegistry
from providerkit.serving import ServingSettings, serve

from . import certificates, loop
from .driver import SimulatedDriver
from .hypervisor import Hypervisor
from .invariants import Invariants, Violation
from .kubernetes import Cluster, SimulatedApi
from .listening import listening
from .loop import LoopClock
from .people import FAULT_SECONDS, Strangers, User
from .process import Process
from .rotation import Rotation
from .schedule import Fault, Schedule
from .wires import MemoryServer, Network

OWNER = "simulation"
SITES = {"hv-a": "provider-a:9443", "hv-b": "provider-b:9443"}
"""Providers, and where each of them serves."""
SETTLE_SECONDS = 3600.0
HANG_SECONDS = 330.0
"""Within which the last fault is over: a watch that hangs is given up, and what it kept back is written."""
QUIET_SECONDS = 300.0
RESYNC_SECONDS = 36_000.0
"""The controller's safety net asks by design; here it is so slow that silence is silence, and nothing rests on it."""

_WATCHED = ("check", "observe_all")
"""Verbs that a provider may ask of an idle hypervisor: is it there, and is all as it was."""


@dataclass(frozen=True)
class Parts:
    """What a run is built of; a mutant has another one of these."""

    driver: Callable[[Hypervisor, LoopClock], SimulatedDriver] = lambda hypervisor, clock: SimulatedDriver(
        hypervisor, clock, owner=OWNER
    )
    altered: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """Held around the run."""
    patience: float = SETTLE_SECONDS
    """Seconds in which everything must have converged once nothing goes wrong any more."""
    focus: str = ""
    """Of the boundaries, those at which something goes wrong; see Schedule."""


@dataclass
class Report:
    """How a run went."""

    seed: int
    struck: list[Fault]
    violation: str = ""
    seconds: float = 0.0
    """Virtual seconds until everything had converged."""
    trace: list[str] = field(default_factory=list)
    """Everything that happened, for comparing two runs of one seed."""
    story: list[str] = field(default_factory=list)
    """What went wrong in it, and what people did."""


class Simulation:
    """Everything of one run."""

    def __init__(self, schedule: Schedule, parts: Parts, place: Path, *, machines: int) -> None:
        """Args: place: for certificates."""
        self.schedule = schedule
        self.clock = LoopClock()
        self.cluster = Cluster(schedule)
        self.sites = {name: Hypervisor(schedule, name) for name in SITES}
        self.network = Network(schedule)
        self.user = User(schedule, self.cluster, self.sites, machines)
        self.rotation = Rotation(schedule, self.cluster, self.network, SITES, place)
        self.strangers = Strangers(schedule, self.cluster, self.sites, self.clock, self._kill_one, self.rotation.rotate)
        self.invariants = Invariants(schedule, self.cluster, self.sites, self.user)
        self._parts = parts
        self._lives: dict[str, int] = {}
        self._living: dict[str, Process] = {}
        self._processes: list[Process] = []
        self.over = False
        """What is told now comes from programs that unwind because the run has ended."""
        schedule.kill, schedule.stop = self.kill, self.stop

    async def run(self) -> float:
        """Until everything has converged and stayed silent; answers with the virtual seconds that took.

        Raises:
            Violation: an invariant was broken.
        """
        self.user.prepare(SITES)
        self.rotation.prepare()
        programs: dict[str, Callable[[Process], Any]] = {site: self._provider(site) for site in SITES}
        programs |= dict.fromkeys(("controller-a", "controller-b"), self._controller)
        try:
            return await self._run(programs)
        finally:
            self.over = True
            for process in self._processes:
                process.finish()

    async def _run(self, programs: dict[str, Callable[[Process], Any]]) -> float:
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(self._keep(name, program)) for name, program in programs.items()]
            user = group.create_task(self.user.run())
            strangers = group.create_task(self.strangers.run())
            await asyncio.sleep(FAULT_SECONDS)
            await user
            strangers.cancel()
            self.schedule.active = False
            self.rotation.finish()
            for hypervisor in self.sites.values():
                hypervisor.back()
                hypervisor.rename_foreign()
            await self._converge()
            seconds = asyncio.get_running_loop().time()
            await self._silence()
            for keeper in keepers:
                keeper.cancel()
        return seconds

    # -- programs ------------------------------------------------------------------------------------------------------

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.schedule.say(f"kill {process}")
        process.kill()
        for address, server in list(self.network.servers.items()):
            if server.process is process:
                server.lose_connections()
                del self.network.servers[address]

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.schedule.say(f"stop {process} for {seconds:.1f} s")
        process.stop()
        asyncio.get_running_loop().call_later(seconds, process.go_on, context=contextvars.Context())

    def _kill_one(self, which: float) -> None:
        names = sorted(self._living)
        process = self._living[names[int(which * len(names))]]
        if process.alive:
            self.kill(process)

    async def _keep(self, name: str, program: Callable[[Process], Any]) -> None:
        """Start a program, and start it anew whenever it has ended."""
        while True:
            life = self._lives[name] = self._lives.get(name, -1) + 1
            process = self._living[name] = Process(name, life)
            process.doom, process.die = self.schedule.doom(process), partial(self.schedule.doomed, process)
            process.since = asyncio.get_running_loop().time()
            self._processes.append(process)
            self.schedule.say(f"start {process}")
            task = process.start(lambda process=process: program(process))  # type: ignore[misc]  # a default argument
            ended = asyncio.ensure_future(process.ended.wait())
            try:
                await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
                if task.done() and process.alive and (error := task.exception()) is not None:
                    if not _is_lost(error):
                        raise error
                    process.kill()
            except asyncio.CancelledError:
                process.kill()
                process.finish()
                task.cancel()
                await asyncio.wait({task}, timeout=60)
                raise
            finally:
                ended.cancel()
            await asyncio.sleep(1.0 + self.schedule.fraction("restart", name, life) * 4.0)

    def _provider(self, site: str) -> Callable[[Process], Any]:
        async def run(process: Process) -> None:
            with _points(self.schedule):
                driver = self._parts.driver(self.sites[site], self.clock)
                files = self.rotation.files(site)
                server: Any = MemoryServer(self.network, SITES[site], Watched(files, self.clock))
                settings = ServingSettings(insecure=True, owner=OWNER, version="simulated")
                async with serve(driver, settings, clock=self.clock, registry=None, server=server):
                    await asyncio.Event().wait()

        return run

    async def _controller(self, process: Process) -> None:
        api, place = SimulatedApi(self.cluster), self.rotation.place / process.name
        rng = random.Random(f"{self.schedule.seed}/{process}")

        async def lead() -> None:
            await claim.obtain()
            controller = Controller(
                api.guarded(leader.holds), self.clock, rng, Metrics(CollectorRegistry()),
                owner=OWNER, resync=RESYNC_SECONDS,
                runtimes=lambda secrets, changed: {"External": ExternalRuntime(secrets, place, None, self.clock)},
                default_mode="External", dial=lambda target: self.network.connect(target, self.clock),
            )  # fmt: skip
            async with asyncio.TaskGroup() as group:
                group.create_task(claim.keep(), name="claim")
                group.create_task(controller.run(), name="controller")

        with _points(self.schedule):
            lease = LeaseSettings("kube-system", "virtrigaud-controller", str(process))
            claim = Claim(api, self.clock, rng, Installation(lease.namespace, lease.name))
            leader = Leader(api, self.clock, rng, lease)
            await leader.run(lead)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _converge(self) -> None:
        end = asyncio.get_running_loop().time() + self._parts.patience
        while lacking := self.invariants.lacking():
            if self.invariants.broken:
                return  # no need to wait for what cannot get better
            if asyncio.get_running_loop().time() > end:
                raise Violation(f"it did not converge: {lacking}")
            await asyncio.sleep(5.0)

    async def _silence(self) -> None:
        """Nothing is written and nothing is asked for while nothing happens."""
        if self.invariants.broken:
            return
        await asyncio.sleep(HANG_SECONDS)
        writes, verbs = len(self._own_writes()), self._verbs()
        await asyncio.sleep(QUIET_SECONDS)
        if fresh := self._own_writes()[writes:]:
            raise Violation(f"written in a steady state: {fresh[0]} and {len(fresh) - 1} more")
        for verb, count in self._verbs().items():
            if count != verbs.get(verb, 0):
                raise Violation(f"asked of the hypervisor in a steady state: {verb}")
        if why := self.invariants.lacking():
            raise Violation(f"it did not stay converged: {why}")

    def _own_writes(self) -> list[str]:
        """Without the Lease, whose renewal is its purpose."""
        return [write for write in self.cluster.writes if " leases/" not in write]

    def _verbs(self) -> dict[str, int]:
        return {
            f"{site} {verb}": count
            for site, hypervisor in self.sites.items()
            for verb, count in hypervisor.verbs.items()
            if verb not in _WATCHED
        }


def simulate(
    seed: int, *, rate: float = 0.02, only: Collection[Fault] | None = None, parts: Parts | None = None,
    machines: int = 4,
) -> Report:  # fmt: skip
    """One run of a seed.

    Args:
        rate: part of the passes of a boundary at which a fault strikes.
        only: exactly these faults; None: those that the seed chooses.
        parts: those of a mutant, to see whether it is caught.
    """
    parts = parts or Parts()
    schedule = Schedule(seed, rate=rate, only=only, focus=parts.focus)
    made: list[Simulation] = []

    async def main() -> float:
        made.append(Simulation(schedule, parts, Path(place), machines=machines))
        return await made[0].run()

    def heard(what: str) -> None:
        if not made[0].over:
            made[0].invariants.violate(what)

    certificates.make_all(*SITES)
    report = Report(seed, schedule.struck)
    with parts.altered(), listening(heard), tempfile.TemporaryDirectory(prefix="faults-") as place:
        try:
            report.seconds = loop.run(main(), seed=seed)
        except* (Violation, loop.DeadlockError) as group:
            report.violation = str(_first(group))
    if made[0].invariants.broken:
        report.violation = made[0].invariants.broken[0]
    report.trace = [f"{at:.6f} {who}: {what}" for at, who, what in schedule.trace]
    report.story = schedule.story
    return report


def _is_lost(error: BaseException) -> bool:
    """The Lease went to another: the process ends, to be started anew."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_lost(each) for each in error.exceptions)
    return isinstance(error, LostError)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def _points(schedule: Schedule) -> Iterator[None]:
    plan = faults.FaultPlan()
    plan.strike = schedule.point  # type: ignore[method-assign]  # every declared point is a boundary of the schedule
    with plan.installed():
        yield
