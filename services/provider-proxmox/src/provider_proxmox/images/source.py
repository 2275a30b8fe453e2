"""What a machine is made from: the answer to an image's id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

SourceKind = Literal["template", "volume", "archive"]
"""A template is cloned, a volume becomes the first disk by `import-from`, an archive is a backup to be restored."""


@dataclass(frozen=True)
class Source:
    """One image, as Proxmox VE makes machines from it."""

    image_id: str
    kind: SourceKind
    node: str
    """The node that is asked for it; for what every node reaches, any of them."""
    nodes: frozenset[str] = frozenset()
    """Nodes that a machine can be made on from it; empty means all."""
    vmid: int = 0
    """Of the template."""
    volume: str = ""
    """Of a volume or archive: "nfs:import/small.qcow2"."""
    linked: bool = False
    """Of a template: machines stand on its disks and write to their own deltas; else they get full copies."""
    storage: str = ""
    """Storage of the template's first disk. Disks that stand on a template lie there as well."""
    disks: Mapping[str, int] = field(default_factory=dict)
    """Capacity in bytes by slot, in the order of booting: the first becomes the machine's own first disk."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of the template or in the archive, as Proxmox VE tells it: what a clone or a restore brings along."""


class Sources(Protocol):
    """Who knows the images."""

    async def resolve(self, image_id: str, doing: str, *, node: str = "", storage: str = "") -> Source:
        """What a machine is made from.

        Args:
            node: where the machine shall be; a template of ours whose disks only another node reaches is copied there
                first. Empty asks for what there is.
            storage: where its disks shall lie; a template elsewhere is not linked to then. Empty: it does not matter.
        Raises:
            ImageNotFoundError: it is not prepared, or gone.
            InvalidSpecError: a reference means several templates.
            NotSupportedError: the template is somebody's, and only another node reaches its disks.
        """
        ...
