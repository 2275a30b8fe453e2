"""What follows a namespace's deletion, and a definition's: their content goes first."""

from __future__ import annotations

from . import errors
from .crds import CLEANUP, KEY
from .errors import ApiError
from .operations import Operations
from .options import DeleteOptions, WriteOptions
from .resources import Object, Resource
from .schema.nodes import Schema
from .store import Change, NamespaceInUse, Stale
from .watch import Event
from .workers import Worker

NAMESPACES = "namespaces"


def stored_kind(operations: Operations, key: str) -> Resource:
    """Return the kind whose objects lie under a key of the store, served or not.

    A definition may stop serving a kind, and its objects stay: what must empty a place goes by what is stored.
    """
    served = operations.registry.stored().get(key)
    if served is not None:
        return served
    plural, _, group = key.partition(".")
    definition = operations.store.get(KEY, "", key)
    if definition is None:
        return Resource(group, "", "", plural, Schema({}), custom=True, counts_generation=True)
    spec = definition.object()["spec"]
    version = next(each["name"] for each in spec["versions"] if each.get("storage"))
    return Resource(
        group,
        version,
        spec["names"]["kind"],
        plural,
        Schema({}),  # what is stored was valid when it was written; only its metadata change now
        namespaced=spec["scope"] == "Namespaced",
        custom=True,
        counts_generation=True,
        storage_api_version=f"{group}/{version}",
    )


async def delete_all(operations: Operations, key: str, namespace: str | None) -> int:
    """Delete every object under a key of the store; returns how many are still there (held by finalizers)."""
    resource = stored_kind(operations, key)
    for item in operations.store.items(key, namespace):
        if item.meta.deletionTimestamp and item.meta.finalizers:
            continue
        try:
            await operations.delete(resource, item.namespace, item.name, DeleteOptions("Background", uid=item.meta.uid))
        except ApiError as error:
            if error.code not in (404, 409):
                raise
    return len(operations.store.items(key, namespace))


class Namespaces:
    """Empties and removes terminating namespaces; gives each live one its default service account."""

    def __init__(self, operations: Operations) -> None:
        """Follow the store."""
        self._ops = operations
        self.worker: Worker[str] = Worker("namespaces", self._settle)
        operations.store.listen(self._follow)
        for item in operations.store.items(NAMESPACES):
            self.worker.add(item.name)

    def _follow(self, event: Event) -> None:
        if event.item.resource == NAMESPACES:
            self.worker.add(event.item.name)
        elif event.gone and event.item.namespace:
            self.worker.add(event.item.namespace)

    async def _settle(self, name: str) -> None:
        item = self._ops.store.get(NAMESPACES, "", name)
        if item is None:
            return
        if not item.meta.deletionTimestamp:
            await self._default_account(name)
            return
        left = {}
        for key in self._ops.store.resources():
            if count := await delete_all(self._ops, key, name):
                left[stored_kind(self._ops, key).qualified] = count
        if left:  # the last of them rings again when it goes
            kinds = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(left.items()))
            text = f"Some resources are remaining: {kinds}; their finalizers hold them"
            await self._explain(name, "NamespaceContentRemaining", "SomeResourcesRemain", text)
        else:
            await self._remove(name)

    async def _explain(self, name: str, kind: str, reason: str, message: str) -> None:
        """Say in the namespace's conditions what it still waits for."""

        def edit(obj: Object) -> Object:
            status = obj.setdefault("status", {})
            others = [c for c in status.get("conditions") or [] if c.get("type") != kind]
            before: Object = next((c for c in status.get("conditions") or [] if c.get("type") == kind), {})
            since = before.get("lastTransitionTime", self._ops.now())
            wanted = {"type": kind, "status": "True", "reason": reason, "message": message}
            status["conditions"] = [*others, {**wanted, "lastTransitionTime": since}]
            return obj

        namespaces = self._ops.registry.find("", "v1", NAMESPACES)
        if namespaces is not None:
            await self._ops.change(namespaces, "", name, edit, WriteOptions(subresource="status"))

    async def _remove(self, name: str) -> None:
        item = self._ops.store.get(NAMESPACES, "", name)
        if item is None:
            return
        obj = item.object()
        obj["spec"] = {"finalizers": []}
        held = bool(obj["metadata"].get("finalizers"))
        if held and item.object().get("spec") == obj["spec"]:
            return
        try:
            await self._ops.store.commit(Change(NAMESPACES, "", name, obj, item.revision, delete=not held))
        except Stale:
            self.worker.add(name)
        except NamespaceInUse as error:
            text = "The store still holds objects in this namespace after all that it lists were deleted"
            await self._explain(name, "NamespaceDeletionContentFailure", "ContentDeletionFailed", text)
            raise errors.conflict("", NAMESPACES, name, text) from error

    async def _default_account(self, name: str) -> None:
        accounts = self._ops.registry.find("", "v1", "serviceaccounts")
        if accounts is None or self._ops.store.get(accounts.key, name, "default") is not None:
            return
        account: Object = {"metadata": {"name": "default", "namespace": name}}
        try:
            await self._ops.create(accounts, name, account, WriteOptions())
        except ApiError as error:
            if error.code not in (403, 404, 409):
                raise


class Definitions:
    """Deletes the objects of a terminating definition, then lets it go."""

    def __init__(self, operations: Operations) -> None:
        """Follow the store."""
        self._ops = operations
        self.worker: Worker[str] = Worker("definitions", self._settle)
        operations.store.listen(self._follow)
        for item in operations.store.items(KEY):
            self.worker.add(item.name)

    def _follow(self, event: Event) -> None:
        if event.item.resource == KEY:
            self.worker.add(event.item.name)
        elif event.gone:
            self.worker.add(event.item.resource)  # a custom resource is stored under its definition's name

    async def _settle(self, name: str) -> None:
        item = self._ops.store.get(KEY, "", name)
        if item is None or not item.meta.deletionTimestamp or CLEANUP not in (item.meta.finalizers or []):
            return
        if await delete_all(self._ops, name, None):
            return
        kind = self._ops.registry.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        if kind is None:
            return

        def release(obj: Object) -> Object:
            meta = obj["metadata"]
            meta["finalizers"] = [f for f in meta.get("finalizers") or [] if f != CLEANUP]
            return obj

        await self._ops.change(kind, "", name, release, WriteOptions())
