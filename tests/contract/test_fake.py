"""The contract, kept by the fake: also while the caller, or it, is of the release before or after."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from release.peers import After, Before

from .adoption import AdoptionContract
from .capabilities import ELSEWHERE, CapabilityContract
from .clones import CloneContract
from .consoles import ConsoleContract
from .disks import DiskContract
from .fakeworld import Fake
from .images import ImageContract
from .machines import MachineContract
from .operations import OperationContract
from .server import ServerContract
from .snapshots import SnapshotContract
from .subject import Subject
from .watching import WatchContract

CONTRACTS = {
    contract.__name__: contract
    for contract in (
        AdoptionContract, CapabilityContract, CloneContract, ConsoleContract, DiskContract, ImageContract,
        MachineContract, SnapshotContract,
    )
}  # fmt: skip


RELEASES = {"today": None, "before": Before(), "after": After()}
"""Who is between caller and provider: what is cut out or added is the same whichever side is of another release."""


@pytest.fixture(params=RELEASES)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with Fake(RELEASES[request.param]) as subject:
        yield subject


class Todays:
    """For what the release before does not have."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        async with Fake() as subject:
            yield subject


class TestMachines(MachineContract): ...


class TestCapabilities(Todays, CapabilityContract): ...


class TestWatch(WatchContract): ...


class TestImages(ImageContract): ...


class TestOperations(OperationContract): ...


class TestServer(ServerContract): ...


class TestConsole(ConsoleContract): ...


class TestSnapshots(SnapshotContract): ...


class TestClones(CloneContract): ...


class TestAdoption(Todays, AdoptionContract): ...


class TestDisks(DiskContract): ...


@pytest.mark.parametrize("name", ELSEWHERE)
def test_proof_that_is_elsewhere_is_there(name: str) -> None:
    """Capabilities that the capability contract leaves to other contracts name a test, or a contract, that exists."""
    contract, _, test = ELSEWHERE[name].partition(".")
    assert contract in CONTRACTS
    assert not test or callable(getattr(CONTRACTS[contract], test))
