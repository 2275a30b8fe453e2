"""Programs with a bug put into them, to see whether the simulation finds it. Nothing outside of it can reach them."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common import logging, v1
from common.errors import HypervisorUnavailableError, ProviderError
from controller import machines as machines_module
from controller.informer import Informer
from controller.leader import Leader
from controller.machines import MachineReconciler
from controller.status import Outcome
from controller.writer import Writer
from providerkit.driver import Progress
from providerkit.late import Fence, Unsettled
from providerkit.planner import boot_data_digest, hypervisor_name

from .driver import SimulatedDriver
from .hypervisor import Guest
from .simulation import OWNER, Parts

PATIENCE = 900.0

log = logging.get(__name__)


# -- drivers -----------------------------------------------------------------------------------------------------------


class CreatesWithoutLooking(SimulatedDriver):
    """Does not look for the machine by its identity first."""

    numbers = itertools.count()

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        name = f"{hypervisor_name(spec.identity or v1.MachineIdentity())}-{next(self.numbers)}"
        begin = self.hypervisor.begin_create
        task = await self._call("create", lambda: begin(self._new(spec, name), list(spec.disks)))
        await self._wait(task, "create")


class CreatesAgainBlindly(SimulatedDriver):
    """Repeats a call that is not idempotent when its answer was lost."""

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        assert spec.identity is not None
        if await self._settled(spec.identity.uid):
            return
        begin = self.hypervisor.begin_create
        for number in range(3):
            name = f"{hypervisor_name(spec.identity)}-{number}"
            try:
                task = await self._call("create", lambda name=name: begin(self._new(spec, name), list(spec.disks)))  # type: ignore[misc]
            except HypervisorUnavailableError:
                continue
            await self._wait(task, "create")
            return


class TakesHalfForWhole(SimulatedDriver):
    """Counts a machine as made whose making broke off."""

    async def _settled(self, uid: str) -> bool:
        return bool(await self._find(uid))


class TakesAwayForAbsent(SimulatedDriver):
    """Takes a hypervisor that does not answer for one that does not have the machine."""

    async def observe(self, uid: str) -> v1.Machine | None:
        with contextlib.suppress(HypervisorUnavailableError):
            return await super().observe(uid)
        return None

    async def _find(self, uid: str) -> list[Guest]:
        with contextlib.suppress(HypervisorUnavailableError):
            return await super()._find(uid)
        return []


class OverlooksTheUnstamped(SimulatedDriver):
    """Does not know what it has begun before that carries its stamp."""

    def _traces(self, uid: str) -> list[Guest]:
        return self.hypervisor.with_uid(uid)


class TakesHalfImages(SimulatedDriver):
    """Counts an image as ready when there is a file of its name."""

    async def get_image(self, image_id: str) -> v1.Image | None:
        return self._image(image_id) if await self._look_at_image(image_id) is not None else None


class TakesTheName(SimulatedDriver):
    """Puts its stamp on whatever has the machine's name."""

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        assert spec.identity is not None
        guest = next(iter(self.hypervisor.called(hypervisor_name(spec.identity))), None)
        if guest is not None and not guest.uid:
            identity = spec.identity
            self.hypervisor.change(guest.number, lambda machine: setattr(machine, "identity", identity))
        await super().create(spec, progress)


class DestroysByName(SimulatedDriver):
    """Removes whatever has the name that the machine once had."""

    names: dict[str, str] = {}  # noqa: RUF012  # outlives the process, as a database would

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        assert spec.identity is not None
        self.names[spec.identity.uid] = hypervisor_name(spec.identity)
        await super().create(spec, progress)

    async def destroy(self, uid: str, progress: Progress) -> None:
        guest = next(iter(self.hypervisor.called(self.names.get(uid, ""))), None)
        if guest is not None:
            task = await self._call("destroy", lambda: self.hypervisor.begin_destroy(guest.number, self._doomed(guest)))
            await self._wait(task, "destroy")


class DeletesEveryDisk(SimulatedDriver):
    """Removes disks with the machine that were not made for it."""

    def _doomed(self, guest: Guest) -> list[str]:
        return [*super()._doomed(guest), *(disk.id for disk in guest.machine.disks)]


class LeavesDisks(SimulatedDriver):
    """Forgets the disks that are plugged in nowhere."""

    def _doomed(self, guest: Guest) -> list[str]:
        return [disk.id for disk in guest.machine.disks if disk.owned and disk.name == "root"]


class DestroysOnRelease(SimulatedDriver):
    """Removes a machine that should only lose its stamp."""

    async def release(self, uid: str) -> None:
        await self.destroy(uid, lambda part, phase: None)


class ReleasesNothing(SimulatedDriver):
    """Leaves the stamp on."""

    async def release(self, uid: str) -> None:
        await self._find(uid)


class LogsBootData(SimulatedDriver):
    """Tells the log what the user's Secret holds."""

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        log.info("create", digest=boot_data_digest(spec), boot=repr(spec))
        await super().create(spec, progress)


class ForgetsTags(SimulatedDriver):
    """Says that it has done what it has not."""

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        await self._find(uid)


# -- controllers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _with(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """A part of a class, or of a module, replaced by what `make` makes of it."""
    right = getattr(owner, name)
    setattr(owner, name, make(right))
    try:
        yield
    finally:
        setattr(owner, name, right)


def _forget_finalizer(right: Any) -> Any:
    async def wrong(self: Any, cache: Any, item: Any, finalizer: str) -> Any:
        return item

    return wrong


def _status_each_time(right: Any) -> Any:
    async def wrong(self: Any, cache: Any, item: Any, status: Any) -> Any:
        written = await right(self, cache, item, status)
        body = {"metadata": {"resourceVersion": written.metadata.resource_version}, "status": {}}
        return await self._patch(cache, written, body, "status")

    return wrong


def _status_first(right: Any) -> Any:
    async def wrong(self: Any, vm: Any, provider: Any, connection: Any) -> Any:
        vm = await right(self, vm, provider, connection)
        if vm.status.id:
            return vm
        return await self._report(vm, Outcome(machine=v1.Machine(id="soon", power=v1.PowerState.ON)))

    return wrong


def _gone_when_unavailable(right: Any) -> Any:
    async def wrong(self: Any, vm: Any, connection: Any, *, retain: bool) -> Any:
        try:
            return await right(self, vm, connection, retain=retain)
        except ProviderError:
            return v1.DeleteMachineResponse(gone=True)

    return wrong


def _never_retain(right: Any) -> Any:
    async def wrong(self: Any, vm: Any, connection: Any, *, retain: bool) -> Any:
        return await right(self, vm, connection, retain=False)

    return wrong


def _apply_what_goes(right: Any) -> Any:
    async def wrong(self: Any, name: Any) -> Any:
        vm = self._caches.machines.get(*name)
        return await self._apply(vm) if vm is not None else None

    return wrong


def _resume_at_the_beginning(right: Any) -> Any:
    async def wrong(self: Any) -> None:
        began = self._version
        try:
            await right(self)
        finally:
            self._version = began

    return wrong


def _scrub_nothing(right: Any) -> Any:
    return lambda error, boot: error


def _nothing(right: Any) -> Any:
    return lambda *_: None


def _leads_for_ever(right: Any) -> Any:
    async def wrong(self: Any, renewed: float) -> None:
        while True:
            self._until = math.inf
            await right(self, self._clock.monotonic())

    return wrong


@dataclass(frozen=True)
class Mutant:
    """A program that is wrong, and where to look for it."""

    parts: Parts
    rate: float = 0.03
    first: int = 0
    """The first of the seeds that are tried."""


def _altered(
    owner: Any, name: str, make: Callable[[Any], Any], *, focus: str = "", rate: float = 0.03, first: int = 0
) -> Mutant:
    return Mutant(Parts(altered=lambda: _with(owner, name, make), patience=PATIENCE, focus=focus), rate, first)


def _driver(made: type[SimulatedDriver], *, focus: str = "", rate: float = 0.03, first: int = 0) -> Mutant:
    parts = Parts(driver=lambda hypervisor, clock: made(hypervisor, clock, owner=OWNER), patience=PATIENCE, focus=focus)
    return Mutant(parts, rate, first)


_APPLY, _CREATE, _UNSEEN = "rpc MachineService/ApplyMachine$", "verb .*create$", "world|verb .*observe"
_LEASE, _TASK, _LOOKS = "leases/", "^task ", "^world|verb .*(find|observe)$"

MUTANTS: dict[str, Mutant] = {
    made.__name__: _driver(made)
    for made in (
        CreatesWithoutLooking, CreatesAgainBlindly, DeletesEveryDisk, LeavesDisks, LogsBootData, ForgetsTags,
    )
} | {
    made.__name__: _driver(made, rate=0.01) for made in (DestroysOnRelease, ReleasesNothing)
} | {
    made.__name__: _driver(made, focus=_TASK, rate=0.1)
    for made in (TakesHalfForWhole, OverlooksTheUnstamped, TakesHalfImages)
} | {
    made.__name__: _driver(made, focus=_UNSEEN, rate=0.2, first=30) for made in (TakesTheName, DestroysByName)
} | {
    TakesAwayForAbsent.__name__: _driver(TakesAwayForAbsent, focus=_LOOKS, rate=0.3, first=55),
    "resumes a watch where it began": _altered(
        Informer, "_watch", _resume_at_the_beginning, focus="^watch .*virtualmachines", rate=0.1
    ),
    "forgets the finalizer": _altered(Writer, "add_finalizer", _forget_finalizer),
    "writes the status each time": _altered(Writer, "status", _status_each_time),
    "writes the status before the act": _altered(MachineReconciler, "_announce", _status_first),
    "takes a failed removal for done": _altered(MachineReconciler, "_call_delete", _gone_when_unavailable),
    "retains nothing": _altered(MachineReconciler, "_call_delete", _never_retain, rate=0.01),
    "applies what is being deleted": _altered(MachineReconciler, "reconcile", _apply_what_goes),
    "shows what the boot data hold": _altered(machines_module, "_scrubbed", _scrub_nothing, focus=_TASK, rate=0.1),
    "takes late requests": _altered(Fence, "apply", _nothing, focus=_APPLY, rate=0.2, first=14),
    "tells the end of what may yet begin": _altered(Unsettled, "refuse", _nothing, focus=_CREATE, rate=0.3, first=10),
    "leads for ever": _altered(Leader, "_renew", _leads_for_ever, focus=_LEASE, rate=0.2),
}  # fmt: skip
"""What is wrong with it, and how it is found."""
