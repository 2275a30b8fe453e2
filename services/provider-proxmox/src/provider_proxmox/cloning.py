"""Clones: a machine of ours copied under another identity, whose stamp is in the very call that copies it.

Proxmox VE copies all disks of a machine at once, of now or of a snapshot, and shows whose the copy is only at the end;
so a clone is made like any machine that comes from a template, and found and finished like one. Linked clones stand on
templates, which our machines are not: an image is what machines share disks by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging, v1
from common.errors import MachineNotFoundError, NotSupportedError
from providerkit.driver import Progress

from provider_proxmox import locks, stamp
from provider_proxmox.config import disks, hardware, nics, properties, sizes, tuning
from provider_proxmox.config.disks import Drive
from provider_proxmox.creating import Creator, Original
from provider_proxmox.guests import Guests
from provider_proxmox.images.source import Source
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from provider_proxmox.stamp import DiskStamp, Stamp

log = logging.get(__name__)

CLONED = faults.declare("proxmox.cloned", "a clone is complete, and nobody knows yet")

_OWN_KEYS = frozenset({hardware.VMID, hardware.HA})
"""Keys of extra_config that a copy does not take over."""


@dataclass(frozen=True)
class Seen:
    """A machine as it is copied: of now, or of a snapshot."""

    config: Mapping[str, Any]
    stamp: Stamp


class Cloner:
    """Copies machines of one owner."""

    def __init__(self, pve: Pve, guests: Guests, snapshots: Snapshots, creator: Creator) -> None:
        self._pve = pve
        self._guests = guests
        self._snapshots = snapshots
        self._creator = creator

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """Make the copy, unless it is there or being made; off.

        Raises:
            NotSupportedError: it shall be no full copy, or its disks shall go to several storages.
            SnapshotNotFoundError: the source has no such snapshot.
            NameConflictError: a foreign guest has its name.
        """
        target = request.target or v1.MachineSpec()
        identity = target.identity or v1.MachineIdentity()
        doing = f"clone machine {request.source_uid} to {identity.namespace}/{identity.name}"
        if request.kind is not v1.CloneKind.FULL:
            raise NotSupportedError(f"{doing}: Proxmox VE links clones to templates only; make an image of the machine")
        there = await self._guests.find(identity.uid, doing)
        if there is not None and there.stamp is not None and there.stamp.made:
            return
        source = await self._guests.get(request.source_uid, doing)
        if source.stamp is None:
            raise MachineNotFoundError(f"{doing}: its source lost our stamp meanwhile")
        await locks.require_free(self._pve, source, doing)
        seen, snapshot = Seen(source.config, source.stamp), ""
        if request.source_snapshot_id:
            node = await self._snapshots.find(source, request.source_snapshot_id, doing)
            then = node.mark.stamp if node.mark is not None else None
            held = await self._snapshots.config(source, node, doing)
            seen, snapshot = Seen(held, then or source.stamp), node.name
        spec = wish(target, seen, pool=source.pool)
        original = Original(
            source=self._source(source, seen),
            stamp=copied(spec, seen),
            snapshot=snapshot,
            storage=common_storage(target, seen, doing),
        )
        await self._creator.create(spec, progress, original=original)
        log.info("proxmox.machine.cloned", uid=identity.uid, source=request.source_uid, snapshot=snapshot)
        await faults.point(CLONED)

    def _source(self, guest: Guest, seen: Seen) -> Source:
        """How it is copied. Where one of its disks is on a storage of its node, so will the copy be."""
        drives = disks.disks(seen.config)
        known = self._pve.index.storages
        local = any(
            (storage := known.get((guest.node, drive.storage))) is None or not storage.shared for drive in drives
        )
        return Source(
            image_id="",
            kind="template",
            node=guest.node,
            nodes=frozenset({guest.node}) if local else frozenset(),
            vmid=guest.vmid,
            disks={drive.slot: drive.size_bytes for drive in drives},
            config=seen.config,
        )


# -- what the copy is: pure --------------------------------------------------------------------------------------------


def wish(target: v1.MachineSpec, seen: Seen, *, pool: str = "") -> v1.MachineSpec:
    """The target with what it leaves open as in its source."""
    placement = target.placement or v1.Placement()
    inherited = {
        key: value for key, value in seen.stamp.settings.items() if key in hardware.OUR_KEYS and key not in _OWN_KEYS
    }
    return replace(
        target,
        cpu=target.cpu or _cpu(seen),
        memory=target.memory or _memory(seen),
        disks=_disks(target.disks, seen),
        nics=target.nics or _nics(seen),
        extra_config=inherited | target.extra_config,
        placement=replace(placement, resource_pool=placement.resource_pool or pool),
    )


def copied(spec: v1.MachineSpec, seen: Seen) -> Stamp:
    """What the copy's stamp says of the disks and drives that come with it: all of them are ours."""
    record = stamp.of(spec.identity or v1.MachineIdentity(), 0, 0)
    for drive, name in _named(spec.disks, seen):
        old = next((disk for disk in seen.stamp.disks if disk.slot == drive.slot), DiskStamp(name, drive.slot))
        record = record.with_disk(replace(old, name=name, volume="", owned=True))
    return replace(record, cdroms=seen.stamp.cdroms)


def common_storage(target: v1.MachineSpec, seen: Seen, doing: str) -> str:
    """The storage that all disks of the copy go to; empty where each goes beside its original.

    Raises:
        NotSupportedError: they shall go to several.
    """
    if target.placement is not None and target.placement.datastore:
        return target.placement.datastore
    names = {name: drive for drive, name in _named(target.disks, seen)}
    asked = {disk.storage or names[disk.name].storage for disk in target.disks if disk.name in names}
    asked |= {drive.storage for name, drive in names.items() if name not in {disk.name for disk in target.disks}}
    if all(not disk.storage or disk.storage == names[disk.name].storage for disk in target.disks if disk.name in names):
        return ""
    if len(asked) > 1:
        raise NotSupportedError(
            f"{doing}: Proxmox VE copies all disks to one storage, {', '.join(sorted(asked))} are asked for; "
            "clone first, and move single disks afterwards"
        )
    return asked.pop()


def _named(wishes: Sequence[v1.DiskSpec], seen: Seen) -> list[tuple[Drive, str]]:
    """Every disk that comes with the copy and has a name, the one to boot from first: that takes the name of the spec's
    first, as a template's does."""
    names = {disk.slot: disk.name for disk in seen.stamp.disks if disk.slot}
    drives = disks.disks(seen.config)
    if drives:
        names.setdefault(drives[0].slot, "root")
        if wishes and wishes[0].name not in names.values():
            names[drives[0].slot] = wishes[0].name
    return [(drive, names[drive.slot]) for drive in drives if drive.slot in names]


def _disks(wishes: Sequence[v1.DiskSpec], seen: Seen) -> list[v1.DiskSpec]:
    asked = {disk.name: disk for disk in wishes}
    found = []
    for drive, name in _named(wishes, seen):
        want = asked.pop(name, v1.DiskSpec(name=name))
        size = max(want.size_bytes, drive.size_bytes)
        found.append(
            replace(
                want, size_bytes=size, storage=want.storage or drive.storage, bus=v1.DiskBus.UNSPECIFIED,
                controller_type="", controller_index=None, image=None, existing=None,
            )
        )  # fmt: skip
    return [*found, *asked.values()]


def _nics(seen: Seen) -> list[v1.NicSpec]:
    """The source's NICs, which get MACs of their own."""
    names = {nic.slot: nic for nic in seen.stamp.nics}
    found = []
    for nic in nics.nics(seen.config):
        record = names.get(nic.slot)
        if record is None:
            continue
        kind = getattr(v1.NetworkKind, record.kind, v1.NetworkKind.BRIDGE)
        name = "" if kind is v1.NetworkKind.NAT else nic.bridge
        found.append(
            v1.NicSpec(
                name=record.name,
                network=v1.NetworkRef(kind=kind, name=name, vlan=nic.vlan),
                model=nic.model,
                mtu=nic.mtu,
                firewall=nic.firewall,
                rate_limit_bytes=nic.rate_limit_bytes,
                trunks=[text for text in nic.trunks.split(";") if text],
            )
        )
    return found


def _cpu(seen: Seen) -> v1.CpuSpec:
    settings, sockets = seen.stamp.settings, int(seen.config.get("sockets", 1))
    shares = settings.get("cpu.shares")
    return v1.CpuSpec(
        count=tuning.count_of(seen.config),
        cores_per_socket=int(seen.config.get("cores", 1)) if sockets > 1 else 0,
        hot_add="cpu.hot_add" in settings,
        nested_virtualization=hardware.NESTED in settings,
        shares=int(shares) if shares is not None else None,
    )


def _memory(seen: Seen) -> v1.MemorySpec:
    settings, told = seen.stamp.settings, properties.parse(seen.config.get("memory", 512))
    reserved = settings.get("memory.reservation_bytes")
    return v1.MemorySpec(
        size_bytes=int(told.head or told.get("current") or 512) * sizes.MIB,
        hot_add="memory.hot_add" in settings,
        reservation_bytes=int(reserved) if reserved is not None else None,
    )
