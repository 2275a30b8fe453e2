"""High availability: its members are started and stopped by asking for it, and its managers do it, later.

One manager for the cluster looks at every member once a round. It starts and stops what is asked for, moves members
where rules want them, and brings those of a lost node up elsewhere. Everything it does is a task of root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import guests
from .access import ROOT, Who
from .errors import PveError
from .ha_rules import placements
from .migration import Plan
from .tasks import Task, Worker

if TYPE_CHECKING:
    from .calls import Call
    from .world import Guest, World

FENCE_ROUNDS = 3  # for which a lost node's members wait: the node may be alive and must have ended them by then
STOP_SECONDS = 60.0
# What a lost node left behind is nobody's any more. Source: PVE::HA::Resources::PVEVM::remove_locks
STALE_LOCKS = frozenset(
    {"backup", "clone", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending", "suspended"}
)
WANTED = {"enabled": "started", "disabled": "stopped"}


@dataclass
class Service:
    """What the managers know of one member.

    Attributes:
        state: as the API tells it: queued, started, stopped, migrate, relocate, fence, recovery, error, ...
        upid: of the task that works on it; empty when none does.
        move: what somebody asked for: the kind and the target.
        hard: whether a stop does without asking the guest.
    """

    state: str = "queued"
    upid: str = ""
    move: tuple[str, str] | None = None
    hard: bool = False
    restarts: int = 0
    relocations: int = 0
    lost: int = 0


class Managers:
    """The cluster's resource manager and the local ones, in one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.services: dict[str, Service] = {}

    async def run(self) -> None:
        """Look at everything once a round, until cancelled."""
        while True:
            await self._world.pace.spend(self._world.pace.ha)
            self.round()

    def service(self, sid: str) -> Service:
        return self.services.setdefault(sid, Service())

    def ask_move(self, who: Who, sid: str, target: str, kind: str = "migrate") -> str:
        """Queue a move; the task that tells of it ends long before the move begins."""
        guest = self._guest(sid)
        assert guest is not None, "a member is a guest"

        async def worker(task: Task) -> None:
            task.log(f"Requesting HA migration for VM {guest.vmid} to node {target}")
            self.service(sid).move = (kind, target)

        return self._world.tasks.start(who, guest.node, "hamigrate", guest.vmid, worker)

    def round(self) -> None:
        """Bring every member one step closer to what is wanted."""
        for sid in [sid for sid in self.services if sid not in self._world.ha]:
            del self.services[sid]
        for sid in sorted(self._world.ha):
            guest = self._guest(sid)
            if guest is not None:
                self._step(sid, guest, self.service(sid))

    def _guest(self, sid: str) -> Guest | None:
        return self._world.guests.get(int(sid.partition(":")[2]))

    def wanted(self, sid: str) -> str:
        """started, stopped or ignored."""
        state = str(self._world.ha[sid].get("state", "started"))
        return WANTED.get(state, state)

    def _step(self, sid: str, guest: Guest, service: Service) -> None:
        wanted = self.wanted(sid)
        if wanted == "ignored":
            service.state = "ignored"
        elif not self._world.nodes[guest.node].online:
            self._recover(sid, guest, service)
        elif service.upid and self._world.tasks.all[service.upid].running:
            return
        else:
            service.lost = 0
            if service.upid:
                self._ended(sid, service)
            self._act(sid, guest, service, wanted)

    def _recover(self, sid: str, guest: Guest, service: Service) -> None:
        """Give a member of a lost node to another node, once the lost one cannot run it any more."""
        service.lost += 1
        service.state = "fence"
        if service.lost < FENCE_ROUNDS:
            return
        service.state = "recovery"
        for target in placements(self._world, sid, avoid=guest.node):
            if guest.lock in STALE_LOCKS:
                guest.lock = ""
            guest.run = None
            guest.node = target
            service.upid, service.lost, service.state = "", 0, self.wanted(sid)
            return

    def _ended(self, sid: str, service: Service) -> None:
        """Judge the task that worked on a member: a start that failed is tried again, then elsewhere, then given up."""
        task = self._world.tasks.all[service.upid]
        service.upid = ""
        if task.kind == "qmstart" and task.exitstatus != "OK" and not task.exitstatus.startswith("WARNINGS"):
            options = self._world.ha[sid]
            service.restarts += 1
            if service.restarts <= int(options.get("max_restart", 1)):
                return
            others = placements(self._world, sid, avoid=task.node)
            if service.relocations < int(options.get("max_relocate", 1)) and others:
                service.restarts = 0
                service.relocations += 1
                service.move = ("relocate", others[0])
            else:
                service.state = "error"
        elif task.kind == "qmstart":
            service.restarts = service.relocations = 0

    def _act(self, sid: str, guest: Guest, service: Service, wanted: str) -> None:
        """Begin what is next."""
        if self._world.ha[sid].get("state") == "disabled" and service.state == "error":
            service.state = "stopped"  # what a person does to leave the error
        if service.state == "error":
            return
        if service.move is None and wanted == "started" and self._world.ha[sid].get("failback", 1):
            best = placements(self._world, sid)
            if best and guest.node not in best:
                service.move = ("migrate", best[0])
        if service.move is not None:
            kind, target = service.move
            service.move = None
            if target != guest.node and self._world.nodes[target].online:
                service.state = kind
                self._begin(guest, service, "qmigrate", lambda task: self._move(task, guest, target, kind))
                return
        if wanted == "started" and guest.run is None:
            self._begin(guest, service, "qmstart", lambda task: self._start(task, guest))
        elif wanted == "stopped" and guest.run is not None:
            kind = "qmstop" if service.hard else "qmshutdown"
            self._begin(guest, service, kind, lambda task: self._stop(task, guest, service.hard))
        if wanted == "stopped" and guest.run is None:
            service.hard = False
        service.state = wanted

    def _begin(self, guest: Guest, service: Service, kind: str, worker: Worker) -> None:
        service.upid = self._world.tasks.start(ROOT, guest.node, kind, guest.vmid, worker)

    async def _start(self, task: Task, guest: Guest) -> None:
        async with self._world.locks.hold(guest.vmid, log=task.log):
            await guests.start(task, guest)

    async def _stop(self, task: Task, guest: Guest, hard: bool) -> None:
        async with self._world.locks.hold(guest.vmid, log=task.log):
            if hard or not await guests.power_down(task, guest, STOP_SECONDS):
                await guests.stop(task, guest)

    async def _move(self, task: Task, guest: Guest, target: str, kind: str) -> None:
        if kind == "relocate" and guest.run is not None:
            await self._stop(task, guest, hard=False)
        plan = Plan(self._world, guest, target, online=True)
        try:
            plan.check()
        except PveError as error:
            task.log(f"ERROR: {error.reason}")
            raise
        await plan.run(task)


def managed(call: Call) -> dict[str, object]:
    """The `ha` part of a guest's status."""
    sid = f"vm:{call.vmid}"
    if sid not in call.world.ha:
        return {"managed": 0}
    return {"managed": 1, "state": call.world.managers.service(sid).state}


def request_state(call: Call, kind: str, state: str, *, hard: bool = False) -> str:
    """Ask the managers for a state; the task ends long before the guest has changed."""
    sid = f"vm:{call.vmid}"

    async def worker(task: Task) -> None:
        task.log(f"Requesting HA {kind.removeprefix('ha')} for VM {call.vmid}")
        if (entry := call.world.ha.get(sid)) is not None:
            entry["state"] = state
            call.world.managers.service(sid).hard = hard

    return call.world.tasks.start(call.who, call.node, kind, call.vmid, worker)
