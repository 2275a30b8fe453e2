"""Keeping the registry in step with the stored custom resource definitions."""

from __future__ import annotations

from collections.abc import Callable

from .auth import Tokens
from .builtins import builtin_resources
from .crds import KEY, resources_of, strategy
from .metadata import timestamp
from .resources import Registry
from .reviews import review_resources
from .store import Store
from .watch import Event, Item


def build_registry(store: Store, tokens: Tokens, clock: Callable[[], float]) -> Registry:
    """Return the registry of a freshly opened store, which from then on follows it."""
    registry = Registry()
    reserved: set[str] = set()
    rules = strategy(lambda: [i.object() for i in store.items(KEY)], lambda: timestamp(clock()), reserved)
    for resource in [*builtin_resources(rules), *review_resources(tokens)]:
        registry.add(resource)
        reserved.add(f"{resource.plural}.{resource.group}")
    specs: dict[str, object] = {}

    def define(item: Item) -> None:
        crd = item.object()
        status = crd.get("status") or {}
        shape = (crd["spec"], status.get("acceptedNames"), crd["metadata"].get("deletionTimestamp"))
        if specs.get(item.name) == shape:
            return  # only labels or conditions changed
        specs[item.name] = shape
        names = (crd.get("status") or {}).get("acceptedNames") or crd["spec"]["names"]
        registry.remove(crd["spec"]["group"], names["plural"])
        for resource in resources_of(crd, item.revision):
            registry.add(resource)

    def follow(event: Event) -> None:
        if event.item.resource != KEY:
            return
        if event.gone:
            crd = event.item.object()
            specs.pop(event.item.name, None)
            registry.remove(crd["spec"]["group"], crd["spec"]["names"]["plural"])
        else:
            define(event.item)
        store.ring(event.item.name).wake()  # watches of a kind that is gone must end

    for item in store.items(KEY):
        define(item)
    store.listen(follow)
    return registry
