"""What a hypervisor and its provider must offer to be put through the faults: one class of these per provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2e.stack import SHARED, Object, manifest

OWNER = "real-faults"
"""Id of the installation, stamped on every machine."""
IMAGE, SYSTEM = "blank", "system"
"""VMImages: a disk with nothing on it, and, where the site has one, a system that boots."""
EVERYONE: Object = {"consumerNamespaceSelector": {}}


@dataclass(frozen=True)
class Size:
    """What a VMClass says."""

    cpus: int
    memory_mib: int


SIZES = {"small": Size(1, 192), "large": Size(2, 256)}


@dataclass(frozen=True)
class Found:
    """A machine as the hypervisor itself tells of it."""

    uid: str
    name: str
    ours: bool
    """It carries our stamp."""
    on: bool
    cpus: int
    memory_mib: int
    disks_mib: tuple[int, ...]
    """Sizes, ascending."""
    busy: bool = False
    """The hypervisor itself is still at it."""


class Site(ABC):
    """One hypervisor with things of others on it. Every call blocks.

    `open` and `close` surround its use. What has a daemon says so by `killable` and `pausable`.
    """

    kind: ClassVar[str]
    """`spec.type` of its Provider."""
    module: ClassVar[str]
    """Python module of its provider's command."""
    root_mib: ClassVar[int]
    """Size of a machine's first disk, from its image or its class."""
    killable: ClassVar[bool] = False
    """The daemon may be killed: what it manages outlives it."""
    pausable: ClassVar[bool] = False
    fillable: ClassVar[bool] = False
    """Its storage can be made full."""
    boots: ClassVar[bool] = False
    """It has the image SYSTEM."""
    points: ClassVar[tuple[str, ...]]
    """Fault points of its driver that a machine's life passes."""

    @abstractmethod
    def open(self, home: Path) -> None:
        """Come up, with machines of others. Args: home: an empty directory for its files."""

    @abstractmethod
    def close(self) -> None:
        """End, and leave nothing; also where `open` failed half-way."""

    @abstractmethod
    def flags(self) -> list[str]:
        """Command line of the provider, besides what every provider is told."""

    @abstractmethod
    def spec(self) -> Object:
        """Of its Provider: `endpoint`, and whatever else the type needs."""

    @abstractmethod
    def images(self) -> dict[str, Object]:
        """`spec.source` of each VMImage by its name."""

    def unseen_image(self) -> Object | None:
        """`spec.source` of a VMImage that takes 4 MiB and is not there yet; None where images are not copied."""
        return None

    @abstractmethod
    def network(self) -> Object:
        """`spec.network` of a VMNetworkAttachment."""

    @abstractmethod
    def found(self) -> list[Found]:
        """Every machine that is not of those others."""

    @abstractmethod
    def orphans(self, living: Collection[str]) -> list[str]:
        """Everything that was made for a machine (disks, files, processes) and belongs to none of these UIDs."""

    @abstractmethod
    def theirs(self) -> str:
        """Machines and disks of others, definition, power and content: equal as long as nobody touched them."""

    # -- what may be done to it, where it says so ---------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL the daemon."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it again."""
        raise NotImplementedError

    def pause(self) -> None:
        """SIGSTOP."""
        raise NotImplementedError

    def resume(self) -> None:
        """SIGCONT."""
        raise NotImplementedError

    def fill(self, spare_bytes: int) -> None:
        """Leave this much room for disks, or, where that cannot be measured out, none."""
        raise NotImplementedError

    def make_room(self) -> None:
        """There is room again; harmless when there was."""
        raise NotImplementedError

    def said(self) -> str:
        """The end of the daemon's log, for the reader of a failure."""
        return ""

    # -- the same for all ----------------------------------------------------------------------------------------------

    def objects(self) -> list[Object]:
        """Classes and images, open to every namespace."""
        defaults: Any = {"diskDefaults": {"size": f"{self.root_mib}Mi"}}
        classes = [
            manifest("VMClass", name, {"cpu": size.cpus, "memory": f"{size.memory_mib}Mi", **defaults, **EVERYONE})
            for name, size in SIZES.items()
        ]
        return classes + [
            manifest("VMImage", name, {"source": source, **EVERYONE}) for name, source in self.images().items()
        ]

    def provider(self, address: str) -> Object:
        """The Provider, whose server runs already, at this address."""
        whole: Object = {
            "type": self.kind,
            "runtime": {"mode": "External", "address": address, "service": {"tls": {"enabled": False}}},
            "healthCheck": {"interval": "2s", "timeout": "3s"},
        }
        return manifest("Provider", self.kind, {**whole, **self.spec(), **EVERYONE})

    def machine(self, name: str, namespace: str, **spec: Any) -> Object:  # Any: whatever the spec takes
        """A VirtualMachine on it."""
        whole: Object = {
            "providerRef": {"name": self.kind, "namespace": SHARED},
            "imageRef": {"name": IMAGE, "namespace": SHARED},
            "networks": [{"name": "eth0", "networkRef": {"name": "wire"}}],
            "restartPolicy": "Automatic",
        }
        return manifest("VirtualMachine", name, {**whole, **spec}, namespace)

    def wire(self, namespace: str) -> Object:
        return manifest("VMNetworkAttachment", "wire", {"network": self.network()}, namespace)
