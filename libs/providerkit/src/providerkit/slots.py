"""How many changes a hypervisor is asked for at once, and how long one may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from common import faults, tracing
from common.errors import HypervisorUnavailableError

T = TypeVar("T")

VERBS = (
    "create",
    "destroy",
    "release",
    "adopt",
    "power_on",
    "power_off",
    "ask_shutdown",
    "ask_reboot",
    "reset",
    "suspend",
    "resume",
    "set_cpu",
    "set_memory",
    "set_firmware",
    "attach_disk",
    "grow_disk",
    "update_disk",
    "move_disk",
    "detach_disk",
    "attach_nic",
    "update_nic",
    "detach_nic",
    "set_boot_data",
    "set_tags",
    "set_description",
    "set_tuning",
    "set_extra_config",
    "set_attributes",
    "set_cdrom",
    "detach_cdrom",
    "set_placement",
    "screenshot",
    "note",
    "reshape",
)
BEFORE = {
    verb: faults.declare(f"machines.{verb}.before", f"{verb} was decided and not yet asked for") for verb in VERBS
}
AFTER = {verb: faults.declare(f"machines.{verb}.after", f"{verb} has been done and nobody knows yet") for verb in VERBS}

MOVES = frozenset({"move_disk", "set_placement"})
"""Verbs that copy what a machine has, and take as long as that takes."""


class Slots:
    """Limits calls that change machines; waiting for a guest holds no slot."""

    def __init__(self, count: int, *, verb_timeout: float, longest_hold: float) -> None:
        """Args: verb_timeout, longest_hold: seconds; see MachineSettings."""
        self._free = asyncio.Semaphore(count)
        self._verb_timeout = verb_timeout
        self._longest_hold = longest_hold

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one slot; for work that takes as long as it takes (create, destroy, clone).

        Work that hangs must not hold up everybody else: after the longest hold it goes on without its slot.
        """
        await self._free.acquire()
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._longest_hold, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    async def verb(self, name: str, uid: str, verb: Callable[[str], Awaitable[None]]) -> None:
        """Run one short verb of a machine in a slot."""
        await self.call(name, uid, lambda: verb(uid))

    async def call(self, name: str, uid: str, call: Callable[[], Awaitable[T]]) -> T:
        """Run one short call in a slot, between its fault points.

        Raises:
            HypervisorUnavailableError: it took longer than any such call may; what became of it shows in the next look.
        """
        async with self._free:
            return await self.limited(name, uid, call)

    async def limited(self, name: str, uid: str, call: Callable[[], Awaitable[T]]) -> T:
        """The same for a caller who holds a slot already."""
        await faults.point(BEFORE[name])
        try:
            with tracing.span(f"driver.{name}", machine_uid=uid):
                async with asyncio.timeout(None if name in MOVES else self._verb_timeout):
                    answer = await call()
        except TimeoutError:
            message = (
                f"{name.replace('_', ' ')} machine {uid}: the hypervisor gave no answer in {self._verb_timeout:g} s"
            )
            raise HypervisorUnavailableError(message) from None
        await faults.point(AFTER[name])
        return answer
