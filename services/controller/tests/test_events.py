"""Events of objects."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from common.clock import ManualClock
from controller.api import Api
from controller.events import NORMAL, QUIET, WARNING, Recorder, Subject

WEB = Subject("infra.virtrigaud.io/v1beta1", "VirtualMachine", "shop", "web", "u-1")


async def test_what_is_told_of_an_object_is_in_the_log_as_well_and_once(caplog: pytest.LogCaptureFixture) -> None:
    """A cluster keeps Events for an hour; whoever looks for last night's needs the log."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    recorder = Recorder(Api(None, None), clock)  # type: ignore[arg-type]  # nothing is written: it is not run
    with caplog.at_level("INFO"):
        recorder.record(WEB, NORMAL, "Created", "the machine was made")
        recorder.record(WEB, NORMAL, "Created", "the machine was made")
        recorder.record(WEB, WARNING, "Refused", "a disk cannot shrink")
        await clock.advance(QUIET + 1)
        recorder.record(WEB, WARNING, "Refused", "a disk cannot shrink")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]
    for said in ("object.event", "VirtualMachine", "shop/web", "u-1"):
        assert all(said in message for message in caplog.messages)
    assert "the machine was made" in caplog.messages[0]
    assert "a disk cannot shrink" in caplog.messages[1]
