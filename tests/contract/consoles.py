"""What every provider owes those who open a console."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from common import v1
from common.errors import InvalidSpecError, MachineNotFoundError, NotSupportedError, WrongPowerStateError

from .subject import OFF, ON, Subject


async def _opening(uid: str, kind: v1.ConsoleKind, typed: bytes = b"") -> AsyncIterator[v1.OpenConsoleRequest]:
    yield v1.OpenConsoleRequest(open=v1.ConsoleOpen(uid=uid, kind=kind, force=True))
    if typed:
        yield v1.OpenConsoleRequest(input=typed)
        await asyncio.Event().wait()  # the session stays open until the reader leaves


async def _first(subject: Subject, uid: str, kind: v1.ConsoleKind) -> v1.OpenConsoleResponse:
    async with subject.machines.open_console(_opening(uid, kind), timeout=subject.pace.call) as answers:
        async for answer in answers:
            first: v1.OpenConsoleResponse = answer
            return first
    raise AssertionError("the console ended without a word")


class ConsoleContract:
    """Sessions that carry bytes both ways, and clear refusals."""

    async def test_a_serial_console_carries_bytes_both_ways(self, subject: Subject) -> None:
        if v1.ConsoleKind.SERIAL not in (await subject.can()).consoles:
            pytest.skip("not declared; the next test asks for the refusal")
        if subject.traits.console is None:
            pytest.skip("this provider's small machines have no guest that answers")
        typed, expected = subject.traits.console
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        requests = _opening(spec.identity.uid, v1.ConsoleKind.SERIAL, typed)
        seen = b""
        async with (
            asyncio.timeout(subject.pace.settle),
            subject.machines.open_console(requests, timeout=subject.pace.settle) as answers,
        ):
            async for answer in answers:
                seen += answer.output or b""
                if expected in seen:
                    break
        assert expected in seen

    async def test_a_ticket_is_an_address_and_its_end(self, subject: Subject) -> None:
        """Each is another, and no session follows."""
        if v1.ConsoleKind.TICKET not in (await subject.can()).consoles:
            pytest.skip("not declared; the next test asks for the refusal")
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        opened = [(await _first(subject, spec.identity.uid, v1.ConsoleKind.TICKET)).opened for _ in range(2)]
        assert len({each.url for each in opened}) == 2
        for each in opened:
            assert each.url.startswith("wss://")
            assert each.expire_time > datetime.now(UTC)

    async def test_kinds_that_are_not_declared_are_refused(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        declared = (await subject.can()).consoles
        for kind in (v1.ConsoleKind.SERIAL, v1.ConsoleKind.VNC, v1.ConsoleKind.TICKET):
            if kind not in declared:
                with pytest.raises(NotSupportedError):
                    await _first(subject, spec.identity.uid, kind)

    async def test_a_console_of_nothing_or_of_a_machine_that_is_off_is_refused(self, subject: Subject) -> None:
        declared = (await subject.can()).consoles
        if not declared:
            pytest.skip("no console is declared")
        with pytest.raises(MachineNotFoundError):
            await _first(subject, str(uuid.uuid4()), declared[0])
        spec = subject.spec(power=OFF)
        await subject.settle(spec)
        with pytest.raises(WrongPowerStateError):
            await _first(subject, spec.identity.uid, declared[0])

    async def test_a_session_begins_by_opening(self, subject: Subject) -> None:
        async def typing_first() -> AsyncIterator[v1.OpenConsoleRequest]:
            yield v1.OpenConsoleRequest(input=b"hello")

        answers = subject.machines.open_console(typing_first(), timeout=subject.pace.call)
        with pytest.raises(InvalidSpecError):
            await anext(answers)
