"""The tests of every provider: whoever dies, hangs or runs out of room, nothing is lost and all is true in the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
from e2e.stack import Object, manifest
from libvirtd.fixtures import guest_image, missing
from libvirtd.private import LibvirtdUnavailableError
from tools.gomodule import GoUnavailableError

from .installation import Installation
from .kubectl import condition
from .people import SPACE
from .runs import Runs
from .sites import SITES
from .stories import plain

__all__ = ["Faults", "FullStorage", "guest_image", "pytest_generate_tests", "runs"]

TOGETHER = 13
"""Seeds that are played at the same time: their faults meet."""
HALF_WAY = 1500 << 10
"""Bytes that are enough for the first disks of a machine, and not for all."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The seeds of a class in rows."""
    if "seeds" in metafunc.fixturenames:
        assert metafunc.cls is not None
        count = metafunc.cls.seeds
        rows = [range(first, min(first + TOGETHER, count)) for first in range(0, count, TOGETHER)]
        metafunc.parametrize("seeds", rows, ids=[f"from-{row[0]}" for row in rows])


@pytest.fixture(scope="class")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """One installation for all tests of a provider."""
    kind: str = request.cls.kind
    for program in ("kubectl", "setpriv"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed (make setup installs it)")
    if SITES[kind].boots:
        request.getfixturevalue("guest_image")
    with contextlib.ExitStack() as stack:
        reason = ""
        try:
            installation = stack.enter_context(Installation(kind))
        except (LibvirtdUnavailableError, GoUnavailableError) as error:
            reason = str(error)
        if reason:
            missing(reason)
        runs = Runs(installation)
        asyncio.run(runs.begin())
        yield runs


@pytest.mark.timeout(420)
class Faults:
    """A provider's tests are a subclass that says which one it is."""

    kind: ClassVar[str]
    """A key of SITES."""
    seeds: ClassVar[int] = 12

    def test_W7_W17_P47_nothing_is_lost_whoever_dies(self, runs: Runs, seeds: Sequence[int]) -> None:
        """One machine per object, nothing of others touched, acknowledged writes kept; and then silence."""
        asyncio.run(runs.play(seeds))


class FullStorage:
    """For sites whose storage can be made full."""

    def test_a_full_storage_refuses_a_machine_and_keeps_nothing_of_it(self, runs: Runs) -> None:
        """Full half-way through its disks: the object says so, no file is left, and it is made once there is room."""
        asyncio.run(_refused_and_healed(runs))


async def _refused_and_healed(runs: Runs) -> None:
    site, kubectl = runs.installation.site, runs.installation.kubectl
    disks = [{"name": f"data-{number}", "sizeGiB": 1} for number in range(5)]
    async with runs.watched():
        await runs.people.clear()
        await runs.converge()
        await asyncio.to_thread(site.fill, HALF_WAY)
        await runs.people.apply("greedy", {**plain(), "disks": disks})
        if (source := await asyncio.to_thread(site.unseen_image)) is not None:
            await kubectl.apply(manifest("VMImage", "unseen", {"source": source}, SPACE))
            await runs.people.apply("late", {**plain(), "imageRef": {"name": "unseen"}})
            await runs.people.wait("unseen", _refused, kind="vmimage")
        refusal = await runs.people.wait("greedy", _refused)
        assert condition(refusal, "Ready")["message"]
        assert {machine.uid for machine in site.found()} <= runs.people.retained
        assert site.orphans(runs.people.retained) == []
        await asyncio.to_thread(site.make_room)
        await runs.settle()
        await runs.people.clear()
        await runs.settle()


def _refused(body: Object) -> bool:
    """It says that there is no room."""
    ready = condition(body, "Ready")
    return ready.get("reason") == "HostFull" and ready["status"] == "False"
