"""What the fake's dictionaries know stays true, whatever happens to what is in them."""

from __future__ import annotations

from common import v1
from providerkit.fake.shelves import Machines, Volume, Volumes


def test_names_follow_the_machines() -> None:
    one, two = v1.Machine(id="1", hypervisor_name="a"), v1.Machine(id="2", hypervisor_name="a")
    machines = Machines({"1": one})
    machines["2"] = two
    del machines["1"]
    assert machines.named("a") is two
    machines["2"] = v1.Machine(id="2", hypervisor_name="b")
    assert (machines.named("a"), machines.named("b")) == (None, machines["2"])


def test_the_total_follows_the_volumes() -> None:
    volumes = Volumes({"1": Volume("1", "", "disk", 10)})
    volumes["2"] = Volume("2", "", "disk", 20)
    volumes["1"] = Volume("1", "", "disk", 5)
    volumes.resize("2", 40)
    assert volumes.total_bytes == 45
    del volumes["1"]
    assert volumes.total_bytes == sum(volume.size_bytes for volume in volumes.values()) == 40
