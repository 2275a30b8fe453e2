"""The stamp: who a domain is, written in its metadata by the very call that defines it.

It holds what libvirt's own XML has no place for: the identity and owner, which disks we made, the asked-for network of
each NIC, tags, and the digest of the boot data. Volatile facts are never in it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from typing import TypeVar

from common import v1

E = TypeVar("E")

NAMESPACE = "https://virtrigaud.io/libvirt/v1"
PREFIX = "virtrigaud"
_TAG = f"{{{NAMESPACE}}}"

ET.register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True)
class DiskStamp:
    """What we know of a disk by its name; the device itself carries the name in its alias."""

    name: str
    path: str
    pool: str = ""
    owned: bool = True
    """We made the volume, so it goes with the machine."""
    image_id: str = ""
    provisioning: v1.DiskProvisioning = v1.DiskProvisioning.THIN


@dataclass(frozen=True)
class NicStamp:
    """The network as it was asked for, and what it was resolved to."""

    name: str
    kind: v1.NetworkKind = v1.NetworkKind.NAMED
    network: str = ""
    source: str = ""
    """`network:default`, `bridge:br0` or `user:`; a device that differs was changed by somebody else."""


@dataclass(frozen=True)
class Stamp:
    """Everything in our metadata element."""

    uid: str
    namespace: str
    name: str
    owner: str
    created: int = 0
    """Seconds since 1970."""
    boot_digest: str = ""
    boot_path: str = ""
    hot_add_cpu: bool = False
    disks: tuple[DiskStamp, ...] = ()
    nics: tuple[NicStamp, ...] = ()
    tags: tuple[str, ...] = field(default=())
    settings: dict[str, str] = field(default_factory=dict)
    """What was asked for, or noted, and has no place in libvirt's own XML; `observe` tells it as it is."""

    def disk(self, name: str) -> DiskStamp | None:
        """The record of the disk with this name."""
        return next((disk for disk in self.disks if disk.name == name), None)

    def nic(self, name: str) -> NicStamp | None:
        """The record of the NIC with this name."""
        return next((nic for nic in self.nics if nic.name == name), None)

    def with_disk(self, disk: DiskStamp) -> Stamp:
        """With this record added, or in place of the one with its name."""
        return replace(self, disks=(*(d for d in self.disks if d.name != disk.name), disk))

    def with_nic(self, nic: NicStamp) -> Stamp:
        """With this record added, or in place of the one with its name."""
        return replace(self, nics=(*(n for n in self.nics if n.name != nic.name), nic))

    def without_nic(self, name: str) -> Stamp:
        """Without the record of this NIC."""
        return replace(self, nics=tuple(n for n in self.nics if n.name != name))

    def with_setting(self, key: str, value: str) -> Stamp:
        """With this setting; an empty value takes it away."""
        kept = {name: old for name, old in self.settings.items() if name != key}
        return replace(self, settings=kept | ({key: value} if value else {}))

    def element(self) -> ET.Element:
        """As the metadata element."""
        root = ET.Element(
            _TAG + "machine",
            {
                "uid": self.uid,
                "namespace": self.namespace,
                "name": self.name,
                "owner": self.owner,
                "created": str(self.created),
                "boot-digest": self.boot_digest,
                "boot-path": self.boot_path,
                "hot-add-cpu": "yes" if self.hot_add_cpu else "no",
            },
        )
        for disk in self.disks:
            attributes = {
                "name": disk.name,
                "path": disk.path,
                "pool": disk.pool,
                "owned": "yes" if disk.owned else "no",
                "image": disk.image_id,
                "provisioning": v1.DiskProvisioning(disk.provisioning).name or "THIN",
            }
            ET.SubElement(root, _TAG + "disk", attributes)
        for nic in self.nics:
            kind = v1.NetworkKind(nic.kind).name or "NAMED"
            attributes = {"name": nic.name, "kind": kind, "network": nic.network, "source": nic.source}
            ET.SubElement(root, _TAG + "nic", attributes)
        for tag in self.tags:
            ET.SubElement(root, _TAG + "tag", {"value": tag})
        for name, value in sorted(self.settings.items()):
            ET.SubElement(root, _TAG + "setting", {"name": name, "value": value})
        return root

    def xml(self) -> str:
        """As text for virDomainSetMetadata, which adds the namespace by itself, and refuses one that is there."""
        root = self.element()
        for element in root.iter():
            element.tag = element.tag.removeprefix(_TAG)
        return ET.tostring(root, encoding="unicode")


def read(domain: ET.Element) -> Stamp | None:
    """The stamp in a domain's XML, whoever's it is; None when there is none that makes sense."""
    found = domain.find(f"metadata/{_TAG}machine")
    if found is None or not found.get("uid") or not found.get("owner"):
        return None
    return Stamp(
        uid=found.get("uid", ""),
        namespace=found.get("namespace", ""),
        name=found.get("name", ""),
        owner=found.get("owner", ""),
        created=int(created) if (created := found.get("created", "")).isdecimal() and len(created) < 12 else 0,
        boot_digest=found.get("boot-digest", ""),
        boot_path=found.get("boot-path", ""),
        hot_add_cpu=found.get("hot-add-cpu") == "yes",
        disks=tuple(_disk(e) for e in found.iterfind(_TAG + "disk") if e.get("name")),
        nics=tuple(_nic(e) for e in found.iterfind(_TAG + "nic") if e.get("name")),
        tags=tuple(e.get("value", "") for e in found.iterfind(_TAG + "tag")),
        settings={e.get("name", ""): e.get("value", "") for e in found.iterfind(_TAG + "setting") if e.get("name")},
    )


def _disk(element: ET.Element) -> DiskStamp:
    return DiskStamp(
        name=element.get("name", ""),
        path=element.get("path", ""),
        pool=element.get("pool", ""),
        owned=element.get("owned") == "yes",
        image_id=element.get("image", ""),
        provisioning=_member(v1.DiskProvisioning, element.get("provisioning", ""), v1.DiskProvisioning.THIN),
    )


def _nic(element: ET.Element) -> NicStamp:
    return NicStamp(
        name=element.get("name", ""),
        kind=_member(v1.NetworkKind, element.get("kind", ""), v1.NetworkKind.NAMED),
        network=element.get("network", ""),
        source=element.get("source", ""),
    )


def _member(kinds: type[E], name: str, default: E) -> E:
    return getattr(kinds, name, default) if name.isupper() else default
