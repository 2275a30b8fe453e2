"""Tasks are waited for until their end, whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from common.clock import ManualClock
from common.errors import (
    HypervisorUnavailableError,
    OperationCancelledError,
    OutcomeUnknownError,
    ProviderError,
    WrongPowerStateError,
)
from hypothesis import given
from hypothesis import strategies as st
from observability.spans import Ended, written
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.pve_errors import NodeAwayError, NoSuchTaskError
from provider_proxmox.session.tasks import AWAY_SECONDS, Tasks, Upid, ended_well, parse_upid, part_done
from simulators.proxmox import Proxmox
from simulators.proxmox.errors import PveError
from simulators.proxmox.tasks import Task

from .conftest import eventually

__all__ = ["written"]

UPID = "UPID:pve1:000044CB:000A9A8B:6B03C1D2:qmdestroy:150:rec@pve!t1:"

names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


def test_a_upid_says_what_runs_where() -> None:
    """After a restart it is all that is left of what was begun."""
    assert parse_upid(UPID) == Upid(UPID, "pve1", "qmdestroy", "150", "rec@pve!t1", 0x6B03C1D2)
    assert parse_upid(UPID).vmid == 150  # type: ignore[union-attr]
    upload = parse_upid("UPID:pve1:000048CE:000B2BE2:6B03C346:imgdel:109@local:root@pam:")
    assert upload is not None
    assert upload.vmid is None


@given(names, st.integers(0, 2**32 - 1), names, st.integers(100, 999_999_999), st.sampled_from(["root@pam", "a@b!c"]))
def test_any_upid_is_read_as_it_was_written(node: str, started: int, kind: str, vmid: int, user: str) -> None:
    """Names of nodes have hyphens, numbers of processes grow."""
    text = f"UPID:{node}:0000ABCD:00112233:{started:08X}:{kind}:{vmid}:{user}:"
    assert parse_upid(text) == Upid(text, node, kind, str(vmid), user, started)


@given(st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text())))
def test_anything_else_is_no_upid(other: object) -> None:
    """A reply may hold anything, and often null: it was done at once."""
    if not (isinstance(other, str) and other.startswith("UPID:")):
        assert parse_upid(other) is None


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("transferred 0.0 B of 1.0 GiB (0.00%)", 0.0),
        ("transferred 528.0 KiB of 528.0 KiB (100.00%)", 1.0),
        ("transferred 256.0 MiB of 1.0 GiB", 0.25),
        ("drive-scsi0: transferred 1.5 GiB of 2.0 GiB (75.00%) in 9s", 0.75),
        ("progress 37% (read 100 bytes)", 0.37),
        ("    1024K ........ ........ ........  12%", 0.12),
        ("create full clone of drive scsi0 (local:110/vm-110-disk-0.raw)", None),
        ("TASK OK", None),
        ("transferred 0.0 B of 0.0 B", None),
    ],
)
def test_what_a_line_of_a_log_says_is_done(line: str, part: float | None) -> None:
    """Clones, moves, downloads and migrations each say it in their own way."""
    assert part_done(line) == part


def test_warnings_are_a_success() -> None:
    """It was done."""
    assert ended_well("OK")
    assert ended_well("WARNINGS: 2")
    assert not ended_well("unexpected status")


# -- against a cluster ---------------------------------------------------------------------------------------------


def begin(server: Proxmox, work: Any, kind: str = "qmtest", node: str = "pve1", vmid: int = 100) -> str:
    """A task of the simulated cluster."""
    return server.world.tasks.start(f"{server.token_id}", node, kind, vmid, work)


async def fine(task: Task) -> None:
    task.log("working")


async def warned(task: Task) -> None:
    task.warn("something is odd")


async def failed(task: Task) -> None:
    raise PveError(500, "VM 100 already running\n")


async def endless(task: Task) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("work", [fine, warned])
async def test_the_end_of_a_task_is_waited_for(pve: Proxmox, cluster: Pve, work: Any) -> None:
    """A UPID means that something is queued, no more."""
    await cluster.task("try it", begin(pve, work))


async def test_a_trace_names_the_task(pve: Proxmox, cluster: Pve, written: Ended) -> None:
    """Whoever follows a trace finds the task in the node's own log, failed or not."""
    upids = [begin(pve, fine), begin(pve, failed)]
    await cluster.task("try it", upids[0])
    with pytest.raises(ProviderError):
        await cluster.task("try it", upids[1])
    tasks = [span for span in written.spans if span.name == "proxmox.task"]
    assert [span.attributes and span.attributes["proxmox.upid"] for span in tasks] == upids
    assert [span.status.is_ok for span in tasks] == [True, False]


async def test_what_was_done_at_once_has_no_task(cluster: Pve) -> None:
    """POST config answers with null then."""
    before = cluster.requests
    await cluster.task("change it", None)
    assert cluster.requests == before


async def test_the_end_of_a_failed_task_is_its_error(pve: Proxmox, cluster: Pve) -> None:
    """Most failures are told nowhere else."""
    with pytest.raises(WrongPowerStateError, match="start shop/web: VM 100 already running"):
        await cluster.task("start shop/web", begin(pve, failed))


async def test_many_tasks_are_asked_about_together(pve: Proxmox, cluster: Pve) -> None:
    """Two hundred creates must not mean two hundred questions a second."""
    go = asyncio.Event()

    async def wait(task: Task) -> None:
        await go.wait()

    upids = [begin(pve, wait, vmid=number) for number in range(100, 120)]
    async with asyncio.TaskGroup() as group:
        for upid in upids:
            group.create_task(cluster.task("try it", upid))
        await eventually(lambda: pve.counted()["GET /cluster/tasks"] > 5, lambda: asyncio.sleep(0.05))
        go.set()
    assert pve.counted()["GET /nodes/{node}/tasks/{upid}/status"] < 10


async def test_each_of_many_tasks_ends_in_its_own_way(pve: Proxmox, cluster: Pve) -> None:
    """The failed ones among them are asked for their whole text."""
    works = [fine, failed, warned, fine, failed]
    ends: list[ProviderError | None] = [None] * len(works)

    async def follow(place: int, upid: str) -> None:
        try:
            await cluster.task("try it", upid)
        except ProviderError as error:
            ends[place] = error

    async with asyncio.TaskGroup() as group:
        for place, work in enumerate(works):
            group.create_task(follow(place, begin(pve, work, vmid=100 + place)))
    assert [type(end) for end in ends] == [
        type(None), WrongPowerStateError, type(None), type(None), WrongPowerStateError,
    ]  # fmt: skip


async def test_cancelling_the_wait_stops_the_task(pve: Proxmox, cluster: Pve) -> None:
    """Whoever cleans up afterwards must not be overtaken by what still runs."""
    upid = begin(pve, endless)
    waiting = asyncio.create_task(cluster.task("clone", upid, cancel=True))
    await eventually(lambda: pve.counted()["GET /nodes/{node}/tasks/{upid}/status"], lambda: asyncio.sleep(0.02))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pve.world.tasks.all[upid].exitstatus == "received interrupt"


async def test_a_task_that_somebody_stopped_was_cancelled(pve: Proxmox, cluster: Pve) -> None:
    """By a person, on Proxmox VE's pages."""
    upid = begin(pve, endless)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_error_of(cluster.task("clone", upid)))
        await pve.world.tasks.cancel(upid)
    assert isinstance(waiting.result(), OperationCancelledError)


async def test_tasks_of_a_guest_are_found_after_a_restart(pve: Proxmox, cluster: Pve) -> None:
    """Somebody else began them, or we did in an earlier life."""
    pve.world.add_guest(100, "pve1")
    upid = begin(pve, endless, "qmsnapshot")
    begin(pve, endless, vmid=101)
    assert [task.text for task in await cluster.running("look", 100)] == [upid]


async def _error_of(work: Any) -> ProviderError | None:
    try:
        await work
    except ProviderError as error:
        return error
    return None


# -- by a clock ----------------------------------------------------------------------------------------------------


class Answers:
    """Stands for the cluster: what the next questions are answered with, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    async def get(self, doing: str, path: str, /, **params: object) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    delete = get


async def ended(answers: Answers, seconds: float, **settings: Any) -> ProviderError | None:
    """How a wait ends when so much time goes by."""
    clock = ManualClock()
    tasks = Tasks(answers.get, answers.delete, clock=clock, **{"task_timeout": 3600.0, **settings})
    looking = asyncio.create_task(tasks.run())
    waiting = asyncio.create_task(_error_of(tasks.wait("try it", UPID)))
    await _until(clock, waiting, steps=int(seconds), step=1.0)
    looking.cancel()
    return await waiting


async def _until(clock: ManualClock, waiting: asyncio.Task[Any], steps: int, step: float) -> None:
    """Let time go by until it is done; whoever waits for something sleeps in between, or is done."""
    for _ in range(steps):
        sleeping = asyncio.create_task(clock.wait_sleeping())
        await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        if waiting.done():
            return
        await clock.advance(step)
    waiting.cancel()


async def test_a_question_that_gets_lost_says_nothing_about_the_task() -> None:
    """The task runs on over there."""
    lost, done = HypervisorUnavailableError("no answer"), {"status": "stopped", "exitstatus": "OK"}
    assert await ended(Answers(lost, lost, {"status": "running"}, lost, done), 60) is None


async def test_the_node_of_a_task_may_be_silent_for_a_while_only() -> None:
    """Nobody waits an hour for a node that is gone; what became of the task shows when it is back."""
    error = await ended(Answers(NodeAwayError("no route to host")), AWAY_SECONDS + 20)
    assert type(error) is OutcomeUnknownError
    assert "node pve1" in str(error)


async def test_a_task_that_nobody_knows_has_an_unknown_end() -> None:
    """Its log was thrown away, or its node was made anew."""
    assert type(await ended(Answers(NoSuchTaskError("upid: no such task")), 10)) is NoSuchTaskError


async def test_a_worker_that_was_killed_leaves_an_unknown_end() -> None:
    """Its node was restarted in the middle."""
    error = await ended(Answers({"status": "stopped", "exitstatus": "unexpected status"}), 10)
    assert type(error) is OutcomeUnknownError


async def test_a_task_that_hangs_is_given_up() -> None:
    """It is left to the cluster."""
    error = await ended(Answers({"status": "running"}), 60, task_timeout=30.0)
    assert type(error) is HypervisorUnavailableError
    assert "has not ended in 30 s" in str(error)


async def test_the_log_tells_how_far_it_is() -> None:
    """A clone of a large disk takes its time."""
    clock, told = ManualClock(), []
    lines = [{"n": 1, "t": "create full clone"}, {"n": 2, "t": "transferred 256.0 MiB of 1.0 GiB (25.00%)"}]

    class Log(Answers):
        async def get(self, doing: str, path: str, /, **params: object) -> Any:
            if path.endswith("/log"):
                return [line for line in lines if line["n"] > params["start"]]  # type: ignore[operator]
            return await super().get(doing, path)

    answers = Log(*[{"status": "running"}] * 12, {"status": "stopped", "exitstatus": "OK"})
    tasks = Tasks(answers.get, answers.delete, clock=clock, task_timeout=3600.0)
    looking = asyncio.create_task(tasks.run())
    waiting = asyncio.create_task(
        tasks.wait("clone", UPID, lambda part, _doing: told.append(round(part, 3)), at=(0.2, 0.6))
    )
    await _until(clock, waiting, steps=100, step=0.5)
    looking.cancel()
    await waiting
    assert told == [0.2, 0.3, 0.6]


@pytest.mark.parametrize("line", ["10.0.0.1 B of 1.2.3 B", "... B of . B", "1" * 60_000 + " GiB of"])
def test_a_line_that_only_looks_like_progress_says_nothing(line: str) -> None:
    """It ended the operation whose log it stands in."""
    assert part_done(line) is None


def test_a_task_may_be_about_anything() -> None:
    upid = parse_upid("UPID:pve1:0003A2D4:0051E1F8:66B1C0DE:qmstart:\u00b2:root@pam:")
    assert upid is not None
    assert upid.vmid is None
