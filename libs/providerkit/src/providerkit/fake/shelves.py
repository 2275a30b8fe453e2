"""What the fake keeps its machines and volumes in: dictionaries that know what a create asks of all of them.

Otherwise each create would look through everything, and the fake be what a large fleet waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from common import v1

from .content import Content


class Machines(dict[str, v1.Machine]):
    """By UID where they have one of a stamp, else by their own id. A machine in it keeps its hypervisor name."""

    def __init__(self, machines: Mapping[str, v1.Machine] = {}) -> None:  # it is only read
        super().__init__()
        self._names: Counter[str] = Counter()
        for key, machine in machines.items():
            self[key] = machine

    def named(self, name: str) -> v1.Machine | None:
        """One with this hypervisor name."""
        if not self._names[name]:
            return None
        return next(machine for machine in self.values() if machine.hypervisor_name == name)

    def __setitem__(self, key: str, machine: v1.Machine) -> None:
        if key in self:
            del self[key]
        self._names[machine.hypervisor_name] += 1
        super().__setitem__(key, machine)

    def __delitem__(self, key: str) -> None:
        name = self[key].hypervisor_name
        self._names[name] -= 1
        if not self._names[name]:
            del self._names[name]
        super().__delitem__(key)


@dataclass(slots=True)
class Volume:
    """One virtual disk's content: it exists with or without a machine that uses it."""

    id: str
    uid: str
    """Machine that it was made for; empty for one that nobody here made."""
    name: str
    size_bytes: int
    image_id: str = ""
    complete: bool = True
    base: str = ""
    """Id of the snapshot that it stands on, if it is a linked clone."""
    content: Content = field(default_factory=Content)


class Volumes(dict[str, Volume]):
    """By id."""

    def __init__(self, volumes: Mapping[str, Volume] = {}) -> None:  # it is only read
        super().__init__()
        self.total_bytes = 0
        for key, volume in volumes.items():
            self[key] = volume

    def resize(self, key: str, size: int) -> None:
        """Give a volume another size, in bytes; in place, as its other fields may be changed."""
        volume = self[key]
        self.total_bytes += size - volume.size_bytes
        volume.size_bytes = size

    def __setitem__(self, key: str, volume: Volume) -> None:
        if key in self:
            del self[key]
        self.total_bytes += volume.size_bytes
        super().__setitem__(key, volume)

    def __delitem__(self, key: str) -> None:
        self.total_bytes -= self[key].size_bytes
        super().__delitem__(key)
