"""What the faults of real processes are made of: a network that can be broken, stories, and what counts as growth."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from e2e.stack import Object

from .claims import LATE_SECONDS, Claims
from .footprints import MIB, MOST_GROWTH_MIB, Footprints
from .network import Network, Weather
from .programs import Footprint, Program
from .sites import SITES, Found
from .stories import draw, kinds_of

LIMIT = 20.0


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """Where a server answers with what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_cut_network_resets_and_refuses_and_comes_back_at_the_same_port() -> None:
    async with echo() as target, asyncio.timeout(LIMIT):
        with Network(lambda: target) as network:
            reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"

            network.become(Weather.CUT)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", network.port)
            writer.close()

            network.become(Weather.FAIR)
            reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            writer.close()


async def test_what_a_dead_network_was_given_arrives_afterwards() -> None:
    async with echo() as target, asyncio.timeout(LIMIT):
        with Network(lambda: target) as network:
            reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"

            network.become(Weather.DEAD)
            writer.write(b"two")
            waiting = asyncio.ensure_future(reader.readexactly(3))
            done, _ = await asyncio.wait({waiting}, timeout=0.5)
            assert not done

            network.become(Weather.FAIR)
            assert await waiting == b"two"
            writer.close()


async def test_a_slow_network_loses_nothing() -> None:
    async with echo() as target, asyncio.timeout(LIMIT):
        with Network(lambda: target) as network:
            network.become(Weather.SLOW)
            reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
            writer.write(b"x" * 4000)
            assert await reader.readexactly(4000) == b"x" * 4000
            writer.close()


@pytest.mark.parametrize("kind", SITES)
def test_a_row_of_seeds_has_every_fault_of_its_site(kind: str) -> None:
    """And a seed says the same thing each time."""
    site = SITES[kind]
    kinds = [*kinds_of(site)]
    stories = [draw(seed, site) for seed in range(len(kinds))]
    assert stories == [draw(seed, site) for seed in range(len(kinds))]
    assert {(strike.what, strike.whom) for story in stories for strike in story.strikes} == set(kinds)


def test_a_program_that_is_stopped_and_killed_leaves_nothing(tmp_path: Path) -> None:
    program = Program("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    program.start()
    pid = program.pid
    program.pause()
    program.kill()
    assert (program.pid, program.killed, program.footprint()) == (0, True, None)
    assert not Path(f"/proc/{pid}").exists()

    program.start()
    program.pause()
    program.end()
    assert (program.pid, program.verdict) == (0, "killed by SIGTERM")


def told(power: str, ready: str = "True") -> Object:
    """A machine's object."""
    status = {"powerState": power, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"uid": "u-1", "name": "web"}, "status": status}


def shown(*, on: bool, busy: bool = False) -> list[Found]:
    return [Found("u-1", "shop.web", True, on, 1, 192, (), busy)]


def test_a_status_that_stays_wrong_is_a_lie() -> None:
    """Late it may be; and what changes, what nobody looked at, and what is not claimed, is no lie."""
    claims = Claims()
    for second in range(0, int(LATE_SECONDS) + 30, 5):
        claims.see(second, shown(on=False))
        lie = claims.judge([told("On")])
        assert bool(lie) is (second >= LATE_SECONDS), second
        assert not claims.judge([told("Off")])
        assert not claims.judge([told("On", ready="False")])
    assert claims.judged


@pytest.mark.parametrize("interrupted", ["flips", "gaps", "busy"])
def test_what_was_true_in_between_is_no_lie(interrupted: str) -> None:
    claims = Claims()
    for second in range(0, int(LATE_SECONDS) * 2, 5):
        if interrupted != "gaps" or second % 60 >= 20:
            turn = second % 60 == 0
            claims.see(second, shown(on=interrupted == "flips" and turn, busy=interrupted == "busy" and turn))
        assert not claims.judge([told("On")])


def test_a_machine_that_is_not_there_is_not_ready() -> None:
    claims = Claims()
    lies = []
    for second in range(0, int(LATE_SECONDS) + 30, 5):
        claims.see(second, [])
        lies.append(claims.judge([told("On")]))
    assert "absent" in lies[-1]


def grown(first: int, last: int) -> list[str]:
    """What is said of a process that took so many MiB, and in the end so many."""
    footprints = Footprints()
    for mib in [first] * 8 + [last] * 8:
        footprints.note("provider", Footprint(7, mib * MIB, 10, 2))
    return [growth.excess for growth in footprints.growths()]


def test_growth_beyond_measure_is_told() -> None:
    assert grown(100, 100 + MOST_GROWTH_MIB) == [""]
    assert grown(100, 200) == ["provider: memory in MiB grew from 100 to 200"]
