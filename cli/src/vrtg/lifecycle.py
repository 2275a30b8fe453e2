"""Starting and ending the embedded stack, from the caller's side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from vrtg.failures import CommandError, UnreachableError
from vrtg.home import Home
from vrtg.logfiles import tail
from vrtg.stack import end_strays
from vrtg.state import StackState, locked

Say = Callable[[str], None]
START_LIMIT = 90.0
STOP_LIMIT = 60.0
"""Longest wait in seconds for the supervisor to end its children; each child has its own, shorter grace."""


@dataclass(frozen=True)
class Stopped:
    """What `down` did."""

    was_running: bool
    strays: list[str]


def running(home: Home) -> StackState | None:
    """The state of the live stack, or None."""
    state = StackState.load(home)
    return state if state is not None and state.supervisor.alive() else None


def up(home: Home, say: Say) -> StackState:
    """Start the stack, or find it running; answers when the API server and the controller serve.

    Raises:
        CommandError: it could not start; the message holds the reason, and where to read on.
    """
    home.make()
    with locked(home.run / "up.lock", wait=True):
        state = running(home)
        if state is None or state.phase in ("stopping", "stopped"):
            if state is not None and not state.supervisor.wait_gone(STOP_LIMIT):
                raise CommandError(f"the stack is still stopping (process {state.pid}): try again")
            say("starting the embedded stack")
            process = _spawn(home)
        else:
            process = None
        return _wait_ready(home, process, say)


def down(home: Home) -> Stopped:
    """End the stack and whatever a killed supervisor left; harmless when nothing runs."""
    if not home.run.exists():
        return Stopped(False, [])
    with locked(home.run / "up.lock", wait=True):
        state = StackState.load(home)
        was_running = state is not None and state.supervisor.alive()
        if state is not None and was_running:
            state.supervisor.send(signal.SIGTERM)
            if not state.supervisor.wait_gone(STOP_LIMIT):
                state.supervisor.end(0)
        return Stopped(was_running, end_strays(StackState.load(home)))


def _spawn(home: Home) -> subprocess.Popen[bytes]:
    """The supervisor, detached: own session, no terminal, its words in supervisor.log."""
    with (home.logs / "supervisor.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "vrtg", "stack", "run"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "VIRTRIGAUD_HOME": str(home.root)},
        )


def _wait_ready(home: Home, process: subprocess.Popen[bytes] | None, say: Say) -> StackState:
    deadline = time.monotonic() + START_LIMIT
    said: set[str] = set()
    restarts: dict[str, int] = {}
    while time.monotonic() < deadline:
        state = StackState.load(home)
        if state is not None and (process is None or state.pid == process.pid):
            for component in state.components.values():
                if process is not None and component.phase == "ready" and component.name not in said:
                    said.add(component.name)
                    say(f"{component.name} is ready")
                if component.restarts - restarts.setdefault(component.name, component.restarts) >= 3:
                    raise CommandError(
                        f"the {component.name} does not stay up ({component.message}): "
                        f"{last_words(home, component.name)}see `vrtg logs {component.name}`"
                    )
            if state.problem:
                raise CommandError(f"the stack did not start: {state.problem}")
            if state.phase == "ready" and all(c.phase == "ready" for c in state.components.values()):
                return state
        if process is not None and process.poll() is not None:
            words = last_words(home, "supervisor")
            raise CommandError(f"the supervisor ended at once: {words}see {home.logs / 'supervisor.log'}")
        time.sleep(0.05)
    raise UnreachableError(f"the stack is not ready after {START_LIMIT:.0f} s: see `vrtg status` and `vrtg logs`")


def last_words(home: Home, name: str) -> str:
    """The last line of a log as a half sentence, or nothing."""
    path = home.logs / f"{name}.log"
    if not path.exists():
        return ""
    lines = tail(path, 1)[0].decode(errors="replace").strip()
    return f'it last said "{lines[:300]}"; ' if lines else ""
