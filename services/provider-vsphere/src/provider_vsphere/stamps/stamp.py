"""The stamp: who a VM is, in one key of its extra configuration, written by the very call that makes the VM.

It holds what vSphere has no field for: the identity and owner, the names of disks and NICs, and which disks we made. A
template's stamp is overwritten by the clone's, since both are the same key. The UID is the VM's `instanceUuid` besides,
for lookups; alone it proves nothing, because vCenter may give it to somebody else's copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from common import v1
from providerkit.records import Records, decoded

KEY = "virtrigaud.machine"
"""Name of the extra configuration key."""


@dataclass(frozen=True)
class DiskStamp:
    """What we know of a disk."""

    name: str
    slot: str
    """Where it is plugged in, which a migration does not change: "scsi0:1"."""
    owned: bool = True
    """We made its file, so it goes with the machine."""
    image_id: str = ""
    provisioning: str = "THIN"
    """Name of a v1.DiskProvisioning."""


@dataclass(frozen=True)
class NicStamp:
    """What we know of a NIC."""

    name: str
    mac: str
    """Lower case. It is chosen by us before the NIC is made, and so it is the key."""
    kind: str = "NAMED"
    """Name of the v1.NetworkKind that was asked for."""
    network: str = ""
    """Name of the network as it was asked for."""


@dataclass(frozen=True)
class Stamp(Records[DiskStamp, NicStamp]):
    """Everything under KEY."""

    uid: str
    namespace: str
    name: str
    owner: str
    created: int = 0
    """Seconds since 1970."""
    boot_digest: str = ""
    disks: tuple[DiskStamp, ...] = ()
    nics: tuple[NicStamp, ...] = ()
    cdroms: dict[str, str] = field(default_factory=dict)
    """Slot of each drive by its name."""
    tags: tuple[str, ...] = ()
    tag_ids: dict[str, str] = field(default_factory=dict)
    """vCenter's tag of each of our tags, as far as it was attached by us; none of another is ever taken off."""
    attributes: dict[str, int] = field(default_factory=dict)
    """Key of the custom field of each attribute that we wrote."""
    settings: dict[str, str] = field(default_factory=dict)
    """What was asked for and has no place in vSphere's own configuration, by dotted field."""

    def text(self) -> str:
        """As the value of KEY."""
        return msgspec.json.encode(self).decode()


def of(identity: v1.MachineIdentity, created: int) -> Stamp:
    """The stamp of a new machine without disks and NICs."""
    return Stamp(
        uid=identity.uid,
        namespace=identity.namespace,
        name=identity.name,
        owner=identity.owner,
        created=created,
    )


def read(text: str | None) -> Stamp | None:
    """The stamp in a value of KEY, whoever's it is; None when there is none that makes sense."""
    stamp = decoded(text or "", Stamp)
    return stamp if stamp is not None and stamp.uid and stamp.owner else None
