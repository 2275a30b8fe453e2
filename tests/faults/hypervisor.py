"""A hypervisor to be mean with: its guests have numbers of its own, its tasks outlive who asked for them, calls
that are on their way arrive though the caller has died, and nothing stops a second machine with the same UID.

What it promises is what real ones promise: a name belongs to one guest, and a call that it refuses had no effect.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common import v1, wire
from common.errors import HypervisorUnavailableError, NameConflictError, ProviderError
from providerkit.fake import hardware
from providerkit.fake.shelves import Volume as FakeVolume

from .process import Process, here
from .schedule import LATE, LOST, Schedule, alive

T = TypeVar("T")
GIB = 1 << 30
HALF, BARE = "half", "bare"
"""How a task breaks off: when a part is there that says whose it is; before it says so."""
CLIENT_SECONDS = 10.0
"""How long a client waits for a call that the hypervisor has not begun."""


@dataclass
class Volume:
    """A disk's content. `maker` is the UID that it was made for; "" for one that a person made."""

    id: str
    maker: str
    size: int
    half: bool = False
    """It was copied from an image that was not whole."""


@dataclass
class Image:
    """A file that machines are made of, under the name that its preparation gave it."""

    id: str
    stamped: bool = False
    """It says what it is; before that only its name does."""
    made: bool = False
    """Its content is whole."""
    busy: str = ""


@dataclass
class Guest:
    """A virtual machine. Its stamp is `machine.identity`."""

    number: int
    machine: v1.Machine
    maker: str = ""
    """UID for which it is being made while it carries no stamp: the names of its volumes say so."""
    made: bool = True
    """Every step of its making is done."""
    busy: str = ""
    """Id of the task that works on it."""
    taken: bool = False
    """A person removed it."""

    @property
    def uid(self) -> str:
        return self.machine.identity.uid if self.machine.identity is not None else ""

    def seen(self) -> Guest:
        """As it is now, for somebody who is told: it does not change any more."""
        return dataclasses.replace(self, machine=wire.codec(v1.Machine).loads(bytes_of(self.machine)))


@dataclass
class Task:
    """Work of the hypervisor's own."""

    id: str
    number: int
    error: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Hypervisor:
    """The state and the work. Everything that a driver does goes through `call`."""

    def __init__(self, schedule: Schedule, name: str = "hv") -> None:
        self.schedule, self.name = schedule, name
        self.guests: dict[int, Guest] = {}
        self.volumes: dict[str, Volume] = {}
        self.images: dict[str, Image] = {}
        self.tasks: dict[str, Task] = {}
        self.calls = 0
        self.verbs: dict[str, int] = {}
        self.on_change: Callable[[], None] = lambda: None
        self.foreign: dict[int, bytes] = {}
        """Guests that are not ours, by number, as they must stay."""
        self.precious: dict[str, str] = {}
        """Volumes that nobody but their owner may delete, and what they are."""
        self.retained: set[str] = set()
        """UIDs of machines that were released: their guests and volumes are people's from then on."""
        self.released: set[int] = set()
        """The guests of those."""
        self.available = True
        self._numbers = itertools.count(1)
        self._task_ids = itertools.count(1)
        self._listeners: list[asyncio.Queue[str | None]] = []
        self._work: list[asyncio.Task[None]] = []

    # -- the line ------------------------------------------------------------------------------------------------------

    async def call(self, verb: str, act: Callable[[], T]) -> T:
        """Carry a request there and the answer back. Whoever dies meanwhile does not stop the request.

        Raises:
            HypervisorUnavailableError: refused, or nobody knows: the answer was lost.
            ProviderError: what `act` raises.
        """
        self.calls += 1
        self.verbs[verb] = self.verbs.get(verb, 0) + 1
        verb = f"{self.name}.{verb}"
        found = await self.schedule.verb(verb)
        if isinstance(found, ProviderError):
            raise found
        if not self.available:
            raise HypervisorUnavailableError(f"{verb}: the hypervisor is away")
        arrived: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if found == LATE:
            seconds, sender = self.schedule.much_later(f"verb {verb}"), here()
            self.spawn(lambda: self._arrive_late(seconds, sender, act, arrived))
        else:
            self.spawn(lambda: self._arrive(verb, act, arrived))
        answer = await self._answer(verb, arrived)
        if self.schedule.fault(f"verb {verb} reply", [LOST]):
            raise HypervisorUnavailableError(f"{verb}: the answer was lost")
        await self.schedule.delay(f"verb {verb} reply", most=0.1)
        return answer

    @staticmethod
    async def _answer(verb: str, arrived: asyncio.Future[T]) -> T:
        """The answer, or none within the client's limit; whoever is cancelled in a process that lives on waits for it
        all the same."""
        end = asyncio.get_running_loop().time() + CLIENT_SECONDS
        given_up: asyncio.CancelledError | None = None
        while not arrived.done() and (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.wait({arrived}, timeout=left)
            except asyncio.CancelledError as error:
                await alive()
                given_up = error
        if not arrived.done():
            raise HypervisorUnavailableError(f"{verb}: no answer in time from the simulated hypervisor")
        if given_up is not None:
            raise given_up
        return arrived.result()

    async def _arrive(self, verb: str, act: Callable[[], T], arrived: asyncio.Future[T]) -> None:
        await asyncio.sleep(self.schedule.fraction("line", verb, self.calls) ** 4 * 0.5)
        self._carry_out(act, arrived)

    async def _arrive_late(
        self, seconds: float, sender: Process | None, act: Callable[[], T], arrived: asyncio.Future[T]
    ) -> None:
        """The act waits in front of a busy hypervisor. It drops that of a client whose connection has gone."""
        await asyncio.sleep(seconds)
        if sender is None or sender.alive:
            self._carry_out(act, arrived)

    def _carry_out(self, act: Callable[[], T], arrived: asyncio.Future[T]) -> None:
        try:
            answer = act()
        except ProviderError as error:
            if not arrived.done():
                arrived.set_exception(error)
                arrived.exception()  # nobody may be waiting any more
        else:
            if not arrived.done():
                arrived.set_result(answer)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something in the world, outside of every process."""
        self._work.append(asyncio.get_running_loop().create_task(work(), context=contextvars.Context()))

    async def events(self) -> AsyncIterator[str | None]:
        """UIDs of guests that change."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            while True:
                hint = await queue.get()
                await alive()
                if not self.available:
                    raise HypervisorUnavailableError("events: the hypervisor went away")
                yield hint
        finally:
            self._listeners.remove(queue)

    def tell(self, uid: str | None) -> None:
        """Something happened to a guest."""
        self.on_change()
        for queue in self._listeners:
            queue.put_nowait(uid)

    # -- what drivers ask for ------------------------------------------------------------------------------------------

    def called(self, name: str) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.machine.hypervisor_name == name]

    def with_uid(self, uid: str) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.uid == uid]

    def begun_for(self, uid: str) -> list[Guest]:
        """Guests without a stamp that a broken making, or one under way, has left."""
        return [guest for guest in self.guests.values() if not guest.uid and guest.maker == uid]

    def begin_image(self, image_id: str) -> Task:
        """Fill a file; it is stamped on the way.

        Raises:
            NameConflictError: there is one of this name.
        """
        if image_id in self.images:
            raise NameConflictError(f"there is an image {image_id}")
        image = self.images[image_id] = Image(image_id)

        async def fill(fault: str) -> str:
            await asyncio.sleep(0.5)
            if fault == BARE:
                return "the download broke off"
            image.stamped = True
            await asyncio.sleep(0.5)
            image.made = fault != HALF
            return "the download broke off" if fault == HALF else ""

        return self._begin(image, 0, fill)

    def drop_half_image(self, image_id: str) -> None:
        """Remove a file that nobody fills any more."""
        image = self.images.get(image_id)
        if image is not None and not image.busy and not image.made:
            del self.images[image_id]

    def begin_create(self, machine: v1.Machine, disks: list[v1.DiskSpec], boot_data: str = "") -> Task:
        """The guest is there at once; its disks take a while. Errors quote the boot data, as real ones may.

        Some are stamped from the start. Others are copied first, and say whose they are only by their volumes' names.

        Raises:
            NameConflictError: the name is taken.
        """
        if other := self.called(machine.hypervisor_name):
            raise NameConflictError(f"the name {machine.hypervisor_name} belongs to guest {other[0].number}")
        number = next(self._numbers)
        guest, identity = Guest(number, machine, made=False), machine.identity
        machine.id = f"guest-{number}"
        self.guests[number] = guest
        copied = bool(disks) and disks[0].existing is None
        if copied and identity is not None and self.schedule.fraction("copied", self.name, number) < 0.5:
            guest.maker, machine.identity = identity.uid, None
            self.add_disk(guest, disks[0])

        async def make(fault: str) -> str:
            await asyncio.sleep(0.5)
            if fault == BARE:
                return f"the task ended at its beginning, at {boot_data!r}"
            if guest.number in self.guests:
                machine.identity = identity
                self.tell(guest.uid)
            for disk in disks[:1] if fault == HALF else disks:
                await asyncio.sleep(0.5)
                if guest.number not in self.guests:
                    return "the guest was removed"
                self.add_disk(guest, disk)
            guest.made = fault != HALF
            return f"the task ended half-way, at {boot_data!r}" if fault == HALF else ""

        return self._begin(guest, number, make)

    def begin_destroy(self, number: int, volumes: Collection[str]) -> Task:
        """Power off, remove the guest and these volumes."""
        guest = self.guests[number]

        async def unmake(fault: str) -> str:
            if fault == BARE:
                return "the task ended at its beginning"
            for volume in list(volumes)[: 1 if fault == HALF else None]:
                self.volumes.pop(volume, None)
            if fault != HALF:
                self.guests.pop(number, None)
            return "the task ended half-way" if fault == HALF else ""

        return self._begin(guest, number, unmake)

    def _begin(self, thing: Guest | Image, number: int, work: Callable[[str], Coroutine[Any, Any, str]]) -> Task:
        """Args: work: told how it shall break off, if it shall; answers with an error."""
        task = Task(f"task-{next(self._task_ids)}", number)
        thing.busy = task.id
        self.tasks[task.id] = task
        fault = self.schedule.fault(f"task {self.name}", [HALF, BARE, "forgotten"], rate=5 * self.schedule.rate)
        if fault == "forgotten":
            del self.tasks[task.id]

        async def run() -> None:
            await asyncio.sleep(1.0 + self.schedule.fraction("task", self.name, task.id) * 5.0)
            task.error = await work(fault or "")
            thing.busy = ""
            task.ended.set()
            self.tell(thing.uid if isinstance(thing, Guest) else None)

        self.spawn(run)
        return task

    def add_disk(self, guest: Guest, disk: v1.DiskSpec) -> None:
        """Make a volume and plug it in, or plug in the one that is there."""
        if any(have.name == disk.name for have in guest.machine.disks):
            return
        volume = self.volumes.get(disk.existing.id) if disk.existing is not None else None
        if volume is None:
            image = self.images.get(disk.image.id) if disk.image is not None else None
            half = disk.image is not None and (image is None or not image.made)
            maker = guest.uid or guest.maker
            volume = Volume(f"volume-{guest.number}-{disk.name}", maker, disk.size_bytes or GIB, half)
            self.volumes.setdefault(volume.id, volume)
        hardware.plug_disk(guest.machine, disk, FakeVolume(volume.id, volume.maker, disk.name, volume.size))
        self.tell(guest.uid)

    def change(self, number: int, edit: Callable[[v1.Machine], object]) -> None:
        """Edit a guest in one piece."""
        guest = self.guests[number]
        edit(guest.machine)
        self.tell(guest.uid)

    # -- what others do ------------------------------------------------------------------------------------------------

    def make_foreign(self, name: str) -> Guest:
        """A person's guest with a person's disk."""
        number = next(self._numbers)
        volume = Volume(f"volume-{number}-theirs", "", GIB)
        self.volumes[volume.id] = volume
        machine = v1.Machine(
            id=f"guest-{number}", hypervisor_name=name, power=v1.PowerState.ON,
            disks=[v1.Disk(id=volume.id, size_bytes=GIB, device="sda", active=True)],
            cpu=v1.CpuState(count=1, max_count=1, configured_count=1),
            memory=v1.MemoryState(size_bytes=GIB, max_bytes=GIB, configured_bytes=GIB),
        )  # fmt: skip
        guest = self.guests[number] = Guest(number, machine)
        self.foreign[number] = bytes_of(machine)
        self.precious[volume.id] = "a stranger's disk"
        self.tell(None)
        return guest

    def release(self, number: int) -> None:
        """Take the stamp off: from now on guest and volumes are people's."""
        guest = self.guests[number]
        self.retained.add(guest.uid)
        self.released.add(number)
        guest.machine.identity, guest.maker = None, ""
        self.tell(None)

    def rename_foreign(self) -> None:
        """Strangers give up the names that they took from us."""
        for number in self.foreign:
            if (guest := self.guests.get(number)) is not None:
                guest.machine.hypervisor_name = f"theirs-{number}"
                self.foreign[number] = bytes_of(guest.machine)
        self.tell(None)

    def power_off(self, guest: Guest) -> None:
        """Somebody cuts the power."""
        if guest.made:
            self.change(guest.number, lambda machine: _off(machine))

    def remove(self, guest: Guest) -> None:
        """Somebody removes it, with all volumes that were made for it."""
        guest.taken = True
        del self.guests[guest.number]
        for volume in [volume for volume in self.volumes.values() if volume.maker == guest.uid]:
            del self.volumes[volume.id]
        self.tell(guest.uid)

    def restart(self) -> None:
        """It goes away for a moment: calls fail, streams break, tasks are forgotten, their work goes on."""
        self.available = False
        self.tell(None)
        self.tasks.clear()

    def back(self) -> None:
        self.available = True
        self.tell(None)


def _off(machine: v1.Machine) -> None:
    machine.power, machine.addresses, machine.guest = v1.PowerState.OFF, [], None


def bytes_of(machine: v1.Machine) -> bytes:
    """Everything that is known of it, to compare."""
    return wire.codec(v1.Machine).dumps(machine)
