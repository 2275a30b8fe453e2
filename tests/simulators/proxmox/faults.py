"""What goes wrong between a client and the cluster, at the moment that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .calls import Call
from .errors import PveError

Meanwhile = Callable[[Call], Awaitable[None]]


@dataclass
class Fault:
    """Something that happens to the next calls of one route.

    Attributes:
        template: of the path, as the route is registered.
        times: calls that it meets, after `skip` that it lets through.
        before: done once the caller is known and allowed, before the call is handled; may wait as long as it likes.
        refusal: the answer, instead of handling the call.
        after: done when the call was handled and nobody knows of it yet.
        lost: cut the connection instead of answering; what was asked has happened.
        met: set when it meets its first call.
    """

    method: str
    template: str
    times: int = 1
    skip: int = 0
    before: Meanwhile | None = None
    refusal: PveError | None = None
    after: Meanwhile | None = None
    lost: bool = False
    met: asyncio.Event = field(default_factory=asyncio.Event)

    async def arriving(self, call: Call) -> None:
        """The call is about to be handled.

        Raises:
            PveError: it is to be refused instead.
        """
        self.met.set()
        if self.before is not None:
            await self.before(call)
        if self.refusal is not None:
            raise self.refusal

    async def leaving(self, call: Call) -> None:
        """The call was handled."""
        if self.after is not None:
            await self.after(call)
        if self.lost and call.request.transport is not None:
            call.request.transport.abort()


def taken(faults: list[Fault], call: Call) -> Fault | None:
    """The first fault that meets a call; used up ones go."""
    for fault in faults:
        if (fault.method, fault.template) != (call.method, call.route.template):
            continue
        if fault.skip:
            fault.skip -= 1
            continue
        fault.times -= 1
        if fault.times <= 0:
            faults.remove(fault)
        return fault
    return None
