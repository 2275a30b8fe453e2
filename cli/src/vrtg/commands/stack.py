"""`vrtg up`, `down`, `status`: the embedded stack."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from vrtg.commands.options import Form
from vrtg.failures import OK, UNREACHABLE
from vrtg.home import Home
from vrtg.terminal import COLOUR_OF, emit, paint, say, table, warn


def up() -> None:
    """Start the embedded stack: API server, controller and its providers. Harmless when it runs."""
    from vrtg import lifecycle

    home = Home.from_environment()
    before = lifecycle.running(home)
    state = lifecycle.up(home, say)
    say(f"the stack {'runs already' if before is not None else 'is up'}: {state.server}")
    print(f"export KUBECONFIG={home.kubeconfig}")


def down(
    *, filename: Annotated[list[str] | None, Parameter(name=["--filename", "-f"], allow_leading_hyphen=True)] = None
) -> None:
    """End the embedded stack, and the libvirt that vrtg started. Harmless when nothing runs.

    Machines on hypervisors go on running, and `vrtg up` finds them again; name their files to delete them first.

    Parameters
    ----------
    filename
        Delete what these files and folders hold before the stack ends.
    """
    from vrtg.teardown import down as end

    end(Home.from_environment(), say, filename or [], warn=warn)


def status(*, output: Annotated[Form | None, Parameter(name=["--output", "-o"])] = None) -> int:
    """Show the embedded stack: its processes, its address, its providers, and what is wrong.

    Parameters
    ----------
    output
        json or yaml.
    """
    from vrtg.health import survey

    home = Home.from_environment()
    found = survey(home)
    if output:
        emit(found, output)
    else:
        _show(found)
    return OK if found["phase"] == "ready" and not found["problems"] else UNREACHABLE


def _show(found: dict[str, Any]) -> None:  # Any: the survey, as JSON
    phase = found["phase"]
    print(f"Stack       {paint(phase, COLOUR_OF.get(phase, ''))}")
    for title, key in (
        ("Version", "version"),
        ("API server", "server"),
        ("Kubeconfig", "kubeconfig"),
        ("Home", "home"),
    ):
        if found.get(key):
            print(f"{title:<12}{found[key]}")
    if found["components"]:
        print()
        rows = [
            [c["name"], c["phase"], c["pid"] or "", c["restarts"], c["age"], c["message"]] for c in found["components"]
        ]
        print(table(["COMPONENT", "STATE", "PID", "RESTARTS", "AGE", "MESSAGE"], rows))
    if found["providers"]:
        print()
        rows = [
            [p["namespace"], p["name"], p["type"], p["health"], p["version"], p["machines"], p["endpoint"]]
            for p in found["providers"]
        ]
        print(table(["NAMESPACE", "PROVIDER", "TYPE", "HEALTH", "HYPERVISOR", "MACHINES", "ENDPOINT"], rows))
    if found["problems"]:
        print()
        for problem in found["problems"]:
            print(f"{paint('problem:', 'red')} {problem}")


def run() -> int:
    """Be the supervisor (internal)."""
    from vrtg.stack import run as supervise

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return supervise(Home.from_environment())


def keep_libvirt(logs: Path, *programs: str) -> int:
    """Be the parent of the libvirt daemons (internal)."""
    from vrtg.keeper import Keeper

    return Keeper(list(programs), logs).run()
