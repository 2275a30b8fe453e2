"""Tasks of Proxmox VE: named by a UPID, looked after until their end.

A reply with a UPID means that something is queued, no more: most failures show only at the task's end. The end of one
is asked for directly; of several, in one call for the whole cluster. A call that gets lost tells nothing of the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from common import logging, tracing
from common.clock import Clock
from common.errors import HypervisorUnavailableError, OutcomeUnknownError, ProviderError
from providerkit.driver import Progress
from providerkit.waiting import wait_event

from provider_proxmox.session import rows as row_of
from provider_proxmox.session.pve_errors import NoSuchTaskError, from_text
from provider_proxmox.session.rows import Rows, mapping

log = logging.get(__name__)

Ask = Callable[..., Awaitable[Any]]
"""Pve.get, as far as it is needed here: doing, path, parameters."""

AWAY_SECONDS = 120.0
"""For so long the node of a task may be silent."""
CANCEL_SECONDS = 60.0
TOGETHER = 3
"""So many tasks that are waited for are asked about in one call."""
_PAUSES = ((0.35, 0.12), (60.0, 1.0))
"""Pause between two looks at a task that is younger than so many seconds. After a moment the ticker's lists, which come
every half second then, tell of most ends."""
_LONGEST_PAUSE = 2.0
_TOGETHER_PAUSE = 0.3
_LOG_EVERY = 2.0
_LOG_LINES = 500


@dataclass(frozen=True)
class Upid:
    """Name of a task: UPID:node:pid:pstart:starttime:type:id:user:"""

    text: str
    node: str
    kind: str
    """"qmstart", "qmclone", "imgcopy", "download", ..."""
    id: str
    """What it works on: for guests the VMID, of a clone that of the source."""
    user: str
    started: int
    """Seconds since 1970."""

    @property
    def vmid(self) -> int | None:
        """The guest it works on; None if it is none."""
        return int(self.id) if self.id.isascii() and self.id.isdigit() and len(self.id) < 10 else None


_UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):"
    r"(?P<started>[0-9A-Fa-f]{8}):(?P<kind>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)


def parse_upid(text: object) -> Upid | None:
    """What a UPID says; None for anything else."""
    found = _UPID.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    return Upid(found.group(), found["node"], found["kind"], found["id"], found["user"], int(found["started"], 16))


_PERCENT = re.compile(r"\((\d{1,3}(?:\.\d+)?)\s?%\)|(?:^|\s)(\d{1,3}(?:\.\d+)?)\s?%")
_OF = re.compile(r"(?<![\d.])(\d{1,20}(?:\.\d{1,9})?) ?([KMGTP]?i?B) of (\d{1,20}(?:\.\d{1,9})?) ?([KMGTP]?i?B)")
_UNITS: dict[str, int] = {unit: 1024 ** (" KMGTP".index(unit[0]) if unit[0] in "KMGTP" else 0) for unit in
          ("B", "KB", "MB", "GB", "TB", "PB", "KiB", "MiB", "GiB", "TiB", "PiB")}  # fmt: skip


def part_done(line: str) -> float | None:
    """How much a line of a task's log says is done, 0 to 1; None if it does not say."""
    if found := _PERCENT.search(line):
        return min(float(found[1] or found[2]) / 100, 1.0)
    if (found := _OF.search(line)) and (whole := float(found[3]) * _UNITS.get(found[4], 1)):
        return min(float(found[1]) * _UNITS.get(found[2], 1) / whole, 1.0)
    return None


def ended_well(exit_text: str) -> bool:
    """Done, perhaps with warnings in its log."""
    return exit_text == "OK" or exit_text.startswith("WARNINGS:")


@dataclass(eq=False)
class _Wait:
    upid: Upid
    began: float
    done: asyncio.Event = field(default_factory=asyncio.Event)
    exit_text: str = ""
    error: ProviderError | None = None
    silent_since: float | None = None

    def end(self, exit_text: str) -> None:
        self.exit_text = exit_text
        self.done.set()

    def fail(self, error: ProviderError) -> None:
        self.error = error
        self.done.set()


class Tasks:
    """Those that are waited for here. `run` looks after all of them while it runs."""

    def __init__(self, get: Ask, delete: Ask, *, clock: Clock, task_timeout: float) -> None:
        self._get = get
        self._rows = Rows()
        self._delete = delete
        self._clock = clock
        self._task_timeout = task_timeout
        self._waits: set[_Wait] = set()
        self._more = asyncio.Event()
        self._now = asyncio.Event()
        """Set when a task is known to have ended in a way that has to be asked for."""
        self.on_list: Callable[[list[dict[str, Any]]], None] = lambda _rows: None
        """Gets each list of the cluster's tasks that was asked for here."""

    async def wait(
        self,
        doing: str,
        upid: object,
        progress: Progress | None = None,
        *,
        at: tuple[float, float] = (0.0, 1.0),
        cancel: bool = False,
    ) -> None:
        """Wait for a task's end.

        Args:
            upid: None for what was done at once.
            progress: gets the part that is done, from the task's log.
            at: parts between which this task moves a larger whole.
            cancel: have it stopped when the caller stops waiting, and leave only when it has ended.
        Raises:
            ProviderError: what the task ended with, or that its end cannot be learned.
        """
        if upid is None:
            return
        parsed = parse_upid(upid)
        if parsed is None:
            raise OutcomeUnknownError(f"{doing}: the reply names no task: {str(upid)[:200]}")
        with (
            tracing.span("proxmox.task", proxmox__upid=parsed.text, doing=doing),
            self._followed(parsed) as wait,
        ):
            await self._ended(doing, wait, progress, at, cancel=cancel)

    async def _ended(
        self, doing: str, wait: _Wait, progress: Progress | None, at: tuple[float, float], *, cancel: bool
    ) -> None:
        try:
            await self._until_done(doing, wait, progress, at)
        except asyncio.CancelledError:
            if cancel:
                await asyncio.shield(self._cancel(doing, wait))
            raise
        if wait.error is not None:
            raise type(wait.error)(f"{doing}: {wait.error}", retry_after=wait.error.retry_after) from wait.error
        if wait.exit_text.startswith("WARNINGS:"):
            log.warning("pve.task.warnings", upid=wait.upid.text, doing=doing, exit=wait.exit_text)
        elif not ended_well(wait.exit_text):
            raise from_text(wait.exit_text, doing)

    async def _until_done(self, doing: str, wait: _Wait, progress: Progress | None, at: tuple[float, float]) -> None:
        first, last = at
        if progress is None:
            await wait.done.wait()
            return
        progress(first, doing)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(
                self._read_log(wait, lambda part: progress(first + (last - first) * part, doing))
            )
            await wait.done.wait()
            reading.cancel()
        if wait.error is None and ended_well(wait.exit_text):
            progress(last, doing)

    async def _read_log(self, wait: _Wait, tell: Callable[[float], None]) -> None:
        start, most = 0, 0.0
        path = f"nodes/{wait.upid.node}/tasks/{wait.upid.text}/log"
        while True:
            await self._clock.sleep(_LOG_EVERY)
            with contextlib.suppress(ProviderError):  # what it says is nice to know, no more
                said = await self._get("read a task's log", path, start=start, limit=_LOG_LINES)
                lines = self._rows.take(said, "read a task's log", n=row_of.whole, t=row_of.text)
                start = max([start, *(line["n"] for line in lines)])
                parts = [part for line in lines if (part := part_done(line["t"])) is not None]
                if parts and parts[-1] > most:
                    most = parts[-1]
                    tell(most)

    @contextlib.contextmanager
    def _followed(self, upid: Upid) -> Iterator[_Wait]:
        wait = _Wait(upid, self._clock.monotonic())
        self._waits.add(wait)
        self._more.set()
        try:
            yield wait
        finally:
            self._waits.discard(wait)

    async def _cancel(self, doing: str, wait: _Wait) -> None:
        """Have it stopped, and wait for its end: nothing of it may go on behind whoever cleans up."""
        with contextlib.suppress(ProviderError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._delete(f"stop: {doing}", f"nodes/{wait.upid.node}/tasks/{wait.upid.text}")
                await wait.done.wait()

    async def running(self, doing: str, node: str, vmid: int) -> list[Upid]:
        """Tasks that work on this guest now, whoever began them: after a restart, or after a reply that got lost."""
        rows = await self._get(doing, f"nodes/{node}/tasks", source="active", vmid=vmid)
        rows = self._rows.take(rows, "list the tasks of a guest", upid=row_of.word)
        found = (parse_upid(row["upid"]) for row in rows if "endtime" not in row)
        return [upid for upid in found if upid is not None]

    # -- looking ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after every task that is waited for, as long as there are any."""
        while True:
            self._more.clear()
            if not self._waits:
                await self._more.wait()
            self._now.clear()
            await wait_event(self._now, self._clock, self._pause())
            try:
                await self._look()
            except ProviderError as error:  # the next look may have more luck
                log.debug("pve.tasks.unseen", error=str(error))
            self._give_up_old()

    def take(self, rows: list[dict[str, Any]]) -> None:
        """Learn from a list of the cluster's tasks, whoever asked for it."""
        ended = {row.get("upid"): row for row in rows if row.get("endtime")}
        for wait in self._waits:
            row = ended.get(wait.upid.text)
            if row is not None and ended_well(str(row.get("status", ""))):
                wait.end(str(row["status"]))
            elif row is not None and not wait.done.is_set():
                self._now.set()

    def _pause(self) -> float:
        youngest = min((self._clock.monotonic() - wait.began for wait in self._waits), default=0.0)
        pause = next((pause for age, pause in _PAUSES if youngest < age), _LONGEST_PAUSE)
        return pause if len(self._waits) < TOGETHER else max(pause, _TOGETHER_PAUSE)

    async def _look(self) -> None:
        open_ = [wait for wait in self._waits if not wait.done.is_set()]
        if len(open_) >= TOGETHER:
            said = await self._get("look at the tasks", "cluster/tasks")
            rows = self._rows.take(said, "look at the tasks", upid=row_of.word)
            self.take(rows)
            self.on_list(rows)
            # Those that failed are asked for their whole text; a list forgets what ended long ago.
            running = {row.get("upid") for row in rows if not row.get("endtime")}
            open_ = [wait for wait in open_ if not wait.done.is_set() and wait.upid.text not in running]
        async with asyncio.TaskGroup() as group:
            for wait in open_:
                group.create_task(self._look_at(wait))

    async def _look_at(self, wait: _Wait) -> None:
        path = f"nodes/{wait.upid.node}/tasks/{wait.upid.text}/status"
        try:
            said = mapping(await self._get("look at a task", path), "look at a task")
        except NoSuchTaskError as error:
            wait.fail(error)
        except ProviderError as error:
            now = self._clock.monotonic()
            wait.silent_since = wait.silent_since if wait.silent_since is not None else now
            if now - wait.silent_since > AWAY_SECONDS:
                wait.fail(OutcomeUnknownError(f"node {wait.upid.node}, where its task runs, does not answer: {error}"))
        else:
            wait.silent_since = None
            if said.get("status") == "stopped":
                wait.end(str(said.get("exitstatus") or "unexpected status"))

    def _give_up_old(self) -> None:
        now = self._clock.monotonic()
        for wait in self._waits:
            if not wait.done.is_set() and now - wait.began > self._task_timeout:
                wait.fail(HypervisorUnavailableError(f"the task has not ended in {self._task_timeout:g} s"))
