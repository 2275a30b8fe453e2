"""One supervised process: started, watched, restarted with back-off, ended within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from vrtg.logfiles import RotatingLog
from vrtg.processes import Process
from vrtg.state import ComponentState

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
STEADY_AFTER = 30.0
"""Seconds of life after which a crash counts as the first one again."""


def _with_parent(command: list[str]) -> list[str]:
    """The command, ended by the kernel when the supervisor is gone, however that died.

    `setpriv` of util-linux sets that up and becomes the command. A function of ours in the child before exec would do
    the same, and hang for ever now and then: there, what another thread of the parent held at the fork is never let go.
    """
    return ["setpriv", "--pdeathsig", "TERM", "--", *command]


class Component:
    """A process that shall run. `changed` is called after each change of its state."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log: Path,
        environment: dict[str, str],
        ready: Callable[[], Awaitable[bool]],
        changed: Callable[[], None],
        grace: float,
        clear: Path | None = None,
    ) -> None:
        """Prepare nothing yet.

        Args:
            ready: answers whether it serves; may raise OSError.
            grace: seconds between SIGTERM and SIGKILL.
            clear: a file that the process writes when it serves; removed before each start.
        """
        self.state = ComponentState(name)
        self._command, self._log, self._environment = command, log, environment
        self._ready_check, self._changed, self._grace = ready, changed, grace
        self._clear = clear
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Keep it running until `stop`; never raises for what the process does."""
        delay = FIRST_DELAY
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            verdict = await self._run_once()
            self.ready.clear()
            if self._stopping.is_set():
                break
            delay = FIRST_DELAY if loop.time() - began > STEADY_AFTER else delay
            self._set("restarting", f"{verdict}; next try in {delay:.1f} s")
            self.state.restarts += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(LONGEST_DELAY, delay * 2)
        self.state.pid = self.state.start_ticks = 0
        self._set("stopped", "")

    def stop(self) -> None:
        self._stopping.set()

    async def _run_once(self) -> str:
        """From start to end of one process; answers why it ended, for people."""
        if self._clear is not None:
            self._clear.unlink(missing_ok=True)
        if shutil.which(self._command[0]) is None:
            return f"cannot start {self._command[0]}: there is no such command"
        readable, writable = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_with_parent(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writable,
                stderr=writable,
                env={**os.environ, **self._environment},
            )
        except OSError as error:
            os.close(readable)
            return f"cannot start {self._command[0]}: {error.strerror}"
        finally:
            os.close(writable)
        identity = Process.of(process.pid)
        self.state.pid = process.pid
        self.state.start_ticks = identity.start_ticks if identity else 0
        self._set("starting", self.state.message)  # after a crash: why
        async with asyncio.TaskGroup() as group:
            pump = group.create_task(self._pump(readable), name=f"{self.state.name} log")
            probe = group.create_task(self._probe(), name=f"{self.state.name} ready")
            ender = group.create_task(self._end_when_asked(process), name=f"{self.state.name} stop")
            code = await process.wait()
            probe.cancel()
            ender.cancel()
            await asyncio.wait([pump], timeout=1.0)
            pump.cancel()  # a grandchild may hold the pipe open; what it writes is not worth waiting for
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    async def _pump(self, descriptor: int) -> None:
        """Copy what the process writes into its log."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            await self._copy(reader)
        finally:
            transport.close()

    async def _copy(self, reader: asyncio.StreamReader) -> None:
        try:
            with RotatingLog(self._log) as log:
                while data := await reader.read(1 << 16):
                    log.write(data)
        except OSError as error:  # a full disk; the process must neither block on its output nor end for want of it
            self.state.message = f"its log cannot be written: {error.strerror}"
            while await reader.read(1 << 16):
                pass

    async def _probe(self) -> None:
        while True:
            try:
                if await self._ready_check():
                    break
            except OSError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
        self.ready.set()
        self._set("ready", "")

    async def _end_when_asked(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(self._grace)
        process.kill()

    def _set(self, phase: str, message: str) -> None:
        self.state.phase, self.state.message = phase, message
        self._changed()
