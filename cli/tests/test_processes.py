"""A recorded process is told from a stranger that got its number later."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace

from vrtg.processes import Process


def test_a_process_ends_within_its_grace() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        assert process.alive()
        assert process.end(5.0)
        assert child.wait() == -signal.SIGTERM
        assert not process.alive()
        assert process.end(5.0)


def test_one_that_ignores_the_term_signal_is_killed() -> None:
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = Process.of(child.pid)
        assert process is not None
        assert not process.end(0.2)
        assert child.wait() == -signal.SIGKILL


def test_another_process_with_the_number_is_left_alone() -> None:
    """The start time tells them apart; without it, `down` could end a stranger after a reboot."""
    me = Process.of(os.getpid())
    assert me is not None
    stranger = replace(me, start_ticks=me.start_ticks - 1)
    assert not stranger.alive()
    assert stranger.end(0.0)
    stranger.send(signal.SIGKILL)
    assert Process.of(2**22 + 1) is None
