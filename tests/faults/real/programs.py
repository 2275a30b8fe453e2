"""One process of the stack: started, killed, stopped and started again, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE = 15.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Footprint:
    """What a process takes now."""

    pid: int
    rss_bytes: int
    descriptors: int
    threads: int


class Program:
    """Start it in the main thread only: the kernel ends the process together with the thread that it came from."""

    def __init__(self, name: str, command: Sequence[str], log: Path, ready: Path | None = None) -> None:
        """Nothing runs yet.

        Args:
            ready: a file that the process writes when it serves; removed before each start.
        """
        self.name = name
        self.armed = False
        """It dies at a fault point, should it pass it."""
        self._command, self._log, self._ready = list(command), log, ready
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def verdict(self) -> str:
        """How the last one ended, for people."""
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "it runs"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    @property
    def killed(self) -> bool:
        """The last one was ended by SIGKILL, a fault point's included."""
        return self._process is not None and self._process.returncode == -signal.SIGKILL

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it; that it serves is for its callers to find out."""
        assert not self.pid, f"{self.name} runs already"
        if self._ready is not None:
            self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
        self._paused = self.armed = False

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(GRACE)
        self._paused = False

    def pause(self) -> None:
        """SIGSTOP."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """SIGCONT; harmless when it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
        self._paused = False

    def end(self) -> None:
        """As a service manager ends it."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()

    def footprint(self) -> Footprint | None:
        """What it takes; None while it does not run."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
            threads = len(os.listdir(f"/proc/{self.pid}/task"))
        except OSError:
            return None
        return Footprint(self.pid, pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads)

    def said(self, lines: int = 12) -> str:
        """The end of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        worth = [line for line in text.splitlines() if "health.changed" not in line]
        return f"--- {self.name}: {self.verdict}\n" + "\n".join(line[:400] for line in worth[-lines:])
