"""The inventory, from trees that the tests build."""

from __future__ import annotations

import pytest
from common import v1
from provider_vsphere.inventory import inventory
from provider_vsphere.session.tree import Tree

GIB = 1 << 30


@pytest.fixture
def tree() -> Tree:
    """Two datacenters: a cluster of two hosts in the first, a host of its own in the second."""
    tree = Tree()
    tree.put("Folder", "group-d1", {"name": "Datacenters"})
    for number in (0, 1):
        tree.put("Datacenter", f"dc-{number}", {"name": f"DC{number}", "parent": "group-d1"})
        tree.put("Folder", f"group-s{number}", {"name": "datastore", "parent": f"dc-{number}"})
        tree.put("Folder", f"group-n{number}", {"name": "network", "parent": f"dc-{number}"})
    tree.put("ClusterComputeResource", "domain-c1", {"name": "C0"})
    tree.put("ComputeResource", "domain-s1", {"name": "esx3"})
    host(tree, "host-2", "esx2", parent="domain-c1", datastore=("datastore-1", "datastore-2"), network=("network-1",))
    host(tree, "host-1", "esx1", parent="domain-c1", datastore=("datastore-1",), network=("network-1", "dvpg-1"))
    host(tree, "host-3", "esx3", parent="domain-s1", datastore=("datastore-1",))
    storage(tree, "datastore-1", "shared")
    storage(tree, "datastore-2", "local")
    return tree


def host(tree: Tree, moid: str, name: str, **facts: object) -> None:
    state = {"runtime.connectionState": "connected", "runtime.inMaintenanceMode": False}
    tree.put("HostSystem", moid, {"name": name, **state, **facts})


def storage(tree: Tree, moid: str, name: str, **facts: object) -> None:
    usual = {
        "parent": "group-s0",
        "summary.accessible": True,
        "summary.maintenanceMode": "normal",
        "summary.capacity": 40 * GIB,
        "summary.freeSpace": 30 * GIB,
        "summary.type": "VMFS",
    }
    tree.put("Datastore", moid, {"name": name, **usual, **facts})


def test_hosts_are_sorted_and_know_their_cluster(tree: Tree) -> None:
    seen = inventory(tree).hosts
    assert [(each.name, each.cluster, each.ready) for each in seen] == [
        ("esx1", "C0", True),
        ("esx2", "C0", True),
        ("esx3", "", True),
    ]
    assert {each.virtualization for each in seen} == {"esxi"}


@pytest.mark.parametrize(
    "facts",
    [
        {"runtime.connectionState": "notResponding"},
        {"runtime.connectionState": "disconnected"},
        {"runtime.inMaintenanceMode": True},
    ],
)
def test_a_host_that_takes_no_machines_is_not_ready(tree: Tree, facts: dict[str, object]) -> None:
    tree.put("HostSystem", "host-1", facts)
    assert [each.name for each in inventory(tree).hosts if not each.ready] == ["esx1"]


def test_a_host_tells_its_hardware(tree: Tree) -> None:
    hardware = {"cpuModel": "Xeon", "numCpuThreads": 32, "memorySize": 128 * GIB}
    tree.put("HostSystem", "host-1", {f"summary.hardware.{name}": value for name, value in hardware.items()})
    first = inventory(tree).hosts[0]
    assert (first.cpu_model, first.cpus, first.memory_bytes) == ("Xeon", 32, 128 * GIB)


def test_used_memory_is_that_of_running_machines(tree: Tree) -> None:
    for number, (where, state) in enumerate(
        [("host-1", "poweredOn"), ("host-1", "poweredOn"), ("host-1", "poweredOff"), ("host-2", "poweredOn")]
    ):
        facts = {"runtime.host": where, "runtime.powerState": state, "config.hardware.memoryMB": 1024}
        tree.put("VirtualMachine", f"vm-{number}", facts)
    assert [each.memory_used_bytes for each in inventory(tree).hosts] == [2 * GIB, GIB, 0]


def test_a_storage_names_the_hosts_that_reach_it_unless_all_do(tree: Tree) -> None:
    assert inventory(tree).storages == [
        v1.Storage(name="local", kind="VMFS", capacity_bytes=40 * GIB, free_bytes=30 * GIB, ready=True, hosts=["esx2"]),
        v1.Storage(name="shared", kind="VMFS", capacity_bytes=40 * GIB, free_bytes=30 * GIB, ready=True),
    ]


@pytest.mark.parametrize("facts", [{"summary.accessible": False}, {"summary.maintenanceMode": "inMaintenance"}])
def test_a_storage_out_of_service_is_not_ready(tree: Tree, facts: dict[str, object]) -> None:
    tree.put("Datastore", "datastore-1", facts)
    assert [each.name for each in inventory(tree).storages if not each.ready] == ["shared"]


def test_a_storage_that_no_host_reaches_is_not_ready(tree: Tree) -> None:
    """Its empty list of hosts would otherwise read as: all of them."""
    storage(tree, "datastore-3", "lost")
    assert [each.name for each in inventory(tree).storages if not each.ready] == ["lost"]


def test_names_that_are_not_unique_go_by_their_paths(tree: Tree) -> None:
    """Names are unique in one datacenter only."""
    storage(tree, "datastore-3", "local", parent="group-s1")
    assert [each.name for each in inventory(tree).storages] == [
        "/DC0/datastore/local",
        "/DC1/datastore/local",
        "shared",
    ]


def test_networks_without_the_ports_towards_uplinks(tree: Tree) -> None:
    portgroup = "DistributedVirtualPortgroup"
    tree.put("Network", "network-1", {"name": "VM Network", "parent": "group-n0"})
    tree.put(portgroup, "dvpg-1", {"name": "lab", "parent": "group-n0", "key": "dvpg-1", "config.uplink": False})
    tree.put(portgroup, "dvpg-2", {"name": "uplinks", "parent": "group-n0", "key": "dvpg-2", "config.uplink": True})
    tree.put("OpaqueNetwork", "network-o1", {"name": "segment", "parent": "group-n0"})
    assert inventory(tree).networks == [
        v1.Network(name="VM Network", kind=v1.NetworkKind.NAMED, ready=True),
        v1.Network(name="lab", kind=v1.NetworkKind.DISTRIBUTED, ready=True),
        v1.Network(name="segment", kind=v1.NetworkKind.NAMED, ready=False),
    ]


def test_the_order_in_which_things_were_seen_does_not_show(tree: Tree) -> None:
    storage(tree, "datastore-3", "local", parent="group-s1")
    again = Tree()
    kinds = ("VirtualMachine", "Datastore", "HostSystem", "ClusterComputeResource", "ComputeResource", "Folder")
    for entity in reversed(list(tree.of_kind(*kinds, "Datacenter"))):
        again.put(entity.kind, entity.moid, entity.facts)
    assert inventory(again) == inventory(tree)
