"""Compose v1.29 and v2 read the same in docker-compose.yml; no engine is needed for it."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
import yaml
from libvirtd.fixtures import missing
from tools.gomodule import GoUnavailableError

from .compose import PROFILES, installed, version2
from .engine import EngineUnavailableError
from .images import ROOT

Object = dict[str, Any]  # Any: JSON


def read(tool: list[str], *options: str) -> Object:
    """What a Compose makes of the file, with every profile on."""
    environment = {**os.environ, "COMPOSE_PROFILES": PROFILES}
    told = subprocess.run(
        [*tool, "--file", "docker-compose.yml", "config", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stderr == "", "it warns of nothing"
    found: Object = yaml.safe_load(told.stdout)
    return found


def short(service: Object) -> Object:
    """v2 tells in long forms what v1 tells in short ones, and a few things that v1 leaves out."""
    told = {name: value for name, value in service.items() if value is not None}
    assert told.pop("networks", {"default": None}) == {"default": None}
    for name, needed in told.get("depends_on", {}).items():
        assert needed.pop("required") is True, name
    if "volumes" in told:
        mode = {True: "ro", False: "rw"}
        told["volumes"] = [f"{m['source']}:{m['target']}:{mode[m.get('read_only', False)]}" for m in told["volumes"]]
    if "ports" in told:
        told["ports"] = [f"{p['host_ip']}:{p['published']}:{p['target']}/{p['protocol']}" for p in told["ports"]]
    for name, value in told.get("healthcheck", {}).items():
        if isinstance(value, str):
            told["healthcheck"][name] = re.sub("m0s$", "m", value)
    return told


def test_both_generations_read_the_same() -> None:
    try:
        one, two = installed(), version2()
    except (EngineUnavailableError, GoUnavailableError) as error:
        missing(str(error))
    version = subprocess.run([*one, "version", "--short"], capture_output=True, text=True, check=True).stdout.strip()
    if not version.startswith("1."):
        pytest.skip(f"Compose v1 is not installed, but {version}")
    old, new = read(one), read(two, "--format=json")
    assert set(old["volumes"]) == set(new["volumes"])
    assert old["services"] == {name: short(service) for name, service in new["services"].items()}
