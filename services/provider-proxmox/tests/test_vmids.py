"""The VMIDs that a machine tries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox import vmids

_RANGES = st.builds(lambda first, size: range(first, first + size), st.integers(100, 9_000), st.integers(1, 400))


@given(uid=st.uuids().map(str), ids=_RANGES)
def test_covers_the_range_without_repeats(uid: str, ids: range) -> None:
    """A machine finds the last free VMID of the range."""
    found = list(vmids.sequence(uid, ids))
    assert sorted(found) == list(ids)


@given(uid=st.uuids().map(str), ids=_RANGES)
def test_is_the_same_for_the_same_machine(uid: str, ids: range) -> None:
    """So two who make it meet at the same VMID, where only one of them can."""
    assert list(vmids.sequence(uid, ids)) == list(vmids.sequence(uid, ids))
    assert [vmids.place(uid, ids, vmid) for vmid in vmids.sequence(uid, ids)] == list(range(len(ids)))


def test_no_place_outside_of_the_range() -> None:
    """A VMID that a spec asked for comes after all of the sequence."""
    assert vmids.place("u", range(100, 110), 99) == 10


def test_machines_begin_in_different_places() -> None:
    """Hundred of them in the default range hardly meet."""
    firsts = {next(vmids.sequence(f"{n}", range(1_000, 1_000_000))) for n in range(100)}
    assert len(firsts) > 95
