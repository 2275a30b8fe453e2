"""Where machines go, from trees that the tests build."""

from __future__ import annotations

import pytest
from common import v1
from common.errors import (
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
    ResourceNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st
from provider_vsphere.places import Defaults, Place, Places
from provider_vsphere.session.tree import Tree

GIB = 1 << 30
CONNECTED = {"runtime.connectionState": "connected", "runtime.inMaintenanceMode": False}
VM_FOLDER = ("Folder", "VirtualMachine", "VirtualApp")
NAMED, DISTRIBUTED = v1.NetworkKind.NAMED, v1.NetworkKind.DISTRIBUTED
NAT, BRIDGE = v1.NetworkKind.NAT, v1.NetworkKind.BRIDGE


def datacenter(tree: Tree, number: int) -> None:
    """DC0 or DC1: a cluster of two hosts, a host of its own, and the same names everywhere below."""
    n = number
    tree.put("Datacenter", f"dc-{n}", {"name": f"DC{n}", "parent": "group-d1", "vmFolder": f"group-v{n}"})
    tree.put("Folder", f"group-v{n}", {"name": "vm", "parent": f"dc-{n}", "childType": VM_FOLDER})
    tree.put("Folder", f"group-h{n}", {"name": "host", "parent": f"dc-{n}", "childType": ("ComputeResource",)})
    tree.put("Folder", f"group-s{n}", {"name": "datastore", "parent": f"dc-{n}", "childType": ("Datastore",)})
    tree.put("Folder", f"group-n{n}", {"name": "network", "parent": f"dc-{n}", "childType": ("Network",)})
    tree.put("Folder", f"group-lab{n}", {"name": "lab", "parent": f"group-v{n}", "childType": VM_FOLDER})
    cluster = {"name": f"C{n}", "parent": f"group-h{n}", "resourcePool": f"resgroup-c{n}"}
    tree.put("ClusterComputeResource", f"domain-c{n}", cluster)
    pool(tree, f"resgroup-c{n}", "Resources", f"domain-c{n}", f"domain-c{n}")
    pool(tree, f"resgroup-gold{n}", "gold", f"resgroup-c{n}", f"domain-c{n}")
    alone = {"name": f"alone{n}", "parent": f"group-h{n}", "resourcePool": f"resgroup-s{n}"}
    tree.put("ComputeResource", f"domain-s{n}", alone)
    pool(tree, f"resgroup-s{n}", "Resources", f"domain-s{n}", f"domain-s{n}")
    for name, parent in (("a", f"domain-c{n}"), ("b", f"domain-c{n}"), ("alone", f"domain-s{n}")):
        stores = (f"shared-{n}", f"local-{name}-{n}")
        host = {"name": f"{name}{n}", "parent": parent, "datastore": stores, "network": (f"network-{n}", f"dvpg-{n}")}
        tree.put("HostSystem", f"host-{name}-{n}", host | CONNECTED)
        storage(tree, f"local-{name}-{n}", f"local-{name}", parent=f"group-s{n}", free=50)
    storage(tree, f"shared-{n}", "shared", parent=f"group-s{n}", free=30)
    tree.put("Network", f"network-{n}", {"name": "VM Network", "parent": f"group-n{n}"})
    portgroup(tree, f"dvpg-{n}", "prod", f"dvs-{n}", parent=f"group-n{n}")
    switch = {"name": "dvs", "parent": f"group-n{n}", "uuid": f"50 1e 2f 8{n} 00 00 00 00-00 00 00 00 00 00 00 0{n}"}
    tree.put("VmwareDistributedVirtualSwitch", f"dvs-{n}", switch)


def pool(tree: Tree, moid: str, name: str, parent: str, owner: str) -> None:
    tree.put("ResourcePool", moid, {"name": name, "parent": parent, "owner": owner})


def storage(tree: Tree, moid: str, name: str, *, parent: str = "group-s0", free: int = 0) -> None:
    state = {"summary.accessible": True, "summary.maintenanceMode": "normal", "summary.freeSpace": free * GIB}
    tree.put("Datastore", moid, {"name": name, "parent": parent} | state)


def portgroup(tree: Tree, moid: str, name: str, switch: str, *, parent: str = "group-n0", uplink: bool = False) -> None:
    facts = {"config.distributedVirtualSwitch": switch, "config.uplink": uplink, "key": moid}
    tree.put("DistributedVirtualPortgroup", moid, {"name": name, "parent": parent} | facts)


def machine(tree: Tree, moid: str, name: str, *, template: bool = True, parent: str = "group-v0") -> None:
    facts = {"name": name, "parent": parent, "config.template": template, "config.instanceUuid": f"uuid-of-{moid}"}
    tree.put("VirtualMachine", moid, facts)


@pytest.fixture
def tree() -> Tree:
    """One datacenter, DC0."""
    tree = Tree()
    tree.put("Folder", "group-d1", {"name": "Datacenters", "childType": ("Folder", "Datacenter")})
    datacenter(tree, 0)
    return tree


@pytest.fixture
def two(tree: Tree) -> Tree:
    """DC0 and DC1, with the same names in both, save those with the datacenter's number."""
    datacenter(tree, 1)
    return tree


def esxi() -> Tree:
    """A lone host, as it shows its own inventory."""
    tree = Tree()
    tree.put("Folder", "ha-folder-root", {"name": "ha-folder-root"})
    top = {"name": "ha-datacenter", "parent": "ha-folder-root", "vmFolder": "ha-folder-vm"}
    tree.put("Datacenter", "ha-datacenter", top)
    tree.put("Folder", "ha-folder-vm", {"name": "vm", "parent": "ha-datacenter", "childType": VM_FOLDER})
    tree.put("Folder", "ha-folder-host", {"name": "host", "parent": "ha-datacenter"})
    tree.put("Folder", "ha-folder-ds", {"name": "datastore", "parent": "ha-datacenter"})
    compute = {"name": "esx.example.org", "parent": "ha-folder-host", "resourcePool": "ha-root-pool"}
    tree.put("ComputeResource", "ha-compute-res", compute)
    pool(tree, "ha-root-pool", "Resources", "ha-compute-res", "ha-compute-res")
    host = {"name": "esx.example.org", "parent": "ha-compute-res", "datastore": ("1",), "network": ("n",)}
    tree.put("HostSystem", "ha-host", host | CONNECTED)
    storage(tree, "1", "datastore1", parent="ha-folder-ds", free=5)
    return tree


def moids(place: Place) -> dict[str, str | None]:
    named = ("datacenter", "compute", "pool", "folder", "host", "datastore", "storage_pod")
    return {name: entity.moid if (entity := getattr(place, name)) is not None else None for name in named}


def resolve(tree: Tree, wish: dict[str, str] | None = None, **defaults: str) -> Place:
    return Places(tree, Defaults(**defaults)).resolve(v1.Placement(**wish) if wish is not None else None)


# -- cluster, host, pool, folder -----------------------------------------------------------------------------------


def test_P27_a_lone_esxi_host_needs_no_placement() -> None:
    assert moids(resolve(esxi())) == {
        "datacenter": "ha-datacenter",
        "compute": "ha-compute-res",
        "pool": "ha-root-pool",
        "folder": "ha-folder-vm",
        "host": None,
        "datastore": "1",
        "storage_pod": None,
    }


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"cluster": "C0"}, {"compute": "domain-c0", "pool": "resgroup-c0", "host": None, "folder": "group-v0"}),
        ({"cluster": "/DC0/host/C0"}, {"compute": "domain-c0"}),
        ({"cluster": "DC0/host/C0"}, {"compute": "domain-c0"}),
        ({"cluster": "alone0"}, {"compute": "domain-s0", "pool": "resgroup-s0", "datastore": "local-alone-0"}),
        ({"host": "a0"}, {"compute": "domain-c0", "pool": "resgroup-c0", "host": "host-a-0"}),
        ({"host": "/DC0/host/C0/b0"}, {"host": "host-b-0"}),
        ({"host": "alone0"}, {"compute": "domain-s0", "host": "host-alone-0"}),
        ({"cluster": "C0", "host": "b0"}, {"host": "host-b-0"}),
        ({"resource_pool": "gold"}, {"compute": "domain-c0", "pool": "resgroup-gold0"}),
        ({"resource_pool": "/DC0/host/C0/Resources/gold"}, {"pool": "resgroup-gold0"}),
        ({"resource_pool": "Resources", "cluster": "alone0"}, {"pool": "resgroup-s0"}),
        ({"resource_pool": "gold", "host": "b0"}, {"pool": "resgroup-gold0", "host": "host-b-0"}),
        ({"cluster": "C0", "folder": "lab"}, {"folder": "group-lab0"}),
        ({"cluster": "C0", "folder": "DC0/vm/lab"}, {"folder": "group-lab0"}),
        ({"cluster": "C0", "folder": "/DC0/vm"}, {"folder": "group-v0"}),
    ],
)
def test_names_and_paths_are_found(tree: Tree, wish: dict[str, str], found: dict[str, str | None]) -> None:
    assert moids(resolve(tree, wish)).items() >= found.items()


@pytest.mark.parametrize(
    ("wish", "error", "text"),
    [
        ({}, InvalidSpecError, "datacenter DC0 has several clusters; name one of C0, alone0"),
        ({"cluster": "C9"}, ResourceNotFoundError, "cluster C9: there is none in DC0; there: C0, alone0"),
        ({"cluster": "/DC9/host/C0"}, ResourceNotFoundError, "cluster /DC9/host/C0: there is none"),
        ({"cluster": "/"}, ResourceNotFoundError, "cluster /: there is none"),
        ({"host": "z0"}, ResourceNotFoundError, "host z0: there is none in DC0; there: a0, alone0, b0"),
        ({"cluster": "C0", "host": "alone0"}, ResourceNotFoundError, "host alone0: there is none in C0; there: a0, b0"),
        ({"cluster": "alone0", "resource_pool": "gold"}, ResourceNotFoundError, "there is none in alone0"),
        ({"resource_pool": "Resources"}, InvalidSpecError, "/DC0/host/C0/Resources, /DC0/host/alone0/Resources"),
        ({"cluster": "C0", "folder": "labs"}, ResourceNotFoundError, "VM folder labs: there is none in DC0; there: la"),
        ({"cluster": "C0", "folder": "host"}, ResourceNotFoundError, "VM folder host: there is none"),
        ({"cluster": "C0", "datastore": "local-alone"}, ResourceNotFoundError, "not mounted by a ready host of C0"),
        ({"host": "a0", "datastore": "local-b"}, ResourceNotFoundError, "not mounted by host a0; usable: local-a, sh"),
        ({"cluster": "C0", "storage_pod": "pod"}, ResourceNotFoundError, "datastore cluster pod: there is none"),
    ],
)
def test_what_is_missing_or_open_is_told_with_what_there_is(
    tree: Tree, wish: dict[str, str], error: type[ProviderError], text: str
) -> None:
    with pytest.raises(error) as refusal:
        resolve(tree, wish)
    assert text in str(refusal.value)


def test_a_machine_without_placement_goes_where_the_defaults_say(tree: Tree) -> None:
    place = resolve(tree, None, cluster="C0", resource_pool="gold", folder="lab", datastore="local-b")
    expected = {"pool": "resgroup-gold0", "folder": "group-lab0", "datastore": "local-b-0"}
    assert moids(place).items() >= expected.items()


def test_a_placement_replaces_the_defaults_that_would_contradict_it(tree: Tree) -> None:
    """The default pool is in the default cluster, and the default datastore may be no datastore of a named pod."""
    place = resolve(tree, {"host": "alone0"}, cluster="C0", resource_pool="gold", host="a0", folder="lab")
    assert moids(place).items() >= {"pool": "resgroup-s0", "host": "host-alone-0", "folder": "group-lab0"}.items()


def test_a_pool_of_the_default_cluster_comes_first(tree: Tree) -> None:
    assert resolve(tree, {"resource_pool": "Resources"}, cluster="alone0").pool.moid == "resgroup-s0"
    assert resolve(tree, {"resource_pool": "gold"}, cluster="alone0").pool.moid == "resgroup-gold0"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"runtime.inMaintenanceMode": True}, "in maintenance mode"),
        ({"runtime.connectionState": "disconnected"}, "disconnected"),
        ({"runtime.connectionState": "notResponding"}, "not responding"),
        ({"runtime.connectionState": None}, "in an unknown state"),
    ],
)
def test_a_host_that_takes_no_machines_is_refused(tree: Tree, facts: dict[str, object], reason: str) -> None:
    tree.put("HostSystem", "host-a-0", facts)
    with pytest.raises(ResourceNotFoundError, match=f"host a0 takes no machines: it is {reason}"):
        resolve(tree, {"host": "a0"})
    assert resolve(tree, {"cluster": "C0"}).compute.moid == "domain-c0"
    tree.put("HostSystem", "host-b-0", {"runtime.inMaintenanceMode": True})
    with pytest.raises(ResourceNotFoundError, match=f"no host of C0 takes machines: a0 is {reason}, b0 is in main"):
        resolve(tree, {"cluster": "C0"})


def test_a_cluster_without_drs_gets_a_host_that_reaches_everything(tree: Tree) -> None:
    """CreateVM_Task chooses one by itself only where DRS does."""
    places = Places(tree, Defaults(cluster="C0", datastore="shared"))
    place = places.resolve(None)
    network = places.network(v1.NetworkRef(kind=NAMED, name="VM Network"), place)
    assert places.with_host(place, [network]).host is None
    tree.put("ClusterComputeResource", "domain-c0", {"configuration.drsConfig.enabled": False})
    for name, memory in (("a", 64), ("b", 32)):
        tree.put("HostSystem", f"host-{name}-0", {"summary.hardware.memorySize": memory * GIB})
    chosen = places.with_host(places.resolve(None), [network]).host
    assert chosen is not None
    assert chosen.name == "a0"
    busy = {"runtime.powerState": "poweredOn", "runtime.host": "host-a-0", "config.hardware.memoryMB": 48 << 10}
    tree.put("VirtualMachine", "vm-1", busy)
    chosen = places.with_host(places.resolve(None), [network]).host
    assert chosen is not None
    assert chosen.name == "b0"
    for name in ("a", "b"):
        tree.put("HostSystem", f"host-{name}-0", {"network": ()})
    with pytest.raises(ResourceNotFoundError, match="no DRS"):
        places.with_host(places.resolve(None), [network])


def test_only_ten_candidates_are_shown(tree: Tree) -> None:
    for number in range(13):
        tree.put("Folder", f"group-x{number}", {"name": f"x{number:02}", "parent": "group-v0", "childType": VM_FOLDER})
    with pytest.raises(ResourceNotFoundError) as refusal:
        resolve(tree, {"cluster": "C0", "folder": "y"})
    assert str(refusal.value).endswith("there: lab, vm, x00, x01, x02, x03, x04, x05, x06, x07, ... and 5 more")


def test_what_we_may_not_see_is_told_as_that(tree: Tree) -> None:
    """Objects without System.View are simply absent."""
    tree.remove("resgroup-c0")
    with pytest.raises(ResourceNotFoundError, match=r"resource pool of C0: .*System\.View"):
        resolve(tree, {"cluster": "C0"})
    with pytest.raises(ResourceNotFoundError, match=r"datacenter: .*System\.View"):
        resolve(Tree())


# -- several datacenters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "defaults", "found"),
    [
        ({"cluster": "C1"}, {}, "dc-1"),
        ({"host": "b0", "folder": "lab"}, {}, "dc-0"),
        ({"cluster": "/DC1/host/C1", "folder": "lab", "datastore": "shared"}, {}, "dc-1"),
        ({"folder": "/DC1/vm/lab", "resource_pool": "gold"}, {}, "dc-1"),
        ({"resource_pool": "gold"}, {"datacenter": "DC1"}, "dc-1"),
        ({"cluster": "/DC0/host/C0"}, {"datacenter": "DC1"}, "dc-0"),
        (None, {"cluster": "C1"}, "dc-1"),
        (None, {"datacenter": "/DC0", "cluster": "C0"}, "dc-0"),
    ],
)
def test_P27_several_datacenters_are_told_apart(
    two: Tree, wish: dict[str, str] | None, defaults: dict[str, str], found: str
) -> None:
    """Everything is taken from one of them, whatever has the same name in the other."""
    place = resolve(two, wish, **defaults)
    chosen = (place.datacenter, place.compute, place.pool, place.folder, place.datastore)
    assert {two.datacenter(each).moid for each in chosen} == {found}


@pytest.mark.parametrize(
    ("wish", "defaults", "error", "text"),
    [
        (None, {}, InvalidSpecError, "several datacenters, and nothing in the placement tells which: /DC0, /DC1"),
        ({"folder": "lab"}, {}, InvalidSpecError, "all of these hold VM folder lab: /DC0, /DC1"),
        ({"cluster": "C0", "host": "a1"}, {}, InvalidSpecError, "no datacenter holds all of: cluster C0, host a1"),
        ({"cluster": "C7"}, {}, ResourceNotFoundError, "cluster C7: there is none; there: C0, C1, alone0, alone1"),
        ({"cluster": "C1"}, {"datacenter": "DC0"}, ResourceNotFoundError, "cluster C1: there is none in DC0"),
        ({"cluster": "C1"}, {"datacenter": "DC7"}, ResourceNotFoundError, "datacenter DC7: there is none; there: DC0"),
        ({"cluster": "/DC0/host/C0", "folder": "/DC1/vm/lab"}, {}, InvalidSpecError, "lead into several datacenters"),
    ],
)
def test_P27_an_open_datacenter_is_never_guessed(
    two: Tree, wish: dict[str, str] | None, defaults: dict[str, str], error: type[ProviderError], text: str
) -> None:
    with pytest.raises(error) as refusal:
        resolve(two, wish, **defaults)
    assert text in str(refusal.value)


def test_P27_datacenters_may_lie_in_folders(two: Tree) -> None:
    two.put("Folder", "group-d2", {"name": "Europe", "parent": "group-d1"})
    two.put("Datacenter", "dc-1", {"name": "DC0", "parent": "group-d2"})
    assert resolve(two, {"cluster": "/Europe/DC0/host/C1"}).datacenter.moid == "dc-1"
    with pytest.raises(InvalidSpecError, match="/DC0, /Europe/DC0"):
        resolve(two, {"cluster": "C1"}, datacenter="DC0")


# -- storage -------------------------------------------------------------------------------------------------------


def test_the_roomiest_datastore_that_every_host_mounts_is_taken(tree: Tree) -> None:
    """A local one has more space, but a machine on it could not move."""
    assert resolve(tree, {"cluster": "C0"}).datastore.moid == "shared-0"
    assert resolve(tree, {"host": "a0"}).datastore.moid == "local-a-0"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"summary.accessible": False}, "not accessible"),
        ({"summary.maintenanceMode": "inMaintenance"}, "in maintenance (inMaintenance)"),
        ({"summary.maintenanceMode": "enteringMaintenance"}, "in maintenance (enteringMaintenance)"),
    ],
)
def test_a_datastore_that_cannot_be_used_is_neither_chosen_nor_accepted(
    tree: Tree, facts: dict[str, object], reason: str
) -> None:
    tree.put("Datastore", "shared-0", facts)
    assert resolve(tree, {"cluster": "C0"}).datastore.moid == "local-b-0"
    with pytest.raises(ResourceNotFoundError) as refusal:
        resolve(tree, {"cluster": "C0", "datastore": "shared"})
    assert str(refusal.value) == f"datastore shared: {reason}; usable: local-a, local-b"
    tree.put("Datastore", "local-a-0", {"summary.accessible": False})
    with pytest.raises(ResourceNotFoundError, match="a0 has no usable datastore") as refusal:
        resolve(tree, {"host": "a0"})
    assert f"shared: {reason}" in str(refusal.value)


def test_a_datastore_of_a_host_in_maintenance_is_not_chosen(tree: Tree) -> None:
    """No host could run the machine there."""
    tree.put("Datastore", "local-a-0", {"summary.freeSpace": 900 * GIB})
    tree.put("HostSystem", "host-a-0", {"runtime.inMaintenanceMode": True})
    assert resolve(tree, {"cluster": "C0"}).datastore.moid == "local-b-0"


def test_of_a_datastore_cluster_the_roomiest_member_is_taken(tree: Tree) -> None:
    tree.put("StoragePod", "group-p1", {"name": "pod", "parent": "group-s0"})
    for number, free in enumerate((3, 9, 5)):
        storage(tree, f"member-{number}", f"member{number}", parent="group-p1", free=free)
    mounted = ("shared-0", "local-b-0", "member-0", "member-1", "member-2")
    tree.put("HostSystem", "host-b-0", {"datastore": mounted})
    place = resolve(tree, {"host": "b0", "storage_pod": "pod"}, datastore="local-b")
    assert (place.storage_pod.moid, place.datastore.moid) == ("group-p1", "member-1")
    both = resolve(tree, {"host": "b0", "storage_pod": "pod", "datastore": "/DC0/datastore/pod/member0"})
    assert (both.storage_pod, both.datastore.moid) == (None, "member-0")
    with pytest.raises(ResourceNotFoundError, match="datastore cluster pod has no usable datastore"):
        resolve(tree, {"host": "a0", "storage_pod": "/DC0/datastore/pod"})


def test_a_disk_may_go_to_another_datastore(tree: Tree) -> None:
    places = Places(tree, Defaults())
    place = places.resolve(v1.Placement(cluster="C0"))
    assert places.datastore("", place).moid == "shared-0"
    assert places.datastore("local-a", place).moid == "local-a-0"
    with pytest.raises(ResourceNotFoundError, match="local-alone: not mounted"):
        places.datastore("local-alone", place)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6))
def test_the_chosen_datastore_has_no_better_one(stores: list[tuple[bool, bool, int]]) -> None:
    """Each is (accessible, mounted, free); whatever there is, an unusable one is never chosen."""
    tree = esxi()
    for number, (accessible, _, free) in enumerate(stores):
        storage(tree, f"ds-{number}", f"ds{number}", parent="ha-folder-ds", free=free)
        tree.put("Datastore", f"ds-{number}", {"summary.accessible": accessible})
    tree.put("HostSystem", "ha-host", {"datastore": tuple(f"ds-{i}" for i, each in enumerate(stores) if each[1])})
    usable = {f"ds-{i}": free for i, (accessible, mounted, free) in enumerate(stores) if accessible and mounted}
    if not usable:
        with pytest.raises(ResourceNotFoundError, match="no usable datastore"):
            resolve(tree)
        return
    chosen = resolve(tree).datastore.moid
    assert usable[chosen] == max(usable.values())


# -- networks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def switched(tree: Tree) -> Tree:
    """DC0 with the name "prod" on two switches, the name "VM Network" as both kinds, and an uplink group."""
    portgroup(tree, "dvpg-other", "prod", "dvs-other")
    portgroup(tree, "dvpg-same", "VM Network", "dvs-other")
    portgroup(tree, "dvpg-up", "uplinks", "dvs-0", uplink=True)
    other = {"name": "dvs2", "parent": "group-n0", "uuid": "aa bb"}
    tree.put("VmwareDistributedVirtualSwitch", "dvs-other", other)
    tree.put("OpaqueNetwork", "network-o1", {"name": "segment", "parent": "group-n0"})
    everything = ("network-0", "dvpg-0", "dvpg-other", "dvpg-same", "dvpg-up", "network-o1")
    tree.put("HostSystem", "host-b-0", {"network": everything})
    return tree


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        (v1.NetworkRef(kind=NAMED, name="segment"), "network-o1"),
        (v1.NetworkRef(name="segment"), "network-o1"),
        (v1.NetworkRef(kind=NAMED, name="/DC0/network/segment"), "network-o1"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="VM Network"), "dvpg-same"),
        (v1.NetworkRef(kind=NAMED, name="prod", switch="dvs2"), "dvpg-other"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="prod", switch="/DC0/network/dvs"), "dvpg-0"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="prod", switch="501e2f80-0000-0000-0000-000000000000"), "dvpg-0"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="prod", switch="AA BB"), "dvpg-other"),
        (v1.NetworkRef(), "network-o1"),
        (v1.NetworkRef(kind=NAT), "network-o1"),
    ],
)
def test_P25_standard_distributed_and_opaque_networks_are_found(switched: Tree, ref: v1.NetworkRef, found: str) -> None:
    places = Places(switched, Defaults(network="segment"))
    assert places.network(ref, places.resolve(v1.Placement(host="b0"))).moid == found


@pytest.mark.parametrize(
    ("ref", "error", "text"),
    [
        (v1.NetworkRef(kind=NAMED, name="VM Network"), InvalidSpecError, "/DC0/network/VM Network (dvpg-same), /DC0/n"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="prod"), InvalidSpecError, "several have this name"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="segment"), ResourceNotFoundError, "distributed port group segment"),
        (v1.NetworkRef(kind=NAMED, name="uplinks"), ResourceNotFoundError, "network uplinks: there is none in b0"),
        (v1.NetworkRef(kind=DISTRIBUTED, name="prod", switch="dvs3"), ResourceNotFoundError, "there is none in switch"),
        (v1.NetworkRef(kind=NAMED, name="prod", vlan=7), NotSupportedError, "VLAN 7"),
        (v1.NetworkRef(kind=BRIDGE, name="br0"), NotSupportedError, "kind BRIDGE"),
        (v1.NetworkRef(kind=NAT), NotSupportedError, "kind NAT"),
        (v1.NetworkRef(), InvalidSpecError, "neither the NIC nor a default"),
    ],
)
def test_P25_a_network_that_is_not_there_or_not_clear_is_refused(
    switched: Tree, ref: v1.NetworkRef, error: type[ProviderError], text: str
) -> None:
    places = Places(switched, Defaults())
    with pytest.raises(error) as refusal:
        places.network(ref, places.resolve(v1.Placement(host="b0")))
    assert text in str(refusal.value)


def test_a_network_of_another_host_is_out_of_reach(switched: Tree) -> None:
    places = Places(switched, Defaults())
    with pytest.raises(ResourceNotFoundError, match="no ready host of a0 has it; there: VM Network, prod"):
        places.network(v1.NetworkRef(kind=NAMED, name="segment"), places.resolve(v1.Placement(host="a0")))


def test_P27_a_network_is_looked_for_in_the_machines_own_datacenter(two: Tree) -> None:
    places = Places(two, Defaults())
    place = places.resolve(v1.Placement(cluster="C1"))
    assert places.network(v1.NetworkRef(kind=NAMED, name="VM Network"), place).moid == "network-1"


# -- templates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted", ["ubuntu", "/DC0/vm/ubuntu", "DC0/vm/ubuntu", "vm-1", "uuid-of-vm-1", "UUID-of-VM-1"]
)
def test_a_template_is_found_by_name_path_and_id(tree: Tree, wanted: str) -> None:
    machine(tree, "vm-1", "ubuntu")
    machine(tree, "vm-2", "ubuntu", template=False, parent="group-lab0")
    machine(tree, "vm-3", "debian")
    assert Places(tree, Defaults()).template(wanted).moid == "vm-1"


def test_a_machine_is_no_template(tree: Tree) -> None:
    machine(tree, "vm-1", "ubuntu", template=False)
    machine(tree, "vm-2", "debian")
    places = Places(tree, Defaults())
    with pytest.raises(ImageNotFoundError, match="ubuntu: it is a machine"):
        places.template("ubuntu")
    with pytest.raises(ImageNotFoundError, match="template fedora: there is none; there: debian"):
        places.template("fedora")
    with pytest.raises(ImageNotFoundError, match="there is none"):
        places.template("")


def test_P27_templates_of_one_name_are_told_apart_by_their_datacenter(two: Tree) -> None:
    machine(two, "vm-1", "ubuntu")
    machine(two, "vm-2", "ubuntu", parent="group-lab1")
    with pytest.raises(InvalidSpecError, match="/DC0/vm/ubuntu, /DC1/vm/lab/ubuntu"):
        Places(two, Defaults()).template("ubuntu")
    assert Places(two, Defaults(datacenter="DC1")).template("ubuntu").moid == "vm-2"
    assert Places(two, Defaults(datacenter="DC1")).template("ubuntu", two.get("dc-0")).moid == "vm-1"


# -- names ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["lab", "web", "a%2fb", "a", "b", "100%25"]), st.integers(0, 9)),
        max_size=10,
        unique=True,
    )
)
def test_every_path_finds_its_folder_and_no_name_is_guessed(drawn: list[tuple[str, int]]) -> None:
    """Each folder is (name, number of its parent). A name with a slash may make a path ambiguous, but never wrong."""
    tree = esxi()
    folders = [tree.get("ha-folder-vm")]
    for number, (name, above) in enumerate(drawn):
        parent = folders[above % len(folders)].moid
        folders.append(tree.put("Folder", f"f-{number}", {"name": name, "parent": parent, "childType": VM_FOLDER}))
    for folder in folders:
        for text, same in (
            (tree.path(folder), [each for each in folders if tree.path(each) == tree.path(folder)]),
            (folder.name, [each for each in folders if each.name == folder.name]),
        ):
            if len(same) == 1:
                assert resolve(tree, {"folder": text}).folder is folder
            else:
                with pytest.raises(InvalidSpecError, match="several have this name"):
                    resolve(tree, {"folder": text})
