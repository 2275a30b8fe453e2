"""The embedded stack as its user drives it: up, killed, up again, down, and nothing left."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vrtg.home import Home
from vrtg.processes import Process
from vrtg.state import StackState

Vrtg = Callable[..., Any]  # Any: the Ran of conftest.py


@pytest.fixture
def stack(vrtg: Vrtg, home: Path) -> Iterator[Callable[..., Any]]:
    """vrtg on a stack of its own, which is down at the end."""

    def run(*arguments: str) -> Any:
        return vrtg(*arguments, environment={"KUBECONFIG": ""})

    yield run
    assert run("down").code == 0
    state = StackState.load(Home(home))
    assert state is None or not state.supervisor.alive()


def processes(home: Path) -> list[Process]:
    state = StackState.load(Home(home))
    assert state is not None
    return [state.supervisor, *(c.process for c in state.components.values() if c.process is not None)]


def kill(process: Process) -> None:
    descriptor = os.pidfd_open(process.pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)


def test_up_serves_twice_is_once_and_down_leaves_nothing(stack: Callable[..., Any], home: Path) -> None:
    assert stack("status").code == 4
    first = stack("up")
    assert first.code == 0, first.err
    assert first.out == f"export KUBECONFIG={home / 'kubeconfig'}\n"
    before = processes(home)
    assert "runs already" in stack("up").err
    assert processes(home) == before
    survey = json.loads(stack("status", "-o", "json").out)
    assert (survey["phase"], survey["problems"]) == ("ready", [])
    assert {c["name"]: c["phase"] for c in survey["components"]} == {"apiserver": "ready", "controller": "ready"}
    assert stack("get", "vm").code == 0, "the embedded stack is the default"
    assert "apiserver.ready" in stack("logs", "apiserver").out

    assert stack("down").code == 0
    assert not any(process.alive() for process in before)
    assert "was not running" in stack("down").err
    gone = stack("get", "vm")
    assert (gone.code, "vrtg up" in gone.err) == (4, True)


def test_keys_and_tokens_are_for_their_owner_alone(stack: Callable[..., Any], home: Path) -> None:
    """And the same on the next start, so that an exported kubeconfig stays valid."""
    stack("up")
    kubeconfig = (home / "kubeconfig").read_text()
    secrets = [home / "kubeconfig", home / "tokens.csv", home / "run" / "controller.kubeconfig", *home.rglob("*.key")]
    assert len(secrets) > 5
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in secrets} == {"0o600"}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    token = (home / "tokens.csv").read_text().split(",")[0]
    assert not any(token in path.read_text(errors="replace") for path in (home / "logs").iterdir())
    stack("down")
    stack("up")
    assert (home / "kubeconfig").read_text() == kubeconfig


def test_what_is_killed_comes_back(stack: Callable[..., Any], home: Path) -> None:
    stack("up")
    supervisor, api_server, controller = processes(home)
    kill(api_server)
    kill(controller)
    assert stack("up").code == 0, "waits until both serve again"
    again = processes(home)
    assert again[0] == supervisor
    assert again[1] != api_server
    assert again[2] != controller

    kill(supervisor)
    for process in again[1:]:
        assert process.wait_gone(20.0), "children end with the supervisor"
    survey = json.loads(stack("status", "-o", "json").out)
    assert survey["phase"] == "stopped"
    assert "was killed" in survey["problems"][0]
    assert stack("up").code == 0
    assert stack("get", "ns").code == 0


def test_a_part_that_cannot_start_is_named_with_its_last_words(stack: Callable[..., Any], home: Path) -> None:
    """Here: a database that is none."""
    stack("up")
    stack("down")
    for path in (home / "data").iterdir():
        if path.is_file():
            path.write_bytes(b"this is no database" * 100)
    failed = stack("up")
    assert failed.code == 1
    assert "apiserver does not stay up" in failed.err
    assert "vrtg logs apiserver" in failed.err
