"""What peers of another release do to the wire, through which `contract/test_fake.py` runs the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from common import v1
from common.errors import InvalidSpecError, NotSupportedError
from contract.fakeworld import Fake
from contract.subject import Subject

from .peers import LATER_VALUE, PACKAGE, After, Before


@pytest.fixture
async def before() -> AsyncIterator[Subject]:
    async with Fake(Before()) as subject:
        yield subject


@pytest.fixture
async def after() -> AsyncIterator[Subject]:
    async with Fake(After()) as subject:
        yield subject


async def test_what_the_release_before_lacks_is_not_supported(before: Subject) -> None:
    """The tests above pass what a program of the release before would pass, and no more."""
    with pytest.raises(NotSupportedError):
        await before.machines.capture_screenshot(v1.CaptureScreenshotRequest(uid="x"), timeout=5.0)
    facts = await before.provider.get_provider(v1.GetProviderRequest(), timeout=5.0)
    assert not facts.instance
    assert facts.capabilities is not None
    assert not facts.capabilities.cdroms
    assert facts.capabilities.disk_hot_add


async def test_P42_a_value_that_the_release_before_does_not_know_is_refused(before: Subject) -> None:
    request = v1.CloneMachineRequest(source_uid="x", kind=v1.CloneKind.INSTANT)
    with pytest.raises(InvalidSpecError, match="values that this server does not know"):
        await before.machines.clone_machine(request, timeout=5.0)


async def test_what_the_release_after_says_more_is_passed_over(after: Subject) -> None:
    can = await after.can()
    assert LATER_VALUE in [int(bus) for bus in can.disk_buses]
    await after.settle(after.spec("web"))


def test_the_release_before_is_another_one_than_today() -> None:
    """Else the tests above would compare today's contract with itself, and say nothing."""
    released = Before()
    assert released.method(f"/{PACKAGE}MachineService/ApplyMachine") is not None
    assert released.method(f"/{PACKAGE}MachineService/AdoptMachine") is None
    assert After().method(f"/{PACKAGE}MachineService/AdoptMachine") is not None
