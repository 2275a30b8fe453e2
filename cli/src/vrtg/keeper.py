"""The parent of the libvirt daemons that we start: it restarts them, ends them, and reaps what they leave.

QEMU is detached from libvirtd, so its end is told to the nearest ancestor that asked for it, else to process 1. Where
process 1 does not care (in many containers), libvirtd waits 40 seconds for each machine that it switches off. So this
process asks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PROGRAMS = ("virtlogd", "libvirtd")
"""In the order of their start."""
GRACE = 15.0
"""Seconds that a daemon gets to end by itself."""
RESTART_DELAY = 2.0
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


@dataclass
class Daemon:
    """One of the daemons."""

    name: str
    path: str
    pid: int = 0
    again_at: float = 0.0
    """Monotonic time before which it is not started again."""


class Keeper:
    """Runs until SIGTERM; daemons end with it, machines do not."""

    def __init__(self, paths: list[str], logs: Path) -> None:
        """Args: paths: of the programs, in the order of their start."""
        self._daemons = [Daemon(Path(path).name, path) for path in paths]
        self._logs = logs
        self._stopping = False

    def run(self) -> int:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        while not self._stopping:
            self._start_missing()
            told = signal.sigtimedwait(WATCHED, 1.0)
            self._reap()
            if told is not None and told.si_signo != signal.SIGCHLD:
                self._stopping = True
        for daemon in reversed(self._daemons):
            self._end(daemon)
        return 0

    def _start_missing(self) -> None:
        for daemon in self._daemons:
            if daemon.pid == 0 and time.monotonic() >= daemon.again_at:
                self._start(daemon)

    def _start(self, daemon: Daemon) -> None:
        daemon.again_at = time.monotonic() + RESTART_DELAY
        with (self._logs / f"{daemon.name}.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the path that hypervisor.py found
                [daemon.path],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                preexec_fn=_as_child,
            )
        daemon.pid = process.pid
        process.returncode = 0  # reaped by us: Popen shall neither wait nor warn

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for daemon in self._daemons:
                if daemon.pid == pid:
                    daemon.pid = 0

    def _end(self, daemon: Daemon) -> None:
        """SIGTERM, then SIGKILL; the others are still reaped meanwhile."""
        for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 5.0)):
            self._reap()
            if daemon.pid == 0:
                return
            os.kill(daemon.pid, number)
            deadline = time.monotonic() + seconds
            while daemon.pid and (left := deadline - time.monotonic()) > 0:
                signal.sigtimedwait({signal.SIGCHLD}, left)
                self._reap()


def _as_child() -> None:
    """Runs in the child before exec: no blocked signals, and an end with ours."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
