"""Which machines depend on what."""

from __future__ import annotations

from typing import Any

import msgspec
from controller.index import Index
from kinds.virtualmachine import VirtualMachine


def machine(name: str, provider: str = "p", **meta: Any) -> VirtualMachine:
    spec = {"providerRef": {"name": provider}, "classRef": {"name": "c"}, "imageRef": {"name": "i"}}
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "ns", "uid": name, **meta}, "spec": spec}, VirtualMachine
    )


def test_an_image_is_needed_where_machines_are_to_be_made_from_it():
    """Counted as they change: an image that looked through its machines for each of them took hours for 50,000."""
    index, one, two = Index(), machine("1"), machine("2")
    index.update(None, one)
    index.update(None, two)
    assert index.wanted_on("ns", "i") == {("ns", "p"): 2}
    moved = machine("2", "q")
    index.update(two, moved)
    assert index.wanted_on("ns", "i") == {("ns", "p"): 1, ("ns", "q"): 1}
    index.update(one, machine("1", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert index.wanted_on("ns", "i") == {("ns", "q"): 1}
    assert index.count("VMImage", "ns", "i") == len(index.users("VMImage", "ns", "i")) == 2
    index.update(moved, None)
    assert index.wanted_on("ns", "i") == {}
