"""VMClass and VMNetworkAttachment: data that machines refer to; each says whether it can be used, and by how many."""

from __future__ import annotations

import msgspec
from common.clock import Clock
from common.errors import InvalidSpecError, ProviderError
from kinds import quantity
from kinds.vmclass import VMClass
from kinds.vmnetworkattachment import VMNetworkAttachment
from kinds.wires import Wire

from .conditions import Truth, Wish, merged
from .holds import Hold
from .index import Index
from .informer import Name
from .references import Caches
from .status import READY
from .writer import Writer

VALIDATED = "Validated"


def class_problem(vmclass: VMClass) -> str:
    """What makes a class unusable; empty when nothing does."""
    spec = vmclass.spec
    sizes = [("spec.memory", spec.memory)]
    if spec.disk_defaults is not None:
        sizes.append(("spec.diskDefaults.size", spec.disk_defaults.size))
    for where, text in sizes:
        try:
            size = quantity.parse(text)
        except ValueError as error:
            return f"{where}: {error}"
        if size < 1 << 20:
            return f"{where}: {text!r} is less than 1Mi; write a quantity such as 4Gi"
    return ""


def network_problem(network: VMNetworkAttachment) -> str:
    """What makes an attachment unusable; empty when nothing does. With blocks for several providers, each must do."""
    blocks = [name for name in ("libvirt", "proxmox", "vsphere") if getattr(network.spec.network, name) is not None]
    for kind in blocks or [""]:
        try:
            Wire(network, kind).network()
        except InvalidSpecError as error:
            return str(error)
    return ""


def _wishes(problem: str, fine: str) -> list[Wish]:
    status: Truth = "False" if problem else "True"
    reason = "ValidationError" if problem else "Valid"
    return [Wish(kind, status, reason, problem or fine) for kind in (READY, VALIDATED)]


class ClassReconciler:
    """Reports on VMClasses."""

    kind = "VMClass"

    def __init__(self, caches: Caches, index: Index, writer: Writer, clock: Clock) -> None:
        self._caches, self._index, self._writer, self._clock = caches, index, writer, clock

    async def reconcile(self, name: Name) -> float | None:
        vmclass = self._caches.classes.get(*name)
        if vmclass is None or vmclass.metadata.deletion_timestamp:
            return None
        status = msgspec.structs.replace(vmclass.status)
        status.observed_generation = vmclass.metadata.generation
        status.used_by_vms = self._index.count(self.kind, *name)
        wishes = _wishes(class_problem(vmclass), "machines can be made with it")
        generation, now = vmclass.metadata.generation, self._clock.now()
        status.conditions = merged(vmclass.status.conditions, wishes, (READY, VALIDATED), generation, now)
        await self._writer.status(self._caches.classes, vmclass, status)
        return None

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """It asks nobody, so nothing refuses."""


class NetworkReconciler:
    """Reports on VMNetworkAttachments."""

    kind = "VMNetworkAttachment"

    def __init__(self, caches: Caches, index: Index, writer: Writer, clock: Clock) -> None:
        self._caches, self._index, self._writer, self._clock = caches, index, writer, clock

    async def reconcile(self, name: Name) -> float | None:
        network = self._caches.networks.get(*name)
        if network is None or network.metadata.deletion_timestamp:
            return None
        problem = network_problem(network)
        status = msgspec.structs.replace(network.status)
        status.observed_generation = network.metadata.generation
        status.connected_vms = self._index.count(self.kind, *name)
        status.ready, status.phase = not problem, "Failed" if problem else "Ready"
        status.message = problem or None
        wishes = _wishes(problem, "NICs can be plugged into it")
        generation, now = network.metadata.generation, self._clock.now()
        status.conditions = merged(network.status.conditions, wishes, (READY, VALIDATED), generation, now)
        await self._writer.status(self._caches.networks, network, status)
        return None

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """It asks nobody, so nothing refuses."""
