"""The other port: plain HTTP on loopback, by which a test in another process breaks things and changes the world.

Every switch is `POST /NAME` with a JSON object; answers are JSON, refusals 400 with a text. `GET` reads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from . import foreign, guests
from .calls import Call
from .errors import PveError
from .faults import Fault
from .server import Proxmox

LOOPBACK = "127.0.0.1"
Switch = Callable[[dict[str, Any]], Awaitable[object]]


class Control:
    """The switches of one cluster."""

    def __init__(self, pve: Proxmox) -> None:
        self._pve = pve
        self._held: dict[str, asyncio.Event] = {}  # name -> set when the calls that wait under it may go on
        self.url = ""
        switches: dict[str, Switch] = {
            "fault": self.fault,
            "release": self.release,
            "reset": self.reset,
            "tasks/hold": self.hold_tasks,
            "tasks/release": self.release_tasks,
            "pace": self.pace,
            "address": self.address,
            "node": self.node,
            "guest": self.guest,
            "storage": self.storage,
            "report": self.report,
            "tickets/expire": self.expire,
            "requests/reset": self.forget_requests,
        }
        self._app = web.Application()
        for name, switch in switches.items():
            self._app.router.add_post(f"/{name}", self._answering(switch))
        self._app.router.add_get("/requests", self.requests)
        self._app.router.add_get("/guests", self.guests)
        self._app.router.add_get("/tasks", self.tasks)

    async def listen(self, port: int) -> web.AppRunner:
        """Answer; port 0 picks one."""
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        self.url = f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        return runner

    @staticmethod
    def _answering(switch: Switch) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                told = await switch(json.loads(await request.text() or "{}"))
            except PveError as error:
                return web.Response(status=400, text=error.reason)
            except (KeyError, TypeError, ValueError) as error:
                return web.Response(status=400, text=f"{type(error).__name__}: {error}")
            return web.json_response(told)

        return answer

    async def fault(self, asked: dict[str, Any]) -> object:
        """What happens to the next calls of a route.

        `method`, `template`; `times`, `skip`; `delay` seconds, or `hold` under a name until its `release`;
        `status` and `reason` instead of the act; `drop`: "before" or "after" the act.
        """
        drop = asked.get("drop", "")
        if drop not in ("", "before", "after"):
            raise ValueError(f"drop is before or after, not {drop!r}")
        refusal = (
            PveError(int(asked["status"]), str(asked.get("reason", "out of order"))) if "status" in asked else None
        )
        made = Fault(
            method=str(asked["method"]),
            template=str(asked["template"]),
            times=int(asked.get("times", 1)),
            skip=int(asked.get("skip", 0)),
            before=self._before(float(asked.get("delay", 0)), str(asked.get("hold", "")), cut=drop == "before"),
            refusal=refusal,
            lost=drop == "after",
        )
        self._pve.faults.append(made)
        return None

    def _before(self, delay: float, hold: str, *, cut: bool) -> Callable[[Call], Awaitable[None]]:
        if hold:
            self._held.setdefault(hold, asyncio.Event())

        async def before(call: Call) -> None:
            await asyncio.sleep(delay)
            if hold:
                await self._held[hold].wait()
            if cut and call.request.transport is not None:
                call.request.transport.abort()
                raise PveError(500, "nobody reads this")

        return before

    async def release(self, asked: dict[str, Any]) -> object:
        """Let the calls go on that are held under a name, now and later."""
        self._held[str(asked["hold"])].set()
        return None

    async def reset(self, asked: dict[str, Any]) -> object:
        """No faults and nothing held any more; what was changed in the world stays changed."""
        self._pve.faults.clear()
        for event in self._held.values():
            event.set()
        self._held.clear()
        self._pve.world.tasks.release()
        return None

    async def hold_tasks(self, asked: dict[str, Any]) -> object:
        """Tasks of a `kind` stand still at their next piece of work."""
        self._pve.world.tasks.hold(str(asked["kind"]))
        return None

    async def release_tasks(self, asked: dict[str, Any]) -> object:
        """They go on; without a `kind` all of them do."""
        self._pve.world.tasks.release(str(asked.get("kind", "")))
        return None

    async def pace(self, asked: dict[str, Any]) -> object:
        """Change durations by their names in `Pace`; answers all of them."""
        world = self._pve.world
        world.change_pace(dataclasses.replace(world.pace, **{name: float(value) for name, value in asked.items()}))
        return dataclasses.asdict(world.pace)

    async def address(self, asked: dict[str, Any]) -> object:
        """Take an API `address` (by its place) away, or give it back with `up`."""
        place = int(asked["address"])
        if asked["up"]:
            await self._pve.up(place)
        else:
            await self._pve.down(place)
        return None

    async def node(self, asked: dict[str, Any]) -> object:
        """Lose a `node` (with its guests, unless `power` is false), or bring it back with `up`."""
        world, name = self._pve.world, str(asked["node"])
        if asked["up"]:
            foreign.bring_back(world, name)
        else:
            await foreign.lose(world, name, power=bool(asked.get("power", True)))
        return None

    async def guest(self, asked: dict[str, Any]) -> object:
        """What others do to a `vmid`: `do` is edit, remove, recreate, move, crash, or inside."""
        world, vmid, what = self._pve.world, int(asked["vmid"]), asked["do"]
        if what == "edit":
            foreign.edit(world, vmid, asked.get("config", {}), tuple(asked.get("drop", ())))
        elif what == "remove":
            foreign.remove(world, vmid)
        elif what == "recreate":
            foreign.recreate(world, vmid, asked.get("config", {}), str(asked.get("node", "")))
        elif what == "move":
            foreign.move(world, vmid, str(asked["node"]))
        elif what == "crash":
            guests.crash(world, foreign.guest_of(world, vmid))
        elif what == "inside":  # what runs in it: whether it obeys the power button, whether an agent answers and what
            found = foreign.guest_of(world, vmid)
            found.obeys = bool(asked.get("obeys", found.obeys))
            found.agent = bool(asked.get("agent", found.agent))
            found.facts |= asked.get("facts", {})
        else:
            raise ValueError(f"nothing is done by {what!r}")
        return None

    async def storage(self, asked: dict[str, Any]) -> object:
        """Give a `storage` another `total` of bytes; answers with the one that it had."""
        storage = self._pve.world.storages[str(asked["storage"])]
        before, storage.total = storage.total, int(asked["total"])
        return {"total": before}

    async def report(self, asked: dict[str, Any]) -> object:
        """A round of what cluster/resources gets its figures from, now."""
        self._pve.world.board.report_all()
        return None

    async def expire(self, asked: dict[str, Any]) -> object:
        """Every ticket is void."""
        self._pve.world.access.expire_tickets()
        return None

    async def forget_requests(self, asked: dict[str, Any]) -> object:
        self._pve.requests.clear()
        return None

    async def requests(self, request: web.Request) -> web.Response:
        """Calls so far, by method and route."""
        return web.json_response(self._pve.counted())

    async def guests(self, request: web.Request) -> web.Response:
        """Every guest as it is."""
        return web.json_response(
            {
                str(guest.vmid): {
                    "node": guest.node,
                    "status": guest.status,
                    "lock": guest.lock,
                    "config": guest.config,
                    "snapshots": list(guest.snapshots),
                }
                for guest in self._pve.world.guests.values()
            }
        )

    async def tasks(self, request: web.Request) -> web.Response:
        """Every task: how it ended, or that it runs."""
        return web.json_response({task.upid: task.exitstatus for task in self._pve.world.tasks.all.values()})


@asynccontextmanager
async def controlled(pve: Proxmox, port: int = 0) -> AsyncIterator[Control]:
    """The switches of a cluster, for the length of the block."""
    control = Control(pve)
    runner = await control.listen(port)
    try:
        yield control
    finally:
        await control.reset({})  # nobody waits for a release that cannot come any more
        await runner.cleanup()
