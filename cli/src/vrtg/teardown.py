"""Ending everything: machines if asked, the stack, the libvirt that we started."""

from __future__ import annotations

from dataclasses import replace

from vrtg import hypervisor, lifecycle
from vrtg.api import Api
from vrtg.discovery import by_kind
from vrtg.failures import CommandError, NotFoundError
from vrtg.home import Home
from vrtg.kinds_table import PROVIDER, VIRTUAL_MACHINE
from vrtg.kubeconfig import choose
from vrtg.lifecycle import Say
from vrtg.manifests import load
from vrtg.state import StackState

DELETE_LIMIT = 120.0
"""Longest wait in seconds for one object to go."""


def down(home: Home, say: Say, manifests: list[str], *, warn: Say) -> None:
    """Delete what the manifests hold, end the stack, and end our libvirt unless machines still run on it.

    Raises:
        CommandError: an object did not go; everything else was ended all the same.
    """
    failure = _delete(home, say, manifests, warn) if manifests and _may_hold_objects(home) else None
    left = _machines(home)
    stopped = lifecycle.down(home)
    state = StackState.load(home)
    if state is not None and left is not None:
        replace(state, machines=left).save(home)
    for name in stopped.strays:
        say(f"ended a stray {name}")
    if hypervisor.ours(home):
        names = hypervisor.running_machines()
        if names is None:
            warn("libvirtd goes on, because it does not tell whether machines run on it")
        elif names:
            say(f"libvirtd goes on, because machines run on it: {', '.join(sorted(names))}")
        else:
            hypervisor.stop(home, say)
    say("the stack is down" if stopped.was_running or stopped.strays else "the stack was not running")
    if left:
        say(f"{len(left)} machine{'s' if len(left) > 1 else ''} left as they are: {', '.join(left)}")
    if failure is not None:
        raise failure


def _may_hold_objects(home: Home) -> bool:
    """Whether machines may exist: a stack that runs, was killed, or was ended with machines in it."""
    state = StackState.load(home)
    return state is not None and (
        lifecycle.running(home) is not None or state.phase != "stopped" or bool(state.machines)
    )


def _machines(home: Home) -> list[str] | None:
    """namespace/name of every machine of the stack; None if it cannot be asked."""
    if lifecycle.running(home) is None:
        return None
    try:
        items = Api(choose(home, str(home.kubeconfig), None), timeout=5.0).list(VIRTUAL_MACHINE, None)["items"]
    except CommandError:
        return None
    return sorted(f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items)


def _delete(home: Home, say: Say, manifests: list[str], warn: Say) -> CommandError | None:
    """Machines first and providers last, each gone before the next; answers with what went wrong."""
    from vrtg.commands.delete import wait_gone

    if lifecycle.running(home) is None:
        lifecycle.up(home, say)
    api = Api(choose(home, str(home.kubeconfig), None))
    last = {VIRTUAL_MACHINE.kind: 0, PROVIDER.kind: 2}
    for manifest in sorted(load(manifests, warn), key=lambda m: last.get(m.kind, 1)):
        resource = by_kind(manifest.api_version, manifest.kind, api)
        place = manifest.body["metadata"].get("namespace") or api.target.namespace
        try:
            api.delete(resource, manifest.name, place if resource.namespaced else None)
            wait_gone(api, [(resource, manifest.name, place)], DELETE_LIMIT)
            say(f"{resource.names[0]} {manifest.name} deleted")
        except NotFoundError:
            continue
        except CommandError as error:
            return error
    return None
