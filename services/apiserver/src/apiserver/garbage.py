"""Garbage collection by owner references: background, foreground and orphan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .deletion import FOREGROUND, ORPHAN
from .errors import ApiError
from .namespaces import stored_kind
from .operations import Operations
from .options import DeleteOptions, WriteOptions
from .resources import Object, Resource
from .watch import Event, Item, OwnerHead
from .workers import Worker


@dataclass(frozen=True)
class Key:
    """One stored object."""

    resource: str
    namespace: str
    name: str

    @classmethod
    def of(cls, item: Item) -> Key:
        """Return the key of an object."""
        return cls(item.resource, item.namespace, item.name)


class Garbage:
    """Deletes objects whose owners are all gone, and holds owners that wait for their dependents."""

    def __init__(self, operations: Operations) -> None:
        """Index what is stored, and follow the store."""
        self._ops = operations
        self._dependents: dict[str, set[Key]] = {}
        self._places: dict[str, Key] = {}
        self.worker: Worker[Key] = Worker("garbage", self._settle)
        for resource in operations.store.resources():
            for item in operations.store.items(resource):
                self._index(item)
                if item.meta.ownerReferences or item.meta.deletionTimestamp:
                    self.worker.add(Key.of(item))
        operations.store.listen(self._follow)

    # ---- the graph ----

    def _index(self, item: Item) -> None:
        self._places[item.meta.uid] = Key.of(item)
        for owner in item.meta.ownerReferences or []:
            self._dependents.setdefault(owner.uid, set()).add(Key.of(item))

    def _forget(self, item: Item) -> None:
        self._places.pop(item.meta.uid, None)
        for owner in item.meta.ownerReferences or []:
            known = self._dependents.get(owner.uid, set())
            known.discard(Key.of(item))
            if not known:
                self._dependents.pop(owner.uid, None)

    def _follow(self, event: Event) -> None:
        owners = list(event.item.meta.ownerReferences or [])
        if event.before is not None:
            owners += event.before.meta.ownerReferences or []
            self._forget(event.before)
        if not event.gone:
            self._index(event.item)
            if event.item.meta.ownerReferences or event.item.meta.deletionTimestamp:
                self.worker.add(Key.of(event.item))
        if event.gone or event.item.meta.deletionTimestamp:
            for key in self._dependents.get(event.item.meta.uid, ()):
                self.worker.add(key)
        for owner in owners:  # an owner may have waited for this
            place = self._places.get(owner.uid)
            if place is not None:
                self.worker.add(place)

    # ---- the work ----

    async def _settle(self, key: Key) -> None:
        item = self._ops.store.get(key.resource, key.namespace, key.name)
        if item is None:
            return
        resource = stored_kind(self._ops, key.resource)
        finalizers = item.meta.finalizers or []
        if item.meta.deletionTimestamp and ORPHAN in finalizers:
            await self._orphan(resource, item)
        elif item.meta.deletionTimestamp and FOREGROUND in finalizers:
            await self._finish_foreground(resource, item)
        elif item.meta.ownerReferences and not item.meta.deletionTimestamp:
            await self._judge(resource, item, item.meta.ownerReferences)

    async def _judge(self, resource: Resource, item: Item, owners: list[OwnerHead]) -> None:
        """Delete an object without a living owner; drop references that no longer mean anything."""
        states = {owner.uid: self._state(item, owner) for owner in owners}
        if "unknown" in states.values():
            return  # a kind we do not serve now: whether its object exists cannot be told
        dead = {uid for uid, state in states.items() if state != "solid"}
        if not dead:
            return
        if len(dead) == len(states):
            has_dependents = bool(self._dependents.get(item.meta.uid))
            waiting = "waiting" in states.values()
            policy = "Foreground" if waiting and has_dependents else "Background"
            await self._delete(resource, item, policy)
        else:
            await self._drop_owners(resource, Key.of(item), dead)

    def _state(self, item: Item, owner: OwnerHead) -> str:
        place = self._places.get(owner.uid)
        if place is None:
            return "absent" if self._ops.registry.find_kind(owner.apiVersion, owner.kind) else "unknown"
        if place.namespace and place.namespace != item.namespace:
            # an owner in another namespace does not count; of an object without namespace nothing can be told
            return "absent" if item.namespace else "unknown"
        found = self._ops.store.get(place.resource, place.namespace, place.name)
        if found is None:
            return "absent"
        held = found.meta.deletionTimestamp and FOREGROUND in (found.meta.finalizers or [])
        return "waiting" if held and owner.blockOwnerDeletion else "solid"

    async def _delete(self, resource: Resource, item: Item, policy: str) -> None:
        options = DeleteOptions(policy, uid=item.meta.uid, resource_version=str(item.revision))
        try:
            await self._ops.delete(resource, item.namespace, item.name, options)
        except ApiError as error:
            if error.code == 409:
                self.worker.add(Key.of(item))
            elif error.code != 404:
                raise

    async def _finish_foreground(self, resource: Resource, item: Item) -> None:
        blocking = False
        for key in list(self._dependents.get(item.meta.uid, ())):
            dependent = self._ops.store.get(key.resource, key.namespace, key.name)
            if dependent is None:
                continue
            owners = dependent.meta.ownerReferences or []
            blocking = blocking or any(o.uid == item.meta.uid and o.blockOwnerDeletion for o in owners)
            self.worker.add(key)
        if not blocking:
            await self._release(resource, item, FOREGROUND)

    async def _orphan(self, resource: Resource, item: Item) -> None:
        for key in list(self._dependents.get(item.meta.uid, ())):
            await self._drop_owners(stored_kind(self._ops, key.resource), key, {item.meta.uid})
        await self._release(resource, item, ORPHAN)

    async def _drop_owners(self, resource: Resource, key: Key, uids: set[str]) -> None:
        def edit(obj: Object) -> Object:
            meta = obj["metadata"]
            kept = [o for o in meta.get("ownerReferences") or [] if o.get("uid") not in uids]
            meta["ownerReferences"] = kept
            if not kept:
                del meta["ownerReferences"]
            return obj

        await self._edit(resource, key, edit)

    async def _release(self, resource: Resource, item: Item, finalizer: str) -> None:
        def edit(obj: Object) -> Object:
            meta = obj["metadata"]
            if meta["uid"] == item.meta.uid:
                meta["finalizers"] = [f for f in meta.get("finalizers") or [] if f != finalizer]
            return obj

        await self._edit(resource, Key.of(item), edit)

    async def _edit(self, resource: Resource, key: Key, edit: Callable[[Object], Object]) -> None:
        try:
            await self._ops.change(resource, key.namespace, key.name, edit, WriteOptions())
        except ApiError as error:
            if error.code != 404:
                raise
