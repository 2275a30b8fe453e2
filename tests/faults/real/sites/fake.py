"""The fake hypervisor, kept in a file: it has no daemon, only its provider's process."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from e2e.stack import Object
from providerkit.fake.world import FakeHypervisor

from .site import IMAGE, OWNER, Found, Site


class FakeSite(Site):
    """Machines are lines of JSON."""

    kind, module = "fake", "providerkit.fake"
    root_mib = 1024  # as its images have it
    points = ("fake.create.volumes", "fake.destroy.volumes")

    def __init__(self) -> None:
        self._file = Path()
        self._theirs: list[str] = []

    def open(self, home: Path) -> None:
        self._file = home / "world.json"
        world = FakeHypervisor(path=self._file)
        self._theirs = [world.make_foreign("theirs")]

    def close(self) -> None:
        """Nothing runs."""

    def flags(self) -> list[str]:
        return ["--world", str(self._file)]

    def spec(self) -> Object:
        return {"endpoint": "fake://here"}

    def images(self) -> dict[str, Object]:
        return {IMAGE: {"http": {"url": "http://images.example/blank"}}}

    def network(self) -> Object:
        return {"libvirt": {"networkName": "default"}}

    def _world(self) -> dict[str, Any]:  # Any: JSON
        world: dict[str, Any] = json.loads(self._file.read_text())
        return world

    def found(self) -> list[Found]:
        machines = self._world()["machines"]
        return [_found(key, machine) for key, machine in machines.items() if key not in self._theirs]

    def orphans(self, living: Collection[str]) -> list[str]:
        volumes = self._world()["volumes"].values()
        return [volume["id"] for volume in volumes if volume["uid"] and volume["uid"] not in living]

    def theirs(self) -> str:
        machines = self._world()["machines"]
        return json.dumps([machines[key] for key in self._theirs], sort_keys=True)


def _found(key: str, machine: dict[str, Any]) -> Found:
    identity = machine.get("identity", {})
    return Found(
        uid=identity.get("uid") or key,
        name=machine.get("hypervisorName", ""),
        ours=identity.get("owner") == OWNER,
        on=machine.get("power", "").endswith("ON"),
        cpus=int(machine["cpu"]["count"]),
        memory_mib=int(machine["memory"]["sizeBytes"]) >> 20,
        disks_mib=tuple(sorted(int(disk["sizeBytes"]) >> 20 for disk in machine["disks"])),
    )
