"""Records of disks and NICs in a stamp, and MACs that nobody gave."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from common import v1
from hypothesis import given
from hypothesis import strategies as st
from providerkit import macs
from providerkit.records import Records, decoded


@dataclass(frozen=True)
class Device:
    name: str
    what: int = 0


@dataclass(frozen=True)
class Stamp(Records[Device, Device]):
    uid: str = "u"
    namespace: str = "shop"
    name: str = "web"
    owner: str = "home"
    disks: tuple[Device, ...] = ()
    nics: tuple[Device, ...] = ()


NAMES = st.lists(st.text("abc", min_size=1, max_size=2), max_size=8)


@given(NAMES, st.text("abc", min_size=1, max_size=2))
def test_a_record_comes_once_keeps_its_place_and_goes(names: list[str], last: str) -> None:
    stamp = Stamp()
    for number, name in enumerate(names):
        stamp = stamp.with_disk(Device(name, number)).with_nic(Device(name, number))
    order = list(dict.fromkeys(names))
    assert [disk.name for disk in stamp.disks] == [nic.name for nic in stamp.nics] == order
    for name in order:
        found = stamp.disk(name)
        assert found is not None
        assert found.what == len(names) - 1 - names[::-1].index(name)
    assert [disk.name for disk in stamp.without_disk(last).disks] == [name for name in order if name != last]
    assert stamp.without_nic(last).nic(last) is None
    assert stamp.identity() == v1.MachineIdentity(uid="u", namespace="shop", name="web", owner="home")


@given(st.lists(st.text("abc", min_size=1), unique=True, max_size=5), st.integers(1, 3))
def test_macs_are_the_same_each_time_and_nobody_elses(names: list[str], width: int) -> None:
    """However few there are to choose from, as long as there are enough."""
    spec = v1.MachineSpec(identity=v1.MachineIdentity(uid="u"), nics=[v1.NicSpec(name=name) for name in names])

    def draw(digest: bytes) -> str:
        return f"02:00:00:00:00:{digest[0] % (16 * width):02x}"

    first = macs.macs(spec, (), draw)
    assert first == macs.macs(spec, (), draw)
    assert len(set(first.values())) == len(names)
    assert not set(macs.macs(spec, set(first.values()), draw).values()) & set(first.values())
    given_one = v1.NicSpec(name="given", mac="02:AA:00:00:00:01")
    assert macs.macs(v1.MachineSpec(nics=[given_one]), (), draw) == {"given": "02:aa:00:00:00:01"}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"uid": 7}', '{"x": ' + "[" * 5000, '{"uid": "\ud800"}', '{"uid": "u", "x": "\\ud800"}',
        '{"disks": [{"name": "a", "what": ' + "9" * 5000 + "}]}",
    ],
)  # fmt: skip
def test_what_others_edited_is_no_record_of_ours(text: str) -> None:
    """Whatever they made of it: an error would end the reading of everybody's machines."""
    assert decoded(text, Stamp) is None
