"""`vrtg power`: the power of one machine."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from vrtg.api import Api, Object
from vrtg.commands.options import HERE, Where
from vrtg.failures import CommandError, RefusedError
from vrtg.home import Home
from vrtg.kinds_table import VIRTUAL_MACHINE
from vrtg.links import machine, provider_of, service
from vrtg.terminal import say

Action = Literal["on", "off", "shutdown", "reboot", "reset", "suspend", "resume"]
STATES = {"on": "On", "off": "Off", "shutdown": "OffGraceful", "suspend": "Suspended", "resume": "On"}
REACHED = {"On": "On", "Off": "Off", "OffGraceful": "Off", "Suspended": "Suspended"}


def power(name: str, action: Action, /, *, wait: bool = True, timeout: float = 180.0, where: Where = HERE) -> None:
    """Switch a machine on or off, restart, suspend or resume it.

    on, off, shutdown, suspend and resume write spec.powerState; reboot and reset act once.

    Parameters
    ----------
    name
        The machine.
    action
        on; off (cuts the power); shutdown (asks the guest, then cuts the power); reboot (asks the guest); reset
        (presses the button); suspend; resume.
    wait
        Wait until the machine has got there.
    timeout
        Longest wait in seconds.
    """
    api = where.connect()
    body = machine(api, name, where.within(api))
    if action in STATES:
        _declare(api, body, action, wait, timeout)
    else:
        _act(api, body, action)


def _declare(api: Api, body: Object, action: Action, wait: bool, timeout: float) -> None:
    """Write the wish; the controller makes it true."""
    metadata, wanted = body["metadata"], STATES[action]
    have = (body.get("status") or {}).get("powerState")
    if action == "resume" and have == "Off":
        raise RefusedError(
            f"{metadata['name']} is off, there is nothing to resume: use `vrtg power {metadata['name']} on`"
        )
    name, namespace = metadata["name"], metadata["namespace"]
    if body["spec"].get("powerState") != wanted:
        body = api.patch(VIRTUAL_MACHINE, name, namespace, {"spec": {"powerState": wanted}})
    if not wait:
        print(f"{name}: asked for {wanted}")
        return
    _wait(api, body, wanted, timeout)
    print(f"{name} is {REACHED[wanted].lower()}")


def _wait(api: Api, body: Object, wanted: str, timeout: float) -> None:
    metadata = body["metadata"]
    generation, deadline = metadata.get("generation", 0), time.monotonic() + timeout
    said = ""
    while True:
        status = body.get("status") or {}
        seen = status.get("observedGeneration", 0) >= generation
        if seen and status.get("powerState") == REACHED[wanted]:
            return
        message = next((c["message"] for c in status.get("conditions") or [] if _fault(c)), "")
        if seen and message and message != said:
            said = message
            say(f"{metadata['name']}: {message}")
        left = deadline - time.monotonic()
        if left <= 0:
            now = status.get("powerState") or "unknown"
            raise CommandError(
                f"{metadata['name']} is {now.lower()} and not {REACHED[wanted].lower()} after {timeout:.0f} s"
                f"{f' ({said})' if said else ''}: see `vrtg describe vm {metadata['name']}`"
            )
        args = {"version": metadata["resourceVersion"], "name": metadata["name"], "seconds": min(left, 5.0)}
        for event in api.watch(VIRTUAL_MACHINE, metadata["namespace"], **args):
            if event["type"] in ("ADDED", "MODIFIED"):
                break
        body = machine(api, metadata["name"], metadata["namespace"])
        metadata = body["metadata"]


def _fault(condition: Object) -> bool:
    return bool(condition["type"] == "Ready" and condition["status"] == "False")


def _act(api: Api, body: Object, action: Action) -> None:
    """Ask the provider; never repeated, because the guest would restart twice."""
    asyncio.run(_ask(api, body, action))
    done = "asked to restart" if action == "reboot" else "reset"
    print(f"{body['metadata']['name']}: {done}")


async def _ask(api: Api, body: Object, action: Action) -> None:
    from common import v1

    kind = v1.PowerAction.REBOOT if action == "reboot" else v1.PowerAction.RESET
    async with service(Home.from_environment(), provider_of(api, body), "MachineService") as machines:
        await machines.run_power_action(
            v1.RunPowerActionRequest(uid=body["metadata"]["uid"], action=kind), timeout=90.0
        )
