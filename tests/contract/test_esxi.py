"""The contract, kept by the vSphere provider on a lone ESXi host, without a vCenter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from common import v1
from simulators.vcsim import Vcsim, start_vcsim
from simulators.vcsim.admin import Admin

from .capabilities import CapabilityContract
from .disks import DiskContract
from .machines import MachineContract
from .subject import Subject, Traits
from .test_vsphere import EXTRA_CONFIG, MEDIA, NETWORK, PACE, served_vsphere
from .watching import WatchContract

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def esxi() -> Iterator[Vcsim]:
    yield from start_vcsim(esx=True)


@pytest.fixture(scope="module")
def admin(esxi: Vcsim) -> Iterator[Admin]:
    with Admin(esxi) as admin:
        yield admin


@pytest.fixture
async def subject(esxi: Vcsim, admin: Admin, tmp_path: Path) -> AsyncIterator[Subject]:
    network = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=NETWORK)
    traits = Traits(
        network=network,
        extra_config=EXTRA_CONFIG,
        media=MEDIA,
        pace=PACE,
        change_tracking={"vsphere.changeTracking": "true"},
    )
    async with served_vsphere(esxi, admin, tmp_path, traits) as subject:
        yield subject


class TestMachines(MachineContract): ...


class TestCapabilities(CapabilityContract): ...


class TestWatch(WatchContract): ...


class TestDisks(DiskContract): ...
