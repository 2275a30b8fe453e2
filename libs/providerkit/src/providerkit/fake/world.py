"""The world of the fake: machines, their volumes and snapshots, images, all of which outlive any driver; and knobs that
make them misbehave."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import v1
from common.clock import Clock, SystemClock
from common.errors import HostFullError, HypervisorUnavailableError, ProviderError

from . import content
from .content import Content
from .shelves import Machines, Volume, Volumes

GIB = 1 << 30


@dataclass(slots=True)
class Taken:
    """A snapshot, with the machine and the content of its disks as they were."""

    told: v1.Snapshot
    machine: v1.Machine
    volumes: list[Volume]


@dataclass
class Misbehaviour:
    """What goes wrong on demand; keys are verbs of the Driver."""

    latency: dict[str, float] = field(default_factory=dict)
    """Seconds that a verb takes before it acts."""
    failures: dict[str, list[ProviderError]] = field(default_factory=lambda: defaultdict(list))
    """Errors that the next calls of a verb end with, before they act."""
    hanging: set[str] = field(default_factory=set)
    """Verbs that never answer; "*" stands for all."""
    deaf: set[str] = field(default_factory=set)
    """Machines whose guests ignore a request to shut down."""
    unread: set[str] = field(default_factory=set)
    """Machines that nobody can look at now: not observed, and not to be ruled out."""
    unheard: bool = False
    """Events are lost: nothing is told about changes."""


class FakeHypervisor:
    """Everything that a driver's death does not touch. With a file, not even the process's.

    For one event loop. Outside events are plain methods: whoever calls them plays the world behind our back.
    """

    def __init__(self, *, clock: Clock | None = None, path: Path | None = None, capacity_bytes: int = 1 << 50) -> None:
        self.clock = clock or SystemClock()
        self._machines, self._volumes = Machines(), Volumes()
        self.images: dict[str, v1.Image] = {}
        self.snapshots: dict[str, list[Taken]] = {}
        """Of each machine, parents before children."""
        self.urls: dict[str, bytes] = {}
        """What a URL answers with; hosts under .example (RFC 2606) answer without being listed."""
        self.networks = {"default", "lan"}
        self.capacity_bytes = capacity_bytes
        self.calls: dict[str, int] = defaultdict(int)
        """How often each verb was called."""
        self.misbehave = Misbehaviour()
        self._available = True
        self._release = asyncio.Event()
        self._listeners: set[asyncio.Queue[str | ProviderError | None]] = set()
        self._path = path
        if path is not None and path.exists():
            self._load(path)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def machines(self) -> Machines:
        """By UID where they have one of a stamp, else by their own id."""
        return self._machines

    @machines.setter
    def machines(self, machines: Mapping[str, v1.Machine]) -> None:
        self._machines = Machines(machines)

    @property
    def volumes(self) -> Volumes:
        """By id."""
        return self._volumes

    @volumes.setter
    def volumes(self, volumes: Mapping[str, Volume]) -> None:
        self._volumes = Volumes(volumes)

    # -- for drivers -----------------------------------------------------------------------------------------------

    async def enter(self, verb: str) -> None:
        """Be late, hang, fail or be away, as the knobs say."""
        self.calls[verb] += 1
        self._refuse_when_away(verb)
        if seconds := self.misbehave.latency.get(verb, 0.0):
            await self.clock.sleep(seconds)
        while self.misbehave.hanging & {verb, "*"}:
            self._release.clear()
            await self._release.wait()
        if queue := self.misbehave.failures.get(verb):
            raise queue.pop(0)
        self._refuse_when_away(verb)

    def changed(self, machine_id: str) -> None:
        """A machine is another now: keep it, and tell those who listen."""
        self.save()
        if self.misbehave.unheard:
            return
        machine = self.machines.get(machine_id)
        uid = machine.identity.uid if machine is not None and machine.identity is not None else machine_id
        for queue in self._listeners:
            queue.put_nowait(uid)

    async def events(self) -> AsyncIterator[str | None]:
        """What changes from now on, until the hypervisor goes away."""
        self._refuse_when_away("changes")
        queue: asyncio.Queue[str | ProviderError | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                hint = await queue.get()
                if isinstance(hint, ProviderError):
                    raise hint
                yield hint
        finally:
            self._listeners.discard(queue)

    @property
    def used_bytes(self) -> int:
        """Bytes that volumes and images take."""
        return self.volumes.total_bytes + sum(image.size_bytes for image in self.images.values())

    def reserve(self, what: str, size: int) -> None:
        """Make sure that so many bytes are free.

        Raises:
            HostFullError: they are not.
        """
        free = self.capacity_bytes - self.used_bytes
        if size > free:
            raise HostFullError(f"{what}: {size} bytes asked, storage fake has {free} bytes free")

    def save(self) -> None:
        """Write the world to its file, in one piece or not at all."""
        if self._path is None:
            return
        world = {
            "machines": {key: json.loads(machine.to_json()) for key, machine in self.machines.items()},
            "volumes": {key: _plain_volume(volume) for key, volume in self.volumes.items()},
            "images": {key: json.loads(image.to_json()) for key, image in self.images.items()},
            "snapshots": {key: [_plain(each) for each in tree] for key, tree in self.snapshots.items()},
        }
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w") as file:
            json.dump(world, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def _load(self, path: Path) -> None:
        world = json.loads(path.read_text())
        self.machines = {key: v1.Machine.from_dict(machine) for key, machine in world["machines"].items()}
        self.volumes = {key: _volume(plain) for key, plain in world["volumes"].items()}
        self.images = {key: v1.Image.from_dict(image) for key, image in world["images"].items()}
        self.snapshots = {key: [_taken(each) for each in tree] for key, tree in world.get("snapshots", {}).items()}

    def _refuse_when_away(self, verb: str) -> None:
        if not self._available:
            raise HypervisorUnavailableError(f"{verb}: the fake hypervisor is switched off")

    def rekey(self, old: str, new: str) -> None:
        """The machine under one key goes under another: the UID that it has now, or its own id."""
        if old == new:
            return
        self.machines[new] = self.machines[old]
        del self.machines[old]
        if old in self.snapshots:
            self.snapshots[new] = self.snapshots.pop(old)

    def put_snapshot(self, machine_id: str, told: v1.Snapshot) -> Taken:
        """Keep the machine and its volumes as they are now; its state derives from this snapshot from now on."""
        machine, tree = self.machines[machine_id], self.snapshots.setdefault(machine_id, [])
        volumes = [copy.copy(self.volumes[disk.id]) for disk in machine.disks]
        taken = Taken(told, copy.deepcopy(machine), volumes)
        tree.append(taken)
        self.set_current(machine_id, told.id)
        self.changed(machine_id)
        return taken

    def set_current(self, machine_id: str, snapshot_id: str) -> None:
        """The machine's state derives from this one."""
        for each in self.snapshots.get(machine_id, []):
            each.told.current = each.told.id == snapshot_id

    # -- outside events --------------------------------------------------------------------------------------------

    def away(self) -> None:
        """The hypervisor is gone: every call fails, the event stream breaks."""
        self._available = False
        for queue in self._listeners:
            queue.put_nowait(HypervisorUnavailableError("changes: the fake hypervisor was switched off"))

    def back(self) -> None:
        """It answers again."""
        self._available = True

    def hang(self, *verbs: str) -> None:
        """These verbs never answer from now on; none given means all."""
        self.misbehave.hanging.update(verbs or {"*"})

    def unhang(self) -> None:
        """Everything answers again, calls that hang included."""
        self.misbehave.hanging.clear()
        self._release.set()

    def fail(self, verb: str, error: ProviderError, times: int = 1) -> None:
        """The next calls of this verb end with this error."""
        self.misbehave.failures[verb].extend([error] * times)

    def make_foreign(self, name: str, uid: str = "", owner: str = "") -> str:
        """A machine that is not ours; with a UID it has ours and not our stamp. Answers with its id."""
        machine_id = uid or str(uuid.uuid4())
        stamp = v1.MachineIdentity(uid=machine_id, name=name, owner=owner) if owner else None
        disk = v1.Disk(id=f"{machine_id}/disk", size_bytes=GIB, device="sda", active=True)
        self.volumes[disk.id] = Volume(disk.id, "", "disk", GIB)
        self.machines[machine_id] = v1.Machine(
            identity=stamp, id=machine_id, hypervisor_name=name, power=v1.PowerState.ON, disks=[disk],
            cpu=v1.CpuState(count=1, max_count=1, configured_count=1),
            memory=v1.MemoryState(size_bytes=GIB, max_bytes=GIB, configured_bytes=GIB),
        )  # fmt: skip
        self.changed(machine_id)
        return machine_id

    def snapshot(self, machine_id: str) -> v1.Machine | None:
        """The machine as it is, for comparing later."""
        return copy.deepcopy(self.machines.get(machine_id))

    def take_behind_our_back(self, machine_id: str, name: str) -> str:
        """Somebody took a snapshot with another tool; answers with its id."""
        tree = self.snapshots.setdefault(machine_id, [])
        parent = next((each.told.id for each in tree if each.told.current), "")
        told = v1.Snapshot(id=f"snapshot-{uuid.uuid4()}", name=name, parent_id=parent, create_time=self.clock.now())
        self.put_snapshot(machine_id, told)
        return told.id

    def power_behind_our_back(self, machine_id: str, power: v1.PowerState, reason: str = "") -> None:
        """Somebody used another tool."""
        machine = self.machines[machine_id]
        machine.power, machine.power_reason = power, reason
        if power is v1.PowerState.OFF:
            machine.addresses, machine.guest, machine.pending_restart = [], None, []
        self.changed(machine_id)

    def scribble(self, volume_id: str, offset: int, data: bytes) -> None:
        """A guest wrote to its disk."""
        volume = self.volumes[volume_id]
        volume.content = volume.content.copy()
        volume.content.generation += 1
        volume.content.write(offset, data)
        self.save()

    def remove_behind_our_back(self, machine_id: str) -> None:
        """Somebody deleted the machine, its snapshots and its volumes."""
        del self.machines[machine_id]
        self.snapshots.pop(machine_id, None)
        for volume in [volume for volume in self.volumes.values() if volume.uid == machine_id]:
            del self.volumes[volume.id]
        self.changed(machine_id)


def _plain(taken: Taken) -> dict[str, Any]:
    """As JSON has it."""
    volumes = [_plain_volume(volume) for volume in taken.volumes]
    told, machine = json.loads(taken.told.to_json()), json.loads(taken.machine.to_json())
    return {"told": told, "machine": machine, "volumes": volumes}


def _taken(plain: dict[str, Any]) -> Taken:
    volumes = [_volume(volume) for volume in plain["volumes"]]
    return Taken(v1.Snapshot.from_dict(plain["told"]), v1.Machine.from_dict(plain["machine"]), volumes)


def _plain_volume(volume: Volume) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(volume, content=Content())) | {"content": volume.content.plain()}


def _volume(plain: dict[str, Any]) -> Volume:
    return Volume(**{**plain, "content": content.from_plain(plain["content"])})
