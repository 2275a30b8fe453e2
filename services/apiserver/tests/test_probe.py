"""The health check of a container."""

from __future__ import annotations

from pathlib import Path

import pytest
from apiserver import probe


def environment(data: Path) -> dict[str, str]:
    return {"VIRTRIGAUD_APISERVER_DATA_DIR": str(data), "VIRTRIGAUD_APISERVER_TLS_CERT": str(data / "tls.crt")}


def test_a_server_that_has_not_started_is_unhealthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(environment(tmp_path)) == 1
    assert "endpoint" in capsys.readouterr().out


def test_a_setting_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main({}) == 1
    assert "VIRTRIGAUD_APISERVER_DATA_DIR" in capsys.readouterr().out
