"""docs/providers/vsphere.md does what it says: its commands are run as they are written."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest
from grpcurl import grpcurl
from provider_vsphere.settings import VsphereSettings
from providerkit.runner import ProviderSettings
from simulators.vcsim import Vcsim

from .test_process import provider

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "providers" / "vsphere.md"
UID = "7f6a1f64-5f0b-4a53-9d2c-0f7f3e0e8a01"


def block(language: str, holding: str) -> str:
    """The code block of this language that holds these words."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return next(text for text in found if holding in text)


def commands(text: str) -> list[str]:
    """The commands of a console block."""
    return [part.strip() for part in re.split(r"^\$ ", text, flags=re.MULTILINE) if part.strip()]


def _about(command: str) -> str:
    """What a command is about: the method that it calls, or its last word."""
    word = command.split(" <")[0].split(" ||")[0].rsplit(maxsplit=1)[-1]
    return word.rpartition("/")[2]


def _run(script: str, home: Path, tools: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=home,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return done.stdout


@pytest.mark.real
async def test_grpcurl_does_what_the_document_shows(own_vcsim: Vcsim, tmp_path: Path) -> None:
    """List, describe, plan, apply, watch and delete, by reflection alone."""
    tool = grpcurl()
    (tmp_path / "machine.json").write_text(block("json", '"spec"'))
    shown = commands(block("console", "grpcurl"))
    async with provider(own_vcsim, tmp_path) as running:
        said: dict[str, str] = {}
        setting = shown[0].replace("127.0.0.1:9443", running.address)
        assert setting != shown[0]
        for command in shown[1:]:
            said[_about(command)] = await asyncio.to_thread(_run, f"{setting}\n{command}", tmp_path, tool.parent)
    assert "virtrigaud.provider.v1.MachineService" in said["list"]
    assert "rpc ApplyMachine" in said["$API.MachineService"]
    assert json.loads(said["GetProvider"])["type"] == "vsphere"
    assert json.loads(said["GetInventory"])["hosts"]
    assert json.loads(said["PlanMachine"])["changes"][0]["kind"] == "CHANGE_KIND_CREATE"
    assert json.loads(said["ApplyMachine"])["machine"]["identity"]["uid"] == UID
    assert json.loads(said["GetMachine"])["machine"]["power"] == "POWER_STATE_ON"
    assert "lab.web" in said["ListMachines"]
    assert "snapshotComplete" in said["WatchMachines"]
    assert json.loads(said["DeleteMachine"])["gone"] is True


def test_every_setting_is_told() -> None:
    text = DOCUMENT.read_text()
    of_every_provider = {field.name for field in dataclasses.fields(ProviderSettings)}
    own = [field.name for field in dataclasses.fields(VsphereSettings) if field.name not in of_every_provider]
    assert [name for name in own if f"`--{name.replace('_', '-')}`" not in text] == []
