"""From a VirtualMachine to the objects that it names, across namespaces only where their owner grants it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from kinds.metadata import LabelSelector
from kinds.provider import Provider
from kinds.shared import ObjectRef
from kinds.virtualmachine import VirtualMachine
from kinds.vmclass import VMClass
from kinds.vmimage import VMImage
from kinds.vmnetworkattachment import VMNetworkAttachment

from .core import Namespace
from .holds import NOT_ALLOWED, WAITING, Hold
from .informer import Informer

T = TypeVar("T")


@dataclass(frozen=True)
class Caches:
    """The informers, by kind."""

    machines: Informer[VirtualMachine]
    classes: Informer[VMClass]
    images: Informer[VMImage]
    networks: Informer[VMNetworkAttachment]
    providers: Informer[Provider]
    namespaces: Informer[Namespace]

    def all(self) -> list[Informer[Any]]:
        """Each of them; Any: they hold different kinds."""
        return [self.machines, self.classes, self.images, self.networks, self.providers, self.namespaces]

    def living_providers(self) -> set[str]:
        """UIDs of all Providers; one that cannot be read exists all the same."""
        read = {provider.metadata.uid for provider in self.providers.values()}
        return read | {bad.meta.uid for bad in self.providers.bad.values()}


def granted(selector: LabelSelector | None, owner: str, consumer: str, labels: dict[str, str] | None) -> bool:
    """Whether a namespace may use an object: its own namespace always, others by the selector over their labels.

    Args:
        owner: namespace of the object. consumer: namespace of who refers to it.
        labels: those of the consumer's namespace; None while the namespace is not known.
    """
    if owner == consumer:
        return True
    return selector is not None and labels is not None and selector.matches(labels)


class References:
    """Resolves; raises Hold with the exact name of what is missing or refused."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def provider(self, vm: VirtualMachine) -> Provider:
        found: Provider = self._granted(self._caches.providers, "Provider", vm, vm.spec.provider_ref)
        return found

    def vmclass(self, vm: VirtualMachine) -> VMClass:
        found: VMClass = self._granted(self._caches.classes, "VMClass", vm, vm.spec.class_ref)
        return found

    def image(self, vm: VirtualMachine) -> VMImage | None:
        """None where the spec names none."""
        ref = vm.spec.image_ref
        return None if ref is None else self._granted(self._caches.images, "VMImage", vm, ref)

    def networks(self, vm: VirtualMachine) -> dict[str, VMNetworkAttachment]:
        """By the NIC's name; attachments serve their own namespace only."""
        found = {}
        for nic in vm.spec.networks:
            ref = nic.network_ref
            if ref is None:
                continue
            namespace = ref.namespace or vm.metadata.namespace
            if namespace != vm.metadata.namespace:
                message = (
                    f"VMNetworkAttachment {namespace}/{ref.name} (spec.networks[{nic.name}]) is in another namespace, "
                    f"and attachments cannot be shared; make one in {vm.metadata.namespace}"
                )
                raise Hold(NOT_ALLOWED, message)
            found[nic.name] = self._get(self._caches.networks, "VMNetworkAttachment", namespace, ref.name)
        return found

    def _granted(self, cache: Informer[Any], kind: str, vm: VirtualMachine, ref: ObjectRef) -> Any:
        own = vm.metadata.namespace
        namespace = ref.namespace or own
        found = cache.get(namespace, ref.name)
        if namespace != own:
            consumer = self._caches.namespaces.get("", own)
            labels = None if consumer is None else consumer.metadata.labels or {}
            selector = found.spec.consumer_namespace_selector if found is not None else None
            if not granted(selector, namespace, own, labels):
                # The same answer whether or not it exists: names in other namespaces are not ours to reveal.
                message = (
                    f"{kind} {namespace}/{ref.name} does not serve namespace {own}; its owner can allow it with "
                    "spec.consumerNamespaceSelector"
                )
                raise Hold(NOT_ALLOWED, message)
        return self._get(cache, kind, namespace, ref.name)

    def _get(self, cache: Informer[Any], kind: str, namespace: str, name: str) -> Any:
        found = cache.get(namespace, name)
        if found is not None:
            return found
        bad = cache.bad.get((namespace, name))
        if bad is not None:
            raise Hold(WAITING, f"{kind} {namespace}/{name} cannot be read: {bad.error}")
        raise Hold(WAITING, f"{kind} {namespace}/{name} does not exist")
