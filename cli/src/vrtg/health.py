"""What is true of the embedded stack, in one survey."""

from __future__ import annotations

from typing import Any

from vrtg.api import Api
from vrtg.failures import CommandError
from vrtg.home import Home
from vrtg.kinds_table import PROVIDER
from vrtg.kubeconfig import choose
from vrtg.lifecycle import last_words, running
from vrtg.state import StackState
from vrtg.terminal import age

Survey = dict[str, Any]  # Any: for JSON and YAML output


def survey(home: Home) -> Survey:
    """Phase, processes, providers and every problem with its cure."""
    found: Survey = {
        "phase": "stopped",
        "version": "",
        "server": "",
        "kubeconfig": "",
        "home": str(home.root),
        "components": [],
        "providers": [],
        "problems": [],
    }
    state = StackState.load(home)
    if running(home) is None:
        if state is not None and state.phase not in ("stopped",):
            found["problems"].append(f"the supervisor (process {state.pid}) was killed: `vrtg up` starts it again")
        elif state is not None and state.problem:
            found["problems"].append(state.problem)
        return found
    assert state is not None
    found |= {
        "phase": state.phase,
        "version": state.version,
        "server": state.server,
        "kubeconfig": str(home.kubeconfig),
    }
    for component in state.components.values():
        found["components"].append(
            {
                "name": component.name,
                "phase": component.phase,
                "pid": component.pid,
                "restarts": component.restarts,
                "age": age(component.process.age()) if component.process else "",
                "message": component.message,
            }
        )
        if component.phase == "restarting":
            words = last_words(home, component.name)
            found["problems"].append(
                f"{component.name} does not stay up ({component.message}); {words}see `vrtg logs {component.name}`"
            )
    if state.problem:
        found["problems"].append(state.problem)
    _add_providers(home, found)
    return found


def _add_providers(home: Home, found: Survey) -> None:
    try:
        api = Api(choose(home, str(home.kubeconfig), None), timeout=5.0)
        items = api.list(PROVIDER, None)["items"]
    except CommandError as error:
        found["problems"].append(str(error))
        return
    for item in items:
        status = item.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or []}
        ready = conditions.get("Ready") or {}
        healthy = ready.get("status") == "True"
        found["providers"].append(
            {
                "namespace": item["metadata"]["namespace"],
                "name": item["metadata"]["name"],
                "type": item["spec"].get("type", ""),
                "endpoint": item["spec"].get("endpoint", ""),
                "health": "Ready" if healthy else ready.get("reason") or "Pending",
                "version": status.get("version") or "",
                "machines": status.get("connectedVMs", ""),
            }
        )
        if ready.get("status") == "False":
            found["problems"].append(
                f"provider {item['metadata']['namespace']}/{item['metadata']['name']}: {ready.get('message', '')}"
            )
