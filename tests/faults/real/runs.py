"""Seeds played at the same time on one installation: users, faults, and a look at everything all the while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .claims import Claims
from .installation import Installation
from .people import People
from .stories import draw
from .strikes import Striker

CONVERGE_SECONDS = 150.0
"""After the last fault; it takes a few seconds, and longer where retries had backed off."""
QUIET_SECONDS, QUIET_LIMIT = 2.5, 90.0
LOOK_SECONDS = 0.7
"""Between two looks at the hypervisor."""
LISTEN_SECONDS = 3.0
"""Between two looks at what the statuses claim."""


class Violation(AssertionError):
    """Something that must hold did not; the text has the story, and how to play it again."""


class Runs:
    """All runs on one installation. What one leaves standing is deleted in the next, in the middle of its faults."""

    def __init__(self, installation: Installation, *, loud: bool = False) -> None:
        self.installation = installation
        self.story: list[str] = []
        self._loud, self._began = loud, time.monotonic()
        self.people = People(installation, self.say)
        self.striker = Striker(installation, self.say)
        self.claims = Claims()
        self._theirs = ""

    def say(self, what: str) -> None:
        """Note what happened."""
        line = f"{time.monotonic() - self._began:7.1f} {what}"
        self.story.append(line)
        if self._loud:
            print(line, flush=True)

    async def begin(self) -> None:
        """Before the first run."""
        await self.installation.come_up()
        await self.people.settle_in()
        self._theirs = self.installation.site.theirs()

    async def play(self, seeds: Sequence[int]) -> None:
        """Play seeds together.

        Raises:
            Violation: something that must hold did not.
        """
        self.story.clear()
        try:
            await self._play(seeds)
        except Exception as error:
            again = f"cd tests && python -m faults.real {self.installation.kind} {' '.join(map(str, seeds))}"
            text = "\n".join([*self.story, self.installation.said(), str(first(error)), f"play it again: {again}"])
            raise Violation(text) from error

    async def _play(self, seeds: Sequence[int]) -> None:
        stories = [draw(seed, self.installation.site) for seed in seeds]
        strikes = [strike for story in stories for strike in story.strikes]
        self.striker = striker = Striker(self.installation, self.say)  # of this event loop
        await striker.arm(strikes)
        async with self.watched():
            async with asyncio.TaskGroup() as group:
                group.create_task(self.people.clear(), name="clear")
                for story in stories:
                    group.create_task(self.people.live(story), name=story.name)
                for strike in strikes:
                    group.create_task(striker.strike(strike), name=str(strike))
            await striker.disarm()
            self.say("the faults are over")
            await self.settle()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, what dies is started again, and what must hold at every moment is looked at."""
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(watch(), name="watch") for watch in (self._watch, self._listen)]
            yield
            for watch in watches:
                watch.cancel()

    async def settle(self) -> None:
        """Everything comes right, and then there is silence."""
        await self.converge()
        self.say("all is as it was asked for")
        if noise := await self.people.silent(QUIET_SECONDS, QUIET_LIMIT):
            raise Violation(noise)
        if (theirs := await asyncio.to_thread(self.installation.site.theirs)) != self._theirs:
            raise Violation(f"what is not ours was touched: {self._theirs}\n-> {theirs}")
        await self.converge()  # and still is

    async def converge(self) -> None:
        """Wait until everything is as it was asked for."""
        why = ""
        try:
            async with asyncio.timeout(CONVERGE_SECONDS):
                while True:
                    why = await self.people.lacking()
                    if not why:
                        return
                    await asyncio.sleep(0.5)
        except TimeoutError as error:
            raise Violation(f"{CONVERGE_SECONDS:g} s after the last fault: {why}") from error

    async def _watch(self) -> None:
        looked = 0.0
        while True:
            if surprises := self.installation.supervise():
                raise Violation(f"nobody killed them: {surprises}")
            if time.monotonic() - looked > LOOK_SECONDS and not self.striker.hypervisor.locked():
                async with self.striker.hypervisor:
                    await self._look()
                looked = time.monotonic()
            await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        """No status lies for long, not in the middle of the faults either."""
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            if lie := self.claims.judge(await self.people.told()):
                raise Violation(lie)

    async def _look(self) -> None:
        """At most one machine per UID, and what was to be kept is there."""
        found = await asyncio.to_thread(self.installation.site.found)
        self.claims.see(time.monotonic(), found)
        uids = [machine.uid for machine in found if machine.uid]
        if doubles := {uid for uid in uids if uids.count(uid) > 1}:
            raise Violation(f"more than one machine of a UID: {[each for each in found if each.uid in doubles]}")
        if lost := self.people.kept.keys() - set(uids):
            raise Violation(f"a machine is gone that was to outlive its object: {lost}")


def first(error: BaseException) -> BaseException:
    """What went wrong, without the groups around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
