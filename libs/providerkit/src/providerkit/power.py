"""Power, with the patience that a guest needs: asking, waiting by events, and cutting it when the time is over."""

from __future__ import annotations

from common import faults, logging, v1
from common.clock import Clock
from common.errors import MachineNotFoundError, NotSupportedError, WrongPowerStateError

from .driver import Driver
from .slots import Slots
from .waiting import wait_event
from .watch import Hub

log = logging.get(__name__)

DEFAULT_GRACE = 60.0
"""Seconds that a guest gets to shut down where nobody says otherwise."""
_LOOK_EVERY = 5.0
"""Seconds between looks while waiting, should an event have been lost."""
_ASK_EVERY = 20.0
"""Seconds after which a guest is asked again: one that was just booting did not hear the first time."""

SHUTDOWN_ASKED = faults.declare("machines.shutdown.asked", "the guest was asked to power off and is still on")

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED


class Power:
    """Verbs of power on one hypervisor, each with its outcome made sure of."""

    def __init__(self, driver: Driver, hub: Hub, clock: Clock, slots: Slots) -> None:
        self._driver = driver
        self._hub = hub
        self._clock = clock
        self._slots = slots

    async def on(self, seen: v1.Machine) -> None:
        """From off, suspended or paused to on."""
        uid = uid_of(seen)
        if seen.power in (SUSPENDED, PAUSED):
            await self._slots.verb("resume", uid, self._driver.resume)
        elif seen.power is not ON:
            await self._slots.verb("power_on", uid, self._driver.power_on)
        log.info("machine.power.set", uid=uid, want="on")

    async def off(self, uid: str) -> None:
        """Cut it."""
        await self._slots.verb("power_off", uid, self._driver.power_off)
        log.info("machine.power.set", uid=uid, want="off")

    async def suspend(self, uid: str) -> None:
        """Keep the memory, stop the guest."""
        await self._slots.verb("suspend", uid, self._driver.suspend)
        log.info("machine.power.set", uid=uid, want="suspended")

    async def shut_down(self, seen: v1.Machine, seconds: float, *, force: bool) -> None:
        """Ask the guest, wait for the machine to be off, and cut the power when it did not obey in time.

        Raises:
            WrongPowerStateError: it is still on when the time is over, and `force` is not given.
        """
        uid = uid_of(seen)
        if seen.power in (SUSPENDED, PAUSED):
            await self._slots.verb("resume", uid, self._driver.resume)  # a guest that is stopped cannot obey
        if await self.wait_off(uid, seconds):
            return
        if not force:
            raise WrongPowerStateError(
                f"shut down machine {uid}: the guest cannot be asked, or did not power off within {seconds:g} s"
            )
        log.warning("machine.power.cut", uid=uid, after_seconds=seconds)
        await self.off(uid)

    async def wait_off(self, uid: str, seconds: float) -> bool:
        """Ask the guest to power off, now and then again, until it is off or the time is over; whether it is off.

        A guest that the driver knows to be deaf is not waited for.
        """
        end = self._clock.monotonic() + seconds
        asked_at: float | None = None
        with self._hub.listen(uid) as changed:
            while True:
                changed.clear()
                seen = await self._hub.look(uid)
                if seen is None or seen.power is OFF:
                    return True
                now = self._clock.monotonic()
                if now >= end:
                    return False
                if asked_at is None or now - asked_at >= _ASK_EVERY:
                    asked_at = now
                    if not await self._ask(uid):
                        return False
                    await faults.point(SHUTDOWN_ASKED)
                    continue
                await wait_event(changed, self._clock, min(_LOOK_EVERY, end - now))

    async def _ask(self, uid: str) -> bool:
        """Whether there is any sense in waiting for an answer."""
        try:
            await self._slots.verb("ask_shutdown", uid, self._driver.ask_shutdown)
        except (WrongPowerStateError, MachineNotFoundError):
            log.debug("machine.shutdown.raced", uid=uid)  # it went off by itself: the next look tells
        except NotSupportedError as error:
            log.info("machine.shutdown.deaf", uid=uid, reason=str(error))
            return False
        return True


def uid_of(seen: v1.Machine) -> str:
    """UID of one of our machines."""
    assert seen.identity is not None
    return seen.identity.uid
