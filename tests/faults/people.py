"""What people do: users who apply, edit and delete machines, and strangers who work on the hypervisors themselves."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .hypervisor import Guest, Hypervisor, Volume
from .kubernetes import Cluster
from .loop import LoopClock
from .schedule import Schedule

SPACE = "shop"
GROUP = "/apis/infra.virtrigaud.io/v1beta1"
MACHINES = f"{GROUP}/virtualmachines"
CANARY = "canary-5e2a91"
"""In every secret of the simulated user: it must show nowhere else."""
FAULT_SECONDS = 240.0

HAPPENINGS = ("away", "off", "removed", "usurped", "stranger", "compacted", "clock", "killed", "rotated")


class User:
    """Creates machines, edits and deletes them, and makes new ones of their names. `wanted` is what there shall be."""

    def __init__(self, schedule: Schedule, cluster: Cluster, sites: Mapping[str, Hypervisor], machines: int) -> None:
        self._schedule, self._cluster, self._sites, self._machines = schedule, cluster, sites, machines
        self.wanted: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, Guest] = {}
        """Guests that must outlive their objects, by UID: their spec says Retain, and their status told of them.

        One that is still being made when its object goes was never anybody's: it is cleared away, as it should be.
        """

    def prepare(self, addresses: Mapping[str, str]) -> None:
        """Everything that machines refer to. Args: addresses: where the provider of each site serves."""
        add = self._cluster.add
        for name in ("kube-system", SPACE):
            add("/api/v1/namespaces", "", name, {})
        secret = base64.b64encode(f"#cloud-config\npassword: {CANARY}\n".encode()).decode()
        add("/api/v1/secrets", SPACE, "boot", {"data": {"userdata": secret}})
        for site, address in addresses.items():
            runtime = {"mode": "External", "address": address, "service": {"tls": {"secretRef": {"name": site}}}}
            check = {"interval": "10s", "timeout": "5s"}
            spec = {"type": "fake", "endpoint": f"fake://{site}", "runtime": runtime, "healthCheck": check}
            add(f"{GROUP}/providers", SPACE, site, {"spec": spec})
        add(f"{GROUP}/vmclasses", SPACE, "small", {"spec": {"cpu": 1, "memory": "256Mi"}})
        add(f"{GROUP}/vmclasses", SPACE, "large", {"spec": {"cpu": 2, "memory": "512Mi"}})
        add(f"{GROUP}/vmimages", SPACE, "guest", {"spec": {"source": {"http": {"url": "http://images.example/guest"}}}})

    async def run(self) -> None:
        """A few minutes of work."""
        choose, machines = self._schedule.fraction, self._machines
        for number in range(machines):
            await asyncio.sleep(choose("user", "create", number) * 10)
            self._create(f"vm-{number}", 0)
        for turn in range(1, 3 * machines):
            await asyncio.sleep(choose("user", "pause", turn) * FAULT_SECONDS / (3 * machines))
            name = f"vm-{int(choose('user', 'which', turn) * machines)}"
            if name not in self.wanted:
                if self._cluster.get(MACHINES, SPACE, name) is None and not self._retains(name):
                    self._create(name, turn)
            elif choose("user", "what", turn) < 0.3:
                self._delete(name)
            else:
                self.wanted[name] = self._spec(name, turn)
                self._cluster.edit(MACHINES, SPACE, name, {"spec": self.wanted[name]})
                self._schedule.say(f"edit {name}")

    def _create(self, name: str, turn: int) -> None:
        self.wanted[name] = self._spec(name, turn)
        self._cluster.add(MACHINES, SPACE, name, {"spec": self.wanted[name]})
        self._schedule.say(f"create {name}")

    def _retains(self, name: str) -> bool:
        """Its machine outlives it, and keeps the name on the hypervisor."""
        return self._schedule.fraction("user", name, "retain") < 0.3

    def _delete(self, name: str) -> None:
        spec = self.wanted.pop(name)
        vm = self._cluster.get(MACHINES, SPACE, name)
        assert vm is not None
        uid = vm["metadata"]["uid"]
        if spec["deletionPolicy"] == "Retain" and vm.get("status", {}).get("id"):
            for guest in self._sites[spec["providerRef"]["name"]].with_uid(uid):
                if guest.made and not guest.busy:
                    self.kept[uid] = guest
        self._cluster.remove(MACHINES, SPACE, name)
        self._schedule.say(f"delete {name}")

    def _spec(self, name: str, turn: int) -> dict[str, Any]:
        choose = self._schedule.fraction
        disks = [{"name": "data", "sizeGiB": 1 + turn // 4}]  # a disk never shrinks
        site = list(self._sites)[int(choose("user", name, "site") * len(self._sites))]
        spec = {
            "providerRef": {"name": site},
            "classRef": {"name": "small" if choose("user", name, turn, "class") < 0.6 else "large"},
            "networks": [{"name": "eth0"}],
            "userData": {"cloudInit": {"secretRef": {"name": "boot"}}},
            "powerState": "On" if choose("user", name, turn, "power") < 0.7 else "Off",
            "restartPolicy": "Automatic",
            "onMissing": "Recreate",
            "deletionPolicy": "Retain" if self._retains(name) else "Delete",
            "disks": disks if choose("user", name, turn, "disks") < 0.5 else [],
            "tags": [f"turn-{turn}"],
        }
        if choose("user", name, "imported") < 0.25:
            return spec | {"importedDisk": {"diskID": self._lend(name, self._sites[site])}}
        return spec | {"imageRef": {"name": "guest"}}

    def _lend(self, name: str, hypervisor: Hypervisor) -> str:
        """A disk of the user's own, which the machine may use and which must outlive it."""
        volume = Volume(f"archive-{name}", "", 1 << 30)
        hypervisor.volumes.setdefault(volume.id, volume)
        hypervisor.precious[volume.id] = "a disk that the user lent"
        return volume.id


class Strangers:
    """What happens to the hypervisors and the cluster without any call of ours."""

    def __init__(
        self, schedule: Schedule, cluster: Cluster, sites: Mapping[str, Hypervisor], clock: LoopClock,
        kill_one: Callable[[float], None], rotate: Callable[[str, int], Awaitable[None]],
    ) -> None:  # fmt: skip
        """Args:
        kill_one: ends the program that a number from 0 to 1 picks.
        rotate: gives a site new certificates, in the turn of this number.
        """
        self._schedule, self._cluster, self._sites, self._clock = schedule, cluster, sites, clock
        self._kill_one, self._rotate = kill_one, rotate

    async def run(self) -> None:
        """Until cancelled."""
        choose = self._schedule.fraction
        turn = 0
        while True:
            turn += 1
            await asyncio.sleep(3.0 + choose("world", turn) * 12.0)
            what = self._schedule.fault("world", HAPPENINGS, rate=0.3)
            site = list(self._sites)[int(choose("world", turn, "site") * len(self._sites))]
            await self._happen(what, turn, self._sites[site])

    async def _happen(self, what: str, turn: int, hypervisor: Hypervisor) -> None:
        choose = self._schedule.fraction
        ours = [guest for guest in hypervisor.guests.values() if guest.uid and guest.made and not guest.busy]
        victim = ours[int(choose("victim", turn) * len(ours))] if ours else None
        match what:
            case "away":
                hypervisor.restart()
                await asyncio.sleep(choose("away", turn) * 20)
                hypervisor.back()
            case "off" if victim is not None:
                hypervisor.power_off(victim)
            case "removed" if victim is not None:
                hypervisor.remove(victim)
            case "usurped" if victim is not None:
                hypervisor.remove(victim)
                hypervisor.make_foreign(victim.machine.hypervisor_name)
            case "stranger":
                hypervisor.make_foreign(f"theirs-{turn}")
            case "compacted":
                self._cluster.forget()
            case "clock":
                self._clock.jump(choose("jump", turn) * 7200 - 3600)
            case "rotated":
                await self._rotate(hypervisor.name, turn)
            case "killed":
                self._kill_one(choose("who", turn))
