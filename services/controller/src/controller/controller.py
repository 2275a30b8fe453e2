"""The whole controller, built from its parts, and who wakes whom."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from common.clock import Clock
from kinds.provider import Provider
from kinds.virtualmachine import VirtualMachine
from kinds.vmimage import VMImage

from .api import Api, Resource
from .badobjects import BadObjects
from .classes import ClassReconciler, NetworkReconciler
from .connection import Dial, dial
from .connections import Connections
from .core import NAMESPACES
from .events import Recorder
from .images import ImageReconciler, Registry
from .index import Index, image_on, references
from .informer import Informer, Name
from .machines import MachineReconciler
from .metrics import Metrics
from .notyet import NotYetReconciler
from .objects import CLASSES, IMAGES, NETWORKS, NOT_YET, PROVIDERS, VIRTUAL_MACHINES
from .providers import ProviderReconciler
from .pursuits import Pursuits
from .queue import WorkQueue
from .references import Caches, References
from .runtime import Runtime
from .secrets import Secrets
from .worker import Key, Reconciler, Worker
from .writer import MADE_IN, Writer

COUNTING = 0.5
"""Seconds in which an object that machines depend on counts them once, however many come and go; no machine waits."""
FIGURES = 5.0
"""Seconds between two updates of the gauges."""


class Controller:
    """Build it, then `run()` it; `problems` says whether its caches are filled."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        *,
        owner: str,
        runtimes: Callable[[Secrets, Callable[[str], None]], Mapping[str, Runtime]],
        default_mode: str,
        namespace: str = "",
        concurrency: int = 16,
        resync: float = 600.0,
        dial: Dial = dial,
    ) -> None:
        """Args:
        runtimes: makes them by mode, given the reader of Secrets and whom to tell of a changed server.
        dial: makes the channel to a provider server.
        """
        self._clock, self._metrics = clock, metrics
        self.recorder = Recorder(api, clock)
        self.bad = BadObjects(api, self.recorder, metrics, clock)

        def informer(resource: Resource[Any]) -> Informer[Any]:
            return Informer(api, resource, clock, rng, namespace=namespace, on_bad=self.bad.report, metrics=metrics)

        self.caches = Caches(
            informer(VIRTUAL_MACHINES), informer(CLASSES), informer(IMAGES), informer(NETWORKS), informer(PROVIDERS),
            informer(NAMESPACES),
        )  # fmt: skip
        self._not_yet = [informer(resource) for resource in NOT_YET]
        self._by_kind = {cache.resource.kind: cache for cache in [*self.caches.all(), *self._not_yet]}
        self.index = Index()
        self._provider_names: dict[str, Name] = {}
        self._image_names: dict[str, Name] = {}
        self.queue: WorkQueue[Key] = WorkQueue(clock, self._lane, concurrency, lambda key: key.namespace)
        self.connections = Connections(clock, rng, metrics, self._wake_uid, dial)
        secrets, writer, registry = Secrets(api), Writer(api, metrics), Registry()
        self.runtimes = dict(runtimes(secrets, self._wake_provider))
        self._machines = MachineReconciler(
            self.caches, References(self.caches), self.connections, registry, secrets, writer, self.recorder, clock,
            lambda: owner, lambda name: self._add("VMImage", name),
        )  # fmt: skip
        self._providers = ProviderReconciler(
            self.caches, self.index, self.connections, self.runtimes, default_mode, writer, self.recorder, metrics,
            clock, self._wake_provider, self._wake_users,
        )  # fmt: skip
        reconcilers: list[Reconciler] = [
            self._machines,
            ImageReconciler(
                self.caches, self.index, self.connections, registry, secrets, writer, self.recorder, clock,
                lambda: owner, self._wake_machines,
            ),
            self._providers,
            ClassReconciler(self.caches, self.index, writer, clock),
            NetworkReconciler(self.caches, self.index, writer, clock),
            *(NotYetReconciler(cache, writer, clock) for cache in self._not_yet),
        ]  # fmt: skip
        table = {reconciler.kind: reconciler for reconciler in reconcilers}
        self._pursuits = Pursuits(clock, metrics, self.recorder, self._find, self._when_changed)
        self.worker = Worker(
            self.queue, table, clock, rng, metrics, resync, self._version, self._stands, self._pursuits.look
        )  # fmt: skip
        self._wire()

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch and work, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for cache in self._by_kind.values():
                group.create_task(cache.run(), name=f"informer {cache.resource.kind}")
            group.create_task(self.recorder.run(), name="events")
            group.create_task(self.bad.run(), name="bad objects")
            for cache in self._by_kind.values():
                await cache.synced.wait()
            group.create_task(self.connections.run(), name="connections")
            for mode, runtime in self.runtimes.items():
                group.create_task(runtime.run(), name=f"runtime {mode}")
            group.create_task(self._figures(), name="figures")
            await asyncio.sleep(0)  # connections and runtimes must own a task group before the first key
            group.create_task(self.worker.run(), name="worker")

    def problems(self) -> list[str]:
        """What keeps it from doing its work; empty when nothing does."""
        empty = {kind: cache.trouble for kind, cache in self._by_kind.items() if not cache.synced.is_set()}
        return [f"cache of {kind} is not filled yet" + (why and f": {why}") for kind, why in empty.items()]

    async def _figures(self) -> None:
        while True:
            self._metrics.work.queue(self.queue.depth, self.queue.age, self.queue.running)
            self._metrics.objects.vms(Counter(_whose_and_phase(vm) for vm in self.caches.machines.values()))
            for kind, cache in self._by_kind.items():
                self._metrics.objects.held(kind, len(cache), len(cache.bad))
            await self._clock.sleep(FIGURES)

    # -- who wakes whom --------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        self.caches.machines.subscribe(self.index.update)
        for cache in self._by_kind.values():
            if cache is not self.caches.namespaces:
                cache.subscribe(self._changed(cache.resource.kind))
                cache.subscribe_others(self._written(cache.resource.kind))
        self.caches.machines.subscribe(self._machine_changed)
        for cache in self.caches.all():
            if cache is not self.caches.machines:
                cache.subscribe(self._dependency_changed(cache.resource.kind))
        self.caches.providers.subscribe(_names(self._provider_names))
        self.caches.providers.subscribe(self._provider_changed)
        self.caches.images.subscribe(_names(self._image_names))

    def _changed(self, kind: str) -> Callable[[Any, Any], None]:
        """An object's own key, unless only its status changed: that was us."""

        def handler(before: Any, after: Any) -> None:
            name = _name_of(after or before)
            if after is None:
                self.queue.forget(Key(kind, *name))
                self._pursuits.gone(Key(kind, *name))
            elif before is None or _meaning(before) != _meaning(after):
                self._add(kind, name)

        return handler

    def _written(self, kind: str) -> Callable[[Name], None]:
        """Somebody else wrote, be it a status: a person, or a leader that does not know of its end yet."""
        return lambda name: self._add(kind, name)

    def _machine_changed(self, before: VirtualMachine | None, after: VirtualMachine | None) -> None:
        """A machine came, went or names others now: what it depends on counts its users, once in a while.

        An image that is needed on another Provider now is prepared there at once.
        """
        old = set(references(before)) if before is not None else set()
        new = set(references(after)) if after is not None else set()
        deleting = (
            before is not None
            and after is not None
            and (before.metadata.deletion_timestamp != after.metadata.deletion_timestamp)
        )
        for ref in sorted(old | new if deleting else old ^ new):
            if ref.kind not in self._by_kind or ref.kind == "Namespace":
                continue
            used = self._by_kind[ref.kind].get(ref.namespace, ref.name)
            if used is not None and used.metadata.deletion_timestamp:
                self.queue.add(Key(*ref))  # its removal may have waited for this
            else:
                self.queue.add_after(Key(*ref), COUNTING)
        pair = image_on(after) if after is not None else None
        if pair is not None and (before is None or image_on(before) != pair):
            image, provider = pair
            if self.index.wanted_on(*image).get(provider) == 1:
                self._add("VMImage", image)

    def _dependency_changed(self, kind: str) -> Callable[[Any, Any], None]:
        def handler(before: Any, after: Any) -> None:
            if before is None or after is None or _meaning(before) != _meaning(after):
                namespace, name = _name_of(after or before)
                self._wake_machines(self.index.users(kind, namespace, name))

        return handler

    def _provider_changed(self, before: Provider | None, after: Provider | None) -> None:
        """A Provider went: images that were on it are not there any more."""
        if before is not None and after is None:
            uid = before.metadata.uid
            if self._providers.holds(_name_of(before)):
                self._add("Provider", _name_of(before))
            for image in self.caches.images.values():
                if any(entry.provider_uid == uid for entry in image.status.provider_status.values()):
                    self._add("VMImage", _name_of(image))

    def _wake_uid(self, uid: str) -> None:
        """Something happened to a machine or image on a provider."""
        if (name := self.index.by_uid(uid)) is not None:
            self._add("VirtualMachine", name)
        elif (name := self._image_names.get(uid)) is not None:
            self._add("VMImage", name)

    def _wake_provider(self, uid: str) -> None:
        if (name := self._provider_names.get(uid)) is not None:
            self._add("Provider", name)

    def _wake_users(self, provider: Provider) -> None:
        """The provider can be used now: whoever waited for it may go on."""
        users = self.index.users("Provider", provider.metadata.namespace, provider.metadata.name)
        self._wake_machines(users)
        for image in sorted(self._images_of(users)):
            self._add("VMImage", image)

    def _images_of(self, users: frozenset[Name]) -> set[Name]:
        found = set()
        for user in users:
            vm = self.caches.machines.get(*user)
            if vm is not None and vm.spec.image_ref is not None:
                found.add((vm.spec.image_ref.namespace or vm.metadata.namespace, vm.spec.image_ref.name))
        return found

    def _wake_machines(self, names: frozenset[Name]) -> None:
        for name in sorted(names):  # in every run alike, as wherever a set wakes
            self._add("VirtualMachine", name)

    def _add(self, kind: str, name: Name) -> None:
        self.queue.add(Key(kind, *name))

    def _version(self, key: Key) -> int | None:
        item = self._find(key)
        return item.metadata.generation if item is not None else None

    def _find(self, key: Key) -> Any | None:
        """Any: an object of whichever kind."""
        return self._by_kind[key.kind].get(key.namespace, key.name)

    def _when_changed(self, key: Key) -> float | None:
        return self._by_kind[key.kind].changed(key.namespace, key.name)

    def _stands(self, key: Key) -> bool:
        return key.kind == self._machines.kind and self._machines.stands((key.namespace, key.name))

    def _lane(self, key: Key) -> str:
        """What can hang as one: the machines of one provider. Everything else has lanes of its own."""
        if key.kind == "VirtualMachine":
            vm = self.caches.machines.get(key.namespace, key.name)
            if vm is not None:
                ref = vm.spec.provider_ref
                return f"Provider {ref.namespace or key.namespace}/{ref.name}"
        if key.kind in ("VMImage", "Provider"):
            return f"{key.kind} {key.namespace}/{key.name}"
        return key.kind


def _name_of(item: Any) -> Name:
    return (item.metadata.namespace, item.metadata.name)


def _whose_and_phase(vm: VirtualMachine) -> tuple[str, str]:
    ref = vm.spec.provider_ref
    return f"{ref.namespace or vm.metadata.namespace}/{ref.name}", vm.status.phase or "Pending"


def _meaning(item: Any) -> tuple[Any, ...]:
    """What reconcilers read of an object. What we write ourselves (status, finalizers, our annotation) is no news."""
    meta = item.metadata
    annotations = {key: text for key, text in (meta.annotations or {}).items() if key != MADE_IN}
    return (meta.uid, meta.generation, meta.labels, annotations, getattr(meta, "deletion_timestamp", None))


def _names(table: dict[str, Name]) -> Callable[[Any, Any], None]:
    def handler(before: Provider | VMImage | None, after: Provider | VMImage | None) -> None:
        if before is not None:
            table.pop(before.metadata.uid, None)
        if after is not None:
            table[after.metadata.uid] = _name_of(after)

    return handler
