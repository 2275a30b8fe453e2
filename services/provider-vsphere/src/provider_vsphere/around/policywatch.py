"""Storage policies as disks have them, where somebody asked for one: also when somebody else changes them.

vCenter tells in no property which policy a disk has, but a change of it is a reconfiguration, and that has a version.
So the policy service is asked once for each version of a machine that asked for a policy, for all machines that have
changed together; machines without one cost nothing. What the service goes on telling otherwise after it was put right
is believed no more: each attempt is a new version, and that would have no end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common import logging
from common.errors import ProviderError
from providerkit.background import running

from provider_vsphere import machines
from provider_vsphere.around import policies
from provider_vsphere.config import devices
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)

GIVEN = "virtrigaud.policies"
"""The fact of a VM that says which policies its disks have."""
MOST_ATTEMPTS = 3
SETTLE_SECONDS = 0.2
"""Whoever changes one machine often changes many."""


@dataclass(frozen=True)
class Given:
    """Policies at one version of a machine's configuration."""

    version: str
    names: Mapping[str, tuple[str, str]]
    """Id and name of the policy of each disk of which the service told, by the name of the disk; empty for none."""
    misses: int = 0
    """So many looks in a row, this one included, found another policy than was asked for."""


def observed(entity: Entity, mark: Stamp) -> dict[str, str]:
    """What was asked for, as it is now; where nobody has looked since the last change, the stamp is believed."""
    wishes, given = asked(mark), _now(entity)
    if given is None or given.misses > MOST_ATTEMPTS:
        return {_key(disk): wish for disk, wish in wishes.items()}
    found = {disk: _told(wish, given.names.get(disk)) for disk, wish in wishes.items()}
    return {_key(disk): policy for disk, policy in found.items() if policy}


def _told(wish: str, policy: tuple[str, str] | None) -> str:
    """The policy of a disk in the words that were asked with, where those mean the same; empty for none."""
    return wish if policy is None or wish in policy else policy[1]


def asked(mark: Stamp) -> dict[str, str]:
    """The policy that was asked for, by the name of the disk."""
    return {disk.name: mark.settings[key] for disk in mark.disks if (key := _key(disk.name)) in mark.settings}


def _now(entity: Entity) -> Given | None:
    """What is known of the version that the machine has."""
    given: Given | None = entity.facts.get(GIVEN)
    return given if given is not None and given.version == entity.facts.get("config.changeVersion") else None


def _key(disk: str) -> str:
    return f"disks[{disk}].storage_policy"


class PolicyWatch:
    """Keeps the policies in the tree true."""

    def __init__(self, vsphere: Vsphere, *, owner: str) -> None:
        self._vsphere = vsphere
        self._owner = owner
        self._changed: set[str] = set()
        self._some = asyncio.Event()
        vsphere.on_change(self._note)

    def _note(self, uid: str | None) -> None:
        if uid is None:
            self._changed |= {each.uuid for each in self._vsphere.tree.of_kind("VirtualMachine")}
        else:
            self._changed.add(uid)
        self._some.set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Look until the context is left."""
        async with running(self._keep(), "vsphere policies"):
            yield

    async def _keep(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._some.clear()
            changed, self._changed = self._changed, set()
            try:
                await self._look(changed)
            except ProviderError as error:  # the stamps are believed until the next change
                log.warning("vsphere.policies.unread", error=str(error))

    async def _look(self, uids: set[str]) -> None:
        wanted: dict[str, tuple[Entity, dict[str, str]]] = {}
        for entity in (each for uid in uids for each in self._vsphere.tree.with_uuid(uid)):
            if _now(entity) is None and (keys := self._disks(entity)):
                wanted[entity.moid] = (entity, keys)
        about = self._vsphere.about
        if not wanted or about is None or not about.is_vcenter:
            return
        versions = {moid: str(entity.facts.get("config.changeVersion") or "") for moid, (entity, _) in wanted.items()}
        found = await policies.given(
            self._vsphere, [f"{moid}:{key}" for moid, (_, keys) in wanted.items() for key in keys], "look at policies"
        )
        for moid, (entity, keys) in wanted.items():
            names = {name: found[at] for key, name in keys.items() if (at := f"{moid}:{key}") in found}
            self._vsphere.learn(entity, {GIVEN: self._judged(entity, versions[moid], names)})

    def _judged(self, entity: Entity, version: str, names: Mapping[str, tuple[str, str]]) -> Given:
        mark, before = machines.stamp_of(entity), entity.facts.get(GIVEN)
        wishes = asked(mark) if mark is not None else {}
        if all(_told(wish, names.get(disk)) == wish for disk, wish in wishes.items()):
            return Given(version, names)
        misses = before.misses + 1 if before is not None else 1
        if misses > MOST_ATTEMPTS:
            log.warning("vsphere.policy.not_kept", uid=entity.uuid, asked=wishes, told=dict(names))
        return Given(version, names, misses)

    def _disks(self, entity: Entity) -> dict[str, str]:
        """Names of disks that asked for a policy, by the key of the device."""
        mark = machines.stamp_of(entity)
        if mark is None or mark.owner != self._owner:
            return {}
        wishes, board = asked(mark), entity.facts.get("config.hardware.device") or ()
        found = {}
        for record in mark.disks:
            device = devices.disk_at(board, record.slot) if record.name in wishes else None
            if device is not None:
                found[str(device.key)] = record.name
        return found
