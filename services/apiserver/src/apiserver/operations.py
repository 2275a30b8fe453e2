"""Creating, changing and deleting objects: one path for every kind, used by HTTP and by the controllers inside."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from . import errors, metadata
from .admission import admit, finish
from .deletion import PROTECTED, check_preconditions, marked, vanishes
from .errors import ApiError, Cause
from .options import DeleteOptions, WriteOptions
from .patch import managers
from .patch.managers import Manager
from .resources import Object, Registry, Resource
from .store import MAX_OBJECT, Change, NamespaceInUse, NamespaceMissing, Stale, Store, StoreError, TooLarge
from .watch import Item

log = structlog.get_logger(__name__)

_ATTEMPTS = 100
_ELSEWHERE = "the namespace of the provided object does not match the namespace sent on the request"


@dataclass(frozen=True)
class Outcome:
    """The object after a write, in the version that was asked for; `gone` when it no longer exists."""

    obj: Object
    created: bool = False
    gone: bool = False
    warnings: list[str] = field(default_factory=list)


class Operations:
    """All writes. Each is one conditional change to the store, repeated when it lost a race it may win."""

    def __init__(self, store: Store, registry: Registry, clock: Callable[[], float]) -> None:
        """Bind to a store; `clock` gives seconds since the epoch."""
        self.store = store
        self.registry = registry
        self.clock = clock

    def now(self) -> str:
        """The time as it stands in objects."""
        return metadata.timestamp(self.clock())

    def find(self, resource: Resource, namespace: str, name: str) -> Item:
        """Return a stored object.

        Raises:
            ApiError: 404.
        """
        item = self.store.get(resource.key, namespace, name)
        if item is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return item

    # ---- create ----

    async def create(self, resource: Resource, namespace: str, obj: Object, options: WriteOptions) -> Outcome:
        """Store a new object.

        Raises:
            ApiError: 400, 403, 404 (namespace), 409 or 422; nothing was stored.
        """
        warnings = admit(resource, obj, options)
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        self._place(resource, namespace, obj)
        generated = not meta.get("name") and bool(meta.get("generateName"))
        for attempt in range(8 if generated else 1):
            if generated:
                meta["name"] = metadata.generated_name(meta["generateName"])
            try:
                made = self._new(resource, copy.deepcopy(obj), options)
                return await self._store_new(resource, made, options, warnings)
            except ApiError as error:
                if not generated or error.reason != "AlreadyExists" or attempt == 7:
                    raise
        raise errors.internal()

    def _place(self, resource: Resource, namespace: str, obj: Object) -> None:
        meta = obj["metadata"]
        given = meta.get("namespace") or ""
        if given and resource.namespaced and given != namespace:
            raise errors.bad_request(_ELSEWHERE)
        if resource.namespaced:
            meta["namespace"] = namespace
        elif not given:
            meta.pop("namespace", None)

    def _new(self, resource: Resource, obj: Object, options: WriteOptions, *, tracked: bool = False) -> Object:
        """Return an admitted object as it will be stored first."""
        meta = obj["metadata"]
        for name in ("resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"):
            meta.pop(name, None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.now()
        meta.pop("generation", None)
        if resource.counts_generation:
            meta["generation"] = 1
        if resource.has_status:
            obj.pop("status", None)
        finish(resource, obj, None)
        if not tracked:
            author = self._author(resource, options, "Update")
            managers.track_update(resource.schema, None, obj, author, has_status=resource.has_status)
        return obj

    async def _store_new(self, resource: Resource, obj: Object, options: WriteOptions, warnings: list[str]) -> Outcome:
        meta = obj["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        if "create" not in resource.verbs:  # its definition is being deleted
            raise errors.method_not_allowed(resource.group, resource.plural)
        if self.store.get(resource.key, namespace, name) is not None:
            raise errors.already_exists(resource.group, resource.plural, name)
        self._require_namespace(resource, namespace, name)
        if options.dry_run:
            return Outcome(obj, created=True, warnings=warnings)
        try:
            item = await self._commit(resource, obj, 0)
        except Stale as error:
            raise errors.already_exists(resource.group, resource.plural, name) from error
        return Outcome(resource.load(item), created=True, warnings=warnings)

    def _require_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        if not namespace:
            return
        item = self.store.get("namespaces", "", namespace)
        if item is None:
            raise errors.not_found("", "namespaces", namespace)
        if item.meta.deletionTimestamp:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = Cause("NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace")
            raise errors.forbidden(resource.group, resource.plural, name, why, [cause])

    # ---- change ----

    async def update(
        self, resource: Resource, namespace: str, name: str, obj: Object, options: WriteOptions
    ) -> Outcome:
        """Replace an object (or, with a subresource, the part of it that this one covers).

        Raises:
            ApiError: 400, 404, 409 or 422; nothing was changed.
        """
        warnings = admit(resource, obj, options)
        self._place(resource, namespace, obj)
        given = obj["metadata"].setdefault("name", name)
        if given != name:
            raise errors.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        if not resource.unconditional and not obj["metadata"].get("resourceVersion"):
            self.find(resource, namespace, name)  # what does not exist is told first
            text = "Invalid value: 0: must be specified for an update"
            causes = [Cause("FieldValueInvalid", text, "metadata.resourceVersion")]
            raise errors.invalid(resource.group, resource.kind, name, causes)
        return await self.change(resource, namespace, name, lambda _: copy.deepcopy(obj), options, warnings)

    async def change(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        edit: Callable[[Object], Object],
        options: WriteOptions,
        warnings: list[str] | None = None,
        *,
        tracked: bool = False,
    ) -> Outcome:
        """Read, edit and write an object, again if somebody else wrote meanwhile.

        `edit` gets a copy and returns the new state; a resourceVersion in it makes the write conditional.
        """
        warnings = warnings if warnings is not None else []
        for _ in range(_ATTEMPTS):
            item = self.find(resource, namespace, name)
            old = resource.load(item)
            new = self._next(resource, old, edit(resource.load(item)), options, tracked=tracked)
            if new is old or _same(old, new):
                return Outcome(old, warnings=warnings)
            gone = vanishes(resource, new)
            if options.dry_run:
                return Outcome(new, gone=gone, warnings=warnings)
            try:
                stored = await self._commit(resource, new, item.revision, delete=gone)
            except Stale:
                continue
            except NamespaceInUse as error:
                why = "the namespace still holds objects"
                raise errors.conflict(resource.group, resource.plural, name, why) from error
            return Outcome(resource.load(stored), gone=gone, warnings=warnings)
        raise errors.stale(resource.group, resource.plural, name)

    def _next(self, resource: Resource, old: Object, new: Object, options: WriteOptions, *, tracked: bool) -> Object:
        """Return the state that follows `old` when a caller wants `new`."""
        before, meta = old["metadata"], new.setdefault("metadata", {})
        if (wanted := meta.get("resourceVersion")) and wanted != before["resourceVersion"]:
            raise errors.stale(resource.group, resource.plural, before["name"])
        if (uid := meta.get("uid")) and uid != before["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
            raise errors.conflict(resource.group, resource.plural, before["name"], why)
        if (given := meta.get("name")) != before["name"]:
            why = f"the name of the object ({given}) does not match the name on the URL ({before['name']})"
            raise errors.bad_request(why)
        if meta.get("namespace", "") != before.get("namespace", ""):
            raise errors.bad_request(_ELSEWHERE)
        new = _covered(resource, old, new, options.subresource)
        meta = new["metadata"]
        self._refuse_a_deletion(resource, before, meta)
        fixed = (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
        )
        for name in (*fixed, "resourceVersion", "generateName"):
            meta.pop(name, None)
            if name in before:
                meta[name] = before[name]
        self._refuse_new_finalizers(resource, before, meta)
        finish(resource, new, old)
        if resource.counts_generation and _content(resource, old) != _content(resource, new):
            meta["generation"] = before.get("generation", 1) + 1
        if not tracked:
            author = self._author(resource, options, "Update")
            managers.track_update(resource.schema, old, new, author, has_status=resource.has_status)
        return new

    def _refuse_a_deletion(self, resource: Resource, before: Object, meta: Object) -> None:
        """Only DELETE marks an object as being deleted."""
        names = () if before.get("deletionTimestamp") else ("deletionTimestamp", "deletionGracePeriodSeconds")
        text = "Invalid value: field is immutable"
        causes = [Cause("FieldValueInvalid", text, f"metadata.{name}") for name in names if meta.get(name) is not None]
        if causes:
            raise errors.invalid(resource.group, resource.kind, before["name"], causes)

    def _refuse_new_finalizers(self, resource: Resource, before: Object, meta: Object) -> None:
        added = set(meta.get("finalizers") or []) - set(before.get("finalizers") or [])
        if before.get("deletionTimestamp") and added:
            text = (
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{', '.join(repr(a) for a in sorted(added))}}}"
            )
            causes = [Cause("FieldValueForbidden", text, "metadata.finalizers")]
            raise errors.invalid(resource.group, resource.kind, before["name"], causes)

    async def apply(
        self, resource: Resource, namespace: str, name: str, config: Object, options: WriteOptions
    ) -> Outcome:
        """Server-side apply: create, or merge what the manager wants and drop what it no longer wants.

        Raises:
            ApiError: 400, 404 (namespace), 409 (a field of another manager) or 422.
        """
        warnings = admit(resource, config, options)
        if config["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        self._place(resource, namespace, config)
        if config["metadata"].setdefault("name", name) != name:
            raise errors.bad_request(f"the name of the object does not match the name on the URL ({name})")
        author = self._author(resource, options, "Apply")

        def merged(live: Object | None) -> Object:
            return managers.apply(
                resource.schema, live, config, author, has_status=resource.has_status, force=options.force
            )

        for _ in range(_ATTEMPTS):
            if self.store.get(resource.key, namespace, name) is not None:
                return await self.change(resource, namespace, name, merged, options, warnings, tracked=True)
            if options.subresource:
                raise errors.not_found(resource.group, resource.plural, name)
            made = self._new(resource, merged(None), options, tracked=True)
            try:
                return await self._store_new(resource, made, options, warnings)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        raise errors.stale(resource.group, resource.plural, name)

    # ---- delete ----

    async def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions) -> Outcome:
        """Delete an object, or mark it as being deleted while finalizers hold it.

        Raises:
            ApiError: 403 (a protected namespace), 404, 409 (a precondition).
        """
        if resource.key == "namespaces" and name in PROTECTED:
            raise errors.forbidden("", "namespaces", name, "this namespace may not be deleted")
        for _ in range(_ATTEMPTS):
            item = self.find(resource, namespace, name)
            obj = item.object()
            check_preconditions(resource, obj, options)
            after = marked(resource, obj, options.propagation, self.now())
            if options.dry_run:
                return Outcome(obj, gone=vanishes(resource, after))
            if after == obj:
                return Outcome(resource.load(item))
            gone = vanishes(resource, after)
            try:
                stored = await self._commit_raw(resource, after, item.revision, delete=gone)
            except Stale:
                continue
            return Outcome(resource.load(stored), gone=gone)
        raise errors.stale(resource.group, resource.plural, name)

    # ---- shared steps ----

    def _author(self, resource: Resource, options: WriteOptions, operation: str) -> Manager:
        return Manager(
            name=options.manager,
            operation=operation,
            subresource=options.subresource,
            api_version=resource.api_version,
            paths=frozenset(),
            time=self.now(),
        )

    async def _commit(self, resource: Resource, obj: Object, expect: int, *, delete: bool = False) -> Item:
        return await self._commit_raw(resource, resource.dump(obj), expect, delete=delete)

    async def _commit_raw(self, resource: Resource, obj: Object, expect: int, *, delete: bool) -> Item:
        meta = obj["metadata"]
        change = Change(resource.key, meta.get("namespace", ""), meta["name"], obj, expect, delete)
        try:
            return await self.store.commit(change)
        except NamespaceMissing as error:
            raise errors.not_found("", "namespaces", change.namespace) from error
        except TooLarge as error:
            raise errors.too_large(MAX_OBJECT) from error
        except StoreError as error:
            raise errors.storage_failed() from error


def _covered(resource: Resource, old: Object, new: Object, subresource: str) -> Object:
    """Return `new` limited to what the endpoint may change."""
    if subresource == "status":
        meta = copy.deepcopy(old["metadata"])
        if "managedFields" in new["metadata"]:
            meta["managedFields"] = new["metadata"]["managedFields"]
        out = {**old, "metadata": meta}
        out.pop("status", None)
        return {**out, "status": new["status"]} if "status" in new else out
    if resource.has_status:
        out = {k: v for k, v in new.items() if k != "status"}
        return {**out, "status": old["status"]} if "status" in old else out
    return new


def _content(resource: Resource, obj: Object) -> Object:
    """Return what the generation counts: everything but metadata and, as a subresource, status."""
    skip = {"metadata", "apiVersion", "kind"} | ({"status"} if resource.has_status else set())
    return {k: v for k, v in obj.items() if k not in skip}


def _same(old: Object, new: Object) -> bool:
    """Tell whether a write would change nothing (times of managed fields aside)."""

    def plain(obj: Object) -> tuple[Any, Any]:
        entries = [{**e, "time": ""} for e in obj["metadata"].get("managedFields") or []]
        meta = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
        return ({**obj, "metadata": meta}, sorted(entries, key=str))

    return plain(old) == plain(new)
