"""`vrtg console`: a serial console in this terminal, or the URL of a console where that is what the hypervisor has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vrtg.api import Api, Object
from vrtg.commands.options import HERE, Where
from vrtg.home import Home
from vrtg.links import CALL_LIMIT, machine, provider_of, service
from vrtg.terminal import say

if TYPE_CHECKING:
    from common import v1
    from common.errors import ProviderError

LEAVE = b"\x1d"
"""Ctrl-], as in telnet and virsh."""


def console(
    name: str,
    /,
    *,
    force: Annotated[bool, Parameter(negative=())] = False,
    url: Annotated[bool, Parameter(negative=())] = False,
    idle: float = 1.0,
    where: Where = HERE,
) -> None:
    """Connect to the serial console of a machine; Ctrl-] leaves.

    With input from a pipe, it is sent, and the session ends when the machine has been silent for a while.

    A machine without a serial console (on vSphere) answers with the URL of its display instead. Whoever has it is let
    in, once and for a short time; it is printed and written nowhere else.

    Parameters
    ----------
    name
        The machine.
    force
        Take the console from whoever holds it.
    url
        Print the URL of the display, also where there is a serial console.
    idle
        With piped input: seconds of silence after its end until the session ends.
    """
    api = where.connect()
    body = machine(api, name, where.within(api))
    if url or asyncio.run(_has_only_tickets(api, body)):
        asyncio.run(_print_ticket(api, body))
        return
    interactive = sys.stdin.isatty()
    if interactive:
        say(f"connecting to {name}; Ctrl-] leaves")
    with _raw_terminal() if interactive else contextlib.nullcontext():
        asyncio.run(_session(api, body, force, interactive, idle))
    if interactive:
        say("\nleft the console")


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest; the terminal is as before when we leave, however that happens."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # keeps what was typed ahead
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _has_only_tickets(api: Api, body: Object) -> bool:
    from common import v1

    async with _machines(api, body) as machines:
        answer = await machines.get_machine(v1.GetMachineRequest(uid=body["metadata"]["uid"]), timeout=CALL_LIMIT)
        return v1.ConsoleKind.TICKET in answer.machine.consoles and v1.ConsoleKind.SERIAL not in answer.machine.consoles


async def _print_ticket(api: Api, body: Object) -> None:
    """The URL alone goes to standard output, so that it can be handed on without being shown."""
    from common import v1

    opening = v1.ConsoleOpen(uid=body["metadata"]["uid"], kind=v1.ConsoleKind.TICKET)

    async def requests() -> AsyncIterator[v1.OpenConsoleRequest]:
        yield v1.OpenConsoleRequest(open=opening)

    async with _machines(api, body) as machines:
        async for answer in machines.open_console(requests()):
            if answer.opened is not None:
                until = answer.opened.expire_time
                say(f"valid once{f', until {until:%H:%M:%S} UTC' if until is not None else ''}")
                print(answer.opened.url)


def _machines(api: Api, body: Object) -> AbstractAsyncContextManager[Any]:  # Any: common.rpc.Stub
    return service(Home.from_environment(), provider_of(api, body), "MachineService")


async def _session(api: Api, body: Object, force: bool, interactive: bool, idle: float) -> None:
    from common import v1

    session = _Session(interactive, idle)
    opening = v1.ConsoleOpen(uid=body["metadata"]["uid"], kind=v1.ConsoleKind.SERIAL, force=force)

    async def requests() -> AsyncIterator[v1.OpenConsoleRequest]:
        yield v1.OpenConsoleRequest(open=opening)
        await session.opened.wait()  # keys typed before are not lost: the terminal keeps them
        async for data in session.keys():
            yield v1.OpenConsoleRequest(input=data)

    async with _machines(api, body) as machines:
        await session.run(machines.open_console(requests()))


class _Session:
    """One connection: keys in, output out, and what ends it."""

    def __init__(self, interactive: bool, idle: float) -> None:
        self._interactive, self._idle = interactive, idle
        self.opened, self._over, self._input_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._last_output = 0.0
        self._failure: ProviderError | None = None

    async def run(self, answers: AsyncIterator[v1.OpenConsoleResponse]) -> None:
        """Until Ctrl-], the other side's end, or silence after piped input."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._show(answers), name="console output")]
            if not self._interactive:
                tasks.append(group.create_task(self._await_silence(), name="console silence"))
            await self._over.wait()
            for task in tasks:
                task.cancel()
        if self._failure is not None:
            raise self._failure

    async def keys(self) -> AsyncIterator[bytes]:
        """What is typed or piped, until Ctrl-] or the end of it."""
        async for data in _stdin():
            if self._interactive and LEAVE in data:
                if before := data.partition(LEAVE)[0]:
                    yield before
                self._over.set()
                return
            yield data
        self._input_ended.set()
        await self._over.wait()  # ending the requests would end the session before the last answer

    async def _show(self, answers: AsyncIterator[v1.OpenConsoleResponse]) -> None:
        from common.errors import ProviderError

        loop = asyncio.get_running_loop()
        try:
            async for answer in answers:
                if answer.opened is not None:
                    self.opened.set()
                if answer.output:
                    self._last_output = loop.time()
                    os.write(sys.stdout.fileno(), answer.output)
        except ProviderError as error:
            self._failure = error  # raised outside of the task group, which would wrap it
        finally:
            self._over.set()

    async def _await_silence(self) -> None:
        loop = asyncio.get_running_loop()
        await self._input_ended.wait()
        self._last_output = max(self._last_output, loop.time())
        while (left := self._last_output + self._idle - loop.time()) > 0:  # noqa: ASYNC110 - output moves the end
            await asyncio.sleep(left)
        self._over.set()


async def _stdin() -> AsyncIterator[bytes]:
    """Standard input in pieces, without a thread that would outlive us."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    descriptor = sys.stdin.fileno()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file is always readable, and epoll does not take it
        while data := os.read(descriptor, 1 << 12):
            yield data
        return
    try:
        while True:
            await ready.wait()
            ready.clear()
            data = os.read(descriptor, 1 << 12)
            if not data:
                return
            yield data
    finally:
        loop.remove_reader(descriptor)
