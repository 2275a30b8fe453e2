"""The stamp: who a guest is, at the end of its description, given with the very call that makes it.

A description is what both a create and a clone take. People see their own text; the stamp is an HTML comment after it,
which Proxmox VE's pages do not show. It holds what Proxmox VE has no field for: the identity and owner, the names of
disks and NICs, which volumes we made. It names the VMID, too: a clone or a restored backup that brings a stamp along
under another VMID is somebody else's copy. The UID is the guest's SMBIOS UUID besides, for the guest to read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import v1
from providerkit.records import Records, decoded

from provider_proxmox import comment

TAG = "virtrigaud"
"""Tag of every machine of ours, so that people find them; it decides nothing. And the mark of the stamp's comment."""


@dataclass(frozen=True)
class DiskStamp:
    """What we know of a disk."""

    name: str
    slot: str
    """Key in the configuration: "scsi0"; "" while its volume is kept unplugged."""
    volume: str = ""
    """The volume that was in the slot when we wrote this: "local-lvm:vm-101-disk-0"."""
    owned: bool = True
    """We made its volume, so it goes with the machine."""
    image_id: str = ""
    provisioning: str = "THIN"
    """Name of a v1.DiskProvisioning."""


@dataclass(frozen=True)
class NicStamp:
    """What we know of a NIC."""

    name: str
    slot: str
    """Key in the configuration: "net0"."""
    kind: str = "BRIDGE"
    """Name of the v1.NetworkKind that was asked for."""


@dataclass(frozen=True)
class Stamp(Records[DiskStamp, NicStamp]):
    """Everything in the comment."""

    uid: str
    namespace: str
    name: str
    owner: str
    vmid: int = 0
    """The guest that it was written for; on another one it means nothing."""
    created: int = 0
    """Seconds since 1970."""
    made: bool = False
    """Every step of its making is done; else a create goes on from here or clears it away."""
    lost: bool = False
    """Another guest of the same UID was first: this one is never finished, whoever works on it, and will be removed."""
    boot_digest: str = ""
    disks: tuple[DiskStamp, ...] = ()
    nics: tuple[NicStamp, ...] = ()
    cdroms: dict[str, str] = field(default_factory=dict)
    """Slot of each drive by its name."""
    tags: tuple[str, ...] = ()
    """As they were asked for: Proxmox VE writes them in lower case."""
    volumes: tuple[str, ...] = ()
    """Volumes that we made for it besides disks: its first-boot ISO."""
    settings: dict[str, str] = field(default_factory=dict)
    """What was asked for and has no place in the configuration, by dotted field."""


def of(identity: v1.MachineIdentity, vmid: int, created: int) -> Stamp:
    """The stamp of a new machine without disks and NICs."""
    return Stamp(
        uid=identity.uid,
        namespace=identity.namespace,
        name=identity.name,
        owner=identity.owner,
        vmid=vmid,
        created=created,
    )


def written(text: str, stamp: Stamp | None) -> str:
    """A description: the text for people, and the stamp.

    Raises:
        InvalidSpecError: both together are longer than comment.LIMIT.
    """
    return text if stamp is None else comment.written(text, TAG, stamp)


def read(description: str) -> tuple[str, Stamp | None]:
    """The text for people and the stamp, whoever's it is; None when there is none that makes sense."""
    text, json = comment.read(description, TAG)
    stamp = decoded(json, Stamp)
    if stamp is None or not stamp.uid or not stamp.owner:
        return description, None
    return text, stamp
