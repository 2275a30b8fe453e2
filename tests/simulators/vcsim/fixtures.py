"""pytest fixtures around the simulated vCenter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from libvirtd.fixtures import missing
from tools.gomodule import GoUnavailableError

from .process import Vcsim


def start_vcsim(*, esx: bool = False, datacenters: int = 1) -> Iterator[Vcsim]:
    """The body of a fixture of any scope: a fresh simulator, ended when the generator closes."""
    simulator = Vcsim(esx=esx, datacenters=datacenters)
    reason = ""
    try:
        simulator.start()
    except GoUnavailableError as error:
        reason = str(error)
    if reason:
        missing(reason)
    try:
        yield simulator
    finally:
        simulator.stop()


@pytest.fixture(scope="module")
def vcsim() -> Iterator[Vcsim]:
    """One simulator for the module; a test that switches behaviours must `control("reset")` afterwards."""
    yield from start_vcsim()


@pytest.fixture
def own_vcsim() -> Iterator[Vcsim]:
    """A simulator for this test alone (0.3 s)."""
    yield from start_vcsim()
