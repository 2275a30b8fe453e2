"""Console sessions: bytes from the caller to the machine and back, until either side ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common import logging, v1
from common.errors import (
    ForeignMachineError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    ProviderError,
    WrongPowerStateError,
)

from .background import running
from .driver import Console, Driver
from .violations import is_uid, shown
from .watch import Hub

log = logging.get(__name__)

_BACKLOG = 64
"""Chunks of output that wait for a slow reader before the console itself is read no further."""


class Consoles:
    """Consoles of our machines."""

    def __init__(self, driver: Driver, hub: Hub) -> None:
        self._driver = driver
        self._hub = hub

    async def session(self, requests: AsyncIterator[v1.OpenConsoleRequest]) -> AsyncIterator[v1.OpenConsoleResponse]:
        """Open the console that the first request names, then carry input and output. A ticket is all of its session.

        Raises:
            InvalidSpecError: the first request opens nothing.
            MachineNotFoundError, ForeignMachineError, WrongPowerStateError, NotSupportedError: it cannot be opened.
        """
        first = await anext(aiter(requests), None)
        if first is None or first.open is None:
            raise InvalidSpecError("the first request of a console session opens it")
        wish = first.open
        await self._check(wish)
        if wish.kind is v1.ConsoleKind.TICKET:
            ticket = await self._driver.console_ticket(wish.uid)
            log.info("console.ticket", uid=wish.uid, expires=ticket.expires.isoformat())
            yield v1.OpenConsoleResponse(opened=v1.ConsoleOpened(url=ticket.url, expire_time=ticket.expires))
            return
        async with self._driver.console(wish.uid, wish.kind, force=wish.force) as console:
            log.info("console.opened", uid=wish.uid, kind=wish.kind.name)
            yield v1.OpenConsoleResponse(opened=v1.ConsoleOpened())
            output: asyncio.Queue[bytes] = asyncio.Queue(_BACKLOG)
            failures: list[ProviderError] = []
            async with (
                running(_read(console, output, failures), f"console read {wish.uid}"),
                running(_write(console, requests, output, failures), f"console write {wish.uid}"),
            ):
                while chunk := await output.get():
                    yield v1.OpenConsoleResponse(output=chunk)
            if failures:
                raise failures[0]
        log.info("console.closed", uid=wish.uid)

    async def _check(self, wish: v1.ConsoleOpen) -> None:
        if not is_uid(wish.uid):
            raise InvalidSpecError(f"uid: {shown(wish.uid)} is not a lower-case UUID")
        facts = await self._driver.describe()
        if wish.kind not in (facts.capabilities or v1.Capabilities()).consoles:
            raise NotSupportedError(f"this provider has no console of kind {wish.kind.name or int(wish.kind)}")
        seen = await self._hub.look(wish.uid)
        if seen is None:
            raise MachineNotFoundError(f"open console of machine {wish.uid}: there is none")
        if not seen.owned:
            raise ForeignMachineError(f"open console of machine {wish.uid}: it does not carry our stamp")
        if seen.power is v1.PowerState.OFF:
            raise WrongPowerStateError(f"open console of machine {wish.uid}: it is off")


# The two children end the session by an empty chunk and a failure in the list. An error that left them would cancel
# their parent, which may be in the middle of a gRPC write outside of this generator.


async def _read(console: Console, output: asyncio.Queue[bytes], failures: list[ProviderError]) -> None:
    try:
        while chunk := await console.read():
            await output.put(chunk)
    except ProviderError as error:
        failures.append(error)
    await output.put(b"")  # not when cancelled: then nobody reads, and a full queue would hold up the end for ever


async def _write(
    console: Console,
    requests: AsyncIterator[v1.OpenConsoleRequest],
    output: asyncio.Queue[bytes],
    failures: list[ProviderError],
) -> None:
    try:
        async for request in requests:
            if request.input:
                await console.write(request.input)
    except ProviderError as error:
        failures.append(error)
        await output.put(b"")
