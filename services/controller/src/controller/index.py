"""Which machines depend on what: reverse lookups, kept current by the VirtualMachine informer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kinds.virtualmachine import VirtualMachine

from .informer import Name


class Ref(NamedTuple):
    """An object that others refer to."""

    kind: str
    namespace: str
    name: str


def references(vm: VirtualMachine) -> Iterator[Ref]:
    """Everything that the object names."""
    own, spec = vm.metadata.namespace, vm.spec
    yield Ref("Provider", spec.provider_ref.namespace or own, spec.provider_ref.name)
    yield Ref("VMClass", spec.class_ref.namespace or own, spec.class_ref.name)
    if spec.image_ref is not None:
        yield Ref("VMImage", spec.image_ref.namespace or own, spec.image_ref.name)
    for nic in spec.networks:
        if nic.network_ref is not None:
            yield Ref("VMNetworkAttachment", nic.network_ref.namespace or own, nic.network_ref.name)
    bound = vm.status.bound_provider
    if bound is not None:
        yield Ref("Provider", bound.namespace, bound.name)
    yield Ref("Namespace", "", own)


def image_on(vm: VirtualMachine) -> tuple[Name, Name] | None:
    """The image of a machine, and the Provider that it is needed on; None for one that goes, or has none."""
    own, image, provider = vm.metadata.namespace, vm.spec.image_ref, vm.spec.provider_ref
    if image is None or vm.metadata.deletion_timestamp:
        return None
    return (image.namespace or own, image.name), (provider.namespace or own, provider.name)


class Index:
    """Subscribe `update` to the informer of VirtualMachines."""

    def __init__(self) -> None:
        self._users: dict[Ref, set[Name]] = {}
        self._wanted: dict[Name, Counter[Name]] = {}
        """By image, how many machines on each Provider are to be made from it, or were, and do not go."""
        self._by_uid: dict[str, Name] = {}

    def update(self, before: VirtualMachine | None, after: VirtualMachine | None) -> None:
        """An object changed."""
        if before is not None:
            name = (before.metadata.namespace, before.metadata.name)
            self._by_uid.pop(before.metadata.uid, None)
            self._count(before, -1)
            for ref in references(before):
                users = self._users.get(ref)
                if users is not None:
                    users.discard(name)
                    if not users:
                        del self._users[ref]
        if after is not None:
            name = (after.metadata.namespace, after.metadata.name)
            self._by_uid[after.metadata.uid] = name
            self._count(after, 1)
            for ref in references(after):
                self._users.setdefault(ref, set()).add(name)

    def _count(self, vm: VirtualMachine, by: int) -> None:
        pair = image_on(vm)
        if pair is None:
            return
        image, provider = pair
        wanted = self._wanted.setdefault(image, Counter())
        wanted[provider] += by
        if not wanted[provider]:
            del wanted[provider]
        if not wanted:
            del self._wanted[image]

    def wanted_on(self, namespace: str, name: str) -> dict[Name, int]:
        """On which Providers an image is needed, and by how many machines."""
        return self._wanted.get((namespace, name), Counter())

    def count(self, kind: str, namespace: str, name: str) -> int:
        """How many machines depend on the object."""
        return len(self._users.get(Ref(kind, namespace, name), ()))

    def users(self, kind: str, namespace: str, name: str) -> frozenset[Name]:
        """The machines that depend on the object."""
        return frozenset(self._users.get(Ref(kind, namespace, name), ()))

    def by_uid(self, uid: str) -> Name | None:
        """The machine with this UID."""
        return self._by_uid.get(uid)
