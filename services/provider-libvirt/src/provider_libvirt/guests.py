"""What guests tell: addresses from DHCP leases, the agent and the neighbour table, host name and system.

Nothing of this comes with an event (libvirt has none for a lease), and an agent may hang. So it is collected aside,
for running machines of ours alone: often while a machine has no address yet, rarely afterwards; leases in one call per
network, whatever the number of machines. Observing only reads what was collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import libvirt
from common import logging, v1
from common.clock import Clock
from common.errors import ProviderError
from providerkit.background import running

from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.observed import Facts

log = logging.get(__name__)

_ARP, _AGENT = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
PAUSE_GROWTH = 1.25
"""Seconds between looks while addresses are missing, and how they grow."""
SETTLING_SECONDS = 20.0
"""A guest that has told everything is looked at so much longer: its host name may still change while it boots."""
EAGER_SECONDS = 300.0
"""A machine that has not told everything after this long is looked at as rarely as one that has."""
REFRESH = 60.0
AGENT_SECONDS = 3
MOST_ADDRESSES = 64
MOST_TEXT = 253


@dataclass(frozen=True)
class Sight:
    """One address as one source saw it."""

    address: str
    mac: str
    source: str
    interface: str = ""


@dataclass
class _Watched:
    macs: tuple[str, ...]
    agent: bool
    since: float
    due: float
    pause: float = FIRST_PAUSE
    facts: Facts = field(default_factory=Facts)


class Guests:
    """Collects facts of running machines."""

    def __init__(self, hypervisor: Hypervisor, clock: Clock) -> None:
        self._hypervisor = hypervisor
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._wake = asyncio.Event()
        self._tell: Callable[[str], None] | None = None

    def on_change(self, tell: Callable[[str], None]) -> None:
        """Have it called with the UID of each machine whose facts changed."""
        self._tell = tell

    def facts(self, uid: str) -> Facts | None:
        """What is known of a machine's guest."""
        watched = self._watched.get(uid)
        return watched.facts if watched is not None else None

    def saw(self, machine: v1.Machine) -> None:
        """A machine was observed: begin, go on or stop collecting."""
        uid = machine.id
        if not machine.owned or machine.power is not v1.PowerState.ON:
            if machine.power in (v1.PowerState.SUSPENDED, v1.PowerState.PAUSED) and uid in self._watched:
                return  # it keeps its addresses
            self._watched.pop(uid, None)
            return
        macs = tuple(nic.mac for nic in machine.nics if nic.active)
        agent = bool(machine.guest and machine.guest.agent_running)
        have = self._watched.get(uid)
        if have is not None and (have.macs, have.agent) == (macs, agent):
            return
        now = self._clock.monotonic()
        facts = have.facts if have is not None else Facts()
        self._watched[uid] = _Watched(macs=macs, agent=agent, since=now, due=now, facts=facts)
        self._wake.set()

    def look_at(self, uid: str | None) -> None:
        """Something happened to this machine, or to any: look again soon."""
        now = self._clock.monotonic()
        for name, watched in self._watched.items():
            if uid in (None, name):
                watched.due, watched.pause, watched.since = now, FIRST_PAUSE, now
        self._wake.set()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Collect until the context is left."""
        async with running(self._collect(), "guest facts"):
            yield

    async def _collect(self) -> None:
        while True:
            await self._wait_due()
            now = self._clock.monotonic()
            due = {uid: watched for uid, watched in self._watched.items() if watched.due <= now}
            for watched in due.values():
                watched.due = now + watched.pause
            try:
                await self._look(due)
            except ProviderError as error:
                log.debug("guests.collect.failed", error=str(error))
                for watched in due.values():
                    watched.due = self._clock.monotonic() + LONGEST_PAUSE

    async def _wait_due(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            first = min((watched.due for watched in self._watched.values()), default=None)
            if first is not None and first <= now:
                return
            sleeper = asyncio.ensure_future(self._clock.sleep(first - now if first is not None else 3600.0))
            waker = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeper.cancel()
                waker.cancel()

    async def _look(self, due: dict[str, _Watched]) -> None:
        leases = await self._hypervisor.call("read DHCP leases", read_leases)
        async with asyncio.TaskGroup() as group:
            for uid, watched in due.items():
                group.create_task(self._look_at(uid, watched, leases), name=f"guest {uid}")

    async def _look_at(self, uid: str, watched: _Watched, leases: dict[str, list[Sight]]) -> None:
        sights = [sight for mac in watched.macs for sight in leases.get(mac, [])]
        hostname = system = ""
        complete = False
        with contextlib.suppress(ProviderError):  # gone or busy: the next look will tell
            sights += await self._hypervisor.call(f"read neighbours of {uid}", lambda c: read_neighbours(c, uid))
            complete = not watched.agent
        if watched.agent:
            with contextlib.suppress(ProviderError):  # an agent that hangs costs its own answer alone
                told, hostname, system = await self._hypervisor.slow_call(
                    f"ask the agent of {uid}", lambda c: ask_agent(c, uid), timeout=4.0 * AGENT_SECONDS
                )
                sights += told
                complete = True
        if self._watched.get(uid) is not watched:
            return  # it stopped or changed meanwhile
        facts = Facts(addresses=merge(sights, watched.macs), hostname=hostname, os=system)
        if watched.agent and not complete:
            facts = watched.facts  # it did not answer: what it said last is the best there is
        covered = {address.mac for address in facts.addresses}
        now = self._clock.monotonic()
        settled = complete and covered >= set(watched.macs) and now - watched.since > SETTLING_SECONDS
        if settled or now - watched.since > EAGER_SECONDS:
            watched.pause = REFRESH
        else:
            watched.pause = min(watched.pause * PAUSE_GROWTH, LONGEST_PAUSE)
        watched.due = now + watched.pause
        if facts != watched.facts:
            watched.facts = facts
            if self._tell is not None:
                self._tell(uid)


# -- sources; these block ----------------------------------------------------------------------------------------------


def read_leases(connection: libvirt.virConnect) -> dict[str, list[Sight]]:
    """Addresses by MAC, of every active network."""
    found: dict[str, list[Sight]] = {}
    try:
        active = connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    except libvirt.libvirtError:
        return found  # a driver without networks
    for network in active:
        with contextlib.suppress(libvirt.libvirtError):  # one without DHCP, or gone meanwhile
            for lease in network.DHCPLeases():
                mac = str(lease.get("mac") or "").lower()
                found.setdefault(mac, []).append(Sight(address=str(lease["ipaddr"]), mac=mac, source="lease"))
    return found


def read_neighbours(connection: libvirt.virConnect, uid: str) -> list[Sight]:
    """What the host's neighbour table says of the machine's NICs."""
    try:
        answer = connection.lookupByUUIDString(uid).interfaceAddresses(_ARP, 0)
    except libvirt.libvirtError:
        return []
    return sights_of(answer, "arp", named=False)


def ask_agent(connection: libvirt.virConnect, uid: str) -> tuple[list[Sight], str, str]:
    """Addresses, host name and system as the guest's agent tells them."""
    domain = connection.lookupByUUIDString(uid)
    domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
    sights = sights_of(domain.interfaceAddresses(_AGENT, 0), "agent", named=True)
    hostname = system = ""
    with contextlib.suppress(libvirt.libvirtError):  # an agent too old for the command
        info = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_OS | libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME, 0)
        hostname, system = clean(info.get("hostname")), clean(info.get("os.pretty-name") or info.get("os.name"))
    return sights, hostname, system


def sights_of(answer: object, source: str, *, named: bool) -> list[Sight]:
    """libvirt's answer, as the guest gave it, without what makes no sense in it."""
    if not isinstance(answer, dict):
        return []
    sights = []
    for interface, told in list(answer.items())[:MOST_ADDRESSES]:
        mac = str((told or {}).get("hwaddr") or "").lower()
        for entry in ((told or {}).get("addrs") or [])[:MOST_ADDRESSES]:
            address = str(entry.get("addr") or "")
            sights.append(Sight(address=address, mac=mac, source=source, interface=clean(interface) if named else ""))
    return sights


def clean(text: object) -> str:
    """A word that a guest said: printable and not endless."""
    return "".join(ch for ch in str(text or "")[:MOST_TEXT] if ch.isprintable())


def merge(sights: Iterable[Sight], macs: tuple[str, ...]) -> tuple[v1.GuestAddress, ...]:
    """One entry for each address, with all who saw it; in the order of the NICs, IPv4 before IPv6, then by value.

    Loopback, link-local and meaningless addresses are left out, and those of devices that the machine does not have
    (a container's bridge in the guest). So is what ARP alone says once the agent or a lease speaks of the address, or
    the agent of the NIC: Linux answers for all its addresses on any NIC of the same wire (arp_ignore=0), and a
    neighbour entry outlives the address.
    """
    merged: dict[tuple[str, str], v1.GuestAddress] = {}
    for sight in sights:
        if sight.mac not in macs:
            continue
        try:
            ip = ipaddress.ip_address(sight.address.partition("%")[0])
        except ValueError:
            continue
        if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
            continue
        entry = merged.setdefault((sight.mac, str(ip)), v1.GuestAddress(address=str(ip), mac=sight.mac))
        entry.sources = sorted({*entry.sources, sight.source})
        entry.interface = entry.interface or sight.interface

    sure = {entry.address for entry in merged.values() if entry.sources != ["arp"]}
    told = {entry.mac for entry in merged.values() if "agent" in entry.sources}
    found = [
        entry
        for entry in merged.values()
        if entry.sources != ["arp"] or not (entry.address in sure or entry.mac in told)
    ]

    def order(entry: v1.GuestAddress) -> tuple[int, int, int]:
        ip = ipaddress.ip_address(entry.address)
        return macs.index(entry.mac), ip.version, int(ip)

    return tuple(sorted(found, key=order)[:MOST_ADDRESSES])
