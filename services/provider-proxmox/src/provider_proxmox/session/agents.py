"""What guests tell of themselves, by their agents: addresses, host name, operating system.

A call to an agent that does not run keeps a worker of Proxmox VE busy for 3 s. So only guests are asked whose
configuration has an agent and that run: soon after they started, and then more and more rarely until one answers with
an address. After that each has its turn in a slow rotation, as addresses change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import PermissionMissingError, ProviderError
from providerkit.waiting import wait_event

from provider_proxmox.session.index import Guest, Index
from provider_proxmox.session.reading import Reader
from provider_proxmox.session.rows import text

log = logging.get(__name__)

AskAgent = Callable[[str, Guest, str], Awaitable[Any]]
"""Pve.ask_agent: doing, guest, command."""

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 64.0
"""Seconds between two questions to one guest: doubled until the longest, when it is left to the rotation."""
AT_A_TIME = 2
_YES = ("1", "on", "yes", "true")


def has_agent(guest: Guest) -> bool:
    """It is worth asking: it runs, and its configuration says that there is an agent. Only machines of somebody's."""
    if guest.stamp is None or guest.status != "running" or guest.qmpstatus not in ("", "running"):
        return False
    for part in str(guest.config.get("agent", "0")).split(","):
        key, equals, value = part.partition("=")
        if not equals or key == "enabled":
            return (value if equals else key) in _YES
    return False


class Agents:
    """Asks them. `run` does it, as long as it runs."""

    def __init__(self, ask: AskAgent, index: Index, reader: Reader, *, clock: Clock) -> None:
        self._ask = ask
        self._index = index
        self._reader = reader
        self._clock = clock
        self._due: dict[int, tuple[float, float]] = {}
        """When to ask each guest, and the pause after that."""
        self._more = asyncio.Event()
        self._asking: set[int] = set()
        self._rotation: list[int] = []
        self._places = asyncio.Semaphore(AT_A_TIME)

    def consider(self, before: Guest | None, after: Guest | None) -> None:
        """A guest changed: see whether it is worth asking now."""
        if after is None or not has_agent(after):
            if before is not None:
                self._due.pop(before.vmid, None)
        elif not after.agent and (before is None or before.agent or not has_agent(before)):
            self._plan(after.vmid, FIRST_PAUSE / 2, FIRST_PAUSE)

    def _plan(self, vmid: int, seconds: float, pause: float) -> None:
        self._due[vmid] = self._clock.monotonic() + seconds, pause
        self._more.set()

    async def run(self) -> None:
        """Ask those whose time has come, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._more.clear()
                now = self._clock.monotonic()
                for vmid in [vmid for vmid, (due, _) in self._due.items() if due <= now]:
                    _, pause = self._due.pop(vmid)
                    group.create_task(self._turn(vmid, pause), name=f"pve agent {vmid}")
                next_due = min((due for due, _ in self._due.values()), default=None)
                if next_due is None:
                    await self._more.wait()
                else:
                    await wait_event(self._more, self._clock, next_due - now)

    async def _turn(self, vmid: int, pause: float) -> None:
        async with self._places:
            told = await self._ask_one(vmid)
        if told or vmid in self._due or pause > LONGEST_PAUSE:
            return
        self._plan(vmid, pause, pause * 2)

    async def rotate(self) -> bool:
        """Ask the guest again that was asked longest ago; whether there was one to ask."""
        for _ in range(2):
            while self._rotation:
                vmid = self._rotation.pop()
                guest = self._index.guests.get(vmid)
                if guest is not None and has_agent(guest) and vmid not in self._due:
                    await self._ask_one(vmid)
                    return True
            self._rotation = sorted(self._index.guests, reverse=True)
        return False

    async def _ask_one(self, vmid: int) -> bool:
        """Ask a guest and keep what it tells; whether that is all there is to know for now."""
        guest = self._index.guests.get(vmid)
        if guest is None or not has_agent(guest) or vmid in self._asking:
            return True
        self._asking.add(vmid)
        try:
            return await self._learn(guest)
        except PermissionMissingError as error:
            log.warning("pve.agent.forbidden", vmid=vmid, error=str(error))
            return True
        except ProviderError as error:
            log.debug("pve.agent.silent", vmid=vmid, error=str(error))
            return False
        finally:
            self._asking.discard(vmid)

    async def _learn(self, guest: Guest) -> bool:
        doing = f"ask the agent of guest {guest.vmid}"
        interfaces = interfaces_of(await self._ask(doing, guest, "network-get-interfaces"))
        known = guest.agent
        if "osinfo" in known:
            agent = {**known, "interfaces": interfaces}
        else:
            name = _result(await self._ask(doing, guest, "get-host-name"))
            osinfo = _result(await self._ask(doing, guest, "get-osinfo"))
            agent = {"interfaces": interfaces, "hostname": str(name.get("host-name") or ""), "osinfo": osinfo}
        latest = self._index.guests.get(guest.vmid)
        if latest is not None and has_agent(latest) and latest.node == guest.node:
            self._reader.amend(guest.vmid, agent=agent)
        return any(
            not str(each.get("ip-address", "")).startswith(("127.", "::1", "fe80:"))
            for interface in interfaces
            for each in interface["ip-addresses"]
        )


def _result(answer: Any) -> dict[str, Any]:
    result = answer.get("result") if isinstance(answer, dict) else None
    return result if isinstance(result, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def interfaces_of(answer: Any) -> list[dict[str, Any]]:
    """Without their counters, which change all the time."""
    result = answer.get("result") if isinstance(answer, dict) else None
    return [
        {
            "name": text(each.get("name")),
            "hardware-address": text(each.get("hardware-address")),
            "ip-addresses": [address for address in _list(each.get("ip-addresses")) if isinstance(address, dict)],
        }
        for each in _list(result)
        if isinstance(each, dict)
    ]
