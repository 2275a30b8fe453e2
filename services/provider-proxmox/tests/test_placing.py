"""Node and storages of a new guest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from common import v1
from common.clock import ManualClock
from common.errors import HostFullError, HypervisorUnavailableError, ProviderError, ResourceNotFoundError
from provider_proxmox import placing, stamp
from provider_proxmox.config.making import Where
from provider_proxmox.images.source import Source
from provider_proxmox.placing import Places, Wish
from provider_proxmox.session.index import Guest, Index, Node, Storage

GIB = 1 << 30
IMAGES = frozenset({"images"})
WISH = Wish("u1", "shop/web", memory=4 * GIB, cpus=2, runs=True, new_disks={"root": ("", 10 * GIB)}, owner="home")


def _index() -> Index:
    """Three nodes: the first is busy, the second has most memory free, the third is small."""
    index = Index()
    index.nodes = {
        "pve1": Node("pve1", cpus=16, cpu_load=0.5, memory_bytes=64 * GIB, memory_used_bytes=50 * GIB),
        "pve2": Node("pve2", cpus=16, cpu_load=0.1, memory_bytes=64 * GIB, memory_used_bytes=8 * GIB),
        "pve3": Node("pve3", cpus=4, cpu_load=0.1, memory_bytes=16 * GIB, memory_used_bytes=4 * GIB),
    }
    for node in index.nodes:
        for storage in (
            Storage("local", node, "dir", frozenset({"iso", "images"}), False, True, 100 * GIB, 50 * GIB),
            Storage("rbd", node, "rbd", IMAGES, True, True, 900 * GIB, 400 * GIB),
            Storage("isos", node, "nfs", frozenset({"iso"}), True, True, 900 * GIB, 800 * GIB),
        ):
            index.storages[(node, storage.name)] = storage
        index.networks[node] = {"vmbr0": "bridge"}
    return index


def _member(vmid: int, node: str, rule: str, **more: str) -> Guest:
    record = stamp.Stamp(
        uid=f"m{vmid}", namespace=more.get("namespace", ""), name="m", owner=more.get("owner", "home"), vmid=vmid,
        settings={f"placement.affinity[{rule}]": "apart"},
    )  # fmt: skip
    return Guest(vmid, node, config={"description": stamp.written("", record)})


def _chosen(index: Index, wish: Wish, places: Places | None = None) -> placing.Place:
    with (places or Places(index, ManualClock())).promised(wish, "create machine shop/web") as place:
        return place


def test_P21_the_node_with_most_room_is_taken() -> None:
    """Never simply the first of the list."""
    place = _chosen(_index(), WISH)
    assert (place.node, place.disks, place.home) == ("pve2", {"root": Where("rbd")}, Where("rbd"))


def test_what_was_promised_counts_until_it_shows() -> None:
    """Machines that are made at once do not all go to the node that was best for the first."""
    index, clock = _index(), ManualClock()
    places = Places(index, clock)
    found = []
    for number in range(12):
        with places.promised(replace(WISH, uid=f"u{number}", memory=4 * GIB), "create") as place:
            found.append(place.node)
    assert {node: found.count(node) for node in sorted(set(found))} == {"pve1": 3, "pve2": 7, "pve3": 2}
    with pytest.raises(HostFullError):
        _chosen(index, replace(WISH, uid="large", memory=40 * GIB), places)


async def test_promises_lapse() -> None:
    """Once what was made shows by itself, or was never started, it is not counted twice for ever."""
    index, clock = _index(), ManualClock()
    places = Places(index, clock)
    large = replace(WISH, memory=50 * GIB)
    _chosen(index, large, places)
    with pytest.raises(HostFullError):
        _chosen(index, replace(large, uid="u2"), places)
    await clock.advance(placing.LAPSE + 1)
    assert _chosen(index, replace(large, uid="u2"), places).node == "pve2"


def test_a_guest_that_runs_counts_once() -> None:
    """As soon as it runs its promise is over, and its memory is counted whatever it has touched of it."""
    index, clock = _index(), ManualClock()
    places = Places(index, clock)
    _chosen(index, replace(WISH, memory=40 * GIB), places)
    record = stamp.Stamp(uid="u1", namespace="", name="web", owner="home", vmid=101)
    config = {"memory": str(40 * 1024), "description": stamp.written("", record)}
    index.put(Guest(101, "pve2", status="running", config=config))
    assert _chosen(index, replace(WISH, uid="u2", memory=20 * GIB), places).node == "pve2"
    with pytest.raises(HostFullError):
        _chosen(index, replace(WISH, uid="u3", memory=20 * GIB), places)


def test_a_making_that_failed_gives_its_room_back() -> None:
    """Else failures would fill the cluster."""
    index = _index()
    places = Places(index, ManualClock())
    with (
        pytest.raises(ValueError, match="boom"),
        places.promised(replace(WISH, memory=50 * GIB), "create"),
    ):
        raise ValueError("boom")
    assert _chosen(index, replace(WISH, uid="u2", memory=50 * GIB), places).node == "pve2"


@pytest.mark.parametrize(
    ("wish", "node", "storage"),
    [
        (replace(WISH, host="pve1"), "pve1", "rbd"),
        (replace(WISH, datastore="local"), "pve2", "local"),
        (replace(WISH, new_disks={"root": ("local", GIB)}), "pve2", "local"),
        (replace(WISH, nodes=frozenset({"pve1", "pve3"})), "pve3", "rbd"),
        (replace(WISH, linked="local"), "pve2", "local"),
        (replace(WISH, cpus=8), "pve2", "rbd"),
        (replace(WISH, runs=False, memory=60 * GIB), "pve2", "rbd"),
    ],
)
def test_wishes_are_obeyed(wish: Wish, node: str, storage: str) -> None:
    """Of host, storage, and what the template reaches."""
    place = _chosen(_index(), wish)
    assert (place.node, place.disks["root"].storage) == (node, storage)


def test_disks_that_are_files_can_have_snapshots() -> None:
    """Only qcow2 can there."""
    assert _chosen(_index(), replace(WISH, datastore="local")).disks["root"] == Where("local", "qcow2")


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        (replace(WISH, host="pve9"), ResourceNotFoundError, ["pve9", "pve1, pve2, pve3"]),
        (replace(WISH, memory=600 * GIB), HostFullError, ["pve1 has 14 GiB", "pve2 has 56 GiB", "pve3 has 12 GiB"]),
        (replace(WISH, runs=False, memory=600 * GIB), HostFullError, ["64 GiB"]),
        (replace(WISH, cpus=32), HostFullError, ["16 CPUs"]),
        (replace(WISH, datastore="fast"), ResourceNotFoundError, ["storage fast", "it has local, rbd"]),
        (replace(WISH, datastore="isos"), ResourceNotFoundError, ["isos, which takes no disks"]),
        (replace(WISH, bridges=frozenset({"vmbr9"})), ResourceNotFoundError, ["no network vmbr9, only vmbr0"]),
        (replace(WISH, volumes=frozenset({"gone:vm-1-disk-0"})), ResourceNotFoundError, ["storage gone"]),
        (replace(WISH, new_disks={"root": ("local", 200 * GIB)}), HostFullError, ["200 GiB", "storage local"]),
        (replace(WISH, nodes=frozenset({"pve9"})), ResourceNotFoundError, ["does not reach"]),
    ],
)
def test_when_nothing_fits_every_node_says_why(wish: Wish, error: type[ProviderError], words: list[str]) -> None:
    """A person can act on it."""
    with pytest.raises(error) as raised:
        _chosen(_index(), wish)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_nodes_that_are_away_are_not_taken() -> None:
    """If only they could have it, waiting may help."""
    index = _index()
    index.nodes["pve2"] = replace(index.nodes["pve2"], online=False)
    assert _chosen(index, WISH).node == "pve3"
    with pytest.raises(HypervisorUnavailableError, match="pve2 is offline"):
        _chosen(index, replace(WISH, host="pve2"))


def test_the_operator_keeps_nodes_for_himself() -> None:
    """A spec that names one gets it all the same."""
    places = Places(_index(), ManualClock(), default_nodes=["pve3"])
    assert _chosen(_index(), WISH, places).node == "pve3"
    assert _chosen(_index(), replace(WISH, host="pve1"), places).node == "pve1"


def test_the_roomiest_storage_counts_promises_too() -> None:
    """A shared storage is one for all nodes."""
    index = _index()
    places = Places(index, ManualClock())
    _chosen(index, replace(WISH, new_disks={"root": ("rbd", 380 * GIB)}), places)
    assert _chosen(index, replace(WISH, uid="u2"), places).disks["root"].storage == "local"


def test_a_storage_that_gives_all_its_room_at_once_must_have_it() -> None:
    """A thin one may promise more than it has."""
    index = _index()
    for node in index.nodes:
        index.storages[(node, "lvm")] = Storage("lvm", node, "lvm", IMAGES, True, True, 100 * GIB, 20 * GIB)
    thick, thin = {"root": ("lvm", 30 * GIB)}, {"root": ("local", 60 * GIB)}
    with pytest.raises(HostFullError, match="storage lvm has 20 GiB left"):
        _chosen(index, replace(WISH, new_disks=thick))
    assert _chosen(index, replace(WISH, new_disks=thin)).disks["root"].storage == "local"


@pytest.mark.parametrize(
    ("apart", "required", "node"),
    [(True, True, "pve3"), (True, False, "pve3"), (False, True, "pve2"), (False, False, "pve2")],
)
def test_affinity_is_kept_from_the_first_moment(apart: bool, required: bool, node: str) -> None:
    """A machine that would break a rule would be moved at once, or not start."""
    index = _index()
    index.put(_member(101, "pve2", "db"))
    index.put(_member(102, "pve3", "db", owner="other"))
    rule = v1.AffinityRule(name="db", apart=apart, required=required)
    assert _chosen(index, replace(WISH, affinity=(rule,))).node == node


def test_a_rule_that_cannot_be_kept() -> None:
    """Only what is required stops a machine."""
    index = _index()
    for vmid, node in enumerate(index.nodes, 101):
        index.put(_member(vmid, node, "db"))
    rule = v1.AffinityRule(name="db", apart=True, required=True)
    with pytest.raises(ResourceNotFoundError, match="rule db"):
        _chosen(index, replace(WISH, affinity=(rule,)))
    assert _chosen(index, replace(WISH, affinity=(replace(rule, required=False),))).node == "pve2"


def test_machines_that_are_being_made_count_for_rules() -> None:
    """Two that must be apart are made at the same time."""
    index = _index()
    places = Places(index, ManualClock())
    rule = v1.AffinityRule(name="db", apart=True, required=True)
    with places.promised(replace(WISH, affinity=(rule,)), "create") as first:
        assert first.node == "pve2"
        assert _chosen(index, replace(WISH, uid="u2", affinity=(rule,)), places).node == "pve3"


def test_the_wish_of_a_spec() -> None:
    """Everything that a node must have is in it."""
    spec = v1.MachineSpec(
        identity=v1.MachineIdentity(uid="u1", namespace="shop", name="web"),
        memory=v1.MemorySpec(size_bytes=GIB),
        cpu=v1.CpuSpec(count=3),
        power=v1.PowerSpec(state=v1.PowerState.ON),
        placement=v1.Placement(host="pve1", datastore="fast"),
        disks=[
            v1.DiskSpec(name="root", image=v1.ImageRef(id="img")),
            v1.DiskSpec(name="old", existing=v1.ExistingDisk(id="rbd:vm-9-disk-0")),
            v1.DiskSpec(name="data", size_bytes=GIB, storage="slow"),
        ],
        nics=[
            v1.NicSpec(name="lan"),
            v1.NicSpec(name="dmz", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="v1")),
        ],
        cdroms=[v1.CdromSpec(name="cd", medium="isos:iso/d.iso"), v1.CdromSpec(name="empty")],
    )
    source = Source(
        "img", "template", "pve2", frozenset({"pve1", "pve2"}), linked=True, storage="rbd", disks={"scsi0": 2 * GIB}
    )
    wish = placing.wish_of(spec, {"root": source}, owner="home", default_storage="rbd", default_bridge="vmbr0")
    assert wish == Wish(
        "u1", "shop/web", GIB, 3, True, "pve1", frozenset({"pve1", "pve2"}), "fast",
        {"root": ("", 2 * GIB), "data": ("slow", GIB)}, "rbd", frozenset({"rbd:vm-9-disk-0", "isos:iso/d.iso"}),
        frozenset({"vmbr0", "v1"}), "home", "shop",
    )  # fmt: skip
