"""The health check of a container."""

from __future__ import annotations

import asyncio

import pytest
from common import metrics, probe
from prometheus_client import CollectorRegistry


async def ask(problems: list[str]) -> int:
    async with metrics.serve("127.0.0.1", 0, ready=lambda: problems, registry=CollectorRegistry()) as page:
        return await asyncio.to_thread(probe.main, [f"{page.host}:{page.port}"])


async def test_a_service_that_is_ready_is_healthy() -> None:
    assert await ask([]) == 0


async def test_one_that_is_not_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask(["MachineService: no answer"]) == 1
    assert "MachineService: no answer" in capsys.readouterr().out


def test_nobody_there_is_unhealthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().out
