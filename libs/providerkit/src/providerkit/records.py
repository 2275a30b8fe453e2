"""What stamps of all providers have alike: how they are read, records of disks and NICs, and whose machine it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import msgspec
from common import v1

if TYPE_CHECKING:
    from typing import Self


class Named(Protocol):
    """A record of one device."""

    @property
    def name(self) -> str:
        """As the spec has it."""
        ...


D = TypeVar("D", bound=Named)
N = TypeVar("N", bound=Named)
R = TypeVar("R", bound=Named)
T = TypeVar("T")


def decoded(json: str | bytes, type: type[T]) -> T | None:
    """A record of ours; None for what people or other tools wrote or edited, however broken: it is not ours."""
    try:
        return msgspec.json.decode(json, type=type) if json else None
    except (msgspec.MsgspecError, ValueError, RecursionError):  # half of a surrogate pair, a thousand brackets
        return None


class Records(Generic[D, N]):
    """Base of a frozen dataclass with these fields; everything here gives another one."""

    if TYPE_CHECKING:  # annotations at run time would be taken for fields of the dataclass
        uid: str
        namespace: str
        name: str
        owner: str
        disks: tuple[D, ...]
        nics: tuple[N, ...]

    def disk(self, name: str) -> D | None:
        """The record of the disk with this name."""
        return next((disk for disk in self.disks if disk.name == name), None)

    def nic(self, name: str) -> N | None:
        """The record of the NIC with this name."""
        return next((nic for nic in self.nics if nic.name == name), None)

    def with_disk(self, disk: D) -> Self:
        """With this record added, or in place of the one with its name: the order is that of booting."""
        return self._replaced(disks=_with(self.disks, disk))

    def without_disk(self, name: str) -> Self:
        """Without the record of this disk."""
        return self._replaced(disks=tuple(disk for disk in self.disks if disk.name != name))

    def with_nic(self, nic: N) -> Self:
        """With this record added, or in place of the one with its name."""
        return self._replaced(nics=_with(self.nics, nic))

    def without_nic(self, name: str) -> Self:
        """Without the record of this NIC."""
        return self._replaced(nics=tuple(nic for nic in self.nics if nic.name != name))

    def identity(self) -> v1.MachineIdentity:
        """Whom it names."""
        return v1.MachineIdentity(uid=self.uid, namespace=self.namespace, name=self.name, owner=self.owner)

    def _replaced(self, **fields: Any) -> Self:  # Any: fields of the dataclass
        return replace(self, **fields)  # type: ignore[type-var]  # whoever inherits is a dataclass


def _with(records: tuple[R, ...], fresh: R) -> tuple[R, ...]:
    if all(each.name != fresh.name for each in records):
        return (*records, fresh)
    return tuple(fresh if each.name == fresh.name else each for each in records)
