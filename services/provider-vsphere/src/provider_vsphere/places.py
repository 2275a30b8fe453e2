"""Where things go: clusters, pools, folders, datastores, networks and templates, looked up in the tree; no call at all.

A wish is a plain name ("lab") or an inventory path ("/DC0/vm/lab"), which `observed` compares in the same way. Names
are unique per parent only, so a plain name is looked for inside of what is known already: the datacenter, then the
cluster. Nothing is ever taken because it comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from common import v1
from common.errors import (
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
    ResourceNotFoundError,
)

from provider_vsphere.inventory import NETWORKS, memory_used
from provider_vsphere.session.tree import Entity, Tree

_SHOWN = 10
"""So many candidates are named in a message."""

DATACENTER = ("Datacenter",)
COMPUTES = ("ClusterComputeResource", "ComputeResource")
"""A standalone host is the only one of a ComputeResource of the same name."""
POOLS = ("ResourcePool", "VirtualApp")
_CALLED = {
    "Datacenter": "datacenter",
    "ClusterComputeResource": "cluster",
    "HostSystem": "host",
    "ResourcePool": "resource pool",
    "Folder": "VM folder",
    "Datastore": "datastore",
    "StoragePod": "datastore cluster",
    "Network": "network",
    "DistributedVirtualPortgroup": "distributed port group",
    "VirtualMachine": "template",
}
"""What people call a kind, or the first of several."""


@dataclass(frozen=True)
class Defaults:
    """What the operator chose for machines whose spec names nothing; empty means no choice."""

    datacenter: str = ""
    cluster: str = ""
    host: str = ""
    resource_pool: str = ""
    folder: str = ""
    datastore: str = ""
    storage_pod: str = ""
    network: str = ""


@dataclass(frozen=True)
class Place:
    """Where a machine goes."""

    datacenter: Entity
    compute: Entity
    """The cluster, or the ComputeResource around a standalone host."""
    pool: Entity
    folder: Entity
    host: Entity | None = None
    """Only when one was asked for; else vSphere chooses."""
    datastore: Entity | None = None
    storage_pod: Entity | None = None
    """Set when the datastore was chosen as a member of it."""


class Places:
    """The lookups. They all read the tree as it is now."""

    def __init__(self, tree: Tree, defaults: Defaults) -> None:
        self._tree = tree
        self._defaults = defaults

    @property
    def has_default_network(self) -> bool:
        """NICs may leave their network open."""
        return bool(self._defaults.network)

    # -- a machine -------------------------------------------------------------------------------------------------

    def resolve(self, placement: v1.Placement | None) -> Place:
        """Everything that a machine is made with.

        A named cluster, host or pool replaces the defaults of all three, and a named storage replaces both defaults;
        of a datastore and a datastore cluster, the datastore counts.

        Raises:
            ResourceNotFoundError: something is not there, or takes no machines now; says what is there.
            InvalidSpecError: a name means several things, or the names contradict each other.
        """
        wish = self._with_defaults(placement or v1.Placement())
        datacenter = self._datacenter(wish)
        compute, pool, host = self._compute(wish, datacenter)
        self._check_hosts(compute, host)
        storage_pod, datastore = self._storage(wish, datacenter, compute, host)
        return Place(
            datacenter=datacenter,
            compute=compute,
            pool=pool,
            folder=self._folder(wish.folder, datacenter),
            host=host,
            datastore=datastore,
            storage_pod=storage_pod,
        )

    def of_machine(self, machine: Entity) -> Place:
        """Where a machine is: what it gets later must be reachable from there.

        Raises:
            ResourceNotFoundError: vSphere does not show it all.
        """
        what = f"machine {machine.name}"
        datacenter = self._tree.datacenter(machine)
        host = self._tree.get(machine.facts.get("runtime.host"))
        pool = self._tree.get(machine.facts.get("resourcePool"))
        compute = self._known(
            host.parent if host is not None else pool.facts.get("owner") if pool is not None else None,
            f"the cluster of {what}",
        )
        path = str(machine.facts.get("config.files.vmPathName") or "")
        home = path[1:].partition("] ")[0] if path.startswith("[") else ""
        stores = [self._tree.get(moid) for moid in machine.facts.get("datastore") or ()]
        return Place(
            datacenter=self._known(datacenter.moid if datacenter is not None else None, f"the datacenter of {what}"),
            compute=compute,
            pool=pool or self._known(compute.facts.get("resourcePool"), f"the resource pool of {compute.name}"),
            folder=self._known(machine.parent, f"the folder of {what}"),
            datastore=next((each for each in stores if each is not None and each.name == home), None),
        )

    def _with_defaults(self, asked: v1.Placement) -> v1.Placement:
        default = self._defaults
        wish = v1.Placement(folder=asked.folder or default.folder)
        compute = asked if asked.cluster or asked.host or asked.resource_pool else default
        wish.cluster, wish.host, wish.resource_pool = compute.cluster, compute.host, compute.resource_pool
        storage = asked if asked.datastore or asked.storage_pod else default
        wish.datastore = storage.datastore
        wish.storage_pod = "" if storage.datastore else storage.storage_pod
        return wish

    # -- datacenter ------------------------------------------------------------------------------------------------

    def _datacenter(self, wish: v1.Placement) -> Entity:
        """The one that a path leads into, else the default, else the only one that holds everything that is named."""
        every = list(self._tree.of_kind(*DATACENTER))
        named = _named(wish)
        entered = [each for each in every if any(self._leads_into(text, each) for _, text in named)]
        if len(entered) > 1:
            raise InvalidSpecError(f"placement: its paths lead into several datacenters: {self._paths(entered)}")
        if entered:
            return entered[0]
        if self._defaults.datacenter:
            return self._one(DATACENTER, self._defaults.datacenter, every)
        if len(every) == 1:
            return every[0]
        return self._datacenter_with(named, every)

    def _datacenter_with(self, named: list[tuple[tuple[str, ...], str]], every: list[Entity]) -> Entity:
        if not every:
            raise ResourceNotFoundError("datacenter: vSphere shows none; is System.View granted on them?")
        for kinds, text in named:
            if not self._matches(text, self._all(*kinds)):
                self._one(kinds, text, self._all(*kinds))  # says that it is nowhere
        holding = [
            each
            for each in every
            if all(self._matches(text, self._inside(each, *kinds)) for kinds, text in named)
        ]  # fmt: skip
        if len(holding) == 1:
            return holding[0]
        said = ", ".join(f"{_called(kinds)} {text}" for kinds, text in named)
        if not holding:
            raise InvalidSpecError(f"placement: no datacenter holds all of: {said}")
        because = f"all of these hold {said}" if said else "nothing in the placement tells which"
        raise InvalidSpecError(
            f"placement: there are several datacenters, and {because}: {self._paths(holding)}; give an inventory path"
        )

    def _leads_into(self, text: str, datacenter: Entity) -> bool:
        return f"/{text.strip('/')}".startswith(f"{self._tree.path(datacenter)}/")

    # -- cluster, host, pool ---------------------------------------------------------------------------------------

    def _compute(self, wish: v1.Placement, datacenter: Entity) -> tuple[Entity, Entity, Entity | None]:
        computes = self._inside(datacenter, *COMPUTES)
        compute = self._one(COMPUTES, wish.cluster, computes, datacenter) if wish.cluster else None
        host = None
        if wish.host:
            hosts = self._hosts(compute) if compute is not None else self._inside(datacenter, "HostSystem")
            host = self._one(("HostSystem",), wish.host, hosts, compute or datacenter)
            compute = self._known(host.parent, f"the cluster of host {host.name}")
        if wish.resource_pool:
            pool = self._pool(wish.resource_pool, datacenter, compute)
            return compute or self._known(pool.facts.get("owner"), f"the cluster of pool {pool.name}"), pool, host
        compute = compute or self._only_compute(computes, datacenter)
        return compute, self._known(compute.facts.get("resourcePool"), f"the resource pool of {compute.name}"), host

    def _only_compute(self, computes: list[Entity], datacenter: Entity) -> Entity:
        if len(computes) == 1:
            return computes[0]
        where = f"datacenter {datacenter.name}"
        if not computes:
            raise ResourceNotFoundError(f"cluster: {where} has neither a cluster nor a host")
        raise InvalidSpecError(f"placement: {where} has several clusters; name one of {self._among(computes)}")

    def _pool(self, text: str, datacenter: Entity, compute: Entity | None) -> Entity:
        """In the cluster that is named; else in the default one, and only then anywhere in the datacenter."""
        pools = self._inside(datacenter, *POOLS)
        if compute is not None:
            return self._one(POOLS, text, _owned(pools, compute), compute)
        if self._defaults.cluster:
            for default in self._matches(self._defaults.cluster, self._inside(datacenter, *COMPUTES)):
                if self._matches(text, _owned(pools, default)):
                    return self._one(POOLS, text, _owned(pools, default), default)
        return self._one(POOLS, text, pools, datacenter)

    def _hosts(self, compute: Entity) -> list[Entity]:
        return [each for each in self._tree.of_kind("HostSystem") if each.parent == compute.moid]

    def _check_hosts(self, compute: Entity, host: Entity | None) -> None:
        if host is not None:
            if reason := unready(host):
                raise ResourceNotFoundError(f"host {host.name} takes no machines: it is {reason}")
            return
        hosts = self._hosts(compute)
        if all(unready(each) for each in hosts):
            why = _listed([f"{each.name} is {unready(each)}" for each in hosts]) if hosts else "it has none"
            raise ResourceNotFoundError(f"no host of {compute.name} takes machines: {why}")

    def with_host(self, place: Place, networks: Iterable[Entity]) -> Place:
        """The place with a host, where vSphere does not choose one by itself: in a cluster without DRS. Of those that
        reach the machine's datastore and networks, the one with most memory left is taken.

        Raises:
            ResourceNotFoundError: none reaches them all.
        Source: Folder.CreateVM_Task, "host".
        """
        if place.host is not None or place.compute.facts.get("configuration.drsConfig.enabled") is not False:
            return place
        stores = {place.datastore.moid} if place.datastore is not None else set()
        wires = {network.moid for network in networks}
        fit = [
            host
            for host in self._able(place.compute, None)
            if stores <= set(host.facts.get("datastore") or ()) and wires <= set(host.facts.get("network") or ())
        ]
        if not fit:
            raise ResourceNotFoundError(
                f"cluster {place.compute.name} has no DRS, and no ready host of it reaches both the datastore and the "
                "networks of the machine"
            )
        used = memory_used(self._tree)

        def room(host: Entity) -> tuple[int, str]:
            return (host.facts.get("summary.hardware.memorySize") or 0) - used[host.moid], host.moid

        return replace(place, host=max(fit, key=room))

    # -- folder ----------------------------------------------------------------------------------------------------

    def _folder(self, text: str, datacenter: Entity) -> Entity:
        if not text:
            return self._known(datacenter.facts.get("vmFolder"), f"the VM folder of datacenter {datacenter.name}")
        return self._one(("Folder",), text, self._inside(datacenter, "Folder"), datacenter)

    # -- storage ---------------------------------------------------------------------------------------------------

    def datastore(self, name: str, place: Place) -> Entity:
        """A datastore for a disk; an empty name means the machine's own.

        Raises:
            ResourceNotFoundError: it is not there, is not usable now, or no host of the place mounts it.
            InvalidSpecError: the name means several.
        """
        if not name and place.datastore is not None:
            return place.datastore
        wish = v1.Placement(datastore=name)
        return self._storage(wish, place.datacenter, place.compute, place.host)[1]

    def _storage(
        self, wish: v1.Placement, datacenter: Entity, compute: Entity, host: Entity | None
    ) -> tuple[Entity | None, Entity]:
        """The datastore cluster, if one is wished for, and the datastore."""
        every, where = self._inside(datacenter, "Datastore"), host or compute
        if wish.datastore:
            datastore = self._one(("Datastore",), wish.datastore, every, datacenter)
            if reason := self._unusable(datastore, compute, host):
                fit = [each for each in every if not self._unusable(each, compute, host)]
                raise ResourceNotFoundError(f"datastore {wish.datastore}: {reason}; usable: {self._among(fit)}")
            return None, datastore
        if wish.storage_pod:
            pods = self._inside(datacenter, "StoragePod")
            pod = self._one(("StoragePod",), wish.storage_pod, pods, datacenter)
            members = [each for each in every if each.parent == pod.moid]
            return pod, self._roomiest(members, compute, host, f"datastore cluster {pod.name}")
        return None, self._roomiest(every, compute, host, where.name)

    def _roomiest(self, datastores: list[Entity], compute: Entity, host: Entity | None, where: str) -> Entity:
        """The usable one with most free space. Those that every host mounts come first: a machine there can move."""
        usable = [each for each in datastores if not self._unusable(each, compute, host)]
        if not usable:
            whys = [f"{each.name}: {self._unusable(each, compute, host)}" for each in datastores]
            raise ResourceNotFoundError(f"{where} has no usable datastore ({_listed(whys) if whys else 'none at all'})")
        mounts = [each.facts.get("datastore") or () for each in self._able(compute, host)]
        shared = [each for each in usable if all(each.moid in mounted for mounted in mounts)]
        return max(shared or usable, key=lambda each: (each.facts.get("summary.freeSpace") or 0, each.moid))

    def _unusable(self, datastore: Entity, compute: Entity, host: Entity | None) -> str:
        """Why no machine can be put there; empty when one can."""
        facts = datastore.facts
        if not facts.get("summary.accessible"):
            return "not accessible"
        if (mode := facts.get("summary.maintenanceMode") or "normal") != "normal":
            return f"in maintenance ({mode})"
        if not any(datastore.moid in (each.facts.get("datastore") or ()) for each in self._able(compute, host)):
            return f"not mounted by {f'host {host.name}' if host is not None else f'a ready host of {compute.name}'}"
        return ""

    def _able(self, compute: Entity, host: Entity | None) -> list[Entity]:
        return [host] if host is not None else [each for each in self._hosts(compute) if not unready(each)]

    # -- networks --------------------------------------------------------------------------------------------------

    def network(self, ref: v1.NetworkRef, place: Place) -> Entity:
        """What a NIC is plugged into: a standard network, a distributed port group or an opaque network.

        NAT, which nobody has here, and a reference without a name mean the default network.

        Raises:
            ResourceNotFoundError: it is not there, or no host of the place has it.
            InvalidSpecError: the name means several, or there is no name and no default.
            NotSupportedError: a kind that vSphere lacks, or a VLAN tag, which belongs to the port group.
        """
        name, kinds = self._network_wish(ref)
        every = [each for each in self._inside(place.datacenter, *kinds) if not each.facts.get("config.uplink")]
        if ref.switch:
            every = [each for each in every if self._is_on(ref.switch, each)]
        able = self._able(place.compute, place.host)
        reachable = [each for each in every if any(each.moid in (host.facts.get("network") or ()) for host in able)]
        if not self._matches(name, reachable) and self._matches(name, every):
            raise ResourceNotFoundError(
                f"{_called(kinds)} {name}: no ready host of {(place.host or place.compute).name} has it; "
                f"there: {self._among(reachable)}"
            )
        return self._one(kinds, name, reachable, f"switch {ref.switch}" if ref.switch else place.host or place.compute)

    def _network_wish(self, ref: v1.NetworkRef) -> tuple[str, tuple[str, ...]]:
        if ref.vlan:
            raise NotSupportedError(
                f"network {ref.name}: a VLAN tag belongs to a port group; name one that has VLAN {ref.vlan}"
            )
        nat = ref.kind is v1.NetworkKind.NAT
        if ref.kind is v1.NetworkKind.BRIDGE or (nat and not self._defaults.network):
            raise NotSupportedError(f"vSphere has no networks of kind {ref.kind.name}; name a network or port group")
        name = self._defaults.network if nat else ref.name or self._defaults.network
        if not name:
            raise InvalidSpecError("network: neither the NIC nor a default names one")
        distributed = ref.switch or ref.kind is v1.NetworkKind.DISTRIBUTED
        return name, ("DistributedVirtualPortgroup",) if distributed else NETWORKS

    def _is_on(self, text: str, portgroup: Entity) -> bool:
        switch = self._tree.get(portgroup.facts.get("config.distributedVirtualSwitch"))
        if switch is None:
            return False
        uuid = str(switch.facts.get("uuid") or "")
        return bool(self._matches(text, [switch])) or _plain_uuid(uuid) == _plain_uuid(text)

    # -- templates -------------------------------------------------------------------------------------------------

    def template(self, wanted: str, datacenter: Entity | None = None, *, or_machine: bool = False) -> Entity:
        """A template by name, inventory path, instance UUID or id.

        Args:
            datacenter: where it counts if several have the name; None means the default datacenter.
            or_machine: any VM will do, since what is wanted is a snapshot of it.
        Raises:
            ImageNotFoundError: there is none; says so, too, if it is a machine and not a template.
            InvalidSpecError: the name means several.
        """
        machines = list(self._tree.of_kind("VirtualMachine"))
        templates = [each for each in machines if or_machine or each.facts.get("config.template")]
        found = self._matches(wanted, templates) or [
            each for each in templates if wanted.lower() in (each.uuid or None, each.moid)
        ]
        if len(found) > 1:
            near = datacenter or self._default_datacenter()
            found = [each for each in found if near is not None and self._tree.datacenter(each) is near] or found
        if not found and self._matches(wanted, machines):
            raise ImageNotFoundError(f"template {wanted}: it is a machine; convert it to a template first")
        return found[0] if len(found) == 1 else self._one(("VirtualMachine",), wanted, found or templates)

    def _default_datacenter(self) -> Entity | None:
        found = self._matches(self._defaults.datacenter, self._tree.of_kind(*DATACENTER))
        return found[0] if len(found) == 1 else None

    # -- looking up ------------------------------------------------------------------------------------------------

    def _inside(self, datacenter: Entity, *kinds: str) -> list[Entity]:
        return [each for each in self._all(*kinds) if self._tree.datacenter(each) is datacenter]

    def _all(self, *kinds: str) -> list[Entity]:
        """Of these kinds; of folders, those for VMs."""
        every = list(self._tree.of_kind(*kinds))
        return [
            each for each in every if each.kind != "Folder" or "VirtualMachine" in (each.facts.get("childType") or ())
        ]

    def _known(self, moid: str | None, what: str) -> Entity:
        entity = self._tree.get(moid)
        if entity is None:
            raise ResourceNotFoundError(f"{what}: vSphere does not show it; is System.View granted on it?")
        return entity

    def _matches(self, text: str, entities: Iterable[Entity]) -> list[Entity]:
        """Those with this path; if there are none, those with this name, which may hold slashes."""
        entities, path = list(entities), f"/{text.strip('/')}"
        if "/" in text and (found := [each for each in entities if self._tree.path(each) == path != "/"]):
            return found
        return [each for each in entities if each.name == text != ""]

    def _one(
        self, kinds: tuple[str, ...], text: str, entities: list[Entity], where: Entity | str | None = None
    ) -> Entity:
        """The only one that a wish means.

        Args:
            where: what `entities` are all of, for people.
        """
        found = self._matches(text, entities)
        if len(found) == 1:
            return found[0]
        what = f"{_called(kinds)} {text}"
        if found:
            raise InvalidSpecError(f"{what}: several have this name: {self._paths(found)}; give the inventory path")
        scope = f" in {where.name if isinstance(where, Entity) else where}" if where is not None else ""
        error: type[ProviderError] = ImageNotFoundError if "VirtualMachine" in kinds else ResourceNotFoundError
        raise error(f"{what}: there is none{scope}; there: {self._among(entities)}")

    def _paths(self, entities: list[Entity]) -> str:
        """Paths; with their ids where even those are the same."""
        count = Counter(map(self._tree.path, entities))
        paths = ((each, self._tree.path(each)) for each in entities)
        return _listed([path if count[path] == 1 else f"{path} ({each.moid})" for each, path in paths])

    def _among(self, entities: list[Entity]) -> str:
        """Names; paths of those that share one."""
        count = Counter(each.name for each in entities)
        return _listed([each.name if count[each.name] == 1 else self._tree.path(each) for each in entities])


def unready(host: Entity) -> str:
    """Why a host takes no machines; empty when it does."""
    state = host.facts.get("runtime.connectionState")
    if state != "connected":
        return {"notResponding": "not responding"}.get(state or "", state or "in an unknown state")
    return "in maintenance mode" if host.facts.get("runtime.inMaintenanceMode") else ""


def _named(wish: v1.Placement) -> list[tuple[tuple[str, ...], str]]:
    """Everything that is wished for by name, with the kinds that it may be."""
    every = (
        (COMPUTES, wish.cluster),
        (("HostSystem",), wish.host),
        (POOLS, wish.resource_pool),
        (("Folder",), wish.folder),
        (("Datastore",), wish.datastore),
        (("StoragePod",), wish.storage_pod),
    )
    return [(kinds, text) for kinds, text in every if text]


def _owned(pools: list[Entity], compute: Entity) -> list[Entity]:
    return [each for each in pools if each.facts.get("owner") == compute.moid]


def _called(kinds: tuple[str, ...]) -> str:
    return _CALLED[kinds[0]]


def _listed(texts: list[str]) -> str:
    shown = sorted(texts)[:_SHOWN]
    more = f", ... and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return (", ".join(shown) or "none") + more


def _plain_uuid(text: str) -> str:
    """A switch's UUID without the spaces and dashes that vSphere puts into it."""
    return text.replace(" ", "").replace("-", "").lower()
