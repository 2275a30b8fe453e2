"""What the supervisor knows, in a file that any vrtg can read."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vrtg.home import Home, write_private
from vrtg.processes import Process


@dataclass
class ComponentState:
    """One supervised process."""

    name: str
    pid: int = 0
    start_ticks: int = 0
    phase: str = "waiting"
    """waiting, starting, ready, restarting or stopped"""
    restarts: int = 0
    message: str = ""
    """Why it is not ready."""

    @property
    def process(self) -> Process | None:
        return Process(self.pid, self.start_ticks) if self.pid else None


@dataclass
class StackState:
    """The stack as its supervisor last wrote it."""

    pid: int
    start_ticks: int
    version: str
    since: str
    phase: str = "starting"
    """starting, ready, stopping or stopped"""
    server: str = ""
    """URL of the API server."""
    problem: str = ""
    components: dict[str, ComponentState] = field(default_factory=dict)
    machines: list[str] = field(default_factory=list)
    """Machines that were there when the stack was ended, as namespace/name."""

    @property
    def supervisor(self) -> Process:
        return Process(self.pid, self.start_ticks)

    def save(self, home: Home) -> None:
        write_private(home.state_file, json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(home: Home) -> StackState | None:
        """The last state, or None where no stack ever ran or its file is unreadable."""
        try:
            raw = json.loads(home.state_file.read_text())
            components = {name: ComponentState(**body) for name, body in raw.pop("components").items()}
            found = StackState(**raw, components=components)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return found if isinstance(found.pid, int) and isinstance(found.start_ticks, int) else None


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file; yields False (and holds nothing) if another holds it and `wait` is unset."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
