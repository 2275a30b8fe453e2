"""Machines come: one call makes the guest with its stamp in it, every later step goes on from what is there, and the
last one marks it as made. What makes a VMID the machine's own, and why there is never a second guest, is in `claiming`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from common import faults, logging, v1
from common.clock import Clock
from common.errors import (
    BrokenImageError,
    HostFullError,
    ImageNotFoundError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    OperationInProgressError,
    ProviderError,
    ResourceNotFoundError,
    StalePreconditionError,
)
from providerkit.driver import Progress

from provider_proxmox import gpus, placing, stamp, volumes
from provider_proxmox.claiming import Claims
from provider_proxmox.config import disks, hardware, making, nics, sizes
from provider_proxmox.config.hardware import Params
from provider_proxmox.config.making import Choices
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.guests import Guests
from provider_proxmox.images.source import Source, Sources
from provider_proxmox.placing import Place, Places, Wish
from provider_proxmox.removing import Remover
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import Stamp

log = logging.get(__name__)

SHAPED = faults.declare("proxmox.create.shaped", "the guest has its hardware, its disks have the size of their sources")
GROWN = faults.declare(
    "proxmox.create.grown", "the guest lacks nothing but first-boot data and the mark that it is made"
)
FINISHING = faults.declare("proxmox.create.finishing", "everything is there, the guest is not marked as made")
MADE = faults.declare("proxmox.create.made", "the machine is made, and nobody knows yet")

_ATTEMPTS = 5
"""So often a making is looked at anew that somebody else changed, or took away, meanwhile."""
_FINAL = (
    BrokenImageError, HostFullError, ImageNotFoundError, InvalidSpecError, NotSupportedError, ResourceNotFoundError,
)  # fmt: skip
"""What no repetition mends by itself: nothing is left behind."""
_LAST = ("protection",)
"""Options that would be in the way until the machine is made."""


@dataclass(frozen=True)
class Defaults:
    """What machines get whose spec names nothing."""

    storage: str = ""
    pool: str = ""
    bridge: str = ""


@dataclass(frozen=True)
class Original:
    """A machine of ours that another one is to be a copy of."""

    source: Source
    """How Proxmox VE copies it."""
    stamp: Stamp
    """What the copy's stamp says from the start: its disks in their slots, its drives."""
    snapshot: str = ""
    """The state to copy; empty for that of now."""
    storage: str = ""
    """Where all of its disks go; empty leaves each on its own storage."""


@dataclass(frozen=True)
class _Order:
    """A machine that is to be made, with everything that was looked up for it."""

    spec: v1.MachineSpec
    doing: str
    place: Place
    choices: Choices
    whole: Source | None
    """Template, backup or machine that it is a copy of as a whole."""
    original: Original | None = None


class Creator:
    """Makes machines of one owner."""

    def __init__(
        self,
        pve: Pve,
        guests: Guests,
        claims: Claims,
        places: Places,
        sources: Sources,
        boot: BootData,
        remover: Remover,
        clock: Clock,
        *,
        owner: str,
        defaults: Defaults,
    ) -> None:
        self._pve = pve
        self._guests = guests
        self._claims = claims
        self._places = places
        self._sources = sources
        self._boot = boot
        self._remover = remover
        self._clock = clock
        self._owner = owner
        self._defaults = defaults

    async def create(self, spec: v1.MachineSpec, progress: Progress, *, original: Original | None = None) -> None:
        """Make the machine, powered off; one that is there is success, one that is half made is finished.

        Args:
            original: what it is a copy of, instead of what its disks are made from.
        Raises:
            NameConflictError: a foreign guest has its name, or the VMID that the spec asks for.
            HostFullError, ResourceNotFoundError, ImageNotFoundError: nothing is left behind.
        """
        identity = spec.identity or v1.MachineIdentity()
        doing = f"{'create' if original is None else 'clone to'} machine {identity.namespace}/{identity.name}"
        hardware.check(spec)
        for _ in range(_ATTEMPTS):
            try:
                if await self._create(spec, identity.uid, doing, progress, original):
                    return
            except (MachineNotFoundError, StalePreconditionError) as error:
                log.info("proxmox.create.again", uid=identity.uid, error=str(error))
            except _FINAL as error:
                await self._abandon(identity.uid, doing, error)
                raise
        raise OperationInProgressError(f"{doing}: somebody else works on it at the same time", retry_after=10.0)

    async def _create(
        self, spec: v1.MachineSpec, uid: str, doing: str, progress: Progress, original: Original | None
    ) -> bool:
        """Whether the machine is made; else another guest of its UID was first, and counts."""
        found = await self._claims.look(uid, doing)
        if found is not None and found.stamp is not None and found.stamp.made:
            return True
        if found is None:
            self._guests.refuse_name(making.machine_name(spec.identity or v1.MachineIdentity()), doing)
            volumes.refuse_used(self._pve, spec, doing)
        sources = await self._resolve(spec, doing) if original is None else _copied(spec, original)
        wish = await self._wish(spec, sources, found, doing)
        with self._places.promised(wish, doing) as place:
            order = await self._order(spec, doing, place, sources, original)
            if found is None:
                progress(0.05, f"making the guest on {place.node}")
                vmid = hardware.explicit_vmid(spec)
                found = await self._claims.claim(
                    uid, doing, lambda vmid: self._make(order, vmid, progress), vmid=vmid, node=place.node
                )
                if found.stamp is not None and found.stamp.lost:  # whoever marked it died before it was removed
                    await self._remover.remove(found, doing)
                    return False
            if self._record(order, found).made:
                return True
            return await self._finish(order, found, progress)

    async def _wish(self, spec: v1.MachineSpec, sources: Mapping[str, Source], found: Guest | None, doing: str) -> Wish:
        """What its node must have. One that is there already stays where it is.

        A template of ours is copied to another node if the nodes that reach it are full.
        """
        owner, defaults = self._owner, self._defaults
        wish = placing.wish_of(
            spec, sources, owner=owner, default_storage=defaults.storage, default_bridge=defaults.bridge
        )
        if found is not None:
            return replace(wish, host=found.node)
        having = await volumes.reaching(self._pve, spec, doing)
        having = volumes.in_common(having, await gpus.nodes_with(self._pve, spec, doing), doing)
        near = replace(wish, nodes=volumes.in_common(wish.nodes, having, doing))
        far = replace(wish, nodes=having)
        return far if self._places.is_full(near) and not self._places.is_full(far) else near

    # -- what it is made from --------------------------------------------------------------------------------------

    async def _resolve(self, spec: v1.MachineSpec, doing: str, *, node: str = "") -> dict[str, Source]:
        """Source of each disk that is a copy, by the disk's name.

        Raises:
            NotSupportedError: another disk than the first shall be a template's.
        """
        datastore = spec.placement.datastore if spec.placement is not None else ""
        found = {}
        for index, disk in enumerate(spec.disks):
            if disk.image is not None:
                storage = disk.storage or datastore
                source = await self._sources.resolve(disk.image.id, doing, node=node, storage=storage)
                if index and source.kind != "volume":
                    raise NotSupportedError(
                        f"{doing}: disk {disk.name}: its image is a {source.kind}; only a first disk can be made of one"
                    )
                found[disk.name] = source
        return found

    async def _order(
        self, spec: v1.MachineSpec, doing: str, place: Place, sources: Mapping[str, Source], original: Original | None
    ) -> _Order:
        if original is None and any(source.nodes and place.node not in source.nodes for source in sources.values()):
            try:
                sources = await self._resolve(spec, doing, node=place.node)
            except NotSupportedError as error:
                if spec.placement is not None and spec.placement.host:
                    raise
                raise HostFullError(f"{doing}: the nodes that reach its template are full: {error}") from error
        uid = spec.identity.uid if spec.identity is not None else ""
        node = self._pve.index.nodes.get(place.node)
        choices = Choices(
            home=place.home,
            disks=place.disks,
            macs=nics.macs(spec, self._macs_of_others(uid)),
            default_bridge=self._defaults.bridge,
            node_cpus=node.cpus if node is not None else 0,
            sources=sources,
        )
        first = sources.get(spec.disks[0].name) if spec.disks else None
        whole = first if first is not None and first.kind != "volume" else None
        whole = original.source if original is not None else whole
        return _Order(spec, doing, place, choices, whole, original)

    def _macs_of_others(self, uid: str) -> set[str]:
        others = (guest for guest in self._pve.index.guests.values() if guest.stamp is None or guest.stamp.uid != uid)
        return {nic.mac for guest in others for nic in nics.nics(guest.config)}

    # -- the one call ----------------------------------------------------------------------------------------------

    async def _make(self, order: _Order, vmid: int, progress: Progress) -> None:
        """Have the guest made, whole or as a copy, and wait for its end."""
        identity = order.spec.identity or v1.MachineIdentity()
        record = stamp.of(identity, vmid, int(self._clock.now().timestamp()))
        placement = order.spec.placement or v1.Placement()
        if placement.datastore:
            record = replace(record, settings={"placement.datastore": placement.datastore})
        if order.original is not None:
            record = replace(record, disks=order.original.stamp.disks, cdroms=order.original.stamp.cdroms)
        pool = self._pool(order.spec) or None
        path, params = f"nodes/{order.place.node}/qemu", self._parameters(order, record)
        if order.whole is not None and order.whole.kind == "template":
            path = f"nodes/{order.whole.node}/qemu/{order.whole.vmid}/clone"
            params |= {"newid": vmid}
        else:
            params |= {"vmid": vmid}
        await self._pve.run(order.doing, "POST", path, params | {"pool": pool}, progress, at=(0.05, 0.7), cancel=True)

    def _pool(self, spec: v1.MachineSpec) -> str:
        return (spec.placement.resource_pool if spec.placement is not None else "") or self._defaults.pool

    def _parameters(self, order: _Order, record: Stamp) -> Params:
        spec, source = order.spec, order.whole
        if source is None:
            return _without_last(making.new_machine(spec, record, order.choices).described(spec.description))
        if source.config:  # a wish that it cannot meet shows before anything is copied
            record = making.over(spec, record, source.config, order.choices).stamp
        identity = spec.identity or v1.MachineIdentity()
        said: Params = {"name": making.machine_name(identity), "description": stamp.written(spec.description, record)}
        if order.original is not None:
            said |= {"full": True, "target": order.place.node if order.place.node != source.node else None}
            return said | {"snapname": order.original.snapshot or None, "storage": order.original.storage or None}
        where = order.place.disks[spec.disks[0].name]
        if source.kind == "archive":
            return said | {"archive": source.volume, "storage": where.storage, "unique": True}
        said |= {"full": not source.linked, "target": order.place.node if order.place.node != source.node else None}
        return said if source.linked else said | {"storage": where.storage, "format": where.format or None}

    # -- the steps after it ----------------------------------------------------------------------------------------

    async def _finish(self, order: _Order, guest: Guest, progress: Progress) -> bool:
        """Every step that is missing; each looks at what is there."""
        progress(0.7, "giving it its hardware")
        if order.whole is not None:
            guest = await self._shape(order, guest, progress)
        await faults.point(SHAPED)
        progress(0.8, "growing its disks")
        guest = await self._grow(order, guest)
        await faults.point(GROWN)
        progress(0.85, "handing it its first-boot data")
        record = self._record(order, guest)
        handed = await self._boot.put(
            guest.vmid,
            guest.node,
            order.spec,
            order.doing,
            macs=order.choices.macs,
            slots={nic.name: nic.slot for nic in record.nics},
            config=guest.config,
            storage=order.choices.home.storage,
        )
        await self._join_ha(order, guest)
        await faults.point(FINISHING)
        progress(0.95, "marking it as made")
        for lost in await self._claims.contest(guest, order.doing):
            await self._remover.remove(lost, order.doing)
            if lost.vmid == guest.vmid:
                return False
        volumes.refuse_used(self._pve, order.spec, order.doing, but=guest.vmid)  # somebody may have got it meanwhile
        record = making.with_volumes(replace(record, made=True, volumes=handed.volumes), guest.config)
        last = {key: value for key, value in hardware.plain_options(order.spec.extra_config).items() if key in _LAST}
        await self._guests.change(
            guest,
            order.doing,
            **last,
            **handed.config,
            description=stamp.written(guest.description, record),
            delete=",".join(handed.delete) or None,
        )
        if self._pool(order.spec):
            await self._pve.pool_of(guest.vmid, order.doing)  # a guest does not tell, and it shall be known at once
        log.info("proxmox.machine.made", uid=record.uid, vmid=guest.vmid, node=guest.node)
        await faults.point(MADE)
        return True

    async def _shape(self, order: _Order, guest: Guest, progress: Progress) -> Guest:
        """Lay the spec over what a template or a backup brought, by one change; the disks of it may take their time."""
        made = making.over(order.spec, self._record(order, guest), guest.config, order.choices)
        return await self._guests.change_by_task(
            guest,
            order.doing,
            progress,
            **_without_last(made.described(guest.description)),
            delete=",".join(made.delete) or None,
        )

    async def _grow(self, order: _Order, guest: Guest) -> Guest:
        """Give each disk of ours the size that it shall have: a copy has its source's at first."""
        for disk in order.spec.disks:
            mark = self._record(order, guest).disk(disk.name)
            drive = disks.drive_in(guest.config, mark.slot) if mark is not None and mark.owned else None
            if drive is not None and disk.size_bytes > drive.size_bytes:
                wish = {"disk": drive.slot, "size": sizes.resized(disk.size_bytes), "digest": guest.digest or None}
                await self._pve.run(order.doing, "PUT", f"{guest.path}/resize", wish, cancel=True)
                after = await self._pve.refresh(guest.vmid, order.doing)
                if after is None:
                    raise MachineNotFoundError(f"{order.doing}: guest {guest.vmid} went away meanwhile")
                guest = after
        return guest

    def _record(self, order: _Order, guest: Guest) -> Stamp:
        """The stamp of a guest that is still the one to be finished: its VMID may be another's by now.

        Raises:
            MachineNotFoundError: it is not.
        """
        mark, uid = guest.stamp, order.spec.identity.uid if order.spec.identity is not None else ""
        if mark is None or mark.uid != uid or mark.lost or not self._guests.is_ours(guest):
            raise MachineNotFoundError(f"{order.doing}: guest {guest.vmid} is not the one that was begun any more")
        return mark

    async def _join_ha(self, order: _Order, guest: Guest) -> None:
        """Have HA manage it, if the spec says so. It stays off: starting it tells HA to keep it started."""
        wish = order.spec.extra_config.get(hardware.HA, "").strip()
        if not wish:
            return
        member = f"vm:{guest.vmid}"
        known = await self._pve.get(order.doing, "cluster/ha/resources", type="vm")
        if all(row.get("sid") != member for row in known):
            state = "stopped" if wish == "started" else wish
            await self._pve.post(order.doing, "cluster/ha/resources", sid=member, state=state)

    # -- when it cannot be -----------------------------------------------------------------------------------------

    async def _abandon(self, uid: str, doing: str, why: ProviderError) -> None:
        """Remove what was begun, if it was not finished by somebody else; the next attempt does what fails now.

        It is marked as lost first, which nobody can finish, and which fails if somebody just did.
        """
        try:
            begun = [guest for guest in await self._guests.find_all(uid, doing) if guest.stamp and not guest.stamp.made]
            for guest in begun:
                await self._remover.remove(await self._claims.lose(guest, doing), doing)
            if begun:
                await self._boot.drop(uid, doing)
        except ProviderError as error:
            log.warning("proxmox.create.left", uid=uid, why=str(why), error=str(error))


def _copied(spec: v1.MachineSpec, original: Original) -> dict[str, Source]:
    """The first disk stands for all: they are copied together."""
    return {spec.disks[0].name: original.source} if spec.disks else {}


def _without_last(params: Params) -> Params:
    return {key: value for key, value in params.items() if key not in _LAST}
