"""Domains read from libvirt: one by one always afresh, all of them in a number of calls that follows the changes."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import libvirt
from common.clock import Clock

from provider_libvirt import observed
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.observed import Raw

_STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BLOCK
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
LONGEST_MEMORY = 120.0
"""Seconds after which a definition is read again though no event told of a change (a few kinds of edits send none)."""


@dataclass
class _Known:
    """A domain's definition, kept until an event says that it changed."""

    read: float
    active: bool
    raw: Raw


class Reader:
    """Reads domains as plain values."""

    def __init__(self, hypervisor: Hypervisor, clock: Clock) -> None:
        self._hypervisor = hypervisor
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._doubts: dict[str, int] = {}
        self._all_doubts = 0

    def forget(self, uid: str | None) -> None:
        """Something changed: read this domain again next time; None means every one."""
        if uid is None:
            self._known.clear()
            self._all_doubts += 1
            return
        self._known.pop(uid, None)
        self._doubts[uid] = self._doubts.get(uid, 0) + 1

    async def one(self, uid: str) -> Raw | None:
        """The domain with this UUID as it is now, or None."""
        doubts = self._doubt(uid)
        raw = await self._hypervisor.call(f"observe machine {uid}", lambda c: read(c, uid))
        if raw is None:
            self.forget(uid)
            self._doubts.pop(uid, None)
        else:
            self._remember(raw, doubts)
        return raw

    async def all(self) -> list[Raw]:
        """Every domain, by UUID: one bulk call for the states, and one read for each that is new or changed."""
        now = self._clock.monotonic()
        known = {uid: k for uid, k in self._known.items() if now - k.read < LONGEST_MEMORY}
        everything, each = self._all_doubts, dict(self._doubts)
        raws, fresh = await self._hypervisor.call("observe all machines", lambda c: read_all(c, known), timeout=60.0)
        for raw in fresh:
            self._remember(raw, (everything, each.get(raw.uid, 0)))
        for uid in self._known.keys() - {raw.uid for raw in raws}:
            self.forget(uid)
            self._doubts.pop(uid, None)
        return sorted(raws, key=lambda raw: raw.uid)

    def _doubt(self, uid: str) -> tuple[int, int]:
        return self._all_doubts, self._doubts.get(uid, 0)

    def _remember(self, raw: Raw, doubts: tuple[int, int]) -> None:
        if self._doubt(raw.uid) == doubts:  # else it changed while it was being read
            self._known[raw.uid] = _Known(self._clock.monotonic(), raw.active, raw)


def parse(xml: str) -> ET.Element:
    """libvirt's XML; it has passed libvirt's own parser, which expands no entities."""
    return ET.fromstring(xml)  # noqa: S314


def read(connection: libvirt.virConnect, uid: str) -> Raw | None:
    """One domain; blocking."""
    try:
        return _read(connection, connection.lookupByUUIDString(uid), None)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def read_all(connection: libvirt.virConnect, known: dict[str, _Known]) -> tuple[list[Raw], list[Raw]]:
    """Every domain, and those that were read anew; blocking."""
    raws, fresh = [], []
    for domain, stats in _bulk(connection):
        uid = domain.UUIDString()
        state, reason = stats.get("state.state", 0), stats.get("state.reason", 0)
        memory = known.get(uid)
        if memory is not None and memory.raw.active == _is_active(state):
            old = memory.raw
            sizes = {**old.sizes, **_sizes(stats)} if old.active else dict(old.sizes)
            if (state, reason) == (old.state, old.reason) and domain.name() == old.name:
                raws.append(_with_sizes(old, sizes))
                continue
        with contextlib.suppress(libvirt.libvirtError):  # undefined since the list was made: it is no longer there
            raw = _read(connection, domain, stats)
            raws.append(raw)
            fresh.append(raw)
    return raws, fresh


def _bulk(connection: libvirt.virConnect) -> list[tuple[libvirt.virDomain, dict[str, int]]]:
    for flags in (_NOWAIT, 0):
        for wanted in (_STATS, libvirt.VIR_DOMAIN_STATS_STATE):
            try:
                found: list[tuple[libvirt.virDomain, dict[str, int]]] = connection.getAllDomainStats(wanted, flags)
                return found
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT,
                                                  libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED):  # fmt: skip
                    raise
    return [(domain, {}) for domain in connection.listAllDomains(0)]


def _is_active(state: int) -> bool:
    return state not in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_NOSTATE)


def _with_sizes(raw: Raw, sizes: dict[str, int]) -> Raw:
    return raw if dict(raw.sizes) == sizes else Raw(**{**raw.__dict__, "sizes": sizes})


def _read(connection: libvirt.virConnect, domain: libvirt.virDomain, stats: dict[str, int] | None) -> Raw:
    state, reason = domain.state()
    active = _is_active(state)
    live = parse(domain.XMLDesc(0))
    config = live
    if active and domain.isPersistent():
        config = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    sizes: dict[str, int] = {}
    if active:
        sizes = _sizes(stats if stats is not None else _stats_of(connection, domain))
    for target, element in {**observed.disk_elements(live), **observed.disk_elements(config)}.items():
        if target not in sizes and (
            size := _capacity(connection, domain, target, observed.disk_source(element), active)
        ):
            sizes[target] = size
    errors: dict[str, int] = {}
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        with contextlib.suppress(libvirt.libvirtError):  # the reason without the disk is worth telling too
            errors = {disk: code for disk, code in domain.diskErrors(0).items() if code}
    return Raw(
        uid=domain.UUIDString(),
        name=domain.name(),
        state=state,
        reason=reason,
        active=active,
        live=live,
        config=config,
        saved=not active and _has_saved_memory(domain),
        sizes=sizes,
        disk_errors=errors,
    )


def _stats_of(connection: libvirt.virConnect, domain: libvirt.virDomain) -> dict[str, int]:
    """NOWAIT: a domain whose job lock is held (it is just starting) answers without its disks, instead of blocking."""
    for flags in (_NOWAIT, 0):
        with contextlib.suppress(libvirt.libvirtError):
            found: list[tuple[object, dict[str, int]]] = connection.domainListGetStats([domain], _STATS, flags)
            return found[0][1] if found else {}
    return {}


def _sizes(stats: dict[str, int]) -> dict[str, int]:
    count = stats.get("block.count", 0)
    names = {i: str(stats.get(f"block.{i}.name", "")) for i in range(count)}
    return {name: stats[f"block.{i}.capacity"] for i, name in names.items() if stats.get(f"block.{i}.capacity")}


def _capacity(connection: libvirt.virConnect, domain: libvirt.virDomain, target: str, path: str, active: bool) -> int:
    """Capacity of a disk that the statistics do not tell; 0 when nobody does."""
    if active or connection.getType().upper() == "TEST":
        with contextlib.suppress(libvirt.libvirtError):
            return int(connection.storageVolLookupByPath(path).info()[1])
        return 0
    with contextlib.suppress(libvirt.libvirtError):
        return int(domain.blockInfo(target)[0])
    return 0


def _has_saved_memory(domain: libvirt.virDomain) -> bool:
    with contextlib.suppress(libvirt.libvirtError):  # a driver without managed save has none
        return bool(domain.hasManagedSaveImage(0))
    return False
