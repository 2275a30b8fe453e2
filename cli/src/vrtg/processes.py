"""Processes of ours, told from strangers that got the same number later."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process by number and start time; the pair is never used twice before the next boot."""

    pid: int
    start_ticks: int
    """Clock ticks between boot and its start: field 22 of /proc/PID/stat."""

    @staticmethod
    def of(pid: int) -> Process | None:
        """The process with this number, or None if there is none (a zombie counts as none)."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the command in parentheses and may hold blanks and parentheses itself.
        fields = text[text.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))

    def age(self) -> float:
        """Seconds since its start."""
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - self.start_ticks / os.sysconf("SC_CLK_TCK"))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal it; one that is gone, or another with its number, is left alone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:  # the descriptor pins the process: no other can take the number between check and signal
            if self.alive():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

    def wait_gone(self, seconds: float) -> bool:
        """Wait until it has ended; False if it has not within `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000)) or not self.alive()
        finally:
            os.close(descriptor)

    def end(self, grace: float) -> bool:
        """SIGTERM, and SIGKILL after `grace` seconds; True if it ended by itself or was gone already."""
        if not self.alive():
            return True
        self.send(signal.SIGTERM)
        if self.wait_gone(grace):
            return True
        self.send(signal.SIGKILL)
        self.wait_gone(5.0)
        return False
