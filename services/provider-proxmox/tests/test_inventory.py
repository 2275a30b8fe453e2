"""The inventory, from an index that the tests build."""

from __future__ import annotations

import pytest
from common import v1
from provider_proxmox.inventory import inventory
from provider_proxmox.session.index import Guest, Index, Node, Storage

GIB = 1 << 30


@pytest.fixture
def index() -> Index:
    """Two nodes, of which the second is down; a storage that they share and one that each has."""
    index = Index()
    for name, online in (("pve2", False), ("pve1", True)):
        index.nodes[name] = Node(name, online=online, cpus=8, memory_bytes=64 * GIB, memory_used_bytes=9 * GIB)
        for storage, kind, shared in (("local-lvm", "lvmthin", False), ("nas", "nfs", True)):
            index.storages[name, storage] = Storage(
                storage, name, kind=kind, shared=shared, capacity_bytes=40 * GIB, free_bytes=30 * GIB
            )
    index.networks = {"pve1": {"vmbr0": "bridge", "web": "vnet"}, "pve2": {"vmbr0": "bridge", "vmbr9": "bridge"}}
    index.put(Guest(100, "pve1", status="running", config={"memory": "2048"}))
    index.put(Guest(101, "pve1", status="stopped", config={"memory": "4096"}))
    return index


def test_nodes_tell_what_was_given_to_guests(index: Index) -> None:
    """Not what the node itself uses."""
    pve1, pve2 = inventory(index).hosts
    assert (pve1.name, pve1.ready, pve1.cpus, pve1.memory_bytes) == ("pve1", True, 8, 64 * GIB)
    assert pve1.memory_used_bytes == 2 * GIB
    assert (pve2.name, pve2.ready, pve2.memory_used_bytes) == ("pve2", False, 0)


def test_a_shared_storage_is_one_and_others_are_one_for_each_node(index: Index) -> None:
    """They have the same name and nothing in common."""
    assert [(each.name, each.kind, each.hosts, each.ready) for each in inventory(index).storages] == [
        ("local-lvm", "lvmthin", ["pve1"], True),
        ("local-lvm", "lvmthin", ["pve2"], False),
        ("nas", "nfs", [], True),
    ]
    assert inventory(index).storages[0].free_bytes == 30 * GIB


def test_networks_are_bridges_and_vnets(index: Index) -> None:
    """A bridge that only a node has which is down is not ready."""
    assert [(each.name, each.kind, each.ready) for each in inventory(index).networks] == [
        ("vmbr0", v1.NetworkKind.BRIDGE, True),
        ("vmbr9", v1.NetworkKind.BRIDGE, False),
        ("web", v1.NetworkKind.NAMED, True),
    ]


def test_an_empty_index_is_an_empty_inventory() -> None:
    """Before anything was read."""
    assert inventory(Index()) == v1.GetInventoryResponse()
