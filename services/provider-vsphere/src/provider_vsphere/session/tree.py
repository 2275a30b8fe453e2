"""The inventory tree in memory: every managed object that we look at, with a few properties of each.

Filled by the collector, so that to look something up costs no round trip. Belongs to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

IDENTITY = "config.instanceUuid"
LIKELY = "summary.config.instanceUuid"
_CONFIG = "config."
_VM = "VirtualMachine"


@dataclass
class Entity:
    """One managed object.

    Attributes:
        kind: type name as vSphere has it: "VirtualMachine", "Datacenter", "ClusterComputeResource", ...
        moid: its id in this vCenter ("vm-42"); it changes when the object is registered anew.
        facts: what the collector subscribed to, by property path; unset properties are absent. Never changed in place:
            each update puts a new dict here.
    """

    kind: str
    moid: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, in plain."""
        return plain_name(str(self.facts.get("name") or ""))

    @property
    def uuid(self) -> str:
        """`instanceUuid` of a VM, lower case; empty for everything else, and for a VM that could not be read yet."""
        return str(self.facts.get(IDENTITY) or "").lower()

    @property
    def likely_uuid(self) -> str:
        """The same as vCenter's database has it, also of a VM that cannot be read; it proves nothing by itself."""
        return str(self.facts.get(LIKELY) or "").lower()

    @property
    def parent(self) -> str | None:
        """moid of the parent; None for the root folder and for a VM in a vApp."""
        return self.facts.get("parent")


def _really_unset(unset: tuple[str, ...]) -> tuple[str, ...]:
    """A VM whose files vSphere cannot reach loses its whole configuration, and is none the less who it was: taken for
    gone, it would be made a second time, or never be removed. One that can be read always has an `instanceUuid`."""
    return unset if IDENTITY not in unset else tuple(path for path in unset if not path.startswith(_CONFIG))


def plain_name(raw: str) -> str:
    """A name with %2f, %5c and %25 turned back into what they stand for."""
    return raw.replace("%2f", "/").replace("%2F", "/").replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%")


class Tree:
    """All entities by moid, and the questions that are asked of them."""

    def __init__(self) -> None:
        self._entities: dict[str, Entity] = {}
        self._by_kind: dict[str, dict[str, Entity]] = {}
        self._by_uuid: dict[str, dict[str, Entity]] = {}
        self._unread: dict[str, Entity] = {}
        self._kept: dict[str, dict[str, Any]] = {}
        """Configuration of each VM of the last session, for those that cannot be read in the next one; what a session
        that ended early has not told of stays."""

    def clear(self, *, same_server: bool = False) -> None:
        """Forget everything: another session, perhaps another vCenter.

        Args:
            same_server: ids mean what they meant; what is known of VMs is kept for those that cannot be read now.
        """
        if not same_server:
            self._kept = {}
        for moid, entity in self._by_kind.get(_VM, {}).items() if same_server else ():
            if entity.uuid:
                self._kept[moid] = {path: fact for path, fact in entity.facts.items() if path.startswith(_CONFIG)}
        self._unread.clear()
        self._entities.clear()
        self._by_kind.clear()
        self._by_uuid.clear()

    def put(self, kind: str, moid: str, changed: dict[str, Any], unset: tuple[str, ...] = ()) -> Entity:
        """Take over changed properties of an entity, which may be new."""
        entity = self._entities.get(moid)
        if entity is None:
            entity = self._entities[moid] = Entity(kind, moid, {} if IDENTITY in changed else self._kept.get(moid, {}))
            self._by_kind.setdefault(kind, {})[moid] = entity
            before = ""
        else:
            before = entity.uuid
        facts = entity.facts | changed
        for path in _really_unset(unset):
            facts.pop(path, None)
        entity.facts = facts
        if kind == _VM:
            self._note_unread(entity)
        if entity.uuid != before:
            self._unlink(before, moid)
        if entity.uuid:
            self._by_uuid.setdefault(entity.uuid, {})[moid] = entity
        return entity

    def remove(self, moid: str) -> Entity | None:
        """It is gone."""
        entity = self._entities.pop(moid, None)
        if entity is not None:
            self._by_kind[entity.kind].pop(moid, None)
            self._unread.pop(moid, None)
            self._unlink(entity.uuid, moid)
        return entity

    def settle(self) -> None:
        """Everything was told of: what was kept from before is used, or gone."""
        self._kept = {}

    def _note_unread(self, entity: Entity) -> None:
        if entity.uuid:
            self._unread.pop(entity.moid, None)
        else:
            self._unread[entity.moid] = entity

    def _unlink(self, uuid: str, moid: str) -> None:
        holders = self._by_uuid.get(uuid, {})
        holders.pop(moid, None)
        if not holders:
            self._by_uuid.pop(uuid, None)

    def with_uuid(self, uuid: str) -> list[Entity]:
        """Every VM with this `instanceUuid`; vCenter does not keep it unique."""
        return list(self._by_uuid.get(uuid.lower(), {}).values())

    def unread(self) -> list[Entity]:
        """Every VM of which nobody knows who it is: out of reach since before we came, or just being made."""
        return list(self._unread.values())

    def get(self, moid: str | None) -> Entity | None:
        """The entity with this id."""
        return self._entities.get(moid) if moid is not None else None

    def of_kind(self, *kinds: str) -> Iterator[Entity]:
        """Every entity of these kinds, in the order in which they were seen first."""
        for kind in kinds:
            yield from self._by_kind.get(kind, {}).values()

    def ancestors(self, entity: Entity) -> Iterator[Entity]:
        """Its parent, that one's parent, and so on, as far as they are known."""
        seen = {entity.moid}
        above = self.get(entity.parent)
        while above is not None and above.moid not in seen:
            seen.add(above.moid)
            yield above
            above = self.get(above.parent)

    def path(self, entity: Entity) -> str:
        """As vSphere's own tools write it, without the root folder: "/DC0/vm/lab/web"."""
        names = [each.name for each in (entity, *self.ancestors(entity)) if each.parent is not None]
        return "/" + "/".join(reversed(names))

    def datacenter(self, entity: Entity) -> Entity | None:
        """The datacenter that it is in."""
        return next((each for each in (entity, *self.ancestors(entity)) if each.kind == "Datacenter"), None)
